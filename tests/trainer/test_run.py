"""A whole cross-validation: its files, resuming, what is refused, and what the rows say."""

import csv
import io
import json
import shutil

import fsspec
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from store_schema import EntryKey, create_store, open_store
from store_schema.errors import (
    AlreadyExistsError,
    CohortError,
    ConfigError,
    NotCommittedError,
    SchemaError,
    StoreNotFoundError,
    TableError,
    UsageError,
)
from trainer.dispatch import Workers
from trainer.plan import Inputs
from trainer.results import parse_results
from trainer.run import CvReport, cross_validate
from trainer.run_folder import task_name


def changed(result: str, **facts) -> str:
    """A task's result whose first fit has other facts."""
    record = json.loads(result)
    record["outer"][0] |= facts
    return json.dumps(record)


def lines(report: CvReport, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((report.folder.read(name) or b"").decode())))


def test_a_run_writes_every_figure_as_json_and_csv(cv):
    report = cv(permuted_control={"models": ["image"]})
    results = parse_results(report.folder.read("results.json"), where="")
    assert results == report.results
    assert results.complete
    assert [row["row"] for row in lines(report, "summary.csv")] == ["cox", "image", "image (permuted)"]
    for row, line in zip(results.rows, lines(report, "summary.csv"), strict=True):
        assert float(line["mean"]) == row.mean
    folds = lines(report, "folds.csv")
    assert len(folds) == 9
    assert [float(line["c"]) for line in folds[:3]] == [score.c for score in results.rows[0].scores]


def test_every_patient_has_one_out_of_fold_risk_per_model_beside_its_outcome(cv):
    report = cv()
    risks = pd.DataFrame(lines(report, "risks.csv"))
    cohort = report.plan.cohort
    for model in ("cox", "image"):
        mine = risks[risks["model"] == model].sort_values("patient")
        assert tuple(mine["patient"]) == cohort.patients
        np.testing.assert_array_equal(mine["time"].astype(float), cohort.time)
        np.testing.assert_array_equal(mine["event"].astype(int), cohort.event)
    assert (risks[risks["model"] == "cox"]["alpha"] == "").all()
    assert risks[risks["model"] == "image"]["alpha"].astype(float).between(0, 1).all()


def test_a_rerun_does_only_what_is_missing(cv):
    first = cv()
    kept = first.folder.read("results.json")
    name = task_name(first.results.task_ids[2])
    (first.folder.location.root / name).unlink()
    second = cv()
    assert (first.resumed, second.resumed, second.tasks) == (0, 5, 6)
    assert second.folder.read("results.json") == kept
    assert cv().resumed == 6


def test_a_result_that_is_not_its_tasks_own_is_refused(cv):
    first = cv()
    root = first.folder.location.root
    one, other = (root / task_name(task_id) for task_id in first.results.task_ids[:2])
    whole = one.read_text()
    for damaged in (
        other.read_text(),
        changed(whole, c=0.99),
        changed(whole, fold=1),
        changed(whole, patients=json.loads(whole)["outer"][0]["patients"][::-1]),
    ):
        one.write_text(damaged)
        with pytest.raises(SchemaError, match="Remove it, and the task runs again"):
            cv()
    one.unlink()
    assert cv().results == first.results


def test_a_run_of_other_code_is_not_resumed(cv):
    path = cv().folder.location.root / "run.json"
    record = json.loads(path.read_text())
    record["versions"]["code"] = "0" * 64
    path.write_text(json.dumps(record))
    with pytest.raises(AlreadyExistsError, match=r"versions\.code is '0000"):
        cv()


def test_a_moved_run_folder_resumes(cv, tmp_path):
    cv()
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert cv("moved").resumed == 6


def test_a_folder_of_another_run_is_refused_with_what_differs(cv, table):
    cv()
    with pytest.raises(AlreadyExistsError, match=r"config\.seed is 0 there and 7 here"):
        cv(seed=7)
    with pytest.raises(AlreadyExistsError, match=r"config\.fit\.epochs is 3 there and 4 here"):
        cv(fit={"epochs": 4, "min_epochs": 1, "min_validation_events": 2})
    with pytest.raises(AlreadyExistsError, match="cohort_sha256 is"):
        cv(inputs=table(lambda frame: frame.__setitem__("age", frame["age"] + 1)))


def test_a_folder_of_a_run_on_another_view_is_refused_by_the_config(cv, kit, cohort_folder, tmp_path):
    cv()
    shutil.copytree(cohort_folder / "store", tmp_path / "store")
    store = open_store(tmp_path / "store")
    other = store.put_view(kit.view.model_copy(update={"name": "other", "recipe": 2}))
    for key in store.keys(store.resolve_view("tiny")):
        store.publish(other, key, kit.entry(0.0, [1]), input_sha256="a" * 64)
    models = [kit.settings["models"][0], {**kit.settings["models"][1], "view": "other"}]
    with pytest.raises(AlreadyExistsError, match=r"config\.models\.1\.view is 'tiny' there and 'other' here"):
        cv(models=models, inputs={"store_url": store.url})


def test_a_resumed_run_reads_the_snapshot_it_began_with(cv, cohort_folder, tmp_path, kit):
    shutil.copytree(cohort_folder / "store", tmp_path / "store")
    inputs = {"store_url": str(tmp_path / "store")}
    pinned = cv(inputs=inputs).plan.pins[0].snapshot.id
    store = open_store(tmp_path / "store")
    store.publish(
        store.resolve_view("tiny"), EntryKey("P900", "PET", "spine"), kit.entry(0.0, [1]), input_sha256="a" * 64
    )
    assert cv(inputs=inputs).plan.pins[0].snapshot.id == pinned
    assert cv("fresh", inputs=inputs).plan.pins[0].snapshot.id != pinned


def test_the_same_snapshot_in_another_folder_gives_the_same_numbers(cv):
    first = cv("a")
    second = cv("b", inputs={"snapshots": (first.plan.pins[0].snapshot.id[:10],)})
    assert first.results == second.results


def test_local_processes_give_the_results_of_this_process(cv):
    here, there = cv("here"), cv("there", workers=Workers(number=2))
    assert here.results == there.results
    assert here.folder.read("risks.csv") == there.folder.read("risks.csv")


def test_models_share_one_cohort_and_exclusions_are_counted(cv, table):
    report = cv(inputs=table(lambda frame: frame.__setitem__("patient", frame["patient"].replace("P003", "X3"))))
    flow = {step.reason.split("/", 1)[-1]: step.excluded for step in report.plan.cohort.flow}
    assert flow["PET/spine in the store"] == 1
    assert len(report.plan.cohort) == 39
    assert report.plan.cohort.only_in_store == ("P003",)
    assert {len(result) for result in report.plan.splits[0].test} == {13}


def test_an_oracle_table_is_judged_beside_the_models(cv, cohort_folder):
    report = cv(inputs={"oracle": cohort_folder / "truth.csv"}, oracle={"columns": ["z", "log_hazard"]})
    assert [row.label for row in report.results.of_kind("oracle")] == ["oracle z", "oracle log_hazard"]
    assert all(row.mean > 0.65 for row in report.results.of_kind("oracle"))


def test_an_oracle_may_stand_in_the_clinical_table(cv, table, cohort_folder):
    truth = pd.read_csv(cohort_folder / "truth.csv")
    inputs = table(lambda frame: frame.__setitem__("lp", truth["log_hazard"]))
    assert cv(inputs=inputs, oracle={"columns": ["lp"]}).results.rows[-1].label == "oracle lp"


def test_an_oracle_that_lacks_a_patient_or_a_config_is_refused(cv, cohort_folder, tmp_path):
    pd.read_csv(cohort_folder / "truth.csv")[1:].to_csv(tmp_path / "truth.csv", index=False)
    with pytest.raises(CohortError, match="the oracle has no risk of P000"):
        cv(inputs={"oracle": tmp_path / "truth.csv"}, oracle={"columns": ["z"]})
    with pytest.raises(ConfigError, match="name its columns in the config"):
        cv(inputs={"oracle": cohort_folder / "truth.csv"})


def test_an_oracle_that_names_a_patient_twice_is_refused(cv, cohort_folder, tmp_path):
    truth = pd.read_csv(cohort_folder / "truth.csv")
    pd.concat([truth, truth.iloc[:1].assign(z=-9.0)]).to_csv(tmp_path / "twice.csv", index=False)
    with pytest.raises(TableError, match="P000 more than once"):
        cv(inputs={"oracle": tmp_path / "twice.csv"}, oracle={"columns": ["z"]})


def test_a_modality_may_have_any_name_of_an_id(cv, kit, tmp_path):
    table = kit.draw()
    store = create_store(tmp_path / "store")
    view = store.put_view(kit.view)
    for row, (patient, z) in enumerate(zip(table["patient"], table["z"], strict=True)):
        for modality in ("PET.1", "type"):
            store.publish(view, EntryKey(patient, modality, "spine"), kit.entry(z, [row]), input_sha256=f"{row:064x}")
    models = [{**kit.settings["models"][1], "images": {"roi": "spine", "modalities": ["PET.1", "type"]}}]
    assert cv(inputs={"store_url": str(tmp_path / "store")}, models=models).results.complete


def test_a_resumed_run_keeps_the_snapshot_of_each_view_that_none_is_given_of(cv, kit, tmp_path):
    table = kit.draw()
    store = create_store(tmp_path / "store")
    kit.fill(store, table.iloc[:30])
    other = store.put_view(kit.view.model_copy(update={"name": "second", "recipe": 2}))
    for row, (patient, z) in enumerate(zip(table["patient"], table["z"], strict=True)):
        store.publish(other, EntryKey(patient, "PET", "spine"), kit.entry(z, [row]), input_sha256=f"{row:064x}")
    image = kit.settings["models"][1]
    pet = {**image, "name": "pet", "view": "second", "images": {"roi": "spine", "modalities": ["PET"]}}
    inputs = {"store_url": str(tmp_path / "store"), "snapshots": (store.make_snapshot(other),)}
    first = cv(inputs=inputs, models=[image, pet])
    kit.fill(store, table)
    assert cv(inputs=inputs, models=[image, pet]).resumed == first.tasks


def test_clinical_models_need_no_store(cv, kit):
    report = cv(inputs={"store_url": None}, models=kit.settings["models"][:1])
    assert report.plan.pins == ()
    assert json.loads(report.folder.read("run.json"))["store"] is None


def test_a_task_that_fails_is_told_and_the_others_stand(cv, kit):
    hopeless = {**kit.settings["models"][1], "name": "hopeless", "fit": {"learning_rate": 1e30, "clip_norm": None}}
    report = cv(models=[kit.settings["models"][0], hopeless])
    assert not report.results.complete
    assert [row.mean is None for row in report.results.rows] == [False, True]
    assert {failure.label for failure in report.results.failures} == {f"hopeless, fold {fold}" for fold in range(3)}
    assert all("learning_rate" in failure.reason for failure in report.results.failures)


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (lambda f: f.pop("age"), TableError, "has no column 'age': its columns are"),
        (lambda f: f.__setitem__("months", f["months"].replace(f["months"][0], 0)), CohortError, "must be > 0 months"),
        (lambda f: f.__setitem__("event", [1, *[0] * 39]), CohortError, "all-censored"),
        (lambda f: f.__setitem__("patient", ["P000", *f["patient"][:-1]]), TableError, "lists P000 more than once"),
        (lambda f: f.__setitem__("patient", "Q" + f["patient"]), CohortError, "nobody remains of the 40 patients"),
    ],
)
def test_a_table_that_does_not_allow_the_run_is_refused_before_anything_is_written(
    cv, table, tmp_path, cohort_folder, change, error, reason
):
    store = tmp_path / "store"
    shutil.copytree(cohort_folder / "store", store)
    pinned = open_store(str(store)).snapshot_ids()
    with pytest.raises(error, match=reason):
        cv(inputs=table(change) | {"store_url": str(store)})
    assert not (tmp_path / "run").exists()
    if error is TableError:
        assert open_store(str(store)).snapshot_ids() == pinned


def test_a_store_that_does_not_hold_what_is_read_is_refused(cv, kit, tmp_path):
    image = kit.settings["models"][1]
    with pytest.raises(NotCommittedError, match="'nosuch' means 0 views"):
        cv(models=[{**image, "view": "nosuch"}])
    with pytest.raises(NotCommittedError, match="snapshot"):
        cv(inputs={"snapshots": ("beef",)})
    with pytest.raises(StoreNotFoundError, match="is not a feature store"):
        cv(inputs={"store_url": str(tmp_path / "empty")})
    with pytest.raises(UsageError, match="--store URL"):
        cv(inputs={"store_url": None})
    with pytest.raises(UsageError, match="no model of the config reads images"):
        cv(inputs={"snapshots": ("beef",)}, models=kit.settings["models"][:1])


def test_a_store_in_memory_is_read_in_this_process_alone(cv, kit):
    store = open_store("memory://trainer-run", create=True)
    kit.fill(store, kit.draw())
    inputs = {"store_url": store.url}
    with pytest.raises(UsageError, match="use --workers 0"):
        cv(inputs=inputs, workers=Workers(number=1))
    assert cv(inputs=inputs).results.complete


def test_a_record_of_a_run_names_all_that_decides_its_numbers(cv):
    report = cv()
    record = json.loads(report.folder.read("run.json"))
    (pin,) = record["snapshots"]
    assert pin["snapshot"] == report.plan.pins[0].snapshot.id
    assert pin["trained"] is False
    assert {"engram", "torch", "numpy", "python"} <= set(record["versions"])
    assert record["store"]["id"] == report.plan.store.store_id


def test_tables_at_an_address_are_read_as_files_are(cv, cohort_folder):
    folder = "memory://trainer-tables"
    for name in ("clinical.csv", "truth.csv"):
        fsspec.filesystem("memory").pipe_file(f"{folder}/{name}", (cohort_folder / name).read_bytes())
    inputs = {"clinical": f"{folder}/clinical.csv", "oracle": f"{folder}/truth.csv"}
    there = cv("there", inputs=inputs, oracle={"columns": ["z"]})
    here = cv("here", inputs={"oracle": cohort_folder / "truth.csv"}, oracle={"columns": ["z"]})
    assert there.results == here.results
    assert json.loads(there.folder.read("run.json"))["clinical"] == "clinical.csv"
    with pytest.raises(TableError, match="is not there"):
        cv("none", inputs={"clinical": f"{folder}/none.csv"})


def test_processes_read_a_store_on_s3_and_write_a_run_there(cohort_folder, config, kit, s3_url):
    kit.fill(create_store(f"{s3_url}/store"), kit.draw())
    inputs = Inputs(cohort_folder / "clinical.csv", f"{s3_url}/store")
    report, here = (
        cross_validate(
            config(),
            inputs,
            out=f"{s3_url}/run-{number}",
            workers=Workers(number=number),
            console=Console(file=io.StringIO()),
        )
        for number in (2, 0)
    )
    assert report.results.complete
    assert report.results == here.results
    assert report.folder.url == f"{s3_url}/run-2"
