"""Spreads scores of patches over their voxels, and projects such maps; knows no model and no patient."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

Box = tuple[int, int, int, int, int, int]
"""Voxels of a patch: first and one past the last of z, y and x."""


def voxel_map(
    boxes_zyx: Sequence[Box], scores: Float[np.ndarray, " patch"], shape_zyx: tuple[int, int, int]
) -> Float32[np.ndarray, "z y x"]:
    """Mean score of the patches over each voxel; NaN where there is none.

    Parameters
    ----------
    boxes_zyx
        Where each patch lies, inside the shape.
    scores
        One a patch.
    shape_zyx
        Of the image.

    References
    ----------
    Guinea-Pérez et al. 2026, Appendix A, "build an importance map".
    """
    found = np.full(shape_zyx, np.nan, dtype=np.float32)
    if not boxes_zyx:
        return found
    # sums are held of the patches' surroundings alone: a whole body has a hundred million voxels
    ends = np.asarray(boxes_zyx)
    first, past = ends[:, ::2].min(axis=0), ends[:, 1::2].max(axis=0)
    total, count = np.zeros(past - first), np.zeros(past - first, dtype=np.uint16)
    for box, score in zip(boxes_zyx, scores, strict=True):
        inside = tuple(slice(box[2 * axis] - first[axis], box[2 * axis + 1] - first[axis]) for axis in range(3))
        total[inside] += score
        count[inside] += 1
    around = tuple(slice(start, stop) for start, stop in zip(first, past, strict=True))
    found[around] = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return found


def strongest_along(map_zyx: Float[np.ndarray, "z y x"], axis: int) -> Float[np.ndarray, "row column"]:
    """Projection of a map: along each line the value of the greatest magnitude, with its sign; NaN where a line has none."""
    magnitude = np.where(np.isnan(map_zyx), -1.0, np.abs(map_zyx))
    place = np.expand_dims(magnitude.argmax(axis=axis), axis)
    return np.take_along_axis(map_zyx, place, axis=axis).squeeze(axis)


def largest_slice(mask_zyx: np.ndarray, axis: int) -> int:
    """The slice across an axis in which the region is largest; the first of equals."""
    others = tuple(other for other in range(3) if other != axis)
    return int(np.count_nonzero(mask_zyx, axis=others).argmax())
