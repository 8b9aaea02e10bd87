"""The page of one entry and its pictures; draws nothing itself.

What may be shown is asked of `services.objects`, as for every other reader of the store.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response

from services import targets
from services.access import Reach
from services.audit import Act
from services.catalogue.coverage import coverage
from services.catalogue.globs import Globs
from services.errors import Refusal, not_found
from services.objects import Objects, not_yours
from services.pages.answers import page, picture, unchanged
from services.pages.entry_facts import array_shape, entry_facts, file_time, is_twin, same_pass, source_name
from services.pages.login import READ
from services.pages.pictures import MAX_VOXELS, Rgb, colour_stops, heat_map, mask_from_sides, png
from services.pages.sessions import PageReach
from services.pages.templating import number_text, path_part
from services.requests import request_id, service_of, target
from store_schema import Store
from store_schema.commits import commit_path, parse_numbered
from store_schema.errors import EntryWithdrawnError, InvalidKeyError, ObjectAlteredError, SchemaError
from store_schema.keys import EntryKey
from store_schema.reader import StoredEntry, read_entry
from store_schema.records import CommitRecord

router = APIRouter(
    prefix="/projects/{project}/views/{view}/entries/{patient}/{modality}/{roi}", include_in_schema=False
)
MOST_COMMITS = 50
"""Of a history that is shown."""
PATIENCE_S = 10.0
_drawing = threading.BoundedSemaphore(2)
"""A mask is the largest thing that a page reads: few are held at once."""


@dataclass(frozen=True)
class Asked:
    """One entry that may be read, at one of its commits."""

    objects: Objects
    reach: Reach
    commit: CommitRecord
    numbers: tuple[int, ...]
    """Of all its commits that may be read, rising."""


def _key(patient: str, modality: str, roi: str) -> EntryKey:
    try:
        return EntryKey(patient, modality, roi)
    except InvalidKeyError as error:
        raise not_found(f"there is no such entry: {error}") from None


def asked(
    request: Request,
    reach: PageReach,
    view: Annotated[str, Path()],
    names: Annotated[EntryKey, Depends(_key)],
    commit: Annotated[int | None, Query(ge=0, le=999_999)] = None,
) -> Asked:
    """The entry of the path, if it may be read.

    Raises
    ------
    Refusal
        403 or 404.
    EntryWithdrawnError
        If it was withdrawn.
    """
    target(request, targets.of_view(view))
    service = service_of(request)
    objects = service.project_store(reach.project).objects
    numbers = _readable(objects, reach, view, names)
    number = numbers[-1] if commit is None else commit
    if number not in numbers:
        raise not_found(f"the entry has no commit {number} that you may read.")
    found = _commit(objects, reach, view, names, number)
    service.audit.count(Act("read", view, reach.project, reach.principal), request_id=request_id(request))
    return Asked(objects, reach, found, numbers)


@dataclass(frozen=True)
class Beside:
    """Another entry of the same patient, or the place where one is missing."""

    modality: str
    roi: str
    at: str | None
    """Address of its page; None where there is none to show."""
    state: str
    here: bool


AskedEntry = Annotated[Asked, Depends(asked)]


@router.api_route("", methods=READ)
def entry_page(request: Request, asked: AskedEntry) -> Response:
    """An entry with its pictures and where it comes from."""
    commit, told = asked.commit, entry_facts(asked.commit)
    drawn = _drawn_by(asked)
    return page(
        request,
        "entry.html.jinja",
        reach=asked.reach,
        commit=commit,
        current=commit.number == asked.numbers[-1],
        told=told,
        drawn=drawn,
        size_bytes=sum(one.size_bytes for one in commit.objects.values()),
        map_range=_map_range(asked),
        history=_history(asked),
        more=max(0, len(asked.numbers) - MOST_COMMITS),
        source_name=source_name,
        file_time=file_time,
        shape=array_shape,
        stops=colour_stops(),
        beside=_beside(request, asked),
    )


@router.api_route("/preview.png", methods=READ)
def preview_picture(request: Request, asked: AskedEntry) -> Response:
    """The preview as the extractor drew it."""
    return _picture(request, asked, "preview", lambda found: found.arrays["preview"])


@router.api_route("/mask.png", methods=READ)
def mask_picture(request: Request, asked: AskedEntry) -> Response:
    """The mask from two sides."""
    told = entry_facts(asked.commit)
    spacing = told.spacing_xyz_mm or (1.0, 1.0, 1.0)
    return _picture(request, asked, "mask", lambda found: mask_from_sides(found.arrays["mask"], spacing, told.boxes))


@router.api_route("/map.png", methods=READ)
def map_picture(request: Request, asked: AskedEntry) -> Response:
    """The memory map in colours, a pixel a value."""
    return _picture(request, asked, "mean_map", lambda found: heat_map(found.arrays["mean_map"]))


def _readable(objects: Objects, reach: Reach, view: str, key: EntryKey) -> tuple[int, ...]:
    """Numbers of the commits that may be read, rising: all of a view, or what granted snapshots pin."""
    if reach.reads_view(view):
        return tuple(range(objects.store.commit(view, key).number + 1))
    pins = {one.row(key).number for one in objects.granted_snapshots(reach) if one.view_id == view and key in one}
    if not pins:
        raise not_yours()
    return tuple(sorted(pins))


def _commit(objects: Objects, reach: Reach, view: str, key: EntryKey, number: int) -> CommitRecord:
    path = commit_path(view, key, number)
    record = parse_numbered(objects.find(reach, path).whole(), path=path)
    if not isinstance(record, CommitRecord):
        raise not_found("that number is no commit.")
    return record


def _beside(request: Request, asked: Asked) -> list[Beside]:
    """What the patient has in this view; nothing for whom not all of it may be read."""
    own, reach = asked.commit, asked.reach
    if not reach.reads_view(own.view):
        return []
    globs = Globs.parse(own.patient, field="patient")
    found = service_of(request).database.read(
        lambda session: coverage(session, reach, own.view, patient=globs, limit=1)
    )
    at = f"/projects/{path_part(reach.project)}/views/{path_part(own.view)}/entries/{path_part(own.patient)}"
    cells = found.items[0].cells if found.items else []
    return [
        Beside(
            column.modality,
            column.roi,
            f"{at}/{path_part(column.modality)}/{path_part(column.roi)}" if isinstance(cell, int) else None,
            "missing" if cell is None else "withdrawn",
            (column.modality, column.roi) == (own.modality, own.roi),
        )
        for column, cell in zip(found.columns, cells, strict=False)
    ]


def _drawn_by(asked: Asked) -> CommitRecord | None:
    """The commit whose mask and preview show this entry: its own, or that of another view of the same pass that may be read."""
    own, store = asked.commit, asked.objects.store
    if "mask" in own.arrays or "preview" in own.arrays:
        return own
    others = [view for view in store.view_ids() if view != own.view and asked.reach.reads_view(view)]
    return next((found for view in others if (found := _twin(store, own, view)) is not None), None)


def _twin(store: Store, own: CommitRecord, view: str) -> CommitRecord | None:
    """The entry of another view, if it is of the same pass and has a mask; one that cannot be read is none."""
    try:
        if not same_pass(store.view(own.view), store.view(view)):
            return None
        found = store.current(view, own.key)
    except (EntryWithdrawnError, ObjectAlteredError, SchemaError):
        return None
    return found if found is not None and "mask" in found.arrays and is_twin(own, found) else None


def _map_range(asked: Asked) -> tuple[str, ...] | None:
    """Lowest, middle and highest value of the memory map; None where the view holds vectors."""
    if "mean_map" not in asked.commit.arrays:
        return None
    values = _read(asked, "mean_map").arrays["mean_map"]
    low, high = float(values.min()), float(values.max())
    return tuple(number_text(value) for value in (low, (low + high) / 2, high))


def _history(asked: Asked) -> list[CommitRecord]:
    """The newest commits that may be read, the last first."""
    own = asked.commit
    numbers = reversed(asked.numbers[-MOST_COMMITS:])
    return [
        own if number == own.number else _commit(asked.objects, asked.reach, own.view, own.key, number)
        for number in numbers
    ]


def _read(asked: Asked, name: str) -> StoredEntry:
    def fetch(commit: CommitRecord, path: str) -> bytes:
        return asked.objects.object(commit, path).whole()

    return read_entry(asked.objects.store.location, asked.commit, arrays=[name], fetch=fetch)


def _picture(request: Request, asked: Asked, name: str, draw: Callable[[StoredEntry], Rgb]) -> Response:
    commit = asked.commit
    if name not in commit.arrays:
        raise not_found(f"commit {commit.number} of this entry has no {name}.")
    tag = f'"{commit.content_sha256[:32]}-{name}"'
    if unchanged(request, tag):
        return picture(None, tag)
    if _voxels(commit, name) > MAX_VOXELS:
        raise not_found(f"the {name} is too large to be drawn here: read it with a Zarr reader.")
    if not _drawing.acquire(timeout=PATIENCE_S):
        raise Refusal(503, "busy", "too many pictures are being drawn: try again in a moment.", {"Retry-After": "2"})
    try:
        return picture(png(draw(_read(asked, name))), tag)
    finally:
        _drawing.release()


def _voxels(commit: CommitRecord, name: str) -> int:
    return math.prod(array_shape(commit, name) or (MAX_VOXELS + 1,))
