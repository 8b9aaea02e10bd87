"""Deals patients into folds that agree in events and times; knows nothing of ids, files or what folds are for."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from store_schema.errors import CohortError

Method = Literal["blocks", "quantiles"]
TIME_QUANTILES = 4


def deal(
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    *,
    folds: int,
    rng: np.random.Generator,
    method: Method = "blocks",
    groups: Sequence[str] | None = None,
) -> Int[np.ndarray, " patient"]:
    """Assign each patient to a fold, 0 … folds - 1.

    Parameters
    ----------
    time, event
        What is balanced between folds.
    folds
        How many.
    rng
        Source of every draw.
    method
        ``blocks``: sort by (event, time), deal each run of `folds` neighbours one to a fold at random. Fold sizes
        differ by at most 1 and numbers of events by at most 2, and times agree most closely. ``quantiles``: deal
        within each stratum of event-by-time quarter at random, as the paper describes it.
    groups
        Patients with one label stay in one fold; the largest group goes first, each to the fold in which it leaves
        the strata of event-by-time quarter most even. The method then makes no difference.

    Raises
    ------
    CohortError
        If there are fewer groups than folds.

    References
    ----------
    Protocol section 5; Guinea-Pérez et al. 2026, section 2.4.1 (event and approximate time quantiles).
    """
    if groups is not None:
        return _deal_groups(_strata(time, event), groups, folds, rng)
    if method == "quantiles":
        return _deal_strata(_strata(time, event), folds, rng)
    return _deal_blocks(np.lexsort((time, event)), folds, rng)


def _deal_blocks(
    order: Int[np.ndarray, " patient"], folds: int, rng: np.random.Generator
) -> Int[np.ndarray, " patient"]:
    number = np.empty(len(order), dtype=np.int64)
    for start in range(0, len(order), folds):
        block = order[start : start + folds]
        number[block] = rng.permutation(folds)[: len(block)]
    return number


def _strata(time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"]) -> Int[np.ndarray, " patient"]:
    cuts = np.quantile(time, np.arange(1, TIME_QUANTILES) / TIME_QUANTILES)
    return event.astype(np.int64) * TIME_QUANTILES + np.searchsorted(cuts, time, side="left")


def _deal_strata(
    strata: Int[np.ndarray, " patient"], folds: int, rng: np.random.Generator
) -> Int[np.ndarray, " patient"]:
    # shuffled within strata, then dealt on through their borders, so that fold sizes differ by at most 1
    order = np.lexsort((rng.permutation(len(strata)), strata))
    return _deal_blocks(order, folds, rng)


def _deal_groups(
    strata: Int[np.ndarray, " patient"], groups: Sequence[str], folds: int, rng: np.random.Generator
) -> Int[np.ndarray, " patient"]:
    names, member = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    if len(names) < folds:
        raise CohortError(
            f"{len(names)} groups ({', '.join(names)}) cannot be dealt into {folds} folds: use at most {len(names)}"
        )
    counts = np.zeros((len(names), 2 * TIME_QUANTILES), dtype=np.int64)
    np.add.at(counts, (member, strata), 1)
    fold_of = np.empty(len(names), dtype=np.int64)
    filled = np.zeros((folds, 2 * TIME_QUANTILES), dtype=np.int64)
    for group in np.lexsort((rng.permutation(len(names)), -counts.sum(axis=1))):
        fold_of[group] = _evenest(filled, counts[group], rng)
        filled[fold_of[group]] += counts[group]
    return fold_of[member]


def _evenest(
    filled: Int[np.ndarray, "fold stratum"], group: Int[np.ndarray, " stratum"], rng: np.random.Generator
) -> int:
    """Fold whose stratum counts and size stay most even with the group; empty folds come first."""
    growth = (2 * filled @ group) + 2 * filled.sum(axis=1) * group.sum()
    empty = filled.sum(axis=1) == 0
    allowed = np.flatnonzero(empty) if empty.any() else np.arange(len(filled))
    best = allowed[growth[allowed] == growth[allowed].min()]
    return int(rng.choice(best))
