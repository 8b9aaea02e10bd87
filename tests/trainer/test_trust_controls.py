"""Negative controls and the ablation on a planted store: what is found, what is compared with what, and what may be said of it."""

import csv
import io
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from store_schema import EntryKey, open_store
from store_schema.errors import ConfigError, NotCommittedError, UsageError
from trainer.dispatch import Workers
from trainer.plan import Inputs
from trainer.run import cross_validate
from trainer.run_folder import RunFolder
from trainer.study_config import parse_trusted
from trainer.trust.control_judging import controls_of
from trainer.trust.control_results import read_controls
from trainer.trust.control_run import adapted, plan_controls
from trainer.trust.controls_part import CONTROLS
from trainer.trust.parts import LeftOut, run_part
from trainer.trust.subject import Subject, row_of
from trainer.trust.views import standing
from trainer.trust_config import ControlsPart, TrustSettings

from .trust_help import draw, encoder_view, fill, perturbed, plant, study_settings

FOLDS, REPEATS = 4, 2
ROWS = ["base", "encoder.last2", "elsewhere", "random_boxes", "constant", "sequential.pooled", "upfront.paper"]


def judged(settings, folder, store, **changes) -> Subject:
    """A study that was run, with its one row to be looked at."""
    config, trust = parse_trusted(settings)
    inputs = Inputs(folder / "clinical.csv", store.url, **changes)
    quiet = Console(file=io.StringIO())
    workers = Workers(number=0)
    study = cross_validate(config, inputs, out=str(folder / "run"), workers=workers, console=quiet)
    return Subject(
        trust, study.plan, inputs, row_of(config, trust.row), study.folder.url, workers, quiet, study.results
    )


@pytest.fixture(scope="module")
def made(shared_kit, tmp_path_factory) -> SimpleNamespace:
    """A base with all of the signal, the encoder alone with two fifths of it, controls with none: fitted and judged."""
    folder = tmp_path_factory.mktemp("controls")
    table = draw(100, 3)
    store, base = plant(folder, shared_kit.view, table)
    splits = {"folds": FOLDS, "repeats": REPEATS}
    subject = judged(study_settings(shared_kit.settings, base, splits=splits), folder, store)
    study = RunFolder.open(subject.url)
    record, before = run_part(CONTROLS, subject, study)
    assert not before
    found = read_controls(RunFolder.open(f"{subject.url}/trust/controls"))
    return SimpleNamespace(
        folder=folder, store=store, base=base, table=table, subject=subject, study=study, record=record, found=found
    )


def test_views_are_found_by_what_they_are_and_fitted_on_the_studys_patients_and_folds(made):
    found = made.found
    assert [row.name for row in found.rows] == ROWS
    assert [one.family for one in found.contrasts] == ["controls"] * 4 + ["ablation"] * 2
    assert (found.patients, found.folds, found.repeats, found.same_folds) == (100, FOLDS, REPEATS, True)
    assert not found.left_out
    study = next(row for row in made.subject.results.rows if row.label == made.subject.row)
    assert list(found.base.scores) == [score.c for score in study.scores]
    assert (found.base.mean, found.base.se) == (study.mean, study.se)
    assert found.study_mean == study.mean
    assert found.complete
    assert made.record.status == "done"


def test_every_contrast_is_the_corrected_test_by_hand_and_holm_by_hand(made):
    found = made.found
    folds = FOLDS * REPEATS
    scores = {row.name: np.array(row.scores) for row in found.rows}
    for family in ("controls", "ablation"):
        p_values = []
        for row, one in found.of(family):
            d = scores["base"] - scores[row.name]
            se = np.sqrt(d.var(ddof=1) * (1 / folds + 1 / (FOLDS - 1)))
            half = stats.t.ppf(0.975, folds - 1) * se
            p_values.append(2 * stats.t.sf(abs(d.mean() / se), folds - 1))
            assert one.differences == pytest.approx(d)
            assert (one.mean, one.se, one.df) == (pytest.approx(d.mean()), pytest.approx(se), folds - 1)
            assert (one.low, one.high) == (pytest.approx(d.mean() - half), pytest.approx(d.mean() + half))
            assert one.p == pytest.approx(p_values[-1])
        order = np.argsort(p_values)
        steps = [min(1.0, (len(p_values) - rank) * p_values[place]) for rank, place in enumerate(order)]
        adjusted = dict(zip(order.tolist(), np.maximum.accumulate(steps), strict=True))
        for place, (_, one) in enumerate(found.of(family)):
            assert one.p_holm == pytest.approx(adjusted[place])


def test_the_interval_of_a_rows_own_c_is_that_of_the_corrected_test(made):
    for row in made.found.rows:
        c = np.array(row.scores)
        half = stats.t.ppf(0.975, len(c) - 1) * np.sqrt(c.var(ddof=1) * (1 / len(c) + 1 / (FOLDS - 1)))
        assert (row.low, row.high) == (pytest.approx(max(0, c.mean() - half)), pytest.approx(min(1, c.mean() + half)))
        assert row.above_chance == (c.mean() - half > 0.5)


def test_the_table_says_what_was_planted(made):
    told = {one.name: one for one in made.found.contrasts}
    for name in ("encoder.last2", "elsewhere", "random_boxes", "constant"):
        assert told[name].verdict == "higher", (name, told[name])
        assert told[name].low > 0
        assert told[name].p_holm <= 0.05
    assert told["encoder.last2"].reading.startswith(
        "Memory adds to what the image encoder alone tells of the same slices"
    )
    # the same signal in another layout
    assert told["sequential.pooled"].verdict == "not told apart"
    assert told["sequential.pooled"].low < 0 < told["sequential.pooled"].high
    rows = {row.name: row for row in made.found.rows}
    assert made.found.base.above_chance
    for name in ("elsewhere", "random_boxes", "constant"):
        assert rows[name].low < 0.5 < rows[name].high
    assert rows["encoder.last2"].mean > max(rows[name].mean for name in ("elsewhere", "random_boxes", "constant"))


def test_permuted_outcomes_are_at_chance(made):
    permuted = made.found.permuted
    assert permuted.repeats == 1
    assert permuted.at_chance
    assert permuted.p is None
    assert "as chance has it" in permuted.reading


def test_files_and_page_hold_every_figure(made):
    folder = made.folder / "run/trust/controls"
    lines = {line["row"]: line for line in csv.DictReader(io.StringIO((folder / "controls.csv").read_text()))}
    assert list(lines) == [*ROWS, "base (permuted)"]
    for row in made.found.rows:
        assert float(lines[row.name]["c_mean"]) == row.mean
        assert [float(c) for c in lines[row.name]["folds"].split()] == list(row.scores)
    for one in made.found.contrasts:
        assert float(lines[one.name]["base_minus_row_low"]) == one.low
        assert lines[one.name]["verdict"] == one.verdict
    assert float(lines["base (permuted)"]["c_mean"]) == made.found.permuted.mean
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 5
    for row in made.found.rows:
        assert f"{row.mean:.3f}" in page
        assert row.snapshot in page
    assert not re.search(r"(?:src|href)=[\"'](?:https?:)?//", page)


def test_key_figures_are_the_contrasts_the_encoder_alone_first(made):
    first = made.record.figures[0]
    one = made.found.contrasts[0]
    assert first.label == "Δc, base − encoder alone on the last two slices"
    assert (first.value, first.low, first.high, first.reading) == (one.mean, one.low, one.high, one.reading)
    assert first.text == f"{one.mean:+.3f} [{one.low:+.3f} to {one.high:+.3f}]"
    assert len(made.record.figures) == 4 + 1 + 1 + 2


def test_a_rerun_does_nothing_and_after_a_loss_only_what_is_missing(made):
    record, before = run_part(CONTROLS, made.subject, made.study)
    assert before
    assert record == made.record
    folder = made.folder / "run/trust/controls"
    tasks = sorted((folder / made.found.run / "tasks").iterdir())
    kept, lost = {path: path.stat().st_mtime_ns for path in tasks[2:]}, tasks[:2]
    told = (folder / "controls.json").read_bytes()
    for path in (*lost, folder / "controls.json", folder / "part.json"):
        path.unlink()
    record, before = run_part(CONTROLS, made.subject, made.study)
    assert not before
    assert record == made.record
    assert (folder / "controls.json").read_bytes() == told
    assert all(path.exists() for path in lost)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def told_again(made, subject, study):
    """What is told of the finished run, of a subject and a study that may be others."""
    wanted = plan_controls(made.subject, ControlsPart())
    out = str(made.folder / "run/trust/controls" / wanted.folder)
    quiet = Console(file=io.StringIO())
    done = cross_validate(wanted.config, wanted.inputs, out=out, workers=Workers(number=0), console=quiet)
    assert done.resumed == done.tasks
    return controls_of(subject, wanted, done.plan, done.results, study)


def test_another_c_than_in_the_study_is_told(made):
    study = made.subject.results
    assert told_again(made, made.subject, study) == made.found
    changed = tuple(row.model_copy(update={"mean": row.mean + 1e-3}) for row in study.rows)
    found = told_again(made, made.subject, study.model_copy(update={"rows": changed}))
    assert "in the study, on the same patients and folds" in found.notes[0]


def test_what_else_differs_than_memory_is_told(made):
    def noted(**changes):
        subject = replace(made.subject, model=made.subject.model.model_copy(update=changes))
        return " ".join(told_again(made, subject, made.subject.results).notes)

    assert "one channel" not in noted()
    assert "has one channel, and the model weighs channels" in noted(head="attention")
    assert "reads covariates too" not in noted()
    assert "reads covariates too" in noted(clinical=True)


def planned(made, **part):
    return plan_controls(made.subject, ControlsPart(**part))


def test_named_views_are_taken_and_others_not(made):
    found = planned(made, views=["tiny-constant"], ablation=["tiny-upfront-paper"], permutations=0)
    assert list(found.taken) == ["base", "constant", "upfront.paper"]
    assert found.config.control is None
    assert [(one.first, one.second) for one in found.config.contrasts] == [
        ("base", "constant"),
        ("base", "upfront.paper"),
    ]
    other = planned(made, views=["tiny-padding-5mm"], ablation=["tiny-upfront-paper"])
    assert other.taken["tiny-padding-5mm"].family == "controls"
    assert other.folder != found.folder


@pytest.mark.parametrize(
    ("part", "error", "said"),
    [
        ({"views": ["absent"]}, NotCommittedError, "absent"),
        ({"views": ["tiny-constant"], "ablation": ["tiny-constant"]}, UsageError, "named twice"),
        ({"views": ["BASE"]}, UsageError, "the row's own view"),
    ],
)
def test_what_is_named_wrongly_is_refused(made, part, error, said):
    part = {name: [made.base.view_id if one == "BASE" else one for one in views] for name, views in part.items()}
    with pytest.raises(error, match=said):
        planned(made, **part)


def test_the_model_is_the_rows_own_but_for_name_and_view(made):
    models = {model.name: model for model in planned(made).config.models}
    own = made.subject.model.model_dump(exclude={"name", "view", "facets"})
    for name, one in planned(made).taken.items():
        assert models[name].model_dump(exclude={"name", "view", "facets"}) == own
        assert models[name].view == one.standing.view_id


def test_vectors_are_read_by_the_head_of_vectors(made):
    model = made.subject.model.model_copy(update={"images": made.subject.model.images.model_copy(update={"pool": 2})})
    subject = replace(made.subject, model=model)
    found = adapted(subject, standing(made.base, encoder_view(made.base, "all")))
    assert (found.head, found.images.pool) == ("vector", 1)
    assert adapted(subject, standing(made.base, encoder_view(made.base))).head == "flatten"


@pytest.fixture
def small(kit, tmp_path) -> SimpleNamespace:
    """A store whose control lacks some patients, and whose encoder alone holds vectors."""
    table = draw(44, 3)
    store, base = plant(tmp_path, kit.view, table, names=("base",))
    lacking = perturbed(base, "elsewhere", seed=0)
    fill(store, lacking, table[:36], 0.0, seed=5)
    fill(store, encoder_view(base, "all"), table, 0.4, seed=6)
    settings = study_settings(kit.settings, base, splits={"folds": 2}, fit=kit.short)
    return SimpleNamespace(
        folder=tmp_path, store=store, base=base, lacking=lacking, subject=judged(settings, tmp_path, store)
    )


def test_a_view_that_lacks_patients_is_left_out_unless_it_was_named(small):
    found = plan_controls(small.subject, ControlsPart())
    assert list(found.taken) == ["base", "encoder.all"]
    assert "36 of 44 patients" in found.left_out[small.lacking.view_id]
    named = TrustSettings(controls=ControlsPart(views=(small.lacking.view_id,), permutations=0))
    record, _ = run_part(CONTROLS, replace(small.subject, settings=named), RunFolder.open(small.subject.url))
    told = read_controls(RunFolder.open(f"{small.subject.url}/trust/controls"))
    assert (told.patients, told.same_folds) == (36, False)
    assert any("36 of the study's 44 patients" in note for note in record.notes)
    assert told.base.mean != told.study_mean


def test_patients_beyond_the_studys_own_are_not_let_in(small):
    stranger = draw(45, 3)[44:]
    for view in (small.base, encoder_view(small.base, "all")):
        fill(small.store, view, stranger, 1.0, seed=8)
    found = plan_controls(small.subject, ControlsPart(views=(encoder_view(small.base, "all").view_id,)))
    for one in found.taken.values():
        assert {key.patient for key in one.snapshot.keys} == set(small.subject.plan.cohort.patients)
    key = EntryKey("P044", "PET", "spine")
    assert key in open_store(small.store.url).keys(small.base.view_id)


def test_without_anything_to_hold_it_against_the_part_is_left_out_and_what_was_named_fails(kit, tmp_path):
    store, base = plant(tmp_path, kit.view, draw(30, 3), names=("base",))
    subject = judged(study_settings(kit.settings, base, splits={"folds": 2}, fit=kit.short), tmp_path, store)
    none = replace(subject, settings=TrustSettings(controls=ControlsPart(permutations=0)))
    nothing = CONTROLS.prepare(none)
    assert isinstance(nothing, LeftOut)
    assert "extractor perturb" in nothing.reason
    off = CONTROLS.prepare(replace(subject, settings=TrustSettings.model_validate({"controls": False})))
    assert off == LeftOut("left out by the study's settings")
    named = TrustSettings(controls=ControlsPart(views=("absent",)))
    record, _ = run_part(CONTROLS, replace(subject, settings=named), RunFolder.open(subject.url))
    assert (record.status, record.page) == ("failed", None)
    assert "absent" in record.said


def test_a_model_that_cannot_read_a_view_is_refused_by_name(made, kit, tmp_path):
    store, base = plant(tmp_path, kit.view, draw(30, 3), names=("base", "encoder"))
    settings = study_settings(kit.settings, base, splits={"folds": 2})
    vectors = encoder_view(base, "all")
    fill(store, vectors, draw(30, 3), 1.0, seed=4)
    cox = {
        "kind": "ridge_cox",
        "origin": ["PET"],
        "mask": ["spine"],
        "model": ["MedSAM2"],
        "settings": {"clinical": False},
    }
    settings = {**settings, "views": {"MedSAM2": vectors.view_id}, "rows": [cox]}
    subject = judged(settings, tmp_path, store)
    with pytest.raises(ConfigError, match="ridge_cox reads vectors"):
        plan_controls(subject, ControlsPart(views=(encoder_view(base).view_id,)))
