"""Which patients a view has for which modality and ROI; knows no store and no HTTP."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import func, not_, select
from sqlalchemy.orm import Session

from services.access import Reach
from services.catalogue.cursors import cursor, page_of, read_cursor
from services.catalogue.globs import Globs
from services.catalogue.queries import check_view, dialect_of
from services.database.models import EntryRow, ViewRow
from services.errors import not_found

type Cell = int | Literal["withdrawn"] | None
"""Number of the current commit; None where there is no entry."""


@dataclass(frozen=True)
class Column:
    """One modality and ROI, counted over all patients, whatever the filter."""

    modality: str
    roi: str
    entries: int
    """That were not withdrawn."""
    withdrawn: int


@dataclass(frozen=True)
class PatientCells:
    """What one patient has, in the order of the columns."""

    patient: str
    cells: list[Cell]


@dataclass(frozen=True)
class Coverage:
    """Part of a view's patients against its columns."""

    view: str
    patients: int
    """In the whole view, with those of whom all was withdrawn."""
    columns: list[Column]
    items: list[PatientCells]
    next: str | None


def coverage(
    session: Session, reach: Reach, view_id: str, *, patient: Globs | None = None, after: str | None = None, limit: int
) -> Coverage:
    """The coverage of a view that may be read as a whole, by patient.

    Raises
    ------
    Refusal
        403, if it may not be; 404, if the store has none of that id; 422, if the cursor is none of this list.
    """
    check_view(reach, view_id)
    columns = _columns(session, reach.project, view_id)
    if not columns and session.get(ViewRow, (reach.project, view_id)) is None:
        raise not_found(f"there is no view {view_id}.")
    names = _patients(session, reach.project, view_id, patient, after=after, most=limit + 1)
    page = page_of(names, limit, lambda name: cursor("patient", name), lambda name: name)
    cells = _cells(session, reach.project, view_id, page.items)
    places = [(column.modality, column.roi) for column in columns]
    items = [PatientCells(name, [cells[name].get(place) for place in places]) for name in page.items]
    return Coverage(view_id, _count(session, reach.project, view_id), columns, items, page.next)


def _of(project: str, view_id: str) -> tuple[Any, ...]:
    return EntryRow.project == project, EntryRow.view == view_id


def _columns(session: Session, project: str, view_id: str) -> list[Column]:
    live, gone = func.count().filter(not_(EntryRow.withdrawn)), func.count().filter(EntryRow.withdrawn)
    chosen = (
        select(EntryRow.modality, EntryRow.roi, live, gone)
        .where(*_of(project, view_id))
        .group_by(EntryRow.modality, EntryRow.roi)
        .order_by(EntryRow.modality, EntryRow.roi)
    )
    return [Column(*row) for row in session.execute(chosen)]


def _count(session: Session, project: str, view_id: str) -> int:
    chosen = select(func.count(EntryRow.patient.distinct())).where(*_of(project, view_id))
    return session.scalar(chosen) or 0


def _patients(
    session: Session, project: str, view_id: str, wanted: Globs | None, *, after: str | None, most: int
) -> list[str]:
    chosen = select(EntryRow.patient).distinct().where(*_of(project, view_id))
    if wanted is not None:
        chosen = chosen.where(wanted.condition(EntryRow.patient, dialect_of(session)))
    if after is not None:
        chosen = chosen.where(EntryRow.patient > read_cursor(after, {"patient": 1})[1][0])
    return list(session.scalars(chosen.order_by(EntryRow.patient).limit(most)))


def _cells(
    session: Session, project: str, view_id: str, patients: Sequence[str]
) -> dict[str, dict[tuple[str, str], Cell]]:
    chosen = select(EntryRow.patient, EntryRow.modality, EntryRow.roi, EntryRow.number, EntryRow.withdrawn).where(
        *_of(project, view_id), EntryRow.patient.in_(patients)
    )
    found: dict[str, dict[tuple[str, str], Cell]] = defaultdict(dict)
    for patient, modality, roi, number, withdrawn in session.execute(chosen):
        found[patient][modality, roi] = "withdrawn" if withdrawn else number
    return found
