"""Makes the rows of views, snapshots and runs agree with a store; knows no entry.

These are few: each kind is compared as a whole. The rows are read first, then the store is listed, so that the listing is never
older.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.catalogue.notes import Row, put, put_new, remove, snapshot_row, view_row
from services.catalogue.place import Place
from services.catalogue.run_summary import KEPT, MAX_RECORD_BYTES, RunFacts, run_facts
from services.catalogue.tally import Problem, Tally, tried
from services.database.models import Base, EntryRow, RunRow, SnapshotEntry, ViewRow
from store_schema.commits import read_or_none
from store_schema.errors import BackendError, InvalidKeyError, SchemaError
from store_schema.keys import check_id, is_id
from store_schema.parallel import each
from store_schema.scan import is_view_id
from store_schema.snapshot import MARKERS, SNAPSHOT_ID, SUFFIX, read_list
from store_schema.views import read_view

TRIES = 8
"""Times that a run is looked at anew because somebody else wrote its row meanwhile."""
SNAPSHOTS_AT_ONCE = 32
"""Rows of snapshots that are written together."""


def _ids(place: Place, model: Any, *columns: Any) -> dict[str, Any]:
    """Rows of a project by id."""
    chosen = select(model.id, *columns).where(model.project == place.project)
    rows = place.database.read(lambda session: session.execute(chosen).all())
    return {row[0]: row[1] if columns else None for row in rows}


def _remove(place: Place, model: type[Base], ids: set[str], tally: Tally) -> None:
    """Removes rows of what is not in the store any more."""
    if not ids:
        return
    place.check_there()
    keys: list[Row] = [{"project": place.project, "id": one} for one in sorted(ids)]
    tally.removed += place.database.run(lambda session: remove(session, model, keys))


# Views


def index_views(place: Place, tally: Tally) -> list[str]:
    """Makes the rows of views agree, and gives every view that may have entries, in the store or in rows."""
    held = _ids(place, ViewRow)
    of_entries = select(EntryRow.view).distinct().where(EntryRow.project == place.project)
    with_rows = place.database.read(lambda session: set(session.scalars(of_entries)))
    names = place.location.children("views")
    listed = {name.removesuffix(".json") for name in names if name.endswith(".json") and is_view_id(name[:-5])}
    with_commits = {name for name in place.location.children("commits") if is_view_id(name)}
    # Commits of a view without a specification are as damaged as a specification that is no view's.
    for _ in range(len(names) - len(listed) + len(with_commits - listed)):
        tally.count("views", "damaged")
    rows = []
    for row, problem in each(partial(_view, place), sorted(listed - held.keys()), parallel=place.location.parallel):
        tally.count("views", problem)
        rows += [] if row is None else [row]
    tally.written += place.database.run(lambda session: put_new(session, ViewRow, rows)) if rows else 0
    _remove(place, ViewRow, held.keys() - listed, tally)
    tally.found["views"] = len(listed)
    return sorted(listed | with_commits | with_rows)


def _view(place: Place, view_id: str) -> tuple[Row | None, Problem | None]:
    return tried(lambda: view_row(place.project, read_view(place.location, view_id)))


# Snapshots


def index_snapshots(place: Place, tally: Tally) -> None:
    """Makes the rows of snapshots agree; those that are new are read, one at a time, since one may be large."""
    held = _ids(place, SnapshotEntry, SnapshotEntry.written_at)
    listed = _snapshots(place, tally)
    rows: list[Row] = []
    for snapshot_id, written_at in sorted(listed.items()):
        if snapshot_id not in held:
            row, problem = tried(partial(_snapshot, place, snapshot_id, written_at))
            tally.count("snapshots", problem)
            rows += [] if row is None else [row]
            tally.tell()
        if len(rows) >= SNAPSHOTS_AT_ONCE:
            _put_snapshots(place, rows, tally)
            rows = []
    _put_snapshots(place, rows, tally)
    _date(place, {name: listed[name] for name, at in held.items() if name in listed and at != listed[name]}, tally)
    _remove(place, SnapshotEntry, held.keys() - listed.keys(), tally)
    tally.found["snapshots"] = len(listed)


def _snapshots(place: Place, tally: Tally) -> dict[str, datetime]:
    """When each snapshot of the store was written, by the server's clock."""
    found = {}
    for one in place.location.objects("snapshots"):
        name = one.path.removeprefix("snapshots/").removesuffix(SUFFIX)
        if SNAPSHOT_ID.fullmatch(name) and one.path.endswith(SUFFIX):
            found[name] = one.modified
        elif not one.path.startswith(f"{MARKERS}/"):
            tally.count("snapshots", "damaged")
    return found


def _snapshot(place: Place, snapshot_id: str, written_at: datetime) -> Row:
    header = read_list(place.location, snapshot_id).header
    if header.store_id != place.store.store_id:
        raise SchemaError(f"snapshot {snapshot_id[:16]}… was made in store {header.store_id}.")
    return snapshot_row(place.project, snapshot_id, header.view, header.rows, written_at)


def _put_snapshots(place: Place, rows: list[Row], tally: Tally) -> None:
    if rows:
        place.database.run(lambda session: put(session, SnapshotEntry, rows))
        tally.written += len(rows)


def _date(place: Place, written: Mapping[str, datetime], tally: Tally) -> None:
    """Gives rows the time that the store tells."""

    def work(session: Session) -> None:
        for snapshot_id, written_at in written.items():
            row = session.get(SnapshotEntry, (place.project, snapshot_id))
            if row is not None:
                row.written_at = written_at

    if written:
        place.database.run(work)
        tally.written += len(written)


# Runs


def index_runs(place: Place, tally: Tally) -> None:
    """Makes the rows of runs agree; those that have other records than their row says are read."""
    held = _ids(place, RunRow, RunRow.summary)
    listed = _runs(place, tally)
    for run_id in sorted(listed.keys() | held.keys()):
        names = None if run_id not in held else held[run_id].get("records")
        if names != (sorted(listed[run_id]) if run_id in listed else None):
            _, problem = tried(partial(refresh_run, place, run_id, tally))
            # What a damaged record of a run is counted by stands in its row.
            if problem is not None:
                tally.count("runs", problem)
            tally.tell()
    damaged = sum(len(one.get("damaged", ())) for one in _ids(place, RunRow, RunRow.summary).values())
    tally.damaged.update({"runs": damaged} if damaged else {})
    tally.found["runs"] = len(listed)


def _runs(place: Place, tally: Tally) -> dict[str, list[str]]:
    """Names of the records of each run."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in place.location.paths("runs"):
        run_id, _, name = path.removeprefix("runs/").partition("/")
        try:
            found[check_id("run", run_id)].append(check_id("record", name))
        except InvalidKeyError:
            tally.count("runs", "damaged")
    return dict(found)


def refresh_run(place: Place, run_id: str, tally: Tally) -> None:
    """Makes the row of one run agree with its records as they are now, whoever else does so at the same time.

    Raises
    ------
    BackendError
        If a record cannot be read, or the row was changed again and again meanwhile.
    """
    for _ in range(TRIES):
        # The row first: if it is still the same when it is written, what was read of the store is not older than it.
        seen = place.database.read(lambda session: session.scalar(_summary(place, run_id)))
        facts = _facts(place, run_id)
        if facts is None:
            place.check_there()
        changed = place.database.run(partial(_swap, place, run_id, seen, facts))
        if changed is not None:
            tally.read += 1
            tally.written += changed
            tally.removed += facts is None
            return
    raise BackendError(f"the row of run {run_id} was changed {TRIES} times meanwhile: it is looked at again later.")


def _summary(place: Place, run_id: str) -> Any:
    return select(RunRow.summary).where(RunRow.project == place.project, RunRow.id == run_id)


def _facts(place: Place, run_id: str) -> RunFacts | None:
    """What a run's records say; None where it has none."""
    prefix = f"runs/{run_id}"
    sizes = {one.path.removeprefix(f"{prefix}/"): one.size_bytes for one in place.location.objects(prefix)}
    names = [name for name in sizes if "/" not in name and is_id(name)]
    if not names:
        return None
    contents = {
        name: read_or_none(place.location, f"{prefix}/{name}") if sizes[name] <= MAX_RECORD_BYTES else None
        for name in KEPT
        if name in sizes
    }
    return run_facts(names, contents)


def _swap(place: Place, run_id: str, seen: Any, facts: RunFacts | None, session: Session) -> int | None:
    """Rows written, if the row is still the one that was seen; else None."""
    held = session.scalar(_summary(place, run_id).with_for_update())
    if held != seen:
        return None
    row = {"project": place.project, "id": run_id}
    if facts is None:
        remove(session, RunRow, [row])
        return 0
    row |= asdict(facts)
    if held is None:
        return put_new(session, RunRow, [row]) or None
    put(session, RunRow, [row])
    return 1
