"""Vectors in float32 with names and missing values: what is stored, what is refused, what older records become."""

import numpy as np
import pytest
import zarr
from pydantic import ValidationError

from store_schema import Entry, EntryKey, Layout, SnapshotStore, create_store
from store_schema.arrays import stage
from store_schema.errors import StoreError
from store_schema.exporting import export_embeddings
from store_schema.packs import make_pack
from store_schema.testing import digest_of, example_view
from store_schema.vectors import MISSING, by_name, with_nan

KEY = EntryKey("P1", "PET", "a")
NAMES = ("energy", "mean", "volume")
VALUES = np.array([3.0e9, MISSING, 1 / 3], np.float32).reshape(1, 3, 1, 1)
LAYOUT = Layout(name="features", shape=(1, 3, 1, 1), dtype="float32", features=NAMES, missing=MISSING)
VIEW = example_view(name="radiomics").model_copy(update={"layout": LAYOUT})


@pytest.fixture
def store(tmp_path):
    store = create_store(str(tmp_path / "store"))
    store.put_view(VIEW)
    return store


def publish(store, values=VALUES, key=KEY):
    return store.publish(VIEW.view_id, key, Entry({"memory": values}, {}), input_sha256=digest_of(str(key)))


def test_a_float32_vector_comes_back_to_the_last_bit_and_verifies(store):
    publish(store)
    read = store.read(VIEW.view_id, KEY).arrays["memory"]
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, VALUES)
    assert store.verify().ok
    group = zarr.open_group(SnapshotStore(store.snapshot(store.make_snapshot(VIEW.view_id))), mode="r")
    np.testing.assert_array_equal(group[f"{KEY}/memory"][...], VALUES)


def test_a_missing_feature_is_read_as_nan_never_as_a_number(store):
    publish(store)
    view, memory = store.view(VIEW.view_id), store.read(VIEW.view_id, KEY).arrays["memory"]
    np.testing.assert_array_equal(np.isnan(with_nan(view.layout, memory)).ravel(), [False, True, False])
    named = by_name(view.layout, memory)
    assert named["energy"] == 3.0e9
    assert np.isnan(named["mean"])
    assert MISSING not in named.values()


def test_a_pack_and_a_parquet_export_keep_values_and_missing_ones(store, tmp_path):
    import pyarrow.parquet as pq  # noqa: PLC0415

    for patient in ("P1", "P2"):
        publish(store, key=EntryKey(patient, "PET", "a"))
    snapshot = store.snapshot(store.make_snapshot(VIEW.view_id))
    packed = make_pack(snapshot, "memory").load()
    assert packed.dtype == np.float32
    np.testing.assert_array_equal(packed, np.stack([VALUES, VALUES]))
    export_embeddings(snapshot, tmp_path / "v.parquet", array="memory")
    exported = np.array(pq.read_table(tmp_path / "v.parquet")["memory"].to_pylist(), np.float32)
    np.testing.assert_array_equal(np.isnan(exported), [[False, True, False]] * 2)
    np.testing.assert_array_equal(exported[:, [0, 2]], [VALUES.ravel()[[0, 2]]] * 2)


def test_only_vectors_may_be_float32_and_only_in_a_view_that_says_so(store):
    with pytest.raises(StoreError, match="must be float16"):
        stage(Entry({"memory": np.zeros((1, 3, 2, 2), np.float32)}, {}))
    with pytest.raises(StoreError, match="is float16, expected float32"):
        publish(store, np.zeros((1, 3, 1, 1), np.float16))
    half = example_view(shape=(1, 3, 1, 1))
    store.put_view(half)
    with pytest.raises(StoreError, match="is float32, expected float16"):
        store.publish(half.view_id, KEY, Entry({"memory": VALUES}, {}), input_sha256=digest_of("x"))
    with pytest.raises(StoreError, match="NaN or infinite"):
        publish(store, np.full((1, 3, 1, 1), np.nan, np.float32))


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (2, 3, 4, 4)},
        {"features": ("a", "b")},
        {"features": ("a", "b", "a")},
        {"dtype": "float64"},
    ],
)
def test_a_layout_that_contradicts_itself_is_no_layout(wrong):
    with pytest.raises(ValidationError):
        Layout.model_validate(LAYOUT.model_dump() | wrong)


def test_layouts_without_the_new_members_are_written_as_before():
    plain = Layout(name="paper", shape=(2, 32, 64, 64))
    assert plain.model_dump(mode="json") == {"name": "paper", "shape": [2, 32, 64, 64]}
    # The id that schema 1 gave this view before float32 vectors existed.
    assert example_view().view_id == "example-6ff232aaba9a9f6e"
