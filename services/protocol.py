"""HTTP as uvicorn speaks it, but for what is no HTTP at all: that too is refused in the service's one form; knows no route."""

from __future__ import annotations

import json
import uuid

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.errors import Refusal, error_body


class Protocol(HttpToolsProtocol):
    """One connection."""

    def send_400_response(self, msg: str) -> None:
        """Refuses what cannot be read as a request, and ends the connection: nobody knows where the next one would begin."""
        request_id = uuid.uuid4().hex
        refusal = Refusal(
            400, "malformed", "this is no HTTP request: expected a request line and headers as RFC 9112 has them."
        )
        body = json.dumps(error_body(refusal, request_id)).encode()
        lines = [
            "HTTP/1.1 400 Bad Request", "Content-Type: application/json", f"Content-Length: {len(body)}", "Cache-Control: no-store",
            f"X-Request-Id: {request_id}", "Connection: close",
        ]  # fmt: skip
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        self.transport.close()
