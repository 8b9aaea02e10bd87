"""Grows, shrinks and closes masks by millimetres on grids of any spacing; knows no anatomy.

Distances are those between voxel centres. They are found exactly, axis after axis, and only as far as the radius: in slabs, so that
the memory does not grow with the length of a patient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage

TOLERANCE_MM = 1e-3
"""Far below a voxel: spacings of 0.4 mm in float32 and in float64 must give one region, also at exact multiples."""

Mask = Bool[np.ndarray, "z y x"]


def dilated_mm(mask_zyx: Mask, radius_mm: float, spacing_zyx_mm: Sequence[float]) -> Mask:
    """Voxels whose centre lies within `radius_mm` of the centre of a mask voxel."""
    return _near(mask_zyx, radius_mm, spacing_zyx_mm, around=mask_zyx)


def closed_mm(mask_zyx: Mask, radius_mm: float, spacing_zyx_mm: Sequence[float]) -> Mask:
    """The mask with gaps up to twice `radius_mm` filled: dilated, then eroded; the image border eats nothing.

    Computed in a window that is wider than the mask by more than the radius, beyond the border too, so that the dilation is not cut
    there.
    """
    box = _box(mask_zyx)
    if box is None:
        return mask_zyx.copy()
    margins = [reach + 1 for reach in _reaches(radius_mm, spacing_zyx_mm)]
    part = np.pad(mask_zyx[box], [(m, m) for m in margins])
    dilated = _near(part, radius_mm, spacing_zyx_mm, around=part)
    eroded = dilated & ~_near(~dilated, radius_mm, spacing_zyx_mm, around=dilated)
    # What is filled may lie beside the mask's box, and of that only the part within the image counts.
    closed, inner, outer = mask_zyx.copy(), [], []
    for span, margin, size in zip(box, margins, mask_zyx.shape, strict=True):
        first, last = max(0, span.start - margin), min(size, span.stop + margin)
        outer.append(slice(first, last))
        inner.append(slice(first - span.start + margin, last - span.start + margin))
    closed[tuple(outer)] |= eroded[tuple(inner)]
    return closed


def _near(mask_zyx: Mask, radius_mm: float, spacing_zyx_mm: Sequence[float], *, around: Mask) -> Mask:
    """Voxels within the radius of the mask; looked for no farther than the radius from `around`, which is elsewhere False."""
    reaches = _reaches(radius_mm, spacing_zyx_mm)
    near = np.zeros_like(mask_zyx)
    size, reach = mask_zyx.shape[0], reaches[0]
    slab = 4 * reach + 8  # the halo of a slab is then less than half of what is computed
    for first in range(0, size, slab):
        last, low, high = min(first + slab, size), max(0, first - reach), min(first + slab + reach, size)
        box = _box(around[low:high])
        if box is None:
            continue
        plane = tuple(
            slice(max(0, span.start - more), min(n, span.stop + more))
            for span, more, n in zip(box[1:], reaches[1:], mask_zyx.shape[1:], strict=True)
        )
        part = _part_near(mask_zyx[(slice(low, high), *plane)], radius_mm, spacing_zyx_mm)
        near[(slice(first, last), *plane)] = part[first - low : last - low]
    return near


def _part_near(mask_zyx: Mask, radius_mm: float, spacing_zyx_mm: Sequence[float]) -> Mask:
    """Voxels within the radius of the mask: squared distances along x, then the least sums along y and z."""
    z_mm, y_mm, x_mm = spacing_zyx_mm
    squares_mm2 = (_steps_along_x(mask_zyx) * np.float32(x_mm)) ** 2
    for axis, step_mm in ((1, y_mm), (0, z_mm)):
        squares_mm2 = _least_along(squares_mm2, axis, step_mm, _reach(radius_mm, step_mm))
    near: Mask = squares_mm2 <= (radius_mm + TOLERANCE_MM) ** 2
    return near


def _steps_along_x(mask_zyx: Mask) -> Float32[np.ndarray, "z y x"]:
    """Voxels from each voxel to the nearest of the mask in its row; infinite in a row without any."""
    size = mask_zyx.shape[2]
    places = np.arange(size, dtype=np.float32)
    before = np.maximum.accumulate(np.where(mask_zyx, places, np.float32(-np.inf)), axis=2)
    after = np.minimum.accumulate(np.where(mask_zyx, places, np.float32(np.inf))[..., ::-1], axis=2)[..., ::-1]
    return np.minimum(places - before, after - places)


def _least_along(
    squares_mm2: Float32[np.ndarray, "z y x"], axis: int, step_mm: float, reach: int
) -> Float32[np.ndarray, "z y x"]:
    """The least of each voxel's and its neighbours' values with the square of their distance, along one axis."""
    least = squares_mm2.copy().swapaxes(axis, 0)
    here, farther = squares_mm2.swapaxes(axis, 0), np.empty_like(squares_mm2).swapaxes(axis, 0)
    for steps in range(1, min(reach, here.shape[0] - 1) + 1):
        np.add(here, np.float32((steps * step_mm) ** 2), out=farther)
        np.minimum(least[steps:], farther[:-steps], out=least[steps:])
        np.minimum(least[:-steps], farther[steps:], out=least[:-steps])
    return least.swapaxes(axis, 0)


def _reaches(radius_mm: float, spacing_zyx_mm: Sequence[float]) -> list[int]:
    return [_reach(radius_mm, step_mm) for step_mm in spacing_zyx_mm]


def _reach(radius_mm: float, step_mm: float) -> int:
    """Steps that the radius can span."""
    return int((radius_mm + TOLERANCE_MM) / step_mm)


def _box(mask_zyx: Mask) -> tuple[slice, slice, slice] | None:
    """Bounding box; None where the mask is empty."""
    found = ndimage.find_objects(mask_zyx.view(np.uint8))
    return found[0] if found else None
