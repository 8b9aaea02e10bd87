"""What the OpenAPI description says of answers that many routes share; knows no route."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Path
from pydantic import BeforeValidator

from services.errors import ErrorBody

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:\d\d)?)?", re.ASCII)


ViewId = Annotated[str, Path(description="Id of a view, whole.", examples=["medsam2-0123456789abcdef"])]
SnapshotId = Annotated[str, Path(description="Id of a snapshot, whole.", examples=["0" * 64])]
RunId = Annotated[str, Path(description="Id of a run.", examples=["cv-0123456789abcdef"])]
ID_PATTERN = "^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$"
"""See `store_schema.keys.ID_PATTERN`; a project, view, patient, modality, ROI or run."""


def _moment(value: Any) -> Any:
    """A date or time as people write them; a bare number would be taken for seconds since 1970."""
    if isinstance(value, str) and not _MOMENT.fullmatch(value):
        raise ValueError("expected a date or time such as 2026-11-25T12:00:00Z")
    if isinstance(value, str) and len(value) == len("2026-11-25"):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    return value


Moment = Annotated[datetime, BeforeValidator(_moment)]
"""Of a query; UTC where no zone is given."""

_TEXTS = {
    401: "No key, or none that is good.",
    403: "The key may not; also where there is no such project.",
    404: "No commit lists it.",
    405: "Another method is meant.",
    409: "It contradicts what is there.",
    410: "The entry was withdrawn.",
    412: "Other bytes have that name.",
    413: "The body is too large.",
    416: "The range begins behind the end.",
    422: "The request is malformed.",
    428: "`If-None-Match: *` is missing.",
    500: "It is listed and cannot be read, or the service failed.",
    501: "The store's backend cannot do this.",
    503: "The store or the database does not answer: try again.",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Errors that a route may answer, all of one shape."""
    return {status: {"model": ErrorBody, "description": _TEXTS[status]} for status in statuses}


REFUSALS = refusals(401, 403, 404, 405, 410, 422, 500, 503)
PROJECT = {"name": "project", "in": "path", "required": True, "schema": {"type": "string"}, "example": "myeloma"}
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}, "application/json": {}}
BYTES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The object, checked against its digest.", "content": _BINARY},
    206: {"description": "The part asked for.", "content": _BINARY},
    304: {"description": "The caller has it."},
    **refusals(416),
}
WRITTEN: dict[int | str, dict[str, Any]] = {
    200: {"description": "The very same bytes are there already.", "content": {}},
    201: {"description": "Created.", "content": {}},
    **refusals(409, 412, 413, 428),
}
LINES: dict[int | str, dict[str, Any]] = {
    200: {"description": "JSON lines.", "content": {"application/jsonl": {"schema": {"type": "string"}}}}
}
