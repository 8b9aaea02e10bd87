"""Which slices of a mask are kept and the tight box of each; knows no image and no network."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32, UInt8

from store_schema.errors import MaskError


def kept_slices(mask_zyx: UInt8[np.ndarray, "z y x"], stride: int) -> tuple[int, ...]:
    """Z indices of every stride-th mask-bearing slice from superior to inferior; the uppermost is always kept.

    Gaps between mask-bearing slices do not count.

    Raises
    ------
    MaskError
        If the mask is empty.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.3.1: one of every two mask-containing slices, top to bottom.
    """
    bearing = np.flatnonzero(mask_zyx.any(axis=(1, 2)))[::-1]
    if not bearing.size:
        raise MaskError("the mask is empty on the CT grid: no slice can be prompted.")
    return tuple(int(z) for z in bearing[::stride])


def tight_boxes(mask_zyx: UInt8[np.ndarray, "z y x"], slices: tuple[int, ...]) -> Int32[np.ndarray, "slice 4"]:
    """Smallest box around the mask on each slice: x0, y0, x1, y1, all inclusive, in native pixels."""
    return np.array([_box(mask_zyx[z]) for z in slices], dtype=np.int32)


def _box(mask_yx: UInt8[np.ndarray, "y x"]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask_yx.any(axis=1)), np.flatnonzero(mask_yx.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
