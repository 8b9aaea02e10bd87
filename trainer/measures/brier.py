"""Judges survival probabilities by their squared error; knows nothing of how they were predicted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from store_schema.errors import CohortError, UsageError
from trainer.measures.censoring import Censoring, LeftOutTime
from trainer.measures.inputs import checked_outcome, checked_survival, checked_times


@dataclass(frozen=True, eq=False)
class BrierCurve:
    """Squared error of predicted survival at each time that could be judged."""

    times: Float[np.ndarray, " time"]
    """Times judged, rising: those asked for, without the ones beyond the training part's follow-up."""
    score: Float[np.ndarray, " time"]
    """Brier score: 0 is perfect, 0.25 is what a prediction of 0.5 for everybody gets."""
    left_out: tuple[LeftOutTime, ...]


@dataclass(frozen=True)
class IntegratedBrier:
    """Brier scores averaged over an interval of time, beside those of a prediction that is the same for everybody."""

    score: float
    """Of the model: lower is better."""
    reference: float
    """Of the reference prediction on the same patients and times."""
    scaled: float | None
    """1 - score/reference: 1 is perfect, 0 no better than the reference, below 0 worse; None of a perfect reference."""
    start: float
    """First time of the interval."""
    end: float
    """Last time of the interval."""


def brier_scores(
    *,
    survival: Float[np.ndarray, "patient time"],
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    times: Sequence[float] | Float[np.ndarray, " time"],
    censoring: Censoring,
) -> BrierCurve:
    """Mean squared difference between predicted survival and whether a patient was free of the event, as without censoring.

    A patient with the event by t counts 1/G(own time) times, one followed beyond it 1/G(t) times, one censored by then
    not at all.

    Parameters
    ----------
    survival
        Predicted probability of being free of the event after each of `times`.
    time, event
        Outcomes of the same patients.
    times
        Rising. Left out are those beyond the training part's follow-up.
    censoring
        G of the training part of the model.

    Raises
    ------
    CohortError
        If no time can be judged, or there is no patient.
    UsageError, TaskError
        If shapes do not fit, or a survival is no probability.

    References
    ----------
    Graf et al. 1999; Gerds and Schumacher 2006.
    """
    time, event = checked_outcome(time, event)
    asked = checked_times(np.asarray(times, dtype=np.float64))
    survival = checked_survival(survival, (len(time), len(asked)), axes="patients, times")
    known = asked < censoring.end
    if len(time) == 0 or not known.any():
        raise CohortError(
            f"no Brier score of {len(time)} patients: follow-up of the training part ends at {censoring.last:g}"
        )
    kept = asked[known]
    weights = censoring.weights(time=time, event=event)
    died = (time[:, np.newaxis] <= kept) * weights[:, np.newaxis]
    alive = (time[:, np.newaxis] > kept) / censoring.following(kept)
    score = (survival[:, known] ** 2 * died + (1 - survival[:, known]) ** 2 * alive).mean(axis=0)
    reason = f"the training part is followed up to {censoring.last:g} only"
    left_out = tuple(LeftOutTime(float(at), int((time >= at).sum()), reason) for at in asked[~known])
    return BrierCurve(times=kept, score=score, left_out=left_out)


def integrated(score: Float[np.ndarray, " time"], times: Float[np.ndarray, " time"]) -> float:
    """Average of Brier scores between the first and the last of rising times, by the trapezoidal rule.

    Raises
    ------
    UsageError
        If there are not one score per time.
    CohortError
        If there is one time alone.
    """
    score, times = np.asarray(score, dtype=np.float64), checked_times(times)
    if score.shape != times.shape:
        raise UsageError(f"expected one score per time, got {score.size} for {times.size}")
    if times.size < 2:
        raise CohortError(f"an integrated Brier score needs two times within the follow-up, got {times.size}")
    return float(np.trapezoid(score, times) / (times[-1] - times[0]))


def integrated_brier(
    *,
    survival: Float[np.ndarray, "patient time"],
    reference: Float[np.ndarray, " time"],
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    times: Sequence[float] | Float[np.ndarray, " time"],
    censoring: Censoring,
) -> IntegratedBrier:
    """Brier score averaged over the times that can be judged, with that of one curve for everybody beside it.

    Parameters
    ----------
    survival, time, event, times, censoring
        As of `brier_scores`.
    reference
        Survival predicted for everybody at each of `times`: the Kaplan-Meier curve of the training part.

    Raises
    ------
    CohortError
        If fewer than two times can be judged.
    UsageError, TaskError
        As `brier_scores`.

    References
    ----------
    Graf et al. 1999; scaled: Kattan and Gerds 2018 (index of prediction accuracy).
    """
    everybody = np.tile(np.asarray(reference, dtype=np.float64), (len(time), 1))
    model, same = (
        brier_scores(survival=predicted, time=time, event=event, times=times, censoring=censoring)
        for predicted in (survival, everybody)
    )
    return compared(model.score, same.score, times=model.times)


def compared(
    score: Float[np.ndarray, " time"], reference: Float[np.ndarray, " time"], *, times: Float[np.ndarray, " time"]
) -> IntegratedBrier:
    """Integrated Brier score of a model beside that of a reference, from their scores at the same rising times."""
    mine, other = integrated(score, times), integrated(reference, times)
    return IntegratedBrier(
        score=mine,
        reference=other,
        scaled=1 - mine / other if other > 0 else None,
        start=float(times[0]),
        end=float(times[-1]),
    )
