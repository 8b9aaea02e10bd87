"""A small picture of an entry for the eye: where the mask and the boxes lie; decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image
from scipy import ndimage

from extractor.pictures import BOX_RGB, MASK_RGB, Rgb
from extractor.study import PreparedStudy

PANEL_PX = 160
"""Height of each panel."""
GAP_PX = 4


def render_preview(
    prepared: PreparedStudy,
    modality: str,
    roi: str,
    slices: Sequence[int],
    boxes: Int[np.ndarray, "slice 4"],
) -> Rgb:
    """Coronal projection, then the uppermost, middle and lowest kept slice; mask outline orange, box blue.

    Superior is up, the patient's left is on the right of the picture; millimetres are square.
    """
    image_zyx, mask_zyx = prepared.images_zyx[modality], prepared.masks_zyx[roi] != 0
    x_mm, y_mm, z_mm = prepared.grid.spacing_xyz_mm
    panels = [_coronal(image_zyx, mask_zyx, tuple(slices), pixel_mm=(z_mm, x_mm))]
    for rank in sorted({0, len(slices) // 2, len(slices) - 1}):
        z = slices[rank]
        panels.append(_axial(image_zyx[z], mask_zyx[z], boxes[rank], pixel_mm=(y_mm, x_mm)))
    gap = np.full((PANEL_PX, GAP_PX, 3), 255, np.uint8)
    row = [part for panel in panels for part in (panel, gap)][:-1]
    return np.concatenate(row, axis=1)


def _coronal(
    image_zyx: UInt8[np.ndarray, "z y x"],
    mask_zyx: Bool[np.ndarray, "z y x"],
    slices: tuple[int, ...],
    *,
    pixel_mm: tuple[float, float],
) -> Rgb:
    """Maximum along y with the mask's outline and a tick at each kept slice."""
    panel, scale = _panel(image_zyx.max(axis=1)[::-1], mask_zyx.any(axis=1)[::-1], pixel_mm)
    rows = [min(PANEL_PX - 1, int((image_zyx.shape[0] - 1 - z + 0.5) * scale[0])) for z in slices]
    panel[rows, :5] = BOX_RGB
    return panel


def _axial(
    image_yx: UInt8[np.ndarray, "y x"],
    mask_yx: Bool[np.ndarray, "y x"],
    box: Int[np.ndarray, "corners=4"],
    *,
    pixel_mm: tuple[float, float],
) -> Rgb:
    """One slice with the mask's outline and its box."""
    panel, (row_scale, column_scale) = _panel(image_yx, mask_yx, pixel_mm)
    x0, y0, x1, y1 = (int(value) for value in box)
    top, bottom = int(y0 * row_scale), min(PANEL_PX - 1, int((y1 + 1) * row_scale))
    left, right = int(x0 * column_scale), min(panel.shape[1] - 1, int((x1 + 1) * column_scale))
    panel[[top, bottom], left : right + 1] = BOX_RGB
    panel[top : bottom + 1, [left, right]] = BOX_RGB
    return panel


def _panel(
    grey: UInt8[np.ndarray, "row column"], mask: Bool[np.ndarray, "row column"], pixel_mm: tuple[float, float]
) -> tuple[Rgb, tuple[float, float]]:
    """Outlined picture of a panel's height, and picture pixels per voxel along rows and columns."""
    height, width = grey.shape
    aspect = width * pixel_mm[1] / (height * pixel_mm[0])
    size = (max(16, min(2 * PANEL_PX, round(PANEL_PX * aspect))), PANEL_PX)
    return outlined(grey, mask, size), (PANEL_PX / height, size[0] / width)


def outlined(
    grey: UInt8[np.ndarray, "row column"],
    mask: Bool[np.ndarray, "row column"],
    size: tuple[int, int],
) -> Rgb:
    """Grey picture of `size` (width, height) pixels with the mask's outline."""
    panel = np.array(Image.fromarray(np.ascontiguousarray(grey)).resize(size, Image.Resampling.BILINEAR).convert("RGB"))
    inside = np.array(Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST), dtype=bool)
    panel[inside & ~ndimage.binary_erosion(inside)] = MASK_RGB
    return panel
