"""A small picture of an entry for the eye: where the mask and the boxes lie; decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt8

from extractor.pictures import BOX_RGB, Panel, Rgb, boxed, outlined, panel, projection, side_by_side
from extractor.study import PreparedStudy

PANEL_PX = 160
"""Height of each panel."""
GAP_PX = 4
WIDEST = 2.0
"""Width of a panel at most, in its heights; a stored picture keeps it."""


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
    return side_by_side(panels, GAP_PX)


def _coronal(
    image_zyx: UInt8[np.ndarray, "z y x"],
    mask_zyx: Bool[np.ndarray, "z y x"],
    slices: tuple[int, ...],
    *,
    pixel_mm: tuple[float, float],
) -> Panel:
    """Maximum along y with the mask's outline and a tick at each kept slice."""
    shown = outlined(_panel(projection(image_zyx, "coronal"), pixel_mm), projection(mask_zyx, "coronal"))
    rows = [min(PANEL_PX - 1, int((image_zyx.shape[0] - 1 - z + 0.5) * shown.scale[0])) for z in slices]
    shown.rgb[rows, :5] = BOX_RGB
    return shown


def _axial(
    image_yx: UInt8[np.ndarray, "y x"],
    mask_yx: Bool[np.ndarray, "y x"],
    box: Int[np.ndarray, "corners=4"],
    *,
    pixel_mm: tuple[float, float],
) -> Panel:
    """One slice with the mask's outline and its box."""
    return boxed(outlined(_panel(image_yx, pixel_mm), mask_yx), [int(value) for value in box])


def _panel(grey: UInt8[np.ndarray, "row column"], pixel_mm: tuple[float, float]) -> Panel:
    return panel(grey, pixel_mm=pixel_mm, height_px=PANEL_PX, widest=WIDEST)
