"""Draws controls and ablation as forests of c and of differences, and fold by fold; computes no figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.report.drawing import Drawn, draw
from trainer.report.svg import INK, SERIES
from trainer.trust.control_results import ControlRow, Controls

CHANCE_LINE, DASHES = 0.5, (0, (4, 3))
MARKERS = ("o", "s", "^", "D", "v", "P")
HEIGHT, LINE = 1.0, 0.38
"""In inches: of axes and margins, and of each line."""
FAMILIES = {"controls": "the controls", "ablation": "other modes and layouts"}


@dataclass(frozen=True)
class Bar:
    """A value with its interval, on a line of its own."""

    label: str
    value: float
    low: float | None
    high: float | None
    strong: bool
    """Whether it is the base, or told apart."""


def draw_controls(found: Controls) -> list[Drawn]:
    """Forests of each family that there is, then every row fold by fold."""
    drawn = []
    for family, words in FAMILIES.items():
        pairs = found.of(family)
        if not pairs:
            continue
        rows = (found.base, *(row for row, _ in pairs))
        bars = [Bar(row.label, row.mean, row.low, row.high, row is found.base) for row in rows if row.mean is not None]
        caption = (
            f"c of the base and of {words}, with 95% intervals that allow for shared training patients. The line at 0.5 "
            "is chance."
        )
        drawn.append(_forest(f"{family}-c", caption, bars, "Harrell's c", CHANCE_LINE))
        changes = [
            Bar(row.label, one.mean, one.low, one.high, one.verdict in ("higher", "lower"))
            for row, one in pairs
            if one.mean is not None
        ]
        caption = f"What the base has over {words}: difference of c on the same folds, base less row, with corrected 95% intervals."
        drawn.append(_forest(f"{family}-change", caption, changes, "base − row, Δc", 0.0))
    drawn.append(_folds(found.rows))
    return [figure for figure in drawn if figure is not None]


def _forest(name: str, caption: str, bars: Sequence[Bar], axis: str, usual: float) -> Drawn | None:
    if not bars:
        return None
    said = "; ".join(_said(bar) for bar in bars)
    return draw(name, caption, f"{said}.", (7.2, HEIGHT + LINE * len(bars)), lambda one: _paint(one, bars, axis, usual))


def _said(bar: Bar) -> str:
    span = "" if bar.low is None or bar.high is None else f" [{bar.low:.3f} to {bar.high:.3f}]"
    return f"{bar.label}: {bar.value:.3f}{span}"


def _paint(figure: Any, bars: Sequence[Bar], axis: str, usual: float) -> None:
    axes = figure.subplots()
    axes.axvline(usual, color=INK, linewidth=0.8, linestyle=DASHES)
    for place, bar in enumerate(bars):
        ends = [[0.0], [0.0]]
        if bar.low is not None and bar.high is not None:
            ends = [[max(0.0, bar.value - bar.low)], [max(0.0, bar.high - bar.value)]]
        # told apart by the filled mark too, not by colour alone
        looks = {"color": SERIES[0] if bar.strong else SERIES[5], "marker": "s", "markersize": 7}
        filled = {} if bar.strong else {"markerfacecolor": "none"}
        axes.errorbar([bar.value], [place], xerr=ends, linestyle="none", linewidth=1.4, capsize=3, **looks, **filled)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlabel(axis)
    axes.grid(axis="x")


def _folds(rows: Sequence[ControlRow]) -> Drawn | None:
    whole = [row for row in rows if row.mean is not None]
    if not whole:
        return None
    caption = "c of every fold, by row; one fold is one mark on every line, so that rows are compared within it."
    said = "; ".join(f"{row.label}: {' '.join(f'{c:.3f}' for c in row.scores if c is not None)}" for row in whole)
    size = (7.2, HEIGHT + LINE * len(whole))
    return draw("folds", caption, f"{said}.", size, lambda figure: _paint_folds(figure, whole))


def _paint_folds(figure: Any, rows: Sequence[ControlRow]) -> None:
    axes = figure.subplots()
    axes.axvline(CHANCE_LINE, color=INK, linewidth=0.8, linestyle=DASHES)
    table = np.array([row.scores for row in rows], dtype=np.float64)
    for fold, values in enumerate(table.T):
        looks = {"color": SERIES[fold % len(SERIES)], "marker": MARKERS[fold % len(MARKERS)], "markersize": 4}
        axes.plot(values, range(len(rows)), linewidth=0.6, **looks)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("Harrell's c")
    axes.grid(axis="x")
