"""Compares predicted with observed risks at a horizon; knows nothing of how the risks were predicted."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from store_schema.errors import CohortError, UsageError
from trainer.measures.inputs import checked_horizon, checked_outcome, checked_survival
from trainer.measures.observed import ObservedRisk, observed_risk


@dataclass(frozen=True)
class CalibrationGroup:
    """Patients of similar predicted risk, and how many of them had the event."""

    patients: int
    events: int
    """Events by the horizon."""
    at_risk: int
    """Patients under observation just before the horizon."""
    predicted: float
    """Mean predicted probability of the event by the horizon."""
    observed: float | None
    """1 - Kaplan-Meier at the horizon; None where the group's follow-up ends before it."""
    low: float | None
    """Lower end of the interval of `observed`; None also where nobody or everybody had the event."""
    high: float | None
    """Upper end of that interval."""


@dataclass(frozen=True)
class ObservedExpected:
    """Events that happened over events that were predicted by a horizon: above 1 too few were predicted."""

    ratio: float
    low: float | None
    """Lower end of the interval, from that of `observed` alone: predictions are taken as given."""
    high: float | None
    observed: float
    """1 - Kaplan-Meier of all patients."""
    expected: float
    """Mean predicted probability of the event."""


def calibration_groups(
    *,
    survival: Float[np.ndarray, " patient"],
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    horizon: float,
    groups: int = 5,
    confidence: float = 0.95,
) -> tuple[CalibrationGroup, ...]:
    """Predicted against observed risk in groups of equal size, from the lowest predicted risk to the highest.

    Patients of one predicted risk stay together, so that ties make groups unequal, or fewer.

    Parameters
    ----------
    survival
        Predicted probability of being free of the event at the horizon.
    time, event
        Outcomes of the same patients.
    horizon
        In the unit of `time`.
    groups
        How many; cut at quantiles of predicted risk, by linear interpolation.
    confidence
        Of the intervals.

    Raises
    ------
    CohortError
        If there is no patient.
    UsageError, TaskError
        If shapes do not fit, a survival is no probability, or there are fewer than two groups.
    """
    time, event = checked_outcome(time, event)
    survival = checked_survival(survival, time.shape, axes="patients")
    if groups < 2:
        raise UsageError(f"expected two groups or more, got {groups}")
    if len(time) == 0:
        raise CohortError("calibration needs a patient, got none")
    member = _by_risk(1 - survival, groups)
    return tuple(
        _group(1 - survival[rows], time[rows], event[rows], checked_horizon(horizon), confidence)
        for rows in (np.flatnonzero(member == group) for group in np.unique(member))
    )


def observed_expected(
    *,
    survival: Float[np.ndarray, " patient"],
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    horizon: float,
    confidence: float = 0.95,
) -> ObservedExpected:
    """Observed over expected events by the horizon: calibration in the large.

    Parameters
    ----------
    survival, time, event, horizon
        As of `calibration_groups`.

    Raises
    ------
    CohortError
        If follow-up ends before the horizon, or no event is expected at all.
    UsageError, TaskError
        If shapes do not fit, or a survival is no probability.

    References
    ----------
    Crowson, Atkinson and Therneau 2016; Royston and Altman 2013.
    """
    time, event = checked_outcome(time, event)
    survival = checked_survival(survival, time.shape, axes="patients")
    found = observed_risk(time=time, event=event, horizon=horizon, confidence=confidence)
    expected = float((1 - survival).mean())
    if expected == 0:
        raise CohortError(f"no event is expected by {horizon:g}: observed over expected is undefined")
    return ObservedExpected(
        ratio=found.risk / expected,
        low=None if found.low is None else found.low / expected,
        high=None if found.high is None else found.high / expected,
        observed=found.risk,
        expected=expected,
    )


def _by_risk(risk: Float[np.ndarray, " patient"], groups: int) -> Int[np.ndarray, " patient"]:
    cuts = np.quantile(risk, np.arange(1, groups) / groups)
    return np.searchsorted(cuts, risk, side="left")


def _group(
    risk: Float[np.ndarray, " member"],
    time: Float[np.ndarray, " member"],
    event: Bool[np.ndarray, " member"],
    horizon: float,
    confidence: float,
) -> CalibrationGroup:
    found = _observed_or_none(time, event, horizon, confidence)
    return CalibrationGroup(
        patients=len(time),
        events=int((event & (time <= horizon)).sum()),
        at_risk=int((time >= horizon).sum()),
        predicted=float(risk.mean()),
        observed=None if found is None else found.risk,
        low=None if found is None else found.low,
        high=None if found is None else found.high,
    )


def _observed_or_none(
    time: Float[np.ndarray, " member"], event: Bool[np.ndarray, " member"], horizon: float, confidence: float
) -> ObservedRisk | None:
    try:
        return observed_risk(time=time, event=event, horizon=horizon, confidence=confidence)
    except CohortError:
        return None
