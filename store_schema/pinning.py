"""Makes snapshots: pins entries to commits, reading only those that the snapshot before did not pin; knows no array."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from store_schema.commits import commit_path, current_number, parse_commit
from store_schema.errors import EntryWithdrawnError, NotCommittedError, ObjectMissingError, StoreError, UsageError
from store_schema.keys import EntryKey
from store_schema.location import Location
from store_schema.location.base import Pin
from store_schema.parallel import each
from store_schema.records import SnapshotHeader, ViewSpec, sha256
from store_schema.snapshot import SnapshotList, SnapshotRow, make_list, newest_snapshots, read_list, write_list
from store_schema.where import where
from store_schema.withdrawals import withdrawn

Told = Callable[[int, int], None]
"""Told how many of how many entries are done."""
LISTED_KEYS = 500
"""Entries without a number above which one listing of their view is asked, not one of each."""
TOLD_EVERY = 100
"""Entries: telling of each would cost more than pinning it."""


def pin(location: Location, view_id: str, key: EntryKey, number: int) -> SnapshotRow:
    """The row that pins an entry to a commit.

    Raises
    ------
    NotCommittedError
        If there is no such commit.
    EntryWithdrawnError
        If the entry was withdrawn.
    """
    path = commit_path(view_id, key, number)
    try:
        data = location.get(path)
    except ObjectMissingError as error:
        raise NotCommittedError(
            f"{location.url} has no commit {number} of {view_id}/{key}: it cannot be pinned. Extract it, or leave the key out."
        ) from error
    return SnapshotRow(key, parse_commit(data, path=path).number, sha256(data))


@dataclass(frozen=True)
class Asked:
    """What a snapshot is to pin."""

    view: ViewSpec
    store_id: str
    keys: Mapping[EntryKey, int | None] | None
    """With commit numbers, None standing for the current one; None for all entries of the view."""
    terms: Sequence[str] = ()
    base: str | None = None
    """Whole id of the snapshot to build on."""

    @classmethod
    def of(
        cls,
        view: ViewSpec,
        store_id: str,
        keys: Iterable[EntryKey] | Mapping[EntryKey, int | None] | None,
        *,
        terms: Sequence[str] = (),
        base: str | None = None,
    ) -> Asked:
        """From keys with or without numbers."""
        numbers = keys if keys is None or isinstance(keys, Mapping) else dict.fromkeys(keys)
        return cls(view, store_id, numbers, terms, base)


def make(
    location: Location, asked: Asked, *, current: Callable[[], Mapping[EntryKey, int]], told: Told | None = None
) -> str:
    """Id of the snapshot, made where the store lies if that can be asked, else here; see `Store.make_snapshot`."""
    made = _made_there(location, asked, told)
    if made is not None:
        return made
    view = asked.view
    numbers = wanted_numbers(location, view.view_id, asked.keys, terms=asked.terms, current=current)
    bases = bases_of(location, view.view_id, asked.store_id, asked.base)
    rows = pin_all(location, view.view_id, numbers, bases=bases, leave_out_withdrawn=asked.keys is None, told=told)
    header = SnapshotHeader(store_id=asked.store_id, view=view.view_id, view_sha256=view.digest, rows=len(rows))
    return write_list(location, make_list(header, rows))


def _made_there(location: Location, asked: Asked, told: Told | None) -> str | None:
    where(asked.terms)
    pins: list[Pin] | None = None
    if asked.keys is not None:
        pins = [(key.patient, key.modality, key.roi, number) for key, number in asked.keys.items()]
    made = location.make_snapshot(asked.view.view_id, pins, where=asked.terms, base=asked.base)
    if made is not None and pins and told is not None:
        told(len(pins), len(pins))
    return made


def wanted_numbers(
    location: Location,
    view_id: str,
    keys: Mapping[EntryKey, int | None] | None,
    *,
    terms: Sequence[str] = (),
    current: Callable[[], Mapping[EntryKey, int]],
) -> dict[EntryKey, int | None]:
    """Commit number of each entry to pin; None where the current one is still to be looked up.

    Parameters
    ----------
    keys
        All entries that are current, some, or some with their numbers.
    terms
        Filters; see `store_schema.where.where`.
    current
        Lists the current numbers of the whole view.

    Raises
    ------
    NotCommittedError
        If there are filters and nothing passes.
    EntryWithdrawnError
        If an entry was asked for that was withdrawn.
    """
    numbers: Mapping[EntryKey, int | None] = current() if keys is None else keys
    passes = where(terms)
    chosen = {key: number for key, number in numbers.items() if passes(key)} if terms else dict(numbers)
    if terms and not chosen:
        raise NotCommittedError(f"none of {len(numbers)} entries of {view_id} passes {' and '.join(terms)}.")
    if keys is None:
        return chosen
    if gone := withdrawn(location, view_id).keys() & chosen.keys():
        raise EntryWithdrawnError(f"{view_id}/{min(gone)} was withdrawn: it cannot be pinned. Leave it out.")
    if location.can_list and sum(number is None for number in chosen.values()) > LISTED_KEYS:
        listed = current()
        return {key: listed.get(key) if number is None else number for key, number in chosen.items()}
    return chosen


def pin_all(
    location: Location,
    view_id: str,
    numbers: Mapping[EntryKey, int | None],
    *,
    bases: Sequence[SnapshotList] = (),
    leave_out_withdrawn: bool = False,
    told: Told | None = None,
) -> list[SnapshotRow]:
    """Rows of many entries; one that a base pins to the same commit is taken from there, since commits never change.

    Parameters
    ----------
    numbers
        Commit number of each entry; None stands for the current one.
    bases
        Snapshots of the view, the one to prefer first.
    leave_out_withdrawn
        Whether an entry whose series has ended is left out rather than refused: its withdrawal may be under way.
    """
    known = {row.key: row for base in reversed(bases) for row in base.rows}

    def row(item: tuple[EntryKey, int | None]) -> SnapshotRow | None:
        try:
            return _row(location, view_id, *item, known)
        except EntryWithdrawnError:
            if leave_out_withdrawn:
                return None
            raise

    rows: list[SnapshotRow] = []
    to_read: list[tuple[EntryKey, int | None]] = []
    for key, number in numbers.items():
        before = known.get(key)
        if before is not None and before.number == number:
            rows.append(before)
        else:
            to_read.append((key, number))
    for done, one in enumerate(each(row, to_read, parallel=location.parallel), start=len(rows) + 1):
        rows += [] if one is None else [one]
        if told is not None and done % TOLD_EVERY == 0:
            told(done, len(numbers))
    if told is not None:
        told(len(numbers), len(numbers))
    return rows


def _row(
    location: Location, view_id: str, key: EntryKey, number: int | None, known: Mapping[EntryKey, SnapshotRow]
) -> SnapshotRow:
    found = current_number(location, view_id, key) if number is None else number
    if found is None:
        raise NotCommittedError(
            f"{location.url} has no commit of {view_id}/{key}: it cannot be pinned. Extract it, or leave the key out."
        )
    before = known.get(key)
    return before if before is not None and before.number == found else pin(location, view_id, key, found)


def bases_of(location: Location, view_id: str, store_id: str, given: str | None) -> list[SnapshotList]:
    """The snapshots to build on, the one to prefer first: the one given, else the newest and the largest of the view.

    Raises
    ------
    UsageError
        If the one given is of another view or store.
    """
    if given is not None:
        return [_base(read_list(location, given), view_id, store_id)]
    found = []
    for snapshot_id in newest_snapshots(location, view_id):
        # They only save reading: one that is damaged, or just being written, is no reason to stop. `verify` tells.
        with contextlib.suppress(StoreError, UsageError):
            found.append(_base(read_list(location, snapshot_id), view_id, store_id))
    return found


def _base(content: SnapshotList, view_id: str, store_id: str) -> SnapshotList:
    header = content.header
    if (header.view, header.store_id) != (view_id, store_id):
        raise UsageError(
            f"snapshot {content.id[:16]}… is of {header.view} in store {header.store_id}, not of {view_id} in {store_id}: it "
            "is no base for it."
        )
    return content


@dataclass(frozen=True)
class SnapshotDiff:
    """What a second snapshot has that the first has not, and the other way round."""

    added: tuple[SnapshotRow, ...]
    removed: tuple[SnapshotRow, ...]
    changed: tuple[tuple[SnapshotRow, SnapshotRow], ...]
    """The same entry pinned to other commits: before, after."""

    @property
    def same(self) -> bool:
        """Whether both pin the same entries to the same commits."""
        return not (self.added or self.removed or self.changed)


def diff(before: SnapshotList, after: SnapshotList) -> SnapshotDiff:
    """The difference between two snapshots of one view.

    Raises
    ------
    UsageError
        If they are of two views, whose entries cannot be compared.
    """
    if before.header.view != after.header.view:
        raise UsageError(
            f"snapshots {before.id[:16]}… and {after.id[:16]}… are of two views, {before.header.view} and {after.header.view}: "
            "compare snapshots of one view."
        )
    old, new = ({row.key: row for row in one.rows} for one in (before, after))
    return SnapshotDiff(
        added=tuple(row for row in after.rows if row.key not in old),
        removed=tuple(row for row in before.rows if row.key not in new),
        changed=tuple((old[row.key], row) for row in after.rows if row.key in old and old[row.key] != row),
    )
