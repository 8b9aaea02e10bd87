"""Runs a cross-validation from table and store to result files; knows nothing of how a fold is fitted or spread."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from store_schema.errors import SchemaError, UsageError
from store_schema.pseudonyms import PlainIds
from trainer.config import RunConfig
from trainer.dispatch import Outcome, Workers, run_tasks
from trainer.metrics import harrell_c
from trainer.plan import Inputs, Plan, make_plan
from trainer.result_tables import folds_csv, risks_csv, summary_csv
from trainer.results import Failure, RunResults, TaskResult, parse_result
from trainer.run_folder import RESULTS, RunFolder, task_name
from trainer.run_record import keep_plan, recorded_pins
from trainer.summary import Judgement, summarise
from trainer.task import Task


@dataclass(frozen=True)
class CvReport:
    """What a run gave."""

    plan: Plan
    results: RunResults
    folder: RunFolder
    tasks: int
    resumed: int
    """Tasks that an earlier call had done."""


def cross_validate(config: RunConfig, inputs: Inputs, *, out: str, workers: Workers, console: Console) -> CvReport:
    """Fit and judge every model of a config on every fold, and write the results; a rerun resumes.

    Parameters
    ----------
    config, inputs
        What the numbers follow from.
    out
        Run folder that every worker reaches.
    workers
        Where tasks run; the numbers do not depend on it.
    console
        Where progress goes.

    Raises
    ------
    UsageError
        If the config and the inputs do not fit together, or the workers cannot be used.
    CohortError
        If the patients do not allow the folds.
    StoreError
        If the store does not hold what is read, or the folder holds another run.
    """
    folder = RunFolder.open(out)
    plan = make_plan(config, inputs, recorded=recorded_pins(folder))
    _refuse_unreachable(plan, folder, workers)
    keep_plan(plan, folder)
    tasks = plan.tasks(folder.url)
    waiting = [task for task in tasks if not folder.location.exists(task_name(task.id))]
    failures = _run(waiting, workers, console, inputs.ids)
    results = _write_results(plan, tasks, failures, folder)
    return CvReport(plan, results, folder, tasks=len(tasks), resumed=len(tasks) - len(waiting))


def _refuse_unreachable(plan: Plan, folder: RunFolder, workers: Workers) -> None:
    stores = () if plan.store is None else (plan.store.location,)
    for location in (*stores, folder.location):
        if workers.number != 0 and not location.reachable():
            raise UsageError(f"{location.url} lives in this process alone: use --workers 0, or a folder")


def _run(tasks: Sequence[Task], workers: Workers, console: Console, ids: PlainIds) -> list[Failure]:
    """Do the tasks under a progress bar; gives those that failed."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("folds", total=len(tasks))

        def on_done(outcome: Outcome) -> None:
            progress.advance(bar)
            if outcome.error is not None:
                told = ids.clean(f"failed: {outcome.task.label}: {outcome.error}")
                progress.console.print(told, markup=False, soft_wrap=True)

        outcomes = run_tasks(tasks, workers, on_done=on_done)
    return [
        Failure(task_id=outcome.task.id, label=outcome.task.label, reason=ids.clean(outcome.error))
        for outcome in outcomes
        if outcome.error is not None
    ]


def _checked_result(plan: Plan, task: Task, folder: RunFolder) -> TaskResult:
    """A task's result as its file has it, if it is of this task and its c is that of its risks."""
    where = f"{folder.url}/{task_name(task.id)}"
    result = parse_result(folder.location.get(task_name(task.id)), where=where, task_id=task.id)
    test, cohort = plan.splits[task.permutation].fold(task.fold).test, plan.cohort_of(task.permutation)
    rows = cohort.rows(test)
    same = (result.model, result.fold, result.permutation) == (task.model.name, task.fold, task.permutation)
    risk = np.array(result.log_risk)
    if not same or result.patients != test or len(risk) != len(rows):
        raise SchemaError(f"{where} is not of {task.label}. Remove it, and the task runs again")
    if result.c != harrell_c(risk=risk, time=cohort.time[rows], event=cohort.event[rows]).c:
        raise SchemaError(f"{where} gives a c that does not follow from its risks. Remove it, and the task runs again")
    return result


def _write_results(plan: Plan, tasks: Sequence[Task], failures: Sequence[Failure], folder: RunFolder) -> RunResults:
    failed = {failure.task_id for failure in failures}
    done = [_checked_result(plan, task, folder) for task in tasks if task.id not in failed]
    judgement = Judgement(plan.config, plan.cohort, plan.splits[0], done, plan.oracle)
    results = summarise(judgement, task_ids=[result.task_id for result in done], failures=failures)
    folder.replace(RESULTS, results.to_json())
    folder.replace("folds.csv", folds_csv(done))
    folder.replace("risks.csv", risks_csv(judgement))
    folder.replace("summary.csv", summary_csv(results))
    return results
