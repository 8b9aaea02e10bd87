"""Puts the slices of a series in their order in space and refuses what is no upright, gapless stack; knows no voxel.

Only ImagePositionPatient and ImageOrientationPatient count: file names and InstanceNumber order slices as it pleased an exporter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from extractor.dicom.headers import Slice, label, number, numbers, text
from extractor.stored_voxels import MAX_VOXELS
from extractor.volumes import PERPENDICULAR_WITHIN, Grid, check_extent
from store_schema.errors import GeometryError, ImageError

ORIENTATION_WITHIN = 1e-3
"""Greatest difference between direction cosines of slices of one series: 0.06 degrees."""
SPACING_WITHIN_MM = 1e-4
SAME_PLACE_MM = 1e-3
UNEVEN_SHARE, UNEVEN_MM = 0.05, 0.1
"""A slice may lie off its even place by this share of the spacing, and by no more than so many millimetres: headers round
positions."""
GAP = 1.5
"""A step of so many median steps means that a slice is missing."""

Vector = Float64[np.ndarray, "3"]


def arranged(slices: Sequence[Slice], *, shown: str) -> tuple[list[Slice], Grid]:
    """The slices along their normal, lowest first, and the grid of the stack as it was scanned.

    Raises
    ------
    ImageError
        If a header lacks a field of geometry, or has an impossible one.
    GeometryError
        If slices differ in size, spacing or orientation, if two lie in one place, one is missing, steps are uneven, or the stack
        leans (gantry tilt). Says by how much.
    """
    rows, columns = _size(slices, shown)
    spacing_yx_mm = _pixel_spacing(slices, shown)
    axes = _orientation(slices, shown)
    if len(slices) < 2:
        raise GeometryError(f"{shown} holds one slice: its spacing is not known. Expected a volume.")
    positions_mm = np.array([_given(one, "ImagePositionPatient", 3, shown) for one in slices])
    order = np.argsort(positions_mm @ axes[:, 2], kind="stable")
    ordered = [slices[i] for i in order]
    spacing_z_mm = _even_spacing(positions_mm[order], axes[:, 2], ordered, shown)
    _check_count(ordered, shown)
    spacing_xyz_mm = (spacing_yx_mm[1], spacing_yx_mm[0], spacing_z_mm)
    origin = tuple(float(value) for value in positions_mm[order][0])
    direction = tuple(float(value) for value in axes.reshape(-1))
    grid = Grid((columns, rows, len(slices)), origin, spacing_xyz_mm, direction)  # type: ignore[arg-type]
    check_extent(grid, shown)
    return ordered, grid


def _given(one: Slice, keyword: str, count: int, shown: str) -> tuple[float, ...]:
    try:
        found = numbers(one.header, keyword)
    except ImageError as error:
        raise ImageError(f"{one.name} in {shown}: {error}") from None
    if len(found) != count:
        raise ImageError(f"{one.name} in {shown} has {len(found)} values of {label(keyword)}: expected {count}.")
    return found


def _size(slices: Sequence[Slice], shown: str) -> tuple[int, int]:
    sizes = sorted({(int(_given(s, "Rows", 1, shown)[0]), int(_given(s, "Columns", 1, shown)[0])) for s in slices})
    if len(sizes) > 1:
        raise GeometryError(
            f"{shown} has slices of {len(sizes)} sizes (rows, columns): {sizes[:4]}. Expected one size."
        )
    rows, columns = sizes[0]
    if min(rows, columns) < 1 or rows * columns * len(slices) > MAX_VOXELS:
        raise ImageError(
            f"{shown} claims {len(slices)} slices of {rows} x {columns}: expected at most {MAX_VOXELS} voxels, and none of size 0."
        )
    return rows, columns


def _pixel_spacing(slices: Sequence[Slice], shown: str) -> tuple[float, float]:
    found = np.array([_given(one, "PixelSpacing", 2, shown) for one in slices])
    if found.min() <= 0:
        raise ImageError(
            f"{shown} has {label('PixelSpacing')} {found[found.min(axis=1) <= 0][0].tolist()}: expected above 0 mm."
        )
    if np.ptp(found, axis=0).max() > SPACING_WITHIN_MM:
        raise GeometryError(
            f"{shown} has slices of different pixel spacing, from {found.min(axis=0).tolist()} to {found.max(axis=0).tolist()} mm."
        )
    return float(found[0, 0]), float(found[0, 1])


def _orientation(slices: Sequence[Slice], shown: str) -> Float64[np.ndarray, "3 3"]:
    """Axes of the stack in columns: along a row, along a column, normal."""
    found = np.array([_given(one, "ImageOrientationPatient", 6, shown) for one in slices])
    apart = float(np.ptp(found, axis=0).max())
    if apart > ORIENTATION_WITHIN:
        raise GeometryError(
            f"{shown} has slices of different orientation: direction cosines differ by up to {apart:.4f}, at most "
            f"{ORIENTATION_WITHIN} is accepted. A localizer, or several stacks in one series?"
        )
    row, column = found[0, :3], found[0, 3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > PERPENDICULAR_WITHIN or abs(row @ column) > PERPENDICULAR_WITHIN:
        raise GeometryError(
            f"{shown} has {label('ImageOrientationPatient')} {found[0].tolist()}: expected two perpendicular unit vectors."
        )
    row = row / lengths[0]
    column = column - (column @ row) * row
    column /= np.linalg.norm(column)
    return np.stack([row, column, np.cross(row, column)], axis=1)


def _even_spacing(
    positions_mm: Float64[np.ndarray, "z 3"], normal: Vector, slices: Sequence[Slice], shown: str
) -> float:
    """Distance of neighbouring slices in mm; `positions_mm` rise along the normal."""
    along_mm = positions_mm @ normal
    steps_mm = np.diff(along_mm)
    _check_distinct(along_mm, slices, shown)
    _check_gaps(along_mm, shown)
    spacing_mm = float(steps_mm.mean())
    off_mm = np.abs(along_mm - (along_mm[0] + spacing_mm * np.arange(len(along_mm)))).max()
    limit_mm = min(UNEVEN_SHARE * spacing_mm, UNEVEN_MM)
    if off_mm > limit_mm:
        raise GeometryError(
            f"{shown} has uneven slices: steps from {steps_mm.min():.3f} to {steps_mm.max():.3f} mm, the furthest {off_mm:.3f} "
            f"mm off its even place; at most {limit_mm:.3f} mm is accepted. Reconstruct or resample it with even slices."
        )
    _check_upright(positions_mm, normal, limit_mm, shown)
    return spacing_mm


def _check_distinct(along_mm: Float64[np.ndarray, " z"], slices: Sequence[Slice], shown: str) -> None:
    twice = np.flatnonzero(np.diff(along_mm) < SAME_PLACE_MM)
    if not twice.size:
        return
    uids = {text(one.header, "SOPInstanceUID") for one in slices}
    copies = len(slices) - len(uids)
    why = (
        f"{copies} of them are copies of one image" if copies else "several time frames, gates or echoes in one series?"
    )
    raise GeometryError(
        f"{shown} has {len(slices)} slices and {twice.size} of them lie where another lies, first at {along_mm[twice[0]]:.3f} mm "
        f"along the normal ({why}). Expected one slice at each place."
    )


def _check_gaps(along_mm: Float64[np.ndarray, " z"], shown: str) -> None:
    steps_mm = np.diff(along_mm)
    usual_mm = float(np.median(steps_mm))
    gaps = np.flatnonzero(steps_mm > GAP * usual_mm)
    if gaps.size:
        missing = int(np.rint(steps_mm[gaps] / usual_mm - 1).sum())
        raise GeometryError(
            f"{shown} misses about {missing} slice(s) in {gaps.size} gap(s): after {along_mm[gaps[0]]:.3f} mm along the normal "
            f"the next follows {steps_mm[gaps[0]]:.3f} mm further, usual are {usual_mm:.3f} mm. Copy the whole series."
        )


def _check_upright(positions_mm: Float64[np.ndarray, "z 3"], normal: Vector, limit_mm: float, shown: str) -> None:
    """Refuses a stack whose slices are shifted against each other, as under a tilted gantry."""
    from_first = positions_mm - positions_mm[0]
    aside = from_first - np.outer(from_first @ normal, normal)
    drift_mm = float(np.linalg.norm(aside, axis=1).max())
    if drift_mm > limit_mm:
        angle = np.degrees(np.arctan2(np.linalg.norm(aside[-1]), from_first[-1] @ normal))
        raise GeometryError(
            f"{shown} leans: its slices drift {drift_mm:.2f} mm aside of their normal ({angle:.2f} degrees; a tilted gantry?), "
            f"at most {limit_mm:.3f} mm is accepted. Resample it to an upright grid first."
        )


def _check_count(slices: Sequence[Slice], shown: str) -> None:
    """Refuses a series that has fewer slices than its headers promise: what is cut off at an end leaves no gap."""
    promised = [number(slices[0].header, name) for name in ("NumberOfSlices", "NumberOfSeriesRelatedInstances")]
    expected = int(max((count for count in promised if count is not None), default=0))
    if len(slices) < expected:
        raise GeometryError(
            f"{shown} holds {len(slices)} slices where its headers promise {expected}: {expected - len(slices)} are missing. "
            "Copy the whole series."
        )
