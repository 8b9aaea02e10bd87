"""Draws what a run found: folds, risk quartiles, learning curves, gate weights; computes no statistic of its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from store_schema.errors import CohortError, TaskError
from trainer.report.drawing import Drawn, draw
from trainer.report.incidence_figure import draw_incidence
from trainer.report.measure_figures import draw_measures
from trainer.report.reading import FinishedRun
from trainer.report.study_figures import draw_study
from trainer.report.survival_curves import Painted, paint_survival
from trainer.report.svg import FAINT, INK, SERIES
from trainer.results import Row
from trainer.risk_groups import RiskQuartiles
from trainer.summary import quartiles_of
from trainer.task_results import JobResult
from trainer.wording import tuning_text

LOW, HIGH = SERIES[0], SERIES[1]
MARKERS = ("o", "s", "^", "D", "v", "P")


def draw_all(run: FinishedRun) -> list[Drawn]:
    """Every figure that the run's results allow."""
    drawn = [_folds(run), *draw_study(run)]
    for model in run.names:
        found = (_quartiles(run, model), draw_incidence(run, model), _curves(run, model), _gate(run, model))
        drawn += [figure for figure in found if figure]
        if model in run.measures:
            drawn += draw_measures(run.measures[model], model, run.cohort.time_unit, called=run.named(model))
    return drawn


def _folds(run: FinishedRun) -> Drawn:
    rows = run.results.rows
    said = "; ".join(f"{row.label} {'incomplete' if row.mean is None else f'{row.mean:.3f}'}" for row in rows)
    caption = "c-index of every fold (points) with mean ± SE (bar). The line at 0.5 is chance." + _tuned(rows)
    size = (7.2, 0.9 + 0.42 * len(rows))
    return draw("folds", caption, f"Mean c-index by row: {said}.", size, lambda figure: _paint_folds(figure, rows))


def _tuned(rows: Sequence[Row]) -> str:
    """Sentences on the rows that were tuned; empty where none was."""
    return "".join(f" {row.label}: {tuning_text(row)}." for row in rows if row.tuned)


def _paint_folds(figure: Any, rows: Sequence[Row]) -> None:
    axes = figure.subplots()
    axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    colours = {"model": SERIES[0], "permuted": SERIES[5], "oracle": SERIES[2]}
    for place, row in enumerate(rows):
        values = [score.c for score in row.scores if score.c is not None]
        # points of one row side by side, so that equal ones are both seen
        offsets = place + np.linspace(-0.14, 0.14, len(values)) if len(values) > 1 else [place] * len(values)
        marker = MARKERS[("model", "permuted", "oracle").index(row.kind)]
        axes.scatter(values, offsets, s=16, color=colours[row.kind], marker=marker, alpha=0.75, linewidths=0)
        if row.mean is not None:
            axes.errorbar(
                row.mean, place, xerr=row.se or 0, color=INK, fmt="|", markersize=13, linewidth=1.4, capsize=3
            )
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("Harrell's c")
    axes.grid(axis="x")


def _quartiles(run: FinishedRun, model: str) -> Drawn | None:
    try:
        found = quartiles_of(run.of(model), run.cohort)
    except (CohortError, TaskError):
        return None
    row = next(row for row in run.results.of_kind("model") if row.label == model)
    groups = row.risk_groups
    if groups is None:
        return None
    permutation = "not computed" if groups.permutation_p is None else f"{groups.permutation_p:.3f}"
    caption = (
        f"{run.named(model)}: survival in the lowest and the highest quartile of out-of-fold risk, with 95% log-log bands. "
        f"Log-rank p {groups.nominal_p:.2g} (nominal: it rejects a true null 11 to 20% of the time); permutation p {permutation}."
    )
    said = (
        f"Lowest quartile: {groups.low_patients} patients, {groups.low_events} events. Highest: {groups.high_patients} "
        f"patients, {groups.high_events} events."
    )
    # one time axis for all models, so that their figures can be held side by side
    last, unit = float(run.cohort.time.max()), run.cohort.time_unit
    return draw(
        f"quartiles-{model}", caption, said, (5.6, 4.3), lambda figure: _paint_quartiles(figure, found, last, unit)
    )


def _paint_quartiles(figure: Any, found: RiskQuartiles, last: float, unit: str) -> None:
    low = Painted(found.low_risk, LOW, "-", "lowest risk quartile", "lowest")
    high = Painted(found.high_risk, HIGH, (0, (5, 1.5)), "highest risk quartile", "highest")
    paint_survival(figure, (low, high), last, unit)


def _curves(run: FinishedRun, model: str) -> Drawn | None:
    results = [result for result in run.of(model) if result.curves is not None]
    if not results:
        return None
    most = 12
    left_out = f" The first {most} of {len(results)} folds." if len(results) > most else ""
    caption = (
        f"{model}: loss by epoch in each fold, in training (solid) and on the watched part of the training fold (dashed); "
        f"the vertical line marks the epoch that was kept.{left_out}"
    )
    kept = ", ".join(str(result.curves.best_epoch) for result in results[:most] if result.curves)
    columns = min(5, len(results))
    lines = -(-min(most, len(results)) // columns)
    size = (1.75 * columns + 0.6, 1.7 * lines + 0.5)
    return draw(
        f"curves-{model}",
        caption,
        f"Epochs kept, by fold: {kept}.",
        size,
        lambda figure: _paint_curves(figure, results[:most], lines, columns),
    )


def _paint_curves(figure: Any, results: Sequence[JobResult], lines: int, columns: int) -> None:
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, result in zip(grid, results, strict=False):
        curves = result.curves
        assert curves is not None
        epochs = range(1, curves.epochs_run + 1)
        axes.plot(epochs, curves.train_loss, color=SERIES[0], linewidth=1.2)
        if curves.validation_loss:
            axes.plot(epochs, curves.validation_loss, color=SERIES[1], linewidth=1.2, linestyle=(0, (4, 2)))
        axes.axvline(curves.best_epoch, color=FAINT, linewidth=0.8)
        axes.set_title(f"fold {result.fold}", fontsize=9)
    for axes in grid[len(results) :]:
        axes.set_visible(False)
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("loss", fontsize=10)


def _gate(run: FinishedRun, model: str) -> Drawn | None:
    results = [result for result in run.of(model) if result.alpha is not None]
    line = next(line for line in run.lines if line.label == model)
    read = [run.config.candidates[pick.model][pick.candidate].images for pick in line.picks.values()]
    pairs = {images.modalities for images in read if images is not None}
    # folds that chose other modalities have no common weight to show
    if not results or len(pairs) != 1:
        return None
    first, second = pairs.pop()
    every = np.concatenate([result.alpha or () for result in results])
    caption = f"{run.named(model)}: the gate's weight of {first} (α) for each test patient, by fold; the rest goes to {second}."
    said = f"Median {np.median(every):.3f}, from {every.min():.3f} to {every.max():.3f} over {len(every)} patients."
    return draw(f"gate-{model}", caption, said, (5.6, 2.4), lambda figure: _paint_gate(figure, results, f"α ({first})"))


def _paint_gate(figure: Any, results: Sequence[JobResult], label: str) -> None:
    axes = figure.subplots()
    axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    for place, result in enumerate(results):
        alpha = np.sort(result.alpha or ())
        across = place + np.linspace(-0.3, 0.3, len(alpha))
        axes.scatter(across, alpha, s=9, color=SERIES[0], alpha=0.8, linewidths=0)
        axes.plot([place - 0.35, place + 0.35], [np.median(alpha)] * 2, color=INK, linewidth=1.4)
    axes.set_xticks(range(len(results)), [str(result.fold) for result in results])
    axes.set_xlabel("fold")
    axes.set_ylabel(label)
    axes.set_ylim(0, 1)
    axes.grid(axis="y")
