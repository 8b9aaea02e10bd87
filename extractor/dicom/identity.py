"""Whether two DICOM series say that they belong together; reads no voxel, and gives no name and no UID away."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from extractor.dicom.headers import series_slices, text


@dataclass(frozen=True)
class Together:
    """What the headers of a CT and a PET have in common; None where one of them does not say."""

    one_patient: bool | None
    one_frame: bool | None
    """Whether both lie in one frame of reference: one scanner session, no registration needed."""


def together(ct_folder: str, pet_folder: str) -> Together:
    """Whether the CT and the PET in two folders are of one patient and one frame of reference.

    Raises
    ------
    ImageError
        If a folder does not hold one series of its kind.
    """
    ct = series_slices(Path(ct_folder), "CT", shown=ct_folder)[0].header
    pet = series_slices(Path(pet_folder), "PET", shown=pet_folder)[0].header
    return Together(_same(ct, pet, "PatientID"), _same(ct, pet, "FrameOfReferenceUID"))


def _same(ct: Dataset, pet: Dataset, keyword: str) -> bool | None:
    found = text(ct, keyword), text(pet, keyword)
    return None if None in found else found[0] == found[1]
