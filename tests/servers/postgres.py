"""A real PostgreSQL server for tests: Debian's package, on a free port of this machine; knows no table.

    python tests/servers/postgres.py install          # as root, from Debian's packages
    python tests/servers/postgres.py start FOLDER     # prints the environment that the service needs
    python tests/servers/postgres.py kill FOLDER      # kill -9 of every process
    python tests/servers/postgres.py restart FOLDER   # the same data, port and password again
    python tests/servers/postgres.py stop FOLDER

PostgreSQL refuses to run as root: root starts it as the package's user `postgres`, who must be able to reach FOLDER.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

PACKAGE, USER = "postgresql", "postgres"
VERSIONS = Path("/usr/lib/postgresql")
PATIENCE_S = 60
ROLE, PASSWORD = "engram", "engram-test-password-that-opens-nothing-else"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # A socket's path may have 107 bytes; a folder's may have more.
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    # A killed process loses nothing that the kernel has; only a power cut would.
    "fsync": "off",
    "full_page_writes": "off",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
}


@dataclass(frozen=True)
class PostgresServer:
    """Where a running server is and who may use it."""

    folder: str
    port: int
    role: str = ROLE
    password: str = PASSWORD

    def url(self, database: str = "postgres") -> str:
        """Address of one of its databases for SQLAlchemy, with the password."""
        return f"postgresql+psycopg://{self.role}:{self.password}@127.0.0.1:{self.port}/{database}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the service and PostgreSQL's programs read."""
        return {
            "ENGRAM_SERVICE_DATABASE_URL": f"postgresql://{self.role}@127.0.0.1:{self.port}/postgres",
            "PGPASSWORD": self.password,
        }

    def make_database(self, name: str) -> str:
        """Address of a new, empty database; it sorts as people do, so that nothing may rely on the order of bytes."""
        order = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US' ENCODING UTF8"
        self._tell(f'CREATE DATABASE "{name}" {order}')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Removes a database, whoever is connected."""
        self._tell(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _tell(self, statement: str) -> None:
        import psycopg  # noqa: PLC0415 - installing and starting need none

        where = {"host": "127.0.0.1", "port": self.port, "dbname": "postgres"}
        with psycopg.connect(**where, user=self.role, password=self.password, autocommit=True) as connection:
            connection.execute(statement)


class ServerError(RuntimeError):
    """The server could not be installed or started."""


def programs() -> Path | None:
    """Folder of the newest version's programs; PATH may lead to another version's, or to a wrapper that wants a cluster."""
    found = [folder for folder in VERSIONS.glob("*/bin") if (folder / "initdb").exists()]
    return max(found, key=lambda folder: float(folder.parent.name), default=None)


def installed() -> bool:
    """Whether a server can be started here."""
    return programs() is not None


def install() -> None:
    """Installs Debian's package; needs root or sudo."""
    if installed():
        return
    if shutil.which("apt-get") is None:
        raise ServerError(f"PostgreSQL for tests comes from Debian's package {PACKAGE}; there is no apt-get here.")
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", PACKAGE]):
        done = subprocess.run(
            [*root, "apt-get", *command], capture_output=True, text=True, env=environment, check=False
        )
        if done.returncode:
            raise ServerError(f"apt-get {command[0]} failed: {done.stderr[-800:]}")


def start(folder: Path) -> PostgresServer:
    """Starts a new server with all its data in a folder that must not exist yet."""
    folder = folder.absolute()
    folder.mkdir(parents=True)
    _own(folder)
    secret = folder / "password"
    secret.write_text(PASSWORD)
    _own(secret)
    options = ["--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
    _run("initdb", "-D", str(folder / "data"), "-U", ROLE, *options)
    server = PostgresServer(str(folder), _free_port())
    lines = [f"{name} = '{value}'" for name, value in (SETTINGS | {"port": str(server.port)}).items()]
    with (folder / "data" / "postgresql.conf").open("a") as config:
        config.write("\n".join(["", *lines, ""]))
    (folder / "server.json").write_text(json.dumps(asdict(server)))
    return restart(folder)


def apart(action: str, folder: Path) -> None:
    """Does `start` or `restart`; the server is no process's child, whoever starts it."""
    (start if action == "start" else restart)(folder)


def running(folder: Path) -> PostgresServer:
    """The server that was started in a folder."""
    return PostgresServer(**json.loads((folder / "server.json").read_text()))


def restart(folder: Path) -> PostgresServer:
    """Starts a killed or stopped server again on the same data; it outlives this process."""
    folder = folder.absolute()
    log = folder / "data" / "server.log"
    try:
        _run("pg_ctl", "start", "-D", str(folder / "data"), "-l", str(log), "-w", "-t", str(PATIENCE_S), "-s")
    except ServerError as error:
        raise ServerError(f"{error}\n{log.read_text()[-800:] if log.exists() else ''}") from None
    return running(folder)


def stop(folder: Path, *, how: str = "fast") -> None:
    """Ends the server in good order: `fast` breaks connections off, `smart` waits for them, `immediate` is a crash."""
    if _postmaster(folder) is not None:
        _run("pg_ctl", "stop", "-D", str(folder.absolute() / "data"), "-m", how, "-w", "-t", str(PATIENCE_S), "-s")


def kill(folder: Path) -> None:
    """Ends every process at once, as if the machine had gone; what was committed stays."""
    postmaster = _postmaster(folder)
    if postmaster is None:
        return
    # The postmaster first, or it would start again what it sees dying.
    pids = [postmaster, *_children(postmaster)]
    for pid in pids:
        _end(pid)
    _wait(lambda: not any(_lives(pid) for pid in pids), "the server's processes to end")
    # Where nobody reaps the dead at once, the next server would take this one for alive.
    (folder.absolute() / "data" / "postmaster.pid").unlink(missing_ok=True)


def lives(folder: Path) -> bool:
    """Whether the server of a folder runs."""
    return _postmaster(folder) is not None


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _postmaster(folder: Path) -> int | None:
    """The server's first process, if it runs still and is of this folder."""
    data = folder.absolute() / "data"
    try:
        pid = int((data / "postmaster.pid").read_text().split()[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError, IndexError):
        return None
    return pid if str(data).encode() in command else None


def _children(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(status.parent.name))
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _own(path: Path) -> None:
    """Gives a path to the user who runs the server."""
    if os.geteuid() == 0:
        shutil.chown(path, USER)


def _run(program: str, *arguments: str) -> None:
    folder = programs()
    if folder is None:
        raise ServerError(f"PostgreSQL is not installed: `python {__file__} install` does it.")
    as_user = ["runuser", "-u", USER, "--"] if os.geteuid() == 0 else []
    # The server keeps what it is given for its output: a pipe would never end.
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(
            [*as_user, str(folder / program), *arguments], stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            cwd="/", check=False, timeout=PATIENCE_S * 2,
        )  # fmt: skip
        if done.returncode:
            said.seek(0)
            raise ServerError(f"{program} failed with status {done.returncode}: {said.read().decode()[-800:]}")


def _wait(ready: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not ready():
        if time.monotonic() > end:
            raise ServerError(f"waited {PATIENCE_S} s for {what}.")
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main(arguments: list[str]) -> None:
    """The command line of this file."""
    match arguments:
        case ["install"]:
            install()
        case ["start" | "restart" as action, folder]:
            server = (start if action == "start" else restart)(Path(folder))
            for name, value in server.environment.items():
                sys.stdout.write(f"export {name}={value}\n")
        case ["stop" | "kill" as action, folder]:
            (stop if action == "stop" else kill)(Path(folder))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
