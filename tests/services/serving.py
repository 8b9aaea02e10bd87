"""A real server on a socket of this machine, in a thread; and raw requests to it, whose paths nothing tidies up."""

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from services.app import create_app
from services.protocol import Protocol
from services.service import Service


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A running service."""

    port: int
    service: Service

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        headers: dict[str, str] | list[tuple[str, str]] | None = None,
        body: bytes | dict[str, Any] | None = None,
    ) -> Answer:
        """One request, its path sent as it is written."""
        given = list(headers.items()) if isinstance(headers, dict) else list(headers or [])
        if key is not None:
            given.append(("Authorization", f"Bearer {key}"))
        if isinstance(body, dict):
            given.append(("Content-Type", "application/json"))
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        # http.client refuses odd characters in paths, which is what the tests send.
        connection._validate_path = lambda _: None
        connection._encode_request = lambda request: request.encode("utf-8", "surrogateescape")
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in given:
                connection.putheader(name, value.encode("utf-8", "surrogateescape"))
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()


def raw(server: Server, data: bytes) -> Answer:
    """What comes back for bytes that need be no request."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(data)
        received = b""
        while part := connection.recv(2**16):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Answer(int(status.split()[1]), headers, body)


def chunked(server: Server, path: str, key: str, headers: dict[str, str], body: bytes) -> int:
    """Status of a PUT whose body comes in chunks, with no length told before."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        lines = [
            f"PUT {path} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {key}",
            *(f"{k}: {v}" for k, v in headers.items()),
        ]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return int(connection.recv(100).split()[1])


@contextmanager
def running(service: Service, **settings: Any) -> Iterator[Server]:
    """The service on a free port until the block ends; further settings are uvicorn's."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_app(service), http=Protocol, log_config=None, access_log=False, ws="none", lifespan="on", **settings
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    assert server.started
    try:
        yield Server(listening.getsockname()[1], service)
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


@contextmanager
def apart(service: Service) -> Iterator[str]:
    """Address of the service as a process of its own, over the same database and data."""
    command = [str(Path(sys.executable).with_name("feature-store")), "serve", "--port", "0", "--reconcile-s", "0"]
    command += ["--data", str(service.settings.data)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        line = next(line for line in process.stdout if "Serving at" in line)
        yield line.split()[2]
    finally:
        process.terminate()
        process.communicate(timeout=60)
