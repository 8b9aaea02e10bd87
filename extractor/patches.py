"""Lays a grid of patches over a region in millimetres, and says what lies under each; knows no network and no store."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
from jaxtyping import UInt8, UInt16

from extractor.occlusion_reach import Patch
from store_schema.errors import ConfigError, MaskError

MOST_PATCHES = 2000
"""Of one region: their memories take half a megabyte each."""
BACKDROP_MM = 4.0
"""About the voxel of a backdrop."""


def patch_grid(
    mask_zyx: UInt8[np.ndarray, "z y x"],
    spacing_xyz_mm: tuple[float, float, float],
    *,
    size_mm: float,
    stride_mm: float,
) -> tuple[Patch, ...]:
    """Patches on a regular grid whose centres lie inside the region, from superior to inferior.

    The grid is centred on the region's bounding box. Sides are whole voxels, the nearest to the size and at least one; patches
    are cut where the image ends.

    Raises
    ------
    ConfigError
        If size or stride is not above 0, or the patches are more than 2000.
    MaskError
        If no centre lies inside the region.

    References
    ----------
    Guinea-Pérez et al. 2026, Appendix A.
    """
    if min(size_mm, stride_mm) <= 0:
        raise ConfigError(f"patches need a size and a stride above 0 mm, got {size_mm:g} and {stride_mm:g}.")
    spacing_zyx_mm = spacing_xyz_mm[::-1]
    sides = [max(1, round(size_mm / step)) for step in spacing_zyx_mm]
    places = [
        _places(np.flatnonzero(mask_zyx.any(axis=other)), step, stride_mm)
        for other, step in zip(((1, 2), (0, 2), (0, 1)), spacing_zyx_mm, strict=True)
    ]
    centres = [centre for centre in product(reversed(places[0]), places[1], places[2]) if mask_zyx[centre]]
    if not centres:
        raise MaskError(
            f"no centre of a grid of {stride_mm:g} mm lies inside the region: choose a smaller stride, at most the region's width."
        )
    if len(centres) > MOST_PATCHES:
        raise ConfigError(
            f"{len(centres)} patches of a stride of {stride_mm:g} mm lie inside the region: at most {MOST_PATCHES} are "
            "taken. Choose a larger stride."
        )
    return tuple(_patch(centre, sides, mask_zyx.shape) for centre in centres)


def _places(inside: np.ndarray, step_mm: float, stride_mm: float) -> list[int]:
    """Voxels along one axis, a stride apart as nearly as voxels allow, centred between the first and the last inside."""
    if not inside.size:
        return []
    extent_mm = float(inside[-1] - inside[0]) * step_mm
    count = int(extent_mm / stride_mm) + 1
    first_mm = (extent_mm - (count - 1) * stride_mm) / 2
    return list(dict.fromkeys(int(inside[0]) + round((first_mm + k * stride_mm) / step_mm) for k in range(count)))


def _patch(centre: tuple[int, ...], sides: list[int], shape: tuple[int, ...]) -> Patch:
    starts = [middle - side // 2 for middle, side in zip(centre, sides, strict=True)]
    stops = [min(start + side, size) for start, side, size in zip(starts, sides, shape, strict=True)]
    (z0, y0, x0), (z1, y1, x1) = [max(0, start) for start in starts], stops
    return Patch((z0, y0, x0), (z1, y1, x1))


def names_under(
    patch: Patch, labels_zyx: UInt16[np.ndarray, "z y x"], names: Mapping[int, str]
) -> tuple[str, float] | None:
    """The bone that fills most of a patch, and its share of the patch's voxels; None where there is none.

    Parameters
    ----------
    labels_zyx
        Label map on the patch's grid.
    names
        Of the labels that are bones.
    """
    (z0, y0, x0), (z1, y1, x1) = patch.start_zyx, patch.stop_zyx
    inside = labels_zyx[z0:z1, y0:y1, x0:x1]
    counts = np.bincount(inside.ravel(), minlength=1)
    found = {label: int(counts[label]) for label in names if label < len(counts) and counts[label]}
    if not found:
        return None
    label = max(found, key=lambda one: (found[one], -one))
    return names[label], found[label] / inside.size


def backdrop(
    image_zyx: UInt8[np.ndarray, "z y x"], spacing_xyz_mm: tuple[float, float, float]
) -> tuple[UInt8[np.ndarray, "z y x"], tuple[int, int, int]]:
    """Every so many voxels of an image, about 4 mm apart, to draw on; and how many, along z, y and x."""
    step_z, step_y, step_x = (max(1, round(BACKDROP_MM / step)) for step in spacing_xyz_mm[::-1])
    return np.ascontiguousarray(image_zyx[::step_z, ::step_y, ::step_x]), (step_z, step_y, step_x)
