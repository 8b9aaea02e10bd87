"""An emulator of Azure Blob Storage for tests: Microsoft's Azurite, on a free port of this machine; knows no store.

python tests/servers/azurite.py install          # from npm, into a folder of this user's cache; node from Debian, as root
python tests/servers/azurite.py start FOLDER     # prints the environment that clients need
python tests/servers/azurite.py kill FOLDER      # kill -9
python tests/servers/azurite.py restart FOLDER   # the same data and port again
python tests/servers/azurite.py stop FOLDER
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote, urlencode

from daemons import ServerError, end, free_ports, install_packages, listens, programs, run, spawn, wait

VERSION = "3.35.0"
PLACE = programs(f"azurite-{VERSION}")
PROGRAM = PLACE / "node_modules/azurite/dist/src/blob/main.js"
PACKAGES = ("nodejs", "npm")
DAEMONS = ("azurite",)
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of the account that Azurite documents; it opens nothing else."""
API_VERSION = "2021-08-06"


@dataclass(frozen=True)
class AzureServer:
    """Where a running emulator is and who may use it."""

    folder: str
    port: int
    account: str = ACCOUNT
    key: str = field(default=KEY, repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that clients read."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": self.account,
            "AZURE_STORAGE_ACCOUNT_KEY": self.key,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{self.port}/{self.account}",
        }

    def make_container(self, name: str) -> None:
        """An empty container; one that is there is fine."""
        self.ask("PUT", name, query={"restype": "container"}, wanted=(201, 409))

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        wanted: tuple[int, ...] = (200, 201, 202),
    ) -> bytes:
        """What the emulator answers to a request of Azure's own protocol, signed by the account's key."""
        sent = {"x-ms-date": f"{datetime.now(UTC):%a, %d %b %Y %H:%M:%S} GMT", "x-ms-version": API_VERSION} | dict(
            headers or {}
        )
        place = f"/{self.account}/{quote(path)}"
        sent["Authorization"] = f"SharedKey {self.account}:{self._signature(method, place, body, query or {}, sent)}"
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, f"{place}?{urlencode(query or {})}", body, sent)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status not in wanted:
            raise ServerError(f"{method} {path}: {answer.status} {data[:300]!r}")
        return data

    def _signature(
        self, method: str, place: str, body: bytes, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> str:
        """See Azure's "Authorize with Shared Key", version 2015-02-21 and later."""
        of_azure = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()) if name.startswith("x-ms-"))
        asked = "".join(f"\n{name}:{value}" for name, value in sorted(query.items()))
        # Between method and headers: encoding, language, length, MD5, type, date, four conditions and range.
        said = f"{method}\n\n\n{len(body) or ''}\n" + "\n" * 8 + f"{of_azure}/{self.account}{place}{asked}"
        return self.sign(said)

    def sign(self, text: str) -> str:
        """The account's signature of a text."""
        return base64.b64encode(hmac.new(base64.b64decode(self.key), text.encode(), hashlib.sha256).digest()).decode()


def installed() -> bool:
    """Whether program and node are there."""
    return PROGRAM.exists() and shutil.which("node") is not None


def install() -> None:
    """Fetches the program from npm; node and npm from Debian where they are absent, which needs root or sudo."""
    if installed():
        return
    if shutil.which("npm") is None:
        install_packages(PACKAGES, "node, by which Azurite runs,")
    PLACE.mkdir(parents=True, exist_ok=True)
    run(["npm", "install", "--prefix", str(PLACE), "--no-audit", "--no-fund", "--silent", f"azurite@{VERSION}"])


def start(folder: Path) -> AzureServer:
    """Starts a new emulator with all its data in a folder that must not exist yet."""
    if not installed():
        raise ServerError(f"Azurite is not installed: `python {__file__} install` does it.")
    folder = folder.absolute()
    folder.mkdir(parents=True)
    server = AzureServer(str(folder), *free_ports(1))
    (folder / "server.json").write_text(json.dumps(asdict(server)))
    return restart(folder)


def apart(action: str, folder: Path) -> None:
    """Does `start` or `restart` in a process of its own, so that the daemon is not this process's child."""
    run([sys.executable, __file__, action, str(folder)])


def running(folder: Path) -> AzureServer:
    """The server that was started in a folder."""
    return AzureServer(**json.loads((folder / "server.json").read_text()))


def restart(folder: Path) -> AzureServer:
    """Starts a killed or stopped emulator again on the same data."""
    server = running(folder)
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(server.port), "--location", str(folder.absolute())]
    options = ["--silent", "--disableTelemetry", "--skipApiVersionCheck"]
    spawn(folder, "azurite", ["node", str(PROGRAM), *where, *options])
    wait(lambda: listens(server.port), "Azurite to listen")
    return server


def kill(folder: Path, *, how: signal.Signals = signal.SIGKILL) -> None:
    """Ends the emulator at once."""
    end(folder, DAEMONS, how=how)


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
            kill(Path(folder), how=signal.SIGTERM if action == "stop" else signal.SIGKILL)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
