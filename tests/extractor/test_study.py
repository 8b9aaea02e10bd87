"""Preparing one study: what it gives, and the error that each kind of bad input gives."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from extractor.study import PrepareRules, StudyFiles, prepare_study
from extractor.volumes import Grid, write_image
from store_schema.errors import GeometryError, ImageError, IntensityError, MaskError, StudyError

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
CT = Grid((16, 16, 10), (0.0, 0.0, 0.0), (2.0, 2.0, 3.0), IDENTITY)
PET = Grid((10, 10, 8), (-1.0, -1.5, -0.7), (4.0, 4.0, 4.5), IDENTITY)
RULES = PrepareRules(pet_units="suv")


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    mask = np.zeros((10, 16, 16), np.uint8)
    mask[2:8, 4:12, 5:11] = 1
    return {
        "ct": rng.normal(0, 300, (10, 16, 16)).astype(np.float32),
        "pet": rng.gamma(1.0, 2.0, (8, 10, 10)).astype(np.float32),
        "mask": mask,
    }


def written(folder: Path, arrays, *, pet_grid=PET, mask_grid=CT) -> StudyFiles:
    for name, grid in (("ct", CT), ("pet", pet_grid), ("mask", mask_grid)):
        write_image(arrays[name], grid, folder / f"{name}.nii.gz")
    return StudyFiles("P1", str(folder / "ct.nii.gz"), str(folder / "pet.nii.gz"), {"roi": str(folder / "mask.nii.gz")})


def test_everything_lies_on_the_ct_grid_as_grey_values(tmp_path, arrays):
    prepared = prepare_study(written(tmp_path, arrays), RULES)
    assert set(prepared.images_zyx) == {"PET", "CT"}
    assert {image.shape for image in prepared.images_zyx.values()} == {(10, 16, 16)}
    assert {image.dtype for image in prepared.images_zyx.values()} == {np.dtype(np.uint8)}
    np.testing.assert_array_equal(prepared.masks_zyx["roi"], arrays["mask"])
    expected = np.rint((np.clip(arrays["ct"], -500, 1300) + 500) * np.float32(255 / 1800))
    np.testing.assert_array_equal(prepared.images_zyx["CT"], expected.astype(np.uint8))
    assert prepared.outside_share["roi"] == 0.0
    assert set(prepared.source_sha256) == {"CT", "PET", "mask:roi"}


def with_moose(folder, files):
    """The study with three label maps of MOOSE: a spine of four vertebrae, a rib and a humerus."""
    blocks = {"vertebrae": {20: 8, 21: 6, 22: 4, 23: 2}, "ribs": {1: 5}, "peripheral_bones": {11: 3}}
    for part, heights in blocks.items():
        labels = np.zeros((10, 16, 16), np.uint16)
        for label, z in heights.items():
            labels[z - 1 : z + 1, 7:10, 7 if part == "vertebrae" else 1 : 10 if part == "vertebrae" else 2] = label
        write_image(labels, CT, folder / f"{part}.nii.gz")
    return replace(files, masks={}, label_parts={part: str(folder / f"{part}.nii.gz") for part in blocks})


MOOSE = replace(RULES, derive=("spine_dilated", "skeleton"), label_set="moose_3", closing_mm=0.0, dilation_mm=2.0)


def test_regions_of_several_label_maps_lie_on_the_ct_grid_and_each_is_a_source(tmp_path, arrays):
    files = with_moose(tmp_path, written(tmp_path, arrays))
    prepared = prepare_study(files, MOOSE)
    parts = {f"label_map_{part}" for part in ("vertebrae", "ribs", "peripheral_bones")}
    assert set(prepared.source_sha256) == {"CT", "PET"} | parts
    spine, skeleton = prepared.masks_zyx["spine_dilated"], prepared.masks_zyx["skeleton"]
    # Within 2 mm at 2 × 2 × 3 mm: one voxel more along x and y each, none along z.
    assert spine[4, 8].tolist() == [0] * 6 + [1] * 5 + [0] * 5
    assert spine[:, 8, 8].tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1, 0]
    assert (skeleton.astype(int) - spine).sum() == 2 * 2 * 3
    assert prepared.outside_ct_share == {"spine_dilated": 0.0, "skeleton": 0.0}


def test_a_part_that_is_missing_is_refused_by_its_column(tmp_path, arrays):
    files = with_moose(tmp_path, written(tmp_path, arrays))
    without = replace(files, label_parts={p: path for p, path in files.label_parts.items() if p != "ribs"})
    with pytest.raises(MaskError, match="'P1' has no label_map_ribs"):
        prepare_study(without, MOOSE)


def test_a_label_map_that_does_not_fit_is_refused_by_its_file(tmp_path, arrays):
    files = with_moose(tmp_path, written(tmp_path, arrays))
    wrong = replace(files, label_parts=dict(files.label_parts) | {"vertebrae": files.label_parts["ribs"]})
    with pytest.raises(MaskError, match=r"ribs\.nii\.gz.*are one label map"):
        prepare_study(wrong, MOOSE)


def test_a_ct_only_study_needs_no_pet_and_no_units(tmp_path, arrays):
    files = replace(written(tmp_path, arrays), pet=None)
    prepared = prepare_study(files, PrepareRules(pet_units=None, modalities=("CT",)))
    assert set(prepared.images_zyx) == {"CT"}


def test_a_mask_of_another_value_is_the_same_mask(tmp_path, arrays):
    ones = prepare_study(written(tmp_path, arrays), RULES)
    other = prepare_study(written(tmp_path, arrays | {"mask": arrays["mask"] * 255}), RULES)
    np.testing.assert_array_equal(ones.masks_zyx["roi"], other.masks_zyx["roi"])


def bad_nan(arrays):
    arrays["pet"][3, 3, 3] = np.nan


def bad_ct(arrays):
    arrays["ct"] = np.abs(arrays["ct"]) + 1


def bad_units(arrays):
    arrays["pet"] *= 5000


def bad_empty(arrays):
    arrays["mask"][:] = 0


def bad_labels(arrays):
    arrays["mask"][3, 5, 5] = 7


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (bad_nan, ImageError, "NaN or infinite"),
        (bad_ct, IntensityError, "no negative value"),
        (bad_units, IntensityError, "declared as SUV"),
        (bad_empty, MaskError, "is empty"),
        (bad_labels, MaskError, "label_map"),
    ],
)
def test_a_bad_study_is_refused_with_file_and_reason(tmp_path, arrays, damage, error, said):
    damage(arrays)
    with pytest.raises(error, match=said) as caught:
        prepare_study(written(tmp_path, arrays), RULES)
    assert ".nii.gz" in str(caught.value)


def test_undeclared_pet_units_are_refused_with_the_remedy(tmp_path, arrays):
    with pytest.raises(IntensityError, match="pet_units: suv"):
        prepare_study(written(tmp_path, arrays), PrepareRules(pet_units=None))


def test_a_study_without_the_pet_it_needs_is_refused_by_its_patient(tmp_path, arrays):
    with pytest.raises(StudyError, match="'P1' has no PET file"):
        prepare_study(replace(written(tmp_path, arrays), pet=None), RULES)


def test_a_compressed_metaimage_that_is_damaged_is_refused(tmp_path, arrays):
    files = written(tmp_path, arrays)
    write_image(arrays["ct"], CT, tmp_path / "ct.mha")
    data = bytearray((tmp_path / "ct.mha").read_bytes())
    data[-1000] ^= 1
    (tmp_path / "ct.mha").write_bytes(bytes(data))
    with pytest.raises(ImageError, match=r"ct\.mha is damaged"):
        prepare_study(replace(files, ct=str(tmp_path / "ct.mha")), RULES)


def test_a_pet_of_another_patient_is_refused(tmp_path, arrays):
    elsewhere = replace(PET, origin_xyz_mm=(900.0, 0.0, 0.0))
    with pytest.raises(GeometryError, match="do not overlap"):
        prepare_study(written(tmp_path, arrays, pet_grid=elsewhere), RULES)


def test_a_region_beyond_the_pet_is_refused_over_5_percent_and_recorded_below(tmp_path, arrays):
    shifted = replace(PET, origin_xyz_mm=(-1.0, -1.5, 9.0))
    with pytest.raises(GeometryError, match="outside the field of view"):
        prepare_study(written(tmp_path, arrays, pet_grid=shifted), RULES)
    lenient = prepare_study(written(tmp_path, arrays, pet_grid=shifted), replace(RULES, max_outside_share=0.9))
    # The PET's voxels reach down to 9 - 4.5 / 2 mm: the slice at 6 mm, one of six, is outside.
    assert lenient.outside_share["roi"] == pytest.approx(1 / 6)


def test_a_region_mostly_outside_the_ct_is_refused(tmp_path, arrays):
    """Cropped to the CT it would be another region, and nothing would say so."""
    longer = {**arrays, "mask": np.ones((40, 16, 16), np.uint8)}
    below = replace(CT, size_xyz=(16, 16, 40), origin_xyz_mm=(0.0, 0.0, -117.0))
    with pytest.raises(GeometryError, match=r"97\.5% of a region of .*mask\.nii\.gz lies outside the CT"):
        prepare_study(written(tmp_path, longer, mask_grid=below), RULES)
    lenient = replace(RULES, max_outside_share=1.0)
    assert prepare_study(written(tmp_path, longer, mask_grid=below), lenient).masks_zyx["roi"][:2].sum() == 256


def test_a_mask_of_another_study_is_refused(tmp_path, arrays):
    elsewhere = replace(CT, origin_xyz_mm=(900.0, 0.0, 0.0))
    with pytest.raises(MaskError, match="no voxel within the CT"):
        prepare_study(written(tmp_path, arrays, mask_grid=elsewhere), RULES)


@pytest.mark.real
def test_a_real_study_is_resampled_as_simpleitk_does_it():
    root = os.environ.get("ENGRAM_REAL_DATA")
    if not root:
        pytest.skip("ENGRAM_REAL_DATA is not set: no real PET/CT")
    folder = Path(root, "sts", "STS_001")
    files = StudyFiles(
        "S", str(folder / "CT.nii.gz"), str(folder / "PET.nii.gz"), {"t": str(folder / "MASK_CT.nii.gz")}
    )
    prepared = prepare_study(files, RULES)
    ct = sitk.DICOMOrient(sitk.ReadImage(files.ct), "LPS")
    pet = sitk.Resample(sitk.ReadImage(str(files.pet)), ct, sitk.Transform(), sitk.sitkLinear, 0.0)
    grey = np.rint(np.clip(sitk.GetArrayFromImage(pet), 0, 10) * np.float32(25.5))
    np.testing.assert_array_equal(prepared.images_zyx["PET"], grey.astype(np.uint8))
