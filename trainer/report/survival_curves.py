"""Paints Kaplan-Meier curves with bands and numbers at risk; computes none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.kaplan_meier import KaplanMeier

STYLES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
"""Beside the colour, so that curves are told apart without it."""


@dataclass(frozen=True)
class Painted:
    """A curve and its looks."""

    curve: KaplanMeier
    colour: str
    style: Any
    """Line style, so that curves are told apart without colour."""
    label: str
    short: str
    """What its line of the table of numbers at risk is called."""


def paint_survival(figure: Any, curves: Sequence[Painted], last: float, unit: str) -> None:
    """Curves over the table of patients at risk; the time axis ends at `last`."""
    axes, table = figure.subplots(2, 1, sharex=True, height_ratios=(5, 0.5 * len(curves)))
    for painted in curves:
        _paint_curve(axes, painted)
    axes.set_ylim(0, 1.02)
    axes.set_xlim(0, last)
    axes.set_ylabel("free of the event")
    axes.legend(loc="best")
    axes.tick_params(labelbottom=False)
    _paint_at_risk(table, curves, axes.get_xticks(), last)
    table.set_xlabel(f"time ({unit})")


def _paint_curve(axes: Any, painted: Painted) -> None:
    curve = painted.curve
    time = np.concatenate(([0.0], curve.time))
    level, low, high = (np.concatenate(([1.0], y)) for y in (curve.survival, curve.low, curve.high))
    axes.step(
        time, level, where="post", color=painted.colour, linestyle=painted.style, label=painted.label, linewidth=1.6
    )
    axes.fill_between(time, low, high, step="post", color=painted.colour, alpha=0.14, linewidth=0)
    gone = curve.censored > 0
    axes.plot(curve.time[gone], curve.survival[gone], "|", color=painted.colour, markersize=6)


def _paint_at_risk(axes: Any, curves: Sequence[Painted], ticks: np.ndarray, last: float) -> None:
    shown = np.array([tick for tick in ticks if 0 <= tick <= last])
    for place, painted in enumerate(curves):
        for tick, count in zip(shown, painted.curve.at_risk_at(shown), strict=True):
            side = "left" if tick == 0 else "center"
            axes.text(tick, place, str(count), color=painted.colour, ha=side, va="center", fontsize=9)
    axes.set_yticks(range(len(curves)), [painted.short for painted in curves])
    axes.set_ylim(len(curves) - 0.4, -0.6)
    # room between a group's name and its number at the start
    axes.tick_params(axis="y", length=0, pad=9)
    axes.set_title("at risk", fontsize=9)
    axes.spines["left"].set_visible(False)
