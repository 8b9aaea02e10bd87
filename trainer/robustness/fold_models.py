"""Makes the models of a run's folds again and holds their risks against the run's record; knows no perturbed view."""

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from jaxtyping import Float

from store_schema.errors import SchemaError, TaskError, UsageError
from store_schema.location import open_location
from store_schema.origin import differing
from store_schema.records import canonical_json, sha256
from trainer.dispatch import Outcome, Workers, check_reachable, run_tasks
from trainer.final import card_of, row_of
from trainer.fold import TaskData
from trainer.gpus import NO_GPU, gpus
from trainer.jobs import Pinned, chosen_jobs, first_jobs, kept_jobs, tasks_of
from trainer.judging import Asked, Trained, TrainedNetwork, train
from trainer.model_config import FittedModel
from trainer.predicting import score_cohort
from trainer.report.reading import FinishedRun, read_run
from trainer.results import Row
from trainer.run_folder import RUN, RunFolder
from trainer.saved import CARD, Card, described, read_model, write_model
from trainer.selection import Line, Pick
from trainer.task import Job, Task
from trainer.task_results import JobResult
from trainer.versions import versions

QUARTILES = (0.25, 0.5, 0.75)
MODELS = "models"
"""Folder of the kept models of folds, in that of the results."""


@dataclass(frozen=True, eq=False)
class RunRow:
    """A row of a finished run, whose folds are to be made again."""

    run: FinishedRun
    folder: RunFolder
    line: Line
    judged: Row
    results: tuple[JobResult, ...]
    """What the run recorded of each outer fold, in their order."""

    @classmethod
    def read(cls, run_url: str, label: str) -> "RunRow":
        """The row of this label.

        Raises
        ------
        NotCommittedError
            If the folder holds no finished run.
        UsageError
            If the run has no such row, the row is incomplete, reads no images or several views.
        TaskError
            If a fold's model tells nobody apart.
        SchemaError, ObjectAlteredError
            If a file of the run is not what its name says.
        """
        folder = RunFolder.open(run_url)
        run = read_run(folder)
        line, judged = row_of(run, label)
        row = cls(run, folder, line, judged, run.of(label))
        _refuse_unfit(row)
        return row

    def model(self, fold: int) -> FittedModel:
        """Settings that a fold uses."""
        pick = self.line.picks[0, fold]
        return self.run.config.candidates[pick.model][pick.candidate]

    @cached_property
    def reading(self) -> tuple[int, ...]:
        """Folds whose model reads images."""
        return tuple(result.fold for result in self.results if self.model(result.fold).view is not None)

    @property
    def models(self) -> tuple[FittedModel, ...]:
        """Settings of the folds that read images."""
        return tuple(self.model(fold) for fold in self.reading)

    @property
    def pin(self) -> Mapping[str, str]:
        """What the run read: `view` and `snapshot`."""
        name = self.models[0].view
        return next(pin for pin in self.run.record["snapshots"] if pin["named"] == name)

    @property
    def record_sha256(self) -> str:
        """Digest of the run's record."""
        return sha256(self.folder.location.get(RUN))

    def tasks(self, store_url: str) -> tuple[Task, ...]:
        """Tasks of the run that fitted this row's folds.

        Raises
        ------
        SchemaError
            If the run's tasks are not those that follow from its settings here.
        """
        known = set(self.run.results.task_ids)
        found = tuple(task for task in self._planned(store_url) if task.id in known and self.places(task))
        lost = sorted(set(self.reading) - {fold for task in found for fold in self.places(task)})
        if lost:
            raise SchemaError(
                f"{self.folder.url}: the tasks that made fold {', '.join(map(str, lost))} of row {self.line.label!r} are not those "
                f"that follow from the run's settings here: {self.cause()}. Use the versions that made the run, or run "
                "`trainer cv` again into a new folder"
            )
        return found

    def places(self, task: Task) -> dict[int, int]:
        """Place of each fold's job in a task, of those that read images."""
        mine = {(pick.model, pick.candidate, fold): fold for fold, pick in self._picks.items()}
        keys = {mine.get(_key(job)): place for place, job in enumerate(task.jobs)}
        return {fold: place for fold, place in keys.items() if fold is not None}

    @cached_property
    def _picks(self) -> dict[int, Pick]:
        return {fold: self.line.picks[0, fold] for fold in self.reading}

    def cause(self) -> str:
        """Why something of the run comes out otherwise here, most likely."""
        other = differing(self.run.record["versions"], versions(), here_is="here")
        if other:
            return f"the run was made with {other}"
        machine = "GPU" if self.run.config.device == "cuda" else "processor, or with another number of threads"
        return f"versions are the same, so that a file of the run was changed since, or it was made on another kind of {machine}"

    def _planned(self, store_url: str) -> Iterator[Task]:
        """Tasks of the real outcomes, in the run's own phases; permuted ones never stand in a task with them."""
        config, folds, real = self.run.config, len(self.run.splits), (0,)
        pinned = self._pinned(store_url)
        first = tasks_of(config, first_jobs(config, permutations=real, folds=folds), pinned)
        yield from first
        results = {task.task_id: task for task in self.run.tasks}
        outer = [one for task in self.run.tasks for one in task.outer]
        inner = [one for task in self.run.tasks for one in task.inner]
        kept = tasks_of(config, kept_jobs(config, outer, inner, permutations=real, folds=folds), pinned)
        yield from kept
        done = [one for task in (*first, *kept) if task.id in results for one in results[task.id].outer]
        lines = [
            replace(line, picks={place: pick for place, pick in line.picks.items() if not place[0]})
            for line in self.run.lines
        ]
        yield from tasks_of(config, chosen_jobs(config, done, lines), pinned)

    def _pinned(self, store_url: str) -> Pinned:
        record = self.run.record
        return Pinned(
            store_url=store_url,
            run_url=self.folder.url,
            snapshots={pin["named"]: pin["snapshot"] for pin in record["snapshots"]},
            cohort_sha256=record["cohort_sha256"],
            splits_sha256={int(number): digest for number, digest in record["splits_sha256"].items()},
        )


@dataclass(frozen=True, eq=False)
class FoldModel:
    """The model of an outer fold, whose risks of the run's own entries are those that the run recorded."""

    card: Card
    trained: Trained


def fold_models(
    row: RunRow, store_url: str, *, keep: str | None, workers: Workers, told: Callable[[int], None]
) -> dict[int, FoldModel]:
    """Models of the folds that read images, made by the run's own tasks and checked against its record, by fold.

    Parameters
    ----------
    store_url
        Where the run's snapshots lie now.
    keep
        Folder, which every worker reaches, in which models are kept; those that it holds are not fitted again, and are checked all
        the same. None keeps none.
    workers
        Where they are fitted.
    told
        Told how many folds are done.

    Raises
    ------
    TaskError
        If a model cannot be fitted again, or its risks are not those of the record, to the last bit.
    UsageError
        If the run was fitted on a GPU, and neither this process nor a cluster has one; if workers cannot be reached, or cannot
        reach what they need.
    ObjectAlteredError, SchemaError
        If a kept model, or a file of the run, is not what was written.
    """
    if row.run.config.device == "cuda" and workers.scheduler is None and not gpus():
        raise UsageError(
            f"{NO_GPU}: the run's networks were fitted on one, and on a processor they would be other models. Use "
            "--scheduler with workers that have one"
        )
    if keep is not None:
        return _made(row, store_url, keep, workers, told)
    with tempfile.TemporaryDirectory(prefix="engram-folds-") as folder:
        return _made(row, store_url, folder, workers, told)


def by_workers(row: RunRow, workers: Workers) -> bool:
    """Whether only workers can score with a run's models, bit for bit: those of a cluster that has the GPUs it was fitted on."""
    return row.run.config.device == "cuda" and workers.scheduler is not None


def keep_models(task: Task, *, label: str, keep: str) -> None:
    """Do a task of a run again, and keep the models of a row's folds among its jobs that are not kept yet.

    All of the task is fitted, since what stands together decides the last digits.

    Raises
    ------
    TaskError
        If a model cannot be fitted again, or its risks are not those of the record.
    """
    row = row_at(task.run_url, label)
    data = TaskData(task)
    asked = [Asked(job.model, job.seed, data.data(job)) for job in task.jobs]
    answers = train(asked, device=task.device)
    for fold, place in row.places(task).items():
        trained, address = answers[place], kept_at(keep, task, place)
        if isinstance(trained, Exception):
            raise TaskError(
                f"fold {fold} of row {label!r} cannot be fitted again, and the run did it: {trained}. "
                f"Likely cause: {row.cause()}"
            )
        card = card_of(row.run, row.judged, task.jobs[place].model, asked[place].data, trained)
        part, weights = described(trained)
        card = card.model_copy(update={**part, "name": f"{label}, fold {fold}"})
        _refuse_other(row, fold, FoldModel(card, trained), str(task.store_url))
        if not _is_kept(address):
            write_model(card, weights, address)


def _made(
    row: RunRow, store_url: str, keep: str, workers: Workers, told: Callable[[int], None]
) -> dict[int, FoldModel]:
    """Fit what is not kept, and read all back."""
    tasks = row.tasks(store_url)
    waiting = {task.id: task for task in tasks if not _all_kept(row, task, keep)}
    left = {one: len(row.places(task)) for one, task in waiting.items()}
    told(len(row.reading) - sum(left.values()))

    def on_done(outcome: Outcome) -> None:
        if outcome.error is not None:
            # one is enough: the others need not be waited for
            raise TaskError(outcome.error.removeprefix(f"{TaskError.__name__}: "))
        del left[outcome.task.id]
        told(len(row.reading) - sum(left.values()))

    if waiting:
        locations = (row.folder.location, *(open_location(url) for url in (keep, store_url)))
        check_reachable(locations, workers)
        do = partial(keep_models, label=row.line.label, keep=keep)
        run_tasks(list(waiting.values()), workers, on_done=on_done, do=do)
    check = not by_workers(row, workers)
    return {fold: model for task in tasks for fold, model in read_kept(row, task, keep, check=check)}


def row_at(run_url: str, label: str) -> RunRow:
    """Row of a run, read once by a process that does many tasks of it."""
    return _row(run_url, label, sha256(RunFolder.open(run_url).location.get(RUN)))


@functools.lru_cache(maxsize=1)
def _row(run_url: str, label: str, _record_sha256: str) -> RunRow:
    """A run that was made anew at the same address has another record, and is read anew."""
    return RunRow.read(run_url, label)


def read_kept(row: RunRow, task: Task, keep: str, *, check: bool) -> Iterator[tuple[int, FoldModel]]:
    """Kept models of a task, by fold.

    Parameters
    ----------
    check
        Hold their risks against the record as if they had been made now; what only has the cards need not.

    Raises
    ------
    TaskError
        If one's risks are others.
    """
    for fold, place in row.places(task).items():
        card, trained = read_model(kept_at(keep, task, place))
        if isinstance(trained, TrainedNetwork):
            trained = replace(trained, device=task.device)
        model = FoldModel(card, trained)
        if check:
            _refuse_other(row, fold, model, str(task.store_url), kept=kept_at(keep, task, place))
        yield fold, model


def _all_kept(row: RunRow, task: Task, keep: str) -> bool:
    return all(_is_kept(kept_at(keep, task, place)) for place in row.places(task).values())


def _is_kept(address: str) -> bool:
    return RunFolder.open(address).read(CARD) is not None


def kept_at(keep: str, task: Task, place: int) -> str:
    """Folder of a model; of another run, row or setting it is another one."""
    job = task.jobs[place]
    made_of = sha256(canonical_json({"task": task.id, "job": job.model_dump(mode="json")}))
    return f"{RunFolder.open(keep).url}/{MODELS}/fold-{job.part.fold:03d}-{made_of[:12]}"


def _refuse_other(row: RunRow, fold: int, model: FoldModel, store_url: str, *, kept: str | None = None) -> None:
    """Refuse a model whose risks are not those that the run recorded, asked in the very way in which it scores other views.

    Parameters
    ----------
    kept
        Folder in which an earlier call kept it; None of one that was made now.
    """
    recorded = row.results[fold]
    data = score_cohort(model.card, model.trained, row.run.cohort, (store_url, row.pin["snapshot"]))
    made, training = (
        model.trained.predict(data, patients).log_risk
        for patients in (recorded.patients, row.run.splits.fold(fold).train)
    )
    expected: Float[np.ndarray, " patient"] = np.array(recorded.log_risk)
    of_training = (float(training.mean()), float(training.std())) == (recorded.train_mean, recorded.train_sd)
    of_training &= np.quantile(training, QUARTILES).tolist() == list(model.card.risk_cuts)
    if of_training and np.array_equal(made, expected):
        return
    away, sd = np.abs(made - expected), recorded.train_sd
    others = "" if of_training else ", and so do mean, standard deviation or quartiles of the training patients"
    remedy = "" if kept is None else f"It was kept in {kept}: remove that folder, and the fold is fitted again; or use"
    raise TaskError(
        f"fold {fold} of row {row.line.label!r}: the model made again is not the run's. Expected the very log-risks that the run "
        f"recorded of {len(expected)} test patients; {int((away != 0).sum())} differ, by {away.max():.3g} at most "
        f"({away.max() / sd:.2g} standard deviations of the training patients' risks){others}. Likely cause: {row.cause()}. "
        f"Nothing was judged. {remedy or 'Use'} the machine and versions that made {row.folder.url}, or run `trainer cv` again "
        "here into a new folder"
    )


def _refuse_unfit(row: RunRow) -> None:
    label = row.line.label
    if not row.reading:
        raise UsageError(f"row {label!r} reads no images: no perturbation can change its risks")
    views = sorted({str(model.view) for model in row.models})
    if len(views) > 1:
        raise UsageError(
            f"row {label!r} chose models of several views in its folds ({', '.join(views)}), and a perturbation is of one: name "
            f"one of {', '.join(row.run.config.members[row.line.row])} with --row"
        )
    alike = [result.fold for result in row.results if result.train_sd == 0]
    if alike:
        raise TaskError(
            f"the models of fold {', '.join(map(str, alike))} of row {label!r} give all their training patients one risk: risks of "
            "folds cannot be pooled"
        )


def _key(job: Job) -> tuple[str, int, int]:
    """Model, setting and fold of a job; of an inner part no fold has this number."""
    return job.model.name, job.candidate, job.part.fold if job.part.inner is None else -1
