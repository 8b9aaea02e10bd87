"""What the headers of a PET series say of units, injection and times; converts nothing and reads no voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime

from pydicom.dataset import Dataset

from extractor.dicom.headers import DAMAGE, items, label, number, quiet, text
from extractor.dicom.moments import moment, whole_moment
from store_schema.errors import ImageError, IntensityError

ISOTOPE = "RadiopharmaceuticalInformationSequence"
PHILIPS, PHILIPS_SUV, PHILIPS_BQ = (0x7053, "Philips PET Private Group"), 0x00, 0x09
GE, GE_SCAN = (0x0009, "GEMS_PETD_01"), 0x0D


@dataclass(frozen=True)
class PetFacts:
    """What one header says; all slices must agree."""

    units: str | None
    suv_type: str | None
    decay_correction: str | None
    corrected: str | None
    weight_kg: float | None
    dose_bq: float | None
    half_life_s: float | None
    start_time: str | None
    start_datetime: str | None
    series: datetime | None
    ge_scan: str | None
    philips_suv: float | None
    philips_bq: float | None
    zone: str | None
    nuclide: str | None


def pet_facts(header: Dataset) -> PetFacts:
    """What the header of one slice says."""
    isotope = _isotope(header)
    return PetFacts(
        units=text(header, "Units"),
        suv_type=text(header, "SUVType"),
        decay_correction=text(header, "DecayCorrection"),
        corrected=text(header, "CorrectedImage"),
        weight_kg=number(header, "PatientWeight"),
        dose_bq=number(isotope, "RadionuclideTotalDose"),
        half_life_s=number(isotope, "RadionuclideHalfLife"),
        start_time=text(isotope, "RadiopharmaceuticalStartTime"),
        start_datetime=text(isotope, "RadiopharmaceuticalStartDateTime"),
        series=moment(header, "SeriesDate", "SeriesTime"),
        ge_scan=_private(header, GE, GE_SCAN),
        philips_suv=_private_number(header, PHILIPS_SUV),
        philips_bq=_private_number(header, PHILIPS_BQ),
        zone=text(header, "TimezoneOffsetFromUTC"),
        nuclide=_nuclide(isotope),
    )


def _isotope(header: Dataset) -> Dataset:
    """The one item of the isotope sequence; an empty one where there is none."""
    found = items(header, ISOTOPE)
    if len(found) > 1:
        raise ImageError(f"{label(ISOTOPE)} has {len(found)} items: which injection the image shows is not known.")
    return found[0] if found else Dataset()


def _nuclide(isotope: Dataset) -> str | None:
    codes = items(isotope, "RadionuclideCodeSequence")
    return text(codes[0], "CodeValue") if codes else None


def _private(header: Dataset, group: tuple[int, str], element: int) -> str | None:
    try:
        with quiet():
            value = header.private_block(*group)[element].value
    except DAMAGE:
        # pydicom says with a KeyError that a block or element is absent
        return None
    written = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return written.strip("\0 ") or None


def _private_number(header: Dataset, element: int) -> float | None:
    """A factor of Philips; 0 there stands for none."""
    written = _private(header, PHILIPS, element)
    try:
        return (float(written) or None) if written else None
    except ValueError:
        raise ImageError(f"Philips' private factor (7053,10{element:02X}) is not a number.") from None


def agreed(found: Sequence[PetFacts], shown: str) -> PetFacts:
    """What all slices say.

    Raises
    ------
    IntensityError
        If they differ; names the fields.
    """
    differing = [field.name for field in fields(PetFacts) if len({getattr(one, field.name) for one in found}) > 1]
    if differing:
        raise IntensityError(
            f"{shown} cannot be converted to SUV: {', '.join(differing)} differ(s) between its slices. Export the series again."
        )
    return found[0]


def acquired(header: Dataset) -> datetime | None:
    """When the acquisition of a slice began; None where the header does not say."""
    found = moment(header, "AcquisitionDate", "AcquisitionTime")
    written = text(header, "AcquisitionDateTime")
    if found is None and written:
        found, _ = whole_moment(written, label("AcquisitionDateTime"), zone=text(header, "TimezoneOffsetFromUTC"))
    return found
