"""Draws the quality of embeddings: sizes, pair distances, pictures, groups and alignment; computes no figure."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.quality.results import Alignment, EmbeddingQuality, Extent, Picture, Point, Quality, ViewQuality
from trainer.report.drawing import Drawn, draw
from trainer.report.svg import FAINT, INK, SERIES

MARKS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", ":", "-.")
MOST_LEVELS = 6
"""Groups with a colour and a shape of their own; the smallest beyond share one."""
QUARTERS = ("1 (lowest risk)", "2", "3", "4 (highest risk)")
ACROSS = 3
"""Panels in a row."""


def draw_quality(found: Quality) -> list[Drawn]:
    """Figures of every view; their names begin with what they show."""
    drawn: list[Drawn | None] = [_drifts(found)]
    for view in found.views:
        drawn += [_sizes(view), _pairs(view, found.settings.near)]
        for one in view.embeddings:
            drawn += [_picture(found, view, one, picture) for picture in one.pictures if picture.points]
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
            panel.stairs(one.pairs.counts, edges, label=one.entry, linewidth=1.4, **looks)
        panel.axvline(near, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        panel.text(near, 0.97, " near", transform=panel.get_xaxis_transform(), va="top", fontsize=8)
        panel.set_xscale("log")
        panel.set_xlabel("relative L2 distance of two patients")
        panel.set_ylabel("pairs")
        panel.legend(fontsize=8)

    caption = f"Distances of all pairs of patients by {view.view}, and the limit of near-duplicates."
    return draw(f"pairs-{view.view}", caption, f"{said}; limit {near:g}", (6.0, 3.4), paint)


def _picture(found: Quality, view: ViewQuality, one: EmbeddingQuality, picture: Picture) -> Drawn:
    """One panel for every column of groups, and one for the risk."""
    colourings: list[str | None] = [*found.groups, *([] if found.risk is None else ["risk"])]
    colourings = colourings or [None]
    columns = min(ACROSS, len(colourings))
    rows = math.ceil(len(colourings) / columns)

    def paint(figure: Any) -> None:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, colouring in zip(panels, colourings, strict=False):
            _scatter(panel, picture.points, colouring)
            _axes(panel, picture)
        for panel in panels[len(colourings) :]:
            panel.set_visible(False)

    name = f"{picture.kind.lower()}-{view.view}-{one.modality}-{one.roi}"
    by = ", ".join(str(one) for one in colourings if one is not None)
    caption = f"{picture.kind} of {one.entry} in {view.view}{f', by {by}' if by else ''}."
    said = f"{len(picture.points)} patients in the plane"
    if picture.explained is not None:
        said += f"; the axes explain {100 * picture.explained[0]:.1f}% and {100 * picture.explained[1]:.1f}% of the variance"
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
        label = f"{'not known' if level is None else level} ({len(mine)})"
        panel.scatter([one.x for one in mine], [one.y for one in mine], s=16, linewidths=0.9, label=label, **looks)
    if colouring is not None:
        panel.set_title(colouring)
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
    if colouring == "risk" and "risk" not in point.levels:
        return None if point.quartile is None else QUARTERS[point.quartile - 1]
    return point.levels.get(colouring)


def _drifts(found: Quality) -> Drawn | None:
    """ω² of every comparison."""
    told = [
        (f"{one.entry} by {drift.column}", drift, view.view)
        for view in found.views
        for one in view.embeddings
        for drift in one.drift
        if drift.location is not None
    ]
    if not told:
        return None
    names = list(dict.fromkeys((view, label) for label, _, view in told))
    shown = [f"{label}\n{view}" if len(found.views) > 1 else label for view, label in names]
    said = "; ".join(
        f"{label}, {drift.scheme}: ω² {drift.location.omega2:.3f}, Holm p {drift.location.p_holm:.3g}"
        for label, drift, _ in told
        if drift.location is not None and drift.location.p_holm is not None
    )

    def paint(figure: Any) -> None:
        panel = figure.subplots()
        for number, scheme in enumerate(dict.fromkeys(drift.scheme for _, drift, _ in told)):
            for kind, fill in (("Holm p < 0.05", SERIES[number]), ("not", "none")):
                mine = [
                    (drift.location.omega2, names.index((view, label)) + 0.2 * number)
                    for label, drift, view in told
                    if drift.scheme == scheme and drift.location is not None
                    if ((drift.location.p_holm or 0) < 0.05) == (kind != "not")
                ]
                looks = {"facecolors": fill, "edgecolors": SERIES[number], "marker": MARKS[number]}
                panel.scatter([x for x, _ in mine], [y for _, y in mine], s=34, label=f"{scheme}: {kind}", **looks)
        panel.axvline(0, color=FAINT, linewidth=0.8)
        panel.set_yticks(range(len(names)), shown)
        panel.set_ylim(len(names) - 0.4, -0.6)
        panel.set_xlabel("ω², share of variation between groups beyond chance")
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), fontsize=8, ncols=2)

    caption = "How far groups of patients differ in location, by how labels were permuted."
    return draw("drift", caption, said, (7.0, 2.0 + 0.42 * len(names)), paint)


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
