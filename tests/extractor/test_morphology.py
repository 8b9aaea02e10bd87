"""Morphology in millimetres against every pair of voxels' distance, on grids of any spacing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractor.morphology import closed_mm, dilated_mm

RADII_MM = st.floats(0.0, 12.0)
SPACINGS_MM = st.tuples(*[st.floats(0.7, 6.0)] * 3)
SHAPES = st.tuples(*[st.integers(1, 8)] * 3)
TIE_MM = 2e-3
"""Pairs whose distance is the radius to this are in neither reference: rounding decides them."""


def distances_mm(mask, places, spacing):
    """From each place to the nearest voxel of the mask, by every pair: no transform, no tree."""
    inside = np.argwhere(mask) * np.array(spacing)
    apart = np.sqrt(((places[:, None, :] - inside[None]) ** 2).sum(-1))
    return apart.min(axis=1, initial=np.inf)


def grid(shape, spacing):
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 3) * np.array(spacing)


@st.composite
def masks(draw):
    shape = draw(SHAPES)
    seed, share = draw(st.integers(0, 2**32 - 1)), draw(st.floats(0.0, 0.3))
    return np.random.default_rng(seed).random(shape) < share


@given(masks(), RADII_MM, SPACINGS_MM)
@settings(deadline=None, max_examples=150)
def test_dilation_holds_exactly_the_voxels_within_the_radius(mask, radius_mm, spacing):
    nearest_mm = distances_mm(mask, grid(mask.shape, spacing), spacing).reshape(mask.shape)
    sure = np.abs(nearest_mm - radius_mm) > TIE_MM
    np.testing.assert_array_equal(dilated_mm(mask, radius_mm, spacing)[sure], (nearest_mm <= radius_mm)[sure])


@given(masks(), RADII_MM, SPACINGS_MM)
@settings(deadline=None, max_examples=60)
def test_closing_fills_what_no_ball_outside_of_the_mask_reaches(mask, radius_mm, spacing):
    """A voxel stays open if some centre farther than the radius from the mask lies within the radius of it, border or not."""
    margin = [int(radius_mm / step) + 2 for step in spacing]
    centres = grid([n + 2 * m for n, m in zip(mask.shape, margin, strict=True)], spacing) - np.multiply(margin, spacing)
    to_mask = distances_mm(mask, centres, spacing)
    places = grid(mask.shape, spacing)
    free, doubtful = centres[to_mask > radius_mm + TIE_MM], centres[np.abs(to_mask - radius_mm) <= TIE_MM]

    def reach(some):
        return np.sqrt(((places[:, None, :] - some[None]) ** 2).sum(-1)).min(axis=1, initial=np.inf)

    to_free = reach(free)
    sure = (np.abs(to_free - radius_mm) > TIE_MM) & (reach(doubtful) > radius_mm + TIE_MM) | mask.reshape(-1)
    closed = closed_mm(mask, radius_mm, spacing).reshape(-1)
    expected = (to_free > radius_mm) & mask.any() | mask.reshape(-1)
    np.testing.assert_array_equal(closed[sure], expected[sure])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("spacing_mm", "steps"), [(1.0, 10), (2.5, 4), (0.4, 25), (3.0, 3), (10.0, 1), (11.0, 0)])
def test_a_voxel_grows_by_as_many_voxels_as_its_spacing_fits_into_the_radius(axis, spacing_mm, steps):
    spacing, shape = [50.0] * 3, [3] * 3
    spacing[axis], shape[axis] = spacing_mm, 61
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(n // 2 for n in shape)] = True
    grown = np.flatnonzero(dilated_mm(mask, 10.0, spacing).any(axis=tuple({0, 1, 2} - {axis})))
    assert grown.tolist() == list(range(30 - steps, 31 + steps))


def test_slabs_of_a_long_image_join_without_a_seam():
    """More slices than several slabs hold, thin ones; the reference sees the whole image at once."""
    from scipy import ndimage  # noqa: PLC0415 - an independent transform, for a size that pairs are too many for

    mask = np.random.default_rng(3).random((200, 24, 20)) < 0.001
    spacing = (1.0, 3.0, 2.0)
    reference = ndimage.distance_transform_edt(~mask, sampling=spacing) <= 5.0
    np.testing.assert_array_equal(dilated_mm(mask, 5.0, spacing), reference)


def test_an_empty_mask_stays_empty():
    nothing = np.zeros((3, 4, 5), dtype=bool)
    assert not dilated_mm(nothing, 10.0, (1.0, 1.0, 1.0)).any()
    assert not closed_mm(nothing, 10.0, (1.0, 1.0, 1.0)).any()
