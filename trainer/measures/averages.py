"""Averages measures over test parts and repeats; knows nothing of what the figures mean."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from store_schema.errors import CohortError, TaskError
from trainer.measures.brier import brier_scores
from trainer.measures.dynamic_auc import dynamic_auc
from trainer.measures.predictions import Dealing, JudgedFold
from trainer.measures.row_measures import Estimate

Figure = tuple[float, float | None, float | None]
"""Value and ends of its interval."""


def estimated(figure: Callable[[], Figure]) -> Estimate:
    """Figure with its interval, or why the patients or the model allow none."""
    try:
        value, low, high = figure()
    except (CohortError, TaskError) as error:
        return Estimate(reason=str(error))
    return Estimate(value=value, low=low, high=high)


def over_repeats(repeats: Sequence[Dealing], figure: Callable[[Dealing], Figure]) -> Estimate:
    """Mean of a figure, and of the ends of its interval, over repeats; a reason where one repeat has none."""

    def mean() -> Figure:
        values, low, high = zip(*(figure(repeat) for repeat in repeats), strict=True)
        return float(np.mean(values)), mean_or_none(low), mean_or_none(high)

    return estimated(mean)


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """Mean of values that are all there."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def brier_over(
    folds: Sequence[JudgedFold], times: Float[np.ndarray, " time"]
) -> tuple[Float[np.ndarray, " time"], Float[np.ndarray, " time"]]:
    """Brier scores over the patients of all test parts, of the model and of the training parts' Kaplan-Meier curves.

    Parameters
    ----------
    times
        Within the follow-up of every training part.
    """
    sizes = [len(fold.time) for fold in folds]
    scores = []
    for fold in folds:
        everybody = np.tile(fold.same_for_all(times), (len(fold.time), 1))
        scores.append([_brier(fold, survival, times) for survival in (fold.survival(times), everybody)])
    model, reference = np.average(np.array(scores), axis=0, weights=sizes)
    return model, reference


def auc_over(folds: Sequence[JudgedFold], times: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
    """AUC at each time over all pairs of patients of one test part; NaN where there is none."""
    right, pairs = np.zeros(len(times)), np.zeros(len(times))
    for fold in folds:
        try:
            found = dynamic_auc(risk=fold.risk, time=fold.time, event=fold.event, times=times, censoring=fold.censoring)
        except CohortError:
            # no pair in this test part: it has no weight
            continue
        place = np.searchsorted(times, found.times)
        right[place] += found.auc * found.pairs
        pairs[place] += found.pairs
    return np.asarray(np.divide(right, pairs, out=np.full(len(times), np.nan), where=pairs > 0))


def _brier(
    fold: JudgedFold, survival: Float[np.ndarray, "test time"], times: Float[np.ndarray, " time"]
) -> Float[np.ndarray, " time"]:
    return brier_scores(
        survival=survival, time=fold.time, event=fold.event, times=times, censoring=fold.censoring
    ).score
