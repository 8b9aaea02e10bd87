"""The paper's Figs 4 to 6 of a study with image rows: what is drawn, read back from the SVG, is what the run's files say."""

import dataclasses
import hashlib
import io
import re
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sksurv.compare import compare_survival
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv

from store_schema import EntryKey, create_store
from trainer.dispatch import Workers
from trainer.plan import Inputs
from trainer.report.page import write_report
from trainer.report.reading import read_run
from trainer.report.study_figures import bars_of, draw_study
from trainer.report.svg import SERIES
from trainer.run import cross_validate
from trainer.splits import make_splits
from trainer.study_config import parse_study

SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"
MASKS, FUSIONS, ORIGINS, HEADS = (
    ("spine", "skeleton"),
    ("concatenation", "gated"),
    ("PET", "CT", "combined"),
    ("averaging", "attention"),
)
BEST = "PET.spine.MedSAM2.averaging"


@pytest.fixture(scope="module")
def study(shared_kit, tmp_path_factory):
    """Both masks, heads and fusions of two modalities; each modality alone; multimodal rows, a baseline, covariates alone."""
    folder = tmp_path_factory.mktemp("figures")
    table, store = shared_kit.draw(48), create_store(folder / "store")
    view = store.put_view(shared_kit.view)
    for row, (patient, z) in enumerate(zip(table["patient"], table["z"], strict=True)):
        for place, (modality, mask) in enumerate((m, r) for m in ("PET", "CT") for r in MASKS):
            entry = shared_kit.entry(z if modality == "PET" else 0.3 * z, [0, row, place])
            digest = hashlib.sha256(entry.arrays["mean_map"].tobytes()).hexdigest()
            store.publish(view, EntryKey(patient, modality, mask), entry, input_sha256=digest)
    table.drop(columns=["z", "log_hazard"]).to_csv(folder / "clinical.csv", index=False)
    own = {"model": ["MedSAM2"], "downsampling": list(HEADS), "settings": {"hidden": [4]}}
    settings = {
        **{name: value for name, value in shared_kit.settings.items() if name != "models"},
        "splits": {"folds": 4},
        "fit": {**shared_kit.short, "epochs": 2},
        "views": {"MedSAM2": "tiny", "Hiera": "tiny"},
        "baselines": ["Hiera"],
        "rows": [
            {"origin": ["combined"], "mask": list(MASKS), "fusion": list(FUSIONS), **own},
            {"origin": ["PET", "CT"], "mask": ["spine"], **own},
            {"origin": ["PET"], "mask": ["skeleton"], **own, "downsampling": ["averaging"]},
            {"origin": ["PET"], "mask": ["spine"], **own, "model": ["Hiera"], "settings": {"hidden": [8]}},
            {"table": "multimodal", "origin": ["combined"], "mask": ["spine"], **own, "fusion": list(FUSIONS)},
            {"table": "clinical", "kind": "ridge_cox", "name": "cox"},
        ],
    }
    inputs = Inputs(folder / "clinical.csv", str(folder / "store"))
    quiet = Console(file=io.StringIO())
    report = cross_validate(
        parse_study(settings), inputs, out=str(folder / "run"), workers=Workers(number=0), console=quiet
    )
    assert report.results.complete
    write_report(report.folder.url)
    return SimpleNamespace(
        folder=folder / "run",
        run=read_run(report.folder),
        folds=pd.read_csv(folder / "run" / "folds.csv").pivot(index="fold", columns="model", values="c"),
        risks=pd.read_csv(folder / "run" / "risks.csv"),
        page=(folder / "run" / "report.html").read_text(),
    )


def label_of(origin, mask, head, fusion="–"):
    short = {"concatenation": ["concat"], "gated": ["gate"], "–": []}[fusion]
    return ".".join([origin, mask, "MedSAM2", head, *short])


def expected(study, labels):
    """Mean and standard error over folds of the rows' mean within each fold."""
    values = study.folds[labels].mean(axis=1)
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values))


def drawn(study, name):
    return ET.parse(study.folder / "figures" / f"{name}.svg").getroot()


def texts(element):
    return ["".join(one.itertext()).strip() for one in element.iter(f"{SVG}text")]


def group(root, ident):
    return next(one for one in root.iter(f"{SVG}g") if one.get("id", "").endswith(ident))


def axis(axes, letter):
    """Pairs of a tick's place and its label."""
    found = []
    for one in axes.iter(f"{SVG}g"):
        if re.search(rf"-{letter}tick_\d+$", one.get("id", "")):
            (label,), mark = texts(one), next(one.iter(f"{SVG}use"))
            found.append((float(mark.get(letter)), label))
    return found


def scale(axes, letter="y"):
    """Function from a place in the drawing to the value that the ticks of the axis give it."""
    place, value = zip(*((at, float(label)) for at, label in axis(axes, letter)), strict=True)
    slope, shift = np.polyfit(place, value, 1)
    return lambda at: slope * np.asarray(at) + shift


def points(path):
    return np.array([[float(x), float(y)] for x, y in re.findall(r"[ML] (\S+) (\S+)", path.get("d"))])


def bars(root):
    """Mean and standard error of each bar as drawn, by the name of its place and its hue."""
    axes = group(root, "-axes_1")
    value, places = scale(axes), axis(axes, "x")
    legend = group(axes, "legend_1")
    swatches = [
        one.get("style").split(";")[0] for one in legend.iter(f"{SVG}path") if "stroke-width: 0.6" in one.get("style")
    ]
    hues = dict(zip(swatches, [text for text in texts(legend) if text not in ("fusion", "downsampling")], strict=True))
    rectangles = [one for one in axes.iter(f"{SVG}path") if one.get("clip-path") and len(points(one)) == 4]
    whiskers = [points(one) for one in axes.iter(f"{SVG}path") if one.get("clip-path") and len(points(one)) == 2]
    found = {}
    for rectangle in rectangles:
        x, y = points(rectangle).mean(axis=0)[0], points(rectangle)[:, 1].min()
        # uprights over the middle of the bar; the line of chance lies across
        ends = next(one[:, 1] for one in whiskers if np.allclose(one[:, 0], x, atol=0.01))
        name = min(places, key=lambda place: abs(place[0] - x))[1]
        hue = hues[rectangle.get("style").split(";")[0]]
        low, high = sorted(value(ends))
        found[name, hue] = (float(value(y)), (high - low) / 2)
    return found


@pytest.mark.parametrize(("letter", "head"), [("a", "attention"), ("b", "averaging")])
def test_fig_5_has_a_bar_for_each_mask_and_fusion_of_models_of_two_modalities(study, letter, head):
    root = drawn(study, f"study-fusion-{head}")
    found = bars(root)
    assert set(found) == {(mask, fusion) for mask in MASKS for fusion in FUSIONS}
    for (mask, fusion), (mean, se) in found.items():
        assert (mean, se) == pytest.approx(expected(study, [label_of("combined", mask, head, fusion)]), abs=2e-4)
    assert {"mask", "fusion", "Harrell's c"} <= set(texts(root))
    assert f"(paper, Fig. 5{letter})" in root[0].text


def test_fig_6_averages_the_rows_of_an_origin_within_each_fold_first(study):
    root = drawn(study, "study-downsampling")
    found = bars(root)
    rows = {
        (origin, head): [
            label_of(origin, mask, head, fusion)
            for mask in MASKS
            for fusion in (FUSIONS if origin == "combined" else ("–",))
            if label_of(origin, mask, head, fusion) in study.folds
        ]
        for origin in ORIGINS
        for head in HEADS
    }
    assert {place: len(labels) for place, labels in rows.items()} == {
        ("PET", "averaging"): 2, ("PET", "attention"): 1, ("CT", "averaging"): 1, ("CT", "attention"): 1,
        ("combined", "averaging"): 4, ("combined", "attention"): 4,
    }  # fmt: skip
    assert set(found) == set(rows)
    for place, (mean, se) in found.items():
        assert (mean, se) == pytest.approx(expected(study, rows[place]), abs=2e-4)
    assert {"origin", "downsampling", "Harrell's c"} <= set(texts(root))
    assert "(paper, Fig. 6)" in root[0].text


def test_the_figures_say_in_words_what_their_bars_show(study):
    for name in ("study-fusion-attention", "study-fusion-averaging", "study-downsampling"):
        root = drawn(study, name)
        for (place, hue), (mean, se) in bars(root).items():
            told = re.search(rf"{place}, {hue}: (\S+) ± (\S+?)[;.](?: |$)", root[1].text)
            assert (float(told[1]), float(told[2])) == pytest.approx((mean, se), abs=1e-3)


def test_bars_of_repeated_folds_have_the_corrected_standard_error_of_the_tables(study):
    twice = make_splits(study.run.cohort, folds=2, seed=0, repeats=2)
    run = dataclasses.replace(study.run, splits=twice)
    found = bars_of(run, "mask", "fusion", lambda facets: facets.fusion != "–" and facets.downsampling == "averaging")
    values = study.folds[label_of("combined", "spine", "averaging", "gated")]
    bar = found.values["spine", "gated"]
    assert (bar.mean, bar.se) == pytest.approx((values.mean(), values.std(ddof=1) * np.sqrt(1 / 4 + 1)))


def test_a_study_without_two_fusions_or_heads_has_no_such_figure(study):
    one = tuple(model for model in study.run.config.models if model.name in (BEST, "cox"))
    run = dataclasses.replace(study.run, config=study.run.config.model_copy(update={"models": one}))
    assert draw_study(run) == []


def quarters(study, label):
    """Outcomes of the outer quartiles of out-of-fold risk, from the files alone."""
    mine = study.risks[(study.risks["model"] == label) & (study.risks["permutation"] == 0)]
    low, _, high = np.quantile(mine["z"], (0.25, 0.5, 0.75))
    return {"lowest": mine[mine["z"] <= low], "highest": mine[mine["z"] > high]}


@pytest.mark.parametrize("label", [BEST, "multimodal.combined.spine.MedSAM2.averaging.gate"])
def test_fig_4_has_the_numbers_at_risk_and_the_curves_of_the_outer_quartiles(study, label):
    root = drawn(study, f"quartiles-{label}")
    curves, table = group(root, "-axes_1"), group(root, "-axes_2")
    ticks = [float(name) for _, name in axis(table, "x")]
    counts = [text for text in texts(table) if text.isdigit()][len(ticks) :]
    outer = quarters(study, label)
    at_risk = {name: [int((mine["time"] >= tick).sum()) for tick in ticks] for name, mine in outer.items()}
    shown = [text for text in texts(table) if text not in ("at risk", "time (months)", *outer)]
    numbers = list(map(int, shown[len(ticks) :]))
    assert counts == shown[len(ticks) :]
    assert numbers == at_risk["lowest"] + at_risk["highest"]
    assert f"Lowest quartile: {at_risk['lowest'][0]} patients" in root[1].text
    assert at_risk["lowest"][0] == len(outer["lowest"]) >= 12
    value, months = scale(curves), scale(table, "x")
    for (name, mine), colour in zip(outer.items(), SERIES, strict=False):
        time, survival = kaplan_meier_estimator(mine["event"] == 1, mine["time"])
        lines = [
            p for p in curves.iter(f"{SVG}path") if p.get("clip-path") and "stroke-width: 1.6" in p.get("style", "")
        ]
        path = points(next(one for one in lines if colour in one.get("style")))
        steps = pd.DataFrame({"x": months(path[:, 0]).round(1), "y": value(path[:, 1])}).groupby("x")["y"].last()
        wanted = pd.Series(survival, index=time.astype(float))
        common = steps.index.intersection(wanted.index)
        assert len(common) >= len(wanted) - 1, name
        np.testing.assert_allclose(steps[common], wanted[common], atol=2e-3)


def test_fig_4_gives_the_log_rank_p_of_the_outer_quartiles(study):
    outer = pd.concat(quarters(study, BEST), names=["group"]).reset_index("group")
    _, p = compare_survival(Surv.from_arrays(outer["event"] == 1, outer["time"]), outer["group"])
    assert f"Log-rank p {p:.2g} (nominal" in drawn(study, f"quartiles-{BEST}")[0].text


def test_the_page_shows_the_same_drawings_with_their_captions(study):
    for name in ("study-fusion-attention", "study-fusion-averaging", "study-downsampling", f"quartiles-{BEST}"):
        root = drawn(study, name)
        inline = re.search(
            rf'<svg[^>]*aria-labelledby="{re.escape(name)}-title .*?</svg>\s*</div>\s*<figcaption>(.*?)</figcaption>',
            study.page,
            re.DOTALL,
        )
        shown = ET.fromstring(inline[0].partition("</svg>")[0] + "</svg>")
        assert texts(shown) == texts(root)
        assert [one.get("d") for one in shown.iter(f"{SVG}path")] == [one.get("d") for one in root.iter(f"{SVG}path")]
        assert inline[1].replace("&#39;", "'") == root[0].text
