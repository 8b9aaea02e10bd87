"""The entries of a view as a file for whoever is logged in: JSON, CSV or Parquet; a long list is never in memory as a whole."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from datetime import datetime
from itertools import chain
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from services import targets
from services.access import Reach
from services.audit import Act
from services.catalogue import queries, tables
from services.catalogue.queries import Entry, EntryFilter
from services.catalogue.search import search
from services.pages.answers import saved_as
from services.pages.login import READ
from services.pages.sessions import PageReach
from services.requests import request_id, service_of, target
from services.service import Service

router = APIRouter(prefix="/projects/{project}/views/{view}", include_in_schema=False)
AT_ONCE = 1000
Kind = Literal["json", "csv", "parquet"]
KINDS: dict[Kind, str] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "parquet": tables.MEDIA_TYPE,
}
NAMES = tuple(field.name for field in fields(Entry))
type Chunks = Iterator[list[Entry]]


@router.api_route("/entries.{kind}", methods=READ)
def entries_file(
    request: Request,
    reach: PageReach,
    view: Annotated[str, Path(max_length=100)],
    kind: Kind,
    patient: Annotated[str, Query(max_length=1000)] = "",
) -> Response:
    """All entries of a view that were not withdrawn, or those of some patients."""
    target(request, targets.of_view(view))
    service = service_of(request)
    # a view that is not there would else be one without entries
    service.database.read(lambda session: queries.view(session, reach, view))
    wanted = EntryFilter.parse(view=view, patient=patient.strip())
    chunks = _chunks(service, reach, wanted)
    # What is refused is refused before the first byte is sent.
    chunks = chain([next(chunks)], chunks)
    service.audit.count(Act("read", view, reach.project, reach.principal), request_id=request_id(request))
    return StreamingResponse(_WRITERS[kind](chunks), 200, saved_as(f"{reach.project}-{view}.{kind}"), KINDS[kind])


def _chunks(service: Service, reach: Reach, wanted: EntryFilter) -> Chunks:
    """The entries, some at a time; one chunk at least."""
    after: str | None = None
    while True:
        page = search(service, reach, wanted, after=after, limit=AT_ONCE)
        yield page.items
        if page.next is None:
            return
        after = page.next


def _json(chunks: Chunks) -> Iterator[str]:
    """One array."""
    before = "[\n"
    for chunk in chunks:
        for one in chunk:
            yield before + json.dumps(_plain(one))
            before = ",\n"
    yield "\n]\n" if before != "[\n" else "[]\n"


def _csv(chunks: Chunks) -> Iterator[str]:
    """A table with one line of names; ids hold nothing that a spreadsheet takes for a formula."""
    names: list[Any] = list(NAMES)
    yield _lines([names])
    for chunk in chunks:
        yield _lines([list(_plain(one).values()) for one in chunk])


def _lines(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()


def _parquet(chunks: Chunks) -> Iterator[bytes]:
    return tables.Table(tables.ENTRIES, ([asdict(one) for one in chunk] for chunk in chunks)).parts()


def _plain(one: Entry) -> dict[str, Any]:
    found = {name: getattr(one, name) for name in NAMES}
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in found.items()}


_WRITERS: dict[Kind, Callable[[Chunks], Iterator[str] | Iterator[bytes]]] = {
    "json": _json,
    "csv": _csv,
    "parquet": _parquet,
}
