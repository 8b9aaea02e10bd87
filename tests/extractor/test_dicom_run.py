"""DICOM folders through table, plan, download and `extractor run`: one image, whichever way it is stored."""

import json
import os
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pydicom
import pytest
from rich.console import Console

from extractor.config import ExtractConfig
from extractor.dicom.series import read_pet_series
from extractor.fetch import fetched
from extractor.phantom import write_cohort
from extractor.plan import sources_of
from extractor.run import RunOptions, RunReport, run
from extractor.study import PrepareRules, StudyFiles, prepare_study
from extractor.table import read_study_table
from extractor.volumes import read_volume, write_image
from store_schema import open_store
from store_schema.errors import ConfigError
from store_schema.pseudonyms import Pseudonyms

CONFIG = ExtractConfig(
    model="mini", weights="random:0", stride=16, derive=("spine_dilated",), layouts=("paper",), modalities=("PET", "CT")
)
"""Without pet_units: a DICOM PET says its own."""
NAME = "JANE-DOE"


@pytest.fixture(scope="module")
def made(dicom, tmp_path_factory) -> Path:
    """One phantom as DICOM folders and as NIfTI files of equal values, with a table of each."""
    folder = tmp_path_factory.mktemp("dicom-cohort")
    write_cohort(folder / "phantom", n=1, seed=3)
    header, line = (folder / "phantom" / "studies.csv").read_text().splitlines()
    row = dict(zip(header.split(","), line.split(","), strict=True))
    ct, pet = (read_volume(str(folder / "phantom" / row[column])) for column in ("ct", "pet"))
    # The phantom's noise goes below what stored values of 0 and up can say.
    np.maximum(ct.array_zyx, -1024, out=ct.array_zyx)
    _as_dicom(dicom, folder / NAME / "ct", ct, "CT")
    _as_dicom(dicom, folder / NAME / "pet", pet, "PET")
    whole = np.round(ct.array_zyx)
    write_image(whole.astype(np.int16), ct.grid, folder / "ct.nii.gz")
    suv, _ = read_pet_series(str(folder / NAME / "pet"))
    write_image(suv.array_zyx, suv.grid, folder / "pet.nii.gz")
    label_map = folder / "phantom" / row["label_map"]
    (folder / "dicom.csv").write_text(f"patient,ct,pet,label_map\np1,{NAME}/ct,{NAME}/pet/,{label_map}\n")
    (folder / "nifti.csv").write_text(f"patient,ct,pet,label_map\np1,ct.nii.gz,pet.nii.gz,{label_map}\n")
    return folder


def _as_dicom(dicom, folder, volume, role):
    values = volume.array_zyx / (1 if role == "CT" else dicom.BQML_TO_SUV)
    slope = 1.0 if role == "CT" else float(values.max()) / 60_000
    stored = np.round((values + (1024 if role == "CT" else 0)) / slope).astype(np.uint16)
    dicom.write_series(
        folder,
        stored,
        role=role,
        spacing_xyz_mm=volume.grid.spacing_xyz_mm,
        origin_xyz_mm=volume.grid.origin_xyz_mm,
        slope=lambda rank: slope,
        name=lambda rank: f"{NAME}-{97 * rank % len(stored):03d}.IMA",
    )


@pytest.fixture
def cohort(made, tmp_path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(made, tmp_path / "cohort")
    return tmp_path / "cohort"


def extract(table: Path | str, store: Path, config: ExtractConfig = CONFIG, **options) -> RunReport:
    return run(config, RunOptions(table, str(store), jobs=0, **options), console=Console(quiet=True))


def states(report: RunReport) -> set[str]:
    return {item.state for item in report.plan}


def results(report: RunReport) -> set[str]:
    return {
        f"{outcome.result}: {outcome.reason}" if outcome.result == "failed" else outcome.result
        for outcome in report.outcomes
    }


def test_dicom_folders_are_extracted_and_a_rerun_reads_no_voxel(cohort, tmp_path):
    assert results(extract(cohort / "dicom.csv", tmp_path / "store")) == {"committed"}
    assert states(extract(cohort / "dicom.csv", tmp_path / "store")) == {"done"}


def test_the_same_images_as_nifti_are_done_already(cohort, tmp_path):
    declared = CONFIG.model_copy(update={"pet_units": "suv"})
    extract(cohort / "dicom.csv", tmp_path / "store")
    report = extract(cohort / "nifti.csv", tmp_path / "store", declared)
    assert results(report) == {"done"}


def test_units_are_declared_for_files_alone(cohort, tmp_path):
    mixed = cohort / "mixed.csv"
    lines = [(cohort / name).read_text().splitlines() for name in ("dicom.csv", "nifti.csv")]
    mixed.write_text("\n".join([*lines[0], lines[1][1].replace("p1", "p2")]) + "\n")
    with pytest.raises(ConfigError, match=r"1 of 2 studies .* line 3 .*pet_units: suv"):
        extract(mixed, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    declared = CONFIG.model_copy(update={"pet_units": "suv"})
    assert results(extract(mixed, tmp_path / "store", declared)) == {"committed"}


@pytest.mark.parametrize("change", ["touched", "added", "removed", "replaced"])
def test_a_changed_file_of_a_folder_changes_its_fingerprint(cohort, change):
    (row,) = read_study_table(cohort / "dicom.csv", CONFIG)
    before = sources_of(row, "CT", "spine_dilated")
    path = sorted((cohort / NAME / "ct").iterdir())[5]
    if change == "touched":
        os.utime(path, (1, 1))
    elif change == "added":
        (path.parent / "README").touch()
    elif change == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"\0")
    assert sources_of(row, "CT", "spine_dilated") != before
    assert before[0].path.endswith("/ct")


def test_a_missing_slice_fails_its_study_alone_with_numbers(cohort, tmp_path):
    table = cohort / "dicom.csv"
    shutil.copytree(cohort / NAME, cohort / "other")
    table.write_text(
        table.read_text() + table.read_text().splitlines()[1].replace("p1", "p2").replace(NAME, "other") + "\n"
    )
    by_place = {pydicom.dcmread(path).InstanceNumber: path for path in (cohort / "other" / "ct").iterdir()}
    by_place[20].unlink()
    report = extract(table, tmp_path / "store")
    assert report.failed
    assert {o.result for o in report.outcomes if o.patient == "p1"} == {"committed"}
    assert all("misses about 1 slice" in o.reason for o in report.outcomes if o.patient == "p2")


def test_a_folder_that_is_not_there_is_refused_by_the_plan(cohort, tmp_path):
    shutil.rmtree(cohort / NAME / "pet")
    report = extract(cohort / "dicom.csv", tmp_path / "store")
    assert states(report) == {"refused"}


@pytest.mark.parametrize("broken", [False, True])
def test_pseudonymised_runs_keep_no_name_uid_or_file_of_a_series(cohort, tmp_path, broken):
    ids = Pseudonyms(b"0123456789abcdef")
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in (cohort / NAME / "pet").iterdir()]
    if broken:
        (cohort / NAME / "pet" / f"{NAME} notes.pdf").touch()
    report = extract(cohort / "dicom.csv", tmp_path / "store", ids=ids)
    assert report.failed == broken
    written = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    told = written + json.dumps([outcome.reason for outcome in report.outcomes]).encode()
    uids = {str(header.get(name)) for header in headers for name in ("SeriesInstanceUID", "SOPInstanceUID")}
    for private in (NAME, "DOE", "1234567", ".IMA", *uids):
        assert private.encode() not in told


def test_uids_are_hidden_by_pseudonyms_and_versions_are_not():
    clean = Pseudonyms(b"0123456789abcdef").clean
    assert "1.2.840" not in clean("of 1.2.840.113619.2.55.3.2831 in x")
    assert clean("torch 2.15.0+cu13, at 127.0.0.1") == "torch 2.15.0+cu13, at 127.0.0.1"


def uploaded(folder: Path, address: str) -> None:
    fs, root = fsspec.url_to_fs(address)
    for path in folder.rglob("*"):
        if path.is_file():
            target = f"{root}/{path.relative_to(folder)}"
            fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            fs.put_file(str(path), target)


@pytest.fixture
def in_memory(cohort) -> str:
    address = f"memory://dicom-{os.urandom(4).hex()}"
    uploaded(cohort, address)
    return address


def test_a_remote_folder_is_downloaded_and_read_as_the_local_one(cohort, in_memory):
    place = f"{in_memory}/{NAME}"
    label_map = {"label_map": None, "masks": {}}
    remote = StudyFiles("p1", ct=f"{place}/ct", pet=f"{place}/pet", **label_map)
    local = StudyFiles("p1", ct=str(cohort / NAME / "ct"), pet=str(cohort / NAME / "pet"), **label_map)
    with fetched(remote) as files:
        assert files.ct != remote.ct
        digests = prepare_study(files, PrepareRules(pet_units=None)).source_sha256
    assert not Path(files.ct).exists()
    assert digests == prepare_study(local, PrepareRules(pet_units=None)).source_sha256


def test_a_remote_folder_has_a_fingerprint_that_its_files_change(cohort, in_memory):
    table = f"{in_memory}/dicom.csv"
    (row,) = read_study_table(table, CONFIG)
    assert row.files.pet == f"{in_memory}/{NAME}/pet"
    before = sources_of(row, "PET", "spine_dilated")
    assert before == sources_of(row, "PET", "spine_dilated")
    fs, root = fsspec.url_to_fs(row.files.pet)
    fs.pipe_file(f"{root}/more", b"x")
    assert sources_of(row, "PET", "spine_dilated") != before


def test_a_remote_folder_that_is_not_there_is_refused_by_the_plan(cohort, in_memory, tmp_path):
    fs, root = fsspec.url_to_fs(f"{in_memory}/{NAME}/pet")
    fs.rm(root, recursive=True)
    assert states(extract(f"{in_memory}/dicom.csv", tmp_path / "store")) == {"refused"}


def test_folders_of_dicom_are_read_from_object_storage(cohort, s3_url, tmp_path):
    uploaded(cohort, s3_url)
    report = extract(f"{s3_url}/dicom.csv", tmp_path / "store")
    assert results(report) == {"committed"}
    assert states(extract(f"{s3_url}/dicom.csv", tmp_path / "store")) == {"done"}
    commit = open_store(str(tmp_path / "store"))
    view = next(iter(report.views.values()))
    sources = commit.current(view, commit.keys(view)[0]).sources
    assert any(str(source.etag).startswith("folder-") for source in sources)
