"""Searches entries page by page: rows of views that may be read as a whole, then what single granted snapshots pin; no HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from sqlalchemy import select, tuple_

from services.access import Reach
from services.catalogue.cursors import Page, cursor, read_cursor
from services.catalogue.notes import entry_row
from services.catalogue.queries import ENTRY_COLUMNS, NAME_COLUMNS, Entry, EntryFilter, Names, entries, entry_of
from services.database.models import EntryRow
from services.service import Service
from store_schema import Snapshot, SnapshotRow
from store_schema.parallel import each

AT_ONCE = 500
"""Pins that are looked up together."""
_KINDS = {"entry": 4, "pin": 5}


def search(service: Service, reach: Reach, wanted: EntryFilter, *, after: str | None = None, limit: int) -> Page[Entry]:
    """A page of the entries that pass and may be read.

    Of a snapshot that was granted alone, each entry is as the snapshot pins it; one that names withdrawn entries shows nothing.

    Raises
    ------
    Refusal
        422, if the cursor is none of this list.
    StoreError
        If a pinned commit cannot be read.
    """
    kind, key = ("entry", None) if after is None else read_cursor(after, _KINDS)
    found: list[Entry] = []
    if kind == "entry":
        found = service.database.read(
            lambda session: entries(session, reach, wanted, after=None if key is None else tuple(key), most=limit + 1)
        )
    if len(found) > limit:
        return Page(found[:limit], cursor("entry", *found[limit - 1].names))
    rows = len(found)
    found += islice(_pinned(service, reach, wanted, key if kind == "pin" else None), limit + 1 - rows)
    if len(found) <= limit:
        return Page(found)
    # Where the last one shown is a row, the next page finds no more rows and begins with the pins.
    last = found[limit - 1]
    following = cursor("entry", *last.names) if limit <= rows else cursor("pin", *last.names, _digits(last.number))
    return Page(found[:limit], following)


def _pinned(service: Service, reach: Reach, wanted: EntryFilter, after: Sequence[str] | None) -> Iterator[Entry]:
    """What granted snapshots pin of views that were not granted, sorted; an entry once for each commit."""
    if reach.own or not reach.snapshots:
        return
    opened = service.project_store(reach.project).objects.granted_snapshots(reach)
    pins = {
        (*_names(one, row), _digits(row.number)): (one, row)
        for one in opened
        if not reach.reads_view(one.view_id)
        for row in one.rows
        if wanted.matches_names(_names(one, row))
    }
    waiting = iter([pins[key] for key in sorted(pins) if after is None or key > tuple(after)])
    while chunk := list(islice(waiting, AT_ONCE)):
        yield from (entry for entry in _entries(service, reach, chunk) if wanted.matches(entry))


def _names(snapshot: Snapshot, row: SnapshotRow) -> Names:
    return snapshot.view_id, row.key.patient, row.key.modality, row.key.roi


def _digits(number: int) -> str:
    """A number of a commit as text that sorts as it does."""
    return f"{number:06d}"


def _entries(service: Service, reach: Reach, pins: Sequence[tuple[Snapshot, SnapshotRow]]) -> Iterator[Entry]:
    """Entries as they are pinned: from their row where that is of the same commit, else from the commit itself."""
    names = [_names(*pin) for pin in pins]
    chosen = select(*ENTRY_COLUMNS).where(EntryRow.project == reach.project, tuple_(*NAME_COLUMNS).in_(names))
    held = {row[:4]: row for row in service.database.read(lambda session: session.execute(chosen).all())}

    def entry(pin: tuple[Snapshot, SnapshotRow]) -> Entry:
        snapshot, row = pin
        there = held.get(_names(snapshot, row))
        if there is not None and there.commit_sha256 == row.commit_sha256:
            return entry_of(there)
        made = entry_row(reach.project, snapshot.commit(row.key), row.commit_sha256)
        return entry_of([made[column.key] for column in ENTRY_COLUMNS])

    yield from each(entry, pins, parallel=service.store(reach.project).location.parallel)
