"""Fits and judges one fold of one model, and writes the result once; knows nothing of other tasks or of how they spread."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from store_schema.errors import TaskError
from trainer.batch import Batch
from trainer.cohort import Cohort
from trainer.config import NetworkModel, RidgeCoxModel
from trainer.cox import RidgeCox
from trainer.dealing import deal
from trainer.epochs import choose_epochs
from trainer.features import mean_maps, pooled
from trainer.fit import Fitted, fit_model
from trainer.metrics import harrell_c
from trainer.preprocess import ClinicalPreprocessor
from trainer.results import Curves, TaskResult, parse_result
from trainer.run_folder import RunFolder, read_cohort, read_run_splits, task_name
from trainer.splits import Fold, inner_split
from trainer.task import Task

EPOCH_STREAM = 2
"""Keeps the parts that choose a number of epochs apart from outer (0) and inner (1) splits."""
EPOCH_PARTS = 5


@dataclass(frozen=True, eq=False)
class Judged:
    """What a fitted model says of both parts of a fold."""

    train_risk: Float[np.ndarray, " train"]
    """Log-risks of all outer-training patients, in evaluation mode."""
    test_risk: Float[np.ndarray, " test"]
    """Log-risks of the test patients."""
    alpha: Float[np.ndarray, " test"] | None = None
    """Gate's weight of the first modality."""
    curves: Curves | None = None
    """How a network's fit went."""
    coefficients: dict[str, float] | None = None
    """Of a linear model."""


class FoldData:
    """Features and outcomes of a fold's patients; covariates are preprocessed by its training part alone."""

    def __init__(self, task: Task) -> None:
        self.cohort = _outcomes(task)
        splits = read_run_splits(task.run_url, task.permutation, task.splits_sha256).check(self.cohort)
        self.fold: Fold = splits.fold(task.fold)
        self.split_seed = splits.seed
        self.preprocessor: ClinicalPreprocessor | None = None
        if task.model.clinical:
            training = self.cohort.frame.loc[list(self.fold.train)]
            self.preprocessor = ClinicalPreprocessor.fit(training, task.preprocessing)
        self._maps = _maps(task, self.cohort)

    def outcome(self, patients: Sequence[str]) -> tuple[Float[np.ndarray, " patient"], Bool[np.ndarray, " patient"]]:
        """Times and events."""
        rows = self.cohort.rows(patients)
        return self.cohort.time[rows], self.cohort.event[rows]

    def clinical(self, patients: Sequence[str]) -> Float[np.ndarray, "patient feature"] | None:
        """Covariates as features; None where the model takes none."""
        if self.preprocessor is None:
            return None
        return self.preprocessor.transform(self.cohort.frame.loc[list(patients)])

    def batch(self, patients: Sequence[str]) -> Batch:
        """All that a network needs of these patients."""
        rows = self.cohort.rows(patients)
        maps = {modality: maps[rows] for modality, maps in self._maps.items()}
        time_, event = self.outcome(patients)
        return Batch.of(time=time_, event=event, maps=maps, clinical=self.clinical(patients))


def run_task(task: Task) -> TaskResult:
    """Result of a task: the one that its run folder holds, or a new one, written there.

    The same task gives the same numbers in any process on machines alike: it computes on one thread, from its own
    seeds, and what it reads is pinned by digests. Done twice at once, the first to finish writes.

    Raises
    ------
    CohortError
        If the fold does not allow the fit.
    TaskError
        If the fit diverges.
    StoreError
        If the store or the run folder does not hold what was pinned, or cannot be read or written.
    """
    folder = RunFolder.open(task.run_url)
    name = task_name(task.id)
    done = folder.read(name)
    if done is None:
        with threadpool_limits(limits=1):
            result = _fitted_result(task)
        if folder.write_once(name, result.to_json()):
            return result
        done = folder.location.get(name)
    return parse_result(done, where=f"{folder.url}/{name}", task_id=task.id)


def judge_fold(task: Task, data: FoldData) -> Judged:
    """Fit the task's model in the outer training part, and let it judge both parts."""
    if isinstance(task.model, RidgeCoxModel):
        return _ridge_cox(task.model, data)
    return _network(task.model, task.seed, data)


def _fitted_result(task: Task) -> TaskResult:
    start = time.perf_counter()
    data = FoldData(task)
    judged = judge_fold(task, data)
    return _result(task, data, judged, start)


def _outcomes(task: Task) -> Cohort:
    """Cohort of a task, with the outcomes that it is fitted on."""
    cohort = read_cohort(task.run_url, task.cohort_sha256)
    if not task.permutation:
        return cohort
    if task.permutation_seed is None:
        raise TaskError(f"{task.label} names a permutation and no seed for it")
    return cohort.permuted([task.permutation_seed, task.permutation])


def _maps(task: Task, cohort: Cohort) -> dict[str, Float[np.ndarray, "patient row column"]]:
    images = task.model.images
    if images is None:
        return {}
    if task.store_url is None or task.snapshot is None:
        raise TaskError(f"{task.label} reads images, and the task names no store and snapshot")
    return {
        modality: pooled(mean_maps(task.store_url, task.snapshot, modality, images.roi, cohort.patients), images.pool)
        for modality in images.modalities
    }


def _ridge_cox(model: RidgeCoxModel, data: FoldData) -> Judged:
    train, test = data.clinical(data.fold.train), data.clinical(data.fold.test)
    assert train is not None
    assert test is not None
    assert data.preprocessor is not None
    time_, event = data.outcome(data.fold.train)
    names = data.preprocessor.feature_names
    fitted = RidgeCox.fit(train, time=time_, event=event, penalty=model.penalty, ties=model.ties, feature_names=names)
    return Judged(
        train_risk=fitted.predict(train),
        test_risk=fitted.predict(test),
        coefficients=dict(zip(names, fitted.coefficients, strict=True)),
    )


def _network(model: NetworkModel, seed: int, data: FoldData) -> Judged:
    fitted = _fit_network(model, seed, data)
    train = fitted.predict(data.batch(data.fold.train).inputs)
    test = fitted.predict(data.batch(data.fold.test).inputs)
    curves = Curves.model_validate(fitted.record.model_dump())
    return Judged(train_risk=train.log_risk, test_risk=test.log_risk, alpha=test.alpha, curves=curves)


def _fit_network(model: NetworkModel, seed: int, data: FoldData) -> Fitted:
    """Stop by a part of the outer training fold, or, where it has too few events, after a number of epochs chosen there."""
    spec = model.spec(clinical_features=0 if data.preprocessor is None else len(data.preprocessor.feature_names))
    fold = data.fold
    inner = inner_split(data.cohort, fold.train, seed=data.split_seed, fold=fold.index)
    watch = data.batch(inner.watch)
    if watch.events >= model.fit.min_validation_events:
        return fit_model(spec, model.fit, train=data.batch(inner.fit), validation=watch, seed=seed)
    whole = data.batch(fold.train)
    epochs = choose_epochs(spec, model.fit, train=whole, part=_epoch_parts(data), seed=seed)
    return fit_model(spec, model.fit, train=whole, seed=seed, fixed_epochs=epochs)


def _epoch_parts(data: FoldData) -> np.ndarray:
    """Inner part of each outer-training patient; a patient's several studies share one."""
    time_, event = data.outcome(data.fold.train)
    persons = [data.cohort.person[row] for row in data.cohort.rows(data.fold.train)]
    groups = persons if len(set(persons)) < len(persons) else None
    rng = np.random.default_rng([data.split_seed, EPOCH_STREAM, data.fold.index])
    return np.asarray(deal(time_, event, folds=EPOCH_PARTS, rng=rng, groups=groups))


def _result(task: Task, data: FoldData, judged: Judged, start: float) -> TaskResult:
    (test_time, test_event), (train_time, train_event) = data.outcome(data.fold.test), data.outcome(data.fold.train)
    test = harrell_c(risk=judged.test_risk, time=test_time, event=test_event)
    train = harrell_c(risk=judged.train_risk, time=train_time, event=train_event)
    equal = np.ptp(judged.train_risk) == 0
    return TaskResult(
        task_id=task.id,
        model=task.model.name,
        permutation=task.permutation,
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
        curves=judged.curves,
        coefficients=judged.coefficients,
        preprocessing=None if data.preprocessor is None else data.preprocessor.to_dict(),
        seconds=time.perf_counter() - start,
    )
