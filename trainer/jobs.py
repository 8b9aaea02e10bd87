"""Lists what a run has to fit: of every model, setting, fold and permutation; fits nothing and reads nothing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.config import RunConfig
from trainer.model_config import FittedModel, NetworkModel, RidgeCoxModel
from trainer.selection import Line, first_fold, kept_settings
from trainer.spec import FLAT_HEADS, Device
from trainer.task import Job, Part, Task
from trainer.task_results import InnerScore, JobResult


@dataclass(frozen=True)
class Pinned:
    """What every task of a run reads, by address and digest."""

    store_url: str | None
    """None for models without images."""
    run_url: str
    snapshots: Mapping[str, str]
    """Id of each view's snapshot, by the view's name in the config."""
    cohort_sha256: str
    splits_sha256: Mapping[int, str]
    """By permutation; 0 is the real outcomes."""


def first_jobs(config: RunConfig, *, permutations: Iterable[int], folds: int) -> tuple[Job, ...]:
    """Everything that can be fitted before any setting was chosen.

    Models without a search: every outer fold. With one: the inner folds of every setting (nested), every outer fold of every
    setting (paper's way), or both. With early pruning of these the first fold alone.

    Parameters
    ----------
    permutations
        0 for the real outcomes; of others only the permuted controls are fitted.
    folds
        Outer folds of all repeats.
    """
    return tuple(
        job
        for permutation in permutations
        for name, tried in config.candidates.items()
        if not permutation or name in config.permuted_models
        for job in _of_model(config, tried, permutation, folds)
    )


def kept_jobs(
    config: RunConfig,
    outer: Sequence[JobResult],
    inner: Sequence[InnerScore],
    *,
    permutations: Iterable[int],
    folds: int,
) -> tuple[Job, ...]:
    """With early pruning: the other folds of the settings that the first one kept; nothing without.

    Parameters
    ----------
    outer, inner
        Results of the first jobs.
    permutations, folds
        As of `first_jobs`.
    """
    if config.search.keep is None:
        return ()
    found: list[Job] = []
    for permutation in permutations:
        for name, tried in config.candidates.items():
            if (permutation and name not in config.permuted_models) or not _is_pruned(config, name):
                continue
            for fold in range(folds):
                scores = {one.candidate: one.c for one in inner if _is_first(one, name, permutation, fold)}
                for row in kept_settings(config, name, scores):
                    parts = range(1, config.search.inner_folds)
                    found += [
                        _job(config, tried, row, Part(permutation=permutation, fold=fold, inner=k)) for k in parts
                    ]
            if config.search.mode != "nested":
                for row in kept_settings(config, name, first_fold(config, outer, name, permutation)):
                    found += [_job(config, tried, row, Part(permutation=permutation, fold=k)) for k in range(1, folds)]
    return tuple(found)


def chosen_jobs(config: RunConfig, outer: Sequence[JobResult], lines: Sequence[Line]) -> tuple[Job, ...]:
    """Outer folds of the settings that inner folds chose, each once, without those that are done.

    Parameters
    ----------
    outer
        Results of the outer folds that were fitted before.
    lines
        Rows as far as their scores allow them.
    """
    done = {(found.model, found.candidate, found.permutation, found.fold) for found in outer}
    wanted = {
        (pick.model, pick.candidate, *place): None
        for line in lines
        if line.way == "nested"
        for place, pick in line.picks.items()
        if len(config.candidates[pick.model]) > 1
    }
    return tuple(
        outer_job(config, model, candidate, permutation=permutation, fold=fold)
        for model, candidate, permutation, fold in wanted
        if (model, candidate, permutation, fold) not in done
    )


def outer_job(config: RunConfig, model: str, candidate: int, *, permutation: int, fold: int) -> Job:
    """An outer fold of one setting of a model."""
    return _job(config, config.candidates[model], candidate, Part(permutation=permutation, fold=fold))


def tasks_of(config: RunConfig, jobs: Sequence[Job], pinned: Pinned) -> tuple[Task, ...]:
    """Tasks that do these jobs: those of one row that make a batched model together, every other job alone."""
    groups = grouped(jobs, most=config.fit_together, device=config.device)
    return tuple(_task(config, together, pinned) for together in groups)


def grouped(jobs: Sequence[Job], *, most: int, device: Device = "cpu") -> Iterator[tuple[Job, ...]]:
    """Jobs that are done together: at most so many networks of one model that make a batched model, every other job alone.

    On a CPU these are networks without a convolution, on a GPU all but those with mini-batches.

    Of permuted outcomes Cox models stand together too: a fit of theirs costs less than a task.

    Which stand together follows from the jobs alone, so that the same run makes the same groups on any number of workers.
    """
    together: dict[tuple[str, bool], list[Job]] = {}
    for job in jobs:
        permuted = job.part.permutation > 0
        if is_stacked(job.model, device) or (permuted and isinstance(job.model, RidgeCoxModel)):
            together.setdefault((job.model.name, permuted), []).append(job)
        else:
            yield (job,)
    for group in together.values():
        for start in range(0, len(group), most):
            yield tuple(group[start : start + most])


def is_stacked(model: FittedModel, device: Device) -> bool:
    """Whether many of the model are fitted as one batched model there."""
    if not isinstance(model, NetworkModel):
        return False
    if model.images is None or model.head in FLAT_HEADS:
        return True
    return device != "cpu" and model.fit.batch_size is None


def _task(config: RunConfig, jobs: Sequence[Job], pinned: Pinned) -> Task:
    views = sorted({job.model.view for job in jobs if job.model.view is not None})
    permutations = sorted({job.part.permutation for job in jobs})
    control = config.control if any(permutations) else None
    return Task(
        store_url=pinned.store_url if views else None,
        run_url=pinned.run_url,
        snapshots={view: pinned.snapshots[view] for view in views},
        preprocessing=config.preprocessing,
        jobs=tuple(jobs),
        inner_folds=config.search.inner_folds,
        permutation_seed=None if control is None else control.seed,
        device=config.device,
        permuted_within_centres=control is not None and config.splits.of_centres,
        cohort_sha256=pinned.cohort_sha256,
        splits_sha256={number: pinned.splits_sha256[number] for number in permutations},
    )


def _of_model(config: RunConfig, tried: Sequence[FittedModel], permutation: int, folds: int) -> Iterator[Job]:
    name, mode = tried[0].name, config.search.mode
    inner = config.is_chosen_from(name) and mode != "paper"
    outer = len(tried) == 1 or mode != "nested"
    pruned = _is_pruned(config, name)
    for fold in range(folds):
        for row in range(len(tried)):
            if outer and (not pruned or not fold):
                yield _job(config, tried, row, Part(permutation=permutation, fold=fold))
            if inner:
                for part in range(1 if pruned else config.search.inner_folds):
                    yield _job(config, tried, row, Part(permutation=permutation, fold=fold, inner=part))


def _is_pruned(config: RunConfig, name: str) -> bool:
    return config.search.keep is not None and len(config.candidates[name]) > 1


def _is_first(score: InnerScore, name: str, permutation: int, fold: int) -> bool:
    return (score.model, score.permutation, score.fold, score.inner) == (name, permutation, fold, 0)


def _job(config: RunConfig, tried: Sequence[FittedModel], row: int, part: Part) -> Job:
    return Job(model=tried[row], candidate=row, part=part, seed=_seed(config, part))


def _seed(config: RunConfig, part: Part) -> int:
    """Own stream for each part; models and settings share it, and none depends on its place in the config."""
    inner = () if part.inner is None else (1 + part.inner,)
    return int(np.random.SeedSequence([config.seed, part.permutation, part.fold, *inner]).generate_state(1)[0])
