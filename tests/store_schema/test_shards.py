"""Objects of a pack: whole or in parts the very bytes, as Zarr lays them out, and never past a byte that changed."""

import copy
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from store_schema import Entry, EntryKey, Snapshot, create_store, make_pack, open_pack
from store_schema.arrays import ARRAYS
from store_schema.errors import BackendError, ObjectAlteredError, ObjectMissingError, SchemaError, StoreError
from store_schema.location import Location
from store_schema.packs import Pack
from store_schema.records import ObjectRecord, sha256
from store_schema.shards import SHARD_ENTRIES, create_array, decode_shard, fetch, is_compressed
from store_schema.testing import WrappedLocation, digest_of, example_entry, example_view

COUNT = SHARD_ENTRIES + 3
PART = 1000


def snapshot_of(url: str, make: Callable[[int], Entry]) -> Snapshot:
    """53 entries: two objects, the first larger than a few parts."""
    store = create_store(url)
    view = store.put_view(example_view())
    for i in range(COUNT):
        store.publish(view, EntryKey(f"P{i:03d}", "PET", "spine"), make(i), input_sha256=digest_of(f"{url} {i}"))
    return store.snapshot(store.make_snapshot(view))


class Parted(WrappedLocation):
    """Reads large objects in small parts; counts the requests."""

    def __init__(self, inner: Location, part_bytes: int | None = PART) -> None:
        super().__init__(inner)
        self.parallel = 4
        self.part_bytes = part_bytes
        self.parts = self.wholes = self.now_reading = self.most = 0
        self._lock = threading.Lock()

    def get(self, path: str) -> bytes:
        self.wholes += 1
        return self.inner.get(path)

    def get_part(self, path: str, *, start: int = 0, end: int | None = None) -> bytes:
        with self._lock:
            self.parts += 1
            self.now_reading += 1
            self.most = max(self.most, self.now_reading)
        try:
            return self.inner.get_part(path, start=start, end=end)
        finally:
            with self._lock:
                self.now_reading -= 1


@pytest.fixture(scope="module")
def noise() -> Snapshot:
    return snapshot_of("memory://shards-noise", example_entry)


@pytest.fixture(scope="module")
def other() -> Snapshot:
    """The same keys with other values."""
    return snapshot_of("memory://shards-other", lambda i: example_entry(1000 + i))


def maps() -> np.ndarray:
    return np.stack([example_entry(i).arrays["mean_map"] for i in range(COUNT)])


# Fetching


def test_object_in_parts_is_the_object_and_costs_a_request_a_part(noise: Snapshot) -> None:
    pack = make_pack(noise, "mean_map")
    location = Parted(noise.location)
    assert np.array_equal(Pack(Snapshot(location, noise.content), pack.record).load(), maps())
    sizes = [one.size_bytes for path, one in pack.record.objects.items() if path.startswith("mean_map/c/")]
    assert location.parts == sum(-(-size // PART) for size in sizes if size > PART) > len(sizes)
    assert location.wholes == 1 + sum(size <= PART for size in sizes)
    location.most = 0
    Pack(Snapshot(location, noise.content), pack.record).load(parallel=2)
    assert location.most <= 2


@settings(max_examples=120, deadline=None)
@given(data=st.data(), part=st.sampled_from([None, 64, PART, 4203, 4204, 4205]))
def test_any_damage_to_any_object_that_is_read_is_refused(
    noise: Snapshot, other: Snapshot, data: st.DataObject, part: int | None
) -> None:
    pack, foreign = make_pack(noise, "mean_map"), make_pack(other, "mean_map")
    location = noise.location
    path = data.draw(st.sampled_from([path for path in pack.record.objects if path.startswith("mean_map/")]))
    place = f"{pack.folder}/{path}"
    whole = location.get(place)
    at = data.draw(st.integers(0, len(whole) - 1))
    ways: dict[str, Callable[[], bytes | None]] = {
        "changed": lambda: whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :],
        "cut": lambda: whole[:at],
        "grown": lambda: whole + bytes(1 + at % 7),
        "deleted": lambda: None,
        "of another pack": lambda: other.location.get(f"{foreign.folder}/{path}") + b" " * path.endswith("json"),
        "another of this pack": lambda: location.get(f"{pack.folder}/modality/c/0"),
    }
    damaged = ways[data.draw(st.sampled_from(sorted(ways)))]()
    location.delete(place)
    if damaged is not None:
        location.put(place, damaged)
    read = Snapshot(Parted(location, part), noise.content)
    try:
        with pytest.raises((ObjectAlteredError, ObjectMissingError)):
            Pack(read, pack.record).load()
    finally:
        location.put(place, whole)
    assert np.array_equal(Pack(read, pack.record).load(), maps())


def test_part_that_fails_is_the_backends_error_unless_the_object_was_cut() -> None:
    """Servers answer a part behind the end with an error."""
    location = create_store("memory://shards-parts").location
    location.put("x", b"a" * 2000)
    expected = ObjectRecord(size_bytes=3000, sha256=sha256(b"a" * 3000))

    class Refusing(Parted):
        def get_part(self, path: str, *, start: int = 0, end: int | None = None) -> bytes:
            if start >= 2000:
                raise BackendError("status code: 416")
            return super().get_part(path, start=start, end=end)

    with ThreadPoolExecutor(2) as requests:
        with pytest.raises(ObjectAlteredError, match=r"x has 2000 bytes: the pack's record lists 3000 bytes"):
            fetch(Refusing(location), "x", expected, requests)
        location.put("x", b"a" * 3000)
        with pytest.raises(BackendError, match="416"):
            fetch(Refusing(location), "x", expected, requests)
        assert bytes(fetch(Parted(location), "x", expected, requests)) == b"a" * 3000


def test_parts_on_s3_are_the_object_and_a_cut_one_is_refused(s3_url: str) -> None:
    snapshot = snapshot_of(s3_url, example_entry)
    pack = make_pack(snapshot, "memory")
    snapshot.location.part_bytes = PART
    expected = np.stack([example_entry(i).arrays["memory"] for i in range(COUNT)])
    assert np.array_equal(pack.load(), expected)
    place = f"{pack.folder}/memory/c/0/0/0/0/0"
    whole = snapshot.location.get(place)
    for damaged in (whole[: 3 * PART], whole[:-1], whole + b"x", whole[:PART] + b"x" + whole[PART + 1 :]):
        snapshot.location.put(place, damaged)
        with pytest.raises(ObjectAlteredError):
            pack.load()
    snapshot.location.delete(place)
    with pytest.raises(ObjectMissingError):
        pack.load()


# Layout


def flat(i: int) -> Entry:
    """An entry of one value: it compresses to nearly nothing."""
    entry = example_entry(i)
    return Entry({name: np.full_like(values, i % 2) for name, values in entry.arrays.items()}, {})


@pytest.mark.parametrize("kind", ["mean_map", "memory"])
def test_noise_is_stored_plain_and_what_shrinks_is_compressed(noise: Snapshot, kind: str) -> None:
    same = snapshot_of("memory://shards-flat", flat)
    for snapshot, make, codecs in ((noise, example_entry, []), (same, flat, ["zstd"])):
        pack = make_pack(snapshot, kind)
        metadata = json.loads(snapshot.location.get(f"{pack.folder}/{kind}/zarr.json"))
        inner = metadata["codecs"][0]["configuration"]["codecs"]
        assert [codec["name"] for codec in inner] == ["bytes", *codecs, "crc32c"]
        assert np.array_equal(pack.load(), np.stack([make(i).arrays[kind] for i in range(COUNT)]))


def test_both_layouts_open_with_xarray(tmp_path) -> None:
    for name, make in (("noise", example_entry), ("flat", flat)):
        pack = make_pack(snapshot_of(str(tmp_path / name), make), "memory")
        with xr.open_zarr(pack.url) as data:
            assert np.array_equal(data.memory.values, np.stack([make(i).arrays["memory"] for i in range(COUNT)]))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["mean_map", "memory"])
def test_object_that_zarr_wrote_decodes_to_its_values(kind: str, compressed: bool) -> None:
    """The compressed form is also that of every pack of earlier versions, whatever it holds."""
    held, shape = {}, (COUNT, 4, 5) if kind == "mean_map" else (COUNT, 2, 3, 4, 5)
    group = zarr.create_group(MemoryStore(held), zarr_format=3)
    array = create_array(group, kind, shape, dtype=ARRAYS[kind].dtype, compressed=compressed)
    written = np.random.default_rng(0).normal(size=shape).astype(array.dtype)
    array[...] = written
    assert is_compressed(json.loads(held[f"{kind}/zarr.json"].to_bytes()), kind) is compressed
    zeros = "/0" * (len(shape) - 1)
    rows = [(2, 0), (0, 1), (2, 2)]
    values = np.empty((3, *shape[1:]), array.dtype)
    decode_shard(held[f"{kind}/c/1{zeros}"].to_bytes(), rows, values, compressed=compressed, where="here")
    assert np.array_equal(values, written[[52, 50, 52]])
    with pytest.raises(ObjectMissingError, match="entry 3 of this object was never written"):
        decode_shard(held[f"{kind}/c/1{zeros}"].to_bytes(), [(3, 0)], values, compressed=compressed, where="here")
    for other in (b"", b"\0" * 2000):
        with pytest.raises(ObjectAlteredError, match="is no shard of entries"):
            decode_shard(other, rows, values, compressed=compressed, where="here")


def test_other_layouts_are_refused_and_not_guessed(noise: Snapshot) -> None:
    pack = make_pack(noise, "mean_map")
    metadata = json.loads(noise.location.get(f"{pack.folder}/mean_map/zarr.json"))
    assert is_compressed(metadata, "mean_map") is False

    def changed(change: Callable[[Any], object]) -> bool | None:
        other = copy.deepcopy(metadata)
        change(other)
        return is_compressed(other, "mean_map")

    sharding = lambda one: one["codecs"][0]["configuration"]  # noqa: E731 - one way into the metadata
    assert changed(lambda one: one.update(data_type="float64")) is None
    assert changed(lambda one: one["codecs"].append({"name": "zstd"})) is None
    assert changed(lambda one: one["codecs"][0].update(name="other")) is None
    assert changed(lambda one: sharding(one).update(index_location="start")) is None
    assert changed(lambda one: sharding(one)["chunk_shape"].__setitem__(0, 2)) is None
    assert changed(lambda one: sharding(one)["codecs"][0]["configuration"].update(endian="big")) is None
    assert changed(lambda one: sharding(one)["codecs"].insert(1, {"name": "blosc"})) is None
    assert changed(lambda one: sharding(one)["codecs"].pop()) is None
    assert (
        changed(lambda one: sharding(one)["codecs"].insert(1, {"name": "zstd", "configuration": {"level": 9}})) is True
    )


def test_pack_of_another_snapshot_is_refused(noise: Snapshot, other: Snapshot) -> None:
    """Its record under this one's name, or its data with this one's record."""
    here, there = make_pack(noise, "mean_map"), make_pack(other, "mean_map")
    assert here.snapshot.id != there.snapshot.id
    record = f"packs/{noise.id}-mean_map/000000.json"
    kept = noise.location.get(record)
    noise.location.put(record, other.location.get(f"packs/{other.id}-mean_map/000000.json"))
    with pytest.raises(SchemaError, match="record of another pack"):
        open_pack(noise, "mean_map")
    noise.location.put(record, kept)
    with pytest.raises(StoreError):
        Pack(other, here.record).load()
