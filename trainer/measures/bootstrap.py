"""Tells how a figure varies between samples of persons; knows nothing of models, which it takes as they are."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from store_schema.errors import CohortError, UsageError
from trainer.metrics import checked, harrell_c

MOST_ROWS = 1500
"""Above, the table of all pairs costs more memory and time than sorting each resample."""
BLOCK = 250
"""Resamples drawn at once."""
MOST_DRAWS = 10
"""Draws for each resample asked for before so few usable ones are refused."""

Statistic = Callable[[Int[np.ndarray, " row"]], float]
Values = Callable[[Int[np.ndarray, "resample row"]], Float[np.ndarray, " resample"]]


@dataclass(frozen=True)
class BootstrapInterval:
    """Percentile interval of a figure over resamples of persons."""

    low: float
    high: float
    confidence: float
    resamples: int
    """Resamples that gave a value."""
    redrawn: int
    """Resamples without one, such as those without a comparable pair: drawn again."""


def bootstrap(
    statistic: Statistic,
    *,
    persons: Sequence[object],
    seed: int | Sequence[int],
    resamples: int = 1000,
    confidence: float = 0.95,
) -> BootstrapInterval:
    """Interval of a figure over samples of as many persons, drawn with replacement, each with all of its rows.

    It is conditional on the fitted models: predictions are taken as given, so that it tells how the figure varies with
    the patients judged, and leaves out how models would differ if they were fitted on others.

    Parameters
    ----------
    statistic
        Figure of the rows it is given, with repeats; one for which it raises CohortError is drawn again.
    persons
        Whose each row is.
    seed
        Of the draws.
    resamples
        How many to have in the end.
    confidence
        Share of the middle resamples.

    Raises
    ------
    CohortError
        If fewer than one draw in ten has a value.
    UsageError
        If there is no row, no resample, or the confidence is no share.

    References
    ----------
    Efron and Tibshirani 1993, chapter 13; whole persons: Field and Welsh 2007.
    """

    def values(counts: Int[np.ndarray, "resample row"]) -> Float[np.ndarray, " resample"]:
        return np.array([_value(statistic, row) for row in counts])

    return _interval(values, persons, seed, resamples, confidence)


def bootstrap_c(
    *,
    risk: Float[np.ndarray, " patient"],
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    persons: Sequence[object],
    seed: int | Sequence[int],
    resamples: int = 1000,
    confidence: float = 0.95,
) -> BootstrapInterval:
    """Interval of Harrell's c over resamples of persons; the same numbers as `bootstrap`, faster.

    Conditional on the fitted models, as `bootstrap` says.

    Parameters
    ----------
    risk
        Log-risks of all patients on one scale; higher is worse.
    time, event
        Their outcomes.
    persons, seed, resamples, confidence
        As of `bootstrap`.

    Raises
    ------
    CohortError
        If fewer than one resample in ten has a comparable pair.
    UsageError, TaskError
        As in `trainer.metrics.harrell_c`, and as `bootstrap`.
    """
    risk, time, event = checked(risk, time, event)
    if len(persons) != len(risk):
        raise UsageError(f"expected one person per row, got {len(persons)} for {len(risk)}")
    if len(risk) > MOST_ROWS:

        def c_of(rows: Int[np.ndarray, " row"]) -> float:
            return harrell_c(risk=risk[rows], time=time[rows], event=event[rows]).c

        return bootstrap(c_of, persons=persons, seed=seed, resamples=resamples, confidence=confidence)
    return _interval(_c_of_counts(risk, time, event), persons, seed, resamples, confidence)


def _c_of_counts(
    risk: Float[np.ndarray, " patient"], time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"]
) -> Values:
    """Values of c from how often a resample holds each row: a pair counts as often as both its rows together."""
    later = (time > time[:, np.newaxis]) | ((time == time[:, np.newaxis]) & ~event)
    comparable = (event[:, np.newaxis] & later).astype(np.float64)
    right = comparable * ((risk[:, np.newaxis] > risk) + 0.5 * (risk[:, np.newaxis] == risk))

    def values(counts: Int[np.ndarray, "resample row"]) -> Float[np.ndarray, " resample"]:
        weight = counts.astype(np.float64)
        ordered, pairs = (((weight @ table) * weight).sum(axis=1) for table in (right, comparable))
        return np.asarray(np.divide(ordered, pairs, out=np.full(len(weight), np.nan), where=pairs > 0))

    return values


def _interval(
    values: Values, persons: Sequence[object], seed: int | Sequence[int], resamples: int, confidence: float
) -> BootstrapInterval:
    if len(persons) == 0 or resamples < 1 or not 0 < confidence < 1:
        raise UsageError(
            f"expected rows, resamples and a confidence between 0 and 1, got {len(persons)}, {resamples}, {confidence}"
        )
    found: list[float] = []
    redrawn = 0
    for counts in _draws(persons, seed, MOST_DRAWS * resamples):
        drawn = values(counts)
        # what was drawn after the last one needed was not needed
        usable = np.flatnonzero(~np.isnan(drawn))[: resamples - len(found)]
        found.extend(drawn[usable].tolist())
        enough = len(found) == resamples
        redrawn += int(np.isnan(drawn[: usable[-1] + 1] if enough else drawn).sum())
        if enough:
            break
    if len(found) < resamples:
        raise CohortError(
            f"{redrawn} of {redrawn + len(found)} resamples have no value: too few events for an interval"
        )
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return BootstrapInterval(float(low), float(high), confidence, resamples, redrawn)


def _draws(
    persons: Sequence[object], seed: int | Sequence[int], most: int
) -> Iterator[Int[np.ndarray, "resample row"]]:
    """How often each row is in each resample, block by block."""
    number: dict[object, int] = {}
    member = np.array([number.setdefault(person, len(number)) for person in persons])
    rng, people = np.random.default_rng(seed), len(number)
    for start in range(0, most, BLOCK):
        size = min(BLOCK, most - start)
        drawn = rng.integers(people, size=(size, people)) + people * np.arange(size)[:, np.newaxis]
        counts = np.bincount(drawn.ravel(), minlength=size * people).reshape(size, people)
        yield counts[:, member]


def _value(statistic: Statistic, counts: Int[np.ndarray, " row"]) -> float:
    try:
        return statistic(np.repeat(np.arange(len(counts)), counts))
    except CohortError:
        # such a resample is drawn again, and counted
        return float("nan")
