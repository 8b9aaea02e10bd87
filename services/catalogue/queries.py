"""What the catalogue answers, from its rows alone and within what may be read; knows no store and no HTTP.

Lists are read by the key of the last item: a page costs the same wherever it is, and rows that come and go meanwhile neither repeat
others nor hide them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Select, and_, false, func, not_, or_, select, true, tuple_
from sqlalchemy.orm import Session

from services.access import Reach
from services.catalogue.cursors import Page, cursor, no_cursor, page_of, read_cursor
from services.catalogue.globs import Globs
from services.catalogue.notes import UNKNOWN_TIME, moment
from services.database.models import EntryRow, RunRow, SnapshotEntry, ViewRow
from services.errors import forbidden, not_found, unprocessable
from store_schema.scan import is_view_id
from store_schema.snapshot import SNAPSHOT_ID

State = Literal["live", "withdrawn", "all"]
type Names = tuple[str, str, str, str]
"""View, patient, modality and ROI of an entry."""
NAME_COLUMNS = (EntryRow.view, EntryRow.patient, EntryRow.modality, EntryRow.roi)
_EARLIEST, _LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(9998, 1, 1, tzinfo=UTC)


# Entries


@dataclass(frozen=True)
class Entry:
    """The current commit of an entry, or the one that a granted snapshot pins, or the tombstone that ended it."""

    view: str
    patient: str
    modality: str
    roi: str
    number: int
    withdrawn: bool
    commit_sha256: str
    attempt: str | None
    input_sha256: str | None
    content_sha256: str | None
    size_bytes: int
    written_at: datetime | None
    """By the writer's clock; None where it told nothing that can be read."""

    @property
    def names(self) -> Names:
        """What it is called, which is also its place in the list of all."""
        return self.view, self.patient, self.modality, self.roi


ENTRY_COLUMNS = [getattr(EntryRow, field.name) for field in fields(Entry)]


@dataclass(frozen=True)
class EntryFilter:
    """Which entries are asked for; everything by default that was not withdrawn."""

    view: Globs | None = None
    patient: Globs | None = None
    modality: Globs | None = None
    roi: Globs | None = None
    since: datetime | None = None
    """Written at this moment or later,"""
    until: datetime | None = None
    """and before this one."""
    state: State = "live"

    @classmethod
    def parse(
        cls, *, since: datetime | None = None, until: datetime | None = None, state: State = "live", **globs: str | None
    ) -> EntryFilter:
        """A filter from what a person wrote; an empty text asks for nothing.

        Raises
        ------
        Refusal
            422, if a text is no filter.
        """
        parsed = {field: Globs.parse(text, field=field) for field, text in globs.items() if text}
        return cls(since=_bound(since), until=_bound(until), state=state, **parsed)

    def conditions(self, dialect: str) -> list[Any]:
        """On the columns of `EntryRow`."""
        asked = zip(self._globs, NAME_COLUMNS, strict=True)
        found: list[Any] = [glob.condition(column, dialect) for glob, column in asked if glob is not None]
        if self.since is not None:
            found.append(EntryRow.written_at >= self.since)
        if self.until is not None:
            found.append(EntryRow.written_at < self.until)
        if self.state != "all":
            found.append(EntryRow.withdrawn if self.state == "withdrawn" else not_(EntryRow.withdrawn))
        return found

    def matches_names(self, names: Names) -> bool:
        """Whether the names pass, so that what they name is worth being looked up."""
        return all(glob is None or glob.matches(name) for glob, name in zip(self._globs, names, strict=True))

    def matches(self, entry: Entry) -> bool:
        """The same as the conditions, of an entry that is no row."""
        written_at = entry.written_at or UNKNOWN_TIME
        return (
            self.matches_names(entry.names)
            and (self.since is None or written_at >= self.since)
            and (self.until is None or written_at < self.until)
            and (self.state == "all" or entry.withdrawn == (self.state == "withdrawn"))
        )

    @property
    def _globs(self) -> tuple[Globs | None, ...]:
        return self.view, self.patient, self.modality, self.roi


def _bound(at: datetime | None) -> datetime | None:
    """A moment in UTC that every database can compare with; without a zone it is taken to be in UTC."""
    if at is None:
        return None
    try:
        found = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except OverflowError:
        found = _EARLIEST if at.year < 1900 else _LATEST
    return min(max(found, _EARLIEST), _LATEST)


def entries(
    session: Session, reach: Reach, wanted: EntryFilter, *, after: tuple[str, ...] | None = None, most: int
) -> list[Entry]:
    """The entries that pass, of all views that may be read as a whole, sorted by view, patient, modality and ROI.

    Parameters
    ----------
    after
        View, patient, modality and ROI of the entry before the first.
    """
    chosen = select(*ENTRY_COLUMNS).where(
        EntryRow.project == reach.project, _of_views(reach, EntryRow.view), *wanted.conditions(dialect_of(session))
    )
    if after is not None:
        chosen = chosen.where(tuple_(*NAME_COLUMNS) > tuple_(*after))
    return [entry_of(row) for row in session.execute(chosen.order_by(*NAME_COLUMNS).limit(most))]


def entry_of(values: Sequence[Any]) -> Entry:
    """An entry from the values of `ENTRY_COLUMNS`."""
    *others, written_at = values
    return Entry(*others, None if written_at == UNKNOWN_TIME else written_at)  # type: ignore[call-arg]  # as many as columns


def dialect_of(session: Session) -> str:
    """SQLAlchemy's name of the database."""
    return str(session.get_bind().dialect.name)


def _of_views(reach: Reach, column: Any) -> Any:
    """That a row is of a view that may be read as a whole."""
    return true() if reach.own else column.in_(sorted(reach.views)) if reach.views else false()


# Views


@dataclass(frozen=True)
class View:
    """A view and what the store holds of it."""

    id: str
    name: str
    spec: dict[str, Any]
    entries: int
    """That were not withdrawn, as everything that follows but `withdrawn`."""
    patients: int
    withdrawn: int
    size_bytes: int
    written_at: datetime | None
    """When the last of them was written."""


def views(session: Session, reach: Reach, *, after: str | None = None, limit: int) -> Page[View]:
    """Views that may be read as a whole, by id, with what they hold.

    Raises
    ------
    Refusal
        422, if the cursor is none of this list.
    """
    chosen = select(ViewRow).where(ViewRow.project == reach.project, _of_views(reach, ViewRow.id))
    if after is not None:
        chosen = chosen.where(ViewRow.id > read_cursor(after, {"view": 1})[1][0])
    rows = session.scalars(chosen.order_by(ViewRow.id).limit(limit + 1)).all()
    counts = _counts(session, reach.project, [row.id for row in rows[:limit]])
    return page_of(rows, limit, lambda row: cursor("view", row.id), lambda row: _view(row, counts.get(row.id)))


def view(session: Session, reach: Reach, view_id: str) -> View:
    """One view.

    Raises
    ------
    Refusal
        403, if it may not be read as a whole; 404, if the store has none of that id.
    """
    check_view(reach, view_id)
    row = session.get(ViewRow, (reach.project, view_id))
    if row is None:
        raise not_found(f"there is no view {view_id}.")
    return _view(row, _counts(session, reach.project, [view_id]).get(view_id))


def check_view(reach: Reach, view_id: str) -> None:
    """Passes where all of a view may be read, whether it is there or not.

    Raises
    ------
    Refusal
        403; 404, if nothing can have that id.
    """
    if not reach.reads_view(view_id):
        raise forbidden("this view was not granted.")
    if not is_view_id(view_id):
        raise not_found("there is no view of that id.")


def _counts(session: Session, project: str, view_ids: list[str]) -> dict[str, tuple[Any, ...]]:
    """What views hold, by id."""
    live = not_(EntryRow.withdrawn)
    chosen = (
        select(
            EntryRow.view,
            func.count().filter(live),
            func.count(EntryRow.patient.distinct()).filter(live),
            func.count().filter(EntryRow.withdrawn),
            func.coalesce(func.sum(EntryRow.size_bytes).filter(live), 0),
            func.max(EntryRow.written_at).filter(live),
        )
        .where(EntryRow.project == project, EntryRow.view.in_(view_ids))
        .group_by(EntryRow.view)
    )
    return {view_id: tuple(found) for view_id, *found in session.execute(chosen)}


def _view(row: ViewRow, counts: tuple[Any, ...] | None) -> View:
    entries, patients, withdrawn, size_bytes, written_at = counts or (0, 0, 0, 0, None)
    written_at = None if written_at == UNKNOWN_TIME else written_at
    return View(row.id, row.name, row.spec, entries, patients, withdrawn, int(size_bytes), written_at)


# Snapshots


def snapshots(
    session: Session, reach: Reach, *, view_id: str | None = None, after: str | None = None, limit: int
) -> Page[SnapshotEntry]:
    """Snapshots that may be read, the last written first.

    Raises
    ------
    Refusal
        422, if the cursor is none of this list.
    """
    granted = SnapshotEntry.id.in_(sorted(reach.snapshots)) if reach.snapshots else false()
    chosen = select(SnapshotEntry).where(
        SnapshotEntry.project == reach.project, or_(_of_views(reach, SnapshotEntry.view), granted)
    )
    if view_id:
        if not is_view_id(view_id):
            raise unprocessable("view is no view's id: expected the id of one, without globs.")
        chosen = chosen.where(SnapshotEntry.view == view_id)
    rows = _latest(session, chosen, SnapshotEntry, SnapshotEntry.written_at, after=after, most=limit + 1)
    return page_of(rows, limit, lambda row: _latest_cursor(row, row.written_at), lambda row: row)


def snapshot(session: Session, reach: Reach, snapshot_id: str) -> SnapshotEntry | None:
    """The row of a snapshot that may be read; None where there is none."""
    row = session.get(SnapshotEntry, (reach.project, snapshot_id)) if SNAPSHOT_ID.fullmatch(snapshot_id) else None
    return row if row is not None and reach.reads_snapshot(row.id, row.view) else None


def _latest(session: Session, chosen: Select[Any], model: Any, at: Any, *, after: str | None, most: int) -> list[Any]:
    """Rows from the latest on; those without a time come last."""
    when = func.coalesce(at, UNKNOWN_TIME, type_=at.type)
    if after is not None:
        _, (text, last) = read_cursor(after, {model.__tablename__: 2})
        known = moment(text)
        if known is None:
            raise no_cursor()
        chosen = chosen.where(or_(when < known, and_(when == known, model.id > last)))
    return list(session.scalars(chosen.order_by(when.desc(), model.id).limit(most)))


def _latest_cursor(row: Any, at: datetime | None) -> str:
    return cursor(row.__tablename__, (at or UNKNOWN_TIME).isoformat(), row.id)


# Runs


def runs(
    session: Session, reach: Reach, *, kind: str | None = None, after: str | None = None, limit: int
) -> Page[RunRow]:
    """Runs of the own project, the last begun first.

    Raises
    ------
    Refusal
        403, if the project is another one; 422, if the cursor is none of this list.
    """
    reach.needs("read", "reading runs")
    chosen = select(RunRow).where(RunRow.project == reach.project)
    if kind:
        chosen = chosen.where(RunRow.kind == kind)
    rows = _latest(session, chosen, RunRow, RunRow.started_at, after=after, most=limit + 1)
    return page_of(rows, limit, lambda row: _latest_cursor(row, row.started_at), lambda row: row)


def run(session: Session, reach: Reach, run_id: str) -> RunRow:
    """One run of the own project.

    Raises
    ------
    Refusal
        403, if the project is another one; 404, if there is none of that id.
    """
    reach.needs("read", "reading runs")
    row = session.get(RunRow, (reach.project, run_id)) if is_view_id(run_id) else None
    if row is None:
        raise not_found("there is no run of that id.")
    return row
