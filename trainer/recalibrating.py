"""Recalibrates a frozen model by some patients of another cohort and judges it on the others; fits no model."""

import numpy as np
from jaxtyping import Bool, Float, Int

from store_schema.errors import CohortError, TaskError
from trainer.baseline_hazard import BreslowBaseline
from trainer.cohort import Cohort
from trainer.dealing import deal
from trainer.measures.predictions import JudgedFold
from trainer.measures.recalibration import in_the_large, refitted, rescaled
from trainer.validation_results import BY_FIFTHS, IN_THE_LARGE, Recalibration

PARTS = 5
"""Into which a cohort is dealt to judge a recalibration on patients that it was not made from."""


def judged_part(
    risk: Float[np.ndarray, " patient"],
    baseline: BreslowBaseline,
    cohort: Cohort,
    rows: Int[np.ndarray, " judged"],
    others: Int[np.ndarray, " other"],
) -> JudgedFold:
    """These rows judged, the follow-up of the others known."""
    return JudgedFold(
        repeat=0,
        risk=risk[rows],
        time=cohort.time[rows],
        event=cohort.event[rows],
        baseline=baseline,
        train_time=cohort.time[others],
        train_event=cohort.event[others],
    )


def fifths(
    way: str, cohort: Cohort, risk: Float[np.ndarray, " patient"], baseline: BreslowBaseline, *, seed: list[int]
) -> list[JudgedFold]:
    """Each fifth of the patients, judged as the model is or by a recalibration from the others.

    Raises
    ------
    CohortError, TaskError
        If a fifth allows no judgement, or the others no recalibration.
    """
    folds = []
    for number, part in enumerate(_parts(cohort, seed), start=1):
        rows, others = np.flatnonzero(part), np.flatnonzero(~part)
        slope, remade = 1.0, baseline
        if way != BY_FIFTHS:
            try:
                slope, remade = _remade(way, baseline, risk[others], cohort.time[others], cohort.event[others])
            except (CohortError, TaskError) as error:
                raise CohortError(f"without fifth {number}: {error}") from error
        folds.append(judged_part(slope * risk, remade, cohort, rows, others))
    return folds


def _remade(
    way: str,
    baseline: BreslowBaseline,
    risk: Float[np.ndarray, " patient"],
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
) -> tuple[float, BreslowBaseline]:
    """What log-risks are multiplied by, and the baseline hazard that goes with them."""
    if way == IN_THE_LARGE:
        return 1.0, rescaled(baseline, in_the_large(baseline, risk=risk, time=time, event=event).ratio)
    found, remade = refitted(risk=risk, time=time, event=event)
    if found.slope <= 0:
        raise CohortError(
            f"the slope is {found.slope:.2f}: the model ranks these patients the wrong way round, or not at all"
        )
    return found.slope, remade


def _parts(cohort: Cohort, seed: list[int]) -> list[Bool[np.ndarray, " patient"]]:
    persons = cohort.person if len(set(cohort.person)) < len(cohort) else None
    number = deal(cohort.time, cohort.event, folds=PARTS, rng=np.random.default_rng(seed), groups=persons)
    return [number == part for part in range(PARTS)]


def recalibration(baseline: BreslowBaseline, cohort: Cohort, risk: Float[np.ndarray, " patient"]) -> Recalibration:
    """What would bring the model's curves in line with these patients, estimated on all of them.

    Raises
    ------
    CohortError
        If there is no event, or none is expected.
    """
    time, event = cohort.time, cohort.event
    large = in_the_large(baseline, risk=risk, time=time, event=event)
    found = Recalibration(observed_over_expected=large.ratio, low=large.low, high=large.high)
    try:
        slope, _ = refitted(risk=risk, time=time, event=event)
    except (CohortError, TaskError) as error:
        return found.model_copy(update={"reason": str(error)})
    return found.model_copy(update={"slope": slope.slope, "slope_low": slope.low, "slope_high": slope.high})
