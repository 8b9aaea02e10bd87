"""Structured logs: one JSON object a line on stderr; knows which members may be told, and tells no others.

No secret and no patient's id gets into them: a request is named by its route's pattern, an error by its kind and the places in the
code.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from store_schema.events import places

LOGGER = "engram.service"
TOLD = (
    "request_id", "method", "route", "project", "key_id", "status", "code", "duration_ms", "sent_bytes", "error", "where", "rows",
    "projects", "url", "database", "problems", "seconds",
)  # fmt: skip
"""Members of a line besides its time, level and event."""


def log() -> logging.Logger:
    """The service's logger."""
    return logging.getLogger(LOGGER)


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= {name: value for name in TOLD if (value := getattr(record, name, None)) is not None}
        if record.exc_info and record.exc_info[1] is not None:
            line |= {"error": type(record.exc_info[1]).__name__, "where": places(record.exc_info[1])}
        return json.dumps(line, ensure_ascii=True, default=str)


class PlainLines(JsonLines):
    """A record as one line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line = json.loads(super().format(record))
        told = "  ".join(f"{name}={line[name]}" for name in TOLD if name in line)
        return f"{line['at'][11:19]} {line['level']:7s} {line['event']}  {told}".rstrip()


def configure(*, plain: bool, level: int = logging.INFO) -> None:
    """Sends the logs of this process to stderr; other libraries' only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainLines() if plain else JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    log().setLevel(level)
    # uvicorn tells what the service tells itself: its access log would hold paths, and so patients.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = name != "uvicorn.access"
