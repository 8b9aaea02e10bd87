"""What each slice of a PET says of the moment to which its decay was corrected; knows no dose and no unit.

References
----------
DICOM PS3.3 C.8.9.4 (Frame Reference Time, Decay Factor); QIBA's vendor-neutral pseudo-code for SUV, where the series time was
rewritten.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from extractor.dicom.headers import label, number
from store_schema.errors import IntensityError

FRAMES_WITHIN_S = 60.0
"""How far apart slices may put the one moment to which all were corrected."""
FACTOR_WITHIN_S = 300.0
"""How far a slice's decay factor may put it from what the times of the header say: 3% of fluorine's decay."""


@dataclass(frozen=True)
class Frame:
    """When one slice was acquired, and how its decay was corrected."""

    acquired: datetime | None
    factor: float | None
    """What its values were multiplied by; None where the header does not say, or says 1, which scanners write for unknown."""
    offset_s: float | None
    """From the moment of reference to the frame's average activity; None where the header does not say, or says 0."""
    duration_s: float
    """0 where the header does not say."""

    @classmethod
    def of(cls, header: Dataset, acquired: datetime | None) -> Frame:
        """Of one header.

        Raises
        ------
        ImageError
            If a field is no number.
        """
        factor, offset_ms = number(header, "DecayFactor"), number(header, "FrameReferenceTime")
        duration_ms = number(header, "ActualFrameDuration") or 0.0
        known = factor is not None and factor > 0 and factor != 1
        return cls(acquired, factor if known else None, offset_ms / 1000 if offset_ms else None, duration_ms / 1000)


def reference_by_frames(frames: Sequence[Frame], half_life_s: float) -> datetime | None:
    """The moment from which all slices count; None where a slice does not say, or they say several.

    A series that lost its first bed still says it, while its earliest acquisition does not.
    """
    found = [
        frame.acquired + timedelta(seconds=_average_s(frame.duration_s, half_life_s) - frame.offset_s)
        for frame in frames
        if frame.acquired is not None and frame.offset_s is not None and frame.duration_s > 0
    ]
    if len(found) < len(frames) or (max(found) - min(found)).total_seconds() > FRAMES_WITHIN_S:
        return None
    return min(found)


def check_decay_factors(
    frames: Sequence[Frame], reference: datetime, half_life_s: float, *, what: str, shown: str
) -> None:
    """Refuses a reference to which the slices were not corrected by their own factors.

    Parameters
    ----------
    what
        What told the reference.

    Raises
    ------
    IntensityError
        Says how many minutes the two are apart.
    """
    apart_s = [_apart_s(frame, reference, half_life_s) for frame in frames]
    worst_s = max((one for one in apart_s if one is not None), key=abs, default=0.0)
    if abs(worst_s) > FACTOR_WITHIN_S:
        raise IntensityError(
            f"{shown} says two things of its decay correction: by {label('DecayFactor')} a slice was corrected to a moment "
            f"{abs(worst_s) / 60:.1f} minutes {'before' if worst_s < 0 else 'after'} the one that its header gives ({what}): "
            f"expected at most {FACTOR_WITHIN_S / 60:.0f}. Were times changed, or is {label('DecayCorrection')} wrong? Export the "
            "original."
        )


def _apart_s(frame: Frame, reference: datetime, half_life_s: float) -> float | None:
    """Seconds from the reference to the moment that the factor gives; factors count the decay within the frame, or do not."""
    if frame.acquired is None or frame.factor is None:
        return None
    constant = math.log(2) / half_life_s
    within = constant * frame.duration_s
    in_frame = math.log(within / -math.expm1(-within)) if within > 0 else 0.0
    since_s = (frame.acquired - reference).total_seconds()
    return min((since_s - (math.log(frame.factor) - part) / constant for part in (0.0, in_frame)), key=abs)


def _average_s(duration_s: float, half_life_s: float) -> float:
    """Time in a frame at which activity has its average over the frame."""
    constant = math.log(2) / half_life_s
    within = constant * duration_s
    return math.log(within / -math.expm1(-within)) / constant if within > 0 else 0.0
