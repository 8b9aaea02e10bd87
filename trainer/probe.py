"""Estimates how long a run will take by fitting a little of each kind of model; keeps no result and writes nothing."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.cohort import Cohort
from trainer.features import images_of
from trainer.fold import fold_of
from trainer.jobs import first_jobs
from trainer.judging import Asked, judge
from trainer.model_config import FittedModel, NetworkModel
from trainer.part_data import PartData
from trainer.plan import Plan
from trainer.task import Job

PROBE_EPOCHS = 2


@dataclass(frozen=True)
class Estimate:
    """What the fits of one model will cost."""

    model: str
    fits: int
    """Of every setting, fold and permutation; of a nested search also those of the settings chosen at last."""
    seconds_each: float
    """On one thread, at most: fits stop early."""

    @property
    def seconds(self) -> float:
        """Of all fits, on one thread."""
        return self.fits * self.seconds_each


def estimate(plan: Plan) -> tuple[Estimate, ...]:
    """What each model of a plan will cost, by a timed fit of few epochs of its first setting in the first fold.

    Small networks are fitted one at a time here and together in the run, so that their estimate is too long.
    """
    config = plan.config
    jobs = first_jobs(config, permutations=plan.splits, folds=len(plan.splits[0]))
    return tuple(
        Estimate(model.name, _fits(plan, model, jobs), _seconds(plan, model)) for model in config.fitted_models
    )


def _fits(plan: Plan, model: FittedModel, jobs: Sequence[Job]) -> int:
    mine = [job for job in jobs if job.model.name == model.name]
    chosen_later = plan.config.search.mode == "nested" and len(plan.config.candidates[model.name]) > 1
    folds = {(job.part.permutation, job.part.fold) for job in mine}
    return len(mine) + (len(folds) if chosen_later else 0)


def _seconds(plan: Plan, model: FittedModel) -> float:
    candidate = plan.config.candidates[model.name][0]
    if not isinstance(candidate, NetworkModel):
        return _timed(plan, candidate)
    most = candidate.fit.epochs
    few = [candidate.model_copy(update={"fit": _shortened(candidate, epochs)}) for epochs in (1, 1 + PROBE_EPOCHS)]
    # the first fit of a process also loads what all others share
    _timed(plan, few[0])
    once, longer = (_timed(plan, one) for one in few)
    each = max(longer - once, 0.0) / PROBE_EPOCHS
    return once + each * (most - 1)


def _shortened(model: NetworkModel, epochs: int) -> object:
    return model.fit.model_copy(update={"epochs": epochs, "min_epochs": 1, "min_validation_events": 1})


def _timed(plan: Plan, model: FittedModel) -> float:
    cohort: Cohort = plan.cohort
    part = first_jobs(plan.config, permutations=[0], folds=1)[0].part.model_copy(update={"inner": None})
    images = None
    if model.view is not None and plan.store is not None:
        snapshot = next(pin.snapshot.id for pin in plan.pins if pin.view == model.view)
        images = images_of(model, plan.store.url, snapshot, cohort.patients)
    data = PartData.of(
        model,
        cohort=cohort,
        fold=fold_of(part, cohort, plan.splits[0], plan.config.search.inner_folds),
        stream=(0,),
        split_seed=plan.splits[0].seed,
        rules=plan.config.preprocessing,
        images=images,
    )
    seed = int(np.random.SeedSequence([plan.config.seed]).generate_state(1)[0])
    start = time.perf_counter()
    (answer,) = judge([Asked(model, seed, data)])
    if isinstance(answer, Exception):
        raise answer
    return time.perf_counter() - start
