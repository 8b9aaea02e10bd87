"""Where misplaced boxes may lie: the body reaches the image's last slice, row and column, wherever the coarse grid ends."""

import numpy as np
import pytest

from extractor.alignment import coarse
from extractor.surroundings import surroundings
from extractor.volumes import Grid, Volume

AXES = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("slices", range(8, 16))
def test_a_body_that_fills_the_image_is_body_everywhere(slices):
    grid = Grid((31, 33, slices), (-10.0, 5.0, 2.0), (0.98, 1.3, 3.27), AXES)
    ct = Volume(np.full((slices, 33, 31), 40.0, np.float32), grid, "LPS")
    assert surroundings(coarse(ct), {}, "totalsegmentator", grid).body_zyx.all()


def test_a_column_of_tissue_stands_on_its_place_to_about_a_coarse_step():
    grid = Grid((60, 60, 13), (0.0, 0.0, 0.0), (1.0, 1.0, 3.27), AXES)
    values = np.full((13, 60, 60), -1000.0, np.float32)
    values[:, 15:45, 20:50] = 40.0
    found = surroundings(coarse(Volume(values, grid, "LPS")), {}, "totalsegmentator", grid).body_zyx
    assert (found.sum(axis=(1, 2)) > 0.8 * 30 * 30).all()
    assert not found[:, :10].any()
    assert not found[:, :, :15].any()
    assert found[:, 25:35, 30:40].all()
