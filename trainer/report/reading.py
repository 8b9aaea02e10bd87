"""Reads a finished run from its folder, for the page and its figures; knows nothing of how they look."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from store_schema.errors import NotCommittedError
from trainer.cohort import Cohort
from trainer.config import RunConfig, parse_config
from trainer.measures.row_measures import RowMeasures
from trainer.results import RunResults, parse_results
from trainer.row_measures import parse_measures
from trainer.run_folder import MEASURES, RESULTS, RUN, RunFolder, read_cohort, read_run_splits, task_name
from trainer.selection import Line, lines_of
from trainer.splits import Splits
from trainer.task_results import JobResult, TaskResult, of_model, parse_result
from trainer.wording import named


@dataclass(frozen=True)
class FinishedRun:
    """Everything that a report tells."""

    record: Mapping[str, Any]
    """`run.json`: config, snapshots, versions."""
    config: RunConfig
    cohort: Cohort
    results: RunResults
    measures: Mapping[str, RowMeasures]
    """By the label of the row; of complete rows."""
    splits: Splits
    tasks: tuple[TaskResult, ...]
    """Results of the tasks that succeeded."""

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """Rows of models, in their order."""
        control = self.config.control
        return lines_of(
            self.config,
            [result for task in self.tasks for result in task.outer],
            [score for task in self.tasks for score in task.inner],
            permutations=range(1 + (0 if control is None else control.repeats)),
            folds=len(self.splits),
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Labels of the models' rows, in their order."""
        return tuple(line.label for line in self.lines)

    @cached_property
    def fits(self) -> tuple[JobResult, ...]:
        """Results of every row under its label."""
        outer = [result for task in self.tasks for result in task.outer]
        return tuple(result for line in self.lines for result in line.of(outer))

    def named(self, label: str) -> str:
        """What a model's row is called, and how it was tuned."""
        return next((named(row) for row in self.results.of_kind("model") if row.label == label), label)

    def of(self, label: str) -> tuple[JobResult, ...]:
        """Results of one row on the real outcomes, by fold."""
        return of_model(self.fits, label)

    @property
    def seconds(self) -> float:
        """Time that all fits took, on one thread each."""
        outer = sum(result.seconds for task in self.tasks for result in task.outer)
        return outer + sum(score.seconds for task in self.tasks for score in task.inner)

    @property
    def untrained(self) -> tuple[str, ...]:
        """Views whose encoder has random weights."""
        return tuple(pin["view"] for pin in self.record["snapshots"] if not pin["trained"])


def read_run(folder: RunFolder) -> FinishedRun:
    """A finished run.

    Raises
    ------
    NotCommittedError
        If the folder holds no run, or one that never finished.
    SchemaError, ObjectAlteredError
        If a file is not what its name says, or the cohort not the one that the run was planned with.
    """
    record, results = folder.read_json(RUN), folder.read(RESULTS)
    if record is None or results is None:
        raise NotCommittedError(
            f"{folder.url} holds no finished run: it has no {RUN if record is None else RESULTS}. Run "
            f"`trainer cv … --out {folder.url}` first; it resumes what was begun"
        )
    parsed = parse_results(results, where=f"{folder.url}/{RESULTS}")
    tasks = {task_id: task_name(task_id) for task_id in parsed.task_ids}
    return FinishedRun(
        record=record,
        config=parse_config(record["config"], origin=f"{folder.url}/{RUN}"),
        cohort=read_cohort(folder.url, record["cohort_sha256"]),
        results=parsed,
        measures=parse_measures(folder.location.get(MEASURES), where=f"{folder.url}/{MEASURES}").root,
        splits=read_run_splits(folder.url, 0, record["splits_sha256"]["0"]),
        tasks=tuple(
            parse_result(folder.location.get(name), where=f"{folder.url}/{name}", task_id=task_id)
            for task_id, name in tasks.items()
        ),
    )
