"""Tests whether survival probabilities come true as often as they say; knows nothing of how they were predicted."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from store_schema.errors import CohortError, UsageError
from trainer.measures.inputs import checked_survival


@dataclass(frozen=True)
class DCalibration:
    """How evenly the predicted survival of patients at their own event times is spread over 0 to 1."""

    bins: tuple[float, ...]
    """Patients whose probability falls into each tenth, from 0 to 1; those censored are spread over several."""
    statistic: float
    """Chi-squared of these against as many in each."""
    df: int
    """Bins less one."""
    p: float
    """Probability of so uneven bins if predictions were right; a high one is no proof that they are."""


def d_calibration(
    *, survival_at_own_time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"], bins: int = 10
) -> DCalibration:
    """Chi-squared test that predicted survival at patients' own times is uniform, as it is where predictions are right.

    A patient censored at survival s would have had the event somewhere below it, with equal probability everywhere:
    the patient counts (s - low)/s in the own bin [low, …) and width/s in each bin below.

    Parameters
    ----------
    survival_at_own_time
        Predicted probability of being free of the event after the patient's own time. Whoever was followed beyond the
        training part is to be censored there first (`trainer.measures.censoring.truncated`).
    event
        True where the event was observed.
    bins
        Of equal width.

    Raises
    ------
    CohortError
        If there is no patient.
    UsageError, TaskError
        If lengths differ, events are no booleans, or a survival is no probability.

    References
    ----------
    Haider et al. 2020, section 3.5 and appendix B.
    """
    event = np.asarray(event)
    if event.dtype != np.bool_ or event.ndim != 1:
        raise UsageError(f"expected event as booleans, one per patient, got {event.dtype} of shape {event.shape}")
    survival = checked_survival(survival_at_own_time, event.shape, axes="patients")
    if bins < 2:
        raise UsageError(f"expected two bins or more, got {bins}")
    if len(event) == 0:
        raise CohortError("D-calibration needs a patient, got none")
    counts = _counts(survival, event, bins)
    expected = len(event) / bins
    statistic = float(((counts - expected) ** 2).sum() / expected)
    p = float(stats.chi2.sf(statistic, bins - 1))
    return DCalibration(bins=tuple(counts.tolist()), statistic=statistic, df=bins - 1, p=p)


def _counts(
    survival: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"], bins: int
) -> Float[np.ndarray, " bin"]:
    edges = np.arange(bins + 1) / bins
    # 1 belongs to the last bin
    own = np.minimum(np.searchsorted(edges, survival, side="right") - 1, bins - 1)
    dead = np.bincount(own[event], minlength=bins)
    s, at = survival[~event], own[~event]
    # censored at probability 0: nothing is left above the lowest bin
    safe = np.where(s > 0, s, 1.0)
    here = np.where(s > 0, (s - edges[at]) / safe, 1.0)
    below = np.where(s > 0, 1 / bins / safe, 0.0)
    censored = np.bincount(at, weights=here, minlength=bins)
    # what each gives to every bin below its own, summed from the top
    given = np.bincount(at, weights=below, minlength=bins)
    return np.asarray(dead + censored + np.concatenate((np.cumsum(given[::-1])[::-1][1:], [0.0])))
