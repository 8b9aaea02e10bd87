"""Pads, jitters and misplaces boxes, and leaves slices out, repeatably; knows no file, study or network.

Boxes are inclusive x0, y0, x1, y1 in native pixels. A millimetre is turned into whole pixels, the nearest ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int
from scipy.special import ndtri

from extractor.prompts import generator
from store_schema.errors import StudyError

Boxes = Int[np.ndarray, "slice 4"]
MOST_SD = 9.0
"""Farther no edge is moved, in standard deviations; it keeps a draw of exactly 0 finite."""


def padded(boxes: Boxes, size_mm: float, spacing_xy_mm: Sequence[float], size_xy: Sequence[int]) -> Boxes:
    """Boxes grown on each side by `size_mm`, within the image; shrunk where it is negative, at most to their middle pixel.

    Raises
    ------
    StudyError
        If the padding is less than half a pixel both ways: nothing would change.
    """
    steps = np.array([_whole(size_mm / mm) for mm in spacing_xy_mm])
    if not steps.any():
        raise StudyError(
            f"padding of {size_mm:g} mm is less than half a pixel of {' x '.join(f'{mm:g}' for mm in spacing_xy_mm)} mm: no box "
            "would change. Give a larger one."
        )
    corners = np.asarray(boxes).reshape(-1, 2, 2)
    low, high = corners[:, 0] - steps, corners[:, 1] + steps
    middle, gone = corners.sum(axis=1) // 2, low > high
    low, high = np.where(gone, middle, low), np.where(gone, middle, high)
    return _within(np.concatenate([low, high], axis=1), size_xy)


def jittered(
    boxes: Boxes,
    slices: Sequence[int],
    size_mm: float,
    spacing_xy_mm: Sequence[float],
    size_xy: Sequence[int],
    *,
    seed: str,
) -> Boxes:
    """Boxes with each edge moved by a normal of standard deviation `size_mm`, within the image and never inverted.

    Edges that cross change their roles.

    Parameters
    ----------
    seed
        With the slice it seeds the draw.
    """
    per_pixel = np.tile(np.asarray(spacing_xy_mm, float), 2)
    draws = [ndtri(generator(f"{seed} {z}").random(4)) for z in slices]
    moves = np.clip(np.array(draws), -MOST_SD, MOST_SD) * size_mm / per_pixel
    moved = (np.asarray(boxes) + np.rint(moves).astype(int)).reshape(-1, 2, 2)
    return _within(np.sort(moved, axis=1).reshape(-1, 4), size_xy)


def left_after_drop(count: int, share: float, *, seed: str) -> list[int]:
    """Ranks of the slices that stay when a share of them is left out at random; at least one does."""
    leave_out = min(count - 1, _whole(share * count))
    order = np.argsort(generator(seed).random(count), kind="stable")
    return sorted(int(rank) for rank in order[leave_out:])


def misplaced(
    box: Sequence[int], unwanted_yx: Bool[np.ndarray, "y x"], *, seed: str
) -> tuple[tuple[int, int, int, int], float]:
    """A box of the same size where least of it is unwanted, drawn among equals, and the share of it that is unwanted, 0–1.

    Parameters
    ----------
    unwanted_yx
        Pixels that the box should not cover.
    seed
        Of the draw.
    """
    x0, y0, x1, y1 = (int(value) for value in box)
    width, height = x1 - x0 + 1, y1 - y0 + 1
    counts = _counts(unwanted_yx, height, width)
    best = np.flatnonzero(counts == counts.min())
    chosen = int(best[int(generator(seed).random() * len(best))])
    row, column = divmod(chosen, counts.shape[1])
    return (column, row, column + width - 1, row + height - 1), float(counts.min()) / (width * height)


def covered_share(box: Sequence[int], unwanted_yx: Bool[np.ndarray, "y x"]) -> float:
    """Share of a box that is unwanted, 0–1."""
    x0, y0, x1, y1 = (int(value) for value in box)
    return float(unwanted_yx[y0 : y1 + 1, x0 : x1 + 1].mean())


def _counts(unwanted_yx: Bool[np.ndarray, "y x"], height: int, width: int) -> Int[np.ndarray, "top left"]:
    """Unwanted pixels under a box, by its first row and column."""
    sums = np.pad(unwanted_yx.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    corners = sums[height:, width:], sums[:-height, width:], sums[height:, :-width], sums[:-height, :-width]
    counts: Int[np.ndarray, "top left"] = corners[0] - corners[1] - corners[2] + corners[3]
    return counts


def _within(boxes: Boxes, size_xy: Sequence[int]) -> Boxes:
    most = np.tile(np.asarray(size_xy), 2) - 1
    return np.asarray(np.clip(boxes, 0, most), dtype=np.int32)


def _whole(value: float) -> int:
    """The nearest whole number; halves away from zero, so that padding and shrinking mirror each other."""
    return int(np.copysign(np.floor(abs(value) + 0.5), value))
