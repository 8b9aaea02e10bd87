"""A kept model on another cohort: nothing of it flows into the model, every figure against another implementation."""

import dataclasses
import hashlib
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import yaml
from click.testing import CliRunner
from rich.console import Console
from sksurv.metrics import concordance_index_censored
from statsmodels.duration.hazard_regression import PHReg

from store_schema import create_store
from store_schema.errors import AlreadyExistsError, CohortError, ConfigError, NotCommittedError, UsageError
from store_schema.pseudonyms import PlainIds, Pseudonyms
from trainer.baseline_hazard import BreslowBaseline
from trainer.cli import main
from trainer.dispatch import Workers
from trainer.final import fit_final
from trainer.measures.recalibration import in_the_large, refitted, rescaled
from trainer.plan import Inputs
from trainer.predicting import Newcomers, predict
from trainer.printed import print_validation
from trainer.report.validation_page import write_validation_page
from trainer.run import cross_validate
from trainer.saved import read_model
from trainer.validating import columns_of, judge, refuse_developers, score_others, write_validation
from trainer.validation_results import AS_IT_IS, BY_FIFTHS, IN_THE_LARGE, SLOPE_TOO, parse_validation

OTHERS = 160


@pytest.fixture(scope="module")
def made(cohort_folder, shared_kit, tmp_path_factory):
    """Folder with a run, a clinical model and a combined one of it, and another cohort of other patients with its store."""
    folder = tmp_path_factory.mktemp("validation")
    image = shared_kit.settings["models"][1]
    settings = {
        **shared_kit.settings,
        "models": [{"name": "cox", "kind": "ridge_cox"}, {**image, "name": "both", "clinical": True}, image],
    }
    inputs = Inputs(cohort_folder / "clinical.csv", str(cohort_folder / "store"))
    quiet = Console(file=io.StringIO())
    run = cross_validate(
        shared_kit.parse(settings), inputs, out=str(folder / "run"), workers=Workers(number=0), console=quiet
    )
    for name in ("cox", "both", "image"):
        fit_final(run.folder.url, name, out=str(folder / name))
    table = shared_kit.draw(n=OTHERS, seed=77)
    table["patient"] = [f"Q{row:03d}" for row in range(OTHERS)]
    shared_kit.fill(create_store(folder / "store"), table, seed=9)
    table["centre"] = np.where(np.arange(OTHERS) % 2, "Oslo", "Turin")
    table.drop(columns=["z", "log_hazard"]).to_csv(folder / "others.csv", index=False)
    return folder


def scored(folder, name="cox", *, table="others.csv", columns=None):
    card, trained = read_model(str(folder / name))
    store = str(folder / "store") if name != "cox" else None
    roles = card.columns if columns is None else card.columns.model_copy(update=columns)
    return card, score_others(card, trained, Newcomers(store, clinical=folder / table), roles)


@pytest.mark.parametrize("name", ["cox", "both"])
def test_risks_are_those_of_predict_and_c_is_scikit_survivals(made, name):
    card, others = scored(made, name)
    trained = read_model(str(made / name))[1]
    store = str(made / "store") if name == "both" else None
    said = predict(card, trained, Newcomers(store, clinical=made / "others.csv"), times=[12])
    assert said.patients == others.cohort.patients
    np.testing.assert_array_equal(said.log_risk, others.log_risk)
    np.testing.assert_array_equal(said.group, others.group)
    found = judge(card, others)
    cohort = others.cohort
    c = concordance_index_censored(cohort.event, cohort.time, others.log_risk)[0]
    frozen = found.measures[AS_IT_IS]
    assert frozen.pooled_c.value == pytest.approx(c, abs=1e-12)
    assert frozen.pooled_c.low < c < frozen.pooled_c.high
    slope = PHReg(cohort.time, others.log_risk[:, None], cohort.event, ties="efron").fit().params[0]
    assert frozen.calibration_slope.value == pytest.approx(slope, abs=1e-6)
    assert (found.patients, found.events) == (OTHERS, int(cohort.event.sum()))
    assert sum(group.patients for group in found.groups) == OTHERS
    # images carry the signal, age hardly any
    assert c > (0.6 if name == "both" else 0.5)


def test_no_patient_of_the_other_cohort_changes_what_is_said_of_another(made):
    _, everybody = scored(made)
    table = pd.read_csv(made / "others.csv")
    table["age"] += np.where(np.arange(OTHERS) < 80, 0, 40)
    table.to_csv(made / "aged.csv", index=False)
    _, some = scored(made, table="aged.csv")
    np.testing.assert_array_equal(everybody.log_risk[:80], some.log_risk[:80])
    assert (everybody.log_risk[80:] != some.log_risk[80:]).all()


def test_calibration_in_the_large_is_the_intercept_of_a_poisson_model_with_the_hazard_as_offset(made):
    card, others = scored(made)
    cohort = others.cohort
    found = in_the_large(card.baseline, risk=others.log_risk, time=cohort.time, event=cohort.event)
    hazard = -np.log(card.baseline.survival_each(others.log_risk, cohort.time))
    # where nothing is expected yet a Poisson model has no offset: those patients have no event either
    known = hazard > 0
    assert not cohort.event[~known].any()
    family = sm.families.Poisson()
    fitted = sm.GLM(cohort.event[known], np.ones(known.sum()), family=family, offset=np.log(hazard[known])).fit()
    assert np.log(found.ratio) == pytest.approx(fitted.params[0], abs=1e-8)
    low, high = fitted.conf_int()[0]
    assert (np.log(found.low), np.log(found.high)) == pytest.approx((low, high), abs=1e-6)


def test_a_wrong_baseline_is_seen_and_mended_and_a_wrong_spread_too(made):
    card, others = scored(made, "both")
    cohort = others.cohort
    large = in_the_large(card.baseline, risk=others.log_risk, time=cohort.time, event=cohort.event)
    right = rescaled(card.baseline, large.ratio)
    mended = in_the_large(right, risk=others.log_risk, time=cohort.time, event=cohort.event)
    assert mended.ratio == pytest.approx(1)
    tripled = card.model_copy(update={"baseline": rescaled(right, 3.0)})
    found = judge(tripled, others)
    assert found.recalibration.observed_over_expected == pytest.approx(1 / 3)
    as_it_is, again = found.measures[AS_IT_IS], found.measures[IN_THE_LARGE]
    assert as_it_is.d_calibration.p < 1e-6
    assert again.d_calibration.p > as_it_is.d_calibration.p
    assert again.ibs.value < as_it_is.ibs.value
    # risks three times as far apart: the slope sees it, the ranks do not
    slope, baseline = refitted(risk=3 * others.log_risk, time=cohort.time, event=cohort.event)
    plain, _ = refitted(risk=others.log_risk, time=cohort.time, event=cohort.event)
    assert 3 * slope.slope == pytest.approx(plain.slope)
    expected = BreslowBaseline.fit(risk=plain.slope * others.log_risk, time=cohort.time, event=cohort.event)
    np.testing.assert_allclose(baseline.cumulative_hazard, expected.cumulative_hazard)
    assert found.measures[SLOPE_TOO].calibration_slope.value == pytest.approx(1, abs=0.5)
    assert found.measures[SLOPE_TOO].pooled_c == as_it_is.pooled_c.model_copy(
        update={"low": found.measures[SLOPE_TOO].pooled_c.low, "high": found.measures[SLOPE_TOO].pooled_c.high}
    )


def test_a_recalibration_is_judged_on_patients_that_it_was_not_made_from(made):
    card, others = scored(made, "both")
    row = judge(card, others).measures[SLOPE_TOO]
    assert row.folds == 5
    # cross-fitted figures are a little worse than those on the very patients
    slope, baseline = refitted(risk=others.log_risk, time=others.cohort.time, event=others.cohort.event)
    remade = card.model_copy(update={"baseline": baseline})
    same = judge(remade, type(others)(**{**vars(others), "log_risk": slope.slope * others.log_risk}))
    assert row.ibs.value > same.measures[AS_IT_IS].ibs.value


def test_the_cohort_of_the_fit_and_anybody_of_it_are_refused(made, cohort_folder):
    card, trained = read_model(str(made / "cox"))
    with pytest.raises(UsageError, match="the very cohort that the model was fitted on"):
        score_others(card, trained, Newcomers(clinical=cohort_folder / "clinical.csv"), card.columns)
    mixed = pd.concat([pd.read_csv(made / "others.csv"), pd.read_csv(cohort_folder / "clinical.csv").head(3)])
    mixed.to_csv(made / "mixed.csv", index=False)
    _, others = scored(made, table="mixed.csv")
    with pytest.raises(CohortError, match=r"3 patients of this cohort .* fitted on \(P000, P001, P002\)"):
        refuse_developers(str(made / "run"), card.training.cohort_sha256, others.cohort, PlainIds())
    refuse_developers(str(made / "run"), card.training.cohort_sha256, scored(made)[1].cohort, PlainIds())


def test_other_names_codes_and_units_give_the_same_figures(made):
    card, others = scored(made)
    table = pd.read_csv(made / "others.csv")
    table["days"] = table.pop("months") * 365.25 / 12
    table["end"] = np.where(table.pop("event") == 1, "progressed", "alive")
    table.to_csv(made / "renamed.csv", index=False)
    roles = {
        "time": "days",
        "time_unit": "days",
        "event": "end",
        "event_value": "progressed",
        "censored_values": ["alive"],
    }
    (made / "roles.yaml").write_text(yaml.safe_dump({"columns": roles}))
    columns = columns_of(card, made / "roles.yaml")
    assert columns.covariates == card.columns.covariates
    _, renamed = scored(made, table="renamed.csv", columns=columns.model_dump())
    first, second = (judge(card, held).measures[AS_IT_IS] for held in (others, renamed))
    assert second.pooled_c.value == pytest.approx(first.pooled_c.value)
    assert second.ibs.value == pytest.approx(first.ibs.value)
    (made / "wrong.yaml").write_text(yaml.safe_dump({**roles, "continuous": ["weight"]}))
    with pytest.raises(ConfigError, match=r"continuous is \['weight'\], and the model reads \['age'\]"):
        columns_of(card, made / "wrong.yaml")
    (made / "wrong.yaml").write_text(yaml.safe_dump({**roles, "evnt": "x"}))
    with pytest.raises(ConfigError, match=r"columns.evnt is not a setting, perhaps 'event'"):
        columns_of(card, made / "wrong.yaml")


def test_follow_up_beyond_the_models_own_is_cut_and_counted(made):
    card, _ = read_model(str(made / "cox"))
    end = card.training.last_follow_up
    table = pd.read_csv(made / "others.csv")
    table.loc[:4, ["months", "event"]] = [end + 12, 1]
    table.to_csv(made / "long.csv", index=False)
    _, others = scored(made, table="long.csv")
    found = judge(card, others)
    longer = int((table["months"] > end).sum())
    assert (found.cut, found.cut_at) == (longer, end)
    assert longer >= 5
    assert others.cohort.time.max() == end
    assert found.events == int(table["event"].sum()) - int(((table["months"] > end) & (table["event"] == 1)).sum())


def test_the_command_writes_page_tables_and_figures(made, tmp_path):
    out = tmp_path / "validation"
    roles = tmp_path / "roles.yaml"
    roles.write_text("{time: months, time_unit: months, event: event, centre: centre}\n")
    given = ["--model", str(made / "both"), "--store", str(made / "store"), "--clinical", str(made / "others.csv")]
    more = ["--columns", str(roles), "--developed-on", str(made / "run"), "--times", "12,24", "--out", str(out)]
    result = CliRunner().invoke(main, ["validate", *given, *more])
    assert result.exit_code == 0, result.output
    found = parse_validation((out / "validation.json").read_bytes(), where="")
    assert f"c        {found.measures[AS_IT_IS].pooled_c.value:.3f} [95%" in result.output
    assert [at.horizon for at in found.measures[AS_IT_IS].horizons] == [12, 24]
    assert [group.label for group in found.measures[AS_IT_IS].centres.groups] == ["Oslo", "Turin"]
    predictions = pd.read_csv(out / "predictions.csv")
    assert list(predictions) == ["patient", "log_risk", "risk_group", "survival_12", "survival_24", "time", "event"]
    assert set(pd.read_csv(out / "measures.csv")["row"]) == {AS_IT_IS, BY_FIFTHS, IN_THE_LARGE, SLOPE_TOO}
    assert found.overlap_checked
    assert found.card_sha256 == hashlib.sha256((made / "both" / "card.json").read_bytes()).hexdigest()
    page = (out / "report.html").read_text()
    assert "Nobody of this cohort was among the patients" in page
    assert "Validation of both on another cohort" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert {path.stem for path in (out / "figures").glob("*.svg")} >= {"groups", "calibration-as it is"}
    assert "Q001" not in json.dumps(json.loads((out / "validation.json").read_text()))


def test_what_is_missing_is_told(made, tmp_path):
    card, trained = read_model(str(made / "both"))
    with pytest.raises(UsageError, match="name the feature store"):
        score_others(card, trained, Newcomers(clinical=made / "others.csv"), card.columns)
    with pytest.raises(UsageError, match="a validation needs outcomes"):
        score_others(card, trained, Newcomers(str(made / "store")), card.columns)
    with pytest.raises(NotCommittedError, match="holds no validation"):
        write_validation_page(str(tmp_path))
    table = pd.read_csv(made / "others.csv")
    table["event"] = 0
    table.to_csv(made / "free.csv", index=False)
    with pytest.raises(CohortError, match="no event up to"):
        scored(made, table="free.csv")


def test_a_validation_is_written_over_an_older_one(made, tmp_path):
    card, others = scored(made)
    first, second = (judge(card, others, horizons=horizons) for horizons in ((12.0,), (24.0,)))
    for found in (first, second):
        url = write_validation(found, others, card, str(tmp_path / "out"))
    assert parse_validation((tmp_path / "out" / "validation.json").read_bytes(), where=url) == second


def test_recalibrated_rows_are_held_against_the_model_judged_by_the_same_fifths(made):
    card, others = scored(made, "both")
    found = judge(card, others)
    by_fifths, large = found.measures[BY_FIFTHS], found.measures[IN_THE_LARGE]
    assert list(found.measures) == [AS_IT_IS, BY_FIFTHS, IN_THE_LARGE, SLOPE_TOO]
    # one reference curve for all of them, another than that of the cohort itself
    assert by_fifths.ibs_km == large.ibs_km == found.measures[SLOPE_TOO].ibs_km
    assert by_fifths.ibs_km != found.measures[AS_IT_IS].ibs_km
    assert found.without == {}


def test_a_recalibration_that_turns_risks_round_or_has_no_events_says_why_it_is_missing(made):
    card, others = scored(made, "both")
    turned = judge(card, dataclasses.replace(others, log_risk=-others.log_risk))
    assert turned.recalibration.slope < 0
    assert SLOPE_TOO not in turned.measures
    assert "the model ranks these patients the wrong way round" in turned.without[SLOPE_TOO]
    few = pd.read_csv(made / "others.csv").head(30)
    few["event"] = (np.arange(30) == 3).astype(int)
    few.to_csv(made / "few.csv", index=False)
    found = judge(card, scored(made, "both", table="few.csv")[1])
    assert set(found.without) == {IN_THE_LARGE, SLOPE_TOO}
    assert all(reason for reason in found.without.values())


def test_patients_called_by_another_rule_are_not_taken_for_strangers(made, monkeypatch):
    card, others = scored(made)
    with pytest.raises(UsageError, match="the run calls its patients by their own ids, this cohort otherwise"):
        refuse_developers(str(made / "run"), card.training.cohort_sha256, others.cohort, Pseudonyms(b"k" * 32))


def test_what_was_not_looked_for_is_told(made):
    card, others = scored(made)
    assert any("--developed-on" in note for note in judge(card, others).notes)
    assert not any("--developed-on" in note for note in judge(card, others, overlap_checked=True).notes)


def test_competing_events_stand_on_the_page_and_the_terminal(made, tmp_path):
    table = pd.read_csv(made / "others.csv")
    table.loc[table.index[table["event"] == 1][::4], "event"] = 2
    table.to_csv(tmp_path / "competing.csv", index=False)
    roles = tmp_path / "roles.yaml"
    roles.write_text("{competing_values: [2]}\n")
    given = ["--model", str(made / "cox"), "--clinical", str(tmp_path / "competing.csv"), "--columns", str(roles)]
    result = CliRunner().invoke(main, ["validate", *given, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "had a competing event first" in result.output
    assert "cumulative incidence of event = 2" in result.output
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Competing events: cumulative incidence" in page
    found = parse_validation((tmp_path / "out" / "validation.json").read_bytes(), where="")
    sizes = {one.group: one.patients for one in found.measures[AS_IT_IS].incidence}
    assert {str(one.group): one.patients for one in found.groups if one.patients} == {
        group: patients for group, patients in sizes.items() if group != "all"
    }


def test_a_model_of_images_needs_no_covariates_of_its_run(made):
    table = pd.read_csv(made / "others.csv")[["patient", "months", "event"]]
    table.to_csv(made / "plain.csv", index=False)
    _, others = scored(made, "image", table="plain.csv")
    assert judge(*scored(made, "image", table="plain.csv")).missing == {}
    np.testing.assert_array_equal(others.log_risk, scored(made, "image")[1].log_risk)


def test_columns_that_a_file_does_not_name_are_the_models_own(made, tmp_path):
    card, _ = read_model(str(made / "cox"))
    card = card.model_copy(update={"columns": card.columns.model_copy(update={"missing": ("-9",), "centre": "site"})})
    (tmp_path / "roles.yaml").write_text("{time: days, time_unit: days, continuous: null}\n")
    found = columns_of(card, tmp_path / "roles.yaml")
    assert (found.time, found.time_unit, found.missing, found.centre) == ("days", "days", ("-9",), "site")
    assert found.continuous == card.columns.continuous


def test_a_run_or_a_model_is_not_overwritten(made):
    card, others = scored(made)
    found = judge(card, others)
    for name, what in (("run", "a run"), ("cox", "a model")):
        with pytest.raises(AlreadyExistsError, match=f"holds {what}"):
            write_validation(found, others, card, str(made / name))


def told_of(made, folder, **judged):
    """A validation whose model was judged so, as the terminal, the page and the table of measures tell it."""
    card, others = scored(made)
    card = card.model_copy(update={"judged": card.judged.model_copy(update=judged)})
    found, console = judge(card, others), Console(file=io.StringIO(), width=160)
    print_validation(found, "there", console)
    write_validation_page(write_validation(found, others, card, str(folder)))
    return console.file.getvalue(), (folder / "report.html").read_text(), pd.read_csv(folder / "measures.csv")


def test_the_bootstrap_interval_is_said_to_be_conditional_wherever_it_stands(made, tmp_path):
    terminal, page, table = told_of(made, tmp_path / "out")
    (line,) = [one for one in terminal.splitlines() if one.startswith("c  ")]
    assert re.search(r"\[95% .* to .*\]; bootstrap over patients, conditional on the fitted models", line)
    assert "Harrell's c [95%, bootstrap over patients, conditional on the fitted models]" in page
    assert "bootstrap interval over patients, conditional on the fitted models" in page[page.index('id="h-groups"') :]
    drawn = table[(table["measure"].isin(["pooled_c", "c"])) & table["low"].notna()]
    assert set(drawn["interval"]) == {"95%, bootstrap over persons, conditional on the fitted models"}
    record = json.loads((tmp_path / "out" / "validation.json").read_text())
    assert {one["intervals"] for one in record["measures"].values()} == {"conditional on the fitted models"}


@pytest.mark.parametrize(
    ("tuned", "said"),
    [
        ("paper", "best of 8 settings, chosen on the reported folds: OPTIMISTIC"),
        ("nested", "best of 8 settings, chosen inside the training folds"),
    ],
)
def test_the_c_where_the_model_was_made_stands_beside_the_settings_tried_for_it(made, tmp_path, tuned, said):
    terminal, page, _ = told_of(made, tmp_path / "out", tuned=tuned, tried=8)
    assert f"in cross-validation where it was made ({said})" in terminal
    assert f"In cross-validation where it was made, {said}" in page
    plain, plain_page, _ = told_of(made, tmp_path / "plain")
    assert "best of" not in plain + plain_page
