"""Carries withdrawals from a store to its copy: ends what was ended, erases what an earlier copy brought; copies no data.

The lists of withdrawn entries travel after the records that they rest on and before any data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from store_schema.commits import create_or_read
from store_schema.errors import NotCommittedError, ObjectAlteredError, ObjectMissingError, SchemaError
from store_schema.keys import EntryKey
from store_schema.location import Location
from store_schema.parallel import each
from store_schema.records import Sha256
from store_schema.scan import PACK_NAME
from store_schema.snapshot import read_list
from store_schema.store import Store
from store_schema.withdraw import withdraw
from store_schema.withdrawals import add_withdrawn, read_withdrawn, withdrawn, withdrawn_path

REASON = "withdrawn at the source of this copy"
UNREADABLE = (NotCommittedError, ObjectAlteredError, ObjectMissingError, SchemaError)


@dataclass(frozen=True)
class Erased:
    """What was erased at the target."""

    entries: int = 0
    """Entries of which there was anything."""
    objects: int = 0
    problems: tuple[str, ...] = ()


def copy_lists(source: Location, target: Location, view: str, keys: Collection[EntryKey]) -> None:
    """Brings the source's withdrawn entries, as far as the target knows of them, into the target's list.

    The source's own lists are copied where all of their entries are meant and the target's lists are their beginning; else the
    target's list grows by one of its own, which names the same entries.
    """
    there = withdrawn(source, view)
    meant: Mapping[EntryKey, Collection[Sha256]] = {key: there[key] for key in keys if key in there}
    if not meant:
        return
    if len(meant) == len(there):
        _copy_verbatim(source, target, view)
    add_withdrawn(target, view, meant)


def _copy_verbatim(source: Location, target: Location, view: str) -> None:
    last, here = read_withdrawn(source, view), read_withdrawn(target, view)
    if last is None:
        return
    first = 0 if here is None else here.number + 1
    if here is not None and (
        here.number > last.number or source.get(withdrawn_path(view, here.number)) != here.to_bytes()
    ):
        return
    for number in range(first, last.number + 1):
        data = source.get(withdrawn_path(view, number))
        if create_or_read(target, withdrawn_path(view, number), data) not in {None, data}:
            return


def erase(replica: Store, view: str, keys: Collection[EntryKey], *, recorded: Collection[EntryKey]) -> Erased:
    """Erases at the target what there is of entries that were withdrawn at the source: data, packs, unfinished files.

    Parameters
    ----------
    keys
        The withdrawn entries.
    recorded
        Those of them that the target has records of: their series is ended there, if it is not yet.
    """
    target = replica.location
    counts = each(
        lambda key: _delete_all(target, view, key), sorted(set(keys) - set(recorded)), parallel=target.parallel
    )
    deleted = [count for count in counts if count]
    unfinished = _unfinished(target, view, sorted(set(keys) & set(recorded)))
    if not unfinished:
        return Erased(len(deleted), sum(deleted))
    report = withdraw(replica, [view], keys=unfinished, reason=REASON)
    return Erased(len(deleted) + len(unfinished), sum(deleted) + report.objects, report.problems)


def _unfinished(target: Location, view: str, keys: Sequence[EntryKey]) -> list[EntryKey]:
    """Entries that the target's list does not name, or of which it has data or a pack."""
    known, packed = withdrawn(target, view), _packed(target, view, keys)
    has_data = each(lambda key: bool(target.children(f"data/{view}/{key}")), keys, parallel=target.parallel)
    return [key for key, data in zip(keys, has_data, strict=True) if data or key not in known or key in packed]


def _delete_all(target: Location, view: str, key: EntryKey) -> int:
    """Deletes what a copy that was stopped had brought of an entry, of which the target has no record."""
    paths = target.paths(f"data/{view}/{key}")
    for path in paths:
        target.delete(path)
    return len(paths)


def _packed(target: Location, view: str, keys: Collection[EntryKey]) -> set[EntryKey]:
    """Those of the entries that a pack at the target may hold: all, where nobody can say what it holds."""
    wanted = set(keys)
    found: set[EntryKey] = set()
    for name in target.children("packs") if wanted else []:
        if not PACK_NAME.fullmatch(name):
            continue
        try:
            content = read_list(target, name.partition("-")[0])
        except UNREADABLE:
            return wanted
        if content.header.view == view:
            found |= wanted & {row.key for row in content.rows}
    return found
