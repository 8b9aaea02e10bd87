"""Makes the rows of a view's entries agree with its commits, reading only those whose number changed; knows no other table.

The rows are compared with one listing of the view, some thousands at a time. What writers do meanwhile is newer than the listing: a
row that the listing does not explain is removed only after the store was asked about this entry once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.catalogue.notes import UNKNOWN_SHA256, Row, ended_row, entry_key, entry_row, put_entries, remove
from services.catalogue.place import Place
from services.catalogue.tally import Problem, Tally, tried
from services.database.models import EntryRow
from store_schema.commits import Numbered, commit_path, current_number, numbers_in, parse_numbered
from store_schema.errors import InvalidKeyError
from store_schema.keys import EntryKey
from store_schema.parallel import each
from store_schema.records import TombstoneRecord, sha256
from store_schema.withdrawals import withdrawn

BATCH = 5_000
"""Entries that are compared, read and written at once."""
TOLD_EVERY = 250
"""Records that are read between two tellings: who waits may want to stop."""


@dataclass(frozen=True, slots=True)
class _Held:
    """What a row says."""

    number: int
    withdrawn: bool
    commit_sha256: str


@dataclass(frozen=True)
class _Found:
    """What became of reading the current record of an entry."""

    key: EntryKey
    number: int
    row: Row | None
    problem: Problem | None


type _Numbers = Mapping[EntryKey, int]
type _Rows = Mapping[EntryKey, _Held]


def index_entries(place: Place, view: str, tally: Tally) -> None:
    """Makes all rows of a view's entries agree with the store.

    Raises
    ------
    StoreError
        If the store cannot be listed.
    Refusal
        If the database is away.
    """
    prefix = f"commits/{view}"
    paths = place.location.paths(prefix)
    # After the listing: whatever was withdrawn before it is in this list, or its tombstone is in the listing.
    gone, problem = tried(lambda: frozenset(withdrawn(place.location, view)))
    tally.count("withdrawn", problem)
    indexer = _ViewIndexer(place, view, gone or frozenset(), tally)
    tally.to_look += len(paths)
    patients: set[str] = set()
    for listed, looked in _batches(paths, prefix, tally):
        patients.update(key.patient for key in listed)
        tally.found["entries"] += len(listed)
        indexer.compare(listed)
        tally.tell(looked)
    indexer.remove_others(patients)


def _batches(paths: Iterable[str], prefix: str, tally: Tally) -> Iterator[tuple[dict[EntryKey, int], int]]:
    """Current numbers by entry, whole patients at a time, and the records that tell them; the paths are sorted."""
    held: dict[EntryKey, int] = {}
    looked, patient = 0, None
    for path in paths:
        folder, _, name = path[len(prefix) + 1 :].rpartition("/")
        looked += 1
        for number in numbers_in([name]):
            key = _key(folder)
            if key is None:
                tally.count("commits", "damaged")
                continue
            if key.patient != patient and len(held) >= BATCH:
                yield held, looked - 1
                held, looked = {}, 1
            patient = key.patient
            held[key] = max(number, held.get(key, 0))
    yield held, looked


def _key(folder: str) -> EntryKey | None:
    """The entry that a record lies under; None where no entry can."""
    try:
        return EntryKey.parse(folder)
    except InvalidKeyError:
        return None


@dataclass(frozen=True)
class _ViewIndexer:
    place: Place
    view: str
    gone: frozenset[EntryKey]
    """Withdrawn by the view's list."""
    tally: Tally

    def compare(self, listed: _Numbers) -> None:
        """Makes the rows of some patients agree with the numbers that were listed for them."""
        held = self._rows(sorted({key.patient for key in listed}))
        lost = self._lost([key for key, row in held.items() if listed.get(key, -1) < row.number], held)
        kept = {key: row for key, row in held.items() if key not in lost}
        found = self._read({key: number for key, number in listed.items() if self._is_new(key, number, kept.get(key))})
        rows = [one.row for one in found if one.row is not None]
        damaged = [one for one in found if one.row is None and one.problem == "damaged"]
        keys = [self._row_key(key, commit_sha256=held[key].commit_sha256) for key in lost]
        # A row of an earlier commit is no answer for an entry whose current one is damaged: the store itself gives none.
        keys += [
            self._row_key(one.key, number=kept[one.key].number, withdrawn=False)
            for one in damaged
            if one.key in kept and kept[one.key].number < one.number
        ]
        self._write(rows, keys)

    def remove_others(self, patients: set[str]) -> None:
        """Removes the rows of patients of whom nothing was listed."""
        after = ""
        while names := self._patients(after):
            strange = [name for name in names if name not in patients]
            if strange:
                held = self._rows(strange)
                lost = self._lost(list(held), held)
                self._write([], [self._row_key(key, commit_sha256=held[key].commit_sha256) for key in lost])
            after = names[-1]

    def _is_new(self, key: EntryKey, number: int, row: _Held | None) -> bool:
        return row is None or row.number < number or (key in self.gone and not row.withdrawn)

    def _write(self, rows: Sequence[Row], keys: Sequence[Row]) -> None:
        """Removes rows and writes others, all or none."""
        if not rows and not keys:
            return
        if keys:
            self.place.check_there()

        def work(session: Session) -> int:
            removed = remove(session, EntryRow, keys)
            put_entries(session, rows)
            return removed

        self.tally.removed += self.place.database.run(work)
        self.tally.written += len(rows)

    # Rows

    def _rows(self, patients: Sequence[str]) -> _Rows:
        """Rows of some patients."""
        chosen = select(
            EntryRow.patient,
            EntryRow.modality,
            EntryRow.roi,
            EntryRow.number,
            EntryRow.withdrawn,
            EntryRow.commit_sha256,
        ).where(EntryRow.project == self.place.project, EntryRow.view == self.view, EntryRow.patient.in_(patients))
        rows = self.place.database.read(lambda session: session.execute(chosen).all())
        return {EntryKey(*row[:3]): _Held(*row[3:]) for row in rows}

    def _patients(self, after: str) -> list[str]:
        """The next patients that have rows."""
        chosen = (
            select(EntryRow.patient)
            .distinct()
            .where(EntryRow.project == self.place.project, EntryRow.view == self.view, EntryRow.patient > after)
            .order_by(EntryRow.patient)
            .limit(BATCH)
        )
        return self.place.database.read(lambda session: list(session.scalars(chosen)))

    def _row_key(self, key: EntryKey, **values: Any) -> Row:
        """What finds the row of an entry while it has these values."""
        return entry_key(self.place.project, self.view, key) | values

    # The store

    def _lost(self, keys: Sequence[EntryKey], held: _Rows) -> set[EntryKey]:
        """Those whose row tells of a record that is not in the store any more, as it is right now."""

        def number(key: EntryKey) -> tuple[EntryKey, int | None, Problem | None]:
            return key, *tried(lambda: current_number(self.place.location, self.view, key))

        lost = set()
        for key, found, problem in each(number, keys, parallel=self.place.location.parallel):
            if problem is not None:
                self.tally.count("commits", problem)
            elif found is None or found < held[key].number:
                lost.add(key)
        return lost

    def _read(self, wanted: _Numbers) -> list[_Found]:
        """Reads the current records of some entries."""
        found = []
        for one in each(lambda item: self._found(*item), wanted.items(), parallel=self.place.location.parallel):
            self.tally.count("commits", one.problem)
            found.append(one)
            if len(found) % TOLD_EVERY == 0:
                self.tally.tell()
        return found

    def _found(self, key: EntryKey, number: int) -> _Found:
        row, problem = tried(lambda: self._current(key, number))
        if problem == "damaged" and key in self.gone:
            # The list says that it was withdrawn, whatever became of its tombstone.
            row = ended_row(self.place.project, self.view, key, number)
        return _Found(key, number, row, problem)

    def _current(self, key: EntryKey, number: int) -> Row:
        """The row of an entry by its record `number`; of a withdrawn one by its tombstone, though it be newer."""
        record, digest = self._record(key, number)
        if key in self.gone and not isinstance(record, TombstoneRecord):
            last = current_number(self.place.location, self.view, key)
            if last is not None and last > number:
                record, digest = self._record(key, last)
        if key in self.gone and not isinstance(record, TombstoneRecord):
            return ended_row(self.place.project, self.view, key, number) | {"commit_sha256": digest or UNKNOWN_SHA256}
        return entry_row(self.place.project, record, digest)

    def _record(self, key: EntryKey, number: int) -> tuple[Numbered, str]:
        path = commit_path(self.view, key, number)
        data = self.place.location.get(path)
        return parse_numbered(data, path=path), sha256(data)
