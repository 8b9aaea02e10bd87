"""Maps read by snapshot: their order, their bytes, and what is refused."""

import io
import shutil

import numpy as np
import pytest
from rich.console import Console

from store_schema import Entry, EntryKey, create_store, make_pack, open_store
from store_schema.errors import NotCommittedError, ObjectAlteredError
from trainer.dispatch import Workers
from trainer.features import mean_maps, reader_of, snapshot_of
from trainer.plan import Inputs
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


def test_maps_are_read_once_per_process_and_cannot_be_changed(small):
    store, _, snapshot = small
    arguments = (store.url, snapshot, "CT", "spine", ("P000", "P001"))
    first = mean_maps(*arguments)
    assert mean_maps(*arguments) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0, 0] = 1.0


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
    for kept in (mean_maps, reader_of, snapshot_of):
        kept.cache_clear()


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
