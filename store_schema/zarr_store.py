"""A snapshot as a read-only Zarr v3 store: PATIENT/MODALITY/ROI/memory, for zarr and xarray; checks every object it serves.

A name that the snapshot does not hold is absent. A name that it holds and that cannot be read raises, since a reader takes an
absent chunk for zeros.
"""

from __future__ import annotations

import asyncio
import builtins
import json
from collections.abc import AsyncIterator, Iterable
from functools import lru_cache

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from store_schema.errors import ObjectMissingError, StoreError
from store_schema.keys import EntryKey
from store_schema.reader import read_object
from store_schema.records import CommitRecord
from store_schema.snapshot import Snapshot

GROUP_METADATA = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}).encode()
COMMITS_HELD = 4096
"""Parsed commits kept in memory; they are immutable."""


class SnapshotStore(Store):
    """The entries of one snapshot as one Zarr hierarchy: `zarr.open_group(SnapshotStore(snapshot), mode="r")`.

    Object digests are checked at every read, so that byte ranges cost the whole object.
    """

    supports_writes = False
    supports_deletes = False
    supports_partial_writes = False
    supports_listing = True

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(read_only=True)
        self.snapshot = snapshot
        self._commit = lru_cache(maxsize=COMMITS_HELD)(snapshot.commit)
        self._children = _tree(snapshot.keys)
        self._groups = {f"{f}/zarr.json".lstrip("/") for f in self._children if f.count("/") < 2}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SnapshotStore) and other.snapshot.id == self.snapshot.id

    def __hash__(self) -> int:
        return hash(self.snapshot.id)

    def __repr__(self) -> str:
        return f"SnapshotStore({self.snapshot.url!r}, {self.snapshot.id[:16]}…)"

    def __reduce__(self) -> tuple[type[SnapshotStore], tuple[Snapshot]]:
        return SnapshotStore, (self.snapshot,)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes of a Zarr key, or None where the snapshot has no such name."""
        data = await asyncio.to_thread(self.read, key)
        return None if data is None else prototype.buffer.from_bytes(_part(data, byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> builtins.list[Buffer | None]:
        """Several parts of keys."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether the snapshot holds this name; the object itself is not read."""
        entry, path = self._split(key)
        if entry is None:
            return path is not None
        return path in self._commit(entry).objects

    def read(self, key: str) -> bytes | None:
        """The bytes behind a Zarr key, checked; None where the snapshot has no such name.

        Raises
        ------
        ObjectMissingError, ObjectAlteredError
            If the name is committed and its object is gone or another, or if a chunk of a committed array is not listed.
        """
        entry, path = self._split(key)
        if entry is None:
            return None if path is None else GROUP_METADATA
        commit = self._commit(entry)
        if path in commit.objects:
            return read_object(self.snapshot.location, commit, str(path))
        if path is not None and _is_chunk(commit, path):
            raise ObjectMissingError(
                f"{self!r}: {key} is a chunk of a committed array, and commit {commit.number} lists it not."
            )
        return None

    def _split(self, key: str) -> tuple[EntryKey | None, str | None]:
        """Entry and path within it; without an entry, the path is not None for a group's metadata."""
        if key in self._groups:
            return None, key
        *names, path = key.split("/", 3)
        if len(names) < 3 or "/".join(names) not in self._children:
            return None, None
        return EntryKey(*names), path

    async def list(self) -> AsyncIterator[str]:
        """Every key."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Every key that starts with the prefix."""
        folders = [f for f in sorted(self._children) if f.startswith(prefix) or prefix.startswith(f"{f}/" if f else "")]
        for folder in folders:
            for key in await asyncio.to_thread(self._keys_of, folder):
                if key.startswith(prefix):
                    yield key

    def _keys_of(self, folder: str) -> builtins.list[str]:
        if folder.count("/") < 2:
            return [f"{folder}/zarr.json".lstrip("/")]
        return [f"{folder}/{path}" for path in sorted(self._commit(EntryKey.parse(folder)).objects)]

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names directly below a prefix."""
        folder = prefix.strip("/")
        if folder in self._children and folder.count("/") < 2:
            names = ["zarr.json", *self._children[folder]]
        else:
            names = await asyncio.to_thread(self._names_within, folder)
        for name in names:
            yield name

    def _names_within(self, folder: str) -> builtins.list[str]:
        """Names below a folder inside an entry."""
        parts = folder.split("/")
        if "/".join(parts[:3]) not in self._children:
            return []
        within = "/".join(parts[3:])
        start = f"{within}/" if within else ""
        paths = self._commit(EntryKey(*parts[:3])).objects
        return sorted({path[len(start) :].split("/")[0] for path in paths if path.startswith(start)})

    async def set(self, key: str, value: Buffer) -> None:
        """Refuses: a snapshot never changes."""
        raise StoreError(f"{self!r} is read-only: {key} was not written.")

    async def delete(self, key: str) -> None:
        """Refuses: a snapshot never changes."""
        raise StoreError(f"{self!r} is read-only: {key} was not deleted.")


def _tree(keys: Iterable[EntryKey]) -> dict[str, builtins.list[str]]:
    """Names below each group above and at the entries; the root is the empty name."""
    children: dict[str, dict[str, None]] = {"": {}}
    for key in keys:
        folder = ""
        for name in (key.patient, key.modality, key.roi):
            children[folder][name] = None
            folder = f"{folder}/{name}".lstrip("/")
            children.setdefault(folder, {})
    return {folder: sorted(names) for folder, names in children.items()}


def _is_chunk(commit: CommitRecord, path: str) -> bool:
    name, _, rest = path.partition("/")
    return name in commit.arrays and (rest == "c" or rest.startswith("c/"))


def _part(data: bytes, byte_range: ByteRequest | None) -> bytes:
    match byte_range:
        case None:
            return data
        case RangeByteRequest(start, end):
            return data[start:end]
        case OffsetByteRequest(offset):
            return data[offset:]
        case SuffixByteRequest(suffix):
            return data[max(0, len(data) - suffix) :]
        case unknown:
            raise TypeError(f"expected a byte range of zarr, got {unknown!r}")
