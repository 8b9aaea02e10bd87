"""Packs: one array of all entries of a snapshot, as one Zarr group that is read at once; decides nothing about an entry.

A pack is derived: it can be made again from its snapshot, and is committed like an entry, by a create-only record that lists every
object with its digest. Its bytes come from reads that checked every digest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import batched
from typing import Any, Literal

import numpy as np
import zarr
from numcodecs import Zstd
from pydantic import Field
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from store_schema.arrays import ARRAYS, ZSTD_LEVEL, dtype_in, dtypes
from store_schema.commits import FRESH_S, create_or_read
from store_schema.errors import (
    BackendError,
    EntryWithdrawnError,
    NotCommittedError,
    ObjectAlteredError,
    ObjectMissingError,
    SchemaError,
    StoreError,
    UsageError,
)
from store_schema.keys import EntryKey
from store_schema.location import Location
from store_schema.parallel import each
from store_schema.records import ObjectRecord, SealedRecord, parse_record, sha256, unseal
from store_schema.snapshot import Snapshot
from store_schema.withdrawals import withdrawn
from store_schema.writer import seconds_passed, utc_now, uuid4_hex

Kind = Literal["mean_map", "memory"]
KINDS: tuple[Kind, ...] = ("mean_map", "memory")
SHARD_ENTRIES = 50
"""Entries in one object: a reader of a cohort makes 50 times fewer requests, a reader of one entry still finds its own chunk."""
ENTRY = "entry"
"""Name of the axis that the entries lie along."""
COORDINATES = ("patient", "modality", "roi", "number")
STRINGS = np.dtypes.StringDType()
DECIDING = ("zarr_format", "node_type", "data_type", "chunk_grid", "chunk_key_encoding", "codecs")
"""Members of an array's metadata that decide how its bytes are decoded."""
CRC_BYTES = 4
MEMORY_BYTES = 256 * 2**20
"""What a pack is read or written with, at most, besides the array that is asked for and one object in hand."""
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
    _held: dict[int, bytes] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Objects that were read and checked before, where a caller asked to hold them."""

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

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        """The array's Zarr metadata, checked to be of the one form that is decoded here, in a dtype that it may have."""
        metadata: dict[str, Any] = json.loads(self._object(f"{self.record.kind}/zarr.json"))
        held: dict[str, Any] = {}
        shape, kind = tuple(metadata["shape"]), self.record.kind
        dtype = next((one for one in dtypes(kind, shape[1:]) if one == metadata["data_type"]), ARRAYS[kind].dtype)
        _create_array(zarr.create_group(MemoryStore(held), zarr_format=3), kind, shape, dtype)
        expected = json.loads(held[f"{self.record.kind}/zarr.json"].to_bytes())
        told = {key: metadata.get(key) for key in DECIDING}
        if told != {key: expected.get(key) for key in DECIDING} or metadata["shape"][0] != len(self.snapshot):
            raise SchemaError(
                f"{self.url} is laid out in a way that this version does not read: open it with xarray, or delete "
                "the pack's folder and make it again."
            )
        return metadata

    def load(self, keys: Sequence[EntryKey] | None = None, *, hold_bytes: int = 0) -> np.ndarray:
        """The array of some entries in their order, or of all in the snapshot's; every byte checked against the record.

        Parameters
        ----------
        keys
            Entries, all of the snapshot by default.
        hold_bytes
            How much of what is read may be held, so that other entries of the same objects cost no request any more.

        Raises
        ------
        NotCommittedError
            If the snapshot lacks a key.
        ObjectMissingError, ObjectAlteredError
            If an object is gone or is not the one recorded.
        """
        rows = {row.key: i for i, row in enumerate(self.snapshot.rows)}
        wanted = range(len(rows)) if keys is None else [_row_of(rows, key, self.snapshot) for key in keys]
        shape = self._metadata["shape"]
        values = np.empty((len(wanted), *shape[1:]), self._metadata["data_type"])
        places: dict[int, list[tuple[int, int]]] = {}
        for place, row in enumerate(wanted):
            places.setdefault(row // SHARD_ENTRIES, []).append((row % SHARD_ENTRIES, place))

        def decode(shard: int) -> bytes:
            path = self._chunk(shard)
            data = self._held.get(shard) or self._object(path)
            decode_shard(data, places[shard], values, where=f"{self.url}/{path}")
            return data

        shards = sorted(places)
        parallel = self.snapshot.location.parallel
        read = each(decode, shards, parallel=parallel, weigh=self._weight, limit=self.memory_bytes)
        for shard, data in zip(shards, read, strict=True):
            self._hold(shard, data, hold_bytes)
        return values

    def _hold(self, shard: int, data: bytes, hold_bytes: int) -> None:
        if shard not in self._held and sum(map(len, self._held.values())) + len(data) <= hold_bytes:
            self._held[shard] = data

    def _weight(self, shard: int) -> int:
        """Bytes that an object takes while it is decoded, an entry at a time."""
        if shard in self._held:
            return 0
        recorded = self.record.objects.get(self._chunk(shard))
        return 0 if recorded is None else recorded.size_bytes

    def _chunk(self, shard: int) -> str:
        return f"{self.record.kind}/{_chunk(shard, len(self._metadata['shape']))}"

    def _object(self, path: str) -> bytes:
        """One object, checked."""
        place, expected = f"{self.folder}/{path}", self.record.objects.get(path)
        if expected is None:
            raise ObjectMissingError(
                f"{self.snapshot.url}/{place} is not among the objects of its pack: delete the pack's folder and make it "
                "again."
            )
        data = self.snapshot.location.get(place)
        if len(data) != expected.size_bytes or sha256(data) != expected.sha256:
            raise ObjectAlteredError(
                f"{self.snapshot.url}/{place} has {len(data)} bytes with sha256 {sha256(data)[:16]}: the pack's record lists "
                f"{expected.size_bytes} bytes with {expected.sha256[:16]}. Restore it, or delete the pack's folder and make it "
                "again with `store-schema pack`."
            )
        return data


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
    dtype = dtype_in(snapshot.view.layout, kind)
    array = _create_array(group, kind, (len(snapshot), *(shape if kind == "memory" else shape[2:])), dtype)
    _write_coordinates(group, snapshot)
    done = 0
    for shard, values in enumerate(_shards(snapshot, kind, array.shape[1:])):
        start = shard * SHARD_ENTRIES
        array[start : start + len(values)] = values
        path = f"{kind}/{_chunk(shard, array.ndim)}"
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


def _create_array(group: zarr.Group, kind: str, shape: tuple[int, ...], dtype: str) -> zarr.Array[Any]:
    return group.create_array(
        kind,
        shape=shape,
        dtype=dtype,
        chunks=(1, *shape[1:]),
        shards=(SHARD_ENTRIES, *shape[1:]),
        compressors=[ZstdCodec(level=ZSTD_LEVEL), Crc32cCodec()],
        fill_value=0,
        dimension_names=(ENTRY, *ARRAYS[kind].dimensions),
        # An all-zero entry is an entry: without this it could not be told from a lost one.
        config={"write_empty_chunks": True},
    )


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


def _chunk(shard: int, dimensions: int) -> str:
    return "/".join(["c", str(shard), *["0"] * (dimensions - 1)])


def decode_shard(data: bytes, rows: Sequence[tuple[int, int]], values: np.ndarray, *, where: str) -> None:
    """Decodes entries of one object: chunks of one entry each, and where each lies in an index at the end.

    The caller has checked the object's digest, which covers the checksums that chunks and index end in.

    Parameters
    ----------
    rows
        Of each entry that is wanted, where it lies within the object, and in `values`.
    values
        What is filled: entries along the first axis, contiguous.

    References
    ----------
    Zarr v3, the codecs `sharding_indexed`, `zstd` and `crc32c`.
    """
    index = np.frombuffer(data[-(16 * SHARD_ENTRIES + CRC_BYTES) : -CRC_BYTES], "<u8").reshape(SHARD_ENTRIES, 2)
    view, zstd = memoryview(data), Zstd()
    for row, place in rows:
        offset, size = map(int, index[row])
        if offset + size > len(data):
            raise ObjectMissingError(
                f"{where}: entry {row} of this object was never written: delete the pack's folder and make it again."
            )
        try:
            plain = zstd.decode(view[offset : offset + size - CRC_BYTES])
            values[place] = np.frombuffer(plain, values.dtype.newbyteorder("<")).reshape(values.shape[1:])
        except (RuntimeError, ValueError) as error:
            raise ObjectAlteredError(f"{where}: entry {row} of this object does not decompress: {error}") from error


def _row_of(rows: dict[EntryKey, int], key: EntryKey, snapshot: Snapshot) -> int:
    row = rows.get(key)
    if row is None:
        raise NotCommittedError(f"snapshot {snapshot.id[:16]}… of {snapshot.view_id} does not hold {key}.")
    return row
