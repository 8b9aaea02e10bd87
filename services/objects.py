"""Finds the objects of a project's store that a caller may read, by the paths of the store itself; writes nothing.

What no commit lists is absent (404). What is listed and cannot be read is a failure (5xx): a Zarr reader takes an absent chunk for
zeros. What was withdrawn is gone (410).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from services.access import Reach
from services.errors import Refusal, forbidden, not_found
from services.held import COMMITS_BYTES, Held, weight
from services.pack_objects import PackObjects
from services.ranges import Found
from services.targets import VIEW_ID
from store_schema import Snapshot, Store
from store_schema.commits import COMMIT_NAME, commit_path, numbers_in, parse_numbered
from store_schema.errors import (
    BackendError,
    EntryWithdrawnError,
    InvalidKeyError,
    NotCommittedError,
    ObjectMissingError,
    SchemaError,
    StoreNotFoundError,
)
from store_schema.keys import EntryKey, check_id
from store_schema.location.base import is_path
from store_schema.reader import read_object
from store_schema.records import CommitRecord, StoreRecord, TombstoneRecord, check_view_id, parse_record, sha256
from store_schema.snapshot import SNAPSHOT_ID, SUFFIX, SnapshotRow
from store_schema.store import ROOT_RECORD
from store_schema.views import view_path
from store_schema.withdrawals import withdrawn

JSON = "application/json"
SNAPSHOTS_HELD = 64
WITHDRAWN_S = 2.0
"""How long a view's list of withdrawn entries is taken for good."""
SNAPSHOT_ID_LENGTH = 64


@dataclass(frozen=True)
class _Entry:
    """What is known of an entry: its commits by attempt, and whether it was withdrawn."""

    commits: Mapping[str, CommitRecord]
    withdrawn: bool


@dataclass
class Objects:
    """The readable objects of one store, for callers of any reach."""

    store: Store
    cache: Held[tuple[str, str], bytes]
    """Checked objects of all stores, by store id and path."""
    _snapshots: Held[str, Snapshot] = field(default_factory=lambda: Held(SNAPSHOTS_HELD))
    _entries: Held[tuple[str, str], _Entry] = field(default_factory=lambda: Held(COMMITS_BYTES, _weight))
    _withdrawn: dict[str, tuple[float, frozenset[EntryKey]]] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def packs(self) -> PackObjects:
        """Objects of the packs of snapshots."""
        return PackObjects(self.store, self.cache)

    def find(self, reach: Reach, path: str) -> Found:
        """The object at a path of the store, if it is committed and this caller may read it.

        Raises
        ------
        Refusal
            404, if nothing commits it; 403, if it may not be read.
        EntryWithdrawnError
            If it is of an entry that was withdrawn.
        ObjectMissingError, ObjectAlteredError, BackendError
            If it is committed and cannot be read.
        """
        kind, _, rest = path.partition("/")
        finders = {
            "engram.json": self._root, "views": self._view, "commits": self._commit, "data": self._data,
            "snapshots": self._snapshot_list, "packs": self._pack, "withdrawn": self._withdrawn_list, "runs": self._run,
        }  # fmt: skip
        if kind not in finders or not is_path(path):
            raise absent()
        try:
            return finders[kind](reach, rest)
        except (InvalidKeyError, NotCommittedError):
            raise absent() from None

    def held(self, reach: Reach, path: str) -> Found | None:
        """Data that is in memory and may be read; None where anything must be asked first. Never waits."""
        names = path.split("/", 6)
        if len(names) < 7 or names[0] != "data" or not reach.reads_view(names[1]):
            return None
        data = self.cache.get((self.store.store_id, path))
        known = self._entries.get((names[1], "/".join(names[2:5])))
        gone = self._withdrawn.get(names[1])
        commit = known.commits.get(names[5]) if known is not None else None
        if data is None or commit is None or gone is None or time.monotonic() >= gone[0] or commit.key in gone[1]:
            return None
        return _found(data, commit, names[6])

    def held_object(self, commit: CommitRecord, path: str) -> Found | None:
        """An object of a commit that may be read, if it is in memory and was not withdrawn a moment ago. Never waits."""
        gone = self._withdrawn.get(commit.view)
        if gone is None or time.monotonic() >= gone[0] or commit.key in gone[1] or path not in commit.objects:
            return None
        data = self.cache.get((self.store.store_id, f"{commit.folder}/{path}"))
        return None if data is None else _found(data, commit, path)

    # Snapshots

    def held_snapshot(self, reach: Reach, snapshot_id: str) -> Snapshot | None:
        """A snapshot that may be read, if it is in memory and none of it was withdrawn a moment ago. Never waits."""
        snapshot = self._snapshots.get(snapshot_id)
        if snapshot is None or not reach.reads_snapshot(snapshot_id, snapshot.view_id):
            return None
        gone = self._withdrawn.get(snapshot.view_id)
        if gone is None or time.monotonic() >= gone[0] or any(key in snapshot for key in gone[1]):
            return None
        return snapshot

    def snapshot(self, reach: Reach, snapshot_id: str) -> Snapshot:
        """A snapshot by its whole id, if this caller may read it.

        Raises
        ------
        Refusal
            403, if it may not be read; 404, if the caller's own store has none of that id.
        EntryWithdrawnError
            If an entry of it was withdrawn.
        """
        if not SNAPSHOT_ID.fullmatch(snapshot_id):
            raise absent()
        if not (reach.own or reach.views or snapshot_id in reach.snapshots):
            raise not_yours()
        snapshot = self._opened(snapshot_id, reach)
        if not reach.reads_snapshot(snapshot_id, snapshot.view_id):
            raise not_yours()
        gone = self.withdrawn_of(snapshot.view_id)
        if any(key in snapshot for key in gone):
            raise EntryWithdrawnError(
                f"snapshot {snapshot_id[:16]}… names withdrawn entries and must not be used: make a new one."
            )
        return snapshot

    def _opened(self, snapshot_id: str, reach: Reach) -> Snapshot:
        held = self._snapshots.get(snapshot_id)
        if held is not None:
            return held
        try:
            return self._snapshots.put(snapshot_id, self.store.snapshot(snapshot_id))
        except NotCommittedError:
            self.check_there()
            # To others an absent one is like one that was not granted.
            raise (absent() if reach.own else not_yours()) from None

    def granted_snapshots(self, reach: Reach) -> list[Snapshot]:
        """The snapshots that were granted one by one; one that names withdrawn entries is left out."""
        found = []
        for snapshot_id in sorted(reach.snapshots):
            try:
                found.append(self.snapshot(reach, snapshot_id))
            except EntryWithdrawnError:
                continue
        return found

    def withdrawn_of(self, view_id: str) -> frozenset[EntryKey]:
        """Withdrawn entries of a view, as of a moment ago."""
        until, keys = self._withdrawn.get(view_id, (0.0, frozenset()))
        asked = time.monotonic()
        if asked < until:
            return keys
        now = frozenset(withdrawn(self.store.location, view_id))
        with self._guard:
            # Lists only grow: who was slow to read an older one must not put it in the place of a newer one.
            before = self._withdrawn.get(view_id, (0.0, frozenset()))[1]
            keys = before | now
            self._withdrawn[view_id] = (asked + WITHDRAWN_S, keys)
        if keys != before:
            self._forget(view_id, keys)
        return keys

    def _forget(self, view_id: str, keys: Collection[EntryKey]) -> None:
        """Drops from memory what was withdrawn."""
        names = {str(key) for key in keys}
        self._entries.drop(lambda at: at[0] == view_id and at[1] in names)
        prefixes = tuple(f"data/{view_id}/{key}/" for key in keys)
        mine = self.store.store_id
        self.cache.drop(lambda at: at[0] == mine and at[1].startswith((*prefixes, "packs/")))
        self.packs.forget()

    # Kinds of objects

    def _root(self, reach: Reach, rest: str) -> Found:
        return self._whole("engram.json" if not rest else f"engram.json/{rest}", "store", JSON)

    def _view(self, reach: Reach, rest: str) -> Found:
        name = rest.removesuffix(".json")
        # A name or a beginning is no id: nothing is there under it, for anybody.
        if name == rest or not VIEW_ID.fullmatch(name):
            raise absent()
        self.check_view(reach, check_view_id(name))
        return self._whole(view_path(name), name, JSON)

    def check_view(self, reach: Reach, view_id: str) -> None:
        """Passes where a view's specification may be read: all of the view, or a snapshot of it.

        Raises
        ------
        Refusal
            403.
        """
        if not reach.reads_view(view_id) and view_id not in {one.view_id for one in self.granted_snapshots(reach)}:
            raise not_yours()

    def _commit(self, reach: Reach, rest: str) -> Found:
        view_id, key, name = split_entry(rest)
        numbers = list(numbers_in([name]))
        if not numbers or not COMMIT_NAME.fullmatch(name):
            raise absent()
        pinned = self._pinned(reach, view_id, key)
        if pinned is not None and numbers[0] not in {row.number for row in pinned}:
            raise not_yours()
        path = commit_path(view_id, key, numbers[0])
        data = self._get(path)
        digest = sha256(data)
        if pinned is not None and digest not in {row.commit_sha256 for row in pinned}:
            raise BackendError(f"{path} is not the commit that was pinned: `store-schema verify` tells more.")
        ended = isinstance(parse_numbered(data, path=path), TombstoneRecord)
        if not reach.own and not ended and key in self.withdrawn_of(view_id):
            # The project itself keeps its records, as beside the bucket; whoever was granted them has no use for them any more.
            raise gone()
        return Found(data, digest, view_id, JSON)

    def _data(self, reach: Reach, rest: str) -> Found:
        view_id, key, attempt_path = split_entry(rest)
        attempt, _, path = attempt_path.partition("/")
        # First: whoever may not read the entry must not learn that it was withdrawn, or is damaged.
        pinned = self._pinned(reach, view_id, key)
        commit = self.commit_of(view_id, key, attempt)
        if pinned is not None and (commit is None or commit.number not in {row.number for row in pinned}):
            raise not_yours()
        if commit is None or path not in commit.objects:
            raise absent()
        return self.object(commit, path)

    def object(self, commit: CommitRecord, path: str) -> Found:
        """One object of a commit that the caller may read, checked against its digest."""
        if commit.key in self.withdrawn_of(commit.view):
            raise gone()
        at = (self.store.store_id, f"{commit.folder}/{path}")
        data = self.cache.get(at)
        if data is None:
            data = self.cache.put(at, read_object(self.store.location, commit, path))
        return _found(data, commit, path)

    def commit_of(self, view_id: str, key: EntryKey, attempt: str) -> CommitRecord | None:
        """The commit that names an attempt; None where none does."""
        at = (view_id, str(key))
        known = self._entries.get(at)
        if known is None or (attempt not in known.commits and not known.withdrawn):
            # An attempt that is not known may have been committed a moment ago.
            known = self._read_entry(view_id, key)
            if known.commits or known.withdrawn:
                self._entries.replace(at, known)
        if known.withdrawn:
            raise gone()
        return known.commits.get(attempt)

    def attempts(self, view_id: str, key: EntryKey) -> Mapping[str, CommitRecord]:
        """Commits of an entry by the attempt that they name; none where it was withdrawn."""
        return self._read_entry(view_id, key).commits

    def _read_entry(self, view_id: str, key: EntryKey) -> _Entry:
        commits: dict[str, CommitRecord] = {}
        for number in sorted(numbers_in(self.store.location.children(f"commits/{view_id}/{key}"))):
            path = commit_path(view_id, key, number)
            record = parse_numbered(self.store.location.get(path), path=path)
            if isinstance(record, TombstoneRecord):
                return _Entry({}, withdrawn=True)
            commits[record.attempt] = record
        if not commits:
            self.check_there()
        return _Entry(commits, withdrawn=False)

    def _snapshot_list(self, reach: Reach, rest: str) -> Found:
        name = rest.removesuffix(SUFFIX)
        if name == rest:
            raise absent()
        if not (reach.own and SNAPSHOT_ID.fullmatch(name)):
            self.snapshot(reach, name)
        return self._whole(f"snapshots/{name}{SUFFIX}", name)

    def _pack(self, reach: Reach, rest: str) -> Found:
        self.snapshot(reach, rest[:SNAPSHOT_ID_LENGTH])
        found = self.packs.find(rest)
        if found is None:
            self.check_there()
            raise absent()
        return found

    def _withdrawn_list(self, reach: Reach, rest: str) -> Found:
        view_id, _, name = rest.partition("/")
        # Whoever reads single snapshots learns of no other patient: these snapshots are refused as a whole.
        if not reach.reads_view(check_view_id(view_id)) or not COMMIT_NAME.fullmatch(name):
            raise absent()
        return self._whole(f"withdrawn/{view_id}/{name}", view_id, JSON)

    def _run(self, reach: Reach, rest: str) -> Found:
        if not reach.own:
            raise not_yours()
        run_id, _, name = rest.partition("/")
        path = f"runs/{check_id('run', run_id)}/{check_id('record', name)}"
        return self._whole(path, f"run {run_id}")

    # Common

    def _pinned(self, reach: Reach, view_id: str, key: EntryKey) -> list[SnapshotRow] | None:
        """The pins by which an entry may be read; None where all of its view may.

        Raises
        ------
        Refusal
            403, if there is none.
        """
        if reach.reads_view(view_id):
            return None
        snapshots = [one for one in self.granted_snapshots(reach) if one.view_id == view_id and key in one]
        if not snapshots:
            raise not_yours()
        return [one.row(key) for one in snapshots]

    def _whole(self, path: str, target: str, media_type: str = "application/octet-stream") -> Found:
        data = self._get(path)
        return Found(data, sha256(data), target, media_type)

    def _get(self, path: str) -> bytes:
        try:
            return self.store.location.get(path)
        except ObjectMissingError:
            self.check_there()
            raise absent() from None

    def check_there(self) -> None:
        """Passes where the store is still in its place: in an empty folder that should be mounted everything would be absent.

        Raises
        ------
        StoreNotFoundError
            If it is not, or another one is there.
        """
        try:
            there = parse_record(StoreRecord, self.store.location.get(ROOT_RECORD), where=ROOT_RECORD).store_id
        except (ObjectMissingError, SchemaError):
            there = None
        if there != self.store.store_id:
            raise StoreNotFoundError(
                "the store of this project is not in its place: whoever runs the service must look."
            )


def split_entry(rest: str) -> tuple[str, EntryKey, str]:
    """View, entry and what follows, of a path below `commits` or `data`."""
    names = rest.split("/", 4)
    if len(names) != 5:
        raise absent()
    return check_view_id(names[0]), EntryKey(*names[1:4]), names[4]


def _weight(entry: _Entry) -> int:
    return 500 + sum(weight(commit) for commit in entry.commits.values())


def _found(data: bytes, commit: CommitRecord, path: str) -> Found:
    kind = JSON if path.endswith("zarr.json") else "application/octet-stream"
    return Found(data, commit.objects[path].sha256, commit.view, kind)


def absent() -> Refusal:
    """404."""
    return not_found("no commit of this store lists that: list what is there with `store-schema ls URL`.")


def not_yours() -> Refusal:
    """403."""
    return forbidden("this was not granted to your project, or is not there.")


def gone() -> EntryWithdrawnError:
    """410."""
    return EntryWithdrawnError("the entry was withdrawn: it can be neither read nor written. Make a new snapshot.")
