"""Rows of the catalogue from the records of a store, written so that an older row never replaces a newer one; reads no store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import Table, and_, not_, or_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from services.database.models import Base, EntryRow, SnapshotEntry, ViewRow
from store_schema.commits import Numbered
from store_schema.keys import EntryKey
from store_schema.records import CommitRecord, ViewSpec

Row = dict[str, Any]
UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)
"""Stands for the time of an entry whose writer told none that can be read."""
UNKNOWN_SHA256 = "0" * 64
_YEARS = range(1900, 9999)
"""Beyond these a database or a time zone may not hold the moment."""
_MOST_BYTES = 2**63 - 1


def table_of(model: type[Base]) -> Table:
    """The table behind a class."""
    return cast(Table, model.__table__)


def inserting(session: Session, model: type[Base]) -> sqlite.Insert | postgresql.Insert:
    """An insert that knows what to do where the row is there already."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    return insert(table_of(model))


def moment(text: object) -> datetime | None:
    """A time that a writer's clock told in ISO 8601, in UTC; None where it is none."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return found if found.year in _YEARS else None


# Entries


def entry_row(project: str, record: Numbered, commit_sha256: str) -> Row:
    """The row of an entry whose current record this is, commit or tombstone."""
    row = ended_row(project, record.view, record.key, record.number)
    row |= {"commit_sha256": commit_sha256, "written_at": moment(record.written_at) or UNKNOWN_TIME}
    if isinstance(record, CommitRecord):
        size_bytes = min(_MOST_BYTES, sum(one.size_bytes for one in record.objects.values()))
        row |= {
            "withdrawn": False,
            "attempt": record.attempt,
            "input_sha256": record.input_sha256,
            "content_sha256": record.content_sha256,
            "size_bytes": size_bytes,
        }
    return row


def entry_key(project: str, view: str, key: EntryKey) -> Row:
    """What finds the row of an entry."""
    return {"project": project, "view": view, "patient": key.patient, "modality": key.modality, "roi": key.roi}


def ended_row(project: str, view: str, key: EntryKey, number: int) -> Row:
    """The row of a withdrawn entry of which nothing else is known."""
    return {
        **entry_key(project, view, key),
        "number": number,
        "withdrawn": True,
        "commit_sha256": UNKNOWN_SHA256,
        "attempt": None,
        "input_sha256": None,
        "content_sha256": None,
        "size_bytes": 0,
        "written_at": UNKNOWN_TIME,
    }


def put_entries(session: Session, rows: Sequence[Row]) -> None:
    """Writes rows of entries where none is there, or an older one: a higher number wins, and a withdrawal wins over all numbers."""
    if not rows:
        return
    insert = inserting(session, EntryRow)
    new, held = insert.excluded, table_of(EntryRow).c
    newer = or_(
        and_(new.withdrawn, not_(held.withdrawn)),
        and_(new.withdrawn == held.withdrawn, new.number >= held.number),
    )
    # In one order: two writers that lock the same rows wait for each other, and never in a circle.
    ordered = sorted(rows, key=lambda row: (row["view"], row["patient"], row["modality"], row["roi"]))
    session.execute(_replacing(insert, EntryRow, newer), ordered)


def note_commit(session: Session, project: str, commit: Numbered, commit_sha256: str) -> None:
    """Tells the catalogue of a commit or tombstone that was just written; an older one than it knows changes nothing.

    Parameters
    ----------
    commit_sha256
        Digest of the record's bytes.
    """
    put_entries(session, [entry_row(project, commit, commit_sha256)])


# Views and snapshots


def view_row(project: str, view: ViewSpec) -> Row:
    """The row of a view."""
    return {"project": project, "id": view.view_id, "name": view.name, "spec": json.loads(view.to_bytes())}


def note_view(session: Session, project: str, view: ViewSpec) -> None:
    """Tells the catalogue of a view; one that it knows is the same, since a specification gives its own id."""
    put_new(session, ViewRow, [view_row(project, view)])


def snapshot_row(project: str, snapshot_id: str, view: str, rows: int, written_at: datetime) -> Row:
    """The row of a snapshot of so many entries."""
    return {"project": project, "id": snapshot_id, "view": view, "rows": rows, "written_at": written_at}


def note_snapshot(
    session: Session, project: str, snapshot_id: str, view: str, rows: int, *, written_at: datetime | None = None
) -> None:
    """Tells the catalogue of a snapshot; one that it knows stays as it is.

    Parameters
    ----------
    written_at
        By the server's clock; by default now, until the next look at the store tells.
    """
    put_new(session, SnapshotEntry, [snapshot_row(project, snapshot_id, view, rows, written_at or datetime.now(UTC))])


def put_new(session: Session, model: type[Base], rows: Sequence[Row]) -> int:
    """Writes rows where none is there, and says how many."""
    return sum(_put_one(session, model, row) for row in rows)


def _put_one(session: Session, model: type[Base], row: Row) -> int:
    # What came back is counted: not every driver counts what an insert did.
    first_key = next(iter(table_of(model).primary_key))
    insert = inserting(session, model).on_conflict_do_nothing().values(row).returning(first_key)
    return len(session.execute(insert).all())


def put(session: Session, model: type[Base], rows: Sequence[Row]) -> None:
    """Writes rows over what is there."""
    if rows:
        session.execute(_replacing(inserting(session, model), model, None), list(rows))


def _replacing(insert: Any, model: type[Base], only: Any) -> Any:
    """An insert that replaces the row of the same key, only where a condition holds."""
    columns = table_of(model).columns
    keys = [column.name for column in columns if column.primary_key]
    changed: Mapping[str, Any] = {c.name: insert.excluded[c.name] for c in columns if not c.primary_key}
    return insert.on_conflict_do_update(index_elements=keys, set_=changed, where=only)


def remove(session: Session, model: type[Base], keys: Iterable[Row]) -> int:
    """Removes the rows that have all the values given, and says how many were there."""
    return sum(_remove_one(session, table_of(model), key) for key in keys)


def _remove_one(session: Session, table: Table, key: Row) -> int:
    result = session.execute(table.delete().where(*(table.c[name] == value for name, value in key.items())))
    count: int = cast(Any, result).rowcount
    return max(0, count)
