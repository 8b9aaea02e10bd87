"""Draws the quality of embeddings: sizes, pair distances, pictures, groups and alignment; computes no figure."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import batched
from typing import Any

from trainer.quality.findings import ALPHA
from trainer.quality.results import (
    Alignment,
    Drift,
    EmbeddingQuality,
    Extent,
    PermutationTest,
    Picture,
    Point,
    Quality,
    ViewQuality,
)
from trainer.report.drawing import Drawn, draw
from trainer.report.svg import FAINT, INK, SERIES

MARKS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", ":", "-.")
MOST_LEVELS = 6
"""Groups with a colour and a shape of their own; the smallest beyond share one."""
QUARTERS = ("1 (lowest risk)", "2", "3", "4 (highest risk)")
ACROSS, MOST_PANELS, MOST_LINES = 3, 6, 16
"""Panels in a row; panels and lines of one figure, which must fit on paper."""
RISK = "risk"


def draw_quality(found: Quality) -> list[Drawn]:
    """Figures of every view; their names begin with what they show."""
    drawn: list[Drawn | None] = []
    for view in found.views:
        drawn += [_sizes(view), _pairs(view, found.settings.near), *_drifts(view)]
        for one in view.embeddings:
            for picture in one.pictures:
                drawn += _pictures(found, view, one, picture) if picture.points else ()
        drawn += [_alignment(found, view, pair) for pair in view.alignments if pair.points]
    return [one for one in drawn if one is not None]


def _sizes(view: ViewQuality) -> Drawn | None:
    """Norms and distances from the mean: extremes, quartiles, median."""
    kinds = (("L2 norm", "norm"), ("distance from the mean (1 is typical)", "from_centre"))
    told = [(one.entry, name, sizes) for one in view.embeddings for _, name in kinds if (sizes := _extent(one, name))]
    if not told:
        return None
    said = "; ".join(
        f"{entry} {name}: median {sizes.median:.3g}, {sizes.least:.3g} to {sizes.largest:.3g}"
        for entry, name, sizes in told
    )

    def paint(figure: Any) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for panel, (axis, name) in zip(panels, kinds, strict=True):
            for place, one in enumerate(view.embeddings):
                _span(panel, place, _extent(one, name))
            panel.set_xlabel(axis)
            panel.grid(axis="x")
        panels[0].set_yticks(range(len(view.embeddings)), [one.entry for one in view.embeddings])
        panels[0].set_ylim(len(view.embeddings) - 0.5, -0.5)

    caption = f"Sizes of the embeddings of {view.view}: extremes, quartiles and median over patients."
    return draw(f"sizes-{view.view}", caption, said, (7.5, 1.2 + 0.45 * len(view.embeddings)), paint)


def _extent(one: EmbeddingQuality, name: str) -> Extent | None:
    return one.norm.extent if name == "norm" else one.from_centre.extent


def _span(panel: Any, place: int, sizes: Extent | None) -> None:
    if sizes is not None:
        panel.plot([sizes.least, sizes.largest], [place, place], color=SERIES[0], linewidth=1)
        panel.plot([sizes.lower, sizes.upper], [place, place], color=SERIES[0], linewidth=5)
        panel.plot([sizes.median], [place], "D", color=INK, markersize=5)


def _pairs(view: ViewQuality, near: float) -> Drawn | None:
    """Histograms of relative distances of all pairs."""
    shown = [one for one in view.embeddings if one.pairs.counts]
    if not shown:
        return None
    said = "; ".join(
        f"{one.entry}: median {one.pairs.relative_l2.median:.3g}, least {one.pairs.relative_l2.least:.3g}"
        for one in shown
        if one.pairs.relative_l2 is not None
    )

    def paint(figure: Any) -> None:
        panel = figure.subplots()
        for number, one in enumerate(shown):
            looks = {"color": SERIES[number % len(SERIES)], "linestyle": LINES[number % len(LINES)]}
            edges = [10**edge for edge in one.pairs.edges]
            panel.stairs(one.pairs.counts, edges, baseline=0.5, label=one.entry, linewidth=1.4, **looks)
        panel.axvline(near, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        panel.text(near, 0.97, " near", transform=panel.get_xaxis_transform(), va="top", fontsize=8)
        panel.set_xscale("log")
        panel.set_xlabel("relative L2 distance of two patients")
        panel.set_yscale("log")
        panel.set_ylim(bottom=0.5)
        panel.set_ylabel("pairs")
        panel.legend(fontsize=8)

    caption = f"Distances of all pairs of patients by {view.view}, and the limit of near-duplicates."
    return draw(f"pairs-{view.view}", caption, f"{said}; limit {near:g}", (6.0, 3.4), paint)


def _pictures(found: Quality, view: ViewQuality, one: EmbeddingQuality, picture: Picture) -> Iterator[Drawn]:
    """Panels for every column of groups, and one for the risk; several figures where they are many."""
    colourings: list[str | None] = [*found.groups, *([] if found.risk is None else [RISK])]
    for number, some in enumerate(batched(colourings or [None], MOST_PANELS)):
        name = f"{picture.kind.lower()}-{view.view}-{one.modality}-{one.roi}{f'-{number + 1}' if number else ''}"
        by = ", ".join(colouring for colouring in some if colouring is not None)
        caption = f"{picture.kind} of {one.entry} in {view.view}{f', by {by}' if by else ''}."
        said = f"{len(picture.points)} patients in the plane"
        if picture.explained is not None:
            first, second = (100 * share for share in picture.explained)
            said += f"; the axes explain {first:.1f}% and {second:.1f}% of the variance"
        yield _panels(name, caption, said, picture, some)


def _panels(name: str, caption: str, said: str, picture: Picture, colourings: Sequence[str | None]) -> Drawn:
    columns = 2 if len(colourings) == 4 else min(ACROSS, len(colourings))
    rows = math.ceil(len(colourings) / columns)

    def paint(figure: Any) -> None:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, colouring in zip(panels, colourings, strict=False):
            _scatter(panel, picture.points, colouring)
            _axes(panel, picture)
        for panel in panels[len(colourings) :]:
            panel.set_visible(False)

    return draw(name, caption, said, (3.3 * columns + 0.4, 3.9 * rows), paint)


def _axes(panel: Any, picture: Picture) -> None:
    panel.set_xticks([])
    panel.set_yticks([])
    shares = ["", ""] if picture.explained is None else [f" ({100 * share:.1f}%)" for share in picture.explained]
    word = "component" if picture.kind == "PCA" else "UMAP"
    panel.set_xlabel(f"{word} 1{shares[0]}")
    panel.set_ylabel(f"{word} 2{shares[1]}")


def _scatter(panel: Any, points: Sequence[Point], colouring: str | None) -> None:
    """Points with a colour and a shape of each group."""
    for number, (level, mine) in enumerate(_levels(points, colouring)):
        looks = {"color": FAINT, "marker": "x"} if level is None else _looks(number)
        label = _plain(f"{'not known' if level is None else level} ({len(mine)})")
        panel.scatter([one.x for one in mine], [one.y for one in mine], s=16, linewidths=0.9, label=label, **looks)
    if colouring is not None:
        panel.set_title(_plain(colouring))
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize=8, ncols=2, handletextpad=0.2)


def _looks(number: int) -> dict[str, str]:
    return {"color": SERIES[number % len(SERIES)], "marker": MARKS[number % len(MARKS)]}


def _levels(points: Sequence[Point], colouring: str | None) -> Iterator[tuple[str | None, list[Point]]]:
    """Groups by name, quarters by number, those without last; the smallest of many groups together."""
    if colouring is None:
        yield "all", list(points)
        return
    told = [(point, _level(point, colouring)) for point in points]
    sizes = Counter(level for _, level in told if level is not None)
    own = {level for level, _ in sizes.most_common(MOST_LEVELS - 1 if len(sizes) > MOST_LEVELS else MOST_LEVELS)}
    for level in sorted(own):
        yield level, [point for point, one in told if one == level]
    if rest := [point for point, one in told if one is not None and one not in own]:
        yield f"{len(sizes) - len(own)} others", rest
    if unknown := [point for point, one in told if one is None]:
        yield None, unknown


def _level(point: Point, colouring: str) -> str | None:
    if colouring == RISK and RISK not in point.levels:
        return None if point.quartile is None else QUARTERS[point.quartile - 1]
    return point.levels.get(colouring)


Compared = tuple[str, Drift, PermutationTest]
"""What was compared, and the test of its location."""


def _drifts(view: ViewQuality) -> Iterator[Drawn]:
    """ω² of every comparison of a view; several figures where they are many."""
    told = [
        (f"{one.entry} by {drift.column}", drift, drift.location)
        for one in view.embeddings
        for drift in one.drift
        if drift.location is not None
    ]
    for number, names in enumerate(batched(dict.fromkeys(name for name, _, _ in told), MOST_LINES)):
        mine = [one for one in told if one[0] in names]
        said = "; ".join(
            f"{name}, {drift.scheme}: ω² {test.omega2:.3f}, Holm p {1 if test.p_holm is None else test.p_holm:.3g}"
            for name, drift, test in mine
        )
        caption = f"How far groups of patients differ in location by {view.view}, by how labels were permuted."
        name = f"drift-{view.view}{f'-{number + 1}' if number else ''}"
        yield draw(name, caption, said, (7.0, 1.8 + 0.42 * len(names)), partial(_paint_drifts, mine, names))


def _paint_drifts(told: Sequence[Compared], names: Sequence[str], figure: Any) -> None:
    panel = figure.subplots()
    for number, scheme in enumerate(("free", "within event")):
        for words, found in (("Holm p < 0.05", True), ("not", False)):
            mine = [
                (test.omega2, names.index(name) + 0.2 * number)
                for name, drift, test in told
                if drift.scheme == scheme and (test.p_holm is not None and test.p_holm < ALPHA) == found
            ]
            looks = {"facecolors": SERIES[number] if found else "none", "edgecolors": SERIES[number]}
            places = [[x for x, _ in mine], [y for _, y in mine]]
            panel.scatter(*places, s=34, marker=MARKS[number], label=f"{scheme}: {words}", **looks)
    panel.axvline(0, color=FAINT, linewidth=0.8)
    panel.set_yticks(range(len(names)), [_plain(name) for name in names])
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.set_xlabel("ω², share of variation between groups beyond chance")
    figure.legend(loc="outside lower center", fontsize=8, ncols=2)


def _plain(text: str) -> str:
    """A name as a label: matplotlib would read dollars as formulas, and leave out what begins with an underscore."""
    return ("\u2009" if text.startswith("_") else "") + text.replace("$", r"\$")


def _alignment(found: Quality, view: ViewQuality, pair: Alignment) -> Drawn:
    """Cosine of each patient's two embeddings, beside the risk where there is one."""
    known = [(one.cosine, one.log_risk) for one in pair.points if one.log_risk is not None]
    axis = f"cosine of {pair.first} and {pair.second}"

    def paint(figure: Any) -> None:
        panel = figure.subplots()
        if known:
            panel.scatter([one for one, _ in known], [risk for _, risk in known], s=18, color=SERIES[0])
            panel.set_ylabel("log-risk (higher is worse)")
        else:
            panel.hist([one.cosine for one in pair.points], bins=20, color=SERIES[0])
            panel.set_ylabel("patients")
        panel.axvline(0, color=FAINT, linewidth=0.8, linestyle=":")
        panel.set_xlabel(axis)

    beside = "" if found.risk is None else f" beside the risk of {found.risk.name}"
    caption = f"Alignment of {pair.first} and {pair.second} of {pair.roi} in {view.view}{beside}."
    said = f"{pair.patients} patients" + ("" if pair.cosine is None else f", median cosine {pair.cosine.median:.3f}")
    if pair.risk_cosine.spearman is not None:
        said += f"; Spearman of cosine and risk {pair.risk_cosine.spearman:.3f}"
    return draw(f"alignment-{view.view}-{pair.first}-{pair.second}-{pair.roi}", caption, said, (5.0, 3.4), paint)
