"""Morphology in millimetres against a search tree, and the regions of a real label map."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from extractor.label_sets import LABEL_SETS, WHOLE
from extractor.morphology import closed_mm, dilated_mm
from extractor.regions import derive, derive_regions
from extractor.volumes import Grid, Labels, read_labels
from store_schema.errors import GeometryError, MaskError

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


def stacked(labels, *, size_xyz=(24, 24, 4), spacing_mm=4.0):
    """Blocks of 6 × 6 × 2 voxels one above the other, in the order of the labels from head to feet."""
    array = np.zeros((2 * len(labels), size_xyz[1], size_xyz[0]))
    for place, label in enumerate(labels):
        top = array.shape[0] - 2 * place
        array[top - 2 : top, 9:15, 9:15] = label
    return labelled(array, (spacing_mm,) * 3)


def moose(label_set="moose_3", labels=tuple(range(1, 29))):
    vertebrae = stacked([label for label in labels if label not in (26, 27)])
    ribs, limbs = np.zeros_like(vertebrae.array_zyx), np.zeros_like(vertebrae.array_zyx)
    ribs[20, 12, 18:22], ribs[20, 12, 2:6] = 1, 14
    limbs[30:40, 12, 22], limbs[30:40, 12, 1] = 11, 12
    return {"vertebrae": vertebrae, "ribs": labelled(ribs, (4.0,) * 3), "peripheral_bones": labelled(limbs, (4.0,) * 3)}


def test_mooses_regions_come_from_its_three_label_maps():
    maps = moose()
    regions = derive_regions(maps, label_set="moose_3")
    spine, skeleton = (regions[name].array_zyx != 0 for name in ("spine_dilated", "skeleton"))
    vertebrae = maps["vertebrae"].array_zyx > 0
    expected = brute_dilated(vertebrae, 10.0, np.array((4.0, 4.0, 4.0)))
    np.testing.assert_array_equal(spine, expected)
    others = (maps["ribs"].array_zyx > 0) | (maps["peripheral_bones"].array_zyx > 0)
    np.testing.assert_array_equal(skeleton, spine | others)
    assert (others & ~spine).any()


def test_the_spine_of_moose_needs_its_vertebrae_alone():
    maps = moose()
    alone = derive_regions({"vertebrae": maps["vertebrae"]}, label_set="moose_3", wanted=("spine_dilated",))
    np.testing.assert_array_equal(
        alone["spine_dilated"].array_zyx, derive_regions(maps, label_set="moose_3")["spine_dilated"].array_zyx
    )


def test_hips_are_skeleton_and_no_spine():
    maps = moose()
    maps["vertebrae"].array_zyx[1, 12, 22], maps["vertebrae"].array_zyx[1, 12, 1] = 26, 27
    regions = derive_regions(maps, label_set="moose_3")
    assert regions["spine_dilated"].array_zyx[1, 12, [1, 22]].tolist() == [0, 0]
    assert regions["skeleton"].array_zyx[1, 12, [1, 22]].tolist() == [1, 1]


def test_thyroid_and_bladder_of_moose_2_are_no_bones():
    maps = moose()
    maps["peripheral_bones"].array_zyx[:] = 0
    maps["peripheral_bones"].array_zyx[30, 2, :3] = (32, 33, 34)
    maps["peripheral_bones"].array_zyx[30, 2, 3] = 31
    maps["ribs"].array_zyx[:] = 0
    maps["ribs"].array_zyx[20, 2, 2] = 25
    skeleton = derive_regions(maps, label_set="moose_2")["skeleton"].array_zyx
    assert skeleton[30, 2, :4].tolist() == [0, 0, 0, 1]
    assert skeleton[20, 2, 2] == 1


def without_ribs(maps):
    del maps["ribs"]


def on_another_grid(maps):
    maps["ribs"] = labelled(maps["ribs"].array_zyx, (4.0, 4.0, 5.0))


def one_for_two(maps):
    maps["vertebrae"].array_zyx[maps["vertebrae"].array_zyx > 25] = 0
    maps["ribs"] = maps["vertebrae"]


def label_beyond(maps):
    maps["vertebrae"].array_zyx[0, 0, 0] = 29


def ribs_for_vertebrae(maps):
    """MOOSE numbers the ribs of the left side, then those of the right: no vertebrae lie so."""
    levels = np.repeat(np.arange(13), 2)
    array = np.zeros((26, 24, 24))
    array[25 - np.arange(26), :, 14:20] = (levels + 1)[:, None, None]
    array[25 - np.arange(26), :, 4:10] = (levels + 14)[:, None, None]
    maps["vertebrae"] = labelled(array)


def upside_down(maps):
    maps["vertebrae"] = labelled(maps["vertebrae"].array_zyx[::-1], (4.0,) * 3)


def mirrored(maps):
    maps["peripheral_bones"] = labelled(maps["peripheral_bones"].array_zyx[:, :, ::-1], (4.0,) * 3)


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (without_ribs, MaskError, "need.* label_map_ribs"),
        (on_another_grid, GeometryError, "two grids"),
        (one_for_two, MaskError, "are one label map"),
        (label_beyond, MaskError, r"labels \[29\].* end at 28"),
        (ribs_for_vertebrae, MaskError, "do not follow each other"),
        (upside_down, MaskError, "upside down"),
        (mirrored, MaskError, "mirrored"),
    ],
)
def test_label_maps_that_do_not_fit_their_set_are_refused(damage, error, said):
    maps = moose()
    damage(maps)
    with pytest.raises(error, match=said):
        derive_regions(maps, label_set="moose_3")


TOTAL_1 = {"spine": range(41, 17, -1), "heart": range(44, 50), "brain": 50}


def test_a_label_map_of_totalsegmentator_1_is_no_one_of_2():
    """Its heart and brain have the numbers of cervical vertebrae, and lie where none is."""
    labels = stacked([*TOTAL_1["spine"]])
    labels.array_zyx[24:30, 2:8, 2:8] = np.repeat([*TOTAL_1["heart"]], 6 * 6).reshape(6, 6, 6)
    assert derive_regions(labels, label_set="totalsegmentator_v1")["spine_dilated"].array_zyx.any()
    with pytest.raises(MaskError, match="another set"):
        derive_regions(labels, label_set="totalsegmentator")


def test_a_brain_is_no_vertebra():
    labels = labelled(np.full((20, 20, 20), 50), (5.0,) * 3)
    with pytest.raises(MaskError, match=r"1000 ml, more than any vertebra"):
        derive_regions(labels)


def test_a_stray_fragment_refuses_no_patient():
    labels = stacked(range(50, 24, -1))
    labels.array_zyx[0, 0, 0] = 50
    assert derive_regions(labels)["spine_dilated"].array_zyx.any()


def test_a_spine_of_one_label_has_no_order():
    array = np.zeros((30, 24, 24))
    array[:, 9:15, 9:15], array[:, 2, 2] = 15, 12
    regions = derive_regions(labelled(array, (4.0,) * 3), label_set="moose_all_bones_v1")
    np.testing.assert_array_equal(
        regions["spine_dilated"].array_zyx != 0, brute_dilated(array == 15, 10.0, np.array((4.0,) * 3))
    )
    assert regions["skeleton"].array_zyx[:, 2, 2].all()


def test_what_a_label_map_lacks_is_told():
    maps = moose(labels=[label for label in range(1, 29) if label not in (14, 15)])
    maps["ribs"].array_zyx[:] = 0
    derived = derive(maps, label_set="moose_3", closing_mm=10.0, dilation_mm=10.0, wanted=("spine_dilated", "skeleton"))
    (spine,) = derived.notes["spine_dilated"]
    assert spine.startswith("no voxel of T7, T8,")
    assert derived.notes["skeleton"] == (spine, "no bone in the label_map_ribs")


@pytest.fixture(scope="module")
def real_labels():
    root = os.environ.get("ENGRAM_REAL_DATA")
    if not root:
        pytest.skip("ENGRAM_REAL_DATA is not set: no real label map")
    return read_labels(str(Path(root, "totalsegmentator", "example_seg.nii.gz")))


def thinned(labels, steps_zyx):
    """The label map on a coarser grid of another spacing along each axis."""
    array = labels.array_zyx[tuple(slice(None, None, step) for step in steps_zyx)]
    spacing = tuple(s * n for s, n in zip(labels.grid.spacing_xyz_mm, steps_zyx[::-1], strict=True))
    return Labels(array, Grid(array.shape[::-1], labels.grid.origin_xyz_mm, spacing, labels.grid.direction), "LPS")


@pytest.mark.real
@pytest.mark.parametrize("steps_zyx", [(1, 1, 1), (2, 1, 1), (1, 3, 2)])
def test_regions_of_a_real_label_map(real_labels, steps_zyx):
    """Every voxel of the region against a search tree: closed on a wider grid, then dilated; exact, so right to one voxel."""
    labels = thinned(real_labels, steps_zyx)
    spacing = np.array(labels.grid.spacing_xyz_mm[::-1])
    vertebrae = (labels.array_zyx >= 25) & (labels.array_zyx <= 50)
    margin = [int(np.ceil(10 / step)) + 2 for step in spacing]
    dilated = brute_dilated(np.pad(vertebrae, [(m, m) for m in margin]), 10.0, spacing)
    closed = ~brute_dilated(~dilated, 10.0, spacing)[tuple(slice(m, -m) for m in margin)]
    regions = derive_regions(labels)
    spine, skeleton = (regions[name].array_zyx != 0 for name in ("spine_dilated", "skeleton"))
    np.testing.assert_array_equal(spine, brute_dilated(closed | vertebrae, 10.0, spacing))
    assert vertebrae.any()
    assert spine[vertebrae].all()
    bones = np.isin(labels.array_zyx, [*range(25, 51), *range(69, 79), *range(91, 117)])
    np.testing.assert_array_equal(skeleton, spine | bones)
    assert vertebrae.sum() < spine.sum() < skeleton.sum() < skeleton.size


@pytest.mark.real
def test_a_real_label_map_of_another_set_is_refused(real_labels):
    """Nobody's declaration can make organs of version 2 into vertebrae: its field of view is the abdomen."""
    for label_set in set(LABEL_SETS) - {"totalsegmentator"}:
        maps = dict.fromkeys(LABEL_SETS[label_set], real_labels)
        with pytest.raises(MaskError):
            derive_regions(maps, label_set=label_set)
