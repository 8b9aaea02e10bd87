"""The alignment metric: against SimpleITK's filters, on shifted phantoms and patients, and where there is little to see."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from extractor.alignment import LEAST_DICE, alignment, body, coarse
from extractor.phantom import CT_GRID, PET_GRID, paint_patient
from extractor.phantom_table import draw_factors
from extractor.reading import read_ct, read_pet
from extractor.volumes import Grid, Volume

SHIFTS_MM = (0.0, 10.0, 20.0, 40.0)


@pytest.fixture(scope="module")
def phantom() -> tuple[Volume, Volume]:
    ct_hu, pet_suv, _ = paint_patient(draw_factors(4, 0, "standard"), 0, seed=0, kind="standard")
    return Volume(ct_hu, CT_GRID, "LPS"), Volume(pet_suv, PET_GRID, "LPS")


def shifted(pet: Volume, axis: int, by_mm: float) -> Volume:
    origin = list(pet.grid.origin_xyz_mm)
    origin[axis] += by_mm
    return replace(pet, grid=replace(pet.grid, origin_xyz_mm=tuple(origin)))


def mean_dice(ct: Volume, pet: Volume, by_mm: float) -> float:
    """Over both directions of each axis: a patient's own offset makes one of two directions better."""
    coarse_ct = coarse(ct)
    moved = (shifted(pet, axis, sign * by_mm) for axis in range(3) for sign in (-1, 1))
    return float(np.mean([alignment(coarse_ct, one).body_dice for one in moved]))


def itk(volume: Volume) -> sitk.Image:
    image = sitk.GetImageFromArray(volume.array_zyx)
    image.SetOrigin(volume.grid.origin_xyz_mm)
    image.SetSpacing(volume.grid.spacing_xyz_mm)
    return image


def itk_body(image: sitk.Image, threshold: float) -> sitk.Image:
    opened = sitk.BinaryMorphologicalOpening(image > threshold, [1, 1, 1], sitk.sitkCross)
    largest = sitk.RelabelComponent(sitk.ConnectedComponent(opened)) == 1
    planes = [sitk.BinaryFillhole(largest[:, :, z]) for z in range(largest.GetDepth())]
    joined = sitk.JoinSeries(planes, image.GetOrigin()[2], image.GetSpacing()[2])
    joined.CopyInformation(image)
    return joined


def test_the_overlap_is_that_of_simpleitks_own_filters(phantom):
    ct, pet = phantom
    grid = coarse(ct).grid
    reference = sitk.Image(list(grid.size_xyz), sitk.sitkUInt8)
    reference.SetOrigin(grid.origin_xyz_mm)
    reference.SetSpacing(grid.spacing_xyz_mm)
    pet_image = itk(pet)
    cover = sitk.Resample(
        pet_image * 0 + 1, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0, sitk.sitkFloat32
    )
    in_ct = itk_body(sitk.Resample(itk(ct), reference, sitk.Transform(), sitk.sitkLinear, -1024.0), -500.0)
    in_pet = itk_body(sitk.Resample(pet_image, reference, sitk.Transform(), sitk.sitkLinear, 0.0), 0.2)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(in_ct * sitk.Cast(cover, sitk.sitkUInt8), in_pet * sitk.Cast(cover, sitk.sitkUInt8))
    # ITK's opening treats the border of the image in its own way: a few voxels of 100,000
    assert alignment(coarse(ct), pet).body_dice == pytest.approx(overlap.GetDiceCoefficient(), abs=2e-3)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_phantoms_overlap_falls_with_every_shift_in_plane(phantom, axis, sign):
    ct, pet = phantom
    found = [alignment(coarse(ct), shifted(pet, axis, sign * by)).body_dice for by in SHIFTS_MM]
    assert found[0] > 0.95
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == len(found)


def test_a_shift_moves_the_centroids_by_as_much_in_plane(phantom):
    ct, pet = phantom
    assert alignment(coarse(ct), pet).centroid_mm < 3
    assert alignment(coarse(ct), shifted(pet, 0, 20.0)).centroid_mm == pytest.approx(20, abs=3)


def test_a_pet_that_covers_half_of_the_ct_is_judged_by_that_half(phantom):
    ct, pet = phantom
    whole = alignment(coarse(ct), pet)
    half = replace(pet, array_zyx=pet.array_zyx[:31], grid=replace(PET_GRID, size_xyz=(88, 88, 31)))
    found = alignment(coarse(ct), half)
    assert found.common_share == pytest.approx(whole.common_share / 2, abs=0.02)
    assert found.body_dice == pytest.approx(whole.body_dice, abs=0.02)
    assert found.warning is None


def test_a_crop_within_the_body_is_not_judged_by_its_outline(phantom):
    ct, pet = phantom
    inside = replace(
        ct,
        array_zyx=ct.array_zyx[:, 55:62, 40:56],
        grid=Grid((16, 7, 64), (-30.0, 30.0, 2.5), CT_GRID.spacing_xyz_mm, CT_GRID.direction),
    )
    found = alignment(coarse(inside), pet)
    assert (found.body_dice, found.centroid_mm, found.warning) == (None, None, None)
    assert found.body_share == 1.0
    assert 0 < found.mutual_information < 1


def test_a_pet_elsewhere_in_the_body_carries_a_warning_that_says_both_numbers(phantom):
    ct, pet = phantom
    found = alignment(coarse(ct), shifted(pet, 1, 90.0))
    assert found.body_dice < LEAST_DICE
    assert f"Dice {found.body_dice:.2f}" in found.warning
    assert f"{found.centroid_mm:.0f} mm apart" in found.warning


def test_images_of_one_value_share_no_information():
    grid = Grid((20, 20, 20), (0.0, 0.0, 0.0), (5.0, 5.0, 5.0), CT_GRID.direction)
    flat = Volume(np.zeros((20, 20, 20), np.float32), grid, "LPS")
    assert alignment(coarse(flat), flat).mutual_information == 0.0


def test_the_coarse_grid_is_bounded_however_large_the_image():
    grid = Grid((4, 4, 1000), (0.0, 0.0, 0.0), (1.0, 1.0, 9.0), CT_GRID.direction)
    assert max(coarse(Volume(np.zeros((1000, 4, 4), np.float32), grid, "LPS")).grid.size_xyz) <= 257


def test_only_the_largest_part_counts_and_holes_in_a_slice_are_body():
    values = np.zeros((4, 20, 20), np.float32)
    values[:, 2:12, 2:12] = 1
    values[:, 5:8, 5:8] = 0
    values[:, 15:18, 15:18] = 1
    expected = np.zeros((4, 20, 20), bool)
    expected[:, 3:11, 2:12] = expected[:, 2:12, 3:11] = True
    np.testing.assert_array_equal(body(values, 0.5)[1:3], expected[1:3])


@pytest.mark.real
@pytest.mark.parametrize("patient", ["STS_001", "STS_004", "STS_019"])
def test_a_real_patients_overlap_falls_with_every_shift(patient):
    root = os.environ.get("ENGRAM_REAL_DATA")
    if not root:
        pytest.skip("ENGRAM_REAL_DATA is not set: no real PET/CT")
    folder = Path(root, "sts", patient)
    ct, pet = read_ct(str(folder / "CT.nii.gz")), read_pet(str(folder / "PET.nii.gz"), declared="suv")
    assert alignment(coarse(ct), pet).warning is None
    found = [mean_dice(ct, pet, by) for by in SHIFTS_MM]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == len(found)
