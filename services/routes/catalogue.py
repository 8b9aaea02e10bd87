"""Searches the catalogue over HTTP: views, coverage, entries, snapshots, runs, as JSON or Parquet; decides nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel
from sqlalchemy.orm import Session
from starlette.responses import StreamingResponse

from services import targets
from services.access import Reach
from services.audit import Act
from services.catalogue import queries, tables
from services.catalogue.coverage import Coverage, coverage
from services.catalogue.cursors import Page
from services.catalogue.globs import Globs
from services.catalogue.queries import EntryFilter
from services.catalogue.search import search
from services.database.models import RunRow, SnapshotEntry
from services.requests import Reached, request_id, service_of, target
from services.routes.catalogue_models import (
    DEFAULT_LIMIT,
    PARQUET_ROWS,
    Asked,
    CoverageOut,
    CoverageQuery,
    EntryOut,
    EntryQuery,
    ListOut,
    RunOut,
    RunQuery,
    SnapshotDetail,
    SnapshotOut,
    SnapshotQuery,
    ViewOut,
)
from services.routes.documented import REFUSALS, RunId, SnapshotId, ViewId
from services.service import Service
from store_schema.errors import EntryWithdrawnError
from store_schema.snapshot import SNAPSHOT_ID

router = APIRouter(prefix="/v1/projects/{project}", tags=["catalogue"], responses=REFUSALS)
PARQUET_PAGE = 10_000
"""Rows that are asked for at once."""
NEXT = "Engram-Next"
"""Header of a Parquet answer that has the cursor of what follows."""
"""What can be told as a view in the audit; anything else that was sent may be a patient."""
_NO_STORE = {"Cache-Control": "no-store"}
type Rows = list[dict[str, Any]]
type Fetch = Callable[[str | None, int], tuple[Rows, str | None]]
"""Rows after a cursor, at most so many, and the cursor of what follows."""


def _either(model: type[BaseModel]) -> dict[str, Any]:
    """How a list is described that comes in two formats."""
    content = {tables.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}
    header = {"description": "Cursor of what follows a Parquet file.", "schema": {"type": "string"}}
    described = {"description": "A page of the list.", "content": content, "headers": {NEXT: header}}
    return {"response_model": model, "responses": {200: described}}


# Routes


@router.get("/views", **_either(ListOut[ViewOut]), summary="Views of a store.")
def list_views(request: Request, reach: Reached, asked: Annotated[Asked, Query()], response: Response) -> Any:
    """Those of the own project, or those that were granted, with what the store holds of each."""
    read = _Read(request, reach, "catalogue")

    def fetch(after: str | None, limit: int) -> tuple[Rows, str | None]:
        page = read.ask(lambda session: queries.views(session, reach, after=after, limit=limit))
        return [_view(one) for one in page.items], page.next

    return read.answer(asked, response, fetch, tables.VIEWS)


@router.get("/views/{view}/coverage", **_either(CoverageOut), summary="Which patients a view has for what.")
def view_coverage(
    request: Request, reach: Reached, view: ViewId, asked: Annotated[CoverageQuery, Query()], response: Response
) -> Any:
    """Patients × (modality, ROI), part by part; as Parquet one row for each entry."""
    read = _Read(request, reach, targets.of_view(view))
    wanted = Globs.parse(asked.patient, field="patient") if asked.patient else None

    def found(after: str | None, limit: int) -> Coverage:
        return read.ask(lambda session: coverage(session, reach, view, patient=wanted, after=after, limit=limit))

    def fetch(after: str | None, limit: int) -> tuple[Rows, str | None]:
        part = found(after, limit)
        return _cells(part), part.next

    if _is_parquet(request, asked):
        return read.done(_parquet(asked, fetch, tables.COVERAGE))
    response.headers.update(_NO_STORE)
    return read.done(asdict(found(asked.cursor, asked.limit or DEFAULT_LIMIT)))


@router.get("/entries", **_either(ListOut[EntryOut]), summary="Search entries.")
def list_entries(request: Request, reach: Reached, asked: Annotated[EntryQuery, Query()], response: Response) -> Any:
    """Entries by patient, modality, ROI, view and date, sorted by view, patient, modality and ROI."""
    read = _Read(request, reach, "catalogue")
    wanted = EntryFilter.parse(**asked.model_dump(exclude=set(Asked.model_fields)))

    def fetch(after: str | None, limit: int) -> tuple[Rows, str | None]:
        page = search(read.service, reach, wanted, after=after, limit=limit)
        return [vars(one) for one in page.items], page.next

    return read.answer(asked, response, fetch, tables.ENTRIES)


@router.get("/snapshots", **_either(ListOut[SnapshotOut]), summary="Snapshots of a store.")
def list_snapshots(
    request: Request, reach: Reached, asked: Annotated[SnapshotQuery, Query()], response: Response
) -> Any:
    """The last written first."""
    read = _Read(request, reach, "catalogue")

    def fetch(after: str | None, limit: int) -> tuple[Rows, str | None]:
        page: Page[SnapshotEntry] = read.ask(
            lambda session: queries.snapshots(session, reach, view_id=asked.view, after=after, limit=limit)
        )
        return [SnapshotOut.model_validate(row).model_dump() for row in page.items], page.next

    return read.answer(asked, response, fetch, tables.SNAPSHOTS)


@router.get("/snapshots/{snapshot}", summary="One snapshot.")
def get_snapshot(request: Request, reach: Reached, snapshot: SnapshotId, response: Response) -> SnapshotDetail:
    """What it pins is read at `/entries` by whom it was granted, or as the object `snapshots/ID.jsonl.zst`."""
    read = _Read(request, reach, f"snapshot {snapshot}" if SNAPSHOT_ID.fullmatch(snapshot) else "snapshot")
    response.headers.update(_NO_STORE)
    row = read.ask(lambda session: queries.snapshot(session, reach, snapshot))
    known = None if row is None else SnapshotOut.model_validate(row)
    try:
        opened = read.service.project_store(reach.project).objects.snapshot(reach, snapshot)
    except EntryWithdrawnError:
        if known is None:
            raise
        return read.done(SnapshotDetail(**known.model_dump(), usable=False))
    written_at = None if known is None else known.written_at
    detail = SnapshotDetail(id=opened.id, view=opened.view_id, rows=len(opened), written_at=written_at, usable=True)
    return read.done(detail)


@router.get("/runs", **_either(ListOut[RunOut]), summary="Runs whose records lie in a store.")
def list_runs(request: Request, reach: Reached, asked: Annotated[RunQuery, Query()], response: Response) -> Any:
    """The last begun first; only for keys of the project itself."""
    read = _Read(request, reach, "catalogue")
    as_text = _is_parquet(request, asked)

    def fetch(after: str | None, limit: int) -> tuple[Rows, str | None]:
        page: Page[RunRow] = read.ask(
            lambda session: queries.runs(session, reach, kind=asked.kind, after=after, limit=limit)
        )
        rows = [RunOut.model_validate(row).model_dump() for row in page.items]
        return [row | {"summary": json.dumps(row["summary"])} for row in rows] if as_text else rows, page.next

    return read.answer(asked, response, fetch, tables.RUNS)


@router.get("/runs/{run}", summary="One run.")
def get_run(request: Request, reach: Reached, run: RunId, response: Response) -> RunOut:
    """Its records are read as the objects `runs/RUN/NAME`; only for keys of the project itself."""
    response.headers.update(_NO_STORE)
    found = RunOut.model_validate(_Read(request, reach, "run").ask(lambda session: queries.run(session, reach, run)))
    # named in the audit once it is known to be one
    return _Read(request, reach, f"run {found.id}").done(found)


# Common


@dataclass(frozen=True)
class _Read:
    """One read, of what may be told of it in the audit."""

    request: Request
    reach: Reach
    what: str
    """View, snapshot, run or the whole catalogue; never what was asked for where that is none of their ids."""

    def __post_init__(self) -> None:
        target(self.request, self.what)

    @property
    def service(self) -> Service:
        """The running service."""
        return service_of(self.request)

    def ask[T](self, query: Callable[[Session], T]) -> T:
        """What the database answers."""
        return self.service.database.read(query)

    def done[T](self, answer: T) -> T:
        """The answer, after the read was counted: what was refused is counted as denied, elsewhere."""
        act = Act("read", self.what, self.reach.project, self.reach.principal)
        self.service.audit.count(act, request_id=request_id(self.request))
        return answer

    def answer(self, asked: Asked, response: Response, fetch: Fetch, schema: Any) -> Any:
        """A page as JSON, or what was asked for as Parquet."""
        if _is_parquet(self.request, asked):
            return self.done(_parquet(asked, fetch, schema))
        response.headers.update(_NO_STORE)
        items, following = fetch(asked.cursor, asked.limit or DEFAULT_LIMIT)
        return self.done({"items": items, "next": following})


def _is_parquet(request: Request, asked: Asked) -> bool:
    return asked.format == "parquet" or (
        asked.format is None and tables.MEDIA_TYPE in request.headers.get("accept", "")
    )


def _parquet(asked: Asked, fetch: Fetch, schema: Any) -> Response:
    """One page, or without a limit everything."""
    following: str | None = None

    def chunks() -> Iterator[Rows]:
        nonlocal following
        left, after = asked.limit or PARQUET_ROWS, asked.cursor
        while left > 0:
            rows, following = fetch(after, min(PARQUET_PAGE, left))
            yield rows
            if following is None:
                return
            left, after = left - min(PARQUET_PAGE, left), following

    table = tables.Table(schema, chunks())
    headers = {**_NO_STORE, "Content-Length": str(table.size_bytes), **({NEXT: following} if following else {})}
    if table.small:
        return Response(b"".join(table.parts()), 200, headers, tables.MEDIA_TYPE)
    return StreamingResponse(table.parts(), 200, headers, tables.MEDIA_TYPE)


def _view(one: queries.View) -> dict[str, Any]:
    """A view's row, with the few things of its specification that tell it from others."""
    spec, counted = one.spec, {name: value for name, value in vars(one).items() if name != "spec"}
    return counted | {
        "encoder": spec["encoder"]["name"],
        "trained": spec["encoder"]["trained"],
        "layout": spec["layout"]["name"],
        "shape": spec["layout"]["shape"],
        "precision": spec["precision"],
        "grid": spec["grid"],
    }


def _cells(part: Coverage) -> Rows:
    """Coverage as one row for each entry."""
    return [
        {
            "patient": row.patient,
            "modality": column.modality,
            "roi": column.roi,
            "number": None if cell == "withdrawn" else cell,
            "withdrawn": cell == "withdrawn",
        }
        for row in part.items
        for column, cell in zip(part.columns, row.cells, strict=True)
        if cell is not None
    ]
