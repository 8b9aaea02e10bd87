"""Checks that a NIfTI file says where its voxels lie, and says it once; reads no voxel.

ITK takes one of two answers where a file gives both.
"""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float

from store_schema.errors import ImageError

SPACING_TOLERANCE_MM = 1e-3
COSINE_TOLERANCE = 1e-3
"""Of two axes that should be perpendicular."""
CORNER_TOLERANCE_MM = 0.1
"""How far apart the two answers of one file may put a corner of the image."""
UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Millimetres of NIfTI's units of length: unknown, metre, millimetre, micrometre."""
MIN_SLOPE = 1e-12
"""Of the voxels' scaling: ITK takes what is near 0 for none."""
QUATERNION_TOLERANCE = 1e-4
"""Of a unit quaternion's squared length in float32, written by whatever wrote it."""

Affine = Float[np.ndarray, "4 4"]


def check_nifti_geometry(header: bytes, order: str, path: Path) -> None:
    """Refuses a NIfTI-1 header whose qform, sform and spacings do not say one thing, or whose scaling is void.

    Parameters
    ----------
    header
        Its first 348 bytes.
    order
        Byte order as `struct` writes it.

    Raises
    ------
    ImageError
        Names what contradicts what.
    """
    slope, intercept = struct.unpack_from(f"{order}2f", header, 112)
    if not np.isfinite([slope, intercept]).all() or (slope == 0 and intercept != 0) or 0 < abs(slope) < MIN_SLOPE:
        raise ImageError(
            f"{path} scales its voxels by slope {slope:g} and intercept {intercept:g}, which readers take in different ways: "
            "write it with its values as they are."
        )
    rank, *sizes = struct.unpack_from(f"{order}8h", header, 40)
    qform_code, sform_code = struct.unpack_from(f"{order}2h", header, 252)
    if rank < 3:
        return
    unit_mm = UNIT_MM.get(header[123] & 7)
    if unit_mm is None:
        raise ImageError(
            f"{path} gives its lengths in unit {header[123] & 7}, which is none of NIfTI: export it in mm."
        )
    if sform_code > 0:
        _check_sform(_sform(header, order), np.array(struct.unpack_from(f"{order}3f", header, 80)), unit_mm, path)
    if qform_code > 0:
        _check_qform(header, order, path)
    if qform_code > 0 and sform_code > 0:
        apart_mm = unit_mm * _corners_apart(_qform(header, order), _sform(header, order), sizes[:3])
        if apart_mm > CORNER_TOLERANCE_MM:
            raise ImageError(
                f"{path} gives two places: its qform and its sform put a corner {apart_mm:.1f} mm apart. Readers choose "
                "differently; write it with one of them."
            )


def _check_qform(header: bytes, order: str, path: Path) -> None:
    """Refuses a quaternion that is none: readers make one of it, or refuse, each in its own way."""
    (qfac,) = struct.unpack_from(f"{order}f", header, 76)
    length = float(np.square(struct.unpack_from(f"{order}3f", header, 256)).sum())
    if length > 1 + QUATERNION_TOLERANCE or qfac not in (-1, 0, 1):
        raise ImageError(
            f"{path} has a qform that is no rotation: b² + c² + d² is {length:g}, at most 1 expected, and qfac {qfac:g}, 1 or -1 "
            "expected. Export it anew."
        )


def _check_sform(sform: Affine, spacing: Float[np.ndarray, " axis"], unit_mm: float, path: Path) -> None:
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if unit_mm * np.abs(lengths - spacing).max() > SPACING_TOLERANCE_MM:
        raise ImageError(
            f"{path} gives two spacings: {spacing.round(4).tolist()} in its header and {lengths.round(4).tolist()} in its sform. "
            "Write it anew from the original."
        )
    axes = sform[:3, :3] / lengths
    cosines = np.abs(axes.T @ axes - np.eye(3))
    if cosines.max() > COSINE_TOLERANCE:
        raise ImageError(
            f"{path} is sheared: two of its axes have a cosine of {cosines.max():.3f} (gantry tilt?). Resample it onto "
            "perpendicular axes first."
        )


def _sform(header: bytes, order: str) -> Affine:
    rows = np.array(struct.unpack_from(f"{order}12f", header, 280)).reshape(3, 4)
    return np.vstack([rows, [0, 0, 0, 1]])


def _qform(header: bytes, order: str) -> Affine:
    """Affine of the quaternion, as the NIfTI-1 standard defines it."""
    qfac, *spacing = struct.unpack_from(f"{order}4f", header, 76)
    b, c, d, *offset = struct.unpack_from(f"{order}6f", header, 256)
    a = np.sqrt(max(0.0, 1 - (b * b + c * c + d * d)))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.array(spacing) * [1, 1, -1 if qfac < 0 else 1]
    affine[:3, 3] = offset
    return affine


def _corners_apart(one: Affine, other: Affine, sizes: list[int]) -> float:
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, size - 1) for size in sizes))])
    return float(np.linalg.norm(corners @ (one - other).T, axis=1).max())
