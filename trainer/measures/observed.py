"""Tells how many of a group had the event by a horizon, censoring allowed for; knows nothing of predictions."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from store_schema.errors import CohortError
from trainer.kaplan_meier import kaplan_meier
from trainer.measures.inputs import checked_horizon, checked_outcome


@dataclass(frozen=True)
class ObservedRisk:
    """Share of a group with the event by a horizon."""

    risk: float
    """1 - Kaplan-Meier survival at the horizon."""
    low: float | None
    """Lower end of its interval; None where nobody or everybody had the event, which leaves no standard error."""
    high: float | None
    """Upper end of its interval."""


def observed_risk(
    *,
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    horizon: float,
    confidence: float = 0.95,
) -> ObservedRisk:
    """Share of patients with the event by the horizon, 1 - Kaplan-Meier, with a log-log interval.

    Raises
    ------
    CohortError
        If there is no patient, or the last one was censored before the horizon: the curve is not drawn on.
    UsageError
        If lengths differ, events are no booleans, or the horizon is no positive number.
    """
    time, event = checked_outcome(time, event)
    horizon = checked_horizon(horizon)
    curve = kaplan_meier(time, event, confidence=confidence)
    step = int(np.searchsorted(curve.time, horizon, side="right")) - 1
    if step < 0:
        return ObservedRisk(0.0, None, None)
    survival = float(curve.survival[step])
    if curve.time[-1] < horizon and survival > 0:
        raise CohortError(f"follow-up of these {len(time)} patients ends at {curve.time[-1]:g}, before {horizon:g}")
    if survival in {0.0, 1.0}:
        return ObservedRisk(1 - survival, None, None)
    return ObservedRisk(1 - survival, 1 - float(curve.high[step]), 1 - float(curve.low[step]))
