"""Entries made from other files than the base's are judged nowhere and told; several inputs of one entry are refused."""

import hashlib

import numpy as np
import pytest
from click.testing import CliRunner

from store_schema import Entry, EntryKey, Layout, create_store, open_store
from store_schema.errors import CohortError, UsageError
from store_schema.records import Source
from trainer.cli import main
from trainer.quality.inputs import Asked as Looked
from trainer.quality.measuring import measure as look
from trainer.robustness.files import file_differences, same_files
from trainer.robustness.measuring import Asked, measure
from trainer.robustness.page import write_page
from trainer.robustness.reading import snapshot_of
from trainer.robustness.writing import write_robustness

from .folds_help import disturbed, silent

PATIENTS = 12


def source(role, *, size=100, at=1, etag=None, path="a.nii.gz"):
    return Source(role=role, path=path, size_bytes=size, mtime_ns=at, etag=etag)


IMAGES = (source("PET"), source("CT"))
BASE = (*IMAGES, source("mask:spine"))


@pytest.mark.parametrize(
    ("base", "other", "told", "why"),
    [
        (BASE, BASE, "same", ""),
        (BASE, (*IMAGES, source("mask:spine", path="moved.nii.gz")), "same", ""),
        (BASE, (*BASE, source("label_map")), "same", ""),
        (BASE, (*IMAGES, source("mask:spine", size=101)), "other", "mask:spine: 101 bytes, not 100"),
        (BASE, (*IMAGES, source("mask:spine", at=2)), "other", "mask:spine: another modification time"),
        (BASE, (*IMAGES, source("label_map")), "other", "region from label_map, the base's from mask:spine"),
        (IMAGES, (source("PET", at=None, etag="x"), source("CT")), "unknown", ""),
        ((source("PET", at=None, etag="y"),), (source("PET", at=None, etag="x"),), "other", "PET: another ETag"),
        ((source("PET", at=None, etag="x"),), (source("PET", at=None, etag="x"),), "same", ""),
        # a size that differs says enough, whatever else is not known
        ((source("PET", at=None),), (source("PET", size=7, at=None),), "other", "PET: 7 bytes, not 100"),
        (BASE, (), "unknown", ""),
        ((), (), "unknown", ""),
        # every view of imported features has a table of its own
        ((source("features"),), (source("features", size=7),), "unknown", ""),
        ((source("PET"),), (source("CT"),), "unknown", ""),
    ],
)
def test_files_are_one_by_size_and_time_or_tag_in_every_shared_role(base, other, told, why):
    assert same_files(base, other) == (told, why)


def publish(store, view, *, patients=PATIENTS, seed=0, given=None):
    """Vectors of a view; `given` tells other sources by patient."""
    view_id, rng = store.put_view(view), np.random.default_rng(seed)
    for row in range(patients):
        vector = rng.normal(size=(1, 5, 1, 1)).astype(np.float32)
        sources = BASE if given is None else given.get(row, BASE)
        told = hashlib.sha256(vector.tobytes() + repr(sources).encode()).hexdigest()
        key = EntryKey(f"P{row:02d}", "PET", "spine")
        store.publish(view_id, key, Entry({"memory": vector}, {}), input_sha256=told, sources=sources)
    return view_id


@pytest.fixture
def made(kit, tmp_path):
    """A base and a view of padding, whose masks of three patients were corrected in between."""
    layout = Layout(name="vector", shape=(1, 5, 1, 1), dtype="float32")
    base = kit.view.model_copy(update={"name": "vec", "layout": layout})
    store = create_store(tmp_path / "store")
    publish(store, base)
    corrected = (*IMAGES, source("mask:spine", at=2))
    publish(store, disturbed(base, "padding", 2.0), seed=1, given=dict.fromkeys(range(3), corrected))
    return store, base


def test_entries_of_corrected_masks_are_left_out_counted_and_told(made, tmp_path):
    store, _ = made
    measured = measure(Asked(store.url, "vec", ("vec-padding",)), silent)
    found = measured.found
    (one,) = found.views[0].embeddings
    assert (one.patients, found.entries, found.other_files) == (9, 9, 3)
    (note,) = (note for note in found.notes if "other files" in note)
    assert note.startswith("3 entries of vec-padding-")
    assert note.endswith("left out: mask:spine: another modification time (3). Extract both from the same files")
    write_page(found, write_robustness(measured, str(tmp_path / "out")))
    page, table = ((tmp_path / "out" / name).read_text() for name in ("report.html", "left_out.csv"))
    assert "3 entries of vec-padding-" in page
    assert "P00" not in page
    assert [line.split(",")[0] for line in table.splitlines()] == ["patient", "P00", "P01", "P02"]
    assert not any("not every view holds" in note for note in found.notes)
    whole = measure(Asked(store.url, "vec", ("vec-padding",), any_files=True), silent).found
    assert (whole.entries, whole.other_files) == (12, 0)
    assert any("nobody looked" in note for note in whole.notes)
    write_robustness(measure(Asked(store.url, "vec", ("vec-padding",), any_files=True), silent), str(tmp_path / "out"))
    assert not (tmp_path / "out" / "left_out.csv").exists()


def test_a_base_that_was_extracted_again_stands_beside_no_stale_view(made):
    store, base = made
    anew = (source("PET", at=9), *BASE[1:])
    publish(store, base, seed=2, given=dict.fromkeys(range(PATIENTS), anew))
    with pytest.raises(UsageError, match=r"12 entries of vec-.* several inputs .*id of a snapshot.*--latest"):
        measure(Asked(store.url, "vec", ("vec-padding",)), silent)
    with pytest.raises(CohortError, match=r"0 entries in common.*12 entries of vec-padding-.* other files"):
        measure(Asked(store.url, "vec", ("vec-padding",), latest=True), silent)


def test_what_no_record_tells_is_said(made):
    store, base = made
    publish(store, disturbed(base, "noise", 1.0), seed=3, given=dict.fromkeys(range(5), ()))
    found = measure(Asked(store.url, "vec", ("vec-noise",)), silent).found
    assert found.entries == PATIENTS
    (note,) = (note for note in found.notes if "no record tells" in note)
    assert note.startswith("of 5 entries of vec-noise-")
    views = [snapshot_of(store, name) for name in ("vec", "vec-noise", "vec-padding")]
    assert [(len(one.other), len(one.unknown)) for one in file_differences(views[0], views[1:])] == [(0, 5), (3, 0)]


def test_quality_refuses_several_inputs_and_takes_the_latest_or_a_snapshot(made):
    store, base = made
    view = store.resolve_view("vec")
    before = store.make_snapshot(view)
    publish(store, base, patients=1, seed=2)
    quiet = {"umap": False, "permutations": 99}
    with pytest.raises(UsageError, match=r"1 entries .* several inputs \(P00/PET/spine\)"):
        look(Looked(store.url, ("vec",), **quiet), silent)
    latest = look(Looked(store.url, ("vec",), latest=True, **quiet), silent).found
    assert latest.views[0].snapshot == store.make_snapshot(view) != before
    assert look(Looked(store.url, (before,), **quiet), silent).found.views[0].snapshot == before


def test_the_commands_take_the_latest_only_where_they_are_told(made, tmp_path):
    store, base = made
    publish(store, base, patients=1, seed=2)
    for command in (
        ["robustness", "--base", "vec", "--perturbed", "vec-padding"],
        ["quality", "--view", "vec", "--no-umap", "--permutations", "99"],
    ):
        asked = [*command, "--store", store.url, "--out", str(tmp_path / command[0])]
        refused = CliRunner().invoke(main, asked)
        assert refused.exit_code == 2
        assert "several inputs" in refused.stderr
        assert CliRunner().invoke(main, [*asked, "--latest"]).exit_code == 0
    assert open_store(store.url).current_numbers(store.resolve_view("vec"))[EntryKey("P00", "PET", "spine")] == 1
