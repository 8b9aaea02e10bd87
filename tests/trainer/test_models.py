"""Models kept, read back and asked about new patients: the same numbers, nothing executable, no other view."""

import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from safetensors import safe_open

from store_schema import Entry, EntryKey, create_store, open_store
from store_schema.errors import (
    AlreadyExistsError,
    CohortError,
    NotCommittedError,
    ObjectAlteredError,
    SchemaError,
    UsageError,
)
from trainer.cli import main
from trainer.dispatch import Workers
from trainer.final import fit_final
from trainer.kaplan_meier import kaplan_meier
from trainer.plan import Inputs
from trainer.predicting import Newcomers, predict
from trainer.report.reading import read_run
from trainer.run import cross_validate
from trainer.run_folder import RunFolder
from trainer.saved import read_model


@pytest.fixture
def run_url(cohort_folder, config, kit, tmp_path):
    """A finished run with a tuned linear row, an image row and a combined one."""
    image = kit.settings["models"][1]
    models = [
        {"name": "cox", "kind": "ridge_cox", "search": {"penalty": {"log": [0.1, 1e3]}}},
        image,
        {**image, "name": "both", "clinical": True},
    ]
    inputs = Inputs(cohort_folder / "clinical.csv", str(cohort_folder / "store"))
    settings = config(models=models, search={"points": 2, "inner_folds": 2})
    console = Console(file=io.StringIO())
    return cross_validate(
        settings, inputs, out=str(tmp_path / "run"), workers=Workers(number=0), console=console
    ).folder.url


@pytest.fixture
def newcomers(cohort_folder, tmp_path):
    """The cohort itself as new patients, asked without their outcomes."""
    frame = pd.read_csv(cohort_folder / "clinical.csv").drop(columns=["months", "event"])
    frame.to_csv(tmp_path / "new.csv", index=False)
    return Newcomers(str(cohort_folder / "store"), clinical=tmp_path / "new.csv")


def test_a_kept_model_gives_the_numbers_it_gave_before_it_was_kept(run_url, newcomers, tmp_path):
    for row in ("cox", "image", "both"):
        made = fit_final(run_url, row, out=str(tmp_path / row))
        card, read = read_model(made.url)
        assert card == made.card
        before, after = (predict(card, model, newcomers, times=[12, 24]) for model in (made.trained, read))
        np.testing.assert_array_equal(before.log_risk, after.log_risk)
        assert before.log_risk.mean() == pytest.approx(card.risk_mean, abs=1e-6)
        assert before.z.std() == pytest.approx(1, abs=1e-6)
        assert np.bincount(before.group)[1:].tolist() == [10, 10, 10, 10]


def test_survival_is_breslows_and_worse_for_the_higher_risk(run_url, newcomers, cohort_folder, tmp_path):
    made = fit_final(run_url, "both", out=str(tmp_path / "model"))
    scores = predict(made.card, made.trained, newcomers, times=[12, 36])
    relative = np.exp(scores.log_risk - made.card.baseline.centre)
    steps = np.array(made.card.baseline.time)
    for column, time in enumerate((12, 36)):
        hazard = np.array(made.card.baseline.cumulative_hazard)[np.flatnonzero(steps <= time)[-1]]
        np.testing.assert_allclose(scores.survival[:, column], np.exp(-hazard * relative))
    table = pd.read_csv(cohort_folder / "clinical.csv")
    observed = kaplan_meier(table["months"].to_numpy(float), table["event"].to_numpy(bool)).survival_at(
        np.array([36.0])
    )
    assert scores.survival[:, 1].mean() == pytest.approx(observed[0], abs=0.1)


def test_a_tuned_row_is_fitted_with_the_setting_of_the_best_inner_mean(run_url, tmp_path):
    made = fit_final(run_url, "cox", out=str(tmp_path / "model"))
    run = read_run(RunFolder.open(run_url))
    means = {}
    for score in (score for task in run.tasks for score in task.inner):
        means.setdefault(score.candidate, []).append(score.c)
    best = max(means, key=lambda candidate: np.mean(means[candidate]))
    assert made.card.model.penalty == run.config.candidates["cox"][best].penalty
    assert (made.card.judged.tuned, made.card.judged.tried) == ("nested", 2)


def test_with_early_pruning_a_row_is_fitted_with_what_most_folds_chose(cohort_folder, config, tmp_path):
    models = [{"name": "cox", "kind": "ridge_cox", "search": {"penalty": {"log": [0.01, 1e5]}}}]
    search = {"points": 8, "inner_folds": 2, "keep": 0.25}
    settings = config(models=models, search=search, splits={"folds": 5})
    console = Console(file=io.StringIO())
    inputs = Inputs(cohort_folder / "clinical.csv", None)
    report = cross_validate(settings, inputs, out=str(tmp_path / "run"), workers=Workers(number=0), console=console)
    (row,) = report.results.rows
    chosen = [one.candidate for one in row.chosen]
    most = max(map(chosen.count, chosen))
    made = fit_final(report.folder.url, "cox", out=str(tmp_path / "model"))
    often = {settings.candidates["cox"][one].penalty for one in chosen if chosen.count(one) == most}
    assert made.card.model.penalty in often


def test_nothing_of_a_model_is_executable_or_names_a_patient(run_url, tmp_path):
    made = fit_final(run_url, "image", out=str(tmp_path / "model"))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["card.json", "weights.safetensors"]
    with safe_open(tmp_path / "model" / "weights.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} <= {torch.float32, torch.int64}  # noqa: SIM118
    text = (tmp_path / "model" / "card.json").read_text()
    assert json.loads(text)["view"].startswith("tiny-")
    assert "P001" not in text
    assert made.card.encoder_trained is False


def test_altered_or_missing_weights_and_other_files_are_refused(run_url, tmp_path):
    fit_final(run_url, "image", out=str(tmp_path / "model"))
    weights = tmp_path / "model" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ObjectAlteredError, match="the card names"):
        read_model(str(tmp_path / "model"))
    weights.unlink()
    with pytest.raises(ObjectAlteredError, match="is not there"):
        read_model(str(tmp_path / "model"))
    with pytest.raises(SchemaError, match="holds no model"):
        read_model(str(tmp_path / "nowhere"))
    (tmp_path / "model" / "card.json").write_text("{}")
    with pytest.raises(SchemaError, match="is not a model's card"):
        read_model(str(tmp_path / "model"))


def test_a_model_is_written_once(run_url, tmp_path):
    first = fit_final(run_url, "image", out=str(tmp_path / "model"))
    assert fit_final(run_url, "image", out=str(tmp_path / "model")).card == first.card
    with pytest.raises(AlreadyExistsError, match="another model"):
        fit_final(run_url, "cox", out=str(tmp_path / "model"))
    with pytest.raises(UsageError, match="no row 'nobody': it has cox, image, both"):
        fit_final(run_url, "nobody", out=str(tmp_path / "other"))


def test_patients_without_an_entry_or_a_row_are_left_out_with_the_reason(run_url, newcomers, cohort_folder, tmp_path):
    made = fit_final(run_url, "both", out=str(tmp_path / "model"))
    shutil.copytree(cohort_folder / "store", tmp_path / "store")
    store = open_store(tmp_path / "store")
    view = store.resolve_view("tiny")
    store.publish(view, EntryKey("Q1", "PET", "spine"), entry_of(store, view), input_sha256="a" * 64)
    table = pd.read_csv(newcomers.clinical)
    pd.concat([table[1:], table[:1].assign(patient="Q2")]).to_csv(tmp_path / "some.csv", index=False)
    scores = predict(made.card, made.trained, Newcomers(store.url, clinical=tmp_path / "some.csv"), times=[12])
    assert dict(scores.left_out) == {
        "P000": "not in the clinical table",
        "Q1": "not in the clinical table",
        "Q2": f"no entry {view}/PET/spine",
    }
    assert len(scores.patients) == 39


def test_json_lines_do_not_name_patients_whom_the_store_alone_knows(run_url, newcomers, tmp_path):
    fit_final(run_url, "both", out=str(tmp_path / "model"))
    pd.read_csv(newcomers.clinical)[2:].to_csv(tmp_path / "some.csv", index=False)
    asked = ["predict", "--model", str(tmp_path / "model"), "--store", newcomers.store_url]
    asked += ["--clinical", str(tmp_path / "some.csv"), "--log-format", "json"]
    said = CliRunner().invoke(main, asked)
    events = [json.loads(line) for line in said.stderr.splitlines()]
    told = [event["message"] for event in events if event["event"] == "not_scored"]
    assert told == ["not scored: ***: not in the clinical table"] * 2
    assert not [word for word in ("P000", "P001") if word in said.stderr]
    assert said.exit_code == 1


def entry_of(store, view):
    stored = store.read(view, EntryKey("P000", "PET", "spine"))
    return Entry({name: np.asarray(stored.arrays[name]) for name in ("memory", "mean_map")}, {"valid": [True]})


def test_a_missing_covariate_is_filled_as_in_training(run_url, newcomers, tmp_path):
    made = fit_final(run_url, "cox", out=str(tmp_path / "model"))
    table = pd.read_csv(newcomers.clinical)
    mean = made.card.preprocessing.continuous[0].mean
    both = []
    for value in (np.nan, mean):
        table.loc[0, "age"] = value
        table.to_csv(tmp_path / "gap.csv", index=False)
        both.append(predict(made.card, made.trained, Newcomers(clinical=tmp_path / "gap.csv"), times=[1]).log_risk[0])
    assert both[0] == pytest.approx(both[1], abs=1e-12)


def test_another_view_or_nothing_to_read_is_refused(run_url, newcomers, kit, tmp_path):
    made = fit_final(run_url, "image", out=str(tmp_path / "model"))
    other = create_store(tmp_path / "other")
    kit_view = kit.view.model_copy(update={"recipe": 2})
    other.put_view(kit_view)
    with pytest.raises(NotCommittedError):
        predict(made.card, made.trained, Newcomers(other.url), times=[1])
    with pytest.raises(UsageError, match="name the feature store"):
        predict(made.card, made.trained, Newcomers(), times=[1])
    both = fit_final(run_url, "both", out=str(tmp_path / "both"))
    with pytest.raises(UsageError, match="give their table with --clinical"):
        predict(both.card, both.trained, Newcomers(newcomers.store_url), times=[1])
    pd.DataFrame({"patient": ["Z"], "age": [1.0], "stage": ["I"]}).to_csv(tmp_path / "z.csv", index=False)
    with pytest.raises(CohortError, match="nobody can be scored"):
        predict(both.card, both.trained, Newcomers(newcomers.store_url, clinical=tmp_path / "z.csv"), times=[1])


def test_the_commands_fit_and_predict(run_url, newcomers, tmp_path):
    model = str(tmp_path / "model")
    fitted = CliRunner().invoke(main, ["fit", run_url, "--model", "both", "--out", model])
    assert fitted.exit_code == 0, fitted.output
    assert "UNTRAINED" in fitted.stdout
    assert "in cross-validation (3 folds, 1 settings tried)" in fitted.stdout
    asked = ["predict", "--model", model, "--store", newcomers.store_url, "--clinical", str(newcomers.clinical)]
    said = CliRunner().invoke(main, [*asked, "--times", "12,24"])
    assert said.exit_code == 0, said.output
    table = pd.read_csv(io.StringIO(said.stdout))
    assert list(table.columns) == ["patient", "log_risk", "z", "risk_group", "survival_12", "survival_24", "alpha"]
    assert len(table) == 40
    assert (table["survival_12"] >= table["survival_24"]).all()
    assert CliRunner().invoke(main, [*asked, "--times", "0"]).exit_code == 2
