"""Draws what a store holds of an entry as PNG: preview, mask from two sides, memory map; knows no store and no page.

Millimetres are square, superior is up; the patient's left is on the right of coronal pictures, anterior on the left of sagittal
ones.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

Rgb = UInt8[np.ndarray, "row column rgb"]

HEIGHT_PX, GAP_PX, MARGIN_MM = 420, 6, 30.0
WIDEST = 1.5
"""Width of a projection at most, in its heights."""
SLAB = 16
"""Planes of a mask that are counted at once: a whole-body mask needs no second copy of itself."""
MAX_VOXELS = 2**30
"""Of a mask that is drawn; a larger one would take the memory of many other requests."""
PAPER_RGB, LEAST_RGB, MASK_RGB, BOX_RGB = (16, 18, 21), (92, 66, 14), (255, 190, 66), (86, 180, 233)
"""Background; one voxel deep; as deep as the mask gets; ends of boxes."""
GAP_RGB = (120, 126, 132)
VIRIDIS = (
    *((68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141)),
    *((39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37)),
)
"""Nine even steps of the map: lightness rises evenly, so that it reads the same in grey and with any colour vision."""


@dataclass(frozen=True)
class Box:
    """A box on one kept slice, in voxels, corners inclusive."""

    z: int
    x0: int
    y0: int
    x1: int
    y1: int


def png(rgb: Rgb) -> bytes:
    """The picture as a file."""
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(data, "PNG")
    return data.getvalue()


def mask_from_sides(
    mask_zyx: UInt8[np.ndarray, "z y x"], spacing_xyz_mm: Sequence[float], boxes: Sequence[Box] = ()
) -> Rgb:
    """A mask from the front (coronal) and from the patient's left (sagittal), brighter where deeper, with the ends of its boxes."""
    x_mm, y_mm, z_mm = spacing_xyz_mm
    coronal, sagittal = _depths(mask_zyx)
    planes = len(mask_zyx)
    front = _from_side(coronal, (z_mm, x_mm), [(planes - 1 - b.z, b.x0, b.x1) for b in boxes])
    side = _from_side(sagittal, (z_mm, y_mm), [(planes - 1 - b.z, b.y0, b.y1) for b in boxes])
    gap = np.full((HEIGHT_PX, GAP_PX, 3), GAP_RGB, np.uint8)
    return np.concatenate([front, gap, side], axis=1)


def heat_map(values: np.ndarray) -> Rgb:
    """A map in the colours of `VIRIDIS` from its lowest to its highest value, a pixel a value."""
    low, high = float(values.min()), float(values.max())
    place = np.zeros(values.shape) if low == high else (values.astype(np.float64) - low) / (high - low)
    steps, colours = np.linspace(0, 1, len(VIRIDIS)), np.asarray(VIRIDIS, np.float64)
    return _rounded(np.stack([np.interp(place, steps, colours[:, part]) for part in range(3)], axis=-1))


def colour_stops() -> list[tuple[float, str]]:
    """Place and colour of each step of `heat_map`, from its lower to its upper end."""
    last = len(VIRIDIS) - 1
    return [(place / last, f"#{red:02x}{green:02x}{blue:02x}") for place, (red, green, blue) in enumerate(VIRIDIS)]


def _depths(mask_zyx: UInt8[np.ndarray, "z y x"]) -> tuple[Float64[np.ndarray, "z x"], Float64[np.ndarray, "z y"]]:
    """Share of the deepest ray that lies in the mask, along y and along x, superior up."""
    planes, rows, columns = mask_zyx.shape
    coronal, sagittal = np.zeros((planes, columns)), np.zeros((planes, rows))
    for start in range(0, planes, SLAB):
        inside = mask_zyx[start : start + SLAB] != 0
        coronal[start : start + SLAB], sagittal[start : start + SLAB] = inside.sum(axis=1), inside.sum(axis=2)
    return tuple(one[::-1] / max(1.0, float(one.max())) for one in (coronal, sagittal))  # type: ignore[return-value]


def _from_side(
    depth: Float64[np.ndarray, "row column"], pixel_mm: tuple[float, float], ends: Sequence[tuple[int, int, int]]
) -> Rgb:
    """A projection without the empty columns beside the region, and with its boxes."""
    columns = depth.shape[1]
    margin = round(MARGIN_MM / pixel_mm[1])
    used = [*np.flatnonzero(depth.any(axis=0)), *(end for _, *both in ends for end in both)]
    first, last = max(0, int(min(used, default=0)) - margin), min(columns, int(max(used, default=columns)) + margin + 1)
    first, last = (first, last) if first < last else (0, columns)
    shown = depth[:, first:last]
    return _marked(
        _shaded(shown, pixel_mm), [(row, left - first, right - first) for row, left, right in ends], shown.shape
    )


def _shaded(depth: Float64[np.ndarray, "row column"], pixel_mm: tuple[float, float]) -> Rgb:
    """A projection at the common height."""
    least, most = np.asarray(LEAST_RGB, np.float64), np.asarray(MASK_RGB, np.float64)
    rgb = np.where(depth[..., None] > 0, least + depth[..., None] * (most - least), np.asarray(PAPER_RGB, np.float64))
    wide = HEIGHT_PX * depth.shape[1] * pixel_mm[1] / (depth.shape[0] * pixel_mm[0])
    size = (round(min(WIDEST * HEIGHT_PX, max(16.0, wide))), HEIGHT_PX)
    return np.asarray(Image.fromarray(_rounded(rgb)).resize(size, Image.Resampling.BILINEAR)).copy()


def _marked(rgb: Rgb, ends: Sequence[tuple[int, int, int]], shape: tuple[int, ...]) -> Rgb:
    """The picture with a tick at both ends of each box, given as row, first and last column in voxels."""
    rows, columns = rgb.shape[0] / shape[0], rgb.shape[1] / shape[1]
    for row, first, last in ends:
        if not 0 <= row < shape[0]:
            continue
        y, left, right = int((row + 0.5) * rows), int(first * columns), int((last + 1) * columns)
        rgb[y, max(0, left - 5) : max(0, left)] = BOX_RGB
        rgb[y, right : right + 5] = BOX_RGB
    return rgb


def _rounded(rgb: np.ndarray) -> Rgb:
    return np.asarray(np.rint(rgb), dtype=np.uint8)
