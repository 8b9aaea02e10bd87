"""Makes snapshots: pins entries to commits, reading only those that the snapshot before did not pin; knows no array."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from store_schema.commits import commit_path, current_number, parse_commit
from store_schema.errors import NotCommittedError, ObjectMissingError, StoreError, UsageError
from store_schema.keys import EntryKey
from store_schema.location import Location
from store_schema.parallel import each
from store_schema.records import sha256
from store_schema.snapshot import SnapshotList, SnapshotRow, newest_snapshot, read_list

Told = Callable[[int, int], None]
"""Told how many of how many entries are done."""


def pin(location: Location, view_id: str, key: EntryKey, number: int | None) -> SnapshotRow:
    """The row that pins an entry to a commit, or to the current one.

    Raises
    ------
    NotCommittedError
        If there is no such commit.
    EntryWithdrawnError
        If the entry was withdrawn.
    """
    found = current_number(location, view_id, key) if number is None else number
    path = commit_path(view_id, key, found or 0)
    try:
        data = location.get(path)
    except ObjectMissingError as error:
        which = "no commit" if number is None else f"no commit {number}"
        raise NotCommittedError(
            f"{location.url} has {which} of {view_id}/{key}: it cannot be pinned. Extract it, or leave the key out."
        ) from error
    return SnapshotRow(key, parse_commit(data, path=path).number, sha256(data))


def pin_all(
    location: Location,
    view_id: str,
    numbers: Mapping[EntryKey, int | None],
    *,
    base: SnapshotList | None,
    told: Told | None,
) -> list[SnapshotRow]:
    """Rows of many entries; one that the base pins to the same commit is taken from there, since commits never change."""
    known = {} if base is None else {row.key: row for row in base.rows}

    def row(item: tuple[EntryKey, int | None]) -> SnapshotRow:
        key, number = item
        before = known.get(key)
        return before if before is not None and before.number == number else pin(location, view_id, key, number)

    rows = []
    for done, one in enumerate(_rows(location, row, numbers, known), start=1):
        rows.append(one)
        if told is not None:
            told(done, len(numbers))
    return rows


def _rows(
    location: Location,
    row: Callable[[tuple[EntryKey, int | None]], SnapshotRow],
    numbers: Mapping[EntryKey, int | None],
    known: Mapping[EntryKey, SnapshotRow],
) -> Iterator[SnapshotRow]:
    """Known rows at once, the others by several threads."""
    items = numbers.items()
    same = [item for item in items if item[0] in known and known[item[0]].number == item[1]]
    yield from map(row, same)
    held = {key for key, _ in same}
    yield from each(row, (item for item in items if item[0] not in held), parallel=location.parallel)


def base_of(location: Location, view_id: str, given: str | None) -> SnapshotList | None:
    """The snapshot to build on: the one given, else the newest of the view.

    Raises
    ------
    UsageError
        If the one given is of another view.
    """
    if given is None:
        newest = newest_snapshot(location, view_id)
        # It only saves reading: one that is damaged or just being written is no reason to stop. `verify` tells.
        with contextlib.suppress(StoreError):
            return None if newest is None else read_list(location, newest)
        return None
    content = read_list(location, given)
    if content.header.view != view_id:
        raise UsageError(f"snapshot {given[:16]}… is of {content.header.view}, not of {view_id}: it is no base for it.")
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
