"""What the OpenAPI description says of answers that many routes share; knows no route."""

from __future__ import annotations

from typing import Any

from services.errors import ErrorBody

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
