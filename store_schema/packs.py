"""Packs: one array of all entries of a snapshot, as one Zarr group that is read at once; decides nothing about an entry.

A pack is derived: it can be made again from its snapshot, and is committed like an entry, by a create-only record that lists every
object with its digest. Its bytes come from reads that checked every digest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import batched, chain
from typing import Any, Literal

import numpy as np
import zarr
from pydantic import Field
from zarr.storage import MemoryStore

from store_schema.arrays import dtype_in
from store_schema.commits import FRESH_S, create_or_read
from store_schema.errors import (
    BackendError,
    EntryWithdrawnError,
    NotCommittedError,
    ObjectMissingError,
    SchemaError,
    StoreError,
    UsageError,
)
from store_schema.keys import EntryKey
from store_schema.location import Location
from store_schema.parallel import Guard, each
from store_schema.records import ObjectRecord, SealedRecord, parse_record, sha256, unseal
from store_schema.shards import (
    ENTRY,
    SHARD_ENTRIES,
    Buffer,
    chunk_name,
    compression_pays,
    create_array,
    decode_shard,
    fetch,
    is_compressed,
)
from store_schema.snapshot import Snapshot
from store_schema.withdrawals import withdrawn
from store_schema.writer import seconds_passed, utc_now, uuid4_hex

Kind = Literal["mean_map", "memory"]
KINDS: tuple[Kind, ...] = ("mean_map", "memory")
COORDINATES = ("patient", "modality", "roi", "number")
STRINGS = np.dtypes.StringDType()
MEMORY_BYTES = 256 * 2**20
"""What a pack is read or written with, at most, besides the array that is asked for and one object in hand."""
FETCHED_COPIES = 2
"""Of an object in memory while it is fetched: what has arrived, and what is being taken over."""
COPIES = 3
"""Of an entry in memory while it is read: compressed, decompressed, decoded."""
Told = Callable[[int, int], None]


class PackRecord(SealedRecord):
    """What makes a pack visible: which attempt it is, and every object of it."""

    snapshot: str = Field(pattern=r"^[0-9a-f]{64}$")
    kind: Kind
    attempt: str = Field(pattern=r"^[0-9a-f]{32}$")
    rows: int = Field(ge=1)
    objects: dict[str, ObjectRecord]
    """By path relative to the attempt's folder."""
    written_at: str
    """UTC, by the writer's clock; for people."""


@dataclass(frozen=True)
class Pack:
    """One array of all entries of a snapshot, in the snapshot's order."""

    snapshot: Snapshot
    record: PackRecord
    memory_bytes: int = MEMORY_BYTES
    """Of objects that are read at once, besides the array that is filled; one that is larger goes alone."""
    _held: dict[int, Buffer] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Objects that were read and checked before, where a caller asked to hold them."""
    _holding: Guard = field(default_factory=Guard, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[Pack], tuple[Snapshot, PackRecord, int]]:
        """A pickled pack is its snapshot's address and its record: what is held does not travel."""
        return Pack, (self.snapshot, self.record, self.memory_bytes)

    @property
    def folder(self) -> str:
        """Where its Zarr group lies, relative to the store's root."""
        return f"{pack_folder(self.snapshot.id, self.record.kind)}/{self.record.attempt}"

    @property
    def url(self) -> str:
        """Address for `xr.open_zarr(url)`; readers of it check the checksums of chunks, not the record's digests."""
        return f"{self.snapshot.url}/{self.folder}"

    @property
    def held_bytes(self) -> int:
        """What is held of its objects now."""
        with self._holding:
            return sum(map(len, self._held.values()))

    @cached_property
    def _layout(self) -> tuple[tuple[int, ...], str, bool]:
        """The array's shape and dtype, and whether its entries are compressed; checked to be of a form that is decoded here."""
        metadata = json.loads(bytes(self._object(f"{self.record.kind}/zarr.json")))
        compressed = is_compressed(metadata, self.record.kind)
        if compressed is None or metadata["shape"][:1] != [len(self.snapshot)]:
            raise SchemaError(
                f"{self.url} is laid out in a way that this version does not read: open it with xarray, or delete "
                "the pack's folder and make it again."
            )
        return tuple(metadata["shape"]), metadata["data_type"], compressed

    def load(
        self, keys: Sequence[EntryKey] | None = None, *, hold_bytes: int = 0, parallel: int | None = None
    ) -> np.ndarray:
        """The array of some entries in their order, or of all in the snapshot's; every byte checked against the record.

        Parameters
        ----------
        keys
            Entries, all of the snapshot by default.
        hold_bytes
            How much of what is read may be held, so that other entries of the same objects cost no request any more.
        parallel
            Requests in flight; by default what the place bears.

        Raises
        ------
        NotCommittedError
            If the snapshot lacks a key.
        ObjectMissingError, ObjectAlteredError
            If an object is gone or is not the one recorded.
        """
        wanted = range(len(self.snapshot)) if keys is None else [self._row(key) for key in keys]
        (_, *entry), dtype, _ = self._layout
        values = np.empty((len(wanted), *entry), np.dtype(dtype).newbyteorder("<"))
        places: dict[int, list[tuple[int, int]]] = {}
        for place, row in enumerate(wanted):
            places.setdefault(row // SHARD_ENTRIES, []).append((row % SHARD_ENTRIES, place))
        self._fill(values, places, hold_bytes, self.snapshot.location.parallel if parallel is None else parallel)
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    def _fill(
        self, values: np.ndarray, places: dict[int, list[tuple[int, int]]], hold_bytes: int, parallel: int
    ) -> None:
        """Fetches and decodes the objects: as many at once as memory allows, each by as many requests as are free."""
        _, _, compressed = self._layout
        shards = sorted(places)
        with ThreadPoolExecutor(max(1, parallel)) as requests:

            def read(shard: int) -> Buffer:
                path = self._chunk(shard)
                data = self._held.get(shard) or self._object(path, requests)
                decode_shard(data, places[shard], values, compressed=compressed, where=f"{self.url}/{path}")
                return data

            with closing(each(read, shards, parallel=parallel, weigh=self._weight, limit=self.memory_bytes)) as objects:
                for shard, data in zip(shards, objects, strict=True):
                    self._hold(shard, data, hold_bytes)

    def _hold(self, shard: int, data: Buffer, hold_bytes: int) -> None:
        with self._holding:
            if shard not in self._held and sum(map(len, self._held.values())) + len(data) <= hold_bytes:
                self._held[shard] = data

    def _weight(self, shard: int) -> int:
        """Bytes that an object takes while it is fetched and decoded, an entry at a time."""
        recorded = self.record.objects.get(self._chunk(shard))
        return 0 if recorded is None or shard in self._held else FETCHED_COPIES * recorded.size_bytes

    def _chunk(self, shard: int) -> str:
        return f"{self.record.kind}/{chunk_name(shard, len(self._layout[0]))}"

    def _object(self, path: str, requests: Executor | None = None) -> Buffer:
        """One object, checked."""
        place, expected = f"{self.folder}/{path}", self.record.objects.get(path)
        if expected is None:
            raise ObjectMissingError(
                f"{self.snapshot.url}/{place} is not among the objects of its pack: delete the pack's folder and make it "
                "again."
            )
        return fetch(self.snapshot.location, place, expected, requests)

    @cached_property
    def _rows(self) -> dict[EntryKey, int]:
        return {row.key: i for i, row in enumerate(self.snapshot.rows)}

    def _row(self, key: EntryKey) -> int:
        row = self._rows.get(key)
        if row is None:
            raise NotCommittedError(
                f"snapshot {self.snapshot.id[:16]}… of {self.snapshot.view_id} does not hold {key}."
            )
        return row


def pack_folder(snapshot_id: str, kind: str) -> str:
    """Folder of a pack relative to the store's root."""
    return f"packs/{snapshot_id}-{kind}"


def record_path(snapshot_id: str, kind: str) -> str:
    """Path of a pack's record relative to the store's root."""
    return f"{pack_folder(snapshot_id, kind)}/000000.json"


def open_pack(snapshot: Snapshot, kind: str) -> Pack | None:
    """The pack of a snapshot; None where there is none.

    Raises
    ------
    ObjectAlteredError, SchemaError
        If its record is damaged or is another pack's.
    """
    try:
        data = snapshot.location.get(record_path(snapshot.id, kind))
    except ObjectMissingError:
        return None
    return Pack(snapshot, _parsed(data, snapshot, kind))


def _parsed(data: bytes, snapshot: Snapshot, kind: str) -> PackRecord:
    path = record_path(snapshot.id, kind)
    record = parse_record(PackRecord, unseal(data, where=path), where=path)
    if (record.snapshot, record.kind, record.rows) != (snapshot.id, kind, len(snapshot)):
        raise SchemaError(
            f"{path} is the record of another pack: {record.kind} of {record.snapshot[:16]}…, {record.rows} rows."
        )
    return record


def make_pack(
    snapshot: Snapshot, kind: str, *, told: Told | None = None, passed: Callable[[], float] = seconds_passed
) -> Pack:
    """Writes the pack of a snapshot, or gives the one that is there; a shard at a time, so that memory stays small.

    Parameters
    ----------
    passed
        Seconds since some moment: how old the pack's data is when it is to be made visible.

    Raises
    ------
    NotCommittedError
        If the snapshot is empty, or its view has no such array.
    EntryWithdrawnError
        If an entry was withdrawn meanwhile.
    BackendError
        If writing took so long that `gc` may have taken the data for a dead writer's.
    """
    if kind not in KINDS:
        raise UsageError(f"{kind!a} is no kind of pack: expected {' or '.join(KINDS)}.")
    found = open_pack(snapshot, kind)
    if found is None and snapshot.location.make_pack(snapshot.id, kind):
        found = open_pack(snapshot, kind)
    if found is not None:
        return found
    if not len(snapshot):
        raise NotCommittedError(f"snapshot {snapshot.id[:16]}… holds no entry: nothing can be packed.")
    attempt, began = uuid4_hex(), passed()
    folder = f"{pack_folder(snapshot.id, kind)}/{attempt}"
    objects: dict[str, ObjectRecord] = {}
    for path, data in _staged(snapshot, kind, told):
        snapshot.location.put(f"{folder}/{path}", data)
        objects[path] = ObjectRecord(size_bytes=len(data), sha256=sha256(data))
    if passed() - began >= FRESH_S:
        raise BackendError(
            f"the pack took over {FRESH_S / 3600:.0f} hours to write, and `gc` may have erased its first data: it was not made "
            "visible. Check the connection and run it again."
        )
    rows, now = len(snapshot), utc_now()
    record = PackRecord(snapshot=snapshot.id, kind=kind, attempt=attempt, rows=rows, objects=objects, written_at=now)
    there = create_or_read(snapshot.location, record_path(snapshot.id, kind), record.to_bytes())
    pack = Pack(snapshot, record if there is None else _parsed(there, snapshot, kind))
    _refuse_withdrawn(snapshot.location, pack)
    return pack


def _refuse_withdrawn(location: Location, pack: Pack) -> None:
    """Erases a pack that was made while an entry of it was withdrawn: whoever withdrew may have looked before it was there."""
    gone = [key for key in withdrawn(location, pack.snapshot.view_id) if key in pack.snapshot]
    if not gone:
        return
    location.delete(record_path(pack.snapshot.id, pack.record.kind))
    for path in location.paths(pack_folder(pack.snapshot.id, pack.record.kind)):
        location.delete(path)
    raise EntryWithdrawnError(f"{gone[0]} was withdrawn while it was packed: the pack was erased. Make a new snapshot.")


def _staged(snapshot: Snapshot, kind: str, told: Told | None) -> Iterator[tuple[str, bytes]]:
    """The objects of a pack's Zarr group, shard after shard, its metadata last."""
    held: dict[str, Any] = {}
    shape = snapshot.view.layout.shape
    group = zarr.create_group(
        MemoryStore(held),
        zarr_format=3,
        attributes={"snapshot": snapshot.id, "view": snapshot.view_id, "kind": kind},
    )
    entry, dtype = shape if kind == "memory" else shape[2:], dtype_in(snapshot.view.layout, kind)
    shards = _shards(snapshot, kind, entry)
    first = next(shards)
    array = create_array(group, kind, (len(snapshot), *entry), dtype=dtype, compressed=compression_pays(first))
    _write_coordinates(group, snapshot)
    done = 0
    for shard, values in enumerate(chain([first], shards)):
        start = shard * SHARD_ENTRIES
        array[start : start + len(values)] = values
        path = f"{kind}/{chunk_name(shard, array.ndim)}"
        yield path, held.pop(path).to_bytes()
        done += len(values)
        if told is not None:
            told(done, len(snapshot))
    metadata = {name: json.loads(held[f"{name}/zarr.json"].to_bytes()) for name in (kind, *COORDINATES)}
    root = json.loads(held.pop("zarr.json").to_bytes())
    # xarray asks for it, and warns where it is absent. Zarr v3 readers that do not know it pass over it.
    root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": metadata}
    yield from ((path, buffer.to_bytes()) for path, buffer in held.items())
    yield "zarr.json", json.dumps(root).encode()


def _shards(snapshot: Snapshot, kind: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The entries in the snapshot's order, as many as one object holds at a time."""
    dtype = np.dtype(dtype_in(snapshot.view.layout, kind))

    def read(key: EntryKey) -> np.ndarray:
        values = np.asarray(snapshot.read(key, arrays=[kind]).arrays[kind])
        if (values.shape, values.dtype) != (shape, dtype):
            raise StoreError(
                f"{key} has a {kind} of {values.dtype} and shape {values.shape}, its view declares {dtype} and {shape}: it cannot "
                "be packed."
            )
        return values

    size = math.prod(shape) * dtype.itemsize
    parallel = snapshot.location.parallel
    read_all = _bounded(read, snapshot.keys, parallel=parallel, size_bytes=size, limit=MEMORY_BYTES)
    yield from (np.stack(values) for values in batched(read_all, SHARD_ENTRIES))


def _bounded[A](
    read: Callable[[A], np.ndarray], items: Iterable[A], *, parallel: int, size_bytes: int, limit: int
) -> Iterator[np.ndarray]:
    """What is read of each item, by as many requests at once as memory allows for values of this size."""
    return each(read, items, parallel=parallel, weigh=lambda _: COPIES * size_bytes, limit=limit)


def _write_coordinates(group: zarr.Group, snapshot: Snapshot) -> None:
    rows = snapshot.rows
    for name in COORDINATES:
        text = [getattr(row.key, name) for row in rows] if name != "number" else None
        values = np.array([row.number for row in rows], np.int32) if text is None else np.array(text, STRINGS)
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=values.shape, dimension_names=(ENTRY,),
            config={"write_empty_chunks": True},
        )  # fmt: skip
        array[...] = values
    group.attrs["coordinates"] = " ".join(COORDINATES)
