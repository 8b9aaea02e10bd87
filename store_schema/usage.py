"""How many objects and bytes a store holds, by view, kind and whether commits still name them; changes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from store_schema.errors import ObjectAlteredError, ObjectMissingError, SchemaError
from store_schema.keys import EntryKey
from store_schema.location import Location
from store_schema.parallel import each
from store_schema.scan import EntryFolder, Series, is_view_id, read_series, scan
from store_schema.store import Store
from store_schema.withdrawals import listed

State = Literal["", "live", "superseded", "orphaned", "withdrawn", "unknown"]
"""Of data: named by the current commit, by an earlier one, by none, ended by a tombstone, or a commit cannot be read."""
DAMAGED = (ObjectMissingError, ObjectAlteredError, SchemaError)
BY_VIEW = ("commits", "data", "withdrawn")
"""Folders of the root whose next segment is a view."""


@dataclass(frozen=True, order=True)
class Usage:
    """What one kind of objects takes."""

    kind: str
    """First segment of the paths: data, commits, packs, snapshots, runs …"""
    view: str
    """Empty where the kind knows no view."""
    state: State
    """Of data; empty for everything else."""
    objects: int
    size_bytes: int


@dataclass(frozen=True)
class UsageReport:
    """What a store takes."""

    rows: tuple[Usage, ...]
    """Sorted by kind, view and state."""

    @property
    def objects(self) -> int:
        """All objects."""
        return sum(row.objects for row in self.rows)

    @property
    def size_bytes(self) -> int:
        """All bytes."""
        return sum(row.size_bytes for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        totals = {"objects": self.objects, "size_bytes": self.size_bytes}
        return {**totals, "rows": [dataclasses.asdict(row) for row in self.rows]}


type _Place = tuple[str, str, State]
"""Kind, view, state."""
type _Gone = Mapping[str, Collection[EntryKey] | None]
"""Withdrawn entries by view; None where the list is damaged."""


def usage(store: Store, *, on_patient: Callable[[int, int], None] | None = None) -> UsageReport:
    """Counts every object of a store; reads no data, and of an entry with one commit and one attempt no commit either.

    That attempt is the commit's, unless data was lost, which `verify` finds and counting need not.

    Parameters
    ----------
    on_patient
        Takes how many patients (of all views) are done and how many there are.
    """
    location = store.location
    objects: Counter[_Place] = Counter()
    sizes: Counter[_Place] = Counter()
    for place, count, size in (*_outside_data(location), *_in_data(location, on_patient)):
        objects[place] += count
        sizes[place] += size
    return UsageReport(tuple(Usage(*place, objects[place], sizes[place]) for place in sorted(objects)))


def _outside_data(location: Location) -> Iterator[tuple[_Place, int, int]]:
    """Everything but data, an object at a time."""
    for kind in location.children(""):
        if kind == "data":
            continue
        empty = True
        for one in location.objects(kind):
            empty = False
            _, *rest = one.path.split("/")
            yield (kind, rest[0] if kind in BY_VIEW and len(rest) > 1 else "", ""), 1, one.size_bytes
        if empty:
            yield from _file(location, kind, (kind, "", ""))


def _file(location: Location, path: str, place: _Place) -> Iterator[tuple[_Place, int, int]]:
    """An object where folders are expected, as engram.json at the root."""
    size = location.size_bytes(path)
    if size is not None:
        yield place, 1, size


def _in_data(location: Location, on_patient: Callable[[int, int], None] | None) -> Iterator[tuple[_Place, int, int]]:
    places = [(view, patient) for view in location.children("data") for patient in location.children(f"data/{view}")]
    for view in location.children("data"):
        yield from _file(location, f"data/{view}", ("data", "", "unknown"))
    gone = {view: listed(location, view) for view in location.children("data") if is_view_id(view)}
    for done, found in enumerate(each(partial(_of_patient, location, gone), places, parallel=location.parallel), 1):
        yield from found
        if on_patient is not None:
            on_patient(done, len(places))


def _of_patient(location: Location, gone: _Gone, place: tuple[str, str]) -> list[tuple[_Place, int, int]]:
    view, patient = place
    entries = [entry for entry in scan(location, view, patient) if entry.attempts]
    if not entries:
        return list(_file(location, f"data/{view}/{patient}", ("data", view, "unknown")))
    return [found for entry in entries for found in _of_entry(location, gone.get(view), entry)]


def _of_entry(
    location: Location, gone: Collection[EntryKey] | None, entry: EntryFolder
) -> Iterator[tuple[_Place, int, int]]:
    if gone is not None and entry.key not in gone and len(entry.attempts) == len(entry.numbers) == 1:
        yield ("data", entry.view, "live"), entry.attempts[0].objects, entry.attempts[0].size_bytes
        return
    series: Series | None = None
    # Where a commit cannot be read, nobody can say which attempts it names: `verify` finds the damage.
    with contextlib.suppress(*DAMAGED):
        series = None if entry.key is None else read_series(location, entry.view, entry.key, entry.numbers)
    for attempt in entry.attempts:
        yield ("data", entry.view, _state(series, attempt.path)), attempt.objects, attempt.size_bytes


def _state(series: Series | None, attempt: str) -> State:
    if series is None:
        return "unknown"
    if series.tombstone is not None:
        return "withdrawn"
    if attempt not in series.attempts:
        return "orphaned"
    return "live" if series.commits[-1].folder == attempt else "superseded"
