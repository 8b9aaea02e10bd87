"""Where misplaced boxes may lie: the body reaches the image's last slice, row and column, wherever the coarse grid ends."""

import numpy as np
import pytest

from extractor.alignment import coarse
from extractor.surroundings import BEYOND, surroundings
from extractor.volumes import Grid, Volume, write_image
from store_schema.errors import MaskError

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


def labelled(folder, name, grid, labels):
    array = np.zeros(grid.size_xyz[::-1], np.uint16)
    for place, label in enumerate(labels):
        array[3 * place : 3 * place + 2, 10:14, 10:14] = label
    write_image(array, grid, folder / name)
    return str(folder / name)


def test_bones_are_known_only_where_every_part_is_there_and_covers_the_body(tmp_path):
    grid = Grid((31, 33, 12), (0.0, 0.0, 0.0), (1.0, 1.0, 3.0), AXES)
    ct = coarse(Volume(np.full((12, 33, 31), 40.0, np.float32), grid, "LPS"))
    spine = labelled(tmp_path, "spine.nii.gz", grid, (20, 19))
    found = surroundings(ct, {"vertebrae": spine}, "moose_3", grid)
    assert found.bones_zyx.sum() == 2 * 2 * 16
    assert found.unknown == ("label_map_ribs", "label_map_peripheral_bones")
    whole = labelled(tmp_path, "whole.nii.gz", grid, (29, 30))
    assert surroundings(ct, {"": whole}, "totalsegmentator", grid).unknown == ()
    short = Grid((31, 33, 8), grid.origin_xyz_mm, grid.spacing_xyz_mm, AXES)
    part = labelled(tmp_path, "part.nii.gz", short, (29, 30))
    assert surroundings(ct, {"": part}, "totalsegmentator", grid).unknown == (BEYOND,)


def test_a_label_map_of_another_set_is_refused_by_its_name(tmp_path):
    grid = Grid((31, 33, 12), (0.0, 0.0, 0.0), (1.0, 1.0, 3.0), AXES)
    ct = coarse(Volume(np.full((12, 33, 31), 40.0, np.float32), grid, "LPS"))
    other = labelled(tmp_path, "other.nii.gz", grid, (5, 6))
    with pytest.raises(MaskError, match=r"other.nii.gz: the label_map has no vertebra of the totalsegmentator"):
        surroundings(ct, {"": other}, "totalsegmentator", grid)
