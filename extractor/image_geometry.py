"""Checks that an image file says where its voxels lie, and says it once; reads no voxel.

ITK takes one of two answers where a NIfTI file gives both, and assumes 1 mm, origin 0 and LPS where NRRD or MetaImage give none.
"""

from __future__ import annotations

import itertools
import math
import re
import struct
from collections.abc import Mapping
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
ANATOMICAL_SPACES = frozenset(
    (
        *("lps", "left-posterior-superior"),
        *("ras", "right-anterior-superior"),
        *("las", "left-anterior-superior"),
    )
)
NRRD_HEADER_BYTES = 2**16
NRRD_NEEDED = ("space", "space directions", "space origin")
METAIMAGE_AXES = ("TransformMatrix", "Rotation", "Orientation")

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
    if not np.isfinite([slope, intercept]).all() or (slope == 0 and intercept != 0):
        raise ImageError(
            f"{path} scales its voxels by slope {slope:g} and intercept {intercept:g}, which readers take in different ways: "
            "write it with its values as they are."
        )
    rank, *sizes = struct.unpack_from(f"{order}8h", header, 40)
    qform_code, sform_code = struct.unpack_from(f"{order}2h", header, 252)
    if rank < 3:
        return
    unit_mm = UNIT_MM.get(header[123] & 7, 1.0)
    if sform_code > 0:
        _check_sform(_sform(header, order), np.array(struct.unpack_from(f"{order}3f", header, 80)), unit_mm, path)
    if qform_code > 0 and sform_code > 0:
        apart_mm = unit_mm * _corners_apart(_qform(header, order), _sform(header, order), sizes[:3])
        if apart_mm > CORNER_TOLERANCE_MM:
            raise ImageError(
                f"{path} gives two places: its qform and its sform put a corner {apart_mm:.1f} mm apart. Readers choose "
                "differently; write it with one of them."
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


def check_metaimage_geometry(fields: Mapping[str, str], path: Path) -> None:
    """Refuses a MetaImage header without spacing or axes.

    Raises
    ------
    ImageError
        Names what is missing.
    """
    missing = [] if "ElementSpacing" in fields else ["ElementSpacing"]
    if not any(name in fields for name in METAIMAGE_AXES):
        missing.append("TransformMatrix")
    if missing:
        raise ImageError(
            f"{path} does not say where its voxels lie: its header has no {' and no '.join(missing)}. Export it with its geometry."
        )


def check_nrrd_geometry(path: Path) -> None:
    """Refuses a NRRD header without an anatomical space, directions and origin.

    Raises
    ------
    ImageError
        Names what is missing, or the space that is none of a patient.
    """
    fields = nrrd_fields(path)
    missing = [name for name in NRRD_NEEDED if name not in fields]
    if missing:
        raise ImageError(
            f"{path} does not say where its voxels lie: its header has no '{', '.join(missing)}'. Export it with its geometry."
        )
    if fields["space"].lower() not in ANATOMICAL_SPACES:
        raise ImageError(
            f"{path} lies in space '{fields['space']}', which says nothing of the patient: expected one of "
            f"{', '.join(sorted(ANATOMICAL_SPACES))}."
        )
    placing = [word for name in NRRD_NEEDED[1:] for word in re.split(r"[\s(),]+", fields[name]) if word]
    odd = [word for word in placing if word != "none" and not _is_finite(word)]
    if odd:
        raise ImageError(
            f"{path} does not say where its voxels lie: '{odd[0][:20]}' in its header is no finite number."
        )


def nrrd_fields(path: Path) -> dict[str, str]:
    """Fields of a NRRD header by their names in small letters."""
    with path.open("rb") as file:
        start = file.read(NRRD_HEADER_BYTES).replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    parts = (line.partition(":") for line in start.decode("latin-1").splitlines())
    return {name.strip().lower(): value.strip() for name, colon, value in parts if colon and not value.startswith("=")}


def _is_finite(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False
