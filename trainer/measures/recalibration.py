"""Fits a model's survival curves to other patients without touching how it ranks them; knows nothing of what gave the risks."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from store_schema.errors import CohortError
from trainer.baseline_hazard import BreslowBaseline
from trainer.measures.inputs import checked_outcome
from trainer.measures.slope import CalibrationSlope, calibration_slope


@dataclass(frozen=True)
class InTheLarge:
    """Events that happened over those that the model expected of these patients over their whole follow-up."""

    ratio: float
    """1 is right, above 1 too few were expected; what the baseline hazard is multiplied by."""
    low: float
    """Lower end of its interval, expected events taken as given."""
    high: float
    """Upper end of that interval."""
    observed: int
    expected: float


def in_the_large(
    baseline: BreslowBaseline,
    *,
    risk: Float[np.ndarray, " patient"],
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    confidence: float = 0.95,
) -> InTheLarge:
    """Observed over expected events: calibration in the large of a survival model.

    A patient is expected to have as many events as the cumulative hazard at the own time says (Poisson, with the log of it as
    offset); the interval is exp(log ratio ± z/√observed).

    Parameters
    ----------
    baseline
        Of the model.
    risk
        Log-risks by the model; higher is worse.
    time, event
        Outcomes, in the unit of the baseline, none after its end.

    Raises
    ------
    CohortError
        If there is no event, or none is expected.
    UsageError
        If lengths differ or events are no booleans.

    References
    ----------
    Crowson, Atkinson and Therneau 2016; Berry 1983.
    """
    time, event = checked_outcome(time, event)
    expected = float(-np.log(np.maximum(baseline.survival_each(risk, time), np.finfo(np.float64).tiny)).sum())
    observed = int(event.sum())
    if observed == 0 or expected == 0:
        raise CohortError(f"{observed} events and {expected:g} expected: calibration in the large is undefined")
    reach = np.exp(float(stats.norm.ppf((1 + confidence) / 2)) / np.sqrt(observed))
    ratio = observed / expected
    return InTheLarge(ratio, ratio / float(reach), ratio * float(reach), observed, expected)


def rescaled(baseline: BreslowBaseline, ratio: float) -> BreslowBaseline:
    """The baseline with its hazard multiplied: risks keep their spread, all of them move together."""
    hazard = tuple(ratio * value for value in baseline.cumulative_hazard)
    return baseline.model_copy(update={"cumulative_hazard": hazard})


def refitted(
    *, risk: Float[np.ndarray, " patient"], time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"]
) -> tuple[CalibrationSlope, BreslowBaseline]:
    """Slope of the log-risk among these patients, and the baseline hazard of the risks multiplied by it.

    Raises
    ------
    CohortError
        If the patients do not bound the slope, or have no event.
    UsageError, TaskError
        As of `calibration_slope`.

    References
    ----------
    van Houwelingen 2000; Royston and Altman 2013, section 4.
    """
    found = calibration_slope(risk=risk, time=time, event=event)
    return found, BreslowBaseline.fit(risk=found.slope * np.asarray(risk, dtype=np.float64), time=time, event=event)
