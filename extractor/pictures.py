"""Draws slices, projections and maps as small pictures for the eye, with outlines and boxes; knows no file, store or page.

Millimetres are square. Superior is up in projections; the patient's left is on the right of axial and coronal pictures, anterior
on the left of sagittal ones.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image
from scipy import ndimage

Rgb = UInt8[np.ndarray, "row column rgb"]
Colour = tuple[int, int, int]
Plane = Literal["coronal", "sagittal"]

MASK_RGB: Colour = (230, 159, 0)
BOX_RGB: Colour = (86, 180, 233)
REGION_RGB: tuple[Colour, ...] = (MASK_RGB, (204, 121, 167), (0, 158, 115), (240, 228, 66), (213, 94, 0))
"""Of the Okabe–Ito palette, told apart with any colour vision and on grey; sky blue is left to boxes."""
VIRIDIS = np.array(
    [
        *((68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141)),
        *((39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37)),
    ],
    np.float64,
)
"""Nine even steps of the map: lightness rises evenly, so that it reads the same in grey and with any colour vision."""
WIDEST = 2.5
"""Widest panel, in its heights: a long thin image is squeezed rather than bursting a page."""


@dataclass(frozen=True)
class Panel:
    """A picture and how large a voxel is in it."""

    rgb: Rgb
    scale: tuple[float, float]
    """Picture pixels per voxel along rows and columns."""


def panel(picture: np.ndarray, *, pixel_mm: tuple[float, float], height_px: int, widest: float = WIDEST) -> Panel:
    """Grey values or colours enlarged or reduced to a height, with square millimetres; at most `widest` heights wide."""
    height, width = picture.shape[:2]
    wide = height_px * width * pixel_mm[1] / (height * pixel_mm[0])
    return sized(picture, (max(16, min(round(widest * height_px), round(wide))), height_px))


def sized(picture: np.ndarray, size: tuple[int, int]) -> Panel:
    """Grey values or colours as a picture of so many pixels, width and height."""
    height, width = picture.shape[:2]
    image = Image.fromarray(np.ascontiguousarray(picture)).convert("RGB")
    return Panel(np.array(image.resize(size, Image.Resampling.BILINEAR)), (size[1] / height, size[0] / width))


def outlined(shown: Panel, mask: Bool[np.ndarray, "row column"], colour: Colour = MASK_RGB) -> Panel:
    """The panel with the outline of a mask of the same voxels, one picture pixel wide, just inside of it."""
    height, width = shown.rgb.shape[:2]
    inside = np.array(
        Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST), dtype=bool
    )
    rgb = shown.rgb.copy()
    rgb[inside & ~ndimage.binary_erosion(inside, border_value=0)] = colour
    return Panel(rgb, shown.scale)


def boxed(shown: Panel, box_xyxy: Sequence[int], colour: Colour = BOX_RGB) -> Panel:
    """The panel with a box of inclusive voxel corners x0, y0, x1, y1."""
    rgb, (row_scale, column_scale) = shown.rgb.copy(), shown.scale
    x0, y0, x1, y1 = box_xyxy
    top, bottom = int(y0 * row_scale), min(rgb.shape[0] - 1, int((y1 + 1) * row_scale))
    left, right = int(x0 * column_scale), min(rgb.shape[1] - 1, int((x1 + 1) * column_scale))
    rgb[[top, bottom], left : right + 1] = colour
    rgb[top : bottom + 1, [left, right]] = colour
    return Panel(rgb, shown.scale)


def inverted(grey: UInt8[np.ndarray, "row column"]) -> UInt8[np.ndarray, "row column"]:
    """A PET as readers know it: uptake dark on white."""
    return np.asarray(255 - grey, dtype=np.uint8)


def fused(ct: UInt8[np.ndarray, "row column"], pet: UInt8[np.ndarray, "row column"]) -> Rgb:
    """The CT in grey with the PET laid over it from black over red and yellow to white, the stronger the more opaque."""
    heat = np.clip(pet[..., None].astype(np.float32) / 255 * 3 - np.array([0, 1, 2], np.float32), 0, 1) * 255
    opacity = np.clip(pet.astype(np.float32) / 100, 0, 0.75)[..., None]
    return np.rint(ct[..., None] * (1 - opacity) + heat * opacity).astype(np.uint8)


def projection(volume_zyx: np.ndarray, plane: Plane) -> np.ndarray:
    """Largest value along y (coronal) or x (sagittal), superior up."""
    return np.asarray(volume_zyx.max(axis=1 if plane == "coronal" else 2)[::-1])


def pixel_mm(spacing_xyz_mm: Sequence[float], plane: Plane | Literal["axial"]) -> tuple[float, float]:
    """Millimetres of a voxel along rows and columns of a picture of that plane."""
    x_mm, y_mm, z_mm = spacing_xyz_mm
    return {"axial": (y_mm, x_mm), "coronal": (z_mm, x_mm), "sagittal": (z_mm, y_mm)}[plane]


def thickness(
    mask_zyx: UInt8[np.ndarray, "z y x"], plane: Plane, spacing_xyz_mm: Sequence[float]
) -> UInt8[np.ndarray, "row column"]:
    """How much of a mask lies along each ray, superior up: white where most, a dark grey where one voxel."""
    depth = np.count_nonzero(mask_zyx, axis=1 if plane == "coronal" else 2)[::-1].astype(np.float32)
    grey = np.where(depth > 0, 70 + 185 * depth / max(1.0, float(depth.max())), 0)
    return np.asarray(np.rint(grey), dtype=np.uint8)


def box_bars(
    shown: Panel, slices_z: Sequence[int], boxes_xyxy: Sequence[Sequence[int]], plane: Plane, planes: int
) -> Panel:
    """The projection with the two ends of each kept slice's box, seen from its side."""
    rgb, (row_scale, column_scale) = shown.rgb.copy(), shown.scale
    first, last = (0, 2) if plane == "coronal" else (1, 3)
    for z, box in zip(slices_z, boxes_xyxy, strict=True):
        row = min(rgb.shape[0] - 1, int((planes - 1 - z + 0.5) * row_scale))
        left, right = int(box[first] * column_scale), int((box[last] + 1) * column_scale)
        rgb[row, max(0, left - 2) : left + 1] = BOX_RGB
        rgb[row, right : right + 3] = BOX_RGB
    return Panel(rgb, shown.scale)


def heat_map(values: Float32[np.ndarray, "row column"], scale: tuple[float, float]) -> Rgb:
    """A map in the colours of `VIRIDIS` between two fixed values, a pixel a value; beyond them it has the colour of the end."""
    low, high = scale
    place = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    steps = np.linspace(0, 1, len(VIRIDIS))
    rgb = np.stack([np.interp(place, steps, VIRIDIS[:, part]) for part in range(3)], axis=-1)
    return np.asarray(np.rint(rgb), dtype=np.uint8)


def colour_bar(width_px: int = 240, height_px: int = 12) -> Rgb:
    """The colours of `heat_map` from its lower to its upper end."""
    ramp = np.linspace(0, 1, width_px, dtype=np.float32)
    return heat_map(np.tile(ramp, (height_px, 1)), (0.0, 1.0))


def side_by_side(panels: Sequence[Panel], gap_px: int = 4) -> Rgb:
    """Panels in a row on white, at the height of the tallest."""
    height = max(one.rgb.shape[0] for one in panels)
    row = np.full((height, sum(one.rgb.shape[1] + gap_px for one in panels) - gap_px, 3), 255, np.uint8)
    left = 0
    for one in panels:
        row[: one.rgb.shape[0], left : left + one.rgb.shape[1]] = one.rgb
        left += one.rgb.shape[1] + gap_px
    return row


@dataclass(frozen=True)
class Picture:
    """One picture as an address that holds it, with what is said of it."""

    uri: str
    width: int
    height: int
    alt: str
    caption: str = ""

    @classmethod
    def of(cls, rgb: Rgb, alt: str, caption: str = "", *, lossless: bool = False) -> Picture:
        """The picture as a page holds it."""
        return cls(data_uri(rgb, lossless=lossless), rgb.shape[1], rgb.shape[0], alt, caption)


def data_uri(rgb: Rgb, *, lossless: bool = False) -> str:
    """The picture as an address that a page can hold in itself."""
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, "WEBP", quality=82, lossless=lossless, method=4)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def outlined_all(shown: Panel, masks: Mapping[str, Bool[np.ndarray, "row column"]]) -> Panel:
    """The panel with the outline of each region, in the order and colours of `REGION_RGB`."""
    for place, mask in enumerate(masks.values()):
        shown = outlined(shown, mask, REGION_RGB[place % len(REGION_RGB)])
    return shown
