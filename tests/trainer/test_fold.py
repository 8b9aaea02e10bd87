"""One task: written once, the same anywhere, refitted from its training part alone."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import concordance_index_censored
from sksurv.util import Surv

from store_schema import open_store
from store_schema.errors import ObjectAlteredError, SchemaError, TaskError
from trainer.cohort import Cohort
from trainer.fold import TaskData, run_task
from trainer.jobs import first_jobs
from trainer.judging import Asked, judge
from trainer.part_data import PartData
from trainer.plan import Inputs, make_plan
from trainer.run_folder import RunFolder, cohort_bytes, splits_name, task_name
from trainer.run_record import keep_plan
from trainer.task import Task
from trainer.task_results import JobResult


@pytest.fixture
def planned(cohort_folder, config, tmp_path):
    """Keeps a plan in a folder, and gives its tasks by model and fold."""

    def make(name="run", **changes):
        inputs = Inputs(cohort_folder / "clinical.csv", str(cohort_folder / "store"))
        plan = make_plan(config(**changes), inputs)
        folder = RunFolder.open(str(tmp_path / name))
        keep_plan(plan, folder)
        return plan, folder, tasks_of(plan, folder)

    return make


def tasks_of(plan, folder) -> dict[tuple[str, int, int], Task]:
    """A task of its own for every job, by model, fold and permutation."""
    jobs = first_jobs(plan.config, permutations=plan.splits, folds=len(plan.splits[0]))
    alone = {(job.model.name, job.part.fold, job.part.permutation): job for job in jobs}
    return {place: plan.tasks([job], folder.url)[0] for place, job in alone.items()}


def done(task: Task) -> JobResult:
    (result,) = run_task(task).outer
    return result


def data_of(task: Task) -> PartData:
    return TaskData(task).data(task.jobs[0])


def numbers(result: JobResult) -> dict:
    return result.model_dump(exclude={"seconds"})


def test_a_task_is_done_once_and_its_result_read_again(planned):
    _, folder, tasks = planned()
    task = tasks["image", 0, 0]
    first = run_task(task)
    assert run_task(task) == first
    assert json.loads(folder.read(task_name(task.id)))["task_id"] == task.id


def test_the_same_task_gives_the_same_numbers_in_another_folder(planned):
    (_, _, here), (_, _, there) = planned("a"), planned("b")
    for place in here:
        assert here[place].id == there[place].id
        assert numbers(done(here[place])) == numbers(done(there[place]))


def test_ridge_cox_equals_scikit_survival_on_the_same_fold(planned):
    plan, _, tasks = planned()
    for fold in plan.splits[0].outer():
        result = done(tasks["cox", fold.index, 0])
        data = data_of(tasks["cox", fold.index, 0])
        (time, event), (test_time, test_event) = data.outcome(fold.train), data.outcome(fold.test)
        reference = CoxPHSurvivalAnalysis(alpha=1.0, ties="efron")
        reference.fit(data.clinical(fold.train), Surv.from_arrays(event, time))
        risk = reference.predict(data.clinical(fold.test))
        np.testing.assert_allclose(result.log_risk, risk, atol=1e-6)
        expected = concordance_index_censored(test_event, test_time, risk)[0]
        assert result.c == pytest.approx(expected, abs=1e-6)
        assert result.train_mean == pytest.approx(reference.predict(data.clinical(fold.train)).mean(), abs=1e-6)


def test_z_are_risks_in_standard_deviations_of_the_training_risks(planned):
    _, _, tasks = planned()
    task = tasks["image", 1, 0]
    (judged,) = judge([Asked(task.jobs[0].model, task.jobs[0].seed, data_of(task))])
    expected = (judged.test_risk - judged.train_risk.mean()) / judged.train_risk.std()
    np.testing.assert_allclose(done(task).z, expected, rtol=1e-12)


def test_the_gate_gives_a_weight_for_each_test_patient_and_no_other_model_does(planned):
    _, _, tasks = planned()
    gated, linear = done(tasks["image", 0, 0]), done(tasks["cox", 0, 0])
    assert len(gated.alpha) == len(gated.patients)
    assert all(0 < alpha < 1 for alpha in gated.alpha)
    assert linear.alpha is None
    assert linear.curves is None
    assert set(linear.coefficients) >= {"age", "stage=I"}


def test_a_watched_part_with_too_few_events_fixes_the_epochs_by_inner_cross_validation(planned, kit):
    fit = {**kit.short, "min_validation_events": 40}
    curves = done(planned(fit=fit)[2]["image", 0, 0]).curves
    assert curves.reason == "fixed"
    assert 1 <= curves.epochs_run <= 3


def test_a_permuted_task_has_other_outcomes_and_folds_of_its_own(planned):
    plan, _, tasks = planned(permuted_control={"models": ["cox"], "repeats": 2})
    assert {place[0] for place in tasks if place[2]} == {"cox"}
    real, first, second = (data_of(tasks["cox", 0, number]) for number in range(3))
    assert sorted(real.cohort.time) == sorted(first.cohort.time)
    assert (real.cohort.time != first.cohort.time).any()
    assert (first.cohort.time != second.cohort.time).any()
    pairs = {(t, e) for t, e in zip(real.cohort.time, real.cohort.event, strict=True)}
    assert {(t, e) for t, e in zip(first.cohort.time, first.cohort.event, strict=True)} == pairs
    assert real.fold.test != first.fold.test
    assert len({tasks["cox", 0, number].jobs[0].seed for number in range(3)}) == 3
    assert plan.splits[1].cohort_sha256 == first.cohort.digest


def test_altered_files_of_a_run_are_refused(planned):
    _, folder, tasks = planned()
    folder.replace("splits.json", (folder.read("splits.json") or b"").replace(b"P001", b"P0O1"))
    with pytest.raises(ObjectAlteredError, match=r"splits\.json"):
        run_task(tasks["cox", 0, 0])
    _, folder, tasks = planned("other")
    folder.replace(task_name(tasks["cox", 0, 0].id), b"{}")
    with pytest.raises(SchemaError, match="is not a task's result"):
        run_task(tasks["cox", 0, 0])


def test_a_task_holds_addresses_and_digests_alone(planned):
    plan, _, tasks = planned()
    text = tasks["image", 0, 0].model_dump_json()
    assert len(text) < 3000
    assert not any(patient in text for patient in plan.cohort.patients)


def test_a_task_that_names_no_store_is_refused(planned):
    task = planned()[2]["image", 0, 0].model_copy(update={"store_url": None})
    with pytest.raises(TaskError, match="names no store"):
        run_task(task)


def with_other_cohort(plan, cohort: Cohort, url: str) -> dict[tuple[str, int, int], Task]:
    """The same folds, in a run folder whose cohort has other covariates or outcomes."""
    splits = {0: plan.splits[0].model_copy(update={"cohort_sha256": cohort.digest})}
    changed = type(plan)(plan.config, plan.clinical, plan.store, plan.pins, cohort, splits, {})
    folder = RunFolder.open(url)
    folder.replace("cohort.json", cohort_bytes(cohort))
    folder.replace(splits_name(0), splits[0].to_json().encode())
    return tasks_of(changed, folder)


CLINICAL = {"name": "deepsurv", "kind": "network", "clinical": True, "hidden": [4]}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ages=st.lists(st.floats(-1e6, 1e6) | st.none(), min_size=14, max_size=14),
    stages=st.lists(st.sampled_from(["I", "new", None]), min_size=14, max_size=14),
    fold=st.integers(0, 2),
)
def test_changing_test_patients_covariates_leaves_all_that_was_fitted_unchanged(planned, ages, stages, fold):
    plan, _, tasks = planned(models=[{"name": "cox", "kind": "ridge_cox"}, CLINICAL])
    frame = plan.cohort.frame.copy()
    test = list(plan.splits[0].fold(fold).test)
    frame.loc[test, "age"] = np.array(ages[: len(test)], dtype=float)
    frame.loc[test, "stage"] = np.array(stages[: len(test)], dtype=object)
    other = Cohort.from_dict({**plan.cohort.to_dict()})
    object.__setattr__(other, "frame", frame)
    changed = with_other_cohort(plan, other, "memory://leak")
    for model in ("cox", "deepsurv"):
        before, after = done(tasks[model, fold, 0]), done(changed[model, fold, 0])
        for name in ("train_mean", "train_sd", "train_c", "preprocessing", "coefficients", "curves"):
            assert getattr(before, name) == getattr(after, name), name


@pytest.mark.parametrize("seed", range(3))
def test_changing_test_patients_outcomes_leaves_all_that_was_fitted_unchanged(planned, seed):
    plan, _, tasks = planned(models=[{"name": "cox", "kind": "ridge_cox"}, CLINICAL])
    rows = plan.cohort.rows(plan.splits[0].fold(seed).test)
    record, rng = plan.cohort.to_dict(), np.random.default_rng(seed)
    for row in rows:
        record["time"][row], record["event"][row] = float(rng.integers(1, 200)), bool(rng.integers(2))
    changed = with_other_cohort(plan, Cohort.from_dict(record), f"memory://outcomes{seed}")
    for model in ("cox", "deepsurv"):
        before, after = done(tasks[model, seed, 0]), done(changed[model, seed, 0])
        for name in ("train_mean", "train_sd", "train_c", "preprocessing", "coefficients", "curves", "log_risk"):
            assert getattr(before, name) == getattr(after, name), name
        assert before.c != after.c


def test_changing_test_patients_images_leaves_all_that_was_fitted_unchanged(planned, kit, tmp_path, config):
    plan, _, tasks = planned()
    test = plan.splits[0].fold(1).test
    table = kit.draw()
    table.loc[table["patient"].isin(test), "z"] = 1e3
    store = open_store(str(tmp_path / "other"), create=True)
    kit.fill(store, table)
    inputs = Inputs(plan.clinical, store.url)
    other = make_plan(config(), inputs)
    folder = RunFolder.open(str(tmp_path / "changed"))
    keep_plan(other, folder)
    task = tasks_of(other, folder)["image", 1, 0]
    before, after = done(tasks["image", 1, 0]), done(task)
    for name in ("train_mean", "train_sd", "train_c", "curves", "patients"):
        assert getattr(before, name) == getattr(after, name), name
    assert before.log_risk != after.log_risk
