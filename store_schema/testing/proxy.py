"""An HTTP proxy that misbehaves on purpose, between a client and a real server; knows no store.

    with FaultProxy(server.endpoint, rate=0.05, seed=1) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.url

Requests are passed on with their own headers, so that signatures hold: the client signs the proxy's address.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

DELAY_S = 0.3
SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>on purpose</Message></Error>"
FAULTS = ("reset before", "lost response", "500", "503", "delay", "truncated")
"""No answer and nothing done; done but no answer; refusals; a late answer; an answer that ends halfway."""
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "content-length"}


class _DroppedError(Exception):
    """The connection is to end here, without another word."""


class FaultProxy:
    """Passes HTTP requests on to a server, and lets a share of them go wrong.

    Parameters
    ----------
    target
        URL of the server.
    rate
        Share of the requests that go wrong, each in a way drawn from `faults`.
    flip
        Whether one byte of every body that is read is changed, for paths that `flip` says yes to.
    """

    def __init__(
        self,
        target: str,
        *,
        rate: float = 0.0,
        seed: int = 0,
        faults: tuple[str, ...] = FAULTS,
        flip: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.target = urlsplit(target)
        self.rate, self.faults, self.flip = rate, faults, flip
        self.injected: Counter[str] = Counter()
        """How often each fault was put in."""
        self.requests: Counter[str] = Counter()
        """How often each method was asked; GET of a listing counts as LIST."""
        self._random = random.Random(seed)  # noqa: S311 - no secret: it draws faults
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def draw(self, method: str, path: str) -> str | None:
        """The fault of this request; None for most. Only what has a body can be cut, and only what was done can be lost."""
        asked = "LIST" if method == "GET" and ("list-type=" in path or "delimiter=" in path) else method
        with self._lock:
            self.requests[asked] += 1
            if self._random.random() >= self.rate:
                return None
            fault = self._random.choice(self.faults)
            if fault == "truncated" and method != "GET":
                fault = "lost response"
            self.injected[fault] += 1
            return fault

    def flipped(self, path: str, body: bytes) -> bytes:
        """The body with one bit of it changed, where `flip` says so."""
        if not body or not self.flip(path):
            return body
        with self._lock:
            at = self._random.randrange(len(body))
            self.injected["flip"] += 1
        return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """Connections end abruptly here all the time; that is what this server is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FaultProxy
    _upstream: HTTPConnection | None = None

    def handle_one_request(self) -> None:
        """One request; a drop closes the connection by a reset, as a dying peer does."""
        try:
            super().handle_one_request()
        except _DroppedError:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

    def finish(self) -> None:
        """Closes both sides."""
        if self._upstream is not None:
            self._upstream.close()
        super().finish()

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.owner.draw(self.command, self.path)
        if fault == "reset before":
            raise _DroppedError
        if fault in {"500", "503"}:
            self._answer(int(fault), [], SLOW_DOWN)
            return
        if fault == "delay":
            time.sleep(DELAY_S)
        status, headers, answer = self._ask(body)
        if fault == "lost response":
            raise _DroppedError
        if self.command == "GET" and status in {200, 206}:
            answer = self.owner.flipped(self.path, answer)
        self._answer(status, headers, answer, cut=fault == "truncated")
        if fault == "truncated":
            raise _DroppedError

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on  # noqa: N815 - the base class names them so

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The server's answer; one more try on a new connection, since the server may have closed an idle one."""
        for _ in range(2):
            try:
                if self._upstream is None:
                    self._upstream = HTTPConnection(str(self.owner.target.hostname), self.owner.target.port, timeout=60)
                    self._upstream.connect()
                    self._upstream.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                self._upstream.request(self.command, self.path, body=body or None, headers=headers)
                response = self._upstream.getresponse()
                return response.status, response.getheaders(), response.read()
            except (HTTPException, OSError):
                self._upstream = None
        raise _DroppedError

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool = False) -> None:
        length = next((v for n, v in headers if n.lower() == "content-length"), str(len(body)))
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""
