"""Kept slices, boxes and points against a brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from extractor.prompts import kept_slices, key_rank, seeded_points, tight_boxes
from store_schema.errors import MaskError

MASKS = hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 9)] * 3), elements=st.integers(0, 1), fill=st.just(0))


@given(MASKS, st.integers(1, 4))
def test_kept_slices_run_from_superior_and_boxes_are_tight(mask, stride):
    if not mask.any():
        with pytest.raises(MaskError):
            kept_slices(mask, stride)
        return
    bearing = [z for z in reversed(range(len(mask))) if mask[z].any()]
    slices = kept_slices(mask, stride)
    assert list(slices) == bearing[::stride]
    for z, (x0, y0, x1, y1) in zip(slices, tight_boxes(mask, slices), strict=True):
        rows = [y for y in range(mask.shape[1]) if mask[z, y].any()]
        columns = [x for x in range(mask.shape[2]) if mask[z, :, x].any()]
        assert (x0, y0, x1, y1) == (columns[0], rows[0], columns[-1], rows[-1])


def test_gaps_do_not_count_as_slices():
    mask = np.zeros((10, 2, 2), np.uint8)
    mask[[9, 5, 4, 1], 0, 0] = 1
    assert kept_slices(mask, 2) == (9, 4)


@given(MASKS)
def test_key_slice_is_the_largest_and_of_equal_ones_the_uppermost(mask):
    if not mask.any():
        return
    slices = kept_slices(mask, 1)
    areas = [int((mask[z] != 0).sum()) for z in slices]
    assert key_rank(mask, slices) == areas.index(max(areas))


def depth(mask_yx: np.ndarray, y: int, x: int) -> float:
    """Distance of a pixel to the nearest one outside the mask; the image's border is outside."""
    height, width = mask_yx.shape
    rows, columns = np.mgrid[-1 : height + 1, -1 : width + 1]
    inside = np.pad(mask_yx != 0, 1)
    return float(np.sqrt(((rows - y) ** 2 + (columns - x) ** 2)[~inside].min()))


@given(MASKS)
def test_the_first_point_is_the_deepest_and_all_lie_inside(mask):
    if not mask.any():
        return
    slices = kept_slices(mask, 1)
    points = seeded_points(mask, slices, entry="P1/PET/a")
    assert points.shape == (len(slices), 3, 2)
    for z, of_slice in zip(slices, points, strict=True):
        assert all(mask[z, y, x] for x, y in of_slice)
        depths = [depth(mask[z], y, x) for y, x in np.argwhere(mask[z])]
        x, y = of_slice[0]
        assert depth(mask[z], y, x) == pytest.approx(max(depths))
        distinct = {tuple(point) for point in of_slice.tolist()}
        assert len(distinct) == min(3, len(depths))


def test_points_are_drawn_again_the_same_and_by_entry_and_slice():
    mask = np.ones((4, 20, 20), np.uint8)
    one = seeded_points(mask, (3, 2, 1, 0), entry="P1/PET/a")
    np.testing.assert_array_equal(one, seeded_points(mask, (3, 2, 1, 0), entry="P1/PET/a"))
    np.testing.assert_array_equal(one[2:], seeded_points(mask, (1, 0), entry="P1/PET/a"))
    assert not np.array_equal(one, seeded_points(mask, (3, 2, 1, 0), entry="P1/CT/a"))
    assert len({points[1:].tobytes() for points in one}) == 4
