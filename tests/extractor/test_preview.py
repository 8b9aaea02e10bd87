"""The small picture of an entry: outline and box where they belong."""

import numpy as np

from extractor.pictures import BOX_RGB, MASK_RGB
from extractor.preview import PANEL_PX, render_preview
from extractor.prompts import kept_slices, tight_boxes
from extractor.study import PreparedStudy
from extractor.volumes import Grid

GRID = Grid((40, 40, 20), (0.0, 0.0, 0.0), (2.0, 2.0, 4.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def picture(mask):
    image = np.full(mask.shape, 100, np.uint8)
    prepared = PreparedStudy({"CT": image}, {"roi": mask}, GRID, {"CT": "LPS"}, {})
    slices = kept_slices(mask, 2)
    return render_preview(prepared, "CT", "roi", slices, tight_boxes(mask, slices))


def test_outline_and_box_are_drawn_around_the_mask():
    mask = np.zeros((20, 40, 40), np.uint8)
    mask[5:15, 10:20, 20:30] = 1
    shown = picture(mask)
    assert shown.dtype == np.uint8
    assert shown.shape[0] == PANEL_PX
    assert (shown == MASK_RGB).all(-1).any()
    axial = shown[:, 160 + 4 : 160 + 4 + 160]
    rows, columns = np.nonzero((axial == BOX_RGB).all(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (40, 80, 80, 120)


def test_a_single_kept_slice_gives_a_single_axial_panel():
    mask = np.zeros((20, 40, 40), np.uint8)
    mask[10, 10:20, 20:30] = 1
    assert picture(mask).shape[1] == 2 * 160 + 4
