"""Kept slices and tight boxes against a brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from extractor.prompts import kept_slices, tight_boxes
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
