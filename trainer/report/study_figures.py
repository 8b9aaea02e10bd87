"""Draws the comparisons of a study: fusion by mask (Fig. 5), downsampling by origin (Fig. 6); computes no test."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from trainer.model_config import Facets
from trainer.report.drawing import Drawn, draw
from trainer.report.reading import FinishedRun
from trainer.report.svg import INK, SERIES
from trainer.results import Row
from trainer.stats import MeanSE, corrected_t, mean_se
from trainer.wording import tunings_text

HATCHES = ("", "///", "...", "xxx")
"""Beside the colour, so that bars are told apart without it."""


@dataclass(frozen=True)
class Bars:
    """Means by place on x and hue."""

    x_name: str
    hue_name: str
    values: Mapping[tuple[str, str], MeanSE]
    """By (x, hue)."""
    rows: tuple[Row, ...] = ()
    """What they are means of."""

    @property
    def places(self) -> tuple[str, ...]:
        """Values on x, in their order."""
        return tuple(dict.fromkeys(x for x, _ in self.values))

    @property
    def hues(self) -> tuple[str, ...]:
        """Values of the hue, in their order."""
        return tuple(dict.fromkeys(hue for _, hue in self.values))


def draw_study(run: FinishedRun) -> list[Drawn]:
    """Figures 5 and 6 as far as the rows of the study allow them; none without facets.

    References
    ----------
    Guinea-Pérez et al. 2026, Figs 5 and 6; protocol section 6.
    """
    drawn = []
    for letter, head in (("a", "attention"), ("b", "averaging")):
        bars = bars_of(run, "mask", "fusion", partial(_fused_by, head))
        if len(bars.hues) > 1:
            caption = f"Fusion by mask with {head}, models of two modalities: c over folds, mean ± SE (paper, Fig. 5{letter})."
            drawn.append(_drawn(f"study-fusion-{head}", caption, bars))
    bars = bars_of(run, "origin", "downsampling", lambda facets: facets.downsampling != "–")
    if len(bars.hues) > 1:
        caption = "Downsampling by origin: c averaged over models within each fold, then mean ± SE over folds (paper, Fig. 6)."
        drawn.append(_drawn("study-downsampling", caption, bars))
    return drawn


def _fused_by(head: str, facets: Facets) -> bool:
    return facets.downsampling == head and facets.fusion != "–"


def bars_of(run: FinishedRun, x: str, hue: str, wanted: Callable[[Facets], bool]) -> Bars:
    """Means over folds of image-only rows; several rows of one bar are averaged within each fold first.

    With repeated folds, which share their patients, the standard error is the corrected one, as in the tables.
    """
    rows = {row.label: row for row in run.results.of_kind("model") if row.mean is not None}
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    used: list[Row] = []
    for model in run.config.models:
        facets = model.facets
        # baselines of other encoders with heads of their own are no rows of the embedding
        if facets is None or facets.table != "image" or facets.baseline or not wanted(facets):
            continue
        if model.name not in rows:
            continue
        scores = np.array([score.c for score in rows[model.name].scores], dtype=np.float64)
        used.append(rows[model.name])
        found.setdefault((getattr(facets, x), getattr(facets, hue)), []).append(scores)
    values = {place: _mean_se(run, np.mean(several, axis=0)) for place, several in found.items()}
    return Bars(x, hue, values, tuple(used))


def _mean_se(run: FinishedRun, scores: np.ndarray) -> MeanSE:
    plain = mean_se(scores)
    if run.splits.repeats == 1:
        return plain
    return MeanSE(plain.mean, corrected_t(scores, test_to_train=run.splits.test_to_train).se, plain.n)


def _drawn(name: str, caption: str, bars: Bars) -> Drawn:
    tuned = tunings_text(bars.rows)
    caption += f" Each row: {tuned}." if tuned else ""
    said = "; ".join(
        f"{x}, {hue}: {value.mean:.3f}" + ("" if value.se is None else f" ± {value.se:.3f}")
        for (x, hue), value in bars.values.items()
    )
    return draw(name, caption, said + ".", (6.4, 3.2), lambda figure: _paint(figure, bars))


def _paint(figure: Any, bars: Bars) -> None:
    axes = figure.subplots()
    hues: Sequence[str] = bars.hues
    width = 0.8 / len(hues)
    for number, hue in enumerate(hues):
        mine = [(place, bars.values[x, hue]) for place, x in enumerate(bars.places) if (x, hue) in bars.values]
        across = [place + (number - (len(hues) - 1) / 2) * width for place, _ in mine]
        axes.bar(
            across,
            [value.mean for _, value in mine],
            width=width * 0.92,
            yerr=[value.se or 0.0 for _, value in mine],
            color=SERIES[number % len(SERIES)],
            hatch=HATCHES[number % len(HATCHES)],
            edgecolor=INK,
            linewidth=0.6,
            capsize=3,
            label=hue,
        )
    axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xticks(range(len(bars.places)), bars.places)
    low = min(value.mean - (value.se or 0.0) for value in bars.values.values())
    axes.set_ylim(max(0.0, min(0.45, low - 0.02)), None)
    axes.set_xlabel(bars.x_name)
    axes.set_ylabel("Harrell's c")
    # above the bars, which leave no room that is sure to be free
    axes.legend(title=bars.hue_name, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(hues), alignment="left")
