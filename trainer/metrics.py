"""Judges risks against outcomes by Harrell's c; knows nothing of how the risks were made."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from store_schema.errors import CohortError, TaskError, UsageError


@dataclass(frozen=True)
class Concordance:
    """How the comparable pairs of a set of patients are ordered by risk."""

    c: float
    """(concordant + tied_risk / 2) / comparable: 0.5 is chance, 1 is perfect."""
    concordant: int
    """Pairs in which the patient with the earlier event had the higher risk."""
    discordant: int
    """Pairs in which that patient had the lower risk."""
    tied_risk: int
    """Pairs of equal risk."""
    comparable: int
    """All pairs whose earlier time is an event: the sum of the three."""
    tied_time: int
    """Comparable pairs at one time: an event and a patient censored then."""


def harrell_c(
    *, risk: Float[np.ndarray, " patient"], time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"]
) -> Concordance:
    """Share of comparable pairs in which the patient who progressed first had the higher risk.

    A pair is comparable when its earlier time is an event, or when one had the event at the very time at which the
    other was censored; two events at one time are not. Ties in risk count one half; risks are tied when they are
    equal, without a tolerance (scikit-survival's default takes 1e-8). Takes O(n log n).

    Parameters
    ----------
    risk
        Log-risk on any scale; higher is worse. Not a survival probability.
    time
        Time to event or censoring, > 0, in one unit throughout.
    event
        True where the event was observed.

    Raises
    ------
    CohortError
        If no pair is comparable, as in a fold without events.
    TaskError
        If a risk is not finite, as a model that diverged gives it.

    References
    ----------
    Harrell et al. 1982; Guinea-Pérez et al. 2026, section 2.4.3. Counting: Claude, Navarro and Ordóñez 2015 (the
    wavelet matrix), used here to count smaller risks among later patients for all events at once.
    """
    risk, time, event = _checked(risk, time, event)
    order = np.lexsort((event, -time))
    later = _partners(time=time[order], event=event[order])
    ranks = np.unique(risk, return_inverse=True)[1][order]
    events = event[order]
    comparable = int(later[events].sum())
    if comparable == 0:
        raise CohortError(
            f"no comparable pair among {len(time)} patients with {int(event.sum())} events: the c-index is undefined. "
            "Use fewer folds, or a longer follow-up"
        )
    less, equal = _count_smaller(ranks, prefix=later[events], value=ranks[events])
    concordant, tied = int(less.sum()), int(equal.sum())
    return Concordance(
        c=(concordant + 0.5 * tied) / comparable,
        concordant=concordant,
        discordant=comparable - concordant - tied,
        tied_risk=tied,
        comparable=comparable,
        tied_time=comparable - int(_strictly_later(time[order])[events].sum()),
    )


def comparable_pairs(*, time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"]) -> int:
    """Number of pairs by which a c-index of these patients would be judged."""
    order = np.lexsort((event, -time))
    return int(_partners(time=time[order], event=event[order])[event[order]].sum())


def _checked(
    risk: Float[np.ndarray, " patient"], time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"]
) -> tuple[Float[np.ndarray, " patient"], Float[np.ndarray, " patient"], Bool[np.ndarray, " patient"]]:
    risk, time, event = np.asarray(risk, dtype=np.float64), np.asarray(time, dtype=np.float64), np.asarray(event)
    if not risk.shape == time.shape == event.shape or risk.ndim != 1:
        raise UsageError(f"expected risk, time and event of one length, got {risk.shape}, {time.shape}, {event.shape}")
    if event.dtype != np.bool_:
        raise UsageError(f"expected event as booleans, got {event.dtype}: a swapped argument reads as a c-index")
    if not np.isfinite(time).all():
        raise CohortError(f"{int((~np.isfinite(time)).sum())} of {time.size} times are not finite")
    if not np.isfinite(risk).all():
        raise TaskError(f"{int((~np.isfinite(risk)).sum())} of {risk.size} risks are not finite: the model diverged")
    return risk, time, event


def _strictly_later(time: Float[np.ndarray, " patient"]) -> Int[np.ndarray, " patient"]:
    """Number of patients with a later time; `time` falls."""
    return np.searchsorted(-time, -time, side="left")


def _partners(
    *, time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"]
) -> Int[np.ndarray, " patient"]:
    """Number of patients before each one's time in an order of falling time, censored first at one time.

    For an event this is the number of its comparable partners, and they are the first so many of the order.
    """
    censored_before = np.concatenate(([0], np.cumsum(~event)))
    ends = np.searchsorted(-time, -time, side="right")
    starts = _strictly_later(time)
    return starts + censored_before[ends] - censored_before[starts]


def _count_smaller(
    ranks: Int[np.ndarray, " patient"], *, prefix: Int[np.ndarray, " query"], value: Int[np.ndarray, " query"]
) -> tuple[Int[np.ndarray, " query"], Int[np.ndarray, " query"]]:
    """How many of the first `prefix` ranks are below, and how many equal, `value`; all queries together.

    Goes through the bits from the highest: at each, the ranks are parted stably into zeros and ones, and every
    query follows its own bit. On a one, the zeros of its range are smaller and are counted.
    """
    left, right = np.zeros_like(prefix), prefix.copy()
    less = np.zeros_like(prefix)
    for bit in reversed(range(int(ranks.max(initial=0)).bit_length())):
        ones = (ranks >> bit) & 1 == 1
        zeros_before = np.concatenate(([0], np.cumsum(~ones)))
        goes_one = (value >> bit) & 1 == 1
        zeros_left, zeros_right = zeros_before[left], zeros_before[right]
        less += np.where(goes_one, zeros_right - zeros_left, 0)
        left = np.where(goes_one, zeros_before[-1] + left - zeros_left, zeros_left)
        right = np.where(goes_one, zeros_before[-1] + right - zeros_right, zeros_right)
        ranks = np.concatenate((ranks[~ones], ranks[ones]))
    return less, right - left
