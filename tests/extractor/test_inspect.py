"""`extractor inspect`: what it says of good and of bad studies, alone and in a table, and what it never says."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from click.testing import CliRunner

from extractor.cli import main
from extractor.phantom import CT_GRID, PET_GRID, paint_patient
from extractor.phantom_table import draw_factors
from extractor.volumes import write_image

SETTINGS = "pet_units: suv\nstride: 4\nderive: [spine_dilated]\nlayouts: [paper, pooled]\n"


@pytest.fixture(scope="module")
def painted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inspect") / "P001"
    folder.mkdir()
    ct_hu, pet_suv, labels = paint_patient(draw_factors(4, 0, "standard"), 0, seed=0, kind="standard")
    write_image(np.rint(ct_hu).astype(np.int16), CT_GRID, folder / "ct.nii.gz")
    write_image(pet_suv, PET_GRID, folder / "pet.nii.gz")
    write_image(labels, CT_GRID, folder / "label_map.nii.gz")
    write_image((labels == 35).astype(np.uint8), CT_GRID, folder / "vertebra.nii.gz")
    (folder.parent / "extract.yaml").write_text(SETTINGS)
    return folder


@pytest.fixture
def study(painted, tmp_path) -> Path:
    shutil.copy(painted.parent / "extract.yaml", tmp_path)
    return Path(shutil.copytree(painted, tmp_path / "P001"))


def inspect(study: Path, *more: str):
    return CliRunner().invoke(main, ["inspect", *more, "--config", str(study.parent / "extract.yaml")])


def found_of(result) -> dict:
    return json.loads(result.stdout.splitlines()[0])


def verdicts(found: dict) -> dict[str, str]:
    return {check["name"]: check["verdict"] for check in found["checks"]}


def said(found: dict, name: str) -> str:
    return next(check["said"] for check in found["checks"] if check["name"] == name)


def test_a_study_is_told_with_files_units_geometry_regions_and_entries(study):
    result = inspect(study, str(study))
    assert result.exit_code == 0, result.output
    for part in (
        "P001: would be extracted, 1 warning(s)",
        "One kept slice: a single valid memory",
        "96 × 96 × 64 voxels of 4.000 × 4.000 × 5.000 mm, 384 × 384 × 320 mm in all",
        "declared: pet_units: suv",
        "region spine_dilated (from its label map, on the CT's grid)",
        "outside the PET 0.00%, outside the CT 0.00%",
        "of the CT, and the CT ",
        "body outlines overlap with Dice 0.9",
        "entries: 4 × 2 views (paper, pooled)",
        "P001/PET/vertebra",
    ):
        assert part in result.stdout, part


def test_its_numbers_are_those_of_simpleitk(study):
    found = found_of(inspect(study, str(study), "--json"))
    ct, mask = sitk.ReadImage(str(study / "ct.nii.gz")), sitk.ReadImage(str(study / "vertebra.nii.gz"))
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(sitk.Cast(mask, sitk.sitkUInt8))
    region = next(one for one in found["regions"] if one["roi"] == "vertebra")
    assert region["volume_ml"] == pytest.approx(shape.GetPhysicalSize(1) / 1000)
    x, _, z, dx, _, dz = shape.GetBoundingBox(1)
    assert region["bearing_slices"] == dz
    assert region["kept_slices_z"] == list(range(z + dz - 1, z - 1, -4))
    assert max(box[2] for box in region["boxes_xyxy"]) == x + dx - 1
    extremes = sitk.MinimumMaximumImageFilter()
    extremes.Execute(ct)
    values = next(one for one in found["images"] if one["role"] == "CT")["values"]
    assert (values["lowest"], values["highest"]) == (extremes.GetMinimum(), extremes.GetMaximum())
    assert found["alignment"]["body_dice"] > 0.95
    pet = sitk.Resample(
        sitk.ReadImage(str(study / "pet.nii.gz")) * 0 + 1, ct, sitk.Transform(), sitk.sitkNearestNeighbor
    )
    assert found["overlap"]["pet_covers_ct"] == pytest.approx(sitk.GetArrayFromImage(pet).mean())


def test_an_orientation_that_was_turned_is_said_and_changes_no_region(study):
    before = found_of(inspect(study, str(study), "--json"))
    for path in study.glob("*.nii.gz"):
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAS"), str(path))
    after = found_of(inspect(study, str(study), "--json"))
    assert said(after, "orientation CT") == "stored as RAS, turned to LPS"
    assert after["regions"] == before["regions"]


def test_a_tilted_and_coarse_ct_is_extracted_with_warnings(study):
    turn = sitk.Euler3DTransform((0.0, 0.0, 0.0), np.radians(8.0), 0, 0)
    axes = np.reshape(turn.GetMatrix(), (3, 3))
    for path in study.glob("*.nii.gz"):
        image = sitk.ReadImage(str(path))
        image.SetOrigin(tuple(float(value) for value in axes @ image.GetOrigin()))
        image.SetDirection(axes.reshape(-1).tolist())
        sitk.WriteImage(image[:, :, ::2], str(path))
    found = found_of(inspect(study, str(study), "--json"))
    assert "tilted by 8.0 degrees" in said(found, "orientation CT")
    assert verdicts(found)["spacing CT"] == "warning"
    assert found["verdict"] == "would be extracted"


def test_a_shifted_pet_is_a_warning_and_no_refusal(study):
    pet = sitk.ReadImage(str(study / "pet.nii.gz"))
    pet.SetOrigin((pet.GetOrigin()[0], pet.GetOrigin()[1] + 80, pet.GetOrigin()[2]))
    sitk.WriteImage(pet, str(study / "pet.nii.gz"))
    result = inspect(study, str(study), "--json")
    assert result.exit_code == 0
    assert verdicts(found_of(result))["registration"] == "warning"
    assert "check that they are registered" in said(found_of(result), "registration")


def test_every_bad_file_is_told_and_not_the_first_alone(study):
    (study / "ct.nii.gz").write_bytes(b"nonsense")
    write_image(np.full((62, 88, 88), 9000, np.float32), PET_GRID, study / "pet.nii.gz")
    result = inspect(study, str(study), "--json")
    assert result.exit_code == 1
    found = found_of(result)
    assert {one["role"] for one in found["unread"]} == {"CT", "PET"}
    assert "Bq/ml" in said(found, "file PET")
    assert found["entries"] == []


def test_a_region_beyond_the_pet_is_refused_and_still_drawn(study, pages):
    pet = sitk.ReadImage(str(study / "pet.nii.gz"))
    sitk.WriteImage(pet[:, :, :40], str(study / "pet.nii.gz"))
    result = inspect(study, str(study), "--out", str(study.parent / "look"))
    assert result.exit_code == 1
    assert "would be REFUSED" in result.stdout
    assert "outside the field of view" in result.stdout
    page = pages.Page(study.parent / "look" / "inspect.html")
    assert any("spine_dilated" in image["alt"] and "fused" in image["alt"] for image in page.images)


def test_a_table_goes_on_after_a_bad_study_and_exits_1(study, pages):
    shutil.copytree(study, study.parent / "P002")
    (study.parent / "P002" / "pet.nii.gz").unlink()
    lines = [
        "patient,ct,pet,label_map",
        *(f"P{n},P{n}/ct.nii.gz,P{n}/pet.nii.gz,P{n}/label_map.nii.gz" for n in ("002", "001")),
    ]
    (study.parent / "studies.csv").write_text("\n".join(lines))
    result = inspect(study, str(study.parent / "studies.csv"), "--out", str(study.parent / "look"))
    assert result.exit_code == 1
    assert "2 studies: 1 would be extracted, 1 refused" in result.stdout
    page = pages.Page(study.parent / "look" / "inspect.html")
    pages.check_alone_and_accessible(page)
    assert "1 of 2 would be refused" in page.text
    # six projections, and of one region three key slices, the uppermost and the lowest; of the other study its CT alone
    assert len(page.images) == 6 + 5 + 2
    one = inspect(study, str(study.parent / "studies.csv"), "--patient", "P001")
    assert (one.exit_code, "P002" in one.stdout) == (0, False)


def test_single_files_without_a_pet_are_a_ct_alone(study):
    result = inspect(study, "--ct", str(study / "ct.nii.gz"), "--mask", f"v={study / 'vertebra.nii.gz'}", "--json")
    assert result.exit_code == 0, result.output
    found = found_of(result)
    assert found["entries"] == ["study/CT/v"]
    assert verdicts(found)["registration"] == "not checked"


@pytest.mark.parametrize("more", [[], ["--ct", "a.nii", "FOLDER"], ["--ct", "a.nii", "--mask", "v"]])
def test_a_call_that_names_no_study_is_wrong_use(study, more):
    assert inspect(study, *[str(study) if one == "FOLDER" else one for one in more]).exit_code == 2


def series(dicom, folder: Path) -> tuple[str, str]:
    """A CT and a PET of a box of water in air."""
    body = np.zeros((10, 24, 24), bool)
    body[:, 6:18, 6:18] = True
    ct = dicom.write_series(folder / "ct", np.where(body, 1064, 24).astype(np.uint16))
    pet = dicom.write_series(
        folder / "pet", np.where(body, 5000, 0).astype(np.uint16), role="PET", slope=lambda rank: 1.0
    )
    return str(ct), str(pet)


def test_a_dicom_pet_is_told_with_what_its_suv_is_made_from_and_with_no_name_or_uid(dicom, tmp_path):
    ct, pet = series(dicom, tmp_path)
    mask = np.zeros((10, 24, 24), np.uint8)
    mask[2:8, 8:14, 8:14] = 1
    grid = replace(CT_GRID, size_xyz=(24, 24, 10), origin_xyz_mm=(-10.0, -12.0, 40.0), spacing_xyz_mm=(2.0, 2.0, 3.0))
    write_image(mask, grid, tmp_path / "m.nii.gz")
    calls = [
        "inspect",
        "--ct",
        ct,
        "--pet",
        pet,
        "--mask",
        f"m={tmp_path / 'm.nii.gz'}",
        "--out",
        str(tmp_path / "look"),
    ]
    result = CliRunner().invoke(main, calls)
    assert result.exit_code == 0, result.output
    for part in (
        "dose 370.0 MBq, weight 74 kg, half-life 6586.2 s, decay correction START",
        "injected at 09:15:00, decay counted to SeriesTime at 10:15:00, elapsed 60.0 min",
        f"SUV of 1 {dicom.BQML_TO_SUV:.6g}",
        "DICOM series, 10 slices",
        "different frames of reference",
        "CT and PET name one patient",
    ):
        assert part in result.stdout, part
    page = (tmp_path / "look" / "inspect.html").read_text()
    for text in (result.output, page):
        assert not any(secret in text for secret in ("DOE", "JANE", "HOSP-1234567", "1.2.826", "20260110"))


def test_pseudonyms_stand_for_patient_and_files_on_every_output(study, monkeypatch):
    monkeypatch.setenv("ENGRAM_PSEUDONYM_KEY", "0123456789abcdef0123456789abcdef")
    (study / "pet.nii.gz").write_bytes(b"nonsense")
    for more in ([], ["--json"], ["--out", str(study.parent / "look")]):
        result = inspect(study, str(study), "--pseudonymise", *more)
        assert result.exit_code == 1
        assert "P001" not in result.stdout
        assert "vertebra.nii.gz" not in result.stdout
    assert "P001" not in (study.parent / "look" / "inspect.html").read_text()
