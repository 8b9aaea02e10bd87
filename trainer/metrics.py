"""Judges risks against outcomes by Harrell's c; knows nothing of how the risks were made."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from store_schema.errors import CohortError, TaskError, UsageError

BLOCK = 32
"""Patients whose order is found pair by pair; below it a pass over all of them costs more."""


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


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Comparable pairs in which each patient is the one with the earlier event; all 0 for those censored."""

    concordant: Int[np.ndarray, " patient"]
    """Pairs in which the patient had the higher risk."""
    tied_risk: Int[np.ndarray, " patient"]
    """Pairs of equal risk."""
    comparable: Int[np.ndarray, " patient"]
    """All pairs: the patients known to be free of the event when this one had it."""
    tied_time: Int[np.ndarray, " patient"]
    """Those of them who were censored at that very time."""


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
    Harrell et al. 1982; Guinea-Pérez et al. 2026, section 2.4.3.
    """
    pairs = _pairs(*checked(risk, time, event))
    if pairs.comparable == 0:
        raise CohortError(
            f"no comparable pair among {len(time)} patients with {int(event.sum())} events: the c-index is undefined. "
            "Use fewer folds, or a longer follow-up"
        )
    return pairs


def comparable_pairs(*, time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"]) -> int:
    """Count the pairs by which a c-index of these patients would be judged."""
    return _pairs(*checked(np.zeros(len(time)), time, event)).comparable


def pair_counts(
    *, risk: Float[np.ndarray, " patient"], time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"]
) -> PairCounts:
    """Pairs of `harrell_c`, patient by patient, for measures that weigh events; arguments and errors as there."""
    return _counts(*checked(risk, time, event))


def _pairs(
    risk: Float[np.ndarray, " patient"], time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"]
) -> Concordance:
    """Count the pairs of each kind; c is NaN where there are none."""
    counts = _counts(risk, time, event)
    comparable, concordant = int(counts.comparable.sum()), int(counts.concordant.sum())
    tied = int(counts.tied_risk.sum())
    return Concordance(
        c=(concordant + 0.5 * tied) / comparable if comparable else float("nan"),
        concordant=concordant,
        discordant=comparable - concordant - tied,
        tied_risk=tied,
        comparable=comparable,
        tied_time=int(counts.tied_time.sum()),
    )


def _counts(
    risk: Float[np.ndarray, " patient"], time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"]
) -> PairCounts:
    """Count the pairs of each patient.

    In an order of falling time, those censored first at one time, an event's partners are all who come before it but
    the events of its own time. These stand by falling risk, so that none of them counts as a smaller one before it.
    """
    n = len(time)
    # sorted as whole numbers, which numpy does several times faster than by several keys
    rank, outcome = _dense_rank(risk), 2 * _dense_rank(-time) + event
    order = np.argsort(outcome * n + (n - 1 - rank))
    rank, outcome, died = rank[order], outcome[order], event[order]
    peers = _index_in_run(outcome)
    # rising risk, and from last to first among equals, so that an equal one before does not count as smaller
    rising = np.argsort(rank * n + np.arange(n)[::-1])
    equal = np.empty_like(peers)
    equal[rising[::-1]] = _index_in_run(rank[rising[::-1]])
    return PairCounts(
        concordant=_moved(_smaller_before(rising) * died, order),
        tied_risk=_moved((equal - _index_in_run(outcome * n + rank)) * died, order),
        comparable=_moved((np.arange(n) - peers) * died, order),
        tied_time=_moved((_index_in_run(outcome // 2) - peers) * died, order),
    )


def checked(
    risk: Float[np.ndarray, " patient"], time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"]
) -> tuple[Float[np.ndarray, " patient"], Float[np.ndarray, " patient"], Bool[np.ndarray, " patient"]]:
    """Risks and outcomes as arrays of one length.

    Raises
    ------
    UsageError
        If lengths differ or events are no booleans.
    CohortError
        If a time is not finite.
    TaskError
        If a risk is not finite.
    """
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


def _dense_rank(values: Float[np.ndarray, " patient"]) -> Int[np.ndarray, " patient"]:
    """Rank from 0, equal for equal values and without gaps."""
    order = np.argsort(values)
    ordered = values[order]
    steps = np.zeros(len(values), dtype=np.intp)
    steps[1:] = ordered[1:] != ordered[:-1]
    return _moved(np.cumsum(steps), order)


def _index_in_run(values: Int[np.ndarray, " patient"]) -> Int[np.ndarray, " patient"]:
    """How many values directly before each one equal it."""
    index = np.arange(len(values))
    starts = np.concatenate(([False], values[1:] != values[:-1]))[: len(values)]
    return index - np.maximum.accumulate(np.where(starts, index, 0))


def _smaller_before(rising: Int[np.ndarray, " patient"]) -> Int[np.ndarray, " patient"]:
    """How many of those before each position have a smaller value; `rising` holds the positions by rising value.

    Halves blocks of positions, from all of them down to `BLOCK`, keeping the order of values in each: whoever goes to the right
    half has before it all those that went left ahead of it. What is left of a block is compared pair by pair.
    """
    n = len(rising)
    blocks = -(-n // BLOCK)
    # positions beyond the last have the largest values, and count for nobody
    position = np.arange(blocks * BLOCK, dtype=np.int32)
    position[:n] = rising
    smaller = np.zeros(len(position), dtype=np.int32)
    for bit in reversed(range((BLOCK - 1).bit_length(), (n - 1).bit_length())):
        right = (position & (1 << bit)) != 0
        # blocks before this one are full, and half of each went left
        left_ahead = np.cumsum(~right, dtype=np.int32) - (position >> (bit + 1) << bit)
        smaller += left_ahead * right
        place = np.argsort(_narrow(position >> bit), kind="stable")
        position, smaller = position[place], smaller[place]
    return _moved(smaller + _smaller_in_block(position), position)[:n]


def _smaller_in_block(position: Int[np.ndarray, " patient"]) -> Int[np.ndarray, " patient"]:
    """How many of a block's positions, in order of their values, come before each and are lower."""
    # the same place of all blocks side by side
    within = (position % BLOCK).astype(np.int8).reshape(-1, BLOCK).T.copy()
    lower = np.zeros_like(within)
    for apart in range(1, BLOCK):
        lower[apart:] += within[:-apart] < within[apart:]
    return lower.T.ravel()


def _narrow(values: Int[np.ndarray, " patient"]) -> Int[np.ndarray, " patient"]:
    """The same in 16 bits, where they suffice: numpy sorts those by their digits."""
    return values.astype(np.uint16) if values.max(initial=0) < 2**16 else values


def _moved(values: Int[np.ndarray, " patient"], place: Int[np.ndarray, " patient"]) -> Int[np.ndarray, " patient"]:
    moved = np.empty_like(values)
    moved[place] = values
    return moved
