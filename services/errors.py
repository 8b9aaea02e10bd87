"""What the service answers when it refuses: one JSON shape, whoever refused; knows no route."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, Field

from store_schema.errors import (
    AlreadyExistsError,
    BackendError,
    EngramError,
    EntryWithdrawnError,
    NotCommittedError,
    ObjectAlteredError,
    ObjectMissingError,
    ObjectTruncatedError,
    SchemaError,
    StoreNotFoundError,
    UsageError,
)
from store_schema.redact import redact


class ErrorDetail(BaseModel):
    """Why a request was refused."""

    status: int = Field(examples=[404])
    code: str = Field(description="Stable name of the reason, for programs.", examples=["not_found"])
    message: str = Field(description="What was refused, what was expected, and what to do.")
    request_id: str = Field(description="Names the request in the service's log.", examples=["9f2c6a…"])


class ErrorBody(BaseModel):
    """The body of every answer that is no success."""

    error: ErrorDetail


@dataclass
class Refusal(EngramError):  # noqa: N818 - most are no faults
    """An answer other than success, raised by whoever finds the reason."""

    status: int
    code: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> Any:
        return Refusal, (self.status, self.code, self.message, self.headers)


def unauthenticated(message: str = "this needs an API key") -> Refusal:
    """401: nobody known asks."""
    return Refusal(
        401,
        "unauthenticated",
        f"{message}: send it as `Authorization: Bearer KEY`. A project's admin makes keys.",
        {"WWW-Authenticate": 'Bearer realm="feature-store"'},
    )


def forbidden(message: str) -> Refusal:
    """403: whoever asks may not; nothing is said of what is there."""
    return Refusal(403, "forbidden", message)


def not_found(message: str) -> Refusal:
    """404: no commit lists it."""
    return Refusal(404, "not_found", message)


def conflict(message: str, *, code: str = "conflict") -> Refusal:
    """409: it contradicts what is there."""
    return Refusal(409, code, message)


def unprocessable(message: str, *, code: str = "invalid") -> Refusal:
    """422: the request is malformed."""
    return Refusal(422, code, message)


_STATUS: tuple[tuple[type[EngramError], int, str], ...] = (
    (EntryWithdrawnError, 410, "withdrawn"),
    (NotCommittedError, 404, "not_found"),
    (AlreadyExistsError, 409, "conflict"),
    (ObjectMissingError, 500, "object_missing"),
    (ObjectTruncatedError, 500, "object_truncated"),
    (ObjectAlteredError, 500, "object_altered"),
    (SchemaError, 500, "schema"),
    (StoreNotFoundError, 503, "store_unavailable"),
    (BackendError, 503, "store_unavailable"),
    (UsageError, 422, "invalid"),
)
"""The first that fits. A committed object that cannot be read is never a 404: a Zarr reader would take it for zeros."""


def refusal_of(error: EngramError) -> Refusal:
    """How an error of the store is answered."""
    if isinstance(error, Refusal):
        return error
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            headers = {"Retry-After": "1"} if status == 503 else {}
            return Refusal(status, code, redact(str(error)), headers)
    return Refusal(500, "internal", redact(str(error)))


def error_body(refusal: Refusal, request_id: str) -> dict[str, Any]:
    """The JSON of a refusal."""
    detail = ErrorDetail(status=refusal.status, code=refusal.code, message=refusal.message, request_id=request_id)
    return ErrorBody(error=detail).model_dump()
