"""Does a task: fits and judges its jobs and writes the result once; knows nothing of other tasks or of how they spread."""

import time
from collections.abc import Hashable
from functools import cached_property

import numpy as np

from store_schema.errors import EngramError, TaskError
from trainer.baseline_hazard import BreslowBaseline
from trainer.cohort import Cohort
from trainer.features import images_of, read_ahead
from trainer.judging import Asked, Judged, judge
from trainer.metrics import harrell_c
from trainer.model_config import NetworkModel
from trainer.part_data import PartData
from trainer.run_folder import RunFolder, read_cohort, read_run_splits, task_name
from trainer.splits import Fold, Splits, inner_folds
from trainer.stored_images import StoredImages
from trainer.task import Job, Part, Task
from trainer.task_results import InnerScore, JobFault, JobResult, TaskResult, parse_result


class TaskData:
    """Reads what the jobs of a task need, each thing once."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._parts: dict[Hashable, PartData] = {}
        self._read: dict[Hashable, StoredImages | None] = {}
        self._cohorts: dict[int, Cohort] = {}

    @cached_property
    def cohort(self) -> Cohort:
        """Everybody, with the real outcomes."""
        return read_cohort(self._task.run_url, self._task.cohort_sha256)

    def cohort_of(self, permutation: int) -> Cohort:
        """Everybody, with the outcomes of a permutation."""
        if not permutation:
            return self.cohort
        if self._task.permutation_seed is None:
            raise TaskError(f"{self._task.label} names a permutation and no seed for it")
        if permutation not in self._cohorts:
            seed, within = [self._task.permutation_seed, permutation], self._task.permuted_within_centres
            self._cohorts[permutation] = self.cohort.permuted(seed, within_centres=within)
        return self._cohorts[permutation]

    def data(self, job: Job) -> PartData:
        """What a job is fitted and judged on; the same object for jobs that differ in settings of the fit alone."""
        place = (job.part, *_reads(job), job.model.clinical)
        if place not in self._parts:
            self._parts[place] = self._made(job)
        return self._parts[place]

    def _made(self, job: Job) -> PartData:
        task, part = self._task, job.part
        cohort = self.cohort_of(part.permutation)
        splits = read_run_splits(task.run_url, part.permutation, task.splits_sha256[part.permutation]).check(cohort)
        return PartData.of(
            job.model,
            cohort=cohort,
            fold=fold_of(part, cohort, splits, task.inner_folds),
            stream=(part.fold,) if part.inner is None else (part.fold, 1 + part.inner),
            split_seed=splits.seed,
            rules=task.preprocessing,
            images=self._images(job),
        )

    def _images(self, job: Job) -> StoredImages | None:
        place = self._place(job)
        if place is None:
            return None
        # read once for all parts, also where the process keeps nothing
        wanted = _reads(job)
        if wanted not in self._read:
            self._read[wanted] = images_of(job.model, *place, self.cohort.patients)
        return self._read[wanted]

    def _place(self, job: Job) -> tuple[str, str] | None:
        """Store and snapshot that a job reads; None for a model without images."""
        view = job.model.view
        if view is None:
            return None
        if self._task.store_url is None or view not in self._task.snapshots:
            raise TaskError(f"{job.label} reads images, and the task names no store and snapshot")
        return self._task.store_url, self._task.snapshots[view]

    def read_ahead(self) -> bool:
        """Have the process keep what the jobs read, as far as there is room; whether it keeps all of it."""
        places = [(job, self._place(job)) for job in self._task.jobs]
        return all(place is None or read_ahead(job.model, *place, self.cohort.patients) for job, place in places)


def reads(task: Task) -> frozenset[Hashable]:
    """What the matrices that a task reads follow from; empty where it reads none."""
    return frozenset(
        (task.store_url, task.snapshots.get(job.model.view), *_reads(job)) for job in task.jobs if job.model.view
    )


def _reads(job: Job) -> tuple[Hashable, ...]:
    """What the images of a job follow from."""
    model = job.model
    return model.view, model.images, model.head if isinstance(model, NetworkModel) else model.kind


def fold_of(part: Part, cohort: Cohort, splits: Splits, inner: int) -> Fold:
    """Who trains and who is judged; of an inner part both are of the outer training part."""
    outer = splits.fold(part.fold)
    return outer if part.inner is None else inner_folds(cohort, outer, folds=inner, seed=splits.seed)[part.inner]


def run_task(task: Task) -> TaskResult:
    """Result of a task: the one that its run folder holds, or a new one, written there.

    The same task gives the same numbers in any process on machines alike: it computes on one thread, from its own
    seeds, and what it reads is pinned by digests. Done twice at once, the first to finish writes.

    A job that cannot be fitted (too few events, a fit that diverges) is part of the result: another try would end the same way.

    Raises
    ------
    StoreError
        If the store or the run folder does not hold what was pinned, or cannot be read or written.
    """
    folder = RunFolder.open(task.run_url)
    name = task_name(task.id)
    done = folder.read(name)
    if done is None:
        result = _done(task)
        if folder.write_once(name, result.to_json()):
            return result
        done = folder.location.get(name)
    return parse_result(done, where=f"{folder.url}/{name}", task_id=task.id)


def _done(task: Task) -> TaskResult:
    start = time.perf_counter()
    data = TaskData(task)
    asked = [Asked(job.model, job.seed, data.data(job)) for job in task.jobs]
    answers = judge(asked, device=task.device)
    # what is fitted together costs each its share
    seconds = (time.perf_counter() - start) / len(asked)
    outer: list[JobResult] = []
    inner: list[InnerScore] = []
    faults: list[JobFault] = []
    for job, one, answer in zip(task.jobs, asked, answers, strict=True):
        if job.part.inner is not None:
            inner.append(_inner(job, one.data, answer, seconds))
        elif isinstance(answer, Judged):
            outer.append(_outer(job, one.data, answer, seconds))
        else:
            faults.append(_fault(job, answer))
    return TaskResult(task_id=task.id, outer=tuple(outer), inner=tuple(inner), faults=tuple(faults))


def _fault(job: Job, error: EngramError) -> JobFault:
    return JobFault(
        model=job.model.name,
        candidate=job.candidate,
        permutation=job.part.permutation,
        fold=job.part.fold,
        reason=f"{type(error).__name__}: {error}",
    )


def _inner(job: Job, data: PartData, answer: Judged | EngramError, seconds: float) -> InnerScore:
    assert job.part.inner is not None
    test, fault, best_epoch = None, None, None
    if isinstance(answer, Judged):
        time_, event = data.outcome(data.fold.test)
        test = harrell_c(risk=answer.test_risk, time=time_, event=event)
        best_epoch = None if answer.curves is None else answer.curves.best_epoch
    else:
        fault = f"{type(answer).__name__}: {answer}"
    return InnerScore(
        model=job.model.name,
        candidate=job.candidate,
        permutation=job.part.permutation,
        fold=job.part.fold,
        inner=job.part.inner,
        c=None if test is None else test.c,
        comparable=None if test is None else test.comparable,
        fault=fault,
        best_epoch=best_epoch,
        seconds=seconds,
    )


def _outer(job: Job, data: PartData, judged: Judged, seconds: float) -> JobResult:
    (test_time, test_event), (train_time, train_event) = data.outcome(data.fold.test), data.outcome(data.fold.train)
    test = harrell_c(risk=judged.test_risk, time=test_time, event=test_event)
    train = harrell_c(risk=judged.train_risk, time=train_time, event=train_event)
    equal = np.ptp(judged.train_risk) == 0
    return JobResult(
        model=job.model.name,
        candidate=job.candidate,
        permutation=job.part.permutation,
        fold=data.fold.index,
        repeat=data.fold.repeat,
        c=test.c,
        concordant=test.concordant,
        discordant=test.discordant,
        tied_risk=test.tied_risk,
        comparable=test.comparable,
        patients=data.fold.test,
        log_risk=tuple(judged.test_risk.tolist()),
        alpha=None if judged.alpha is None else tuple(judged.alpha.tolist()),
        train_mean=float(judged.train_risk.mean()),
        train_sd=0.0 if equal else float(judged.train_risk.std()),
        train_c=train.c,
        train_patients=len(train_time),
        train_events=int(train_event.sum()),
        test_events=int(test_event.sum()),
        baseline=BreslowBaseline.fit(risk=judged.train_risk, time=train_time, event=train_event),
        curves=judged.curves,
        coefficients=judged.coefficients,
        penalty=judged.penalty,
        selection=None if judged.selection is None else judged.selection.model_dump(mode="json"),
        preprocessing=None if data.preprocessor is None else data.preprocessor.to_dict(),
        seconds=seconds,
    )
