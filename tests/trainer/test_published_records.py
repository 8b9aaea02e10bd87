"""Records of a published run: every figure is that of the run's results, every curve that of its risks, digit by digit."""

import html
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sksurv.nonparametric import kaplan_meier_estimator

from store_schema import check_id, create_store
from store_schema.errors import SchemaError
from store_schema.published import PublishedCurves, PublishedRun
from store_schema.records import canonical_json, sha256
from store_schema.testing import HookedLocation
from trainer.measures.row_measures import RowMeasures
from trainer.publishing import publish_run
from trainer.results import parse_results

from . import publishing_help
from .publishing_help import records_in, summary_in

copied, store = publishing_help.copied, publishing_help.store
FACTS = {"results.json", "measures.json", "run.json", "km.json"}


def test_every_record_is_named_sized_and_digested_by_the_summary_and_the_summary_comes_last(named_run, store):
    order = []
    watched = replace(store, location=HookedLocation(store.location, lambda path, _: order.append(path)))
    made = publish_run(str(named_run.run), watched)
    summary = summary_in(store, made.run_id)
    names = [path.rpartition("/")[2] for path in order]
    assert names[-1] == "trainer.json"
    assert set(names[:-1]) == set(summary.records) >= FACTS | {"report.html"}
    for name, record in summary.records.items():
        data = store.read_run(made.run_id, check_id("record", name))
        assert (len(data), sha256(data)) == (record.size_bytes, record.sha256)


def test_the_summary_has_the_rows_of_the_results_digit_by_digit(published_run):
    summary, rows = published_run.summary, published_run.results.rows
    assert [model.name for model in summary.models] == [row.label for row in rows]
    for model, row in zip(summary.models, rows, strict=True):
        assert model.scores == tuple(score.c for score in row.scores)
        assert model.folds == len(row.scores)
        for name in ("kind", "mean", "se", "t", "p_one_sided", "corrected_p_one_sided", "permutation_p", "pooled_c"):
            assert getattr(model, name) == getattr(row, name)
    assert {model.kind for model in summary.models} == {"model", "permuted", "oracle"}


def test_the_summary_says_what_the_run_was(published_run, named_run):
    summary, record = published_run.summary, json.loads((named_run.run / "run.json").read_text())
    assert (summary.command, summary.patients, summary.studies) == ("search", 40, 40)
    assert summary.events == int(published_run.finished.cohort.event.sum())
    assert (summary.folds, summary.repeats, summary.published_at) == (3, 1, "2031-02-03T04:05:06Z")
    assert (summary.engram, summary.started_at) == (record["versions"]["engram"], record["started_at"])
    pin = record["snapshots"][0]
    assert summary.snapshots == {pin["view"]: pin["snapshot"]}
    assert summary.untrained == (pin["view"],)
    assert {model.name: model.untrained for model in summary.models if model.kind == "model"} == {
        "cox": False,
        "image": True,
        "both": True,
        "tuned": False,
    }
    assert summary.optimistic == ("tuned",)
    assert summary.claim is not None
    assert (summary.claim.first, summary.claim.second) == ("both", "cox")
    assert summary.claim.mean == published_run.results.contrasts[0].mean
    config = json.loads(published_run.records["run.json"])["config"]
    assert summary.settings_sha256 == sha256(canonical_json(config))
    assert config["oracle"]["table"] == "truth.csv"


def test_results_and_measures_are_those_of_the_run_but_for_names(published_run, named_run):
    results = parse_results(published_run.records["results.json"], where="")
    assert results.rows == published_run.results.rows
    assert results.contrasts == published_run.results.contrasts
    assert published_run.records["measures.json"] == (named_run.run / "measures.json").read_bytes()
    (told,) = (warning for warning in results.warnings if "look like two studies" in warning)
    assert told.startswith("two ids look like two studies of one patient (2 such groups)")


def test_curves_are_those_of_an_independent_estimator_of_the_runs_risks(published_run, named_run):
    risks = pd.read_csv(named_run.run / "risks.csv")
    clinical = published_run.finished.cohort
    assert [groups.model for groups in published_run.curves.models] == ["cox", "image", "both", "tuned"]
    for groups in published_run.curves.models:
        mine = risks[(risks["model"] == groups.model) & (risks["permutation"] == 0)].set_index("patient")
        z = mine["z"].loc[list(clinical.patients)].to_numpy()
        cuts = np.quantile(z, [0.25, 0.75])
        for curve, members in ((groups.lowest, z <= cuts[0]), (groups.highest, z > cuts[1])):
            time, event = clinical.time[members], clinical.event[members]
            steps, survival = kaplan_meier_estimator(event, time)
            assert curve.time == tuple(steps.tolist())
            assert curve.survival == pytest.approx(survival)
            assert (curve.patients, curve.events) == (len(time), int(event.sum()))
            for tick in (0.0, 11.5, *steps.tolist(), 1e4):
                assert curve.at_risk_at(tick) == int((time >= tick).sum())
            assert sum(curve.events_at) + sum(curve.censored) == curve.patients
            assert curve.survival_at(0.0) == 1.0
            assert curve.survival_at(1e4) == curve.survival[-1]


def test_curves_have_the_numbers_at_risk_that_the_report_draws(published_run):
    for groups in published_run.curves.models:
        svg = published_run.records[f"figure-quartiles-{groups.model}.svg"].decode()
        texts = [html.unescape(text).strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
        numbers = [text for text in texts if re.fullmatch(r"\d+", text)]
        ticks = [float(text) for text in numbers[: len(numbers) // 3]]
        assert ticks[0] == 0
        assert len(ticks) > 3
        drawn = [str(curve.at_risk_at(tick)) for curve in (groups.lowest, groups.highest) for tick in ticks]
        assert numbers == [f"{tick:g}" for tick in ticks] + drawn


def test_medians_and_tests_of_curves_are_those_of_the_results(published_run):
    rows = {row.label: row.risk_groups for row in published_run.results.of_kind("model")}
    for groups in published_run.curves.models:
        told = rows[groups.model]
        assert (groups.lowest.median, groups.highest.median) == (told.low_median, told.high_median)
        assert (groups.nominal_p, groups.permutation_p) == (told.nominal_p, told.permutation_p)
    assert published_run.curves.of("cox").permutation_p is not None
    assert published_run.curves.of("nobody") is None


def test_a_model_without_risk_groups_says_why(copied, store, change_results):
    rows = json.loads((copied / "results.json").read_text())["rows"]
    rows[0] |= {"risk_groups": None, "risk_groups_note": "too many are equal"}
    change_results(copied, rows=rows)
    made = publish_run(str(copied), store)
    curves = PublishedCurves.parse(store.read_run(made.run_id, "km.json"), where="")
    assert curves.without == {"cox": "too many are equal"}
    assert [groups.model for groups in curves.models] == ["image", "both", "tuned"]


def test_figures_are_published_with_their_captions_and_no_point_of_a_single_patient(published_run, named_run):
    figures = {figure.name: figure for figure in published_run.summary.figures}
    assert {"folds", "quartiles-cox", "quartiles-image", "curves-image", "calibration-both"} <= set(figures)
    assert not any(name.startswith("gate") for name in figures)
    assert figures["quartiles-cox"].kind == "quartiles"
    assert "lowest and the highest quartile" in figures["quartiles-cox"].caption
    page = published_run.records["report.html"].decode()
    assert 'id="gates"' in (named_run.run / "report.html").read_text()
    assert 'id="gates"' not in page
    assert "Left out, since it tells of single patients" in page
    assert "gate weights of patients (gate figures)" in published_run.summary.left_out


def test_a_run_folder_gets_a_report_where_it_has_none_and_keeps_the_one_it_has(copied, store):
    (copied / "report.html").unlink(missing_ok=True)
    publish_run(str(copied), store)
    assert "<title>Cross-validation" in (copied / "report.html").read_text()
    (copied / "report.html").write_text("mine")
    publish_run(str(copied), store, run_id="again")
    assert (copied / "report.html").read_text() == "mine"
    assert store.read_run("again", "report.html").startswith(b"<!doctype html>")


def test_the_figures_of_labels_that_cannot_name_a_record_are_named_by_a_digest(
    copied, store, shared_kit, change_results
):
    record = json.loads((copied / "run.json").read_text())
    record["config"]["search"]["mode"] = "both"
    results = json.loads((copied / "results.json").read_text())
    results["rows"] = [
        {**row, "label": row["label"].replace("tuned", "tuned (paper's way)")} for row in results["rows"]
    ]
    assert shared_kit.parse(record["config"]).tuned == ("tuned",)
    (copied / "run.json").write_text(json.dumps(record))
    change_results(copied, rows=[{**row, "model": row["label"]} for row in results["rows"] if row["kind"] == "model"])
    made = publish_run(str(copied), store)
    summary = summary_in(store, made.run_id)
    record_of = {figure.name: figure.record for figure in summary.figures}
    assert re.fullmatch(r"figure-quartiles-[0-9a-f]{16}\.svg", record_of["quartiles-tuned (paper's way)"])
    assert summary.optimistic == ("tuned (paper's way)",)


def test_records_are_parsed_without_the_trainer(published_run, tmp_path):
    for name in ("trainer.json", "km.json"):
        (tmp_path / name).write_bytes(published_run.records[name])
    code = (
        "import sys; from pathlib import Path; from store_schema.published import PublishedCurves, PublishedRun;"
        "read = lambda name: Path(sys.argv[1], name).read_bytes();"
        "run = PublishedRun.parse(read('trainer.json'), where=''); PublishedCurves.parse(read('km.json'), where='');"
        "print(run.models[0].name, [name for name in ('trainer', 'torch', 'pandas', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "cox []"


def test_measures_published_are_of_every_row(published_run):
    measures = json.loads(published_run.records["measures.json"])
    assert list(measures) == ["cox", "image", "both", "tuned"]
    assert all(RowMeasures.model_validate(row).patients == 40 for row in measures.values())


# Other runs


def test_a_run_of_covariates_alone_is_published_into_a_store_that_it_never_read(cv, kit):
    models = [kit.settings["models"][0]]
    report = cv(models=models, splits={"folds": 3, "repeats": 2}, inputs={"store_url": None})
    store = create_store("memory://covariates-alone")
    summary = summary_in(store, publish_run(report.folder.url, store).run_id)
    assert (summary.command, summary.store_id, summary.snapshots, summary.untrained) == ("cv", None, {}, ())
    assert (summary.folds, summary.repeats, summary.models[0].folds) == (3, 2, 6)
    assert summary.models[0].p_one_sided is None
    assert summary.models[0].corrected_p_one_sided == report.results.rows[0].corrected_p_one_sided
    assert summary.claim is None


def test_patients_of_several_studies_are_counted_once_and_neither_is_named(cv, kit, table, store):
    def visits(frame):
        frame["patient"] = [f"KOWALSKA-{row // 2:03d}" for row in range(len(frame))]
        frame["visit"] = ["first", "second"] * (len(frame) // 2)

    columns = {**kit.settings["columns"], "study": "visit"}
    inputs = {**table(visits), "store_url": None}
    made = publish_run(cv(models=[kit.settings["models"][0]], columns=columns, inputs=inputs).folder.url, store)
    summary = summary_in(store, made.run_id)
    assert (summary.patients, summary.studies) == (20, 40)
    assert not any(b"KOWALSKA" in data for data in records_in(store, made.run_id).values())


def test_competing_events_are_drawn_and_named(cv, kit, table, store):
    def compete(frame):
        frame.loc[frame.index[frame["event"] == 0][:8], "event"] = 2

    columns = {**kit.settings["columns"], "competing_values": [2]}
    inputs = {**table(compete), "store_url": None}
    made = publish_run(cv(models=[kit.settings["models"][0]], columns=columns, inputs=inputs).folder.url, store)
    summary = summary_in(store, made.run_id)
    assert "incidence" in {figure.kind for figure in summary.figures}
    assert summary.outcome == "event = 1, time months in months"
    assert any("8 of 40 had a competing event" in note for note in summary.notes)


def test_rows_of_a_study_make_it_one(cv, kit, store):
    facets = {"table": "clinical"}
    report = cv(models=[{**kit.settings["models"][0], "facets": facets}], inputs={"store_url": None})
    made = publish_run(report.folder.url, store)
    assert made.run_id.startswith("study-")
    assert summary_in(store, made.run_id).command == "study"


def test_a_curve_of_unequal_columns_or_falling_times_is_refused(published_run):
    told = json.loads(published_run.records["km.json"])
    told["models"][0]["lowest"]["survival"].pop()
    with pytest.raises(SchemaError, match="columns of other lengths"):
        PublishedCurves.parse(json.dumps(told).encode(), where="km.json")
    told = json.loads(published_run.records["km.json"])
    told["models"][0]["lowest"]["time"][0] = 1e9
    with pytest.raises(SchemaError, match="must rise"):
        PublishedCurves.parse(json.dumps(told).encode(), where="km.json")


@pytest.mark.parametrize("change", [{"kind": "extractor"}, {"schema": 2}, {"more": 1}, {"models": []}, {"records": {}}])
def test_a_summary_of_another_schema_is_refused(published_run, change):
    told = {**json.loads(published_run.records["trainer.json"]), **change}
    with pytest.raises(SchemaError, match=r"trainer\.json is not a PublishedRun"):
        PublishedRun.parse(json.dumps(told).encode(), where="trainer.json")
