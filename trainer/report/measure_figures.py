"""Draws calibration and decision curves of predictions at their horizons; computes no measure."""

from collections.abc import Sequence
from typing import Any

from trainer.measures.row_measures import HorizonMeasures, RowMeasures
from trainer.report.drawing import Drawn, draw
from trainer.report.svg import FAINT, INK, SERIES

MOST = 4
"""Horizons side by side."""


def draw_measures(measures: RowMeasures, label: str, unit: str, *, called: str | None = None) -> list[Drawn]:
    """Calibration and decision curves of predictions, as far as their horizons allow them.

    Parameters
    ----------
    measures, unit
        What is drawn, and the unit of its horizons.
    label
        Of whom: part of the figures' names.
    called
        What the captions call it, where that is more than the label.
    """
    title = called or label
    horizons = measures.horizons[:MOST]
    calibrated = [horizon for horizon in horizons if horizon.calibration]
    decided = [horizon for horizon in horizons if horizon.decision is not None]
    drawn = []
    if calibrated:
        caption = (
            f"{title}: observed (1 − Kaplan–Meier, with 95% intervals) against predicted probability of the event in groups of "
            "equal size; the line is perfect calibration."
        )
        said = "; ".join(
            f"{h.horizon:g} {unit}: " + ", ".join(_point(p.predicted, p.observed) for p in h.calibration)
            for h in calibrated
        )
        size = (2.1 * len(calibrated) + 0.7, 2.6)
        drawn.append(
            draw(
                f"calibration-{label}", caption, said, size, lambda figure: _paint_calibration(figure, calibrated, unit)
            )
        )
    if decided:
        caption = f"{title}: net benefit of treating by predicted risk (solid), of treating everybody (dashed) and nobody (0)."
        size = (2.1 * len(decided) + 0.7, 2.6)
        said = f"Decision curves at {', '.join(f'{h.horizon:g}' for h in decided)} {unit}."
        drawn.append(
            draw(f"decision-{label}", caption, said, size, lambda figure: _paint_decision(figure, decided, unit))
        )
    return drawn


def _point(predicted: float, observed: float | None) -> str:
    return f"{predicted:.2f} predicted, " + ("none observed" if observed is None else f"{observed:.2f} observed")


def _paint_calibration(figure: Any, horizons: Sequence[HorizonMeasures], unit: str) -> None:
    grid = figure.subplots(1, len(horizons), sharex=True, sharey=True, squeeze=False).ravel()
    for axes, horizon in zip(grid, horizons, strict=True):
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
        points = [point for point in horizon.calibration if point.observed is not None]
        for point in points:
            if point.low is not None and point.high is not None:
                axes.plot([point.predicted] * 2, [point.low, point.high], color=SERIES[0], linewidth=1)
        axes.plot([p.predicted for p in points], [p.observed for p in points], "o-", color=SERIES[0], markersize=4)
        axes.set_title(f"{horizon.horizon:g} {unit}", fontsize=9)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
    figure.supxlabel("predicted", fontsize=10)
    figure.supylabel("observed", fontsize=10)


def _paint_decision(figure: Any, horizons: Sequence[HorizonMeasures], unit: str) -> None:
    grid = figure.subplots(1, len(horizons), sharex=True, sharey=True, squeeze=False).ravel()
    for axes, horizon in zip(grid, horizons, strict=True):
        decision = horizon.decision
        assert decision is not None
        known = [(t, b) for t, b in zip(decision.thresholds, decision.net_benefit, strict=True) if b is not None]
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.plot(decision.thresholds, decision.treat_all, color=SERIES[5], linestyle=(0, (4, 2)), linewidth=1.1)
        axes.plot([t for t, _ in known], [b for _, b in known], color=SERIES[0], linewidth=1.4)
        axes.set_title(f"{horizon.horizon:g} {unit}", fontsize=9)
        axes.set_xlim(0, 1)
    top = max(h.expected for h in horizons)
    grid[0].set_ylim(-0.1, max(0.15, 1.1 * top))
    figure.supxlabel("threshold probability", fontsize=10)
    figure.supylabel("net benefit", fontsize=10)
