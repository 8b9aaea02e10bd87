"""Lays out patients against modality and region, of a view or of a snapshot, with the addresses of its parts; knows no request."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from pydantic import BaseModel, Field

from services.catalogue.coverage import Cell, Column, Coverage, PatientCells
from services.catalogue.globs import Globs
from services.pages.templating import path_part
from store_schema import Snapshot

MOST_PATIENTS = 50
"""Of one page of a table."""


class Wanted(BaseModel):
    """What of the table is asked for, as the address says it."""

    patient: str = Field(default="", max_length=1000)
    modality: str = Field(default="", max_length=100)
    roi: str = Field(default="", max_length=100)
    after: str | None = Field(default=None, max_length=1000)
    """Where the part before ended."""

    @property
    def query(self) -> dict[str, str]:
        """The filter as parameters of an address; what asks for nothing is left out."""
        return {name: value for name in ("patient", "modality", "roi") if (value := getattr(self, name))}

    def address(self, at: str, after: str | None = None) -> str:
        """Address of a part of the table."""
        query = self.query | ({} if after is None else {"after": after})
        return f"{at}?{urlencode(query)}" if query else at

    def takes(self, column: Column) -> bool:
        """Whether a column is shown."""
        return self.modality in {"", column.modality} and self.roi in {"", column.roi}


@dataclass(frozen=True)
class Table:
    """A part of the table."""

    at: str
    """Address of the page."""
    entries_at: str
    """Address of entries, before PATIENT/MODALITY/ROI."""
    columns: tuple[Column, ...]
    items: tuple[PatientCells, ...]
    wanted: Wanted
    first: str | None
    """Address of the first part, where this is another one."""
    next: str | None
    modalities: tuple[str, ...] = ()
    """All that can be asked for, as the next."""
    rois: tuple[str, ...] = ()
    pinned: bool = False
    """Whether entries are meant at the commit that is shown, not at their current one."""

    @property
    def groups(self) -> tuple[tuple[str, int], ...]:
        """Modalities, and how many columns each has."""
        return tuple(Counter(column.modality for column in self.columns).items())


def of_view(project: str, covered: Coverage, wanted: Wanted) -> Table:
    """The catalogue's table, narrowed to the columns that are asked for."""
    at = f"/projects/{path_part(project)}/views/{path_part(covered.view)}"
    return _narrowed(
        Table(
            at=at,
            entries_at=f"{at}/entries",
            columns=tuple(covered.columns),
            items=tuple(covered.items),
            wanted=wanted,
            first=None if wanted.after is None else wanted.address(at),
            next=None if covered.next is None else wanted.address(at, covered.next),
        )
    )


def of_snapshot(project: str, snapshot: Snapshot, wanted: Wanted, globs: Globs | None) -> Table:
    """The same of a snapshot, whose cells are the pinned commits; a part ends at a patient's id."""
    at = f"/projects/{path_part(project)}/snapshots/{snapshot.id}"
    counts = Counter((key.modality, key.roi) for key in snapshot.keys)
    columns = tuple(Column(*place, counts[place], 0) for place in sorted(counts))
    names = sorted({key.patient for key in snapshot.keys if globs is None or globs.matches(key.patient)})
    begin = bisect_right(names, wanted.after) if wanted.after else 0
    shown = names[begin : begin + MOST_PATIENTS]
    more = begin + MOST_PATIENTS < len(names)
    return _narrowed(
        Table(
            at=at,
            entries_at=f"/projects/{path_part(project)}/views/{path_part(snapshot.view_id)}/entries",
            columns=columns,
            items=tuple(_pins(snapshot, shown, columns)),
            wanted=wanted,
            first=wanted.address(at) if wanted.after else None,
            next=wanted.address(at, shown[-1]) if more else None,
            pinned=True,
        )
    )


def _pins(snapshot: Snapshot, patients: Sequence[str], columns: Sequence[Column]) -> Iterable[PatientCells]:
    cells: dict[str, dict[tuple[str, str], Cell]] = {name: {} for name in patients}
    for row in snapshot.rows:
        if row.key.patient in cells:
            cells[row.key.patient][row.key.modality, row.key.roi] = row.number
    for name in patients:
        yield PatientCells(name, [cells[name].get((column.modality, column.roi)) for column in columns])


def _narrowed(table: Table) -> Table:
    """The columns that are asked for, of all that there are."""
    kept = [place for place, column in enumerate(table.columns) if table.wanted.takes(column)]
    return replace(
        table,
        columns=tuple(table.columns[place] for place in kept),
        items=tuple(PatientCells(one.patient, [one.cells[place] for place in kept]) for one in table.items),
        modalities=tuple(sorted({column.modality for column in table.columns})),
        rois=tuple(sorted({column.roi for column in table.columns})),
    )
