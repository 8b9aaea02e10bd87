"""A feature-store service over a store in memory, as far as its client sees it, whose answers a test can spoil.

    with ServiceDouble(store) as service:
        service.spoil(503, times=2)
        open_store(service.url)

Knows what SPEC.md says of a store over HTTP, and nothing of the real service.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from store_schema import EntryKey, Snapshot, Store, make_pack
from store_schema.errors import (
    AlreadyExistsError,
    EngramError,
    EntryWithdrawnError,
    NotCommittedError,
    ObjectMissingError,
    UsageError,
)
from store_schema.records import CommitRecord, sha256
from store_schema.withdrawals import withdrawn

KEY = "engram_0123456789ab_" + "k" * 43
READ_KEY = "engram_ffffffffffff_" + "r" * 43
ROOT = "/v1/projects/myeloma"
KINDS = ("commits", "data", "packs", "runs", "snapshots", "views", "withdrawn")
ERRORS = ((EntryWithdrawnError, 410), (NotCommittedError, 404), (UsageError, 422))


@dataclass
class Reply:
    """An answer to be sent."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    """Ends the connection in the middle of the body."""
    done_first: bool = False
    """Does what was asked before this is answered instead of the true answer."""


DROPPED = Reply(0)
"""The connection is closed without a word."""
LOST = Reply(0, done_first=True)
"""What was asked is done, and the answer is lost."""


def refused(status: int, code: str = "refused", message: str = "no, since it is a test.") -> Reply:
    """A refusal in the service's form."""
    error = {"status": status, "code": code, "message": message, "request_id": "r-1"}
    return Reply(status, json.dumps({"error": error}).encode(), {"Content-Type": "application/json"})


@dataclass
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class ServiceDouble:
    """Serves a store below `/v1/projects/myeloma` to those who have a key."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.asked: list[Asked] = []
        self._spoiled: deque[Reply] = deque()
        self.sign: Callable[[str], str] | None = None
        """Gives the address of an object in the bucket; None where there are no such addresses."""
        self.only: Callable[[Asked], bool] = lambda _: True
        """Which requests are spoiled."""
        double = self

        class Handler(_Handler):
            owner = double

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        """Address of the project."""
        return f"http://127.0.0.1:{self._server.server_port}{ROOT}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def spoil(self, reply: Reply | int, *, times: int = 1) -> None:
        """Answers the next requests so; a number stands for a refusal of that status."""
        self._spoiled.extend([refused(reply) if isinstance(reply, int) else reply] * times)

    def heal(self) -> None:
        """Answers everything truly from now on."""
        self._spoiled.clear()

    def answer(self, asked: Asked) -> Reply:
        """The answer to a request."""
        self.asked.append(asked)
        if self._spoiled and self.only(asked):
            spoiled = self._spoiled.popleft()
            if spoiled.done_first:
                self._true_answer(asked)
            return spoiled
        return self._true_answer(asked)

    def _true_answer(self, asked: Asked) -> Reply:
        bearer = asked.headers.get("authorization", "")
        if bearer not in {f"Bearer {KEY}", f"Bearer {READ_KEY}"}:
            return refused(401, "unauthenticated", "this API key is unknown, expired or revoked.")
        if asked.method == "PUT" and READ_KEY in bearer:
            return refused(403, "forbidden", "publishing needs a key with the scope 'write'.")
        parts = urlsplit(asked.path)
        path = unquote(parts.path).removeprefix(ROOT).removeprefix("/")
        try:
            return self._routed(asked, path, dict(parse_qsl(parts.query)), READ_KEY in bearer)
        except EngramError as error:
            status = next((status for kind, status in ERRORS if isinstance(error, kind)), 503)
            return refused(status, type(error).__name__, str(error))

    def _routed(self, asked: Asked, path: str, query: dict[str, str], reads_only: bool) -> Reply:
        if not path:
            return _json(200, {"id": "myeloma", "own": True, "scope": "read" if reads_only else "write"})
        if path == "objects":
            return self._listing(query.get("prefix", ""), names=query.get("delimiter") == "true")
        if asked.method == "POST":
            return self._made(path, json.loads(asked.body))
        return self._put(asked, path) if asked.method == "PUT" else self._get(asked, path)

    def _get(self, asked: Asked, path: str) -> Reply:
        if path.startswith("data/") and not self._is_committed(path):
            return refused(404, "not_found", "no commit lists that.")
        try:
            data = self.store.location.get(path)
        except (ObjectMissingError, EngramError):
            listed = path.startswith("data/")
            return (
                refused(500, "object_missing", f"{path} is gone.") if listed else refused(404, "not_found", "absent.")
            )
        headers = {"ETag": f'"{sha256(data)}"', "Content-Type": "application/octet-stream"}
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", asked.headers.get("range", ""))
        if match is None:
            return Reply(200, data, headers)
        start = int(match[1]) if match[1] else max(0, len(data) - int(match[2]))
        end = min(len(data), int(match[2]) + 1) if match[1] and match[2] else len(data)
        if start >= len(data):
            return refused(416, "range_not_satisfiable", "the range begins behind the end.")
        return Reply(206, data[start:end], headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})

    def _is_committed(self, path: str) -> bool:
        names = path.split("/")
        if len(names) < 7:
            return False
        key, attempt = EntryKey(*names[2:5]), names[5]
        if key in withdrawn(self.store.location, names[1]):
            raise EntryWithdrawnError("the entry was withdrawn: it can be neither read nor written.")
        commits = self.store.history(names[1], key)
        return any(isinstance(one, CommitRecord) and one.attempt == attempt for one in commits)

    def _put(self, asked: Asked, path: str) -> Reply:
        if asked.headers.get("if-none-match") != "*":
            return refused(428, "precondition_required", "objects are written once.")
        if path.partition("/")[0] not in {"views", "data", "commits", "runs"}:
            return refused(405, "method_not_allowed", "nobody writes that here.")
        try:
            self.store.location.create(path, asked.body)
        except AlreadyExistsError:
            same = self.store.location.get(path) == asked.body
            return Reply(200) if same else refused(412, "exists", "other bytes have that name.")
        return Reply(201)

    def _listing(self, prefix: str, *, names: bool) -> Reply:
        location = self.store.location
        if prefix.partition("/")[0] not in {"", *KINDS} or not (prefix or names):
            return refused(422, "invalid", "no folder of a store.")
        if names:
            rows: list[dict[str, Any]] = [{"name": name} for name in location.children(prefix)]
        else:
            seen = (one for one in location.objects(prefix) if not one.path.startswith("data/") or self._seen(one.path))
            rows = [
                {"path": one.path, "size_bytes": one.size_bytes, "modified": one.modified.isoformat()} for one in seen
            ]
        return Reply(200, b"".join(json.dumps(row).encode() + b"\n" for row in [*rows, {"end": len(rows)}]))

    def _seen(self, path: str) -> bool:
        with contextlib.suppress(EntryWithdrawnError):
            return self._is_committed(path)
        return False

    def _made(self, path: str, asked: dict[str, Any]) -> Reply:
        if path == "snapshots":
            given = asked.get("keys")
            keys = None if given is None else {EntryKey(*names): number for *names, number in given}
            made = self.store.make_snapshot(asked["view"], keys, where=asked["where"], base=asked["base"])
            return _json(201, {"id": made, "view": asked["view"], "rows": len(self.store.snapshot(made))})
        if path.endswith("/sign"):
            return self._signed(self.store.snapshot(path.split("/")[1]), asked["paths"])
        pack = make_pack(self.store.snapshot(path.split("/")[1]), asked["kind"])
        return _json(201, {"kind": asked["kind"], "attempt": pack.record.attempt, "rows": pack.record.rows})

    def _signed(self, snapshot: Snapshot, names: list[str]) -> Reply:
        if self.sign is None:
            return refused(501, "not_signable", "the store's backend has no signed addresses.")
        assert len(names) <= 1000
        places = {}
        for name in names:
            *key, path = name.split("/", 3)
            places[name] = self.sign(f"{snapshot.commit(EntryKey(*key)).folder}/{path}")
        return _json(200, {"urls": places, "expires_at": "2026-01-01T00:05:00+00:00"})


def _json(status: int, value: object) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Connections end abruptly here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: ServiceDouble

    def _answered(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.owner.answer(Asked(self.command, self.path, headers, body))
        if reply.status == 0:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[: len(reply.body) // 2] if reply.cut else reply.body)
        self.close_connection = self.close_connection or reply.cut

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answered  # noqa: N815 - the base class names them so

    def log_message(self, *_: Any) -> None:
        """Says nothing."""
