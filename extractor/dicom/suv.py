"""What the numbers of a PET series are worth in SUV by body weight, from its headers alone; reads no voxel.

Everything that the conversion rests on must be there, plausible, and the same in every slice: a missing dose or a time that was
removed would give a number that looks right.

References
----------
QIBA FDG-PET/CT profile, vendor-neutral pseudo-code for SUV (qibawiki.rsna.org, "Standardized Uptake Value");
DICOM PS3.3 C.8.9.1 (PET series) and C.8.9.2 (PET isotope).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from extractor.dicom.decay import Frame, check_decay_factors, reference_by_frames
from extractor.dicom.facts import ISOTOPE, PetFacts, acquired, agreed, pet_facts
from extractor.dicom.headers import Slice, label
from extractor.dicom.moments import clock, whole_moment
from store_schema.errors import ImageError, IntensityError

HALF_LIVES_S = {
    "Rb-82": 75.45,
    "O-15": 122.24,
    "N-13": 597.9,
    "C-11": 1221.8,
    "Ga-68": 4069.0,
    "F-18": 6586.2,
    "Sc-44": 14_292.0,
    "Cu-64": 45_723.0,
    "Zr-89": 282_276.0,
    "I-124": 360_806.0,
}
"""Of the nuclides that PET uses; a half-life in minutes is none of them."""
HALF_LIFE_WITHIN = 0.02
F18_CODES = {"C-111A1", "77004003"}
DOSE_BQ = (1e6, 1e10)
"""An injected dose in MBq, kBq or mCi lies below."""
WEIGHT_KG = (0.5, 500.0)
MAX_DOSE_PER_KG_BQ = 1e8
"""Above, dose or weight is a placeholder or in another unit; FDG is given at 2–7 MBq/kg, rubidium at 30."""
MIN_UPTAKE_S = 120.0
"""A scan that begins sooner after the injection is no late static one: its times were removed or set alike."""
MAX_HALF_LIVES = 5.0
"""Later than that after the injection, one of the two times is wrong."""
MAX_EARLY_S = 900.0
"""How long before its first acquisition a series may begin: 15 minutes are 9% of fluorine's decay."""
CLOCKS_WITHIN_S = 60.0
"""Two fields for one moment may differ by so much."""


@dataclass(frozen=True)
class SuvScale:
    """How rescaled values of a PET series become SUV by body weight."""

    factor: float
    """SUV of a rescaled value of 1."""
    units: str
    """Units of the series: BQML, CNTS or GML."""
    reference: str
    """What the decay was counted to."""
    elapsed_s: float | None
    """Seconds of decay between injection and reference; None where none was to be counted."""
    injected_at: str | None = None
    """Time of day of the injection, HH:MM:SS without a date; None where it was not needed."""
    counted_to_at: str | None = None
    """Time of day of the reference."""
    dose_bq: float | None = None
    """As the header says it, like what follows; used where units are BQML or Philips' counts of activity."""
    weight_kg: float | None = None
    half_life_s: float | None = None
    decay_correction: str | None = None
    corrected: str | None = None
    """What the image is corrected for: DICOM's CorrectedImage."""


def suv_scale(slices: Sequence[Slice], *, declared: str | None, shown: str) -> SuvScale:
    """How the series becomes SUV by body weight.

    Parameters
    ----------
    declared
        `suv` where the settings say that images hold SUV by body weight: counts where a header says SUV without its kind.

    Raises
    ------
    IntensityError
        If fields are missing (all are named), implausible, contradictory, or differ between slices, or if the values cannot be
        converted: not corrected for attenuation and decay, or of units that do not lead to SUV by body weight.
    """
    try:
        facts = agreed([pet_facts(one.header) for one in slices], shown)
        frames = [Frame.of(one.header, acquired(one.header)) for one in slices]
        return replace(
            _scale(facts, frames, declared, shown),
            dose_bq=facts.dose_bq,
            weight_kg=facts.weight_kg,
            half_life_s=facts.half_life_s,
            decay_correction=facts.decay_correction,
            corrected=facts.corrected,
        )
    except ImageError as error:
        raise IntensityError(f"{shown} cannot be converted to SUV: {error}") from None


def _scale(facts: PetFacts, frames: Sequence[Frame], declared: str | None, shown: str) -> SuvScale:
    missing = [
        label(name) for name, value in (("Units", facts.units), ("CorrectedImage", facts.corrected)) if value is None
    ]
    if facts.units == "BQML" or (facts.units == "CNTS" and facts.philips_suv is None and facts.philips_bq is not None):
        missing += _missing_for_activity(facts, frames)
    if missing:
        raise IntensityError(
            f"{shown} cannot be converted to SUV by body weight: its header lacks {'; '.join(missing)}. Export it with these "
            "fields, or convert it with dose, weight and decay first."
        )
    _check_corrected(facts, shown)
    if facts.units == "GML":
        return _of_gml(facts, declared, shown)
    if facts.units == "CNTS":
        return _of_counts(facts, frames, shown)
    if facts.units == "BQML":
        return _of_activity(facts, frames, 1.0, shown)
    raise IntensityError(
        f"{shown} has {label('Units')} {facts.units}, from which no SUV by body weight follows: expected BQML, GML or Philips' "
        "CNTS."
    )


def _check_corrected(facts: PetFacts, shown: str) -> None:
    """Refuses values that were not corrected for attenuation and decay, whatever their units."""
    lacking = {"ATTN", "DECY"} - set(str(facts.corrected).split("\\"))
    if lacking:
        raise IntensityError(
            f"{shown} was not corrected for {' and '.join(sorted(lacking))}: {label('CorrectedImage')} says {facts.corrected}. "
            "Expected the series corrected for attenuation (ATTN) and decay (DECY)."
        )
    if facts.decay_correction not in {None, "START", "ADMIN"}:
        raise IntensityError(
            f"{shown} has {label('DecayCorrection')} {facts.decay_correction}: expected START or ADMIN. Each slice of an image "
            "without decay correction refers to another time."
        )


def _of_gml(facts: PetFacts, declared: str | None, shown: str) -> SuvScale:
    if facts.suv_type == "BW" or (facts.suv_type is None and declared == "suv"):
        return SuvScale(1.0, "GML", "converted by the scanner", None)
    if facts.suv_type is None:
        raise IntensityError(
            f"{shown} is in g/ml and does not say by which measure of the body: {label('SUVType')} is missing. Declare "
            "'pet_units: suv' in the settings if it is SUV by body weight."
        )
    raise IntensityError(
        f"{shown} holds SUV by {facts.suv_type} ({label('SUVType')}): expected SUV by body weight, BW."
    )


def _of_counts(facts: PetFacts, frames: Sequence[Frame], shown: str) -> SuvScale:
    """Counts of a Philips scanner, which writes what they are worth into private fields."""
    for factor in (facts.philips_suv, facts.philips_bq):
        if factor is not None and not 0 < factor < float("inf"):
            raise IntensityError(f"{shown} has a private factor of Philips of {factor:g}: expected more than 0.")
    if facts.philips_suv is not None:
        return SuvScale(facts.philips_suv, "CNTS", "converted by the scanner (7053,1000)", None)
    if facts.philips_bq is not None:
        return _of_activity(facts, frames, facts.philips_bq, shown)
    raise IntensityError(
        f"{shown} has {label('Units')} CNTS and neither of Philips' private factors (7053,1000) and (7053,1009): counts alone "
        "give no SUV. Export it with its private fields, or in Bq/ml."
    )


def _of_activity(facts: PetFacts, frames: Sequence[Frame], bq_ml: float, shown: str) -> SuvScale:
    """SUV = activity concentration x weight / dose that is left at the time to which the image was corrected."""
    units = str(facts.units)
    assert facts.dose_bq is not None
    assert facts.weight_kg is not None
    assert facts.half_life_s is not None
    _check_plausible(facts.dose_bq, facts.weight_kg, facts.half_life_s, facts.nuclide, shown)
    grams_per_bq = bq_ml * 1000.0 * facts.weight_kg / facts.dose_bq
    if facts.decay_correction == "ADMIN":
        _check_admin(facts, frames, shown)
        return SuvScale(grams_per_bq, units, "injection (ADMIN)", None)
    reference, what = _reference(facts, frames, shown)
    check_decay_factors(frames, reference, facts.half_life_s, what=what, shown=shown)
    injected = _injected(facts, reference, shown)
    elapsed_s = (reference - injected).total_seconds()
    if not MIN_UPTAKE_S <= elapsed_s <= MAX_HALF_LIVES * facts.half_life_s:
        raise IntensityError(
            f"{shown} was injected {elapsed_s / 60:.1f} minutes before its scan by its header ({what}): expected "
            f"{MIN_UPTAKE_S / 60:.0f} to {MAX_HALF_LIVES * facts.half_life_s / 60:.0f}. Were times or dates removed or changed?"
        )
    factor = grams_per_bq * 2.0 ** (elapsed_s / facts.half_life_s)
    return SuvScale(factor, units, what, elapsed_s, f"{injected:%H:%M:%S}", f"{reference:%H:%M:%S}")


def _check_admin(facts: PetFacts, frames: Sequence[Frame], shown: str) -> None:
    """Refuses decay factors that do not reach back to the injection, where the header tells its time."""
    acquired = [frame.acquired for frame in frames if frame.acquired is not None]
    assert facts.half_life_s is not None
    if acquired and (facts.start_time or facts.start_datetime):
        injected = _injected(facts, min(acquired), shown)
        check_decay_factors(frames, injected, facts.half_life_s, what="injection (ADMIN)", shown=shown)


def _missing_for_activity(facts: PetFacts, frames: Sequence[Frame]) -> list[str]:
    """Every field that the conversion of an activity needs and the header lacks."""
    needed: dict[str, object] = {
        label("DecayCorrection"): facts.decay_correction,
        label("PatientWeight"): facts.weight_kg or None,
        f"{label(ISOTOPE)} / {label('RadionuclideTotalDose')}": facts.dose_bq or None,
    }
    isotope = f"{label(ISOTOPE)} / "
    needed[f"{isotope}{label('RadionuclideHalfLife')}"] = facts.half_life_s or None
    if facts.decay_correction != "ADMIN":
        start = f"{label('RadiopharmaceuticalStartTime')} or {label('RadiopharmaceuticalStartDateTime')}"
        needed[f"{isotope}{start}"] = facts.start_datetime or facts.start_time
        needed[f"{label('SeriesDate')} with {label('SeriesTime')}"] = facts.series
        all_acquired = None if any(frame.acquired is None for frame in frames) else True
        needed[f"{label('AcquisitionDate')} with {label('AcquisitionTime')}"] = all_acquired
    return [name for name, value in needed.items() if value is None]


def _check_plausible(dose_bq: float, weight_kg: float, half_life_s: float, nuclide: str | None, shown: str) -> None:
    low, high = DOSE_BQ
    if not low <= dose_bq <= high:
        hint = "Is it in MBq, kBq or mCi?" if dose_bq < low else "Was it multiplied twice?"
        raise IntensityError(f"{shown} says a dose of {dose_bq:g} Bq: expected {low:g} to {high:g}. {hint}")
    if not WEIGHT_KG[0] <= weight_kg <= WEIGHT_KG[1]:
        raise IntensityError(
            f"{shown} says a weight of {weight_kg:g} kg: expected {WEIGHT_KG[0]:g} to {WEIGHT_KG[1]:g}. Is it in grams?"
        )
    if dose_bq / weight_kg > MAX_DOSE_PER_KG_BQ:
        raise IntensityError(
            f"{shown} says {dose_bq / weight_kg / 1e6:.0f} MBq per kg of body weight: expected at most "
            f"{MAX_DOSE_PER_KG_BQ / 1e6:.0f}. Dose or weight is a placeholder, or in another unit."
        )
    known = {"F-18": HALF_LIVES_S["F-18"]} if nuclide in F18_CODES else HALF_LIVES_S
    if not any(abs(half_life_s / usual - 1) <= HALF_LIFE_WITHIN for usual in known.values()):
        expected = ", ".join(f"{name} {seconds:g}" for name, seconds in known.items())
        raise IntensityError(
            f"{shown} says a half-life of {half_life_s:g} s: expected that of a nuclide of PET in seconds ({expected}). Is it in "
            "minutes?"
        )


def _reference(facts: PetFacts, frames: Sequence[Frame], shown: str) -> tuple[datetime, str]:
    """The moment to which a scanner corrected the decay, and what told it.

    A series that was written after its acquisition (GE's and Siemens' reformatted ones) has a time that says nothing of the scan.
    """
    assert facts.series is not None
    assert facts.half_life_s is not None
    first = min(frame.acquired for frame in frames if frame.acquired is not None)
    if facts.series <= first:
        early_s = (first - facts.series).total_seconds()
        if early_s > MAX_EARLY_S:
            raise IntensityError(
                f"{shown} begins {early_s / 60:.1f} minutes before its first acquisition by its header: expected at most "
                f"{MAX_EARLY_S / 60:.0f}; to which of the two the decay was corrected is not known."
            )
        return facts.series, "SeriesTime"
    if facts.ge_scan is None:
        by_frames = reference_by_frames(frames, facts.half_life_s)
        if by_frames is not None and abs((first - by_frames).total_seconds()) <= MAX_EARLY_S:
            return by_frames, "AcquisitionTime less FrameReferenceTime"
        return first, "earliest AcquisitionTime"
    scan, _ = whole_moment(facts.ge_scan, "GE's private scan time (0009,100D)", zone=facts.zone)
    early_s = (first - scan).total_seconds()
    if not -CLOCKS_WITHIN_S <= early_s <= MAX_EARLY_S:
        raise IntensityError(
            f"{shown} has a private scan time of GE (0009,100D) {early_s / 60:.1f} minutes before its first acquisition: "
            f"expected 0 to {MAX_EARLY_S / 60:.0f}."
        )
    return scan, "GE private scan time (0009,100D)"


def _check_one_day(facts: PetFacts, injected: datetime, reference: datetime, shown: str) -> None:
    """Refuses a time of injection without a date where the nuclide lives long enough for a scan some days later."""
    assert facts.half_life_s is not None
    a_day_more_s = (reference - injected).total_seconds() + 86_400
    if a_day_more_s <= MAX_HALF_LIVES * facts.half_life_s:
        raise IntensityError(
            f"{shown} gives a time of injection without a date, and with a half-life of {facts.half_life_s:g} s the scan may be "
            f"some days later. Export it with {label('RadiopharmaceuticalStartDateTime')}."
        )


def _injected(facts: PetFacts, reference: datetime, shown: str) -> datetime:
    """The moment of injection; a time without a date is the last such time before the scan."""
    by_time = None
    if facts.start_time is not None:
        midnight = datetime(reference.year, reference.month, reference.day)
        by_time = midnight + clock(facts.start_time, label("RadiopharmaceuticalStartTime"))
        by_time -= timedelta(days=1) if by_time > reference else timedelta()
    if facts.start_datetime is None:
        assert by_time is not None
        _check_one_day(facts, by_time, reference, shown)
        return by_time
    what = label("RadiopharmaceuticalStartDateTime")
    whole, settled = whole_moment(facts.start_datetime, what, zone=facts.zone)
    if by_time is None and not settled:
        raise IntensityError(
            f"{shown} gives {what} with an offset from UTC and its own times without ({label('TimezoneOffsetFromUTC')}): how "
            "long the dose decayed is not known."
        )
    if by_time is not None:
        apart_s = (whole - by_time).total_seconds() % 86_400
        if min(apart_s, 86_400 - apart_s) > CLOCKS_WITHIN_S:
            raise IntensityError(
                f"{shown} gives two times of injection that differ by {min(apart_s, 86_400 - apart_s) / 60:.0f} minutes: {what} "
                f"and {label('RadiopharmaceuticalStartTime')}."
            )
    return whole
