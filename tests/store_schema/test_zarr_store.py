"""SnapshotStore against zarr and xarray: everything there, nothing made up, ranges as Python slices."""

import asyncio
import pickle
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

from store_schema import EntryKey, Snapshot, SnapshotStore, Store
from store_schema.errors import ObjectAlteredError, ObjectMissingError, StoreError
from store_schema.testing import digest_of, example_entry

CHUNK = "memory/c/0/0/0/0"


@pytest.fixture
def served(snapshot: Snapshot) -> SnapshotStore:
    return SnapshotStore(snapshot)


def _get(served: SnapshotStore, key: str, part=None) -> bytes | None:
    buffer = asyncio.run(served.get(key, default_buffer_prototype(), part))
    return None if buffer is None else buffer.to_bytes()


def _all(listing) -> list[str]:
    async def collect() -> list[str]:
        return [name async for name in listing]

    return asyncio.run(collect())


def _object(store: Store, snapshot: Snapshot, key: EntryKey, path: str) -> Path:
    return Path(store.url, snapshot.commit(key).folder, path)


def test_zarr_opens_a_snapshot_as_one_group(served: SnapshotStore, keys) -> None:
    group = zarr.open_group(served, mode="r")
    assert set(group.group_keys()) == {"a", "b.2"}
    for i, key in enumerate(keys):
        entry = example_entry(i)
        assert set(group[str(key)].array_keys()) == set(entry.arrays)
        assert group[str(key)].attrs.asdict() == entry.attributes
        for name, values in entry.arrays.items():
            assert np.array_equal(group[f"{key}/{name}"][...], values)
            assert group[f"{key}/{name}"].dtype == values.dtype


def test_xarray_opens_a_snapshot_as_a_tree(served: SnapshotStore, keys) -> None:
    tree = xr.open_datatree(served, engine="zarr", consolidated=False)
    assert {node.path for node in tree.leaves} == {f"/{key}" for key in keys}
    for i, key in enumerate(keys):
        for name, values in example_entry(i).arrays.items():
            assert np.array_equal(tree[f"{key}/{name}"].values, values)
            assert tree[f"{key}/{name}"].dtype == values.dtype
    assert tree["a/CT/skeleton/memory"].dims == ("memory_layer", "channel", "row", "column")


def test_snapshot_store_shows_the_pinned_commit_and_not_the_current_one(
    store: Store, view: str, served: SnapshotStore, keys
) -> None:
    store.publish(view, keys[0], example_entry(7), input_sha256=digest_of("x"))
    store.publish(view, EntryKey("later", "CT", "skeleton"), example_entry(8), input_sha256=digest_of("y"))
    group = zarr.open_group(served, mode="r")
    assert np.array_equal(group[f"{keys[0]}/memory"][...], example_entry(0).arrays["memory"])
    assert "later" not in group


def test_lost_chunk_raises_and_never_reads_as_zeros(store: Store, snapshot: Snapshot, served, keys) -> None:
    _object(store, snapshot, keys[0], CHUNK).unlink()
    with pytest.raises(ObjectMissingError, match=CHUNK):
        zarr.open_group(served, mode="r")[f"{keys[0]}/memory"][...]
    tree = xr.open_datatree(served, engine="zarr", consolidated=False)
    with pytest.raises(ObjectMissingError):
        _ = tree[f"{keys[0]}/memory"].values
    assert np.array_equal(tree[f"{keys[1]}/memory"].values, example_entry(1).arrays["memory"])


def test_lost_metadata_raises_and_does_not_hide_the_array(store: Store, snapshot: Snapshot, served, keys) -> None:
    _object(store, snapshot, keys[0], "memory/zarr.json").unlink()
    group = zarr.open_group(served, mode="r")
    with pytest.raises(ObjectMissingError):
        _ = group[f"{keys[0]}/memory"]
    with pytest.raises(ObjectMissingError):
        list(group[str(keys[0])].arrays())


def test_altered_chunk_raises_also_for_a_part_of_it(store: Store, snapshot: Snapshot, served, keys) -> None:
    place = _object(store, snapshot, keys[0], "mask/c/0/0/0")
    place.write_bytes(place.read_bytes()[:-1] + b"\0")
    for part in (None, RangeByteRequest(0, 4), OffsetByteRequest(5), SuffixByteRequest(3)):
        with pytest.raises(ObjectAlteredError):
            _get(served, f"{keys[0]}/mask/c/0/0/0", part)


@pytest.mark.parametrize("name", ["memory", "mean_map", "mask", "preview"])
def test_chunk_that_the_commit_does_not_list_raises(served: SnapshotStore, keys, name: str) -> None:
    """Zarr takes an absent chunk for fill values, so that None would be a lie."""
    with pytest.raises(ObjectMissingError, match="is a chunk of a committed array"):
        _get(served, f"{keys[0]}/{name}/c/9/9/9/9")


@pytest.mark.parametrize(
    "key",
    [
        *("", "a", "a/CT", "a/CT/skeleton", "nobody/zarr.json", "a/CT/nothing/zarr.json", "/zarr.json", "zarr.json/"),
        *("a/CT/skeleton/nothing/zarr.json", "a/CT/skeleton/memory/nothing", "a/CT/skeleton/nothing/c/0"),
        *(
            ".zgroup",
            "a/.zattrs",
            "a/CT/skeleton/memory/.zarray",
            "../engram.json",
            "a/CT/skeleton/../skeleton/zarr.json",
        ),
    ],
)
def test_name_that_the_snapshot_does_not_hold_is_absent(served: SnapshotStore, key: str) -> None:
    assert _get(served, key) is None
    assert not asyncio.run(served.exists(key))


def test_byte_ranges_are_python_slices(store: Store, snapshot: Snapshot, served, keys) -> None:
    key = f"{keys[0]}/{CHUNK}"
    data = _object(store, snapshot, keys[0], CHUNK).read_bytes()
    n = len(data)
    parts = [(RangeByteRequest(a, b), data[a:b]) for a, b in ((0, 1), (3, 10), (5, 5), (n - 1, n), (n - 2, n + 50))]
    parts += [(OffsetByteRequest(a), data[a:]) for a in (0, 7, n - 1, n, n + 1)]
    parts += [(SuffixByteRequest(a), data[n - a :]) for a in (1, 7, n)]
    parts += [(SuffixByteRequest(n + 5), data), (SuffixByteRequest(0), b""), (None, data)]
    for part, expected in parts:
        assert _get(served, key, part) == expected
    wanted = [(key, part) for part, _ in parts]
    found = asyncio.run(served.get_partial_values(default_buffer_prototype(), wanted))
    assert [buffer.to_bytes() for buffer in found] == [expected for _, expected in parts]


def test_listings_agree_with_each_other_and_with_what_exists(served: SnapshotStore, snapshot: Snapshot, keys) -> None:
    names = _all(served.list())
    groups = ["zarr.json", "a/zarr.json", "a/CT/zarr.json", "b.2/zarr.json", "b.2/CT/zarr.json"]
    assert sorted(names) == sorted(groups + [f"{key}/{path}" for key in keys for path in snapshot.commit(key).objects])
    for name in names:
        assert asyncio.run(served.exists(name))
        assert _get(served, name) is not None
    for prefix in (
        "",
        "a",
        "a/",
        "a/CT/s",
        "a/CT/skeleton/",
        "a/CT/skeleton/memory/c",
        "b.2/CT/skeleton/zarr",
        "nobody",
        "zarr",
    ):
        assert sorted(_all(served.list_prefix(prefix))) == sorted(name for name in names if name.startswith(prefix))
    for folder in (
        "",
        "a",
        "a/",
        "a/CT",
        "a/CT/skeleton",
        "a/CT/skeleton/memory/c",
        "b.2/CT/skeleton/mask",
        "nobody",
        "a/no",
    ):
        below = f"{folder.strip('/')}/".lstrip("/")
        expected = {name.removeprefix(below).split("/")[0] for name in names if name.startswith(below)}
        assert sorted(_all(served.list_dir(folder))) == sorted(expected)


def test_snapshot_store_refuses_to_write(served: SnapshotStore) -> None:
    assert served.read_only
    assert not served.supports_writes
    with pytest.raises(StoreError, match="read-only"):
        asyncio.run(served.set("a/x", default_buffer_prototype().buffer.from_bytes(b"x")))
    with pytest.raises(StoreError, match="read-only"):
        asyncio.run(served.delete("zarr.json"))
    with pytest.raises(ValueError, match="read-only"):
        zarr.open_group(served, mode="a").create_group("x")


def test_pickled_snapshot_store_carries_an_address_only(served: SnapshotStore, keys) -> None:
    data = pickle.dumps(served)
    assert len(data) < 500
    again = pickle.loads(data)
    assert again == served
    assert hash(again) == hash(served)
    assert np.array_equal(zarr.open_group(again, mode="r")[f"{keys[2]}/mask"][...], example_entry(2).arrays["mask"])


def test_all_zero_arrays_read_as_zeros_and_not_as_missing_values(store: Store, view: str) -> None:
    key = EntryKey("zero", "CT", "skeleton")
    entry = example_entry()
    zeros = type(entry)({name: np.zeros_like(values) for name, values in entry.arrays.items()}, {})
    store.publish(view, key, zeros, input_sha256=digest_of("0"))
    served = SnapshotStore(store.snapshot(store.make_snapshot(view, [key])))
    tree = xr.open_datatree(served, engine="zarr", consolidated=False)
    for name, values in zeros.arrays.items():
        assert np.array_equal(tree[f"{key}/{name}"].values, values)
