"""Draws cumulative incidence of an event and of those that compete with it in the outer risk quartiles; models nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from store_schema.errors import CohortError, TaskError
from trainer.kaplan_meier import kaplan_meier
from trainer.measures.competing import cumulative_incidence
from trainer.report.drawing import Drawn, draw
from trainer.report.reading import FinishedRun
from trainer.report.survival_curves import STYLES
from trainer.report.svg import FAINT, SERIES
from trainer.summary import quartiles_of

PANELS = {0: "lowest risk quartile", 3: "highest risk quartile"}


def draw_incidence(run: FinishedRun, label: str) -> Drawn | None:
    """Aalen-Johansen curves of a row's outer quartiles; None without competing events, or without such quartiles.

    References
    ----------
    Protocol section 5 (Aalen-Johansen beside Kaplan-Meier).
    """
    cohort = run.cohort
    if cohort.cause is None:
        return None
    try:
        quartile = quartiles_of(run.of(label), cohort).quartile
    except (CohortError, TaskError):
        return None
    causes = run.config.columns.causes
    caption = (
        f"{run.named(label)}: cumulative incidence of each event (Aalen–Johansen, with 95% bands) in the lowest and the highest "
        f"quartile of out-of-fold risk. Faint: 1 − Kaplan–Meier of {causes[0]} with other events as censorings, which is never "
        "below it."
    )
    parts = {place: (cohort.time[quartile == place], cohort.cause[quartile == place]) for place in PANELS}
    said = "; ".join(
        f"{PANELS[place]}: "
        + ", ".join(f"{int((cause == code).sum())} {name}" for code, name in enumerate(causes, start=1))
        for place, (_, cause) in parts.items()
    )
    last, unit = float(cohort.time.max()), cohort.time_unit
    return draw(
        f"incidence-{label}", caption, said, (7.0, 3.2), lambda figure: _paint(figure, parts, causes, last, unit)
    )


def _paint(figure: Any, parts: dict[int, tuple[Any, Any]], causes: Sequence[str], last: float, unit: str) -> None:
    grid = figure.subplots(1, len(parts), sharex=True, sharey=True)
    for axes, (place, (time, cause)) in zip(grid, parts.items(), strict=True):
        alone = kaplan_meier(time, cause == 1)
        axes.step(np.r_[0.0, alone.time], np.r_[0.0, 1 - alone.survival], where="post", color=FAINT, linewidth=1)
        if cause.any():
            curves = cumulative_incidence(time=time, cause=cause, causes=range(1, 1 + len(causes)))
            steps = np.r_[0.0, curves.time]
            for row, name in enumerate(causes):
                colour, style = SERIES[row % len(SERIES)], STYLES[row % len(STYLES)]
                level, low, high = (np.r_[0.0, of[row]] for of in (curves.incidence, curves.low, curves.high))
                axes.step(steps, level, where="post", color=colour, linestyle=style, label=name, linewidth=1.6)
                axes.fill_between(steps, low, high, step="post", color=colour, alpha=0.14, linewidth=0)
        axes.set_title(PANELS[place], fontsize=9)
        axes.set_xlim(0, last)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel(f"time ({unit})")
    grid[0].set_ylabel("cumulative incidence")
    handles, labels = next(
        (axes.get_legend_handles_labels() for axes in grid if axes.get_legend_handles_labels()[0]), ([], [])
    )
    if handles:
        grid[0].legend(handles, labels, loc="best")
