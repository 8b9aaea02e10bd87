"""Reads many entries of a snapshot at once, in order and in bounded memory, every byte checked; knows no model and no cohort."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from store_schema.arrays import ARRAYS
from store_schema.commits import commit_path, parse_commit
from store_schema.disk_cache import DiskCache
from store_schema.errors import ObjectAlteredError
from store_schema.keys import EntryKey
from store_schema.packs import KINDS, open_pack
from store_schema.parallel import each
from store_schema.reader import StoredEntry, checked, read_entry, read_object
from store_schema.records import CommitRecord, sha256
from store_schema.snapshot import Snapshot
from store_schema.withdrawals import withdrawn

MEMORY_BYTES = 256 * 2**20
COPIES = 3
"""Of an entry in memory while it is read: compressed, decompressed, decoded."""


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
    """Bytes of entries that are read and not yet taken, besides the one in hand."""
    cache: DiskCache | None = None

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
        parallel = self.snapshot.location.parallel if self.parallel is None else self.parallel
        window = max(1, self.memory_bytes // self._entry_bytes)
        wanted = self.snapshot.keys if keys is None else keys
        return each(self._entry, wanted, parallel=min(parallel, window), window=min(window, 4 * parallel))

    def stack(self, name: str, keys: Sequence[EntryKey]) -> np.ndarray:
        """One array of these entries along a new first axis; from the snapshot's pack, unasked, where there is one.

        A pack gives the very values of the entries. One that is damaged raises: it is never quietly passed over.

        Raises
        ------
        NotCommittedError, ObjectMissingError, ObjectAlteredError
            See `read`.
        """
        pack = open_pack(self.snapshot, name) if name in KINDS else None
        if pack is not None:
            return pack.load(keys)
        if not keys:
            return np.empty((0, *self._shapes[name]), ARRAYS[name].dtype)
        reader = (
            self
            if self.arrays == (name,)
            else BulkReader(self.snapshot, (name,), self.parallel, self.memory_bytes, self.cache)
        )
        entries = reader.read(keys)
        first = next(entries).arrays[name]
        values = np.empty((len(keys), *first.shape), first.dtype)
        values[0] = first
        for i, entry in enumerate(entries, start=1):
            values[i] = entry.arrays[name]
        return values

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shape = self.snapshot.view.layout.shape
        return {"memory": shape, "mean_map": shape[2:]}

    @property
    def _entry_bytes(self) -> int:
        """What an entry takes while it is read; masks and previews count as much as a memory, since no view declares their size."""
        memory = math.prod(self.snapshot.view.layout.shape) * 4
        return COPIES * sum(
            math.prod(self._shapes[name]) * np.dtype(ARRAYS[name].dtype).itemsize if name in self._shapes else memory
            for name in self.arrays
        )

    def _entry(self, key: EntryKey) -> StoredEntry:
        if self.cache is None:
            return self.snapshot.read(key, arrays=self.arrays)
        commit = self._commit(self.cache, key)
        return read_entry(self.snapshot.location, commit, arrays=self.arrays, fetch=self._object)

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

    def _object(self, commit: CommitRecord, path: str) -> bytes:
        expected = commit.objects.get(path)
        held = None if expected is None or self.cache is None else self.cache.get(expected.sha256)
        if held is not None:
            return checked(held, commit, path, where="the local cache")
        data = read_object(self.snapshot.location, commit, path)
        if self.cache is not None:
            self.cache.put(sha256(data), data)
        return data

    def _drop_withdrawn(self) -> None:
        """What was withdrawn goes from the local disk as soon as anybody reads the view again."""
        if self.cache is not None:
            for digests in withdrawn(self.snapshot.location, self.snapshot.view_id).values():
                self.cache.purge(digests)
