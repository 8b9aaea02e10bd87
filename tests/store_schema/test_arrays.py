"""Arrays of an entry as Zarr objects: layout on disk, values refused, content digest."""

import hashlib
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import Zstd
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from store_schema import Entry, EntryKey, Store, create_store, url
from store_schema.arrays import ARRAYS, MASK_CHUNK_ZYX, content_sha256, decode, stage, unpacked_bytes
from store_schema.errors import ObjectAlteredError, ObjectMissingError, StoreError
from store_schema.testing import digest_of, example_entry, example_view

MEMORY = np.ones((1, 2, 2, 2), np.float16)


def _with(**arrays: np.ndarray) -> Entry:
    return Entry({"memory": MEMORY, **arrays}, {})


@pytest.fixture
def store(tmp_path) -> Store:
    return create_store(tmp_path / "store")


def test_mask_is_one_shard_and_all_else_one_chunk() -> None:
    mask = np.zeros((40, 300, 130), np.uint8)
    staged = stage(_with(mask=mask, mean_map=np.zeros((2, 2), np.float32), preview=np.zeros((9, 9, 3), np.uint8)))
    chunks = sorted(path for path in staged.objects if "/c/" in path)
    assert chunks == ["mask/c/0/0/0", "mean_map/c/0/0", "memory/c/0/0/0/0", "preview/c/0/0/0"]
    (shard,) = staged.metadata["mask"]["codecs"]
    assert shard["configuration"]["chunk_shape"] == [16, 128, 128]
    assert [codec["name"] for codec in shard["configuration"]["codecs"]] == ["bytes", "zstd", "crc32c"]
    assert [codec["name"] for codec in shard["configuration"]["index_codecs"]] == ["bytes", "crc32c"]


def test_metadata_in_the_commit_is_that_of_the_objects() -> None:
    staged = stage(example_entry())
    for name, metadata in staged.metadata.items():
        assert metadata == json.loads(staged.objects[f"{name}/zarr.json"])
    group = json.loads(staged.objects["zarr.json"])
    assert group["attributes"] == staged.attributes
    assert "consolidated_metadata" not in group


def test_axes_are_named() -> None:
    names = {name: metadata["dimension_names"] for name, metadata in stage(example_entry()).metadata.items()}
    assert names == {
        "memory": ["memory_layer", "channel", "row", "column"],
        "mean_map": ["row", "column"],
        "mask": ["z", "y", "x"],
        "preview": ["preview_row", "preview_column", "rgb"],
    }


def test_content_digest_is_as_the_specification_says() -> None:
    arrays = example_entry().arrays
    digest = hashlib.sha256()
    for name in ("mask", "mean_map", "memory", "preview"):
        shape = ",".join(map(str, arrays[name].shape))
        digest.update(f"{name} {arrays[name].dtype} [{shape}]\n".encode() + arrays[name].tobytes("C"))
    assert content_sha256(arrays) == digest.hexdigest() == stage(example_entry()).content_sha256


def test_content_digest_does_not_depend_on_memory_order_or_byte_order() -> None:
    values = np.arange(24, dtype=np.float16).reshape(1, 2, 3, 4)
    forms = [values, np.asfortranarray(values), values.astype(">f2"), values[::-1][::-1]]
    assert len({content_sha256({"memory": form}) for form in forms}) == 1
    assert content_sha256({"memory": values}) != content_sha256({"memory": values.reshape(1, 3, 2, 4)})
    assert content_sha256({"memory": values}) != content_sha256({"mean_map": values})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    memory = MEMORY.copy()
    memory[0, 1, 1, 0] = value
    with pytest.raises(StoreError, match="'memory' has NaN or infinite values"):
        stage(Entry({"memory": memory}, {}))
    with pytest.raises(StoreError, match="'mean_map' has NaN"):
        stage(_with(mean_map=np.full((2, 2), value, np.float32)))


def test_arrays_that_are_not_of_an_entry_are_refused() -> None:
    with pytest.raises(StoreError, match="needs a 'memory' array"):
        stage(Entry({"mask": np.zeros((1, 1, 1), np.uint8)}, {}))
    with pytest.raises(StoreError, match="'masks' is not an array of an entry: expected memory, mean_map"):
        stage(_with(masks=np.zeros((1, 1, 1), np.uint8)))
    with pytest.raises(StoreError, match=r"'memory' must be float16 .* got float32"):
        stage(Entry({"memory": MEMORY.astype(np.float32)}, {}))
    with pytest.raises(StoreError, match=r"'mask' must be uint8 .* shape \(4, 4\)"):
        stage(_with(mask=np.zeros((4, 4), np.uint8)))
    with pytest.raises(StoreError, match=r"shape \(0, 4, 4\)"):
        stage(_with(mask=np.zeros((0, 4, 4), np.uint8)))


def test_axis_has_one_length_in_an_entry() -> None:
    with pytest.raises(StoreError, match="axis 'row' has 5 cells in 'mean_map' and 2 in 'memory'"):
        stage(_with(mean_map=np.zeros((5, 2), np.float32)))


@pytest.mark.parametrize(
    "attributes", [{"a": np.float32(1)}, {"a": float("nan")}, {"a": {1, 2}}, {"a": b"bytes"}, {"a": "\udcff"}]
)
def test_attributes_that_are_not_json_are_refused(attributes: dict[str, object]) -> None:
    with pytest.raises(StoreError, match="not JSON"):
        stage(Entry({"memory": MEMORY}, attributes))


def test_vector_entry_has_one_cell_and_no_mean_map(store: Store) -> None:
    view = store.put_view(example_view(shape=(1, 512, 1, 1)))
    vector = np.linspace(-1, 1, 512, dtype=np.float16).reshape(1, 512, 1, 1)
    key = EntryKey("P1", "CT", "a")
    store.publish(view, key, Entry({"memory": vector}, {}), input_sha256=digest_of("a"))
    assert np.array_equal(store.read(view, key).arrays["memory"], vector)


def test_memory_of_another_shape_than_the_view_declares_is_refused(store: Store) -> None:
    view = store.put_view(example_view(shape=(1, 2, 2, 4)))
    with pytest.raises(StoreError, match=r"shape \(1, 2, 2, 2\), view .* declares \(1, 2, 2, 4\)"):
        store.publish(view, EntryKey("P1", "CT", "a"), Entry({"memory": MEMORY}, {}), input_sha256=digest_of("a"))
    assert store.location.paths("data") == []


def test_chunk_that_is_not_listed_is_missing_and_not_zeros() -> None:
    staged = stage(example_entry())
    objects = {path: data for path, data in staged.objects.items() if path != "memory/c/0/0/0/0"}
    with pytest.raises(ObjectMissingError, match="here: a chunk of 'memory'"):
        decode(staged.metadata["memory"], "memory", objects.__getitem__, objects, where="here")


def test_chunk_that_does_not_decode_is_altered() -> None:
    staged = stage(example_entry())
    objects = {**staged.objects, "memory/c/0/0/0/0": b"not zstd", "mask/c/0/0/0": b"\0" * 100}
    for name in ("memory", "mask"):
        with pytest.raises(ObjectAlteredError, match=f"here: '{name}' does not decode"):
            decode(staged.metadata[name], name, objects.__getitem__, objects, where="here")


def test_inner_chunks_of_a_shard_carry_their_own_checksum(store: Store) -> None:
    """A reader that fetches a part of the shard, and so checks no digest of the object, still notices."""
    view, key = store.put_view(example_view()), EntryKey("P1", "CT", "a")
    commit = store.publish(view, key, example_entry(), input_sha256=digest_of("a")).commit
    path = f"{commit.folder}/mask/c/0/0/0"
    data = bytearray(store.location.get(path))
    data[3] ^= 1
    store.location.put(path, bytes(data))
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_group(url(store, view, key), mode="r")["mask"][...]


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 7, 1, 1), (2, 32, 64, 64)])
def test_staged_objects_are_those_that_zarr_writes(shape: tuple[int, ...]) -> None:
    entry = example_entry(5, shape=shape)
    held: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(held), zarr_format=3, attributes=dict(entry.attributes))
    for name, values in entry.arrays.items():
        sharded = name == "mask"
        chunks = tuple(map(min, MASK_CHUNK_ZYX, values.shape)) if sharded else values.shape
        group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=chunks,
            shards=values.shape if sharded else None,
            compressors=[ZstdCodec(level=1), Crc32cCodec()] if sharded else ZstdCodec(level=1),
            fill_value=0,
            dimension_names=ARRAYS[name].dimensions,
            config={"write_empty_chunks": True},
        )[...] = values
    assert dict(stage(entry).objects) == {path: buffer.to_bytes() for path, buffer in held.items()}


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 65_791, 65_792, 1_000_000])
def test_a_frame_tells_what_it_unpacks_to(size: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8).tobytes()
    assert unpacked_bytes(bytes(Zstd(level=3).encode(values))) == size


def test_what_is_no_frame_tells_nothing() -> None:
    for data in (b"", b"\x28\xb5\x2f\xfd", b"nothing of the kind", b"\x28\xb5\x2f\xfd\xe0\x01"):
        assert unpacked_bytes(data) is None


def test_an_object_that_unpacks_to_more_than_its_array_is_refused_before_it_is_unpacked() -> None:
    staged = stage(example_entry(0))
    path = next(path for path in staged.objects if path.startswith("memory/c"))
    tracemalloc.start()
    try:
        bomb = {path: bytes(Zstd(level=19).encode(bytes(100_000_000)))}
        tracemalloc.reset_peak()
        with pytest.raises(ObjectAlteredError, match="it unpacks to 100000000 bytes, not 192"):
            decode(staged.metadata["memory"], "memory", bomb.__getitem__, bomb, where="here")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
