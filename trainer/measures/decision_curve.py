"""Weighs who is treated rightly against who is treated for nothing; knows nothing of how risks were predicted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from store_schema.errors import CohortError, UsageError
from trainer.measures.inputs import checked_horizon, checked_outcome, checked_survival
from trainer.measures.observed import observed_risk


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit of treating by predicted risk, at each threshold probability; that of treating nobody is 0."""

    thresholds: Float[np.ndarray, " threshold"]
    """Predicted risk from which a patient is treated."""
    net_benefit: Float[np.ndarray, " threshold"]
    """True positives less false positives at the threshold's odds, per patient; NaN where those above are not followed."""
    treat_all: Float[np.ndarray, " threshold"]
    """The same if everybody is treated."""
    treated: Int[np.ndarray, " threshold"]
    """Patients at or above each threshold."""


def decision_curve(
    *,
    survival: Float[np.ndarray, " patient"],
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    horizon: float,
    thresholds: Sequence[float] | Float[np.ndarray, " threshold"],
) -> DecisionCurve:
    """What treating patients of high predicted risk gains, in true positives per patient, censoring allowed for.

    net benefit = share treated × (risk among them - (1 - risk among them) × p/(1 - p)), the risk being 1 - Kaplan-Meier
    at the horizon among those treated, p the threshold.

    Parameters
    ----------
    survival
        Predicted probability of being free of the event at the horizon.
    time, event
        Outcomes of the same patients.
    horizon
        In the unit of `time`.
    thresholds
        Probabilities, above 0 and below 1; a patient is treated whose predicted risk is not below it.

    Raises
    ------
    CohortError
        If follow-up ends before the horizon.
    UsageError, TaskError
        If shapes do not fit, a survival is no probability, or a threshold is out of range.

    References
    ----------
    Vickers and Elkin 2006; Vickers et al. 2008 (censored outcomes).
    """
    time, event = checked_outcome(time, event)
    survival = checked_survival(survival, time.shape, axes="patients")
    asked = np.asarray(thresholds, dtype=np.float64)
    if asked.ndim != 1 or asked.size == 0 or not ((asked > 0) & (asked < 1)).all():
        raise UsageError(f"expected thresholds above 0 and below 1, got {thresholds!r}")
    horizon = checked_horizon(horizon)
    if len(time) == 0:
        raise CohortError("a decision curve needs a patient, got none")
    everybody = observed_risk(time=time, event=event, horizon=horizon).risk
    treated = (1 - survival >= asked[:, np.newaxis]).sum(axis=1)
    risk = _risk_among(1 - survival, time, event, horizon, asked)
    odds = asked / (1 - asked)
    return DecisionCurve(
        thresholds=asked,
        net_benefit=treated / len(time) * (risk - (1 - risk) * odds),
        treat_all=everybody - (1 - everybody) * odds,
        treated=treated,
    )


def _risk_among(
    risk: Float[np.ndarray, " patient"],
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    horizon: float,
    thresholds: Float[np.ndarray, " threshold"],
) -> Float[np.ndarray, " threshold"]:
    """1 - Kaplan-Meier at the horizon among those at or above each threshold.

    Of nobody it is 0, which net benefit multiplies by 0; NaN where the last of them was censored before the horizon.
    """
    rising, place = np.unique(thresholds, return_inverse=True)
    # the thresholds that a patient reaches are the first so many
    reached = np.searchsorted(rising, risk, side="right")
    steps, step = np.unique(np.minimum(time, horizon), return_inverse=True)
    deaths, leaving = (
        _reaching(reached, step, rows, len(rising), len(steps)) for rows in (event & (time <= horizon), None)
    )
    staying = leaving.sum(axis=1, keepdims=True) - np.cumsum(leaving, axis=1) + leaving
    survival = np.prod(1 - deaths / np.maximum(staying, 1), axis=1)
    longest = np.array([time[reached > index].max(initial=0.0) for index in range(len(rising))])
    nobody, short = leaving.sum(axis=1) == 0, (longest < horizon) & (survival > 0)
    return np.asarray(np.where(nobody, 0.0, np.where(short, np.nan, 1 - survival))[place])


def _reaching(
    reached: Int[np.ndarray, " patient"],
    step: Int[np.ndarray, " patient"],
    rows: Bool[np.ndarray, " patient"] | None,
    thresholds: int,
    steps: int,
) -> Int[np.ndarray, "threshold step"]:
    """Patients at each time step who reach each threshold."""
    chosen = slice(None) if rows is None else rows
    counts = np.zeros((thresholds + 1, steps), dtype=np.int64)
    np.add.at(counts, (reached[chosen], step[chosen]), 1)
    return np.asarray(np.cumsum(counts[::-1], axis=0)[::-1][1:])
