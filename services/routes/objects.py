"""The store of a project by the paths of the store itself: reading, listing, publishing; decides nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from services.access import Reach
from services.audit import Act
from services.errors import unprocessable
from services.listing import listed
from services.publishing import Published, missing_precondition
from services.ranges import Found, Large, answer
from services.requests import DirectRoute, Reached, body_of, reach_of, request_id, service_of, target
from services.routes.documented import BYTES, LINES, PROJECT, REFUSALS, WRITTEN
from services.service import Service
from store_schema.records import CommitRecord, ViewSpec, sha256

router = APIRouter(prefix="/v1/projects/{project}", tags=["store"], responses=REFUSALS)
direct = APIRouter(
    prefix="/v1/projects/{project}", tags=["store"], responses=REFUSALS, route_class=DirectRoute, include_in_schema=True
)
"""Objects; their names are below those of the other routes, so they come first."""
MOST_RECORD_BYTES = 16 * 2**20
"""Of a commit or a view's specification."""


async def _read(request: Request) -> Response:
    reach, service, path = await reach_of(request), service_of(request), _below(request)
    stores = service.held_store(reach.project)
    found = None if stores is None else stores.objects.held(reach, path)
    if found is None:
        found = await run_in_threadpool(lambda: service.project_store(reach.project).objects.find(reach, path))
    if isinstance(found.data, Large):
        return await run_in_threadpool(served, request, service, reach, found)
    return served(request, service, reach, found)


def served(request: Request, service: Service, reach: Reach, found: Found) -> Response:
    """The answer that gives an object, or part of it; it is counted for the audit."""
    target(request, found.target)
    response = answer(found, request.headers, head=request.method == "HEAD")
    act = Act("read", found.target, reach.project, reach.principal)
    service.audit.count(act, request_id=request_id(request), size_bytes=len(response.body))
    return response


async def _write(request: Request) -> Response:
    reach, service, path = await reach_of(request), service_of(request), _below(request)
    reach.needs("write", "publishing")
    refusal = missing_precondition(request.headers)
    if refusal is not None:
        raise refusal
    most = service.settings.max_object_bytes
    if path.startswith(("commits/", "views/")):
        most = min(most, MOST_RECORD_BYTES)
    data = await body_of(request, most)
    if not data:
        raise unprocessable("the body is empty: an object has at least one byte.")
    published = await run_in_threadpool(lambda: service.project_store(reach.project).publishing.put(reach, path, data))
    target(request, published.target)
    await run_in_threadpool(partial(_note, service, reach, published, data, request_id(request)))
    return Response(status_code=201 if published.created else 200, headers={"ETag": f'"{sha256(data)}"'})


def _note(service: Service, reach: Reach, published: Published, data: bytes, asked: str) -> None:
    """Tells the catalogue what is new, and the audit who brought it."""
    from services.catalogue import index  # noqa: PLC0415 - the index is written against the service

    act = Act("publish", published.target, reach.project, reach.principal)
    if published.kind == "object":
        service.audit.count(act, request_id=asked, size_bytes=len(data))
        return

    def work(session: Any) -> None:
        record = published.record
        if isinstance(record, CommitRecord):
            index.note_commit(session, reach.project, record, sha256(data))
        elif isinstance(record, ViewSpec):
            index.note_view(session, reach.project, record)
        # Also where the bytes were there: the answer to the first try may have been lost before its row was written.
        service.audit.write(act, request_id=asked, session=session)

    service.database.run(work)
    if published.kind == "run":
        index.note_run(service, reach.project, published.target.removeprefix("run "))


def _object_route(path: str, name: str, summary: str, *, written: bool) -> None:
    """Routes of one kind of object: reading, and writing where it is published over HTTP."""
    for method in ("GET", "HEAD"):
        direct.add_api_route(
            path, _read, methods=[method], name=f"{method.lower()}_{name}", summary=f"{summary}.",
            response_class=Response, responses=BYTES, openapi_extra=_parameters(path),
        )  # fmt: skip
    if not written:
        return

    body = {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
    direct.add_api_route(
        path, _write, methods=["PUT"], name=f"put_{name}", summary=f"Create: {summary.lower()}.",
        response_class=Response, status_code=201, responses=WRITTEN,
        openapi_extra={**_parameters(path, precondition=True), "requestBody": body},
    )  # fmt: skip


def _below(request: Request) -> str:
    """The path within the store, as it was sent and decoded once."""
    project = request.path_params["project"]
    path: str = request.scope["path"]
    return path.removeprefix(f"/v1/projects/{project}/")


def _parameters(path: str, *, precondition: bool = False) -> dict[str, Any]:
    """OpenAPI's description of the names in a path, which the function takes from the request."""
    examples = {
        "view": "medsam2-0123456789abcdef", "patient": "MM_001", "modality": "PET", "roi": "skeleton", "number": "000000",
        "attempt": "0" * 32, "object": "memory/c/0/0/0/0", "snapshot": "0" * 64, "pack": f"{'0' * 64}-mean_map", "run": "cv-1",
        "record": "trainer.json",
    }  # fmt: skip
    names = [part.partition(":")[0] for part in _names(path)]
    found: list[dict[str, Any]] = [PROJECT]
    found += [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "example": examples[name]}
        for name in names
    ]
    if precondition:
        schema = {"type": "string", "enum": ["*"]}
        found.append({"name": "If-None-Match", "in": "header", "required": True, "schema": schema})
    else:
        for header, example in (("Range", "bytes=-16"), ("If-None-Match", '"abc"')):
            found.append(
                {"name": header, "in": "header", "required": False, "schema": {"type": "string"}, "example": example}
            )
    return {"parameters": found}


def _names(path: str) -> Iterator[str]:
    for part in path.split("{")[1:]:
        yield part.partition("}")[0]


_FOLDER = "^(|(views|commits|data|snapshots|packs|withdrawn|runs)(/[A-Za-z0-9]+([._-][A-Za-z0-9]+)*)*)$"
_ENTRY = "{view}/{patient}/{modality}/{roi}"
for _path, _name, _summary, _written in (
    ("/engram.json", "root", "The record that makes the place a store", False),
    ("/views/{view}.json", "view_spec", "A view's frozen specification", True),
    (f"/commits/{_ENTRY}/{{number}}.json", "commit", "One commit of an entry", True),
    (f"/data/{_ENTRY}/{{attempt}}/{{object:path}}", "data", "An object of a committed attempt", True),
    ("/snapshots/{snapshot}.jsonl.zst", "snapshot_list", "A snapshot as it is stored", False),
    ("/packs/{pack}/{object:path}", "pack", "An object of a snapshot's pack", False),
    ("/withdrawn/{view}/{number}.json", "withdrawn", "The withdrawn entries of a view", False),
    ("/runs/{run}/{record}", "run_record", "A record of a run", True),
):
    _object_route(_path, _name, _summary, written=_written)


@router.get("/objects", response_class=StreamingResponse, responses=LINES, summary="Names below a folder of the store.")
def list_objects(
    request: Request,
    reach: Reached,
    prefix: Annotated[str, Query(max_length=400, pattern=_FOLDER, examples=["commits/medsam2-0123456789abcdef"])] = "",
    delimiter: Annotated[bool, Query(description="Only the names directly below.")] = False,
) -> StreamingResponse:
    """Committed objects as JSON lines: path, size_bytes, modified; with `delimiter` names. The last line is {"end": COUNT}.

    Without a prefix the folders themselves are named. Of `data` only attempts that a commit names are listed. Those who were
    granted a view or snapshot see what they may read.
    """
    service = service_of(request)
    rows = listed(service.project_store(reach.project).objects, reach, prefix, names_only=delimiter or not prefix)
    listing = f"list {prefix.partition('/')[0]}"
    target(request, listing)
    act = Act("read", listing, reach.project, reach.principal)
    service.audit.count(act, request_id=request_id(request))
    return StreamingResponse(_lines(rows), media_type="application/jsonl", headers={"Cache-Control": "no-store"})


def _lines(rows: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """Rows as lines, many at a time; without the last line a listing was cut."""
    count, held = 0, bytearray()
    for row in rows:
        held += json.dumps(row, separators=(",", ":")).encode() + b"\n"
        count += 1
        if len(held) > 64 * 2**10:
            yield bytes(held)
            held.clear()
    held += json.dumps({"end": count}).encode() + b"\n"
    yield bytes(held)
