"""What heads read by snapshot: order, bytes, pooling, missing values, and what is refused."""

import io
import shutil

import numpy as np
import pytest
from rich.console import Console

from store_schema import Entry, EntryKey, Layout, create_store, make_pack, open_store
from store_schema.errors import ConfigError, NotCommittedError, ObjectAlteredError, ObjectMissingError
from store_schema.vectors import MISSING
from trainer.dispatch import Workers
from trainer.features import (
    CACHE_MIB,
    HELD_SHARE,
    KEPT,
    _patient_bytes,
    _reader,
    images_of,
    keep_at_most,
    mean_maps,
    memories,
    read_ahead,
    snapshot_of,
    vectors,
)
from trainer.model_config import NetworkModel, RidgeCoxModel
from trainer.plan import Inputs
from trainer.pooling import even_block, volumes
from trainer.run import cross_validate


@pytest.fixture
def small(tmp_path, kit):
    """A store of four patients, its URL and a snapshot of it."""
    store = create_store(tmp_path / "store")
    view = kit.fill(store, kit.draw(4))
    return store, view, store.make_snapshot(view)


def test_maps_are_those_published_in_the_order_asked_for(small, kit):
    store, _, snapshot = small
    table = kit.draw(4)
    maps = mean_maps(store.url, snapshot, "PET", "spine", ("P002", "P000"))
    expected = [kit.entry(table["z"][row], [0, row, 0]).arrays["mean_map"] for row in (2, 0)]
    np.testing.assert_array_equal(maps, np.stack(expected))
    assert maps.dtype == np.float32


def test_maps_are_read_once_per_process_and_cannot_be_changed(small, bounded):
    bounded(CACHE_MIB)
    store, _, snapshot = small
    arguments = (store.url, snapshot, "CT", "spine", ("P000", "P001"))
    first = mean_maps(*arguments)
    assert mean_maps(*arguments) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0, 0] = 1.0


@pytest.fixture
def bounded():
    """Bounds what this process keeps, and forgets it."""

    def bound(mib: int) -> None:
        KEPT.clear()
        keep_at_most(mib)

    yield bound
    KEPT.clear()
    keep_at_most(CACHE_MIB)


def test_without_a_cache_equal_maps_are_read_anew_and_cannot_be_changed_either(small, bounded):
    store, _, snapshot = small
    arguments = (store.url, snapshot, "CT", "spine", ("P000", "P001"))
    kept = mean_maps(*arguments)
    bounded(0)
    first, second = mean_maps(*arguments), mean_maps(*arguments)
    assert first is not second
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, kept)
    assert KEPT.size_bytes == 0
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0, 0] = 1.0


def test_of_another_snapshot_entry_array_or_store_nothing_is_given(small, kit, tmp_path, bounded):
    store, view, snapshot = small
    bounded(CACHE_MIB)
    shutil.copytree(store.location.root, tmp_path / "copy")
    store.publish(view, EntryKey("P000", "PET", "spine"), kit.entry(9.0, [5]), input_sha256="f" * 64)
    other = store.make_snapshot(view)
    here = {
        (at, modality, patients): mean_maps(store.url, at, modality, "spine", patients)
        for at in (snapshot, other)
        for modality in ("PET", "CT")
        for patients in (("P000", "P001"), ("P001", "P000"), ("P000",))
    }
    for (at, modality, patients), maps in here.items():
        rows = [store.snapshot(at).read(EntryKey(one, modality, "spine")).arrays["mean_map"] for one in patients]
        np.testing.assert_array_equal(maps, np.stack(rows))
    assert memories(store.url, snapshot, "PET", "spine", ("P000",)).shape != here[snapshot, "PET", ("P000",)].shape
    there = mean_maps(str(tmp_path / "copy"), snapshot, "PET", "spine", ("P000",))
    assert there is not here[snapshot, "PET", ("P000",)]


def test_a_map_that_cannot_be_read_is_asked_for_again(small, bounded):
    store, view, snapshot = small
    bounded(CACHE_MIB)
    folder = store.location.root / store.commit(view, EntryKey("P003", "CT", "spine")).folder
    folder.rename(folder.with_name("away"))
    with pytest.raises(ObjectMissingError):
        mean_maps(store.url, snapshot, "CT", "spine", ("P003",))
    folder.with_name("away").rename(folder)
    assert mean_maps(store.url, snapshot, "CT", "spine", ("P003",)).shape[0] == 1


def test_an_array_that_does_not_fit_is_told_of_and_read_anew(small, kit, bounded, caplog):
    store, _, _ = small
    bounded(1)
    patients = tuple(f"M{row:03d}" for row in range(70))
    for patient in patients:
        memory = np.zeros((1, 4, 64, 64), np.float16)
        made = Entry({"memory": memory, "mean_map": memory[0, 0].astype(np.float32)}, {"valid": [True]})
        wide = kit.view.model_copy(update={"name": "wide", "layout": Layout(name="pooled", shape=(1, 4, 64, 64))})
        store.publish(store.put_view(wide), EntryKey(patient, "PET", "spine"), made, input_sha256="a" * 64)
    arguments = (store.url, store.make_snapshot(store.resolve_view("wide")), "PET", "spine", patients)
    assert mean_maps(*arguments) is not mean_maps(*arguments)
    assert KEPT.size_bytes == 0
    told = [record.getMessage() for record in caplog.records if record.name == "trainer.features"]
    assert len(told) == 1
    assert "Give a larger --cache-mib" in told[0]


def test_what_is_held_of_a_pack_is_within_the_bound(small, bounded):
    store, _, snapshot = small
    make_pack(store.snapshot(snapshot), "mean_map")
    bounded(CACHE_MIB)
    maps = mean_maps(store.url, snapshot, "PET", "spine", ("P000",))
    assert KEPT.size_bytes > maps.nbytes
    keep_at_most(0)
    assert KEPT.size_bytes == 0
    # the pack holds eight maps
    KEPT.bound(4 * HELD_SHARE * maps.nbytes)
    mean_maps(store.url, snapshot, "PET", "spine", ("P000",))
    assert _reader(store.url, snapshot).held_bytes <= 4 * maps.nbytes


def test_a_snapshot_reads_what_it_pinned_after_the_entry_changed(small, kit):
    store, view, snapshot = small
    key = EntryKey("P000", "PET", "spine")
    pinned = store.read(view, key).arrays["mean_map"]
    store.publish(view, key, kit.entry(9.0, [5]), input_sha256="f" * 64)
    np.testing.assert_array_equal(mean_maps(store.url, snapshot, "PET", "spine", ("P000",))[0], pinned)


def test_a_missing_patient_is_refused(small):
    store, _, snapshot = small
    with pytest.raises(NotCommittedError, match="P999/PET/spine"):
        mean_maps(store.url, snapshot, "PET", "spine", ("P999",))


def test_an_altered_map_is_refused(small):
    store, view, snapshot = small
    folder = store.commit(view, EntryKey("P003", "CT", "spine")).folder
    chunk = next(path for path in (store.location.root / folder / "mean_map" / "c").rglob("*") if path.is_file())
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    with pytest.raises(ObjectAlteredError):
        mean_maps(store.url, snapshot, "CT", "spine", ("P003",))


def test_an_entry_without_a_mean_map_is_refused(small, kit):
    store, view, _ = small
    made = kit.entry(0.0, [1])
    vector = Entry({"memory": made.arrays["memory"]}, {})
    store.publish(view, EntryKey("V", "PET", "spine"), vector, input_sha256="a" * 64)
    with pytest.raises(NotCommittedError, match="mean_map"):
        mean_maps(store.url, store.make_snapshot(view), "PET", "spine", ("V",))


def _as_in_a_new_process():
    snapshot_of.cache_clear()
    KEPT.clear()


@pytest.mark.parametrize("how", ["cache", "pack", "both"])
def test_maps_are_the_same_from_entries_cache_and_pack(small, tmp_path, monkeypatch, how):
    store, _, snapshot = small
    arguments = (store.url, snapshot, "PET", "spine", ("P003", "P000", "P001"))
    plain = np.array(mean_maps(*arguments))
    if how != "pack":
        monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path / "cache"))
    if how != "cache":
        pack = make_pack(store.snapshot(snapshot), "mean_map")
    for _ in range(2):
        _as_in_a_new_process()
        np.testing.assert_array_equal(mean_maps(*arguments), plain)
    assert (how == "cache") == any((tmp_path / "cache").glob("??/*"))
    if how != "cache":
        (tmp_path / "store" / pack.folder / "mean_map/c/0/0/0").write_bytes(b"damaged")
        _as_in_a_new_process()
        with pytest.raises(ObjectAlteredError):
            mean_maps(*arguments)


def _leave_only_a_pack(store, snapshot):
    make_pack(store.snapshot(snapshot), "mean_map")
    shutil.rmtree(store.location.root / "data")


def test_maps_of_another_modality_come_from_what_is_held_of_the_pack(small):
    store, _, snapshot = small
    _leave_only_a_pack(store, snapshot)
    _as_in_a_new_process()
    assert mean_maps(store.url, snapshot, "PET", "spine", ("P000",)).shape[0] == 1
    shutil.rmtree(store.location.root / "packs")
    assert mean_maps(store.url, snapshot, "CT", "spine", ("P000", "P003")).shape[0] == 2


def test_a_run_reads_the_pack_unasked_and_gives_the_same_numbers(cohort_folder, config, tmp_path):
    """In processes of its own, with nothing in the store but the pack to read maps from."""
    shutil.copytree(cohort_folder / "store", tmp_path / "store")
    store = open_store(tmp_path / "store")
    snapshot = store.make_snapshot(store.resolve_view("tiny"))

    def run(name, processes):
        inputs = Inputs(
            clinical=cohort_folder / "clinical.csv", store_url=str(tmp_path / "store"), snapshots=(snapshot,)
        )
        out, quiet = str(tmp_path / name), Console(file=io.StringIO())
        return cross_validate(config(), inputs, out=out, workers=Workers(number=processes), console=quiet).results

    from_entries = run("entries", 0)
    _leave_only_a_pack(store, snapshot)
    assert run("pack", 1) == from_entries


LAYOUTS = {
    "paper": (2, 32, 64, 64),
    "raw": (7, 64, 32, 32),
    "thirds": (3, 64, 32, 32),
    "pooled": (1, 64, 32, 32),
    "wide": (1, 2, 8, 96),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory, tiny_view):
    """A store with three patients in a view of each layout, and what was put there."""
    store, rng = create_store(tmp_path_factory.mktemp("layouts") / "store"), np.random.default_rng(0)
    held, snapshots = {}, {}
    for name, shape in LAYOUTS.items():
        view = store.put_view(tiny_view.model_copy(update={"name": name, "layout": Layout(name=name, shape=shape)}))
        held[name] = rng.normal(size=(3, *shape)).astype(np.float16)
        for row, memory in enumerate(held[name]):
            made = Entry({"memory": memory, "mean_map": memory.mean(axis=(0, 1), dtype=np.float32)}, {"valid": [True]})
            store.publish(view, EntryKey(f"P{row}", "PET", "spine"), made, input_sha256=f"{row:064x}")
        snapshots[name] = store.make_snapshot(view)
    return store, held, snapshots


@pytest.fixture(scope="module")
def measured(tmp_path_factory, tiny_view):
    """A store with a view of named features, some unknown, and one of a network's vectors."""
    store, rng = create_store(tmp_path_factory.mktemp("vectors") / "store"), np.random.default_rng(0)
    features = rng.normal(size=(4, 3)).astype(np.float32)
    features[1, 2] = np.nan
    layouts = {
        "radiomics": Layout(
            name="features", shape=(1, 3, 1, 1), dtype="float32", features=tuple("abc"), missing=MISSING
        ),
        "resnet": Layout(name="vector", shape=(1, 3, 1, 1)),
    }
    snapshots = {}
    for name, layout in layouts.items():
        view = store.put_view(tiny_view.model_copy(update={"name": name, "layout": layout}))
        for row, values in enumerate(np.nan_to_num(features, nan=MISSING if name == "radiomics" else 0)):
            dtype = np.float32 if name == "radiomics" else np.float16
            made = Entry({"memory": values.reshape(1, 3, 1, 1).astype(dtype)}, {"valid": [True]})
            store.publish(view, EntryKey(f"P{row}", "PET", "spine"), made, input_sha256=f"{row:064x}")
        snapshots[name] = store.make_snapshot(view)
    return store, features, snapshots


def network(head, *, pool=1, view="v"):
    images = {"modalities": ["PET"], "roi": "spine", "pool": pool}
    return NetworkModel.model_validate({"name": "m", "kind": "network", "view": view, "images": images, "head": head})


def linear():
    images = {"modalities": ["PET"], "roi": "spine"}
    return RidgeCoxModel.model_validate({"name": "m", "kind": "ridge_cox", "view": "v", "images": images})


def averaged(memory, block):
    """Blocks of a plane averaged one by one."""
    rows, columns = memory.shape[-2] // block, memory.shape[-1] // block
    found = np.empty((*memory.shape[:-2], rows, columns))
    for row in range(rows):
        for column in range(columns):
            part = memory[..., row * block : (row + 1) * block, column * block : (column + 1) * block]
            found[..., row, column] = part.astype(np.float64).mean(axis=(-2, -1))
    return found


@pytest.mark.parametrize(
    ("name", "pool", "block"),
    [("paper", 1, 2), ("paper", 4, 4), ("raw", 1, 1), ("raw", 2, 2), ("thirds", 1, 1), ("wide", 1, 4)],
)
def test_memories_are_averaged_in_plane_to_32_cells_an_edge_at_most(stored, name, pool, block):
    store, held, snapshots = stored
    found = memories(store.url, snapshots[name], "PET", "spine", ("P2", "P0"), pool=pool)
    expected = averaged(held[name][[2, 0]], block)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert found.dtype == (np.float16 if block == 1 else np.float32)
    assert memories(store.url, snapshots[name], "PET", "spine", ("P2", "P0"), pool=pool) is found
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0, 0, 0, 0] = 1.0


def _keeps_ahead(model, store, snapshot, patients):
    """What is kept once a model's matrix was read ahead, of which a second call needs no room."""
    _as_in_a_new_process()
    assert read_ahead(model, store.url, snapshot, patients)
    KEPT.bound(KEPT.size_bytes)
    kept = [one for one in KEPT._values.values() if isinstance(one, np.ndarray)]
    assert read_ahead(model, store.url, snapshot, patients)
    images_of(model, store.url, snapshot, patients)
    assert [one for one in KEPT._values.values() if isinstance(one, np.ndarray)] == kept
    (matrix,) = kept
    return matrix.nbytes


@pytest.mark.parametrize(
    ("name", "head", "pool"),
    [
        ("paper", "attention", 1),
        ("paper", "attention", 4),
        ("raw", "attention", 1),
        ("raw", "cnn3d", 1),
        ("paper", "cnn3d", 2),
        ("thirds", "average", 2),
    ],
)
def test_what_is_read_ahead_is_what_a_model_then_reads_and_as_large_as_was_counted(stored, bounded, name, head, pool):
    store, _, snapshots = stored
    bounded(CACHE_MIB)
    model, patients = network(head, pool=pool), ("P2", "P0")
    counted, _ = _patient_bytes(model, model.images, store.snapshot(snapshots[name]).view.layout)
    assert _keeps_ahead(model, store, snapshots[name], patients) == 2 * counted


@pytest.mark.parametrize("name", ["radiomics", "resnet"])
def test_vectors_are_read_ahead_too(measured, bounded, name):
    store, _, snapshots = measured
    bounded(CACHE_MIB)
    model = network("vector")
    counted, _ = _patient_bytes(model, model.images, store.snapshot(snapshots[name]).view.layout)
    assert _keeps_ahead(model, store, snapshots[name], ("P0", "P1", "P2")) == 3 * counted


def test_room_for_what_a_reader_holds_of_a_pack_is_counted(small, bounded):
    store, _, snapshot = small
    make_pack(store.snapshot(snapshot), "mean_map")
    bounded(CACHE_MIB)
    mine, patients = np.zeros(600 * 1024, np.uint8), ("P000", "P001", "P002", "P003")
    matrix_bytes = 4 * 8 * 8 * 4
    for room, fits in ((4 * matrix_bytes, False), (400 * 1024, True)):
        _as_in_a_new_process()
        KEPT.bound(mine.nbytes + room)
        KEPT.get("of a fit", lambda: mine)
        assert read_ahead(network("average"), store.url, snapshot, patients) is fits
        assert "of a fit" in KEPT
        assert KEPT.size_bytes <= KEPT.limit_bytes


def test_memories_of_more_patients_than_are_read_at_once_keep_their_order(small):
    store, view, _ = small
    rng = np.random.default_rng(1)
    values = rng.normal(size=(40, 1, 4, 8, 8)).astype(np.float16)
    for row, memory in enumerate(values):
        made = Entry({"memory": memory, "mean_map": memory.mean(axis=(0, 1), dtype=np.float32)}, {"valid": [True]})
        store.publish(view, EntryKey(f"M{row:02d}", "PET", "spine"), made, input_sha256=f"{row:064x}")
    order = rng.permutation(40)
    found = memories(store.url, store.make_snapshot(view), "PET", "spine", tuple(f"M{row:02d}" for row in order))
    np.testing.assert_array_equal(found, values[order])


def test_memories_are_the_same_from_a_pack(stored):
    store, held, snapshots = stored
    make_pack(store.snapshot(snapshots["thirds"]), "memory")
    _as_in_a_new_process()
    found = memories(store.url, snapshots["thirds"], "PET", "spine", ("P1", "P2"))
    np.testing.assert_array_equal(found, held["thirds"][[1, 2]])


@pytest.mark.parametrize(
    ("name", "depth", "block"), [("paper", 32, 2), ("raw", 32, 14), ("thirds", 32, 6), ("pooled", 32, 2)]
)
def test_volumes_are_layers_and_channels_in_one_depth_averaged_over_neighbours(stored, name, depth, block):
    store, _, snapshots = stored
    memory = memories(store.url, snapshots[name], "PET", "spine", ("P0", "P1"))
    found = volumes(memory)
    assert found.shape == (2, 1, depth, 32, 32)
    stacked = memory.reshape(2, -1, 32, 32).astype(np.float64)
    for place in (0, depth // 2, depth - 1):
        expected = stacked[:, place * block : (place + 1) * block].mean(axis=1)
        np.testing.assert_allclose(found[:, 0, place], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("sides", "block"), [((64, 64), 2), ((32, 32), 1), ((8, 8), 1), ((96, 64), 4), ((33,), 3), ((37,), 37)]
)
def test_blocks_are_the_smallest_that_part_every_side_evenly(sides, block):
    assert even_block(sides, 32) == block


def test_vectors_hold_nan_where_a_feature_is_not_known(measured):
    store, features, snapshots = measured
    found = vectors(store.url, snapshots["radiomics"], "PET", "spine", ("P1", "P0"))
    np.testing.assert_array_equal(found, features[[1, 0]])
    assert np.isnan(found).sum() == 1
    plain = vectors(store.url, snapshots["resnet"], "PET", "spine", ("P1",))
    assert plain.dtype == np.float32
    assert plain[0, 2] == 0


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        ("average", (2, 64, 64)),
        ("flatten", (2, 64, 64)),
        ("pca", (2, 64, 64)),
        ("attention", (2, 2, 32, 32, 32)),
        ("cnn3d", (2, 1, 32, 32, 32)),
    ],
)
def test_each_head_reads_what_it_takes(stored, head, shape):
    store, _, snapshots = stored
    found = images_of(network(head), store.url, snapshots["paper"], ("P0", "P1"))
    assert found.arrays["PET"].shape == shape
    assert found.features == ()


@pytest.mark.parametrize("model", [network("vector"), linear()])
def test_vectors_are_read_with_their_names(measured, model):
    store, features, snapshots = measured
    found = images_of(model, store.url, snapshots["radiomics"], ("P0", "P3"))
    np.testing.assert_array_equal(found.arrays["PET"], features[[0, 3]])
    assert found.features == ("a", "b", "c")


def test_a_clinical_model_reads_nothing(stored):
    clinical = RidgeCoxModel.model_validate({"name": "m", "kind": "ridge_cox"})
    assert images_of(clinical, stored[0].url, stored[2]["paper"], ("P0",)) is None


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            network("average"),
            "head average reads maps, and view 'resnet' holds vectors of 3 numbers: set head: vector, or another view",
        ),
        (network("attention"), "head attention reads maps, and view 'resnet'"),
        (network("vector", pool=2), "remove images.pool: vectors have no plane"),
    ],
)
def test_a_head_of_maps_on_a_view_of_vectors_is_refused_with_what_to_change(measured, model, told):
    store, _, snapshots = measured
    with pytest.raises(ConfigError, match=f"models: m: .*{told}"):
        images_of(model, store.url, snapshots["resnet"], ("P0",))


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            network("vector"),
            "head vector reads vectors, and view 'raw' holds memories of 7 × 64 × 32 × 32: set head: average or attention",
        ),
        (linear(), "ridge_cox reads vectors, and view 'raw' holds .*: use kind: network, or another view"),
        (network("attention", pool=5), "blocks of 5 do not part maps of 32 × 32 evenly"),
    ],
)
def test_a_head_that_does_not_fit_a_view_of_memories_is_refused_with_what_to_change(stored, model, told):
    store, _, snapshots = stored
    with pytest.raises(ConfigError, match=told):
        images_of(model, store.url, snapshots["raw"], ("P0",))
