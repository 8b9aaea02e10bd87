"""Morphology in millimetres against a search tree, and the regions of a real label map."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from extractor.label_sets import LABEL_SETS, WHOLE
from extractor.morphology import closed_mm, dilated_mm
from extractor.regions import derive_regions
from extractor.volumes import Grid, Labels, read_labels
from store_schema.errors import MaskError

SPACING_ZYX_MM = (5.0, 2.0, 3.0)
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def brute_dilated(mask, radius_mm, spacing):
    """Every voxel's nearest mask voxel by a search tree; no distance transform."""
    nearest_mm, _ = cKDTree(np.argwhere(mask) * spacing).query(np.argwhere(np.ones_like(mask)) * spacing)
    return (nearest_mm <= radius_mm + 1e-9).reshape(mask.shape)


@pytest.mark.parametrize("radius_mm", [0.0, 4.0, 7.0, 11.0])
def test_dilation_is_a_ball_in_millimetres(radius_mm):
    mask = np.random.default_rng(0).random((7, 11, 9)) < 0.02
    mask[3, 5, 4] = True
    expected = brute_dilated(mask, radius_mm, np.array(SPACING_ZYX_MM))
    np.testing.assert_array_equal(dilated_mm(mask, radius_mm, SPACING_ZYX_MM), expected)


@pytest.mark.parametrize("radius_mm", [3.0, 6.0])
def test_closing_is_dilation_then_erosion_with_nothing_eaten_at_the_border(radius_mm):
    mask = np.random.default_rng(1).random((6, 10, 8)) < 0.15
    spacing = np.array(SPACING_ZYX_MM)
    margin = [int(np.ceil(2 * radius_mm / s)) + 2 for s in spacing]
    padded = np.pad(mask, [(m, m) for m in margin])
    dilated = brute_dilated(padded, radius_mm, spacing)
    eroded = ~brute_dilated(~dilated, radius_mm, spacing)
    inside = tuple(slice(m, m + n) for m, n in zip(margin, mask.shape, strict=True))
    np.testing.assert_array_equal(closed_mm(mask, radius_mm, SPACING_ZYX_MM), eroded[inside] | mask)


def labelled(array, spacing_xyz_mm=(2.0, 2.0, 2.0)):
    grid = Grid(array.shape[::-1], (0.0, 0.0, 0.0), spacing_xyz_mm, IDENTITY)
    return Labels(array.astype(np.uint16), grid, "LPS")


def test_closing_fills_the_canal_and_skeleton_holds_the_spine():
    array = np.zeros((20, 40, 40))
    y, x = np.mgrid[:40, :40]
    ring = ((x - 20) ** 2 + (y - 20) ** 2 < 64) & ((x - 20) ** 2 + (y - 20) ** 2 >= 16)
    array[5:15, ring] = 30
    array[5:15, 2:4, 2:4] = 95
    regions = derive_regions(labelled(array), dilation_mm=0.0)
    spine, skeleton = (regions[name].array_zyx for name in ("spine_dilated", "skeleton"))
    assert spine[10, 20, 20] == 1
    assert spine[10, 2, 2] == 0
    assert skeleton[10, 2, 2] == 1
    assert (skeleton >= spine).all()


def test_regions_dilate_by_the_spacing_of_their_own_axis():
    array = np.zeros((11, 13, 15))
    array[5, 6, 7] = 30
    labels = labelled(array, spacing_xyz_mm=(2.0, 3.0, 5.0))
    region = derive_regions(labels, closing_mm=0.0, dilation_mm=7.0, wanted=("spine_dilated",))["spine_dilated"]
    expected = brute_dilated(array > 0, 7.0, np.array((5.0, 3.0, 2.0)))
    np.testing.assert_array_equal(region.array_zyx > 0, expected)


@pytest.mark.parametrize("spacing_mm", [0.2, 0.4, 1 / 3, 2 / 3, 10 / 7])
def test_spacings_in_single_and_double_precision_give_one_region(spacing_mm):
    mask = np.zeros((1, 121, 121), dtype=bool)
    mask[0, 60, 60] = True
    single = dilated_mm(mask, 10.0, (5.0, *[float(np.float32(spacing_mm))] * 2))
    np.testing.assert_array_equal(single, dilated_mm(mask, 10.0, (5.0, spacing_mm, spacing_mm)))


def test_totalsegmentators_labels_are_those_of_its_second_version():
    file = LABEL_SETS["totalsegmentator"][WHOLE]
    assert set(file.spine) == {*range(25, 51)}
    assert set(file.bones) == {*range(25, 51), *range(69, 79), *range(91, 117)}


def test_a_label_map_without_vertebrae_is_refused():
    with pytest.raises(MaskError, match="no vertebra"):
        derive_regions(labelled(np.full((4, 4, 4), 5)))


@pytest.mark.real
def test_regions_of_a_real_label_map():
    root = os.environ.get("ENGRAM_REAL_DATA")
    if not root:
        pytest.skip("ENGRAM_REAL_DATA is not set: no real label map")
    labels = read_labels(str(Path(root, "totalsegmentator", "example_seg.nii.gz")))
    regions = derive_regions(labels)
    vertebrae = (labels.array_zyx >= 26) & (labels.array_zyx <= 50)
    spine = regions["spine_dilated"].array_zyx.astype(bool)
    skeleton = regions["skeleton"].array_zyx.astype(bool)
    assert vertebrae.any()
    assert spine[vertebrae].all()
    assert (skeleton | ~spine).all()
    assert vertebrae.sum() < spine.sum() < skeleton.sum() < skeleton.size
