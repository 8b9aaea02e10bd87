"""Sums up over patients what hiding each bone changes, and writes deltas as CSV; knows no model and no file."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from trainer.explain_results import UNNAMED, Attribution, ExplainedImage, ExplainedPatient
from trainer.measures.bootstrap import bootstrap

SEED = 0
"""Of the resamples: the same deltas give the same intervals."""
DELTA_COLUMNS = (
    "patient", "modality", "roi", "z_start", "z_stop", "y_start", "y_stop", "x_start", "x_stop", "bone", "bone_share", "delta",
    "delta_sd", "absolute", "absolute_sd", "seen",
)  # fmt: skip


def attribution(patients: Sequence[ExplainedPatient]) -> tuple[Attribution, ...]:
    """Mean deltas by image and bone, the largest absolute ones of each image first.

    Only patches that the view can see, in entries that name bones, are counted.
    """
    groups: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for patient, image in _images(patients):
        for patch in image.seen:
            if patch.bone != UNNAMED:
                mine = groups.setdefault((image.modality, image.roi, patch.bone), {})
                mine.setdefault(patient.patient, []).append(patch.delta)
    person = {patient.patient: patient.person for patient in patients}
    found = [_attributed(*key, by_patient, person) for key, by_patient in groups.items()]
    return tuple(sorted(found, key=lambda one: (one.modality, one.roi, -one.absolute, one.bone)))


def _images(patients: Sequence[ExplainedPatient]) -> Iterator[tuple[ExplainedPatient, ExplainedImage]]:
    for patient in patients:
        for image in patient.images:
            yield patient, image


def _attributed(
    modality: str, roi: str, bone: str, by_patient: dict[str, list[float]], person: dict[str, str]
) -> Attribution:
    persons = [person[patient] for patient in by_patient]
    signed = _of_persons([float(np.mean(values)) for values in by_patient.values()], persons)
    absolute = _of_persons([float(np.mean(np.abs(values))) for values in by_patient.values()], persons)
    lows_highs = [_interval(values) for values in (signed, absolute)]
    return Attribution(
        modality=modality,
        roi=roi,
        bone=bone,
        patients=len(signed),
        patches=sum(map(len, by_patient.values())),
        signed=float(signed.mean()),
        signed_low=lows_highs[0][0],
        signed_high=lows_highs[0][1],
        absolute=float(absolute.mean()),
        absolute_low=lows_highs[1][0],
        absolute_high=lows_highs[1][1],
    )


def _of_persons(values: Sequence[float], persons: Sequence[str]) -> Float[np.ndarray, " person"]:
    """Mean over each person's studies, so that one who was imaged twice counts once."""
    mine: dict[str, list[float]] = {}
    for value, person in zip(values, persons, strict=True):
        mine.setdefault(person, []).append(value)
    return np.array([np.mean(each) for each in mine.values()])


def _interval(values: Float[np.ndarray, " person"]) -> tuple[float, float] | tuple[None, None]:
    if len(values) < 2:
        return None, None
    mean: Callable[[Int[np.ndarray, " row"]], float] = lambda rows: float(values[rows].mean())  # noqa: E731 - names its type
    found = bootstrap(mean, persons=[str(place) for place in range(len(values))], seed=SEED)
    return found.low, found.high


def attribution_csv(found: Sequence[Attribution], risk_sd: float) -> str:
    """One line per image and bone; deltas in log-hazard and in standard deviations of the training patients' log-risks."""
    figures = ("signed", "signed_low", "signed_high", "absolute", "absolute_low", "absolute_high")
    header = ["modality", "roi", "bone", "patients", "patches", *figures, *(f"{name}_sd" for name in figures)]
    lines = []
    for one in found:
        values = [getattr(one, name) for name in figures]
        in_sd = [None if value is None else value / risk_sd for value in values]
        lines.append([one.modality, one.roi, one.bone, one.patients, one.patches, *values, *in_sd])
    return _csv(header, lines)


def deltas_csv(patients: Sequence[ExplainedPatient], risk_sd: float) -> str:
    """One line per patch; boxes are voxels, `stop` one past the last."""
    lines = [
        [
            patient.patient, image.modality, image.roi, *patch.box_zyx, patch.bone, patch.bone_share, patch.delta,
            patch.delta / risk_sd, abs(patch.delta), abs(patch.delta) / risk_sd, "yes" if patch.seen else "no",
        ]
        for patient, image in _images(patients)
        for patch in image.patches
    ]  # fmt: skip
    return _csv(DELTA_COLUMNS, lines)


def _csv(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()
