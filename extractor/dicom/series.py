"""Reads a folder with one DICOM series as a volume in Hounsfield units or SUV; knows no mask and no grid but its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from extractor.dicom.geometry import arranged
from extractor.dicom.headers import Slice, label, number, series_slices, text
from extractor.dicom.pixels import stored_slices
from extractor.dicom.suv import SuvScale, suv_scale
from extractor.intensity import PET_OUTSIDE_SUV
from extractor.volumes import Grid, Volume, turned_to_lps
from store_schema.errors import IntensityError

MAX_PADDING = {"CT": -900.0, "PET": PET_OUTSIDE_SUV}
"""Rescaled value above which padding could be taken for tissue."""


def read_ct_series(folder: str) -> Volume:
    """A CT in Hounsfield units from a folder with one DICOM series, in LPS.

    Slices are put in order by their position in space; slope and intercept are each slice's own.

    Raises
    ------
    ImageError
        If the folder holds anything but one readable series of CT slices.
    GeometryError
        If the slices are no upright and gapless stack.
    IntensityError
        If the values are not Hounsfield units.
    """
    slices, grid = arranged(series_slices(Path(folder), "CT", shown=folder), shown=folder)
    kinds = {text(one.header, "RescaleType") for one in slices} - {None, "HU"}
    if kinds:
        raise IntensityError(
            f"{folder} has {label('RescaleType')} {', '.join(sorted(map(str, kinds)))}: expected HU. Choose the series in "
            "Hounsfield units."
        )
    return turned_to_lps(_values(slices, grid, "CT", 1.0, folder), grid)


def read_pet_series(folder: str, *, declared: str | None = None) -> tuple[Volume, SuvScale]:
    """A PET in SUV by body weight from a folder with one DICOM series, in LPS; and how it was converted.

    Parameters
    ----------
    declared
        Units that the settings declare; see `suv_scale`.

    Raises
    ------
    ImageError, GeometryError
        As for `read_ct_series`.
    IntensityError
        If the header does not lead to SUV by body weight; names every field that is missing.
    """
    slices, grid = arranged(series_slices(Path(folder), "PET", shown=folder), shown=folder)
    scale = suv_scale(slices, declared=declared, shown=folder)
    return turned_to_lps(_values(slices, grid, "PET", scale.factor, folder), grid), scale


def read_plain_pet_series(folder: str) -> Volume:
    """A PET in whatever units its slices are rescaled to; see `read_pet_series`."""
    slices, grid = arranged(series_slices(Path(folder), "PET", shown=folder), shown=folder)
    return turned_to_lps(_values(slices, grid, "PET", 1.0, folder), grid)


def _values(slices: Sequence[Slice], grid: Grid, role: str, factor: float, shown: str) -> Float32[np.ndarray, "z y x"]:
    """Stored values x slope + intercept, x factor; worked out in float64."""
    columns, rows, count = grid.size_xyz
    scales = [_slope_and_intercept(one, shown) for one in slices]
    values = np.empty((count, rows, columns), np.float32)
    for z, stored in enumerate(stored_slices(slices, shown=shown)):
        slope, intercept = scales[z]
        _check_padding(
            slices[z],
            stored,
            slope=slope * factor,
            intercept=intercept * factor,
            limit=MAX_PADDING[role],
            shown=shown,
        )
        values[z] = (stored * slope + intercept) * factor
    return values


def _slope_and_intercept(one: Slice, shown: str) -> tuple[float, float]:
    found = {name: number(one.header, name) for name in ("RescaleSlope", "RescaleIntercept")}
    missing = [label(name) for name, value in found.items() if value is None]
    slope, intercept = found["RescaleSlope"], found["RescaleIntercept"]
    if slope is None or intercept is None or slope <= 0:
        why = (
            f"lacks {' and '.join(missing)}" if missing else f"has {label('RescaleSlope')} {slope:g}, expected above 0"
        )
        raise IntensityError(f"{one.name} in {shown} {why}: what its numbers mean is not known.")
    return slope, intercept


def _check_padding(one: Slice, stored: np.ndarray, *, slope: float, intercept: float, limit: float, shown: str) -> None:
    """Refuses padding around the field of view that would be taken for tissue, or tissue that the header calls padding."""
    padding = _padding(one, stored.dtype)
    if padding is None or padding * slope + intercept <= limit:
        return
    count = int((stored == padding).sum())
    if count:
        raise IntensityError(
            f"{one.name} in {shown} has {count} pixels of its {label('PixelPaddingValue')}, which mean "
            f"{padding * slope + intercept:g}: they cannot be told from tissue (expected at most {limit:g}). Export it without "
            "padding, or with padding of air."
        )


def _padding(one: Slice, kind: np.dtype[np.generic]) -> int | None:
    """The padding value as a stored one; headers often give it with the other sign."""
    value = number(one.header, "PixelPaddingValue")
    if value is None:
        return None
    bits = kind.itemsize * 8
    whole: int = int(value) & (2**bits - 1)
    return whole - 2**bits if kind.kind == "i" and whole >= 2 ** (bits - 1) else whole
