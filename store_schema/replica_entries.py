"""Copies entries from one place of a store to another: data first, then each record in rising number; knows no snapshot.

Every byte that passes is checked against the commit that lists it. Two places of one store may only differ in how far they are:
where the records themselves differ, somebody has published into the copy, and nothing of that entry is touched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

from store_schema.commits import (
    Numbered,
    commit_path,
    create_or_read,
    current_number,
    current_record,
    numbers_in,
    parse_numbered,
    read_record,
)
from store_schema.errors import InvalidKeyError, SchemaError, StoreError
from store_schema.keys import EntryKey
from store_schema.location import Location
from store_schema.parallel import each
from store_schema.records import CommitRecord, ObjectRecord, TombstoneRecord, check_object, sha256

MEMORY_BYTES = 256 * 2**20
"""Of objects on their way at once; one that is larger goes alone."""


@dataclass(frozen=True)
class Series:
    """One entry, and how many records of it each place has."""

    view: str
    key: EntryKey
    there: int
    """At the source."""
    here: int
    """At the target."""

    def path(self, number: int) -> str:
        """Path of a record relative to the store's root."""
        return commit_path(self.view, self.key, number)

    def __str__(self) -> str:
        return f"{self.view}/{self.key}"


@dataclass(frozen=True)
class Copied:
    """What became of one entry; where it is not copied, `problem` says why."""

    series: Series
    commits: int = 0
    """Records written."""
    objects: int = 0
    """Objects of data written, those written anew among them."""
    size_bytes: int = 0
    repaired: int = 0
    """Objects that the target had, or should have had, and that were missing or wrong."""
    ended: bool = False
    """Whether the entry is withdrawn: records only, no data."""
    problem: StoreError | None = None


@dataclass(frozen=True)
class _Plan:
    """What an entry needs, before anything is written."""

    series: Series
    records: tuple[bytes, ...] = ()
    commits: Mapping[int, CommitRecord] = field(default_factory=dict)
    """By number; empty where the entry is ended, since then no data may travel."""
    present: Mapping[str, int] = field(default_factory=dict)
    """Size of every object of data that the target has."""
    ended: bool = False
    problem: StoreError | None = None

    @property
    def weight(self) -> int:
        """Bytes that are held at once: the entry's largest object."""
        return max((one.size_bytes for commit in self.commits.values() for one in commit.objects.values()), default=0)


@dataclass(frozen=True)
class EntryCopier:
    """Copies entries of one store from `source` to `target`."""

    source: Location
    target: Location
    verify_existing: bool = False
    """Read and check also what the target has already, instead of its size alone."""
    dry_run: bool = False

    def series(self, view: str, key: EntryKey) -> Series:
        """An entry, and how far each place is with it now."""
        return Series(view, key, _length(self.source, view, key), _length(self.target, view, key))

    def copy(self, series: Iterable[Series], *, gone: Collection[EntryKey] = frozenset()) -> Iterator[Copied]:
        """Copies entries, many at once, and gives what became of each, in order; a failure stops that entry alone.

        Parameters
        ----------
        gone
            Entries that the source's list of withdrawn ones names: no data of them travels, whatever their records say.
        """
        parallel = max(self.source.parallel, self.target.parallel)
        ahead = max(1, parallel // 4)
        with closing(each(lambda one: self._planned(one, gone), series, parallel=ahead)) as plans:
            yield from each(
                self._carried_out,
                plans,
                parallel=max(1, parallel - ahead),
                weigh=lambda plan: plan.weight,
                limit=MEMORY_BYTES,
            )

    # Planning

    def _planned(self, series: Series, gone: Collection[EntryKey]) -> _Plan:
        try:
            return self._plan(series, gone)
        except StoreError as error:
            return _Plan(series, problem=error)

    def _plan(self, series: Series, gone: Collection[EntryKey]) -> _Plan:
        records = tuple(self.source.get(series.path(number)) for number in range(series.there))
        parsed = [parse_numbered(data, path=series.path(number)) for number, data in enumerate(records)]
        ended = series.key in gone or any(isinstance(one, TombstoneRecord) for one in parsed)
        if self._differs(series, records):
            self._refuse_unless_both_ended(series, parsed[-1])
            # Each was withdrawn at its own place: the two tombstones may differ, and there is nothing left to copy.
            return _Plan(replace(series, here=series.there), records, ended=True)
        if ended:
            return _Plan(series, records, ended=True)
        commits = {number: one for number, one in enumerate(parsed) if isinstance(one, CommitRecord)}
        below = f"data/{series}"
        present = {one.path: one.size_bytes for one in self.target.objects(below)} if series.here else {}
        return _Plan(series, records, commits, present)

    def _differs(self, series: Series, records: tuple[bytes, ...]) -> bool:
        """Whether the target's records are not the beginning of the source's.

        A record names the inputs before it, and is never written again: the first and the last say it for all between.
        """
        if series.here > series.there:
            return True
        ends = {0, series.here - 1} if series.here else set()
        numbers = range(series.here) if self.verify_existing else sorted(ends)
        return any(self.target.get(series.path(number)) != records[number] for number in numbers)

    def _refuse_unless_both_ended(self, series: Series, last: Numbered) -> None:
        theirs = read_record(self.target, series.view, series.key, series.here - 1)
        if not isinstance(theirs, TombstoneRecord):
            raise SchemaError(
                f"{series} has other records in {self.target.url} than in {self.source.url} ({series.here} and {series.there}): "
                "somebody has published into the copy, or altered it. Publish at one place only, and copy into an empty place."
            )
        if not isinstance(last, TombstoneRecord):
            raise SchemaError(
                f"{series} was withdrawn in {self.target.url} and not in {self.source.url}: it is not copied again. Withdraw it at "
                "the source too."
            )

    # Carrying out

    def _carried_out(self, plan: _Plan) -> Copied:
        if plan.problem is not None:
            return Copied(plan.series, problem=plan.problem)
        try:
            return self._carry_out(plan)
        except StoreError as error:
            # The first error says more than one that clearing up after it meets.
            with contextlib.suppress(StoreError):
                self._erase_if_ended(plan.series)
            later = self._ended_meanwhile(plan)
            return Copied(plan.series, problem=error) if later is None else self._carried_out(later)

    def _carry_out(self, plan: _Plan) -> Copied:
        done = Copied(plan.series, ended=plan.ended)
        for number, record in enumerate(plan.records):
            known = number < plan.series.here
            if number in plan.commits:
                done = self._copy_objects(plan, plan.commits[number], done, known=known)
            if not known:
                self._create(plan.series.path(number), record)
                done = replace(done, commits=done.commits + 1)
        if done.repaired:
            self._erase_if_ended(plan.series)
        return done

    def _erase_if_ended(self, series: Series) -> None:
        """Erases the data at the target of an entry that was withdrawn there while data was written to it.

        Whoever withdrew may have looked before it was there; who ends an entry later erases what is there by then.
        """
        if self.dry_run or not isinstance(current_record(self.target, series.view, series.key), TombstoneRecord):
            return
        for path in self.target.paths(f"data/{series}"):
            self.target.delete(path)

    def _copy_objects(self, plan: _Plan, commit: CommitRecord, done: Copied, *, known: bool) -> Copied:
        """The data of one commit; of one that the target has, what is missing or wrong there."""
        for path, expected in commit.objects.items():
            place = f"{commit.folder}/{path}"
            if known and self._is_right(place, expected, plan.present):
                continue
            if not self.dry_run:
                self.target.put(place, fetched(self.source, place, expected))
            done = replace(
                done,
                objects=done.objects + 1,
                size_bytes=done.size_bytes + expected.size_bytes,
                repaired=done.repaired + known,
            )
        return done

    def _is_right(self, place: str, expected: ObjectRecord, present: Mapping[str, int]) -> bool:
        if present.get(place) != expected.size_bytes:
            return False
        return not self.verify_existing or sha256(self.target.get(place)) == expected.sha256

    def _create(self, path: str, record: bytes) -> None:
        there = None if self.dry_run else create_or_read(self.target, path, record)
        if there not in {None, record}:
            raise SchemaError(
                f"{self.target.url}/{path} was created by somebody else meanwhile: publish at one place only, and copy into an "
                "empty place."
            )

    def _ended_meanwhile(self, plan: _Plan) -> _Plan | None:
        """A plan for the records alone, where the entry was withdrawn, and its data erased, while it was copied."""
        series = plan.series
        if plan.ended:
            return None
        try:
            later = self._plan(self.series(series.view, series.key), frozenset())
        except StoreError:
            # The first error says more than this one.
            return None
        return later if later.ended else None


def fetched(source: Location, place: str, expected: ObjectRecord) -> bytes:
    """An object of the source, checked.

    Raises
    ------
    ObjectMissingError, ObjectAlteredError
        If it is not there, or is not the one that was recorded.
    """
    todo = "Restore it, then copy again."
    return check_object(source.get(place), expected, where=f"{source.url}/{place}", listed_by="its record", todo=todo)


def _length(location: Location, view: str, key: EntryKey) -> int:
    number = current_number(location, view, key)
    return 0 if number is None else number + 1


def lengths(
    location: Location, view: str, wanted: Collection[EntryKey] | None, *, stray: Callable[[str], None]
) -> dict[EntryKey, int]:
    """How many records each entry of a view has: by one listing, or by probes of those wanted where nothing can be listed.

    Parameters
    ----------
    stray
        Told the path of each object among the commits that belongs to no entry.
    """
    if not location.can_list:
        found = ((key, current_number(location, view, key)) for key in sorted(wanted or ()))
        return {key: number + 1 for key, number in found if number is not None}
    prefix = f"commits/{view}"
    counts: dict[EntryKey, int] = {}
    for path in location.paths(prefix):
        folder, _, name = path.removeprefix(f"{prefix}/").rpartition("/")
        try:
            key, numbers = EntryKey.parse(folder), numbers_in([name])
        except InvalidKeyError:
            numbers = []
        if not numbers:
            stray(path)
        elif wanted is None or key in wanted:
            counts[key] = max(numbers[0] + 1, counts.get(key, 0))
    return counts
