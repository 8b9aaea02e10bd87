"""Tells by how much a c-index changes when the same patients get other risks; knows nothing of how risks were made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from store_schema.errors import CohortError, UsageError
from trainer.metrics import harrell_c

MOST_DRAWS = 10
"""Draws for each resample asked for before so few usable ones are refused."""


@dataclass(frozen=True)
class CChange:
    """Change of Harrell's c, perturbed − base, with a paired percentile interval over patients."""

    base: float
    perturbed: float
    change: float
    low: float
    high: float
    p: float
    """Two-sided: twice the smaller share of resamples on one side of 0, the observed ones counted once, at most 1."""
    resamples: int
    redrawn: int
    """Resamples without a comparable pair: drawn again."""


def c_change(
    base: Float[np.ndarray, " patient"],
    perturbed: Float[np.ndarray, " patient"],
    *,
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    persons: Sequence[object],
    seed: int,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> CChange:
    """Change of Harrell's c by a bootstrap in which each resample of persons judges both series of risks.

    Conditional on the model: it is taken as it is, and how it would be if it were fitted on others is left out.

    Parameters
    ----------
    base, perturbed
        Log-risks of the same patients; higher is worse.
    time, event
        Their outcomes.
    persons
        Whose each row is: all rows of a person are drawn together.
    seed, resamples, confidence
        Of the draws, how many to have in the end, and the share of the middle ones.

    Raises
    ------
    CohortError
        If there is no comparable pair, or fewer than one resample in ten has one.
    UsageError
        If the persons are not one for each risk.
    """
    if len(persons) != len(base):
        raise UsageError(f"expected one person per row, got {len(persons)} for {len(base)}")

    def both(rows: Int[np.ndarray, " row"]) -> tuple[float, float]:
        first, second = (harrell_c(risk=risk[rows], time=time[rows], event=event[rows]).c for risk in (base, perturbed))
        return first, second

    before, after = both(np.arange(len(base)))
    changes: list[float] = []
    redrawn = 0
    for rows in _draws(persons, seed, MOST_DRAWS * resamples):
        try:
            first, second = both(rows)
        except CohortError:
            redrawn += 1
            continue
        changes.append(second - first)
        if len(changes) == resamples:
            break
    if len(changes) < resamples:
        raise CohortError(f"{redrawn} of {redrawn + len(changes)} resamples have no comparable pair: too few events")
    drawn = np.array(changes)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    side = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (1 + side) / (resamples + 1))
    return CChange(before, after, after - before, float(low), float(high), p, resamples, redrawn)


def _draws(persons: Sequence[object], seed: int, most: int) -> Iterator[Int[np.ndarray, " row"]]:
    """Rows of as many persons, drawn with replacement."""
    rows_of: dict[object, list[int]] = {}
    for row, person in enumerate(persons):
        rows_of.setdefault(person, []).append(row)
    groups = [np.array(rows, dtype=np.int64) for rows in rows_of.values()]
    rng = np.random.default_rng(seed)
    for _ in range(most):
        yield np.concatenate([groups[one] for one in rng.integers(len(groups), size=len(groups))])
