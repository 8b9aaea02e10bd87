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
from store_schema.pseudonyms import PlainIds, Pseudonyms, settle_rule
from trainer.dispatch import Workers
from trainer.plan import Inputs
from trainer.report.page import write_report
from trainer.results import parse_results
from trainer.run import CvReport, cross_validate
from trainer.run_folder import task_name


@pytest.fixture
def cv(cohort_folder, config, tmp_path):
    """Runs the small cross-validation in this process, some settings or inputs replaced."""

    def run(name="run", *, inputs=None, workers=None, **changes) -> CvReport:
        given = {
            "clinical": cohort_folder / "clinical.csv",
            "store_url": str(cohort_folder / "store"),
            **(inputs or {}),
        }
        return cross_validate(
            config(**changes),
            Inputs(**given),
            out=str(tmp_path / name),
            workers=workers or Workers(number=0),
            console=Console(file=io.StringIO()),
        )

    return run


@pytest.fixture
def table(cohort_folder, tmp_path):
    """Writes the clinical table with something changed."""

    def write(change):
        frame = pd.read_csv(cohort_folder / "clinical.csv")
        change(frame)
        path = tmp_path / "changed.csv"
        frame.to_csv(path, index=False)
        return {"clinical": path}

    return write


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


KEY = b"a planted key of many bytes"


def pseudonymised(kit, folder, *, study=None):
    """A store keyed by pseudonyms; its clinical table names patients plainly."""
    ids, table = Pseudonyms(KEY), kit.draw()
    table["patient"] = [f"KOWALSKA-{row:03d}" for row in range(len(table))]
    store = create_store(folder / "store")
    settle_rule(store, ids)
    kit.fill(store, table.assign(patient=[ids.key(patient, study) for patient in table["patient"]]))
    table.drop(columns=["z", "log_hazard"]).to_csv(folder / "clinical.csv", index=False)
    table[["patient", "z"]].to_csv(folder / "truth.csv", index=False)
    return {"store_url": str(folder / "store"), "clinical": folder / "clinical.csv"}


def everything_in(folder):
    return b"\n".join(str(path).encode() + path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_pseudonyms_join_tables_and_store_and_no_patient_is_written(cv, kit, tmp_path):
    inputs = pseudonymised(kit, tmp_path) | {"oracle": tmp_path / "truth.csv"}
    report = cv(inputs=inputs | {"ids": Pseudonyms(KEY)}, oracle={"columns": ["z"]})
    assert report.results.complete
    assert len(report.plan.cohort) == 40
    assert set(report.plan.cohort.patients) == {Pseudonyms(KEY).key(f"KOWALSKA-{row:03d}") for row in range(40)}
    assert write_report(str(tmp_path / "run")).endswith("report.html")
    assert b"KOWALSKA" not in everything_in(tmp_path / "run")
    assert b"KOWALSKA" in everything_in(tmp_path), "the search must be able to find one"
    assert json.loads(report.folder.read("run.json"))["key_fingerprint"] == Pseudonyms(KEY).rule.key_fingerprint


def test_pseudonyms_change_no_number(cv, kit, tmp_path):
    inputs = pseudonymised(kit, tmp_path)
    table = pd.read_csv(inputs["clinical"])
    table["patient"] = [Pseudonyms(KEY).key(patient) for patient in table["patient"]]
    table.to_csv(tmp_path / "done.csv", index=False)
    store = create_store(tmp_path / "unruled")
    drawn = kit.draw()
    kit.fill(store, drawn.assign(patient=table["patient"]))
    plain = cv("plain", inputs={"store_url": str(tmp_path / "unruled"), "clinical": tmp_path / "done.csv"})
    hidden = cv("hidden", inputs=inputs | {"ids": Pseudonyms(KEY)})
    assert [row.scores for row in plain.results.rows] == [row.scores for row in hidden.results.rows]


def test_pseudonyms_of_studies_keep_a_patients_studies_together(cv, kit, tmp_path):
    inputs = pseudonymised(kit, tmp_path, study="base")
    table = pd.read_csv(inputs["clinical"]).assign(visit="base")
    table.to_csv(inputs["clinical"], index=False)
    columns = {**kit.settings["columns"], "study": "visit"}
    report = cv(inputs=inputs | {"ids": Pseudonyms(KEY)}, columns=columns)
    cohort = report.plan.cohort
    assert cohort.person == tuple(patient.partition(".")[0] for patient in cohort.patients)
    assert b"KOWALSKA" not in everything_in(tmp_path / "run")


@pytest.mark.parametrize(
    ("ids", "said"),
    [(PlainIds(), "holds pseudonyms"), (Pseudonyms(b"another key of many bytes"), "another pseudonym key")],
)
def test_a_store_of_other_ids_is_refused(cv, kit, tmp_path, ids, said):
    with pytest.raises(UsageError, match=said):
        cv(inputs=pseudonymised(kit, tmp_path) | {"ids": ids})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.__setitem__("patient", [f["patient"][1], *f["patient"][1:]]),
        lambda f: f.__setitem__("months", ["KOWALSKA-007", *f["months"][1:]]),
        lambda f: f.__setitem__("months", 0),
        lambda f: f.__setitem__("event", 9),
    ],
)
def test_a_refused_table_names_no_patient_behind_pseudonyms(cv, kit, tmp_path, change):
    inputs = pseudonymised(kit, tmp_path)
    frame = pd.read_csv(inputs["clinical"])
    change(frame)
    frame.to_csv(inputs["clinical"], index=False)
    with pytest.raises((TableError, CohortError)) as caught:
        cv(inputs=inputs | {"ids": Pseudonyms(KEY)})
    assert "KOWALSKA" not in str(caught.value)


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


def compete(frame):
    """Every third event becomes another one that rules the first out."""
    events = frame.index[frame["event"] == 1]
    frame.loc[events[::3], "event"] = 2


def test_competing_events_end_follow_up_for_models_and_have_incidences_of_their_own(cv, table, config):
    columns = config().columns.model_dump()
    inputs = table(compete)
    report = cv(inputs=inputs, columns={**columns, "competing_values": (2,)})
    censored = cv("other", inputs=inputs, columns={**columns, "censored_values": (0, 2)})
    assert [row.scores for row in report.results.rows] == [row.scores for row in censored.results.rows]
    found = [line for line in lines(report, "measures.csv") if line["measure"] == "cumulative_incidence"]
    assert {line["group"] for line in found} >= {"all; event = 1", "all; event = 2", "risk_group=4; event = 1"}
    assert any("cause-specific hazard" in note for note in report.results.notes)
    assert not any(line["measure"] == "cumulative_incidence" for line in lines(censored, "measures.csv"))
    page = write_report(report.folder.url)
    with fsspec.open(page, "rt", encoding="utf-8") as file:
        text = file.read()
    assert "Competing events: cumulative incidence" in text
    assert "event = 1: 1" in text or "event = 1: 2" in text  # counts of table one
    assert (report.folder.read("figures/incidence-cox.svg") or b"").startswith(b"<")


def test_one_centre_is_left_out_at_a_time_and_named_beside_its_c(cv, table, config):
    columns = {**config().columns.model_dump(), "centre": "centre"}

    def spread(frame):
        frame["centre"] = ["Lyon", "Oslo", "Turin", "Zurich"] * (len(frame) // 4)

    report = cv(inputs=table(spread), columns=columns, splits={"leave_one_centre_out": True})
    row = report.results.rows[0]
    assert {score.centre for score in row.scores} == {"Lyon", "Oslo", "Turin", "Zurich"}
    cohort = report.plan.cohort
    for score, part in zip(row.scores, report.plan.splits[0].test, strict=True):
        assert {cohort.centre[at] for at in cohort.rows(part)} == {score.centre}
    page = write_report(report.folder.url)
    with fsspec.open(page, "rt", encoding="utf-8") as file:
        text = file.read()
    assert "4 folds, each a centre left out" in text
    assert f"Oslo {next(score.c for score in row.scores if score.centre == 'Oslo'):.3f}" in text


def test_a_cox_model_has_a_permutation_p_without_being_asked(cv, config):
    settings = config().model_dump(mode="json")
    report = cv(models=settings["models"][:1], permuted_control="auto")
    row, permuted = report.results.rows
    means = [score.c for score in permuted.scores]
    assert (permuted.kind, len(means)) == ("permuted", 199)
    assert row.permutation_p == pytest.approx((1 + sum(mean >= row.mean for mean in means)) / 200)
    assert np.mean(means) == pytest.approx(0.5, abs=0.05)
    # 597 permuted fits are a few tasks, and the table of risks shows the first permutation alone
    assert report.tasks == 3 + -(-597 // 64)
    assert {line["permutation"] for line in lines(report, "risks.csv")} == {"0", "1"}
    assert len(lines(report, "folds.csv")) == 600
