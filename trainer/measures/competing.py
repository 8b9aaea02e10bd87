"""Estimates how many patients come to each of several ends that exclude one another; knows nothing of predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from store_schema.errors import CohortError, UsageError
from trainer.kaplan_meier import log_log_band

CENSORED = 0


@dataclass(frozen=True, eq=False)
class CumulativeIncidence:
    """Aalen-Johansen curves as steps: row k is of `causes[k]`, each value holds from its time until the next."""

    causes: tuple[int, ...]
    """Event codes, rising."""
    time: Float[np.ndarray, " step"]
    """Distinct times of events and censorings, rising."""
    incidence: Float[np.ndarray, "cause step"]
    """Probability that an event of the cause has happened by each time, the other causes at work too."""
    se: Float[np.ndarray, "cause step"]
    """Standard error by the delta method."""
    low: Float[np.ndarray, "cause step"]
    """Lower end of the pointwise band."""
    high: Float[np.ndarray, "cause step"]
    """Upper end of the pointwise band."""
    events: Int[np.ndarray, "cause step"]
    """Events of each cause at each time."""
    at_risk: Int[np.ndarray, " step"]
    """Patients under observation just before each time."""

    def at(self, times: Float[np.ndarray, " time"]) -> Float[np.ndarray, "cause time"]:
        """Incidence at these times; after the last step it keeps the last value."""
        steps = np.searchsorted(self.time, times, side="right")
        return np.concatenate((np.zeros((len(self.causes), 1)), self.incidence), axis=1)[:, steps]


def cumulative_incidence(
    *,
    time: Float[np.ndarray, " patient"],
    cause: Int[np.ndarray, " patient"],
    causes: Sequence[int] | None = None,
    confidence: float = 0.95,
) -> CumulativeIncidence:
    """Probability of each kind of event by each time, where one of them rules out the others.

    One minus the Kaplan-Meier curve of one cause, the others censored, is more than this: it tells what would happen if
    the other causes were abolished.

    Parameters
    ----------
    time
        Time to the first event or to censoring.
    cause
        Code of the event, above 0; 0 where censored.
    causes
        Codes to give curves of, so that one without events gets its flat curve; by default those that occur.
    confidence
        Of the pointwise band, on the scale log(-log incidence).

    Raises
    ------
    CohortError
        If there is no patient, no event, or a time is not finite.
    UsageError
        If lengths differ, codes are no whole numbers from 0, or an event is of none of the causes named.

    References
    ----------
    Aalen and Johansen 1978; variance: Dinse and Larson 1986, equation 6; Marubini and Valsecchi 1995, section 10.3.
    """
    time, cause = _checked(time, cause)
    named = _named(cause, causes)
    times, step = np.unique(time, return_inverse=True)
    events = np.stack([np.bincount(step[cause == one], minlength=len(times)) for one in named])
    leaving = np.bincount(step, minlength=len(times))
    at_risk = len(time) - np.concatenate(([0], np.cumsum(leaving)[:-1]))
    before = np.concatenate(([1.0], np.cumprod(1 - events.sum(axis=0) / at_risk)[:-1]))
    incidence = np.cumsum(before * events / at_risk, axis=1)
    se = np.sqrt(np.maximum(_variance(events, at_risk, before, incidence), 0.0))
    low, high = log_log_band(incidence, se / np.where(incidence > 0, incidence, 1.0), confidence)
    return CumulativeIncidence(
        causes=named, time=times, incidence=incidence, se=se, low=low, high=high, events=events, at_risk=at_risk
    )


def cause_specific(
    *, time: Float[np.ndarray, " patient"], cause: Int[np.ndarray, " patient"], of: int
) -> tuple[Float[np.ndarray, " patient"], Bool[np.ndarray, " patient"]]:
    """Outcomes by which a cause-specific hazard is modelled: other events end follow-up as censoring does.

    Raises
    ------
    CohortError
        If a time is not finite, there is no patient or no event.
    UsageError
        If lengths differ, or codes are no whole numbers from 0.

    References
    ----------
    Prentice et al. 1978; protocol section 5.
    """
    time, cause = _checked(time, cause)
    if of == CENSORED:
        raise UsageError(f"expected the code of an event, above {CENSORED}, got {of}: that is censoring")
    return time, cause == of


def _checked(
    time: Float[np.ndarray, " patient"], cause: Int[np.ndarray, " patient"]
) -> tuple[Float[np.ndarray, " patient"], Int[np.ndarray, " patient"]]:
    time, cause = np.asarray(time, dtype=np.float64), np.asarray(cause)
    if time.shape != cause.shape or time.ndim != 1:
        raise UsageError(f"expected time and cause of one length, got {time.shape}, {cause.shape}")
    if not np.issubdtype(cause.dtype, np.integer) or (cause < CENSORED).any():
        raise UsageError(f"expected causes as whole numbers, {CENSORED} where censored, got {cause.dtype}: {cause!r}")
    if not np.isfinite(time).all():
        raise CohortError(f"{int((~np.isfinite(time)).sum())} of {time.size} times are not finite")
    if not (cause > CENSORED).any():
        raise CohortError(f"none of {time.size} patients has an event of any cause")
    return time, cause


def _named(cause: Int[np.ndarray, " patient"], causes: Sequence[int] | None) -> tuple[int, ...]:
    found = set(np.unique(cause[cause > CENSORED]).tolist())
    named = found if causes is None else set(causes)
    if found - named or CENSORED in named:
        raise UsageError(f"expected events of causes {sorted(named)}, above {CENSORED}, got {sorted(found)}")
    return tuple(sorted(named))


def _variance(
    events: Int[np.ndarray, "cause step"],
    at_risk: Int[np.ndarray, " step"],
    before: Float[np.ndarray, " step"],
    incidence: Float[np.ndarray, "cause step"],
) -> Float[np.ndarray, "cause step"]:
    """Delta-method variance: of survival until each event, of the events themselves, and of both together.

    The three sums run over all earlier times j of a time i and hold I(i) - I(j); they are split into running sums.
    """
    total = events.sum(axis=0)
    left = at_risk * (at_risk - total)
    # where all at risk have an event, survival ends and adds nothing to later increments
    hazard = np.divide(total, left, out=np.zeros(len(total)), where=left > 0)
    both = events * before / at_risk**2
    of_survival = (
        incidence**2 * np.cumsum(hazard)
        - 2 * incidence * np.cumsum(incidence * hazard, axis=1)
        + np.cumsum(incidence**2 * hazard, axis=1)
    )
    of_events = np.cumsum(before**2 * events * (at_risk - events) / at_risk**3, axis=1)
    of_both = incidence * np.cumsum(both, axis=1) - np.cumsum(incidence * both, axis=1)
    return np.asarray(of_survival + of_events - 2 * of_both)
