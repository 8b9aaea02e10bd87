"""Walks a view patient by patient: which attempts lie there, and which of them commits name; judges nothing.

A patient at a time keeps memory small however large the store is, and lets many patients be looked at at once. Data is listed
before commits, so that an attempt that is committed meanwhile is never taken for one that no commit names.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from store_schema.commits import numbers_in, read_record
from store_schema.errors import InvalidKeyError, ObjectMissingError, SchemaError
from store_schema.keys import EntryKey
from store_schema.location import Location, ObjectInfo
from store_schema.records import CommitRecord, TombstoneRecord, check_view_id, members, unseal

ATTEMPT_DEPTH = 6
"""Segments of an attempt's folder: data, view, patient, modality, ROI, attempt."""
ATTEMPT_NAME = re.compile(r"[0-9a-f]{32}", re.ASCII)
PACK_NAME = re.compile(r"([0-9a-f]{64})-([a-z_]+)", re.ASCII)
"""A pack's folder: its snapshot's id, a hyphen and the kind."""
PACK_DEPTH = 3
"""Segments of a pack attempt's folder: packs, pack, attempt."""


@dataclass(frozen=True)
class Attempt:
    """One writer's data folder as a listing tells it."""

    path: str
    objects: int
    size_bytes: int
    newest: datetime
    """When its last object was written, by the server's clock."""


@dataclass(frozen=True)
class EntryFolder:
    """What lies under the name of one entry."""

    view: str
    name: str
    """`PATIENT/MODALITY/ROI` where all is well; whatever stands there otherwise."""
    attempts: tuple[Attempt, ...]
    records: tuple[str, ...]
    """Names of the objects among its commits."""

    @property
    def numbers(self) -> list[int]:
        """Numbers of its records, sorted."""
        return sorted(numbers_in(self.records))

    @property
    def key(self) -> EntryKey | None:
        """The key that the name is; None where it is none."""
        try:
            return EntryKey.parse(self.name)
        except InvalidKeyError:
            return None


@dataclass(frozen=True)
class Series:
    """The records of an entry, read; of one that was withdrawn the tombstone alone."""

    commits: tuple[CommitRecord, ...]
    tombstone: TombstoneRecord | None

    @property
    def attempts(self) -> frozenset[str]:
        """Folders that the commits name."""
        return frozenset(commit.folder for commit in self.commits)


def views(location: Location) -> list[str]:
    """Ids of all views that have commits or data, sorted; names that are no view id are left to `verify`."""
    names = {*location.children("commits"), *location.children("data")}
    return sorted(name for name in names if is_view_id(name))


def is_view_id(name: str) -> bool:
    """Whether a name found in a store can be a view's id."""
    try:
        check_view_id(name)
    except InvalidKeyError:
        return False
    return True


def patients(location: Location, view: str) -> list[str]:
    """Every name where a patient of a view stands, sorted."""
    return sorted({*location.children(f"commits/{view}"), *location.children(f"data/{view}")})


def scan(location: Location, view: str, patient: str) -> list[EntryFolder]:
    """What lies under the names of one patient's entries, sorted by name."""
    data = attempts(location.objects(f"data/{view}/{patient}"))
    by_name: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in data:
        by_name["/".join(attempt.path.split("/")[2 : ATTEMPT_DEPTH - 1])].append(attempt)
    records: dict[str, list[str]] = defaultdict(list)
    for path in location.paths(f"commits/{view}/{patient}"):
        name, _, record = path.removeprefix(f"commits/{view}/").rpartition("/")
        records[name].append(record)
    return [
        EntryFolder(view, name, tuple(by_name.get(name, ())), tuple(records.get(name, ())))
        for name in sorted({*by_name, *records})
    ]


def attempts(objects: Iterable[ObjectInfo], *, depth: int = ATTEMPT_DEPTH) -> list[Attempt]:
    """Objects gathered by the first `depth` segments of their paths, sorted."""
    found: dict[str, Attempt] = {}
    for one in objects:
        path = "/".join(one.path.split("/")[:depth])
        held = found.get(path, Attempt(path, 0, 0, one.modified))
        newest = max(held.newest, one.modified)
        found[path] = Attempt(path, held.objects + 1, held.size_bytes + one.size_bytes, newest)
    return [found[path] for path in sorted(found)]


def read_series(location: Location, view: str, key: EntryKey, numbers: Iterable[int]) -> Series:
    """The records of an entry: its commits, or the tombstone alone that ends them.

    Raises
    ------
    ObjectMissingError, ObjectAlteredError, SchemaError
        If one of them is not there, also by a gap in the numbers, or is damaged; of an ended entry the tombstone alone counts.
    """
    ordered = sorted(numbers)
    if not ordered:
        return Series((), None)
    last = read_record(location, view, key, ordered[-1])
    if isinstance(last, TombstoneRecord):
        return Series((), last)
    if len(ordered) <= last.number:
        raise ObjectMissingError(f"commits/{view}/{key} has commit {last.number} and not all of those before it.")
    records = [*(read_record(location, view, key, number) for number in ordered[:-1]), last]
    return Series(tuple(record for record in records if isinstance(record, CommitRecord)), None)


@dataclass(frozen=True)
class PackFolder:
    """What lies under the name of one pack."""

    path: str
    attempts: tuple[Attempt, ...]
    records: tuple[str, ...]
    """Names of its records."""


def pack_folders(location: Location) -> list[PackFolder]:
    """Every pack of a store, sorted by name; other names among them are left to `verify`."""
    folders = [f"packs/{name}" for name in location.children("packs") if PACK_NAME.fullmatch(name)]
    return [_pack_folder(location, folder) for folder in folders]


def _pack_folder(location: Location, folder: str) -> PackFolder:
    found = attempts(location.objects(folder), depth=PACK_DEPTH)
    names = {attempt.path: attempt.path.rpartition("/")[2] for attempt in found}
    return PackFolder(
        folder,
        tuple(attempt for attempt in found if ATTEMPT_NAME.fullmatch(names[attempt.path])),
        tuple(name for name in names.values() if numbers_in([name])),
    )


def named_by_pack(location: Location, folder: str) -> frozenset[str]:
    """Folders of the attempts that a pack's records name, as they are right now.

    Raises
    ------
    ObjectAlteredError, SchemaError
        If a record is damaged, or is none of a pack.
    """
    paths = [f"{folder}/{name}" for name in location.children(folder) if numbers_in([name])]
    return frozenset(f"{folder}/{_attempt_of(location.get(path), path)}" for path in paths)


def _attempt_of(record: bytes, path: str) -> str:
    attempt = members(unseal(record, where=path)).get("attempt")
    if not isinstance(attempt, str):
        raise SchemaError(f"{path} names no attempt: it is no record of a pack of this schema.")
    return attempt
