"""Models of a run's folds made again: the recorded risks to the last bit, changed records, what cannot be judged."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from store_schema import open_store
from store_schema.errors import CohortError, ObjectAlteredError, SchemaError, TaskError, UsageError
from trainer.dispatch import Workers
from trainer.gpus import gpus
from trainer.predicting import score_cohort
from trainer.robustness.fold_models import RunRow, by_workers, fold_models, row_at
from trainer.robustness.fold_risks import scores_by, worker_scores
from trainer.robustness.measuring import measure
from trainer.saved import read_model

from .folds_help import HERE, asked, disturbed, publish, run_of, settings, silent

ROWS = ("image", "attention", "both", "vector", "radiomics", "tuned", "tuned (paper's way)", "either")


@pytest.mark.parametrize("row", ROWS)
def test_models_made_again_give_the_recorded_risks_to_the_last_bit_and_come_back_from_their_files(
    folded, row, tmp_path
):
    found = RunRow.read(str(folded / "run"), row)
    told = []
    models = fold_models(found, str(folded / "store"), keep=str(tmp_path), workers=Workers(number=0), told=told.append)
    assert sorted(models) == list(found.reading)
    assert told[-1] == len(models)
    where = (str(folded / "store"), found.pin["snapshot"])
    files = list(tmp_path.glob("models/*/card.json"))
    assert len(files) == len(models)
    kept = [read_model(str(path.parent)) for path in files]
    for fold, model in models.items():
        result = found.results[fold]
        (again,) = (pair for pair in kept if pair[0].name == f"{row}, fold {fold}")
        for card, trained in ((model.card, model.trained), again):
            risk = trained.predict(score_cohort(card, trained, found.run.cohort, where), result.patients).log_risk
            np.testing.assert_array_equal(risk, result.log_risk)
        assert model.card.training.patients == result.train_patients
        assert (model.card.risk_mean, model.card.risk_sd) == (result.train_mean, result.train_sd)


def test_settings_of_folds_are_those_that_each_fold_chose(folded):
    row = RunRow.read(str(folded / "run"), "tuned")
    chosen = {one.fold: one.settings["fit.learning_rate"] for one in row.judged.chosen}
    models = fold_models(row, str(folded / "store"), keep=None, **HERE)
    assert {fold: model.card.network.fit.learning_rate for fold, model in models.items()} == chosen


def test_folds_of_a_pruned_nested_search_are_made_again(folded, shared_kit):
    search = {"dropout": {"range": [0, 0.6]}, "fit.learning_rate": {"log": [1e-4, 1e-2]}}
    vector = next(model for model in settings(shared_kit)["models"] if model["name"] == "vector")
    changed = {
        "splits": {"folds": 3},
        "search": {"mode": "nested", "points": 4, "inner_folds": 2, "keep": 0.5},
        "models": [{**vector, "search": search}],
    }
    run_of(shared_kit.parse({**settings(shared_kit), **changed}), folded, "pruned")
    row = RunRow.read(str(folded / "pruned"), "vector")
    assert sorted(fold_models(row, str(folded / "store"), keep=None, **HERE)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("row", "nudged", "said"),
    [("image", 1e-9, "1 differ, by 1e-09 at most"), ("radiomics", 0.5, "1 differ, by 0.5 at most")],
)
def test_a_record_that_was_changed_is_refused_with_the_difference(folded, tmp_path, row, nudged, said):
    run = shutil.copytree(folded / "run", tmp_path / "run")

    def nudge(fit):
        if (fit["model"], fit["fold"]) == (row, 1):
            fit["log_risk"][3] += nudged

    change_tasks(run, nudge)
    with pytest.raises(TaskError, match=f"fold 1 of row '{row}'.*{said}.*versions are the same, so that a file"):
        measure(replace(asked(folded, row, "same"), run_url=str(run)), silent)


def change_tasks(run, change):
    for path in (run / "tasks").glob("*.json"):
        told = json.loads(path.read_text())
        for fit in told["outer"]:
            change(fit)
        path.write_text(json.dumps(told))


def change_record(run, **changes):
    told = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**told, **changes}))


def test_another_training_mean_is_refused_too(folded, tmp_path):
    run = shutil.copytree(folded / "run", tmp_path / "run")
    change_tasks(run, lambda fit: fit.update(train_sd=2 * fit["train_sd"]))
    with pytest.raises(TaskError, match=r"0 differ.*and so do mean, standard deviation or quartiles"):
        measure(replace(asked(folded, "radiomics", "same"), run_url=str(run)), silent)


def test_other_versions_are_named_as_the_cause(folded, tmp_path):
    run = shutil.copytree(folded / "run", tmp_path / "run")
    change_record(run, versions={**json.loads((run / "run.json").read_text())["versions"], "numpy": "0.9"})
    assert measure(replace(asked(folded, "vector", "same"), run_url=str(run)), silent).found.model.name == "vector"
    change_tasks(run, lambda fit: fit["log_risk"].reverse())
    with pytest.raises(TaskError, match=r"the run was made with numpy 0.9 \(here "):
        measure(replace(asked(folded, "vector", "same"), run_url=str(run)), silent)


@pytest.mark.parametrize("row", ["image", "vector"])
def test_settings_that_are_not_those_of_the_tasks_are_refused(folded, tmp_path, row):
    run = shutil.copytree(folded / "run", tmp_path / "run")
    config = json.loads((run / "run.json").read_text())["config"]
    change_record(run, config={**config, "seed": 7})
    with pytest.raises(SchemaError, match=r"the tasks that made fold 0, 1, 2, 3, 4, 5 of row .* are not those"):
        measure(replace(asked(folded, row, "same"), run_url=str(run)), silent)


def test_folds_or_patients_that_were_changed_are_refused(folded, tmp_path):
    for name in ("splits.json", "cohort.json"):
        run = shutil.copytree(folded / "run", tmp_path / name)
        (run / name).write_text((run / name).read_text() + " ")
        with pytest.raises(ObjectAlteredError, match=name):
            measure(replace(asked(folded, "image", "same"), run_url=str(run)), silent)


@pytest.mark.parametrize(
    ("row", "changes", "error", "said"),
    [
        ("cox", {}, UsageError, "row 'cox' reads no images"),
        ("nobody", {}, UsageError, "the run has no row 'nobody': it has cox"),
        ("views", {}, UsageError, r"chose models of several views in its folds \(vec, vec2\).*radiomics, radiomics2"),
        ("radiomics", {"row": None}, UsageError, "give --run and --row together"),
        (
            "radiomics",
            {"base": "vec2"},
            UsageError,
            "the run read snapshot .* and the base is view vec2-.*: give --base vec-",
        ),
        ("image", {"perturbed": ("tiny-few",)}, CohortError, "2 of the run's 40 patients"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_is_fitted(
    folded, shared_kit, tmp_path, row, changes, error, said
):
    if changes.get("perturbed") == ("tiny-few",):
        store = open_store(str(folded / "store"))
        few = {
            (f"P{n:03d}", m): shared_kit.entry(0.0, [n]) for n in range(3) for m in ("PET", "CT")[: 1 if n == 2 else 2]
        }
        publish(store, store.put_view(disturbed(shared_kit.view, "few")), few, "few")
    with pytest.raises(error, match=said):
        measure(replace(asked(folded, row, "same"), keep=str(tmp_path), **changes), silent)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("row", "change"),
    [
        ("radiomics", lambda card: card["cox"].update(coefficients=[2 * one for one in card["cox"]["coefficients"]])),
        ("radiomics", lambda card: card["risk_cuts"].reverse()),
        ("both", lambda card: card["preprocessing"]["continuous"][0].update(mean=50.0)),
    ],
)
def test_a_kept_model_that_is_another_is_refused(folded, tmp_path, row, change):
    wanted = asked(folded, row, "same", keep=str(tmp_path))
    measure(wanted, silent)
    path = min(tmp_path.glob("models/*/card.json"))
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))
    with pytest.raises(TaskError, match=f"fold 0 of row '{row}': the model made again is not the run's") as refused:
        measure(wanted, silent)
    assert f"It was kept in {path.parent}: remove that folder, and the fold is fitted again" in str(refused.value)
    shutil.rmtree(path.parent)
    assert measure(wanted, silent).found.model.name == row


def test_a_run_made_anew_at_the_same_address_is_read_anew(folded, tmp_path):
    run = shutil.copytree(folded / "run", tmp_path / "run")
    before = row_at(str(run), "radiomics")
    assert row_at(str(run), "radiomics") is before
    change_record(run, versions={"numpy": "0.9"})
    assert row_at(str(run), "radiomics").run.record["versions"] == {"numpy": "0.9"}


def test_a_run_of_a_gpu_is_scored_by_the_workers_of_a_cluster_alone(folded, tmp_path):
    row = RunRow.read(str(folded / "run"), "vector")
    on_gpu = replace(row, run=replace(row.run, config=row.run.config.model_copy(update={"device": "cuda"})))
    cluster = Workers(scheduler="tcp://127.0.0.1:1", wait_s=0.1)
    assert [by_workers(on_gpu, one) for one in (cluster, Workers(number=1))] == [True, False]
    assert not by_workers(row, cluster)
    if not gpus():
        with pytest.raises(UsageError, match="Use --scheduler with workers that have one"):
            fold_models(on_gpu, str(folded / "store"), keep=None, **HERE)


@pytest.mark.parametrize("row", ["vector", "either"])
def test_workers_give_the_risks_that_this_process_gives(folded, tmp_path, row):
    found, store = RunRow.read(str(folded / "run"), row), open_store(str(folded / "store"))
    keep = str(tmp_path)
    models = fold_models(found, store.url, keep=keep, **HERE)
    snapshots = [store.make_snapshot(store.resolve_view(view)) for view in ("vec-noise", "vec-dealt")]
    patients = found.run.cohort.patients[:30]
    asked = (found, store.url, snapshots, patients)
    here = scores_by(*asked, keep=keep, workers=Workers(number=0))
    there = worker_scores(*asked, keep=keep, workers=Workers(number=0))
    for fold, model in models.items():
        mine = [one for one in found.results[fold].patients if one in patients]
        for snapshot in snapshots:
            np.testing.assert_array_equal(here(fold, model, snapshot, mine), there(fold, model, snapshot, mine))
    with pytest.raises(TaskError, match="is not what a worker left there"):
        there(fold, model, snapshots[0], mine[:-1])


def test_a_view_of_another_precision_is_not_scored_by_the_folds_models(folded, shared_kit, tmp_path):
    store = open_store(str(folded / "store"))
    other = disturbed(shared_kit.view.model_copy(update={"precision": "bfloat16"}), "coarse")
    entries = {
        (f"P{row:03d}", modality): shared_kit.entry(0.0, [row]) for row in range(4) for modality in ("PET", "CT")
    }
    publish(store, store.put_view(other), entries, "other")
    wanted = replace(asked(folded, "image"), perturbed=(other.view_id,), keep=str(tmp_path))
    with pytest.raises(UsageError, match=r"row 'image' reads view tiny-.* differs in precision.*mean nothing"):
        measure(wanted, silent)
    assert not list(tmp_path.iterdir())
