"""Around every request: its id, its line in the log and metrics, and an answer where the code failed; knows no route."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.errors import Refusal
from services.logs import log
from services.metrics import Metrics
from store_schema.events import places

_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{8,64}", re.ASCII)
UNKNOWN = "(none)"
"""Stands for the route of a request that fits none."""


class Watched:
    """An application whose requests are named, logged and counted."""

    def __init__(self, app: ASGIApp, metrics: Metrics, failed: Callable[[Request, Refusal], Response]) -> None:
        self._app, self._metrics, self._failed = app, metrics, failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = _Asked(scope, send)
        with self._metrics.in_flight.track_inprogress():
            try:
                await self._app(scope, receive, asked.send)
            except Exception as error:  # noqa: BLE001 - the last place that can answer; it is logged
                log().error(
                    "request failed", extra={**asked.told(), "error": type(error).__name__, "where": places(error)}
                )
                if not asked.status:
                    refusal = Refusal(500, "internal", "the service failed: its log tells where, by the request's id.")
                    await self._failed(Request(scope), refusal)(scope, receive, asked.send)
            finally:
                self._tell(asked)

    def _tell(self, asked: _Asked) -> None:
        route = asked.route()
        passed = time.perf_counter() - asked.began
        self._metrics.requests.labels(asked.method, route, str(asked.status)).inc()
        self._metrics.seconds.labels(route).observe(passed)
        self._metrics.sent_bytes.labels(route).inc(asked.sent_bytes)
        # Health checks come every few seconds and say nothing.
        if route in {"/healthz", "/readyz", "/metrics"} and asked.status == 200:
            return
        log().info(
            "request", extra={**asked.told(), "duration_ms": round(passed * 1000, 2), "sent_bytes": asked.sent_bytes}
        )


class _Asked:
    """One request, and what was answered so far."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self.began = time.perf_counter()
        self.status = 0
        self.sent_bytes = 0
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
        self.request_id = given if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
        scope["engram.request_id"] = self.request_id
        method = str(scope["method"])
        self.method = method if method in {"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"} else "other"

    async def send(self, message: Message) -> None:
        """Passes a part of the answer on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
        elif message["type"] == "http.response.body":
            self.sent_bytes += len(message.get("body", b""))
        await self._send(message)

    def route(self) -> str:
        """The pattern of the path, never the path."""
        route = self._scope.get("route")
        return getattr(route, "path", None) or UNKNOWN

    def told(self) -> dict[str, Any]:
        """What the log tells of it."""
        principal = self._scope.get("engram.principal")
        return {
            "request_id": self.request_id,
            "method": self.method,
            "route": self.route(),
            "project": self._scope.get("engram.project"),
            "key_id": None if principal is None else principal.key_id,
            "status": self.status,
            "code": self._scope.get("engram.code"),
        }
