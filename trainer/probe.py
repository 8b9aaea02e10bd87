"""Estimates how long a run will take by fitting a little of each kind of model; keeps no result and writes nothing."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.features import images_of
from trainer.jobs import first_jobs
from trainer.judging import Asked, judge
from trainer.model_config import FittedModel, NetworkModel
from trainer.part_data import PartData
from trainer.plan import Plan
from trainer.spec import FitConfig
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


def estimate(plan: Plan, *, known: Mapping[str, float] | None = None) -> tuple[Estimate, ...]:
    """What each model of a plan will cost, by a timed fit of few epochs of its first setting in the first fold.

    Models that differ only in what they look at (region, which single modality) cost the same, and one of them is timed. Small
    networks are fitted one at a time here and together in the run, so that their estimate is too long.

    Parameters
    ----------
    known
        Seconds of a fit by the name of the model, where they were measured before: nothing is timed for these.

    Raises
    ------
    CohortError, TaskError
        If a fit fails.
    StoreError
        If the store does not hold what is read.
    """
    # early pruning leaves out fits that nobody can foresee: the estimate is without it
    config = plan.config.model_copy(update={"search": plan.config.search.model_copy(update={"keep": None})})
    jobs = first_jobs(config, permutations=plan.splits, folds=len(plan.splits[0]))
    timed: dict[str, float] = {}
    measured = {} if known is None else known
    found = []
    for model in config.fitted_models:
        if model.name in measured:
            found.append(Estimate(model.name, _fits(plan, model, jobs), measured[model.name]))
            continue
        shape = _shape(config.candidates[model.name][0])
        if shape not in timed:
            timed[shape] = _seconds(plan, config.candidates[model.name][0])
        found.append(Estimate(model.name, _fits(plan, model, jobs), timed[shape]))
    return tuple(found)


def _shape(model: FittedModel) -> str:
    """What the cost of a fit depends on."""
    settings = model.model_dump(exclude={"name", "facets", "images", "search"})
    images = model.images
    return str((settings, None if images is None else (len(images.modalities), images.pool)))


def _fits(plan: Plan, model: FittedModel, jobs: Sequence[Job]) -> int:
    mine = [job for job in jobs if job.model.name == model.name]
    chosen_later = plan.config.search.mode == "nested" and len(plan.config.candidates[model.name]) > 1
    folds = {(job.part.permutation, job.part.fold) for job in mine}
    return len(mine) + (len(folds) if chosen_later else 0)


def _seconds(plan: Plan, model: FittedModel) -> float:
    data = _first_fold(plan, model)
    if not isinstance(model, NetworkModel):
        return _timed(plan, model, data)
    few = [model.model_copy(update={"fit": _shortened(model, epochs)}) for epochs in (1, 1 + PROBE_EPOCHS)]
    # the first fit of a process also loads what all others share
    _timed(plan, few[0], data)
    once, longer = (_timed(plan, one, data) for one in few)
    each = max(longer - once, 0.0) / PROBE_EPOCHS
    return once + each * (model.fit.epochs - 1)


def _shortened(model: NetworkModel, epochs: int) -> FitConfig:
    return model.fit.model_copy(update={"epochs": epochs, "min_epochs": 1, "min_validation_events": 1})


def _first_fold(plan: Plan, model: FittedModel) -> PartData:
    images = None
    if model.view is not None and plan.store is not None:
        snapshot = next(pin.snapshot.id for pin in plan.pins if pin.view == model.view)
        images = images_of(model, plan.store.url, snapshot, plan.cohort.patients)
    return PartData.of(
        model,
        cohort=plan.cohort,
        fold=plan.splits[0].fold(0),
        stream=(0,),
        split_seed=plan.splits[0].seed,
        rules=plan.config.preprocessing,
        images=images,
    )


def _timed(plan: Plan, model: FittedModel, data: PartData) -> float:
    start = time.perf_counter()
    (answer,) = judge([Asked(model, plan.config.seed, data)], device=plan.config.device)
    if isinstance(answer, Exception):
        raise answer
    return time.perf_counter() - start
