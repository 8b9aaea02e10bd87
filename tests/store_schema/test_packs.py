"""A pack holds the very values of its snapshot's entries, opens with xarray, and is refused where a byte of it changed."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from store_schema import EntryKey, Snapshot, Store, create_store
from store_schema.bulk import BulkReader
from store_schema.commits import FRESH_S
from store_schema.errors import (
    BackendError,
    EntryWithdrawnError,
    NotCommittedError,
    ObjectAlteredError,
    ObjectMissingError,
    UsageError,
)
from store_schema.location import Location
from store_schema.packs import SHARD_ENTRIES, Pack, make_pack, open_pack, pack_folder, record_path
from store_schema.testing import BlindLocation, HookedLocation, WrappedLocation, digest_of, example_entry, example_view
from store_schema.withdraw import withdraw

COUNT = SHARD_ENTRIES + 3


@pytest.fixture
def packed(tmp_path: Path) -> Snapshot:
    """A snapshot of 53 entries; entry i is `example_entry(i)`."""
    store = create_store(tmp_path / "packed")
    view = store.put_view(example_view())
    for i in range(COUNT):
        store.publish(view, EntryKey(f"P{i:03d}", "PET", "spine"), example_entry(i), input_sha256=digest_of(str(i)))
    return store.snapshot(store.make_snapshot(view))


def expected(kind: str) -> np.ndarray:
    return np.stack([example_entry(i).arrays[kind] for i in range(COUNT)])


@pytest.mark.parametrize("kind", ["mean_map", "memory"])
def test_pack_holds_the_entries_in_order(packed: Snapshot, kind: str) -> None:
    assert open_pack(packed, kind) is None
    told: list[tuple[int, int]] = []
    pack = make_pack(packed, kind, told=lambda done, total: told.append((done, total)))
    assert told == [(SHARD_ENTRIES, COUNT), (COUNT, COUNT)]
    again = open_pack(packed, kind)
    assert again is not None
    assert again.record == pack.record == make_pack(packed, kind).record
    assert again.load().dtype == example_entry().arrays[kind].dtype
    assert np.array_equal(again.load(), expected(kind))
    order = [52, 0, 51, 1, 1]
    assert np.array_equal(again.load([packed.keys[i] for i in order]), expected(kind)[order])
    assert again.load([]).shape == (0, *expected(kind).shape[1:])


def test_pack_opens_with_xarray_and_zarr_alone(packed: Snapshot) -> None:
    pack = make_pack(packed, "memory")
    data = xr.open_zarr(pack.url)
    xr.testing.assert_identical(data, xr.open_zarr(pack.url, consolidated=False))
    assert set(data.coords) == {"patient", "modality", "roi", "number"}
    assert data.memory.dims == ("entry", "memory_layer", "channel", "row", "column")
    assert np.array_equal(data.memory.values, expected("memory"))
    assert list(data.patient.values) == [key.patient for key in packed.keys]
    assert set(data.modality.values) == {"PET"}
    assert list(data.number.values) == [0] * COUNT
    assert data.attrs == {"snapshot": packed.id, "view": packed.view_id, "kind": "memory"}
    group: Any = zarr.open_group(pack.url, mode="r")
    assert np.array_equal(group["memory"][7], expected("memory")[7])


def test_pack_on_s3_opens_with_xarray(s3_url: str) -> None:
    store = create_store(s3_url)
    view = store.put_view(example_view())
    for i in range(3):
        store.publish(view, EntryKey(f"P{i}", "PET", "spine"), example_entry(i), input_sha256=digest_of(str(i)))
    pack = make_pack(store.snapshot(store.make_snapshot(view)), "mean_map")
    with xr.open_zarr(pack.url) as data:
        assert np.array_equal(data.mean_map.values, expected("mean_map")[:3])
        assert list(data.patient.values) == ["P0", "P1", "P2"]
    assert np.array_equal(pack.load(), expected("mean_map")[:3])


def test_pack_is_read_where_nothing_can_be_listed_or_written(packed: Snapshot) -> None:
    """As over HTTP."""
    make_pack(packed, "mean_map")

    class ReadOnly(BlindLocation):
        def put(self, path: str, data: bytes) -> None:
            raise AssertionError(path)

        create = put

    served = Snapshot(ReadOnly(packed.location), packed.content)
    assert np.array_equal(BulkReader(served).stack("mean_map", packed.keys[:2]), expected("mean_map")[:2])
    assert [entry.key for entry in BulkReader(served).read(packed.keys[:2])] == list(packed.keys[:2])
    assert open_pack(served, "memory") is None


def test_no_more_shards_are_read_at_once_than_memory_allows(packed: Snapshot) -> None:
    pack = make_pack(packed, "mean_map")
    at_once, most = 0, 0

    class Watching(WrappedLocation):
        def get(self, path: str) -> bytes:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            try:
                return self.inner.get(path)
            finally:
                at_once -= 1

    watched = Watching(packed.location)
    watched.parallel = 8
    loaded = Pack(Snapshot(watched, packed.content), pack.record, memory_bytes=1).load()
    assert np.array_equal(loaded, expected("mean_map"))
    assert most == 1


def test_pack_is_sent_as_addresses(packed: Snapshot) -> None:
    pack = make_pack(packed, "mean_map")
    pack.load(hold_bytes=2**20)
    data = pickle.dumps(pack)
    assert len(data) < 3000
    assert np.array_equal(pickle.loads(data).load(), expected("mean_map"))


def test_all_zero_entries_are_entries(tmp_path: Path) -> None:
    store = create_store(tmp_path / "zeros")
    view = store.put_view(example_view())
    entry = example_entry()
    zeros = type(entry)({name: np.zeros_like(values) for name, values in entry.arrays.items()}, {})
    for i in range(2):
        store.publish(view, EntryKey(f"P{i}", "PET", "spine"), zeros, input_sha256=digest_of(str(i)))
    pack = make_pack(store.snapshot(store.make_snapshot(view)), "mean_map")
    assert not pack.load().any()
    (tmp_path / "zeros" / pack.folder / "mean_map/c/0/0/0").unlink()
    with pytest.raises(ObjectMissingError):
        pack.load()


def test_every_changed_byte_of_a_shard_and_of_the_record_is_refused(packed: Snapshot, tmp_path: Path) -> None:
    pack = make_pack(packed, "mean_map")
    shard = tmp_path / "packed" / pack.folder / "mean_map/c/1/0/0"
    whole = shard.read_bytes()
    for i in range(len(whole)):
        shard.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        with pytest.raises(ObjectAlteredError):
            pack.load([packed.keys[51]])
    assert np.array_equal(pack.load([packed.keys[3]]), expected("mean_map")[[3]])
    shard.write_bytes(whole[:-1])
    with pytest.raises(ObjectAlteredError):
        pack.load()
    shard.write_bytes(whole)
    record = tmp_path / "packed" / record_path(packed.id, "mean_map")
    text = record.read_bytes()
    for i in range(len(text)):
        record.write_bytes(text[:i] + bytes([text[i] ^ 1]) + text[i + 1 :])
        with pytest.raises(ObjectAlteredError):
            open_pack(packed, "mean_map")


def test_writer_that_loses_the_race_uses_the_winners_pack(packed: Snapshot) -> None:
    winner: list[Pack] = []

    def overtake(path: str, _data: bytes) -> None:
        if path == record_path(packed.id, "mean_map") and not winner:
            winner.append(make_pack(packed, "mean_map"))

    late = make_pack(Snapshot(HookedLocation(packed.location, overtake), packed.content), "mean_map")
    assert late.record == winner[0].record
    assert np.array_equal(late.load(), expected("mean_map"))
    attempts = {path.split("/")[2] for path in packed.location.paths(pack_folder(packed.id, "mean_map"))}
    assert len(attempts - {"000000.json"}) == 2


def test_entry_withdrawn_while_it_is_packed_stays_nowhere(packed: Snapshot, tmp_path: Path) -> None:
    store = Store(packed.location, create_store(tmp_path / "packed").record)

    def withdraw_first(path: str, _data: bytes) -> None:
        if path == record_path(packed.id, "mean_map"):
            withdraw(store, patients=["P007"], reason="consent")

    with pytest.raises(EntryWithdrawnError, match="while it was packed"):
        make_pack(Snapshot(HookedLocation(packed.location, withdraw_first), packed.content), "mean_map")
    assert packed.location.paths("packs") == []
    assert store.verify().ok


def test_pack_is_made_a_shard_at_a_time(packed: Snapshot) -> None:
    class Watching(WrappedLocation):
        def __init__(self, inner: Location) -> None:
            super().__init__(inner)
            self.log: list[str] = []

        def get(self, path: str) -> bytes:
            self.log.append("get" if path.startswith("data/") else "")
            return self.inner.get(path)

        def put(self, path: str, data: bytes) -> None:
            self.log.append("put" if "/mean_map/c/" in path else "")
            self.inner.put(path, data)

    watching = Watching(packed.location)
    watching.parallel = 1
    make_pack(Snapshot(watching, packed.content), "mean_map")
    steps = [step for step in watching.log if step]
    assert steps == ["get"] * SHARD_ENTRIES + ["put"] + ["get"] * 3 + ["put"]


def test_pack_that_took_longer_than_half_the_grace_time_is_not_made_visible(packed: Snapshot) -> None:
    moments = iter([0.0, FRESH_S])
    with pytest.raises(BackendError, match="took over 84 hours"):
        make_pack(packed, "mean_map", passed=lambda: next(moments))
    assert open_pack(packed, "mean_map") is None


def test_what_cannot_be_packed_is_told(packed: Snapshot, store: Store) -> None:
    with pytest.raises(UsageError, match="no kind of pack"):
        make_pack(packed, "mask")
    view = store.put_view(example_view())
    with pytest.raises(NotCommittedError, match="holds no entry"):
        make_pack(store.snapshot(store.make_snapshot(view)), "mean_map")
    with pytest.raises(NotCommittedError, match="does not hold"):
        make_pack(packed, "mean_map").load([EntryKey("nobody", "PET", "spine")])
