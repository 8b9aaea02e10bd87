"""Snapshots over HTTP: as Zarr, signed for bulk readers, made on the server, and their packs; decides nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from services.access import Reach
from services.audit import Act
from services.errors import Refusal, unprocessable
from services.ranges import Found
from services.requests import BoundedRoute, DirectRoute, Reached, reach_of, request_id, service_of, target
from services.routes.documented import BYTES, ID_PATTERN, PROJECT, REFUSALS, SnapshotId, refusals
from services.routes.objects import served
from services.service import Service
from store_schema import Snapshot
from store_schema.errors import InvalidKeyError, UsageError
from store_schema.keys import EntryKey
from store_schema.packs import Kind, make_pack
from store_schema.snapshot import SNAPSHOT_ID

router = APIRouter(
    prefix="/v1/projects/{project}/snapshots", tags=["snapshots"], responses=REFUSALS, route_class=BoundedRoute
)
direct = APIRouter(
    prefix="/v1/projects/{project}/snapshots", tags=["snapshots"], responses=REFUSALS, route_class=DirectRoute
)
MOST_SIGNED = 1000
_ID = "0" * 64
_TERM = r"^(patient|modality|roi)!?=[A-Za-z0-9*?._\[\]!-]+(,[A-Za-z0-9*?._\[\]!-]+)*$"
_KEY = Annotated[str, Field(max_length=64, pattern=ID_PATTERN)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PinRequest(_Body):
    """What a new snapshot pins."""

    view: str = Field(max_length=81, pattern=ID_PATTERN, examples=["medsam2-0123456789abcdef"])
    keys: list[tuple[_KEY, _KEY, _KEY, Annotated[int, Field(ge=0, le=999_999)] | None]] | None = Field(
        default=None,
        max_length=2_000_000,
        description="Patient, modality, ROI and commit number, null for the current one; all entries of the view by default.",
        examples=[[["MM_001", "PET", "skeleton", None]]],
    )
    where: list[Annotated[str, Field(max_length=1000, pattern=_TERM)]] = Field(
        default_factory=list, max_length=20, examples=[["modality=PET"]]
    )
    base: str | None = Field(
        default=None, max_length=64, description="Snapshot to build on; it changes the work alone."
    )


class Pinned(BaseModel):
    """A snapshot that was made, or was there."""

    id: str = Field(examples=[_ID])
    view: str
    rows: int


class SignRequest(_Body):
    """Zarr names within the snapshot that are to be read from the bucket itself."""

    paths: list[Annotated[str, Field(max_length=500)]] = Field(
        min_length=1, max_length=MOST_SIGNED, examples=[["MM_001/PET/skeleton/memory/c/0/0/0/0"]]
    )


class Signed(BaseModel):
    """Addresses that need no credentials, for a short while."""

    urls: dict[str, str] = Field(examples=[{"MM_001/PET/skeleton/memory/c/0/0/0/0": "https://bucket.example.org/…"}])
    expires_at: datetime = Field(examples=["2026-11-25T12:05:00Z"])


class PackRequest(_Body):
    """Which pack of the snapshot is to be made."""

    kind: Literal["mean_map", "memory"] = Field(examples=["mean_map"])


class Packed(BaseModel):
    """The pack that was made, or was there."""

    kind: str = Field(examples=["mean_map"])
    attempt: str = Field(examples=["0" * 32])
    rows: int = Field(examples=[908])


@router.post("", status_code=201, responses=refusals(409), summary="Make a snapshot on the server.")
def make(request: Request, reach: Reached, body: PinRequest) -> Pinned:
    """Pins entries of one view to commits; the same pins give the same id. Any key of the project may: nothing is changed by it."""
    reach.needs("read", "making a snapshot")
    service = service_of(request)
    store = service.store(reach.project)
    # What was sent may be anything, a patient's id among it: the view is named once it is known to be one.
    target(request, "new snapshot")
    snapshot_id = _made(store.make_snapshot, body)
    snapshot = store.snapshot(snapshot_id)
    _note(service, reach, snapshot, request_id(request))
    return Pinned(id=snapshot_id, view=snapshot.view_id, rows=len(snapshot))


def shown(snapshot_id: str) -> str:
    """How the audit calls a snapshot; what is no id may be anything, a patient's among it."""
    return f"snapshot {snapshot_id}" if SNAPSHOT_ID.fullmatch(snapshot_id) else "snapshot"


def _made(make_snapshot: Any, body: PinRequest) -> str:
    try:
        keys = None if body.keys is None else {EntryKey(*names): number for *names, number in body.keys}
        if keys is not None and body.keys is not None and len(keys) != len(body.keys):
            raise unprocessable("a key stands twice among those to pin: give each once.")
        made: str = make_snapshot(body.view, keys, where=body.where, base=body.base)
    except (InvalidKeyError, UsageError) as error:
        raise unprocessable(str(error)) from None
    return made


def _note(service: Service, reach: Reach, snapshot: Snapshot, asked: str) -> None:
    from services.catalogue import index  # noqa: PLC0415 - the index is written against the service

    act = Act("snapshot", snapshot.id, reach.project, reach.principal)

    def work(session: Any) -> None:
        index.note_snapshot(session, reach.project, snapshot.id, snapshot.view_id, len(snapshot))
        service.audit.write(act, request_id=asked, session=session)

    service.database.run(work)


async def _zarr(request: Request) -> Response:
    reach, service, snapshot_id = await reach_of(request), service_of(request), request.path_params["snapshot"]
    target(request, shown(snapshot_id))
    path = request.scope["path"].removeprefix(f"/v1/projects/{reach.project}/snapshots/{snapshot_id}/zarr/")
    stores = service.held_store(reach.project)
    found = None if stores is None else stores.zarr.held(reach, snapshot_id, path)
    if found is None:
        found = await run_in_threadpool(_zarr_found, service, reach, snapshot_id, path)
    return served(request, service, reach, found)


def _zarr_found(service: Service, reach: Reach, snapshot_id: str, path: str) -> Found:
    stores = service.project_store(reach.project)
    return stores.zarr.find(stores.objects.snapshot(reach, snapshot_id), path)


_ZARR_PARAMETERS: dict[str, Any] = {
    "parameters": [
        PROJECT,
        {"name": "snapshot", "in": "path", "required": True, "schema": {"type": "string"}, "example": _ID},
        {
            "name": "path",
            "in": "path",
            "required": True,
            "schema": {"type": "string"},
            "example": "MM_001/PET/skeleton/memory/zarr.json",
        },
        {"name": "Range", "in": "header", "required": False, "schema": {"type": "string"}, "example": "bytes=0-15"},
    ]
}
for _method in ("GET", "HEAD"):
    direct.add_api_route(
        "/{snapshot}/zarr/{path:path}", _zarr, methods=[_method], name=f"{_method.lower()}_zarr",
        summary="A snapshot as a Zarr v3 hierarchy.", response_class=Response, responses=BYTES, openapi_extra=_ZARR_PARAMETERS,
    )  # fmt: skip


@router.post("/{snapshot}/sign", responses=refusals(501), summary="Sign addresses for a bulk reader on S3.")
def sign(request: Request, reach: Reached, snapshot: SnapshotId, body: SignRequest) -> Signed:
    """Addresses of committed objects in the bucket, for GET alone; they need no credentials and expire within five minutes."""
    service = service_of(request)
    stores = service.project_store(reach.project)
    target(request, shown(snapshot))
    found = stores.objects.snapshot(reach, snapshot)
    places = []
    for path in body.paths:
        commit, within = stores.zarr.committed(found, path)
        places.append(f"{commit.folder}/{within}")
    location = stores.objects.store.location
    try:
        urls = location.sign(places, seconds=service.settings.sign_s)
    except UsageError as error:
        raise Refusal(501, "not_signable", f"{error} Read it through the service.") from None
    expires = datetime.now(UTC) + timedelta(seconds=service.settings.sign_s)
    act = Act("sign", f"snapshot {snapshot}", reach.project, reach.principal)
    service.database.run(
        lambda session: service.audit.write(act, request_id=request_id(request), session=session, requests=len(urls))
    )
    return Signed(urls=dict(zip(body.paths, urls, strict=True)), expires_at=expires)


@router.post("/{snapshot}/packs", status_code=201, summary="Make a pack of a snapshot on the server.")
def pack(request: Request, reach: Reached, snapshot: SnapshotId, body: PackRequest) -> Packed:
    """One array of all entries, which readers fetch in few requests; what is there already is answered at once."""
    reach.needs("write", "making a pack")
    service = service_of(request)
    target(request, shown(snapshot))
    found = service.project_store(reach.project).objects.snapshot(reach, snapshot)
    kind: Kind = body.kind
    made = make_pack(found, kind)
    act = Act("publish", f"pack of {snapshot}", reach.project, reach.principal)
    service.database.run(lambda session: service.audit.write(act, request_id=request_id(request), session=session))
    return Packed(kind=kind, attempt=made.record.attempt, rows=made.record.rows)
