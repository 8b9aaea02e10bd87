"""Array data as Zarr v3 objects and back: which arrays an entry has, how each is stored, what their digest is.

Knows no commit and no backend: it turns arrays into named bytes, and checked bytes into arrays.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import zarr
from numcodecs import Zstd
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.errors import ChunkNotFoundError
from zarr.storage import MemoryStore

from store_schema.errors import ObjectAlteredError, ObjectMissingError, StoreError
from store_schema.records import Json, Layout

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_LEVEL = 1
"""Noise-like floats hardly compress; a higher level costs time and gains nothing."""
WHOLE = 2**62
"""Of an inner chunk: as long as the axis."""
MASK_CHUNK_ZYX = (16, 128, 128)
"""Inner chunk of a mask's single shard: a reader of a few slices fetches those alone."""


@dataclass(frozen=True)
class ArraySpec:
    """How one array of an entry is stored."""

    dtype: str
    dimensions: tuple[str, ...]
    """Names of the axes; unique within an entry unless they mean the same axis."""
    inner: tuple[int, ...] | None = None
    """Longest sides of the chunks within the array's single shard; None for one chunk without a shard."""


ARRAYS: Mapping[str, ArraySpec] = {
    "memory": ArraySpec("float16", ("memory_layer", "channel", "row", "column")),
    "mean_map": ArraySpec("float32", ("row", "column")),
    "mask": ArraySpec("uint8", ("z", "y", "x"), inner=MASK_CHUNK_ZYX),
    "preview": ArraySpec("uint8", ("preview_row", "preview_column", "rgb")),
    "occluded_memory": ArraySpec(
        "float16",
        ("patch", "memory_layer", "channel", "row", "column"),
        # a reader of one patch fetches it alone
        inner=(1, WHOLE, WHOLE, WHOLE, WHOLE),
    ),
    "occluded_mean_map": ArraySpec("float32", ("patch", "row", "column")),
    "backdrop": ArraySpec("uint8", ("backdrop_z", "backdrop_y", "backdrop_x")),
}
"""`memory` and `mean_map` are the embedding; `mask` and `preview` its region and a picture. The others are of occlusion views: the
embedding with each patch of the image hidden, and a small image to draw on."""


def dtype_in(layout: Layout, name: str) -> str:
    """The dtype of an array in the entries of a view of this layout."""
    return layout.dtype if name == "memory" and layout.dtype is not None else ARRAYS[name].dtype


def dtypes(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """What an array of this shape may be stored as: of a vector, float16 has neither the range nor the digits in every case."""
    vector = name == "memory" and len(shape) == 4 and shape[0] == shape[2] == shape[3] == 1
    return (ARRAYS[name].dtype, "float32") if vector else (ARRAYS[name].dtype,)


@dataclass(frozen=True)
class Entry:
    """What one entry holds, before it is stored."""

    arrays: Mapping[str, np.ndarray]
    """By name, of the dtypes in `ARRAYS`; `memory` is required, and a vector view has it as 1 × F × 1 × 1, float16 or float32."""
    attributes: Mapping[str, Json]
    """Geometry, boxes, slices, valid layers; never a path or provenance."""


@dataclass(frozen=True)
class StagedEntry:
    """An entry as the objects that will be written."""

    objects: Mapping[str, bytes]
    """By path relative to the attempt's folder."""
    metadata: Mapping[str, Json]
    """Zarr v3 metadata by array name."""
    attributes: Mapping[str, Json]
    content_sha256: str


def stage(entry: Entry) -> StagedEntry:
    """A Zarr v3 group made in memory, so that it is published whole with one PUT an object.

    Raises
    ------
    StoreError
        If an array is unknown, of another dtype or rank, empty, or not finite.
    """
    check_entry(entry)
    attributes = _as_json(entry.attributes)
    data = {"zarr.json": _group_metadata(json.dumps(attributes, sort_keys=False))}
    for name, values in entry.arrays.items():
        data |= _staged_array(name, values)
    metadata = {name: json.loads(data[f"{name}/zarr.json"]) for name in entry.arrays}
    return StagedEntry(data, metadata, attributes, content_sha256(entry.arrays))


def _staged_array(name: str, values: np.ndarray) -> dict[str, bytes]:
    """The objects of one array. A single chunk is compressed here, as Zarr does it; its metadata Zarr itself has written, once."""
    if ARRAYS[name].inner is not None:
        objects: dict[str, Any] = {}
        _create(zarr.create_group(MemoryStore(objects), zarr_format=3), name, values.shape, values.dtype.name)[...] = (
            values
        )
        return {path: buffer.to_bytes() for path, buffer in objects.items() if path != "zarr.json"}
    chunk = "/".join([name, "c", *["0"] * values.ndim])
    plain = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return {
        f"{name}/zarr.json": _array_metadata(name, values.shape, values.dtype.name),
        chunk: bytes(Zstd(level=ZSTD_LEVEL).encode(plain)),
    }


@lru_cache(maxsize=64)
def _group_metadata(attributes: str) -> bytes:
    objects: dict[str, Any] = {}
    zarr.create_group(MemoryStore(objects), zarr_format=3, attributes=json.loads(attributes))
    return bytes(objects["zarr.json"].to_bytes())


@lru_cache(maxsize=64)
def _array_metadata(name: str, shape: tuple[int, ...], dtype: str) -> bytes:
    objects: dict[str, Any] = {}
    _create(zarr.create_group(MemoryStore(objects), zarr_format=3), name, shape, dtype)
    return bytes(objects[f"{name}/zarr.json"].to_bytes())


def check_entry(entry: Entry) -> None:
    """Refuses an entry whose arrays are not those of `ARRAYS`.

    Raises
    ------
    StoreError
        If an array is unknown, of another dtype or rank, empty, or not finite, or an axis has two lengths.
    """
    if "memory" not in entry.arrays:
        raise StoreError(f"an entry needs a 'memory' array, got {sorted(entry.arrays)}.")
    for name, values in entry.arrays.items():
        spec = ARRAYS.get(name)
        if spec is None:
            raise StoreError(f"'{name}' is not an array of an entry: expected {', '.join(ARRAYS)}.")
        if (
            str(values.dtype) not in dtypes(name, values.shape)
            or values.ndim != len(spec.dimensions)
            or not values.size
        ):
            raise StoreError(
                f"array '{name}' must be {spec.dtype} with axes {spec.dimensions}, got {values.dtype} of shape {values.shape}."
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise StoreError(
                f"array '{name}' has NaN or infinite values, or values beyond its dtype (float16 ends at ±65504): no entry may "
                "hold them. Look for empty means or an overflow where it was made."
            )
    _check_axes(entry.arrays)


def _check_axes(arrays: Mapping[str, np.ndarray]) -> None:
    """An axis has one length in all arrays of an entry, else labelled readers (xarray) cannot open it."""
    lengths: dict[str, tuple[str, int]] = {}
    for name, values in arrays.items():
        for axis, length in zip(ARRAYS[name].dimensions, values.shape, strict=True):
            other, expected = lengths.setdefault(axis, (name, length))
            if length != expected:
                raise StoreError(
                    f"axis '{axis}' has {length} cells in '{name}' and {expected} in '{other}': expected one length."
                )


def _as_json(attributes: Mapping[str, Json]) -> dict[str, Json]:
    """The attributes as a reader will get them: tuples as lists."""
    try:
        text = json.dumps(dict(attributes), allow_nan=False, ensure_ascii=False)
        values: dict[str, Json] = json.loads(text.encode())
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"the attributes are not JSON: {error}. Give finite numbers, text, lists and objects of them."
        ) from error
    return values


def _create(group: zarr.Group, name: str, shape: tuple[int, ...], dtype: str) -> zarr.Array[Any]:
    spec = ARRAYS[name]
    chunks = shape if spec.inner is None else tuple(map(min, spec.inner, shape))
    shard = tuple(math.ceil(size / chunk) * chunk for size, chunk in zip(shape, chunks, strict=True))
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=None if spec.inner is None else shard,
        compressors=ZstdCodec(level=ZSTD_LEVEL) if spec.inner is None else [ZstdCodec(level=ZSTD_LEVEL), Crc32cCodec()],
        fill_value=0,
        dimension_names=spec.dimensions,
        # Without this an all-zero array writes no chunk, and a lost chunk could not be told from it.
        config={"write_empty_chunks": True},
    )


def content_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """Digest of decoded arrays: for each by sorted name, `name dtype shape` and a line feed, then its bytes in C order.

    Dtypes are written as NumPy's names, shapes as JSON lists without spaces, values little-endian.
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name])
        shape = json.dumps(values.shape, separators=(",", ":"))
        digest.update(f"{name} {values.dtype.name} {shape}\n".encode())
        digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Plain:
    """An array of one little-endian, zstd-compressed chunk, as `stage` writes all but masks: decoded without opening an array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def chunk(self) -> str:
        return "/".join(["c", *["0"] * len(self.shape)])

    def decode(self, data: bytes, *, where: str) -> np.ndarray:
        told, expected = unpacked_bytes(data), math.prod(self.shape) * self.dtype.itemsize
        if told != expected:
            # Before it is unpacked: a small object may unpack to far more than memory holds.
            raise ObjectAlteredError(
                f"{where} does not decode as its metadata says: it unpacks to {told} bytes, not {expected}"
            )
        try:
            values = np.frombuffer(Zstd().decode(data), dtype=self.dtype)
            return values.reshape(self.shape).astype(self.dtype.newbyteorder("="))
        except (ValueError, RuntimeError) as error:
            raise ObjectAlteredError(f"{where} does not decode as its metadata says: {error}") from error


def unpacked_bytes(frame: bytes) -> int | None:
    """Bytes that a zstd frame says it unpacks to; None where it does not say so, or is none.

    References
    ----------
    RFC 8878, section 3.1.1.1.
    """
    if len(frame) < 5 or frame[:4] != ZSTD_MAGIC:
        return None
    descriptor = frame[4]
    single = bool(descriptor & 0x20)
    width = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    start = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    field = frame[start : start + width]
    if not width or len(field) < width:
        return None
    return int.from_bytes(field, "little") + (256 if width == 2 else 0)


def _plain(metadata: Json, name: str) -> _Plain | None:
    """How to decode an array without Zarr's machinery, where its metadata is exactly what that decoding does."""
    spec, shape = ARRAYS.get(name), metadata.get("shape")
    if spec is None or spec.inner is not None:
        return None
    dtype = metadata.get("data_type")
    if dtype not in dtypes(name, tuple(shape or ())):
        return None
    expected = {
        "zarr_format": 3,
        "node_type": "array",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    }
    names = [codec.get("name") for codec in metadata.get("codecs", ())]
    endian = (
        metadata["codecs"][0].get("configuration", {}).get("endian", "little") if names == ["bytes", "zstd"] else None
    )
    if endian != "little" or any(metadata.get(key) != value for key, value in expected.items()):
        return None
    return _Plain(np.dtype(dtype).newbyteorder("<"), tuple(shape))


def decode(
    metadata: Json, name: str, fetch: Callable[[str], bytes], objects: Mapping[str, object], *, where: str
) -> np.ndarray:
    """One array from checked bytes; `fetch` gives the bytes of a path relative to the attempt.

    Raises
    ------
    ObjectMissingError
        If a chunk of the array is not among the objects.
    ObjectAlteredError
        If the bytes do not decode as the metadata says.
    """
    plain = _plain(metadata, name)
    if plain is not None and f"{name}/{plain.chunk}" in objects:
        return plain.decode(fetch(f"{name}/{plain.chunk}"), where=f"{where}: '{name}'")
    prototype = default_buffer_prototype().buffer
    held = {f"{name}/zarr.json": prototype.from_bytes(json.dumps(metadata).encode())}
    for path in objects:
        if path.startswith(f"{name}/c"):
            held[path] = prototype.from_bytes(fetch(path))
    try:
        # Asked of this array alone: zarr's global setting is shared by all threads.
        array = zarr.open_array(
            MemoryStore(held, read_only=True), path=name, mode="r", zarr_format=3, config={"read_missing_chunks": False}
        )
        return np.asarray(array[...])
    except ChunkNotFoundError as error:
        raise ObjectMissingError(f"{where}: a chunk of '{name}' is not among the committed objects.") from error
    except (ValueError, RuntimeError, KeyError) as error:
        raise ObjectAlteredError(f"{where}: '{name}' does not decode as its metadata says: {error}") from error
