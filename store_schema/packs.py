"""Packs: one array of all entries of a snapshot, as one Zarr group that is read at once; decides nothing about an entry.

A pack is derived: it can be made again from its snapshot, and is committed like an entry, by a create-only record that lists every
object with its digest. Its bytes come from reads that checked every digest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import batched
from typing import Any, Literal

import numpy as np
import zarr
from pydantic import Field
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from store_schema.arrays import ARRAYS, ZSTD_LEVEL
from store_schema.commits import create_or_read
from store_schema.errors import (
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
from store_schema.writer import utc_now, uuid4_hex

Kind = Literal["mean_map", "memory"]
KINDS: tuple[Kind, ...] = ("mean_map", "memory")
SHARD_ENTRIES = 50
"""Entries in one object: a reader of a cohort makes 50 times fewer requests, a reader of one entry still finds its own chunk."""
ENTRY = "entry"
"""Name of the axis that the entries lie along."""
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

    @property
    def folder(self) -> str:
        """Where its Zarr group lies, relative to the store's root."""
        return f"{pack_folder(self.snapshot.id, self.record.kind)}/{self.record.attempt}"

    @property
    def url(self) -> str:
        """Address for `xr.open_zarr(url, consolidated=False)`; readers of it check chunk checksums, not the record's digests."""
        return f"{self.snapshot.url}/{self.folder}"

    @cached_property
    def _metadata(self) -> bytes:
        return self._object(f"{self.record.kind}/zarr.json")

    def load(self, keys: Sequence[EntryKey] | None = None) -> np.ndarray:
        """The array of some entries in their order, or of all in the snapshot's; every byte checked against the record.

        Raises
        ------
        NotCommittedError
            If the snapshot lacks a key.
        ObjectMissingError, ObjectAlteredError
            If an object is gone or is not the one recorded.
        """
        rows = {row.key: i for i, row in enumerate(self.snapshot.rows)}
        wanted = range(len(rows)) if keys is None else [_row_of(rows, key, self.snapshot) for key in keys]
        shape = json.loads(self._metadata)["shape"]
        values = np.empty((len(wanted), *shape[1:]), ARRAYS[self.record.kind].dtype)
        places: dict[int, list[int]] = {}
        for place, row in enumerate(wanted):
            places.setdefault(row // SHARD_ENTRIES, []).append(place)
        shards = sorted(places)
        for shard, held in zip(
            shards, each(self._shard, shards, parallel=self.snapshot.location.parallel), strict=True
        ):
            values[places[shard]] = held[[wanted[place] - shard * SHARD_ENTRIES for place in places[shard]]]
        return values

    def _shard(self, shard: int) -> np.ndarray:
        """The entries of one object."""
        metadata = json.loads(self._metadata)
        path = f"{self.record.kind}/{_chunk(shard, len(metadata['shape']))}"
        prototype = default_buffer_prototype().buffer
        data = {f"{self.record.kind}/zarr.json": self._metadata, path: self._object(path)}
        store = MemoryStore({name: prototype.from_bytes(value) for name, value in data.items()}, read_only=True)
        array = zarr.open_array(
            store, path=self.record.kind, mode="r", zarr_format=3, config={"read_missing_chunks": False}
        )
        return np.asarray(array[shard * SHARD_ENTRIES : (shard + 1) * SHARD_ENTRIES])

    def _object(self, path: str) -> bytes:
        """One object, checked."""
        place, expected = f"{self.folder}/{path}", self.record.objects.get(path)
        if expected is None:
            raise ObjectMissingError(
                f"{self.snapshot.url}/{place} is not among the objects of its pack: make it again."
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


def make_pack(snapshot: Snapshot, kind: str, *, told: Told | None = None) -> Pack:
    """Writes the pack of a snapshot, or gives the one that is there; a shard at a time, so that memory stays small.

    Raises
    ------
    NotCommittedError
        If the snapshot is empty, or its view has no such array.
    EntryWithdrawnError
        If an entry was withdrawn meanwhile.
    """
    if kind not in KINDS:
        raise UsageError(f"{kind!a} is no kind of pack: expected {' or '.join(KINDS)}.")
    found = open_pack(snapshot, kind)
    if found is not None:
        return found
    if not len(snapshot):
        raise NotCommittedError(f"snapshot {snapshot.id[:16]}… holds no entry: nothing can be packed.")
    attempt = uuid4_hex()
    folder = f"{pack_folder(snapshot.id, kind)}/{attempt}"
    objects: dict[str, ObjectRecord] = {}
    for path, data in _staged(snapshot, kind, told):
        snapshot.location.put(f"{folder}/{path}", data)
        objects[path] = ObjectRecord(size_bytes=len(data), sha256=sha256(data))
    written_at, rows = utc_now(), len(snapshot)
    record = PackRecord(
        snapshot=snapshot.id,
        kind=kind,
        attempt=attempt,
        rows=rows,
        objects=objects,
        written_at=written_at,
    )
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
    array = _create_array(group, kind, (len(snapshot), *(shape if kind == "memory" else shape[2:])))
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
    yield from ((path, buffer.to_bytes()) for path, buffer in held.items())


def _shards(snapshot: Snapshot, kind: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The entries in the snapshot's order, as many as one object holds at a time."""

    def read(key: EntryKey) -> np.ndarray:
        values = np.asarray(snapshot.read(key, arrays=[kind]).arrays[kind])
        if values.shape != shape:
            raise StoreError(
                f"{key} has a {kind} of shape {values.shape}, its view declares {shape}: it cannot be packed."
            )
        return values

    read_all = each(read, snapshot.keys, parallel=snapshot.location.parallel)
    yield from (np.stack(values) for values in batched(read_all, SHARD_ENTRIES))


def _create_array(group: zarr.Group, kind: str, shape: tuple[int, ...]) -> zarr.Array[Any]:
    return group.create_array(
        kind,
        shape=shape,
        dtype=ARRAYS[kind].dtype,
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
    columns: dict[str, np.ndarray] = {
        field: np.array([getattr(row.key, field) for row in rows], dtype=np.dtypes.StringDType())
        for field in ("patient", "modality", "roi")
    }
    columns["number"] = np.array([row.number for row in rows], dtype=np.int32)
    for name, values in columns.items():
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=values.shape, dimension_names=(ENTRY,),
            config={"write_empty_chunks": True},
        )  # fmt: skip
        array[...] = values
    group.attrs["coordinates"] = " ".join(columns)


def _chunk(shard: int, dimensions: int) -> str:
    return "/".join(["c", str(shard), *["0"] * (dimensions - 1)])


def _row_of(rows: dict[EntryKey, int], key: EntryKey, snapshot: Snapshot) -> int:
    row = rows.get(key)
    if row is None:
        raise NotCommittedError(f"snapshot {snapshot.id[:16]}… of {snapshot.view_id} does not hold {key}.")
    return row
