"""Reads a study's CT in Hounsfield units and its PET in SUV, from a file or from a folder with one DICOM series; knows no mask."""

from __future__ import annotations

from pathlib import Path

from extractor.dicom.series import read_ct_series, read_pet_series, read_plain_pet_series
from extractor.dicom.suv import SuvScale
from extractor.image_files import IMAGE_SUFFIXES
from extractor.intensity import check_ct_hu, check_pet_suv
from extractor.volumes import Volume, read_volume
from store_schema.errors import IntensityError
from store_schema.files import Place, name_of


def is_series(place: Place) -> bool:
    """Whether a place of a CT or PET means a folder with a DICOM series: its name ends as no image file's does."""
    return not name_of(place).lower().endswith(IMAGE_SUFFIXES)


def _is_folder(path: str) -> bool:
    """Whether a path is a folder; whoever reads it as a file says why it cannot be asked for."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def read_ct(path: str) -> Volume:
    """A CT in Hounsfield units and LPS, from an image file or a folder with one DICOM series.

    Raises
    ------
    ImageError, GeometryError
        If it cannot be read; see `read_volume` and `read_ct_series`.
    IntensityError
        If its values are not Hounsfield units.
    """
    ct = read_ct_series(path) if _is_folder(path) else read_volume(path)
    check_ct_hu(ct.array_zyx, path=path)
    return ct


def read_pet(path: str, *, declared: str | None) -> Volume:
    """A PET in SUV by body weight and LPS; see `read_pet_and_scale`."""
    return read_pet_and_scale(path, declared=declared)[0]


def read_pet_and_scale(path: str, *, declared: str | None) -> tuple[Volume, SuvScale | None]:
    """A PET in SUV by body weight and LPS, from an image file or a DICOM series' folder, and how it was converted.

    Parameters
    ----------
    declared
        Units that the settings declare for formats that cannot say them: `suv` or None. A DICOM PET is converted by its header,
        unless this is `relative`: then no PET has units, and the values are as stored.

    Returns
    -------
    The image, and of a series the conversion; None where the units were declared.

    Raises
    ------
    ImageError, GeometryError
        If it cannot be read; see `read_volume` and `read_pet_series`.
    IntensityError
        If its units are not known, do not lead to SUV, or contradict its values.
    """
    if declared == "relative":
        return read_plain_pet_series(path) if _is_folder(path) else read_volume(path), None
    if _is_folder(path):
        pet, scale = read_pet_series(path, declared=declared)
    elif declared == "suv":
        pet, scale = read_volume(path), None
    else:
        raise IntensityError(
            f"the units of {path} are not known: its format cannot say them. Declare 'pet_units: suv' if it holds SUV by body "
            "weight; convert it first if it holds Bq/ml or counts, or declare 'pet_units: relative'."
        )
    check_pet_suv(pet.array_zyx, path=path)
    return pet, scale
