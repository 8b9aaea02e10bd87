"""Small pictures: millimetres are square, outlines and boxes lie where they should, colours are a fixed scale."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from extractor.pictures import (
    BOX_RGB,
    MASK_RGB,
    VIRIDIS,
    box_bars,
    boxed,
    data_uri,
    fused,
    heat_map,
    outlined,
    panel,
    pixel_mm,
    projection,
    thickness,
)


def test_a_panel_has_square_millimetres():
    shown = panel(np.zeros((20, 40), np.uint8), pixel_mm=(4.0, 2.0), height_px=100)
    assert shown.rgb.shape == (100, 100, 3)
    assert shown.scale == (5.0, 2.5)


def test_outline_and_box_lie_on_the_masks_own_pixels():
    mask = np.zeros((20, 20), bool)
    mask[5:10, 8:14] = True
    shown = outlined(panel(np.zeros((20, 20), np.uint8), pixel_mm=(1.0, 1.0), height_px=200), mask)
    rows, columns = np.nonzero((shown.rgb == MASK_RGB).all(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (50, 99, 80, 139)
    assert not (shown.rgb[60:90, 90:130] == MASK_RGB).all(-1).any()
    rows, columns = np.nonzero((boxed(shown, (8, 5, 13, 9)).rgb == BOX_RGB).all(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (50, 100, 80, 140)


@pytest.mark.parametrize(("plane", "axis"), [("coronal", 1), ("sagittal", 2)])
def test_a_projection_is_the_largest_value_with_superior_up(plane, axis):
    volume = np.random.default_rng(0).integers(0, 255, (4, 5, 6)).astype(np.uint8)
    np.testing.assert_array_equal(projection(volume, plane), np.flip(volume.max(axis=axis), 0))
    assert pixel_mm((1.0, 2.0, 3.0), plane) == (3.0, {"coronal": 1.0, "sagittal": 2.0}[plane])


def test_boxes_seen_from_the_side_end_where_the_mask_does():
    mask = np.zeros((10, 10, 10), np.uint8)
    mask[2:8, 3:7, 4:9] = 1
    grey = thickness(mask, "coronal", (1.0, 1.0, 1.0))
    assert (grey[2:8, 4:9] == 255).all()
    assert grey.sum() == 255 * 30
    shown = panel(grey, pixel_mm=(1.0, 1.0), height_px=100)
    bars = box_bars(shown, [7, 2], [(4, 3, 8, 6)] * 2, "coronal", 10)
    rows, columns = np.nonzero((bars.rgb == BOX_RGB).all(-1))
    assert set(rows) == {25, 75}
    assert (columns.min(), columns.max()) == (38, 92)


def test_a_fused_picture_without_uptake_is_the_ct_and_with_the_highest_is_white():
    ct = np.full((2, 2), 100, np.uint8)
    np.testing.assert_array_equal(fused(ct, np.zeros((2, 2), np.uint8)), np.full((2, 2, 3), 100))
    assert fused(np.full((1, 1), 255, np.uint8), np.full((1, 1), 255, np.uint8)).tolist() == [[[255, 255, 255]]]


def test_a_heat_map_has_its_end_colours_at_and_beyond_the_scale():
    shown = heat_map(np.array([[-9.0, -1.0, 0.0, 1.0, 9.0]], np.float32), (-1.0, 1.0))
    np.testing.assert_array_equal(shown[0, [0, 1, 3, 4]], VIRIDIS[[0, 0, -1, -1]])
    np.testing.assert_array_equal(shown[0, 2], VIRIDIS[4])
    lightness = heat_map(np.linspace(0, 1, 64, dtype=np.float32)[None], (0.0, 1.0))[0] @ [0.299, 0.587, 0.114]
    assert (np.diff(lightness) > 0).all()


def test_a_lossless_picture_comes_back_as_it_was():
    rgb = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    kind, data = data_uri(rgb, lossless=True).split(",")
    assert kind == "data:image/webp;base64"
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")), rgb)
