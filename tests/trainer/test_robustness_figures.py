"""Figures of robustness: every kind a panel of its own, every view a mark, however many there are."""

import re

import pytest

from trainer.robustness.figures import draw_robustness
from trainer.robustness.results import (
    Agreement,
    CIndexChange,
    EmbeddingRobustness,
    JudgedModel,
    PerturbedView,
    RiskRobustness,
    Robustness,
    Spread,
)

SIZED = {
    "dilate": ("mm", (2, 4)),
    "drop": ("share", (0.25, 0.5)),
    "erode": ("mm", (2, 4)),
    "jitter": ("mm", (2, 5)),
    "padding": ("mm", (-2, 2, 5, 10)),
    "shift_x": ("mm", (4, 8)),
    "shift_y": ("mm", (4,)),
    "stride": ("slices", (4,)),
}
CONTROLS = ("constant", "elsewhere", "random_boxes")
HEIGHT_OF_PAPER_IN = 10.9
"""Of A4 between margins of 10 mm."""


def view_of(kind: str, size: float | None, unit: str | None, *, seed: int | None = None, level: float = 0.8):
    spread = Spread(median=level, lower=level - 0.1, upper=level + 0.1, n=24)
    embedding = EmbeddingRobustness(
        modality="PET",
        roi="tumour",
        patients=24,
        features=64,
        constant=0,
        icc=spread,
        relative_l2=spread,
        cosine=spread,
    )
    risk = RiskRobustness(
        patients=24,
        icc=Agreement(value=level, low=level - 0.3, high=level + 0.1),
        spearman=level,
        kendall=level,
        mean_rank_change=1.0,
        changed_group=0.1,
        c=CIndexChange(base=0.7, perturbed=0.7, change=0.0, low=-0.1, high=0.1, p=1.0, resamples=100),
    )
    return PerturbedView(
        view=f"view-{kind}-{size}-{seed}",
        snapshot="s",
        kind=kind,
        size=size,
        unit=unit,
        seed=seed,
        differs=(),
        embeddings=(embedding,),
        risk=risk,
    )


def found_of(views) -> Robustness:
    return Robustness(
        store_id="s",
        base_view="base",
        base_snapshot="s",
        encoder_trained=False,
        entries=24,
        views=tuple(views),
        model=JudgedModel(name="m", card_sha256="0", apparent=False),
        risk_icc=None,
        notes=(),
        seed=0,
        versions={},
    )


def every_kind():
    sized = [view_of(kind, size, unit) for kind, (unit, sizes) in SIZED.items() for size in sizes]
    return found_of([*sized, *(view_of(kind, None, None) for kind in CONTROLS)])


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def marks(svg: str) -> int:
    """Marks of values: matplotlib sets each by reference within a clipped group, as it does ticks and caps outside of one."""
    return sum(len(re.findall("<use ", part)) for part in re.findall(r'<g clip-path="[^"]*">(.*?)</g>', svg, re.DOTALL))


@pytest.fixture(scope="module")
def drawn():
    return {figure.name: figure for figure in draw_robustness(every_kind())}


def test_every_kind_has_a_panel_and_those_without_a_size_share_one(drawn):
    assert set(drawn) == {"icc-PET-tumour", "moved-PET-tumour", "risk", "rank", "c"}
    titles = [*(f"{kind}, {unit}" for kind, (unit, _) in SIZED.items()), "without a size"]
    for figure in drawn.values():
        said = texts(figure.svg)
        assert [text for text in said if text in titles] == titles
        assert [text for text in said if text in CONTROLS] == list(CONTROLS)
        assert {"0.25", "10"} <= set(said)


def test_every_view_is_a_mark_with_the_ends_of_its_interval(drawn):
    views = len(every_kind().views)
    for figure in drawn.values():
        # a mark, and a cap at each end of its interval
        assert marks(figure.svg) == 3 * views


def test_a_figure_of_every_kind_is_no_higher_than_a_page(drawn):
    for figure in drawn.values():
        height_pt = float(re.search(r'<svg[^>]* height="([0-9.]+)pt"', figure.svg)[1])
        assert height_pt / 72 < HEIGHT_OF_PAPER_IN


def test_seeds_of_a_size_are_told_apart():
    views = [view_of("drop", size, "share", seed=seed, level=0.7) for size in (0.25, 0.5) for seed in (0, 1)]
    figure = next(one for one in draw_robustness(found_of(views)) if one.name == "icc-PET-tumour")
    assert {"seed 0", "seed 1"} <= set(texts(figure.svg))
    alone = next(one for one in draw_robustness(found_of(views[:1])) if one.name == "icc-PET-tumour")
    assert "seed 0" not in texts(alone.svg)
