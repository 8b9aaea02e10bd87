"""Reads many entries of a snapshot at once, in order and in bounded memory, every byte checked; knows no model and no cohort."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from store_schema.arrays import dtype_in
from store_schema.commits import commit_path, parse_commit
from store_schema.direct import Addressed, DirectReader
from store_schema.disk_cache import DiskCache
from store_schema.errors import EngramError, ObjectAlteredError, StoreError
from store_schema.keys import EntryKey
from store_schema.packs import KINDS, Pack, open_pack
from store_schema.parallel import each
from store_schema.reader import StoredEntry, checked, read_entry, read_object
from store_schema.records import CommitRecord, sha256
from store_schema.snapshot import Snapshot
from store_schema.withdrawals import withdrawn

MEMORY_BYTES = 256 * 2**20
DECODED_COPIES = 2
"""Of an entry's values while they are decoded, besides its objects: decompressed, and in their array."""
COMMIT_BYTES = 32 * 2**10
"""What a commit takes in memory, about."""


@dataclass(frozen=True)
class BulkReader:
    """Reads entries of one snapshot by many requests at once.

    It may be sent to other processes, which open their own connections; after `fork` it refuses to read from object storage.
    """

    snapshot: Snapshot
    arrays: tuple[str, ...] = ("mean_map",)
    parallel: int | None = None
    """Requests in flight; by default what the place bears."""
    memory_bytes: int = MEMORY_BYTES
    """Of entries that are at work or not yet taken, raw and decoded, besides the one in hand; one that is larger goes alone."""
    cache: DiskCache | None = None
    direct_bytes: int = 64 * 2**10
    """Objects of this size and more are read from the bucket itself where a service gives addresses there; smaller ones come
    sooner through the service."""
    hold_bytes: int | None = None
    """What may be held of each pack, so that other entries of it cost no request; as much as `memory_bytes` by default."""
    _packs: dict[str, Pack] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[BulkReader], tuple[object, ...]]:
        """A pickled reader is addresses and settings: nothing that was read travels."""
        return BulkReader, (
            self.snapshot, self.arrays, self.parallel, self.memory_bytes, self.cache, self.direct_bytes, self.hold_bytes,
        )  # fmt: skip

    @property
    def held_bytes(self) -> int:
        """What is held of packs now."""
        return sum(pack.held_bytes for pack in list(self._packs.values()))

    def read(self, keys: Sequence[EntryKey] | None = None) -> Iterator[StoredEntry]:
        """Entries in the order of the keys, all of the snapshot by default.

        The first that cannot be read raises in its turn; reading stops when the caller stops taking.

        Raises
        ------
        NotCommittedError
            If the snapshot lacks a key, or an entry one of the arrays.
        ObjectMissingError, ObjectAlteredError
            If an object is gone or is not the one committed.
        """
        self._drop_withdrawn()
        return self._entries(self.snapshot.keys if keys is None else keys)

    def stack(self, name: str, keys: Sequence[EntryKey]) -> np.ndarray:
        """One array of these entries along a new first axis; from the snapshot's pack, unasked, where there is one.

        A pack gives the very values of the entries. One that is damaged raises: it is never quietly passed over.

        Raises
        ------
        NotCommittedError, ObjectMissingError, ObjectAlteredError
            See `read`.
        StoreError
            If the entries' arrays have different shapes, as masks have.
        """
        pack = self._pack(name)
        if pack is not None:
            hold_bytes = self.memory_bytes if self.hold_bytes is None else self.hold_bytes
            return pack.load(keys, hold_bytes=hold_bytes, parallel=self.parallel)
        if not keys:
            return self._nothing(name)
        reader = self if self.arrays == (name,) else replace(self, arrays=(name,))
        entries = reader.read(keys)
        first = next(entries).arrays[name]
        values = np.empty((len(keys), *first.shape), first.dtype)
        values[0] = first
        for i, entry in enumerate(entries, start=1):
            if entry.arrays[name].shape != first.shape:
                raise StoreError(
                    f"'{name}' is {first.shape} in {keys[0]} and {entry.arrays[name].shape} in {entry.key}: arrays of one shape "
                    "can be stacked, others are read one by one with `read`."
                )
            values[i] = entry.arrays[name]
        return values

    def _nothing(self, name: str) -> np.ndarray:
        """The array of no entry at all."""
        if name not in KINDS:
            raise StoreError(
                f"no entry was asked for, and the view declares no shape of '{name}': give at least one key."
            )
        shape = self.snapshot.view.layout.shape
        return np.empty((0, *(shape if name == "memory" else shape[2:])), dtype_in(self.snapshot.view.layout, name))

    def _pack(self, name: str) -> Pack | None:
        if name in KINDS and name not in self._packs:
            self._drop_withdrawn()
            found = open_pack(self.snapshot, name)
            # One that is not there may be written later: it is asked for again.
            self._packs.update({} if found is None else {name: replace(found, memory_bytes=self.memory_bytes)})
        return self._packs.get(name)

    def _entries(self, keys: Sequence[EntryKey]) -> Iterator[StoredEntry]:
        """Commits are read ahead by half of the requests: they tell how large an entry is before it is read."""
        parallel = self.snapshot.location.parallel if self.parallel is None else self.parallel
        ahead = max(1, parallel // 2)
        direct = DirectReader(self.snapshot, self.arrays, self.direct_bytes)
        with closing(each(self._found, keys, parallel=ahead)) as commits:
            yield from each(
                partial(self._entry, direct),
                direct.addressed(commits),
                parallel=parallel - ahead,
                weigh=lambda one: self._weight(one.commit),
                limit=self.memory_bytes,
            )

    def _found(self, key: EntryKey) -> CommitRecord | EngramError:
        """The commit, or why there is none: to be raised in the entry's turn."""
        try:
            return self.snapshot.commit(key) if self.cache is None else self._commit(self.cache, key)
        except EngramError as error:
            return error

    def _weight(self, commit: CommitRecord | EngramError) -> int:
        """Bytes that an entry takes while it is read."""
        if isinstance(commit, EngramError):
            return 0
        prefixes = tuple(f"{name}/c" for name in self.arrays)
        raw = sum(one.size_bytes for path, one in commit.objects.items() if path.startswith(prefixes))
        decoded: int = sum(
            math.prod(commit.arrays[name]["shape"]) * np.dtype(commit.arrays[name]["data_type"]).itemsize
            for name in self.arrays
            if name in commit.arrays
        )
        return COMMIT_BYTES + raw + DECODED_COPIES * decoded

    def _entry(self, direct: DirectReader, one: Addressed) -> StoredEntry:
        if isinstance(one.commit, EngramError):
            raise one.commit

        def fetch(commit: CommitRecord, path: str) -> bytes:
            return self._object(commit, path, lambda size_bytes: direct.get(one, path, size_bytes))

        return read_entry(self.snapshot.location, one.commit, arrays=self.arrays, fetch=fetch)

    def _commit(self, cache: DiskCache, key: EntryKey) -> CommitRecord:
        row = self.snapshot.row(key)
        data = cache.get(row.commit_sha256)
        path = commit_path(self.snapshot.view_id, key, row.number)
        if data is None:
            data = self.snapshot.location.get(path)
            if sha256(data) != row.commit_sha256:
                raise ObjectAlteredError(f"{self.snapshot.url}/{path} is not the commit that the snapshot pinned.")
            cache.put(row.commit_sha256, data)
        return parse_commit(data, path=path)

    def _object(self, commit: CommitRecord, path: str, direct: Callable[[int], bytes | None]) -> bytes:
        """One object, checked: of the cache, or as it can be had without the store, or as the store gives it."""
        expected = commit.objects.get(path)
        if expected is None:
            return read_object(self.snapshot.location, commit, path)
        # What the cache gives has this digest: it was checked there, and as it was read from the store.
        held = None if self.cache is None else self.cache.get(expected.sha256)
        if held is not None:
            return held
        data = direct(expected.size_bytes)
        if data is None:
            data = read_object(self.snapshot.location, commit, path)
        else:
            checked(data, commit, path, where=f"{commit.folder}/{path} in the bucket of {self.snapshot.url}")
        if self.cache is not None:
            self.cache.put(expected.sha256, data)
        return data

    def _drop_withdrawn(self) -> None:
        """What was withdrawn goes from the local disk as soon as anybody reads the view again."""
        if self.cache is not None:
            for digests in withdrawn(self.snapshot.location, self.snapshot.view_id).values():
                self.cache.purge(digests)
