"""What servers of tests share: where programs are kept, how daemons are started, found again and ended; knows no server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PATIENCE_S = 120


class ServerError(RuntimeError):
    """The server could not be installed or started."""


def programs(name: str) -> Path:
    """Folder of this user's where a program for tests is kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(cache) / "engram-tests" / name


def run(command: Sequence[str], *, timeout_s: int = 600) -> str:
    """What a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    if done.returncode:
        raise ServerError(f"{' '.join(command[:4])} … failed with status {done.returncode}: {done.stderr[-800:]}")
    return done.stdout


def install_packages(packages: Sequence[str], what: str) -> None:
    """Installs packages of Debian's that something comes in; needs root or sudo."""
    if shutil.which("apt-get") is None:
        raise ServerError(f"{what} comes from Debian's packages {tuple(packages)}; there is no apt-get here.")
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        run([*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *command], timeout_s=1800)


def spawn(folder: Path, name: str, command: Sequence[str]) -> None:
    """A daemon in a session of its own, so that it outlives this process; its folder must stand in the command."""
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    (folder / f"{name}.pid").write_text(str(process.pid))


def wait(ready: Callable[[], bool], what: str) -> None:
    """Returns once that is so."""
    end = time.monotonic() + PATIENCE_S
    while not ready():
        if time.monotonic() > end:
            raise ServerError(f"waited {PATIENCE_S} s for {what}.")
        time.sleep(0.05)


def end(folder: Path, names: Sequence[str], *, how: signal.Signals = signal.SIGKILL) -> None:
    """Ends the daemons of a folder; by default as a power cut would."""
    pids = [pid for name in names if (pid := _pid(folder, name))]
    for pid in pids:
        os.kill(pid, how)
    wait(lambda: not any(_lives(pid) for pid in pids), "the daemons to end")


def _pid(folder: Path, name: str) -> int | None:
    """The daemon's process, if it runs still and is a daemon of this folder."""
    try:
        pid = int((folder / f"{name}.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if str(folder.absolute()).encode() in command else None


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def listens(port: int, address: str = "127.0.0.1") -> bool:
    """Whether something answers at a port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
