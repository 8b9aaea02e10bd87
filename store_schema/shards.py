"""Objects of a pack: how the entries lie in one, and how one is fetched and checked; knows no snapshot and no record's path."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import zarr
from numcodecs import Zstd
from zarr.codecs import Crc32cCodec, ZstdCodec

from store_schema.arrays import ARRAYS, ZSTD_LEVEL, dtypes
from store_schema.errors import BackendError, ObjectAlteredError, ObjectMissingError
from store_schema.location import Location
from store_schema.records import Json, ObjectRecord, sha256

SHARD_ENTRIES = 50
"""Entries in one object: a reader of a cohort makes 50 times fewer requests, a reader of one entry still finds its own chunk."""
ENTRY = "entry"
"""Name of the axis that the entries lie along."""
PAYS = 0.75
"""Compressed size, as a part of the plain one, above which entries are stored plain: decompressing costs more than it saves."""
CRC_BYTES = 4
INDEX_BYTES = 16 * SHARD_ENTRIES + CRC_BYTES

type Buffer = bytes | memoryview


def chunk_name(shard: int, dimensions: int) -> str:
    """Path of an object below its array."""
    return "/".join(["c", str(shard), *["0"] * (dimensions - 1)])


# Layout


def create_array(
    group: zarr.Group, kind: str, shape: tuple[int, ...], *, dtype: str, compressed: bool
) -> zarr.Array[Any]:
    """The array of a pack, with nothing in it yet."""
    return group.create_array(
        kind,
        shape=shape,
        dtype=dtype,
        chunks=(1, *shape[1:]),
        shards=(SHARD_ENTRIES, *shape[1:]),
        compressors=[*([ZstdCodec(level=ZSTD_LEVEL)] if compressed else []), Crc32cCodec()],
        fill_value=0,
        dimension_names=(ENTRY, *ARRAYS[kind].dimensions),
        # An all-zero entry is an entry: without this it could not be told from a lost one.
        config={"write_empty_chunks": True},
    )


def compression_pays(values: np.ndarray) -> bool:
    """Whether these entries, along the first axis, shrink enough to be stored compressed."""
    size = sum(len(Zstd(level=ZSTD_LEVEL).encode(np.ascontiguousarray(one))) for one in values)
    return size <= PAYS * values.nbytes


def is_compressed(metadata: Json, kind: str) -> bool | None:
    """Whether an array of a pack holds compressed entries; None where it is laid out in a way that is not decoded here."""
    entry = metadata.get("shape", ())[1:]
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    told = {
        "zarr_format": 3,
        "node_type": "array",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [SHARD_ENTRIES, *entry]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    }
    codecs, known = metadata.get("codecs", ()), metadata.get("data_type") in dtypes(kind, tuple(entry))
    if not known or any(metadata.get(key) != value for key, value in told.items()) or len(codecs) != 1:
        return None
    layout = dict(codecs[0].get("configuration", {}))
    inner = layout.pop("codecs", ())
    sharded = {"chunk_shape": [1, *entry], "index_codecs": [little, {"name": "crc32c"}], "index_location": "end"}
    if codecs[0].get("name") != "sharding_indexed" or layout != sharded or list(inner[:1]) != [little]:
        return None
    # zstd's level and checksum are the writer's affair: every frame decompresses alike.
    return {("zstd", "crc32c"): True, ("crc32c",): False}.get(tuple(codec.get("name") for codec in inner[1:]))


# Fetching


def fetch(location: Location, path: str, expected: ObjectRecord, requests: Executor | None = None) -> Buffer:
    """One object of a pack, every byte checked; a large one by several requests at once, where the place is read so.

    Parameters
    ----------
    requests
        Makes the requests of a large object, else one request is made. It must do nothing that waits for what this function gives.

    Raises
    ------
    ObjectMissingError, ObjectAlteredError
        If the object is gone or is not the one recorded.
    """
    if requests is not None and location.part_bytes is not None and expected.size_bytes > location.part_bytes:
        return _in_parts(location, path, expected, location.part_bytes, requests)
    data = location.get(path)
    return _checked(data, expected, sha256(data), where=f"{location.url}/{path}")


def _in_parts(location: Location, path: str, expected: ObjectRecord, part: int, requests: Executor) -> Buffer:
    """An object that is hashed from its beginning while later parts of it are on their way."""
    size, where = expected.size_bytes, f"{location.url}/{path}"
    data, digest, at = memoryview(np.empty(size, np.uint8)), hashlib.sha256(), 0
    # One byte more than the last part has: an object that has grown must not be taken for its beginning.
    ends = {start: start + part if start + part < size else size + 1 for start in range(0, size, part)}
    waiting = deque(requests.submit(location.get_part, path, start=start, end=end) for start, end in ends.items())
    try:
        while waiting:
            piece = waiting.popleft().result()
            if len(piece) != min(part, size - at):
                raise _altered(where, f"{len(piece)} bytes from byte {at} on, not {min(part, size - at)}", expected)
            data[at : at + len(piece)] = piece
            digest.update(piece)
            at += len(piece)
    except BackendError as error:
        # A part behind the end of a cut object is a failed request, not an empty part.
        found = location.size_bytes(path)
        if found in {None, size}:
            raise
        raise _altered(where, f"{found} bytes", expected) from error
    finally:
        for one in waiting:
            one.cancel()
    return _checked(data, expected, digest.hexdigest(), where=where)


def _checked(data: Buffer, expected: ObjectRecord, digest: str, *, where: str) -> Buffer:
    if len(data) != expected.size_bytes or digest != expected.sha256:
        raise _altered(where, f"{len(data)} bytes with sha256 {digest[:16]}", expected)
    return data


def _altered(where: str, found: str, expected: ObjectRecord) -> ObjectAlteredError:
    return ObjectAlteredError(
        f"{where} has {found}: the pack's record lists {expected.size_bytes} bytes with sha256 {expected.sha256[:16]}. Restore "
        "it, or delete the pack's folder and make it again with `store-schema pack`."
    )


# Decoding


def decode_shard(
    data: Buffer, rows: Sequence[tuple[int, int]], values: np.ndarray, *, compressed: bool, where: str
) -> None:
    """Decodes entries of one object: chunks of one entry each, and where each lies in an index at the end.

    The caller has checked the object's digest, which covers the checksums that chunks and index end in.

    Parameters
    ----------
    rows
        Of each entry that is wanted, where it lies within the object, and in `values`.
    values
        What is filled: entries along the first axis, contiguous, little-endian.

    Raises
    ------
    ObjectMissingError, ObjectAlteredError
        If whoever wrote the object left out an entry, or wrote something that is none.

    References
    ----------
    Zarr v3, the codecs `sharding_indexed`, `zstd` and `crc32c`.
    """
    view = memoryview(data)
    try:
        index = np.frombuffer(view[-INDEX_BYTES:-CRC_BYTES], "<u8").reshape(SHARD_ENTRIES, 2)
        for row, place in rows:
            offset, size = map(int, index[row])
            if offset + size > len(view):
                raise ObjectMissingError(
                    f"{where}: entry {row} of this object was never written: delete the pack's folder and make it again."
                )
            chunk = view[offset : offset + max(0, size - CRC_BYTES)]
            plain = Zstd().decode(chunk) if compressed else chunk
            values[place] = np.frombuffer(plain, values.dtype).reshape(values.shape[1:])
    except (RuntimeError, ValueError) as error:
        raise ObjectAlteredError(f"{where}: this object is no shard of entries: {error}") from error
