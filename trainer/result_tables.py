"""Writes a run's results as CSV text; knows no file and computes no figure."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from trainer.candidates import search_table
from trainer.cohort import Cohort
from trainer.config import RunConfig
from trainer.results import RunResults, TableOne
from trainer.row_measures import COLUMNS, Measures, measure_lines
from trainer.summary import Judgement
from trainer.table_one import COLUMNS as TABLE_ONE
from trainer.table_one import table_one_lines
from trainer.task_results import InnerScore, JobResult

FOLD_FACTS = ("c", "concordant", "discordant", "tied_risk", "comparable", "train_c")
SIZES = ("train_patients", "train_events", "test_events", "train_mean", "train_sd", "seconds")
ROW_FACTS = (
    "tried",
    "tuned",
    "mean",
    "se",
    "t",
    "df",
    "p_one_sided",
    "p_two_sided",
    "corrected_p_one_sided",
    "permutation_p",
    "pooled_c",
)
GROUP_FACTS = ("chi_squared", "nominal_p", "permutation_p", "low_median", "high_median")


def folds_csv(judgement: Judgement) -> str:
    """One line per row and fold: its c, pairs, sizes and epochs, and from how many settings it was chosen, by which folds."""
    header = ("model", "permutation", "repeat", "fold", *FOLD_FACTS, "test_patients", *SIZES)
    centres = dict(enumerate(judgement.centres_left_out))
    tuning = {line.label: (line.tried, line.way) for line in judgement.lines}
    lines = (
        [*_fold_line(result), None if result.permutation else centres.get(result.fold), *tuning[result.model]]
        for result in judgement.results
    )
    return _csv((*header, "stopped_by", "epochs_run", "best_epoch", "centre", "tried", "tuned"), lines)


def _fold_line(result: JobResult) -> list[Any]:
    curves = result.curves
    ended = ["", "", ""] if curves is None else [curves.reason, curves.epochs_run, curves.best_epoch]
    facts = [getattr(result, name) for name in FOLD_FACTS]
    sizes = [getattr(result, name) for name in SIZES]
    first = [result.model, result.permutation, result.repeat, result.fold]
    return [*first, *facts, len(result.patients), *sizes, *ended]


def risks_csv(judgement: Judgement) -> str:
    """One line per patient and fold: the out-of-fold risk, beside the outcome that it was judged by; of permutations the first."""
    header = ("model", "permutation", "repeat", "fold", "patient", "log_risk", "z", "time", "event", "alpha")
    shown = [result for result in judgement.results if result.permutation <= 1]
    return _csv(header, (line for result in shown for line in _risk_lines(judgement, result)))


def _risk_lines(judgement: Judgement, result: JobResult) -> list[list[Any]]:
    cohort = judgement.permuted_cohort(result.permutation)
    rows = cohort.rows(result.patients)
    alpha: Sequence[float | None] = result.alpha or [None] * len(rows)
    first = [result.model, result.permutation, result.repeat, result.fold]
    cells = zip(
        result.patients,
        result.log_risk,
        result.z,
        cohort.time[rows],
        cohort.event[rows].astype(int),
        alpha,
        strict=True,
    )
    return [[*first, *line] for line in cells]


def search_csv(config: RunConfig, outer: Iterable[JobResult], inner: Iterable[InnerScore]) -> str:
    """One line per setting and fold that a search tried: its c on the outer fold, and on each inner one."""
    names = list(dict.fromkeys(name for model in config.fitted_models for name in model.search))
    found: dict[tuple[str, int, int, int], dict[str, Any]] = {}
    for result in outer:
        place = (result.model, result.candidate, result.permutation, result.fold)
        found.setdefault(place, {})["outer"] = result.c
    for score in inner:
        place = (score.model, score.candidate, score.permutation, score.fold)
        found.setdefault(place, {})[f"inner_{score.inner}"] = score.c
    parts = ["outer", *(f"inner_{number}" for number in range(config.search.inner_folds))]
    tables = {model.name: search_table(model, config.search) for model in config.fitted_models}
    lines = []
    for place, scores in sorted(found.items()):
        settings = tables[place[0]][place[1]]
        lines.append([*place, *(settings.get(name) for name in names), *(scores.get(part) for part in parts)])
    return _csv(("model", "candidate", "permutation", "fold", *names, *(f"c_{part}" for part in parts)), lines)


def predictions_csv(
    cohort: Cohort,
    *,
    log_risk: Float[np.ndarray, " patient"],
    group: Int[np.ndarray, " patient"],
    survival: Float[np.ndarray, "patient time"],
    times: Sequence[float],
) -> str:
    """One line per patient of a validation: what the model says, beside the outcome that it is judged by."""
    header = ("patient", "log_risk", "risk_group", *(f"survival_{time:g}" for time in times), "time", "event")
    outcomes = zip(cohort.time, cohort.event.astype(int), strict=True)
    told = zip(cohort.patients, log_risk, group, survival, outcomes, strict=True)
    return _csv(header, ([patient, risk, level, *curve, *end] for patient, risk, level, curve, end in told))


def measures_csv(measures: Measures) -> str:
    """One line per measure, row, horizon and group."""
    return _csv(COLUMNS, measure_lines(measures))


def table_one_csv(found: TableOne) -> str:
    """One line per figure of the cohort."""
    return _csv(TABLE_ONE, table_one_lines(found))


def summary_csv(results: RunResults) -> str:
    """One line per row of the table."""
    header = ("row", "kind", "model", "scores", *ROW_FACTS, *(f"quartiles_{name}" for name in GROUP_FACTS))
    lines = []
    for row in results.rows:
        groups = [None if row.risk_groups is None else getattr(row.risk_groups, name) for name in GROUP_FACTS]
        facts = [getattr(row, name) for name in ROW_FACTS]
        lines.append([row.label, row.kind, row.model, len(row.scores), *facts, *groups])
    return _csv(header, lines)


def _csv(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if cell is None else cell for cell in line] for line in lines)
    return text.getvalue()
