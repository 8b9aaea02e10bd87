"""Draws measures of robustness against the size of the perturbation, a panel for each kind; computes no figure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.report.drawing import Drawn, draw
from trainer.report.svg import FAINT, INK, SERIES
from trainer.robustness.results import Agreement, PerturbedView, Robustness, Spread

MARKS = ("o", "s", "^", "D", "v", "P")
ACROSS = 3
"""Panels side by side, at most."""
PANEL_IN = (2.4, 2.1)
"""Width and height of a panel, in inches."""


@dataclass(frozen=True)
class Point:
    """A value with its interval."""

    value: float
    low: float
    high: float


Value = Callable[[PerturbedView], Point | None]


def draw_robustness(found: Robustness) -> list[Drawn]:
    """Figures of embeddings for each modality and region, and of risks where a model gave any."""
    drawn = []
    for place in dict.fromkeys((one.modality, one.roi) for view in found.views for one in view.embeddings):
        where, name = "/".join(place), "-".join(place)
        drawn.append(
            _figure(
                found,
                f"icc-{name}",
                f"Agreement of the embeddings of {where}: ICC(2,1) of features against the base, median and quartiles.",
                "ICC(2,1) of features",
                lambda view, place=place: _icc(view, place),  # type: ignore[misc]
                usual=1.0,
            )
        )
        drawn.append(
            _figure(
                found,
                f"moved-{name}",
                f"How far the embeddings of {where} move: relative L2 distance over patients, median and quartiles.",
                "relative L2 distance",
                lambda view, place=place: _moved(view, place),  # type: ignore[misc]
                usual=0.0,
            )
        )
    if found.model is not None:
        drawn += _of_risks(found)
        drawn += [_of_folds(found), _fold_by_fold(found)]
    return [one for one in drawn if one is not None]


def _of_risks(found: Robustness) -> list[Drawn | None]:
    pooled = "" if found.model is None or found.model.row is None else " of risks pooled over folds"
    asked: tuple[tuple[str, str, str, Value, float], ...] = (
        ("risk", "Agreement of risks: ICC(2,1) against the base, with 95% intervals.", "ICC(2,1) of risks", _risk, 1.0),
        ("rank", "Rank correlation of risks with the base: Spearman.", "Spearman's ρ", _rank, 1.0),
        ("c", f"Change of Harrell's c{pooled}, perturbed − base, with paired 95% intervals.", "change of c", _c, 0.0),
    )
    return [_figure(found, name, caption, axis, value, usual=usual) for name, caption, axis, value, usual in asked]


def _of_folds(found: Robustness) -> Drawn | None:
    """Mean change over folds; None for a single model."""
    caption = (
        "Change of Harrell's c, perturbed − base: mean over folds with the 95% interval of the corrected resampled t."
    )
    return _figure(found, "c-over-folds", caption, "mean change of c", _over_folds, usual=0.0)


def _fold_by_fold(found: Robustness) -> Drawn | None:
    """Change of every fold; None for a single model."""
    views = [view for view in found.views if view.risk is not None and view.risk.folds]
    if not views:
        return None
    changes = [[one.change for one in view.risk.folds if one.change is not None] for view in views if view.risk]
    said = "; ".join(
        f"{view.label}: {', '.join(f'{change:+.3f}' for change in mine) or '0 folds have a c'}"
        for view, mine in zip(views, changes, strict=True)
    )

    def paint(figure: Any) -> None:
        panel = figure.subplots()
        for place, mine in enumerate(changes):
            # side by side as far as many folds need it, in their order
            shift = np.linspace(-0.25, 0.25, len(mine)) if len(mine) > 1 else np.zeros(len(mine))
            panel.plot(mine, place + shift, "o", color=SERIES[0], markersize=4)
            if mine:
                panel.vlines(float(np.mean(mine)), place - 0.35, place + 0.35, color=INK, linewidth=1.6)
            if place:
                panel.axhline(place - 0.5, color=FAINT, linewidth=0.5)
        panel.axvline(0, color=FAINT, linewidth=0.8, linestyle=":")
        panel.set_yticks(range(len(views)), [view.label for view in views])
        panel.set_ylim(len(views) - 0.5, -0.5)
        panel.set_xlabel("change of c")
        panel.grid(axis="x")

    caption = (
        "Change of Harrell's c, perturbed − base, of each fold of the run: one point a fold, a line at their mean."
    )
    return draw("c-fold-by-fold", caption, said, (6.2, 1.2 + 0.55 * len(views)), paint)


def _figure(found: Robustness, name: str, caption: str, axis: str, value: Value, *, usual: float) -> Drawn | None:
    """A panel for each kind that has sizes, and one for all that have none; None where no view has a value."""
    points = [(view, point) for view in found.views if (point := value(view)) is not None]
    if not points:
        return None
    said = "; ".join(f"{view.label}: {point.value:.3f} [{point.low:.3f} to {point.high:.3f}]" for view, point in points)
    by_panel = {
        key: [pair for pair in points if _panel_of(pair[0]) == key]
        for key in dict.fromkeys(_panel_of(view) for view, _ in points)
    }
    across = min(ACROSS, len(by_panel))
    down = -(-len(by_panel) // across)

    def paint(figure: Any) -> None:
        panels = figure.subplots(down, across, sharey=True, squeeze=False)
        for panel, (title, mine) in zip(panels.flat, by_panel.items(), strict=False):
            (_sized if mine[0][0].unit else _named)(panel, mine)
            panel.set_title(title)
            panel.axhline(usual, color=FAINT, linewidth=1.2, linestyle="--")
            panel.grid(axis="y")
        for panel in panels.flat[len(by_panel) :]:
            panel.set_visible(False)
        figure.supylabel(axis, fontsize=10)

    return draw(name, caption, said, (0.6 + PANEL_IN[0] * max(2, across), 0.4 + PANEL_IN[1] * down), paint)


def _panel_of(view: PerturbedView) -> str:
    """Title of the panel that a view stands in."""
    return "without a size" if view.unit is None else f"{view.kind}, {view.unit}"


def _sized(panel: Any, mine: Sequence[tuple[PerturbedView, Point]]) -> None:
    """Values against sizes; views of several seeds each with a mark of its own."""
    seeds = list(dict.fromkeys(view.seed for view, _ in mine))
    for place, seed in enumerate(seeds):
        drawn = [(view.size or 0.0, point) for view, point in mine if view.seed == seed]
        _bars(panel, [at for at, _ in drawn], [point for _, point in drawn], place, line="-", label=f"seed {seed}")
    sizes = sorted({view.size for view, _ in mine if view.size is not None})
    panel.set_xticks(sizes, [f"{size:g}" for size in sizes])
    beside = 0.15 * (sizes[-1] - sizes[0]) or 0.5 * abs(sizes[0])
    panel.set_xlim(sizes[0] - beside, sizes[-1] + beside)
    if len(seeds) > 1:
        panel.legend(fontsize=8)


def _named(panel: Any, mine: Sequence[tuple[PerturbedView, Point]]) -> None:
    """Values by the names of their views."""
    places = list(range(len(mine)))
    _bars(panel, [float(at) for at in places], [point for _, point in mine], 0, line="none")
    panel.set_xticks(
        places, [view.label for view, _ in mine], rotation=30, ha="right", rotation_mode="anchor", fontsize=8
    )
    panel.set_xlim(-0.6, len(mine) - 0.4)


def _bars(
    panel: Any, places: Sequence[float], points: Sequence[Point], series: int, *, line: str, label: str | None = None
) -> None:
    ends = [
        [max(0.0, point.value - point.low) for point in points],
        [max(0.0, point.high - point.value) for point in points],
    ]
    looks = {"color": SERIES[series % len(SERIES)], "marker": MARKS[series % len(MARKS)], "markersize": 5}
    values = [point.value for point in points]
    panel.errorbar(places, values, yerr=ends, linestyle=line, linewidth=1.3, capsize=3, label=label, **looks)


def _icc(view: PerturbedView, place: tuple[str, str]) -> Point | None:
    return next((_spread(one.icc) for one in view.embeddings if (one.modality, one.roi) == place), None)


def _moved(view: PerturbedView, place: tuple[str, str]) -> Point | None:
    return next((_spread(one.relative_l2) for one in view.embeddings if (one.modality, one.roi) == place), None)


def _risk(view: PerturbedView) -> Point | None:
    return None if view.risk is None else _agreement(view.risk.icc)


def _rank(view: PerturbedView) -> Point | None:
    if view.risk is None or view.risk.spearman is None:
        return None
    return Point(*(view.risk.spearman,) * 3)


def _c(view: PerturbedView) -> Point | None:
    found = None if view.risk is None else view.risk.c
    if found is None or found.change is None or found.low is None or found.high is None:
        return None
    return Point(found.change, found.low, found.high)


def _over_folds(view: PerturbedView) -> Point | None:
    found = None if view.risk is None else view.risk.over_folds
    if found is None or found.change is None:
        return None
    # a single fold has no interval
    low, high = (found.change if end is None else end for end in (found.low, found.high))
    return Point(found.change, low, high)


def _spread(found: Spread | None) -> Point | None:
    return None if found is None else Point(found.median, found.lower, found.upper)


def _agreement(found: Agreement) -> Point | None:
    if found.value is None or found.low is None or found.high is None:
        return None
    return Point(found.value, found.low, found.high)
