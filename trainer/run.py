"""Runs a cross-validation from table and store to result files; knows nothing of how a fold is fitted or spread."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from store_schema import events
from store_schema.errors import SchemaError
from store_schema.pseudonyms import PlainIds
from trainer.config import RunConfig
from trainer.dispatch import Outcome, Workers, check_certificates, check_device, check_reachable, run_tasks
from trainer.failures import Faults, permutation_notes, pruning_notes, row_failures, setting_notes
from trainer.jobs import chosen_jobs, first_jobs, kept_jobs
from trainer.metrics import harrell_c
from trainer.plan import Inputs, Plan, make_plan
from trainer.result_tables import folds_csv, measures_csv, risks_csv, search_csv, summary_csv, table_one_csv
from trainer.results import Failure, RunResults
from trainer.row_measures import measures_of
from trainer.run_folder import MEASURES, RESULTS, RunFolder, task_name
from trainer.run_record import keep_plan, recorded_pins
from trainer.selection import Line, lines_of
from trainer.study_tables import study_tables
from trainer.summary import Judgement, summarise
from trainer.task import Job, Part, Task
from trainer.task_results import InnerScore, JobFault, JobResult, TaskResult, parse_result


@dataclass(frozen=True)
class CvReport:
    """What a run gave."""

    plan: Plan
    results: RunResults
    folder: RunFolder
    tasks: int
    resumed: int
    """Tasks that an earlier call had done."""


@dataclass
class _Work:
    """What was done of a run so far."""

    plan: Plan
    folder: RunFolder
    workers: Workers
    console: Console
    outer: list[JobResult] = field(default_factory=list)
    inner: list[InnerScore] = field(default_factory=list)
    faults: list[JobFault] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    """Of tasks that ended in an error."""
    task_ids: list[str] = field(default_factory=list)
    tasks: int = 0
    resumed: int = 0

    def do(self, jobs: Sequence[Job], told: str) -> None:
        """Do the tasks of these jobs that the folder does not hold yet, and take in the results of all."""
        tasks = self.plan.tasks(jobs, self.folder.url)
        waiting = [task for task in tasks if not self.folder.location.exists(task_name(task.id))]
        failures = _run(waiting, self.workers, self.console, self.plan.ids, told)
        self.tasks += len(tasks)
        self.resumed += len(tasks) - len(waiting)
        self.failures += failures
        failed = {failure.task_id for failure in failures}
        for task in tasks:
            if task.id not in failed:
                self._take(checked_result(self.plan, task, self.folder))

    def _take(self, result: TaskResult) -> None:
        self.task_ids.append(result.task_id)
        self.outer += result.outer
        self.inner += result.inner
        self.faults += result.faults

    def lines(self) -> tuple[Line, ...]:
        """Rows as far as they can be made."""
        folds = len(self.plan.splits[0])
        return lines_of(self.plan.config, self.outer, self.inner, permutations=self.plan.splits, folds=folds)


def cross_validate(config: RunConfig, inputs: Inputs, *, out: str, workers: Workers, console: Console) -> CvReport:
    """Fit and judge every model of a config on every fold, and write the results; a rerun resumes.

    Models with a search are fitted with every setting first, then with those that were chosen.

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
        If the config and the inputs do not fit together, or the workers cannot be used; if there is no GPU where one is wanted.
    CohortError
        If the patients do not allow the folds.
    StoreError
        If the store does not hold what is read, or the folder holds another run.
    """
    check_device(config.device, workers)
    check_certificates(workers)
    folder = RunFolder.open(out)
    plan = make_plan(config, inputs, recorded=recorded_pins(folder))
    stores = () if plan.store is None else (plan.store.location,)
    check_reachable((*stores, folder.location), workers)
    keep_plan(plan, folder)
    work = _Work(plan, folder, workers, console)
    work.do(first_jobs(config, permutations=plan.splits, folds=len(plan.splits[0])), "fits")
    kept = kept_jobs(config, work.outer, work.inner, permutations=plan.splits, folds=len(plan.splits[0]))
    work.do(kept, "fits of kept settings")
    work.do(chosen_jobs(config, work.outer, work.lines()), "chosen fits")
    results = _write_results(work)
    return CvReport(plan, results, folder, tasks=work.tasks, resumed=work.resumed)


def _run(tasks: Sequence[Task], workers: Workers, console: Console, ids: PlainIds, told: str) -> list[Failure]:
    """Do the tasks under a progress bar that counts fits, or telling events; gives those that failed."""
    if not tasks:
        return []
    with _fit_events(tasks, told) if events.on() else _fit_bars(tasks, console, ids, told) as on_done:
        outcomes = run_tasks(tasks, workers, on_done=on_done)
    return [
        Failure(task_id=outcome.task.id, label=outcome.task.label, reason=ids.clean(outcome.error))
        for outcome in outcomes
        if outcome.error is not None
    ]


@contextmanager
def _fit_events(tasks: Sequence[Task], told: str) -> Iterator[Callable[[Outcome], None]]:
    done, total, moved = 0, sum(len(task.jobs) for task in tasks), events.steps(told)

    def on_done(outcome: Outcome) -> None:
        nonlocal done
        done += len(outcome.task.jobs)
        if outcome.error is not None:
            events.tell("task_failed", level="error", task=outcome.task.label, message=outcome.error)
        moved(done, total)

    yield on_done


@contextmanager
def _fit_bars(tasks: Sequence[Task], console: Console, ids: PlainIds, told: str) -> Iterator[Callable[[Outcome], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(), console=console, refresh_per_second=2
    ) as progress:
        bar = progress.add_task(told, total=sum(len(task.jobs) for task in tasks))
        rows = _row_bars(progress, tasks)

        def on_done(outcome: Outcome) -> None:
            progress.advance(bar, len(outcome.task.jobs))
            row = rows[outcome.task.jobs[0].model.name]
            progress.advance(row, len(outcome.task.jobs))
            # a row that is done makes room for the others
            progress.update(row, visible=not progress.tasks[progress.task_ids.index(row)].finished)
            if outcome.error is not None:
                said = ids.clean(f"failed: {outcome.task.label}: {outcome.error}")
                progress.console.print(said, markup=False, soft_wrap=True)

        yield on_done


def _row_bars(progress: Progress, tasks: Sequence[Task]) -> dict[str, TaskID]:
    """A bar for each model under that of all."""
    totals: dict[str, int] = {}
    for task in tasks:
        name = task.jobs[0].model.name
        totals[name] = totals.get(name, 0) + len(task.jobs)
    return {name: progress.add_task(f"  {name}", total=total) for name, total in totals.items()}


def checked_result(plan: Plan, task: Task, folder: RunFolder) -> TaskResult:
    """A task's result as its file has it, if it is of this task's jobs and each c is that of its risks."""
    where = f"{folder.url}/{task_name(task.id)}"
    result = parse_result(folder.location.get(task_name(task.id)), where=where, task_id=task.id)
    asked = sorted((job.model.name, job.candidate, *_numbers(job.part)) for job in task.jobs)
    found = [(one.model, one.candidate, one.permutation, one.fold, -1) for one in result.outer]
    found += [(one.model, one.candidate, one.permutation, one.fold, -1) for one in result.faults]
    found += [(one.model, one.candidate, one.permutation, one.fold, one.inner) for one in result.inner]
    if sorted(found) != asked:
        raise SchemaError(f"{where} is not of {task.label}. Remove it, and the task runs again")
    for one in result.outer:
        _check_scores(plan, one, where)
    return result


def _numbers(part: Part) -> tuple[int, int, int]:
    return (part.permutation, part.fold, -1 if part.inner is None else part.inner)


def _check_scores(plan: Plan, result: JobResult, where: str) -> None:
    test, cohort = plan.splits[result.permutation].fold(result.fold).test, plan.cohort_of(result.permutation)
    rows, risk = cohort.rows(test), np.array(result.log_risk)
    if result.patients != test or len(risk) != len(rows):
        raise SchemaError(f"{where} is not of fold {result.fold}. Remove it, and the task runs again")
    if result.c != harrell_c(risk=risk, time=cohort.time[rows], event=cohort.event[rows]).c:
        raise SchemaError(f"{where} gives a c that does not follow from its risks. Remove it, and the task runs again")


def _write_results(work: _Work) -> RunResults:
    plan, folder, lines = work.plan, work.folder, work.lines()
    faults = Faults.of(work.faults, work.inner)
    failures = [*work.failures, *map(partial(_cleaned, plan.ids), row_failures(plan.config, lines, faults))]
    judgement = Judgement(plan.config, plan.cohort, plan.splits[0], lines, work.outer, plan.oracle)
    config = plan.config
    told = (*pruning_notes(config), *setting_notes(config, faults), *permutation_notes(config, faults))
    notes = tuple(map(plan.ids.clean, told))
    results = summarise(judgement, task_ids=work.task_ids, failures=failures, notes=notes)
    folder.replace(RESULTS, results.to_json())
    measures = measures_of(judgement)
    folder.replace(MEASURES, measures.to_json())
    folder.replace("measures.csv", measures_csv(measures))
    folder.replace("folds.csv", folds_csv(judgement))
    folder.replace("risks.csv", risks_csv(judgement))
    folder.replace("summary.csv", summary_csv(results))
    if results.table_one is not None:
        folder.replace("table_one.csv", table_one_csv(results.table_one))
    for table in study_tables(plan.config, results):
        folder.replace(f"tables/{table.name}.csv", table.to_csv())
    if plan.config.tuned:
        folder.replace("search.csv", search_csv(plan.config, work.outer, work.inner))
    return results


def _cleaned(ids: PlainIds, failure: Failure) -> Failure:
    return failure.model_copy(update={"reason": ids.clean(failure.reason)})
