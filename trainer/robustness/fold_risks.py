"""Has the workers that made a run's folds score other views with them, where this process cannot; fits nothing, judges nothing."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from store_schema.errors import SchemaError, TaskError
from store_schema.records import canonical_json, sha256
from trainer.dispatch import Outcome, Workers, run_tasks
from trainer.predicting import score_cohort
from trainer.robustness.fold_models import FoldModel, RunRow, by_workers, kept_at, read_kept, row_at
from trainer.robustness.fold_scores import Score
from trainer.robustness.risks import Series
from trainer.run_folder import RunFolder
from trainer.task import Task


class _Kept(BaseModel):
    """Risks that one fold's model gives on one snapshot, as a worker leaves them beside the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    snapshot: str
    patients: tuple[str, ...]
    log_risk: tuple[float, ...]
    """Higher is worse."""


def scores_by(
    row: RunRow, store_url: str, snapshots: Sequence[str], patients: Sequence[str], *, keep: str, workers: Workers
) -> Score:
    """What scores patients with the models of folds: this process, or workers, where these alone have the kind of machine.

    Parameters
    ----------
    snapshots, patients
        Which views, and who of the run's cohort.
    keep
        Folder of the kept models.

    Raises
    ------
    TaskError, UsageError
        If workers cannot score, or a kept model is no longer the run's on them.
    """
    if by_workers(row, workers):
        return worker_scores(row, store_url, snapshots, patients, keep=keep, workers=workers)
    cohort = row.run.cohort.part(patients)

    def here(fold: int, model: FoldModel, snapshot: str, mine: Sequence[str]) -> Series:
        data = score_cohort(model.card, model.trained, cohort, (store_url, snapshot))
        return np.asarray(model.trained.predict(data, mine).log_risk, dtype=np.float64)

    return here


def worker_scores(
    row: RunRow, store_url: str, snapshots: Sequence[str], patients: Sequence[str], *, keep: str, workers: Workers
) -> Score:
    """Have workers score; arguments and errors as of `scores_by`."""
    tasks = row.tasks(store_url)
    do = partial(keep_risks, label=row.line.label, keep=keep, snapshots=tuple(snapshots), patients=tuple(patients))

    def on_done(outcome: Outcome) -> None:
        if outcome.error is not None:
            raise TaskError(outcome.error.removeprefix(f"{TaskError.__name__}: "))

    run_tasks(tasks, workers, on_done=on_done, do=do)
    where = {fold: kept_at(keep, task, place) for task in tasks for fold, place in row.places(task).items()}
    return lambda fold, _model, snapshot, mine: _read(where[fold], snapshot, mine)


def keep_risks(task: Task, *, label: str, keep: str, snapshots: Sequence[str], patients: Sequence[str]) -> None:
    """Score the test patients of a task's folds on each snapshot with the kept models, and leave the risks beside them.

    Raises
    ------
    TaskError
        If a kept model does not give the risks of the run's record on this machine.
    """
    row = row_at(task.run_url, label)
    cohort, held = row.run.cohort.part(patients), set(patients)
    for fold, model in read_kept(row, task, keep, check=True):
        mine = tuple(one for one in row.results[fold].patients if one in held)
        folder = RunFolder.open(kept_at(keep, task, row.places(task)[fold]))
        for snapshot in snapshots if mine else ():
            data = score_cohort(model.card, model.trained, cohort, (str(task.store_url), snapshot))
            risk = tuple(model.trained.predict(data, mine).log_risk.astype(np.float64).tolist())
            folder.replace(
                _name(snapshot, mine), _Kept(snapshot=snapshot, patients=mine, log_risk=risk).model_dump_json()
            )


def _name(snapshot: str, patients: Sequence[str]) -> str:
    return f"risks-{sha256(canonical_json([snapshot, list(patients)]))[:16]}.json"


def _read(address: str, snapshot: str, patients: Sequence[str]) -> Series:
    name = _name(snapshot, patients)
    data = RunFolder.open(address).read(name)
    try:
        found = None if data is None else _Kept.model_validate_json(data)
    except ValidationError as error:
        raise SchemaError(
            f"{address}/{name} holds no risks: {error.errors()[0]['msg']}. Remove it, and run again"
        ) from error
    if found is None or (found.snapshot, found.patients) != (snapshot, tuple(patients)):
        raise TaskError(
            f"{address}/{name} is not what a worker left there: workers and this process must reach one folder"
        )
    return np.array(found.log_risk, dtype=np.float64)
