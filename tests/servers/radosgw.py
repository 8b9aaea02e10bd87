"""A real S3 server for tests: Ceph's radosgw from Debian's packages, on free ports of this machine; knows no store.

    python tests/servers/radosgw.py install          # as root, from Debian's packages
    python tests/servers/radosgw.py start FOLDER     # prints the environment that S3 clients need
    python tests/servers/radosgw.py start FOLDER ADDRESS    # the gateway listens there, for other hosts than this one
    python tests/servers/radosgw.py kill FOLDER      # kill -9 of every daemon
    python tests/servers/radosgw.py restart FOLDER   # the same data, ports and keys again
    python tests/servers/radosgw.py stop FOLDER

One monitor, one file-backed OSD, one manager and the gateway, as plain processes. Authentication (cephx) stays on: without it
the gateway hangs at its start.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from daemons import PATIENCE_S, ServerError, end, free_ports, install_packages, listens, run, spawn, wait

PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-mgr")
PROGRAMS = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "ceph-mgr", "ceph-authtool", "monmaptool")
DAEMONS = ("gateway", "osd", "mgr", "mon")
"""In the order in which they are stopped."""
ACCESS_KEY, SECRET_KEY = "ENGRAMTESTACCESSKEY0", "engram-test-secret-that-opens-nothing-else"
LOOPBACK = "127.0.0.1"
BLOCK_BYTES = 16 * 2**30
"""Of a sparse file: what the tests may store at most."""

CONFIG = """[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}/0,v1:127.0.0.1:{mon_port_v1}/0]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
keyring = {folder}/keyrings/$name.keyring
run dir = {folder}/run
log file = {folder}/logs/$name.log
log to stderr = false
err to stderr = true
admin socket =
mon data = {folder}/mon
mgr data = {folder}/mgr
osd data = {folder}/osd
osd objectstore = bluestore
bluestore block size = {block_bytes}
bluestore block create = true
bluestore cache autotune = false
bluestore cache size = 134217728
osd memory target = 939524096
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon allow pool delete = true
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 1
mgr initial modules =
rgw thread pool size = 64
rgw enable usage log = false
rgw enable ops log = false
rgw dns name =
[client.rgw.a]
rgw data = {folder}/rgw
rgw frontends = beast endpoint={address}:{port} tcp_nodelay=1
"""


@dataclass(frozen=True)
class S3Server:
    """Where a running server is and who may use it."""

    folder: str
    port: int
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    address: str = LOOPBACK

    @property
    def endpoint(self) -> str:
        """URL of the gateway."""
        return f"http://{self.address}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that S3 clients read."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }


def installed() -> bool:
    """Whether every program is on the path."""
    return all(shutil.which(program) for program in PROGRAMS)


def install() -> None:
    """Installs Debian's packages; needs root or sudo."""
    if installed():
        return
    install_packages(PACKAGES, "the S3 server for tests")


def start(folder: Path, address: str = LOOPBACK) -> S3Server:
    """Starts a new server with all its data in a folder that must not exist yet; its gateway listens at an address of this host."""
    if not installed():
        raise ServerError(f"radosgw is not installed: `python {__file__} install` does it.")
    folder = folder.absolute()
    for name in ("", "mon", "mgr", "osd", "rgw", "run", "logs", "keyrings"):
        (folder / name).mkdir(parents=True, exist_ok=name == "")
    mon_port, mon_port_v1, port = free_ports(3)
    fsid = str(uuid.uuid4())
    values = {"fsid": fsid, "mon_port": mon_port, "mon_port_v1": mon_port_v1, "port": port, "address": address}
    config = CONFIG.format(folder=folder, block_bytes=BLOCK_BYTES, **values)
    (folder / "ceph.conf").write_text(config)
    server = S3Server(str(folder), port, address=address)
    (folder / "server.json").write_text(json.dumps(asdict(server)))
    _make_monitor(folder, fsid, mon_port, mon_port_v1)
    _spawn(folder, "mon", ["ceph-mon", "-f", "-i", "a"])
    wait(lambda: _try(folder, "status"), "the monitor to answer")
    _make_osd(folder)
    _keyring(folder, "mgr.a", "mon", "allow profile mgr", "osd", "allow *")
    _keyring(folder, "client.rgw.a", "mon", "allow rw", "osd", "allow rwx")
    _start_the_rest(folder, server)
    user = ["user", "create", "--uid=engram", "--display-name=engram"]
    _admin(folder, *user, f"--access-key={server.access_key}", f"--secret-key={server.secret_key}", "--max-buckets=0")
    return server


def apart(action: str, folder: Path) -> None:
    """Does `start` or `restart` in a process of its own, so that the daemons are not this process's children."""
    _run(sys.executable, __file__, action, str(folder))


def running(folder: Path) -> S3Server:
    """The server that was started in a folder."""
    return S3Server(**json.loads((folder / "server.json").read_text()))


def restart(folder: Path) -> S3Server:
    """Starts a killed or stopped server again on the same data."""
    folder = folder.absolute()
    server = running(folder)
    _spawn(folder, "mon", ["ceph-mon", "-f", "-i", "a"])
    wait(lambda: _try(folder, "status"), "the monitor to answer")
    _start_the_rest(folder, server)
    return server


def kill(folder: Path, *, how: signal.Signals = signal.SIGKILL) -> None:
    """Ends every daemon at once; by default as a power cut would."""
    end(folder, DAEMONS, how=how)


def _start_the_rest(folder: Path, server: S3Server) -> None:
    _spawn(folder, "osd", ["ceph-osd", "-f", "-i", "0"])
    _spawn(folder, "mgr", ["ceph-mgr", "-f", "-i", "a"])
    wait(lambda: '"num_up_osds":1' in _ceph(folder, "osd", "stat", "-f", "json").replace(" ", ""), "the OSD to be up")
    _spawn(folder, "gateway", ["radosgw", "-f", "-n", "client.rgw.a"])
    wait(lambda: listens(server.port, server.address), "the gateway to listen")


def _make_monitor(folder: Path, fsid: str, port: int, port_v1: int) -> None:
    keyring, admin = folder / "keyrings" / "mon.keyring", folder / "keyrings" / "client.admin.keyring"
    allow = ["--cap", "mon", "allow *"]
    _run("ceph-authtool", "--create-keyring", str(keyring), "--gen-key", "-n", "mon.", *allow)
    more = ["--cap", "osd", "allow *", "--cap", "mgr", "allow *"]
    _run("ceph-authtool", "--create-keyring", str(admin), "--gen-key", "-n", "client.admin", *allow, *more)
    _run("ceph-authtool", str(keyring), "--import-keyring", str(admin))
    address = f"[v2:127.0.0.1:{port}/0,v1:127.0.0.1:{port_v1}/0]"
    monmap = str(folder / "monmap")
    _run("monmaptool", "--create", "--addv", "a", address, "--fsid", fsid, monmap)
    options = ["-c", str(folder / "ceph.conf"), "--monmap", monmap, "--keyring", str(keyring)]
    _run("ceph-mon", "--mkfs", "-i", "a", *options)
    shutil.copy(keyring, folder / "mon" / "keyring")


def _make_osd(folder: Path) -> None:
    osd_uuid = str(uuid.uuid4())
    _ceph(folder, "osd", "new", osd_uuid)
    _keyring(folder, "osd.0", "mon", "allow profile osd", "osd", "allow *", "mgr", "allow profile osd")
    _run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", osd_uuid, "-c", str(folder / "ceph.conf"))


def _keyring(folder: Path, name: str, *caps: str) -> None:
    _ceph(folder, "auth", "get-or-create", name, *caps, "-o", str(folder / "keyrings" / f"{name}.keyring"))


def _spawn(folder: Path, name: str, command: list[str]) -> None:
    spawn(folder, name, [*command, "-c", str(folder / "ceph.conf")])


def _ceph(folder: Path, *command: str) -> str:
    return _run("ceph", "-c", str(folder / "ceph.conf"), "--connect-timeout", "10", *command)


def _admin(folder: Path, *command: str) -> str:
    return _run("radosgw-admin", "-c", str(folder / "ceph.conf"), "-n", "client.rgw.a", *command)


def _try(folder: Path, *command: str) -> bool:
    try:
        _ceph(folder, *command)
    except ServerError:
        return False
    return True


def _run(*command: str) -> str:
    return run(command, timeout_s=PATIENCE_S)


def _print(server: S3Server) -> None:
    for name, value in server.environment.items():
        sys.stdout.write(f"export {name}={value}\n")


def main(arguments: list[str]) -> None:
    """The command line of this file."""
    match arguments:
        case ["install"]:
            install()
        case ["start", folder, *address] if len(address) <= 1:
            _print(start(Path(folder), *address))
        case ["restart", folder]:
            _print(restart(Path(folder)))
        case ["stop" | "kill" as action, folder]:
            kill(Path(folder), how=signal.SIGTERM if action == "stop" else signal.SIGKILL)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
