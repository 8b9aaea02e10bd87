"""`trainer robustness` from store to files: views found and told apart, patients in common, a model's risks, pages, wrong calls."""

import hashlib
import io
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from rich.console import Console
from scipy import stats

from store_schema import Entry, EntryKey, Layout, create_store, open_store
from store_schema.errors import CohortError, NotCommittedError, UsageError
from trainer.cli import main
from trainer.dispatch import Workers
from trainer.final import fit_final
from trainer.metrics import harrell_c
from trainer.plan import Inputs
from trainer.predicting import Newcomers, predict
from trainer.robustness.agreement import icc
from trainer.robustness.measuring import Asked, measure
from trainer.robustness.overlap import overlap
from trainer.robustness.page import write_page
from trainer.robustness.results import told_apart
from trainer.robustness.writing import write_robustness
from trainer.run import cross_validate
from trainer.saved import read_model

LEFT_OUT = "P039"
SIZES = {2.0: 0.02, 5.0: 0.6}
"""Noise by padding in mm."""


def perturbed_view(view, kind, size=None, unit="mm", **changes):
    flags = {**view.flags, "perturbation": kind} | ({} if size is None else {f"perturbation_size_{unit}": size})
    name = f"{view.name}-{kind}" + ("" if size is None else f"-{size:g}{unit}")
    return view.model_copy(update={"name": name, "flags": flags, **changes})


def fill_perturbed(store, view, table, kit, noise, *, without=()):
    """Entries of the base with noise on them; all alike where the noise is not a number."""
    view_id = store.put_view(view)
    for row, (patient, z) in enumerate(zip(table["patient"], table["z"], strict=True)):
        for channel, modality in enumerate(("PET", "CT")):
            if patient in without:
                continue
            made = kit.entry(z if modality == "PET" else 0.3 * z, [0, row, channel])
            rng = np.random.default_rng([9, row, channel])
            memory = made.arrays["memory"].astype(np.float32)
            memory = np.ones_like(memory) if np.isnan(noise) else memory + noise * rng.normal(size=memory.shape)
            arrays = {"memory": memory.astype(np.float16), "mean_map": memory.mean(axis=(0, 1)).astype(np.float32)}
            digest = hashlib.sha256(arrays["mean_map"].tobytes() + patient.encode()).hexdigest()
            store.publish(view_id, EntryKey(patient, modality, "spine"), Entry(arrays, {}), input_sha256=digest)
    return view_id


@pytest.fixture(scope="module")
def made(cohort_folder, shared_kit, tmp_path_factory):
    """Folder with the base store, perturbed views in it, and models of a run on the base."""
    folder = tmp_path_factory.mktemp("robustness")
    shutil.copytree(cohort_folder / "store", folder / "store")
    store, table = open_store(str(folder / "store")), shared_kit.draw()
    for size, noise in SIZES.items():
        view = perturbed_view(shared_kit.view, "padding", size)
        fill_perturbed(store, view, table, shared_kit, noise, without=(LEFT_OUT,) if size == 5 else ())
    fill_perturbed(store, perturbed_view(shared_kit.view, "constant"), table, shared_kit, float("nan"))
    fill_perturbed(store, perturbed_view(shared_kit.view, "drop", 0.5, "share"), table[:2], shared_kit, 0.1)
    image = shared_kit.settings["models"][1]
    settings = {
        **shared_kit.settings,
        "models": [{"name": "cox", "kind": "ridge_cox"}, {**image, "name": "both", "clinical": True}, image],
    }
    run = cross_validate(
        shared_kit.parse(settings),
        Inputs(cohort_folder / "clinical.csv", str(folder / "store")),
        out=str(folder / "run"),
        workers=Workers(number=0),
        console=Console(file=io.StringIO()),
    )
    for name in ("cox", "both", "image"):
        fit_final(run.folder.url, name, out=str(folder / name))
    shutil.copy(cohort_folder / "clinical.csv", folder / "clinical.csv")
    return folder


def asked(folder, *perturbed, base="tiny", **more) -> Asked:
    base = next(
        view for view in open_store(str(folder / "store")).view_ids() if re.fullmatch(rf"{base}-[0-9a-f]+", view)
    )
    return Asked(str(folder / "store"), base, perturbed, **more)


def silent(done: int, total: int) -> None:
    assert done <= total


@pytest.fixture(scope="module")
def measured(made):
    return measure(
        asked(
            made,
            "tiny-padding-5mm",
            "tiny-padding-2mm",
            "tiny-constant",
            model_url=str(made / "both"),
            clinical=made / "clinical.csv",
            resamples=200,
        ),
        silent,
    )


def maps(folder, view, modality, patients):
    store = open_store(str(folder / "store"))
    view_id = store.resolve_view(view)
    read = [
        store.read(view_id, EntryKey(patient, modality, "spine")).arrays["mean_map"].ravel() for patient in patients
    ]
    return np.array(read, dtype=np.float64)


def test_views_are_told_apart_by_their_flags_and_stand_by_size(measured):
    views = measured.found.views
    assert [(one.kind, one.size, one.unit) for one in views] == [
        ("padding", 2.0, "mm"),
        ("padding", 5.0, "mm"),
        ("constant", None, None),
    ]
    assert [one.label for one in views] == ["padding 2 mm", "padding 5 mm", "constant"]
    assert not any(one.differs for one in views)


def test_embeddings_are_compared_over_the_patients_of_all_views(made, measured):
    patients = [f"P{row:03d}" for row in range(39)]
    assert LEFT_OUT not in patients
    for view, name in zip(measured.found.views, ("tiny-padding-2mm", "tiny-padding-5mm"), strict=False):
        for one in view.embeddings:
            assert one.patients == 39
            base = maps(made, measured.found.base_view, one.modality, patients)
            other = maps(made, name, one.modality, patients)
            moved = np.linalg.norm(other - base, axis=1) / np.linalg.norm(base, axis=1)
            assert one.relative_l2.median == pytest.approx(np.median(moved))
            each = [icc(np.stack([base[:, place], other[:, place]], axis=1)).value for place in range(base.shape[1])]
            assert one.icc.median == pytest.approx(np.median(each))
            assert one.cosine.median == pytest.approx(
                np.median((base * other).sum(axis=1) / np.linalg.norm(base, axis=1) / np.linalg.norm(other, axis=1))
            )
            assert len(one.components) == 5
    small, large, constant = (view.embeddings[0] for view in measured.found.views)
    assert small.icc.median > 0.98 > large.icc.median
    # a constant embedding agrees with nobody's
    assert abs(constant.icc.median) < 0.3


def test_risks_are_those_of_predict_and_judged_by_scipy_and_harrell(made, measured):
    card, trained = read_model(str(made / "both"))
    whole = predict(card, trained, Newcomers(str(made / "store"), clinical=made / "clinical.csv"), times=[12])
    keep = [place for place, patient in enumerate(whole.patients) if patient != LEFT_OUT]
    np.testing.assert_allclose(measured.risks.log_risk[0], whole.log_risk[keep], atol=1e-6)
    by_view = dict(zip(measured.order, measured.risks.log_risk[1:], strict=True))
    table = pd.read_csv(made / "clinical.csv").set_index("patient").loc[list(measured.risks.cohort.patients)]
    time, event = table["months"].to_numpy(dtype=float), table["event"].to_numpy() == 1
    base = measured.risks.log_risk[0]
    for view in measured.found.views:
        risk, told = by_view[view.view], view.risk
        assert told.patients == 39
        assert told.spearman == pytest.approx(stats.spearmanr(base, risk).statistic)
        assert told.kendall == pytest.approx(stats.kendalltau(base, risk).statistic)
        assert told.icc.value == pytest.approx(icc(np.stack([base, risk], axis=1)).value)
        ranks = [stats.rankdata(one) for one in (base, risk)]
        assert told.mean_rank_change == pytest.approx(np.abs(ranks[0] - ranks[1]).mean())
        groups = [np.searchsorted(card.risk_cuts, one, side="left") for one in (base, risk)]
        assert told.changed_group == pytest.approx((groups[0] != groups[1]).mean())
        c = [harrell_c(risk=one, time=time, event=event).c for one in (base, risk)]
        assert told.c.change == pytest.approx(c[1] - c[0])
        assert told.c.low <= told.c.high
    small, _, constant = (view.risk for view in measured.found.views)
    assert small.icc.value > 0.99
    assert constant.icc.value < small.icc.value
    together = icc(np.stack(measured.risks.log_risk, axis=1))
    assert measured.found.risk_icc.value == pytest.approx(together.value)


def test_what_a_reader_must_know_is_noted(measured):
    notes = " ".join(measured.found.notes)
    assert "the encoder is untrained" in notes
    assert "of the one fitted model" in notes
    assert "entries that not every view holds" in notes


def test_a_model_on_the_patients_that_it_was_fitted_on_is_called_apparent(made):
    found = measure(
        asked(made, "tiny-padding-2mm", model_url=str(made / "image"), clinical=made / "clinical.csv", resamples=100),
        silent,
    ).found
    assert found.model.apparent
    assert any("fitted on these very patients" in note for note in found.notes)
    assert found.risk_icc is None


def test_one_patient_less_or_no_column_of_the_centre_makes_them_no_strangers(made, tmp_path):
    table = tmp_path / "clinical.csv"
    pd.read_csv(made / "clinical.csv")[1:].to_csv(table, index=False)
    less = measure(
        asked(made, "tiny-padding-2mm", model_url=str(made / "image"), clinical=table, resamples=100), silent
    )
    assert (less.found.model.apparent, less.found.model.seen) == (True, 39)
    assert any("fitted on these very patients" in note for note in less.found.notes)
    told = less.risks.cohort
    strangers = replace(told, patients=tuple(f"Q{one}" for one in told.patients), person=tuple(map(str, told.time)))
    store = open_store(str(made / "store"))
    assert overlap(less.risks.card, store, strangers).apparent is False


def test_without_outcomes_risks_are_judged_and_c_is_not(made, tmp_path):
    alone = measure(asked(made, "tiny-padding-2mm", model_url=str(made / "image")), silent).found
    assert alone.views[0].risk.c.reason == "no outcomes were given"
    assert alone.views[0].risk.spearman is not None
    covariates = tmp_path / "covariates.csv"
    pd.read_csv(made / "clinical.csv").drop(columns=["months", "event"]).to_csv(covariates, index=False)
    found = measure(asked(made, "tiny-padding-2mm", model_url=str(made / "both"), clinical=covariates), silent).found
    assert found.views[0].risk.c.change is None
    assert found.views[0].risk.patients == 40


def test_files_hold_all_figures_and_a_rerun_writes_the_same(made, measured, tmp_path):
    url = write_robustness(measured, str(tmp_path / "out"))
    write_page(measured.found, url)
    folder = tmp_path / "out"
    told = json.loads((folder / "robustness.json").read_text())
    assert told["views"][0]["embeddings"][0]["icc"]["median"] == measured.found.views[0].embeddings[0].icc.median
    table = pd.read_csv(folder / "robustness.csv")
    row = table[(table["measure"] == "change of c") & (table["size"] == 5)].iloc[0]
    assert row["value"] == pytest.approx(measured.found.views[1].risk.c.change)
    entries = pd.read_csv(folder / "entries.csv")
    assert len(entries) == 3 * 2 * 39
    risks = pd.read_csv(folder / "risks.csv")
    assert len(risks) == 3 * 39
    one = risks[risks["view"] == measured.order[0]]
    np.testing.assert_allclose(one["log_risk"], measured.risks.log_risk[1])
    page = (folder / "report.html").read_text()
    assert "padding 5 mm" in page
    assert page.count("<svg") == 2 * 2 + 3
    assert not re.search(r"(?:src|href)=[\"'](?:https?:)?//", page)
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = measure(
        asked(
            made,
            "tiny-padding-5mm",
            "tiny-padding-2mm",
            "tiny-constant",
            model_url=str(made / "both"),
            clinical=made / "clinical.csv",
            resamples=200,
        ),
        silent,
    )
    write_page(again.found, write_robustness(again, str(tmp_path / "out")))
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_view_that_differs_in_more_than_its_perturbation_is_named(made, shared_kit):
    store = open_store(str(made / "store"))
    view = perturbed_view(shared_kit.view, "erode", 3.0, precision="bfloat16")
    fill_perturbed(store, view, shared_kit.draw(), shared_kit, 0.1)
    found = measure(asked(made, "tiny-erode-3mm"), silent).found
    assert found.views[0].differs == ("precision",)
    assert any("differs from the base in precision" in note for note in found.notes)
    with pytest.raises(UsageError, match=r"model 'image' reads view tiny-.* differs in precision, besides"):
        measure(asked(made, "tiny-erode-3mm", model_url=str(made / "image")), silent)


def test_views_of_one_kind_and_size_have_labels_of_their_own(measured):
    first, second, _ = measured.found.views
    twin = first.model_copy(update={"view": second.view})
    labels = [view.label for view in told_apart([first, twin, second])]
    assert labels == [f"padding 2 mm ({first.view[-16:-8]})", f"padding 2 mm ({second.view[-16:-8]})", "padding 5 mm"]


def test_another_stride_is_no_other_difference(shared_kit, tmp_path):
    store = create_store(tmp_path / "store")
    prompt = shared_kit.view.prompt.model_copy(update={"stride": 4})
    view = perturbed_view(shared_kit.view, "stride", 4.0, "slices", prompt=prompt)
    shared_kit.fill(store, shared_kit.draw())
    fill_perturbed(store, view, shared_kit.draw(), shared_kit, 0.1)
    (base,) = (one for one in store.view_ids() if "stride" not in one)
    found = measure(Asked(store.url, base, ("tiny-stride-4slices",)), silent).found
    assert (found.views[0].unit, found.views[0].size, found.views[0].differs) == ("slices", 4.0, ())


def test_entries_that_no_perturbation_reaches_are_said_to_tell_nothing(shared_kit, tmp_path):
    store, table = create_store(tmp_path / "store"), shared_kit.draw()
    base = fill_perturbed(store, shared_kit.view, table, shared_kit, 0.0)
    for kind, noise in (("shift_x", 0.0), ("padding", 0.1)):
        fill_perturbed(store, perturbed_view(shared_kit.view, kind, 4.0), table, shared_kit, noise)
    notes = measure(Asked(store.url, base, ("tiny-shift_x-4mm", "tiny-padding-4mm")), silent).found.notes
    idle = [note for note in notes if "their agreement says nothing" in note]
    assert idle
    assert all("in tiny-shift_x-4mm" in note for note in idle)


def test_vectors_are_compared_without_features_that_somebody_lacks(shared_kit, tmp_path):
    store, rng = create_store(tmp_path / "store"), np.random.default_rng(4)
    layout = Layout(name="vector", shape=(1, 5, 1, 1), dtype="float32", missing=-99.0)
    spec = shared_kit.view.model_copy(update={"name": "vectors", "layout": layout})
    base = rng.normal(size=(12, 5)).astype(np.float32)
    other = base + 0.3 * rng.normal(size=base.shape).astype(np.float32)
    base[3, 2] = -99.0
    for view, values in ((spec, base), (perturbed_view(spec, "padding", 2.0), other)):
        view_id = store.put_view(view)
        for row, vector in enumerate(values):
            made = Entry({"memory": vector.reshape(1, 5, 1, 1)}, {})
            digest = hashlib.sha256(vector.tobytes()).hexdigest()
            store.publish(view_id, EntryKey(f"P{row:02d}", "PET", "roi"), made, input_sha256=digest)
    (told,) = measure(Asked(store.url, "vectors", ("vectors-padding-2mm",)), silent).found.views[0].embeddings
    each = [icc(np.stack([base[:, place], other[:, place]], axis=1)).value for place in (0, 1, 3, 4)]
    assert (told.features, told.constant) == (5, 1)
    assert told.icc.median == pytest.approx(np.median(each))
    moved = np.linalg.norm(other - base, axis=1) / np.linalg.norm(base, axis=1)
    kept = [0, 1, 3, 4]
    moved[3] = np.linalg.norm(other[3, kept] - base[3, kept]) / np.linalg.norm(base[3, kept])
    assert told.relative_l2.median == pytest.approx(np.median(moved))


def test_a_snapshot_may_stand_for_a_view(made):
    store = open_store(str(made / "store"))
    view = store.resolve_view("tiny-padding-2mm")
    some = {key: number for key, number in store.current_numbers(view).items() if key.patient < "P010"}
    snapshot = store.make_snapshot(view, some)
    found = measure(asked(made, snapshot), silent).found
    assert found.views[0].embeddings[0].patients == 10
    assert found.views[0].snapshot == snapshot


@pytest.mark.parametrize(
    ("perturbed", "more", "error", "said"),
    [
        (
            ("tiny-drop-0.5share",),
            {},
            CohortError,
            "4 entries in common, 2 patients of one modality and region at most",
        ),
        (("absent",), {}, NotCommittedError, "absent"),
        (("tiny-padding-2mm", "tiny-padding-2mm"), {}, UsageError, "named twice"),
        ((), {}, UsageError, "nothing to compare"),
        (("tiny-padding-2mm",), {"model": "cox", "clinical": True}, UsageError, "reads no images"),
        (("tiny-padding-2mm",), {"model": "both"}, UsageError, "reads covariates"),
        (
            ("tiny-padding-5mm",),
            {"model": "both", "base": "tiny-padding-2mm"},
            UsageError,
            "name the model's view with --base",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_with_what_to_do(made, perturbed, more, error, said):
    given = {"model_url": str(made / more["model"])} if "model" in more else {}
    given |= {"clinical": made / "clinical.csv"} if "clinical" in more else {}
    given |= {"base": more["base"]} if "base" in more else {}
    with pytest.raises(error, match=said):
        measure(asked(made, *perturbed, **given), silent)


def test_the_command_prints_tables_and_writes_a_folder(made, tmp_path):
    base = asked(made).base
    arguments = ["robustness", "--store", str(made / "store"), "--base", base, "--perturbed", "tiny-padding-2mm"]
    arguments += ["--model", str(made / "image"), "--clinical", str(made / "clinical.csv"), "--resamples", "100"]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "padding 2 mm" in result.stdout
    assert "Risks of image against the base" in result.stdout
    assert "report.html" in result.stdout
    assert (tmp_path / "out" / "robustness.json").exists()
    refused = CliRunner().invoke(main, [*arguments, "--out", str(made / "run")])
    assert refused.exit_code != 0
    assert "holds a run" in refused.stderr
    wrong = CliRunner().invoke(main, [*arguments[:7], "--clinical", str(made / "clinical.csv"), "--out", "x"])
    assert wrong.exit_code == 2
    assert "give --model too" in wrong.stderr
    unfitted = CliRunner().invoke(
        main, [*arguments, "--out", "x", "--performance-report", str(tmp_path / "report.html")]
    )
    assert unfitted.exit_code == 2
    assert "--performance-report is of the fits that --run makes again" in unfitted.stderr
