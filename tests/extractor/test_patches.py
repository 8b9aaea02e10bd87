"""Patches over a region: where their centres lie, how large they are in millimetres, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractor.occlusion_reach import Patch
from extractor.patches import MOST_PATCHES, backdrop, names_under, patch_grid, under_patches
from store_schema.errors import ConfigError, MaskError

SPACING = (2.0, 2.5, 5.0)
"""x, y, z."""


def ball(shape=(20, 40, 50)) -> np.ndarray:
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    far = ((z - 10) * 5.0) ** 2 + ((y - 20) * 2.5) ** 2 + ((x - 25) * 2.0) ** 2
    return (far < 40.0**2).astype(np.uint8)


def centre(patch: Patch, sides: tuple[int, int, int]) -> tuple[int, ...]:
    """Of a patch that the image's end did not cut."""
    return tuple(start + side // 2 for start, side in zip(patch.start_zyx, sides, strict=True))


def test_centres_lie_inside_the_region_a_stride_apart_and_sides_are_the_size_in_voxels():
    mask = ball()
    patches = patch_grid(mask, SPACING, size_mm=20.0, stride_mm=20.0)
    sides = (4, 8, 10)
    assert {tuple(np.subtract(patch.stop_zyx, patch.start_zyx)) for patch in patches} == {sides}
    centres = np.array([centre(patch, sides) for patch in patches])
    assert all(mask[tuple(one)] for one in centres)
    for axis, step in enumerate((5.0, 2.5, 2.0)):
        apart = np.diff(np.unique(centres[:, axis])) * step
        assert (np.abs(apart - 20.0) <= step).all()


def test_little_of_a_region_wider_than_the_stride_is_under_no_patch():
    mask = np.zeros((20, 40, 50), np.uint8)
    mask[4:16, 8:32, 10:40] = 1
    covered = np.zeros(mask.shape, bool)
    for patch in patch_grid(mask, SPACING, size_mm=12.0, stride_mm=10.0):
        covered[tuple(slice(*ends) for ends in zip(patch.start_zyx, patch.stop_zyx, strict=True))] = True
    assert covered[mask != 0].mean() > 0.9


@pytest.mark.parametrize("spacing", [(3.646, 3.646, 3.27), (4.0, 4.0, 8.0), (0.98, 0.98, 3.0), (2.0, 2.5, 5.0)])
@pytest.mark.parametrize("size", [20.0, 15.0, 7.0])
def test_patches_as_large_as_their_stride_hide_every_voxel_of_a_box_once(spacing, size):
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[3:17, 2:19, 4:15] = 1
    times = np.zeros(mask.shape, int)
    for patch in patch_grid(mask, spacing, size_mm=size, stride_mm=size):
        times[tuple(slice(*ends) for ends in zip(patch.start_zyx, patch.stop_zyx, strict=True))] += 1
    assert (times[mask != 0] == 1).all()
    assert times.max() == 1


def test_a_needed_slice_that_no_centre_reaches_gets_a_patch_on_the_region():
    mask = np.zeros((24, 30, 30), np.uint8)
    mask[4:, 10:20, 10:20] = 1
    # a tail where no centre of the grid lies
    mask[:4, 2:5, 24:27] = 1
    without = patch_grid(mask, SPACING, size_mm=20.0, stride_mm=20.0)
    assert not any(patch.covers(1) for patch in without)
    found = patch_grid(mask, SPACING, size_mm=20.0, stride_mm=20.0, needed_z=(1, 3, 10))
    (more,) = set(found) - set(without)
    assert len(found) == len(without) + 1
    assert more.covers(1)
    assert more.covers(3)
    assert under_patches([more], mask.shape)[1][mask[1] != 0].all()
    assert found[-1] == more


def test_patches_stand_from_superior_to_inferior():
    tops = [patch.start_zyx[0] for patch in patch_grid(ball(), SPACING, size_mm=10.0, stride_mm=15.0)]
    assert tops == sorted(tops, reverse=True)
    assert len(set(tops)) > 2


def test_patches_are_cut_where_the_image_ends():
    mask = np.zeros((4, 10, 10), np.uint8)
    mask[:, :2, :2] = 1
    for patch in patch_grid(mask, (2.0, 2.0, 2.0), size_mm=20.0, stride_mm=3.0):
        assert min(patch.start_zyx) >= 0
        assert all(stop <= size for stop, size in zip(patch.stop_zyx, mask.shape, strict=True))


@given(
    st.integers(1, 6),
    st.integers(1, 12),
    st.integers(1, 12),
    st.floats(0.5, 30),
    st.floats(2, 30),  # of a finer one there could be more patches than are taken
    st.integers(0, 99),
)
def test_any_box_has_distinct_patches_with_a_voxel_at_least(depth, height, width, size, stride, seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((16, 16, 16), np.uint8)
    z, y, x = rng.integers(0, 4, 3)
    mask[z : z + depth, y : y + height, x : x + width] = 1
    patches = patch_grid(mask, SPACING, size_mm=size, stride_mm=stride)
    assert len(set(patches)) == len(patches)
    for patch in patches:
        assert all(stop > start for start, stop in zip(patch.start_zyx, patch.stop_zyx, strict=True))


def test_what_makes_no_grid_is_refused():
    ring = ball()
    ring[:, 10:30, 12:38] = 0
    with pytest.raises(ConfigError, match="above 0 mm, got 0 and 5"):
        patch_grid(ball(), SPACING, size_mm=0, stride_mm=5)
    with pytest.raises(MaskError, match="no centre of a grid of 500 mm"):
        patch_grid(ring, SPACING, size_mm=5, stride_mm=500)
    with pytest.raises(ConfigError, match=f"at most {MOST_PATCHES}"):
        patch_grid(ball(), SPACING, size_mm=5, stride_mm=2)


def test_the_bone_that_fills_most_of_a_patch_names_it():
    labels = np.zeros((4, 4, 4), np.uint16)
    labels[0], labels[1, :2], labels[2] = 5, 7, 40
    patch, names = Patch((0, 0, 0), (4, 4, 4)), {5: "L1", 7: "L2"}
    assert names_under(patch, labels, names) == ("L1", 16 / 64)
    assert names_under(Patch((1, 0, 0), (2, 4, 4)), labels, names) == ("L2", 0.5)
    assert names_under(Patch((2, 0, 0), (4, 4, 4)), labels, names) is None


def test_a_backdrop_has_voxels_about_four_millimetres_apart():
    image = np.arange(20 * 40 * 50, dtype=np.int64).reshape(20, 40, 50).astype(np.uint8)
    small, steps = backdrop(image, SPACING)
    assert steps == (1, 2, 2)
    np.testing.assert_array_equal(small, image[:, ::2, ::2])
