"""Answers for whole and partial reads of immutable objects: ranges, validators, cache headers; knows no store."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.responses import Response

from services.errors import Refusal

IMMUTABLE = "private, max-age=86400, immutable"
"""An object never changes, but may be withdrawn: a cache keeps it for a day, and only for the one who may read it."""
_RANGE = re.compile(r"\s*bytes\s*=\s*(?:(\d{1,18})\s*-\s*(\d{0,18})|-\s*(\d{1,18}))\s*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Large:
    """An object that is too large to be held: parts of it are read as they are asked for."""

    size_bytes: int
    whole: Callable[[], bytes]
    """Reads it and checks its digest."""
    part: Callable[[int, int], bytes]
    """Reads from a start to an end; no digest covers a part, the checksums in the object do."""
    check: Callable[[], None]
    """Raises where it is gone or of another size."""


@dataclass(frozen=True)
class Found:
    """An object that may be served."""

    data: bytes | Large
    sha256: str
    """Of the data: its strong validator."""
    target: str
    """View, snapshot or run, for the audit."""
    media_type: str = "application/octet-stream"
    immutable: bool = True

    @property
    def size_bytes(self) -> int:
        """Of the whole."""
        return len(self.data) if isinstance(self.data, bytes) else self.data.size_bytes

    def whole(self) -> bytes:
        """All of it, checked against its digest."""
        return self.read(0, self.size_bytes)

    def read(self, start: int, end: int) -> bytes:
        """Some of it; a large one is read now."""
        if isinstance(self.data, bytes):
            return self.data[start:end]
        return self.data.whole() if (start, end) == (0, self.data.size_bytes) else self.data.part(start, end)


def answer(found: Found, headers: Mapping[str, str], *, head: bool) -> Response:
    """The answer to a GET or HEAD with these request headers.

    One range is served as such; several, or one in another unit, are answered by the whole object, as RFC 9110 allows.

    Raises
    ------
    Refusal
        416, if the range begins behind the end.
    """
    etag = f'"{found.sha256}"'
    given = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": IMMUTABLE if found.immutable else "private, no-cache",
        "Vary": "Authorization",
        "X-Content-Type-Options": "nosniff",
    }
    if _matches(headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=given)
    part = None
    if headers.get("if-range") in {None, etag}:
        part = _part(headers.get("range"), found.size_bytes)
    start, end = part or (0, found.size_bytes)
    if part is not None:
        given["Content-Range"] = f"bytes {start}-{end - 1}/{found.size_bytes}"
    if head and isinstance(found.data, Large):
        found.data.check()
    response = Response(b"" if head else found.read(start, end), 206 if part else 200, given, found.media_type)
    response.headers["Content-Length"] = str(end - start)
    return response


def _matches(header: str | None, etag: str) -> bool:
    """Whether one of the validators of If-None-Match is this one; weak comparison, as for GET."""
    if header is None:
        return False
    return header.strip() == "*" or any(one.strip().removeprefix("W/") == etag for one in header.split(","))


def _part(header: str | None, size: int) -> tuple[int, int] | None:
    """Start and end of the one range asked for; None where the whole is to be served."""
    match = _RANGE.fullmatch(header) if header else None
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None
    if start >= size or start >= end:
        raise Refusal(
            416, "range_not_satisfiable", f"the object has {size} bytes: the range begins behind its end.",
            {"Content-Range": f"bytes */{size}"},
        )  # fmt: skip
    return start, end
