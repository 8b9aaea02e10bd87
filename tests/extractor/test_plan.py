"""The plan: which item is new, done, to be compared or refused, from names and fingerprints alone; files hold no image."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from extractor.config import ExtractConfig
from extractor.outcome import PlanItem
from extractor.plan import _state, make_plan, once, rois_of, sources_of
from extractor.study import StudyFiles
from extractor.table import StudyRow
from store_schema import EntryKey, Store, create_store
from store_schema.commits import commit_path
from store_schema.files import Fingerprint
from store_schema.testing import BlindLocation, digest_of, example_entry, example_view
from store_schema.withdraw import withdraw

CONFIG = ExtractConfig(pet_units="suv", derive=("spine_dilated",), layouts=("paper",))
NAMES = {"ct": "ct.nii.gz", "pet": "pet.nii.gz", "label_map": "labels.nii.gz", "tumour": "tumour.nii.gz"}
ALL = {("PET", "tumour"), ("CT", "tumour"), ("PET", "spine_dilated"), ("CT", "spine_dilated")}


def row_in(
    folder: Path, patient: str = "P1", *, roi: str = "tumour", kind: type[StudyRow] = StudyRow, **names
) -> StudyRow:
    """A study of four files, each with a few bytes."""
    folder.mkdir(exist_ok=True)
    paths = {role: folder / name for role, name in (NAMES | names).items()}
    for path in paths.values():
        path.write_bytes(b"voxels")
    masks = {roi: str(paths["tumour"])}
    return kind(2, patient, StudyFiles(patient, str(paths["ct"]), str(paths["pet"]), masks, str(paths["label_map"])))


@pytest.fixture
def store() -> Store:
    return create_store(f"memory://{uuid4().hex}")


@pytest.fixture
def view(store) -> str:
    return store.put_view(example_view())


def commit(store: Store, view: str, row: StudyRow) -> None:
    """Commits every item of a study as made from its files."""
    for modality in CONFIG.modalities:
        for roi in rois_of(row, CONFIG):
            key, sources = EntryKey(row.patient, modality, roi), sources_of(row, modality, roi)
            store.publish(view, key, example_entry(), input_sha256=digest_of(str(key)), sources=sources)


def plan(store: Store, view: str, *rows: StudyRow) -> list[PlanItem]:
    return make_plan(rows, views={"paper": view}, store=store, config=CONFIG)


def items(plan: list[PlanItem], state: str) -> set[tuple[str, str]]:
    return {(item.modality, item.roi) for item in plan if item.state == state}


def test_items_are_new_then_done(store, view, tmp_path):
    row = row_in(tmp_path)
    assert items(plan(store, view, row), "new") == ALL
    commit(store, view, row)
    again = plan(store, view, row)
    assert items(again, "done") == ALL
    assert {item.number for item in again} == {0}


@pytest.mark.parametrize(
    ("name", "role", "touched"),
    [
        ("ct", "CT", ALL),
        ("pet", "PET", {("PET", "tumour"), ("PET", "spine_dilated")}),
        ("tumour", "mask:tumour", {("PET", "tumour"), ("CT", "tumour")}),
        ("label_map", "label_map", {("PET", "spine_dilated"), ("CT", "spine_dilated")}),
    ],
)
@pytest.mark.parametrize("act", [lambda path: os.utime(path, (1, 1)), lambda path: path.write_bytes(b"other voxels")])
def test_a_changed_file_is_compared_in_every_item_made_from_it_and_no_other(
    store, view, tmp_path, name, role, touched, act
):
    row = row_in(tmp_path)
    commit(store, view, row)
    act(tmp_path / NAMES[name])
    changed = plan(store, view, row)
    assert items(changed, "changed") == touched
    assert items(changed, "done") == ALL - touched
    assert {item.reason for item in changed if item.state == "changed"} == {
        f"{role} differ(s) from the file committed: voxels are compared"
    }


def test_every_label_map_of_a_set_in_several_files_is_a_source_of_the_regions(store, view, tmp_path):
    row, roles = row_in(tmp_path), ("label_map_vertebrae", "label_map_ribs")
    parts = {role.removeprefix("label_map_"): str(tmp_path / f"{role}.nii.gz") for role in roles}
    for path in parts.values():
        Path(path).write_bytes(b"voxels")
    row = replace(row, files=replace(row.files, label_map=None, label_parts=parts))
    commit(store, view, row)
    assert items(plan(store, view, row), "done") == ALL
    os.utime(parts["ribs"], (1, 1))
    changed = plan(store, view, row)
    assert items(changed, "changed") == {("PET", "spine_dilated"), ("CT", "spine_dilated")}
    assert {item.reason[:14] for item in changed if item.state == "changed"} == {"label_map_ribs"}


def test_an_empty_label_map_cell_stops_no_plan(store, view, tmp_path):
    row = row_in(tmp_path)
    empty = replace(row, files=replace(row.files, label_map=None))
    assert items(plan(store, view, empty), "new") == ALL


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("pet.mhd", b""),
        ("PET.MHD", b""),
        ("pet.nhdr", b""),
        ("pet.mha", b"NDims = 3\nElementDataFile = pet.raw\n"),
        ("pet.nrrd", b"NRRD0004\ndimension: 3\ndata file: pet.raw\n\n"),
        ("pet.nrrd", b"NRRD0004\r\ndatafile: pet.raw\r\n"),
    ],
)
def test_a_header_says_nothing_of_voxels_that_lie_elsewhere(store, view, tmp_path, name, header):
    row = row_in(tmp_path, pet=name)
    (tmp_path / name).write_bytes(header)
    commit(store, view, row)
    found = plan(store, view, row)
    assert items(found, "changed") == {("PET", "tumour"), ("PET", "spine_dilated")}
    assert {item.reason for item in found if item.state == "changed"} == {
        "PET: the voxels lie in another file than the one named, and are compared"
    }


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("pet.mha", b"NDims = 3\nElementDataFile = LOCAL\nvoxels"),
        ("pet.nrrd", b"NRRD0004\ndimension: 3\n\ndata file: these are voxels"),
    ],
)
def test_voxels_behind_their_own_header_are_done_by_its_fingerprint(store, view, tmp_path, name, data):
    row = row_in(tmp_path, pet=name)
    (tmp_path / name).write_bytes(data)
    commit(store, view, row)
    assert items(plan(store, view, row), "done") == ALL


def remote_row(patient: str = "P1", **names) -> StudyRow:
    """A study of four files at an address."""
    folder = f"memory://{uuid4().hex}"
    places = {role: f"{folder}/{name}" for role, name in (NAMES | names).items()}
    for place in places.values():
        fsspec.filesystem("memory").pipe_file(place, b"voxels")
    files = StudyFiles(patient, places["ct"], places["pet"], {"tumour": places["tumour"]}, places["label_map"])
    return StudyRow(2, patient, files)


def test_remote_files_are_told_apart_by_their_fingerprints(store, view):
    row = remote_row()
    commit(store, view, row)
    assert items(plan(store, view, row), "done") == ALL
    fsspec.filesystem("memory").pipe_file(row.files.pet, b"other voxels")
    changed = plan(store, view, row)
    assert items(changed, "changed") == {("PET", "tumour"), ("PET", "spine_dilated")}
    assert items(changed, "done") == {("CT", "tumour"), ("CT", "spine_dilated")}


def test_remote_files_that_are_not_there_or_cannot_be_asked_for_refuse_their_study_alone(store, view):
    gone, strange, good = remote_row("P1"), remote_row("P2"), remote_row("P3")
    fsspec.filesystem("memory").rm_file(gone.files.pet)
    strange = StudyRow(3, "P2", replace(strange.files, ct="nosuch://host/ct.nii.gz"))
    found = plan(store, view, gone, strange, good)
    assert {(item.patient, item.state) for item in found} == {("P1", "refused"), ("P2", "refused"), ("P3", "new")}
    reasons = {item.patient: item.reason for item in found}
    assert reasons["P1"] == f"file not found: PET {gone.files.pet}"
    assert "nothing here knows nosuch://" in reasons["P2"]


def test_a_remote_header_says_nothing_of_voxels_that_lie_elsewhere(store, view):
    row = remote_row(pet="pet.nrrd")
    fsspec.filesystem("memory").pipe_file(row.files.pet, b"NRRD0004\ndata file: pet.raw\n\n")
    commit(store, view, row)
    assert items(plan(store, view, row), "changed") == {("PET", "tumour"), ("PET", "spine_dilated")}


def test_a_file_is_asked_for_once_a_study():
    asked = []
    look = once(lambda place: asked.append(place) or Fingerprint(1, 1))
    row = remote_row()
    for modality, roi in ALL:
        sources_of(row, modality, roi, look=look)
    assert sorted(asked) == sorted(row.files.places)


def test_a_fingerprint_that_decides_nothing_is_compared_by_voxels(store, view, tmp_path):
    row = row_in(tmp_path)
    key, sources = EntryKey("P1", "PET", "tumour"), sources_of(row, "PET", "tumour", look=lambda _: Fingerprint(6))
    store.publish(view, key, example_entry(), input_sha256=digest_of("x"), sources=sources)
    bare = {source.role: source for source in sources}
    state, reason = _state(store.current(view, key), bare, row.paths)
    assert (state, "neither time nor ETag" in reason) == ("changed", True)


def test_a_commit_that_names_the_whole_path_is_done_still(store, view, tmp_path):
    row = row_in(tmp_path)
    for modality, roi in ALL:
        sources = [
            source.model_copy(update={"path": row.paths[source.role]}) for source in sources_of(row, modality, roi)
        ]
        key = EntryKey(row.patient, modality, roi)
        store.publish(view, key, example_entry(), input_sha256=digest_of(str(key)), sources=sources)
    assert items(plan(store, view, row), "done") == ALL


def test_sources_name_no_folder_of_this_machine(tmp_path):
    for source in sources_of(row_in(tmp_path / "alice"), "PET", "tumour"):
        assert "alice" not in source.path
        assert str(tmp_path) not in source.path


def test_withdrawn_entries_are_listed_as_such_whatever_became_of_their_files(store, view, tmp_path):
    gone, good = row_in(tmp_path / "1", "P1"), row_in(tmp_path / "2", "P2")
    for row in (gone, good):
        commit(store, view, row)
    withdraw(store, patients=["P1"], reason="consent taken back")
    (tmp_path / "1" / NAMES["ct"]).unlink()
    found = plan(store, view, gone, good)
    assert {(item.patient, item.state) for item in found} == {("P1", "withdrawn"), ("P2", "done")}
    assert not any(item.to_do for item in found)
    blind = Store(BlindLocation(store.location), store.record)
    assert {item.state for item in plan(blind, view, good)} == {"done"}


def test_a_damaged_commit_refuses_its_item_alone(store, view, tmp_path):
    rows = [row_in(tmp_path / patient, patient) for patient in ("P1", "P2")]
    for row in rows:
        commit(store, view, row)
    path = commit_path(view, EntryKey("P2", "PET", "tumour"), 0)
    data = bytearray(store.location.get(path))
    data[50] ^= 1
    store.location.put(path, bytes(data))
    found = plan(store, view, *rows)
    refused = [item for item in found if item.state == "refused"]
    assert [(item.patient, item.modality, item.roi) for item in refused] == [("P2", "PET", "tumour")]
    assert refused[0].reason.startswith(f"ObjectAlteredError: {path} ")
    assert {item.state for item in found if item not in refused} == {"done"}


@dataclass(frozen=True)
class LockedRow(StudyRow):
    """A study in a folder that may not be searched."""

    def missing_files(self) -> list[str]:
        raise PermissionError(13, "Permission denied")


@dataclass(frozen=True)
class LateRow(StudyRow):
    """A study whose files vanish after they were looked for."""

    def missing_files(self) -> list[str]:
        for path in self.paths.values():
            Path(path).unlink(missing_ok=True)
        return []


@pytest.mark.parametrize(("kind", "said"), [(LockedRow, "PermissionError: "), (LateRow, "FileNotFoundError: ")])
def test_files_that_cannot_be_asked_for_refuse_their_study_alone(store, view, tmp_path, kind, said):
    rows = [row_in(tmp_path / "1", "P1", kind=kind), row_in(tmp_path / "2", "P2")]
    for row in rows:
        commit(store, view, row)
    found = plan(store, view, *rows)
    assert {(item.patient, item.state) for item in found} == {("P1", "refused"), ("P2", "done")}
    assert all(item.reason.startswith(said) for item in found if item.state == "refused")


def test_missing_files_are_named(store, view, tmp_path):
    row = row_in(tmp_path)
    (tmp_path / NAMES["pet"]).unlink()
    assert {item.reason for item in plan(store, view, row)} == {f"file not found: PET {tmp_path / NAMES['pet']}"}


def test_a_patient_that_differs_by_case_alone_from_one_in_the_store_is_refused(store, view, tmp_path):
    commit(store, view, row_in(tmp_path / "1", "P1"))
    found = plan(store, view, row_in(tmp_path / "2", "p1"), row_in(tmp_path / "3", "P3"))
    assert {(item.patient, item.state) for item in found} == {("p1", "refused"), ("P3", "new")}
    assert all(item.reason.startswith("patient 'p1' differs by case alone from 'P1'") for item in found[:4])


def test_a_region_that_differs_by_case_alone_from_one_in_another_view_is_refused_and_the_others_are_not(
    store, view, tmp_path
):
    commit(store, store.put_view(example_view(recipe=2)), row_in(tmp_path / "1", "P1"))
    found = plan(store, view, row_in(tmp_path / "2", "P2", roi="Tumour"))
    assert items(found, "refused") == {("PET", "Tumour"), ("CT", "Tumour")}
    assert items(found, "new") == {("PET", "spine_dilated"), ("CT", "spine_dilated")}


def test_an_id_that_the_store_has_already_goes_on_beside_its_twin(store, view, tmp_path):
    for patient in ("P1", "p1"):
        commit(store, view, row_in(tmp_path / "1", patient))
    assert items(plan(store, view, row_in(tmp_path / "1", "p1")), "refused") == set()


def test_a_store_that_cannot_list_is_planned_without_a_look_at_twins(store, view, tmp_path):
    row = row_in(tmp_path / "1", "P1")
    commit(store, view, row)
    blind = Store(BlindLocation(store.location), store.record)
    found = plan(blind, view, row, row_in(tmp_path / "2", "p1"))
    assert {(item.patient, item.state) for item in found} == {("P1", "done"), ("p1", "new")}
