"""Which slices of a mask are kept, and the box and points of each; knows no image and no network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int32, UInt8
from scipy import ndimage

from store_schema.errors import MaskError

PromptKind = Literal["box", "mask", "points"]

POINTS = 3
"""Of a slice that is prompted with points."""


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


def tight_boxes(mask_zyx: UInt8[np.ndarray, "z y x"], slices: Sequence[int]) -> Int32[np.ndarray, "slice 4"]:
    """Smallest box around the mask on each slice: x0, y0, x1, y1, all inclusive, in native pixels."""
    return np.array([_box(mask_zyx[z]) for z in slices], dtype=np.int32)


def _box(mask_yx: UInt8[np.ndarray, "y x"]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask_yx.any(axis=1)), np.flatnonzero(mask_yx.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def key_rank(mask_zyx: UInt8[np.ndarray, "z y x"], slices: Sequence[int]) -> int:
    """Rank of the kept slice with the largest mask; of equal ones the most superior."""
    return int(np.argmax([np.count_nonzero(mask_zyx[z]) for z in slices]))


def seeded_points(
    mask_zyx: UInt8[np.ndarray, "z y x"], slices: Sequence[int], *, entry: str
) -> Int32[np.ndarray, "slice point=3 xy=2"]:
    """Three points within the mask on each slice: the deepest one, then two drawn at random; x, y in native pixels.

    The deepest lies farthest from the outline (of equal ones the first in rows), and the image's border counts as outline. A
    mask of fewer than three pixels repeats them.

    Parameters
    ----------
    entry
        Name of the entry that the points are for; with the slice it seeds the draw, so that a repeated run draws the same.
    """
    return np.array([_points(mask_zyx[z] != 0, f"{entry} {z}") for z in slices], dtype=np.int32)


def _points(mask_yx: np.ndarray, seed: str) -> Int32[np.ndarray, "point=3 xy=2"]:
    depth = ndimage.distance_transform_edt(np.pad(mask_yx, 1))[1:-1, 1:-1]
    deepest = int(np.argmax(depth))
    others = np.setdiff1d(np.flatnonzero(mask_yx), [deepest])
    order = others[np.argsort(generator(seed).random(len(others)), kind="stable")]
    chosen = np.resize([deepest, *order[: POINTS - 1]], POINTS)
    rows, columns = np.unravel_index(chosen, mask_yx.shape)
    return np.stack([columns, rows], axis=1).astype(np.int32)


def generator(seed: str) -> np.random.Generator:
    """Random numbers by a text.

    Draw with `random` alone: it is stable over NumPy's versions, as PCG64 is; `choice` need not be.
    """
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16])))
