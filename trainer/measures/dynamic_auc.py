"""Judges risks by who has had the event by a time and who has not; knows nothing of how the risks were made."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from store_schema.errors import CohortError, UsageError
from trainer.kaplan_meier import kaplan_meier
from trainer.measures.censoring import Censoring, LeftOutTime
from trainer.measures.inputs import checked_times
from trainer.metrics import checked


@dataclass(frozen=True, eq=False)
class DynamicAUC:
    """Area under the ROC curve at each time that could be judged."""

    times: Float[np.ndarray, " time"]
    """Times judged, rising: those asked for, without the ones left out."""
    auc: Float[np.ndarray, " time"]
    """Weighted share of pairs of a case and a control in which the case had the higher risk; 0.5 is chance."""
    pairs: Float[np.ndarray, " time"]
    """Sum of weights of these pairs, by which AUCs of several test parts can be averaged."""
    cases: Int[np.ndarray, " time"]
    """Patients with the event at or before each time."""
    controls: Int[np.ndarray, " time"]
    """Patients followed beyond it."""
    mean: float
    """Average over the times, each weighted by the fall of survival since the one before."""
    left_out: tuple[LeftOutTime, ...]


def dynamic_auc(
    *,
    risk: Float[np.ndarray, " patient"],
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    times: Sequence[float] | Float[np.ndarray, " time"],
    censoring: Censoring,
) -> DynamicAUC:
    """How well risks tell patients with the event by a time from those followed beyond it, as without censoring.

    Patients censored by then are neither, and the cases stand for them, each for 1/G(its time). Risks are tied when
    they are equal.

    Parameters
    ----------
    risk
        Log-risk on any scale; higher is worse.
    time, event
        Outcomes of the same patients.
    times
        Rising. Left out are those beyond the training part's follow-up and those without a case or a control.
    censoring
        G of the training part of the model.

    Raises
    ------
    CohortError
        If no time can be judged.

    References
    ----------
    Uno et al. 2007; Hung and Chiang 2010; mean: Lambert and Chevret 2016.
    """
    risk, time, event = checked(risk, time, event)
    asked = checked_times(np.asarray(times, dtype=np.float64))
    weights = censoring.weights(time=time, event=event)
    found = [_at(at, risk, time, event & (time <= at), weights) for at in asked.tolist()]
    reasons = [_reason(at, one, censoring) for at, one in zip(asked.tolist(), found, strict=True)]
    kept = [index for index, reason in enumerate(reasons) if reason is None]
    if not kept:
        raise CohortError(f"no time has an AUC: {reasons[0]} ({asked[0]:g}). Use other times")
    auc, pairs, cases, controls = (np.array(column) for column in zip(*(found[index] for index in kept), strict=True))
    return DynamicAUC(
        times=asked[kept],
        auc=auc,
        pairs=pairs,
        cases=cases,
        controls=controls,
        mean=mean_auc(auc, times=asked[kept], time=time, event=event),
        left_out=tuple(
            LeftOutTime(at, int((time >= at).sum()), reason)
            for at, reason in zip(asked.tolist(), reasons, strict=True)
            if reason is not None
        ),
    )


def mean_auc(
    auc: Float[np.ndarray, " time"],
    *,
    times: Float[np.ndarray, " time"],
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
) -> float:
    """Average of AUCs at rising times, each weighted by the Kaplan-Meier fall of survival since the one before.

    Raises
    ------
    UsageError
        If the AUCs are not one per time.
    CohortError
        If survival does not fall.
    """
    auc, times = np.asarray(auc, dtype=np.float64), checked_times(times)
    if auc.shape != times.shape:
        raise UsageError(f"expected one AUC per time, got {auc.size} for {times.size}")
    fall = -np.diff(kaplan_meier(time, event).survival_at(times), prepend=1.0)
    if fall.sum() == 0:
        raise CohortError(f"nobody has the event by {times[-1]:g}: there is no mean AUC")
    return float(auc @ fall / fall.sum())


def _at(
    at: float,
    risk: Float[np.ndarray, " patient"],
    time: Float[np.ndarray, " patient"],
    case: Bool[np.ndarray, " patient"],
    weights: Float[np.ndarray, " patient"],
) -> tuple[float, float, int, int]:
    """AUC (NaN without pairs), weight of its pairs, cases and controls."""
    controls = np.sort(risk[time > at])
    below, up_to = (np.searchsorted(controls, risk[case], side=side) for side in ("left", "right"))
    pairs = float(weights[case].sum() * len(controls))
    right = float(weights[case] @ ((below + up_to) / 2))
    return right / pairs if pairs else float("nan"), pairs, int(case.sum()), len(controls)


def _reason(at: float, found: tuple[float, float, int, int], censoring: Censoring) -> str | None:
    if at >= censoring.end:
        return f"the training part is followed up to {censoring.last:g} only"
    if found[2] == 0:
        return "nobody has had the event by then"
    if found[3] == 0:
        return "nobody is followed beyond it"
    return None
