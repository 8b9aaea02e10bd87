"""What workers read while they fit: the matrices of the next tasks, as far as there is room, and an error of it stops nothing."""

import threading
from types import SimpleNamespace

import pytest

from trainer.at_worker import PREFETCH, on_worker
from trainer.dispatch import Workers, _sent, run_tasks
from trainer.features import CACHE_MIB, KEPT, keep_at_most
from trainer.fold import reads, run_task
from trainer.jobs import first_jobs
from trainer.plan import Inputs, make_plan
from trainer.prefetch import Prefetch, followers
from trainer.run_folder import RunFolder, task_name
from trainer.run_record import keep_plan
from trainer.task import Task
from trainer.task_results import parse_result
from trainer.versions import versions

MATRIX = 40 * 8 * 8 * 4
"""Bytes of the mean maps of the small cohort, of one modality."""


@pytest.fixture
def planned(cohort_folder, config, tmp_path):
    """Tasks of a model without images, then of CT alone, then of both modalities; each of three folds."""

    def make(name: str = "run") -> tuple[Task, ...]:
        network = {"kind": "network", "view": "tiny", "hidden": [4]}
        models = [
            {"name": "cox", "kind": "ridge_cox"},
            network | {"name": "ct", "images": {"roi": "spine", "modalities": ["CT"]}},
            network | {"name": "both", "images": {"roi": "spine"}, "fusion": "gate"},
        ]
        inputs = Inputs(cohort_folder / "clinical.csv", str(cohort_folder / "store"))
        plan = make_plan(config(models=models), inputs)
        folder = RunFolder.open(str(tmp_path / name))
        keep_plan(plan, folder)
        return plan.tasks(first_jobs(plan.config, permutations=plan.splits, folds=len(plan.splits[0])), folder.url)

    return make


@pytest.fixture(autouse=True)
def nothing_kept():
    """Before and after, with the usual bound."""
    before = KEPT.limit_bytes
    KEPT.clear()
    keep_at_most(CACHE_MIB)
    yield
    KEPT.clear()
    KEPT.bound(before)


def names(task: Task | None) -> str | None:
    return None if task is None else task.jobs[0].model.name


def is_kept(task: Task, modality: str) -> bool:
    """Whether the matrix is given without a look at the store."""
    (snapshot,) = task.snapshots.values()
    patients = tuple(f"P{row:03d}" for row in range(40))
    return ("mean_map", task.store_url, snapshot, modality, "spine", patients) in KEPT


def test_each_task_is_followed_by_the_next_that_reads_something_else(planned):
    tasks = planned()
    assert [names(task) for task in tasks] == ["cox"] * 3 + ["ct"] * 3 + ["both"] * 3
    later = followers(tasks)
    assert [names(task) for task in later] == ["ct"] * 3 + ["both"] * 3 + [None] * 3
    assert followers(()) == []
    assert followers(tasks[:3]) == [None] * 3


def test_of_jobs_that_read_the_same_one_travels(planned):
    tasks = planned()
    several = tasks[3].model_copy(update={"jobs": tuple(job for task in tasks for job in task.jobs)})
    (later, _) = followers((tasks[0], several))
    assert [job.model.name for job in later.jobs] == ["ct", "both"]
    assert reads(later) == reads(several)


def test_what_the_next_tasks_need_is_read_and_its_own_first(planned):
    tasks, prefetch = planned(), Prefetch()
    prefetch.begin(tasks[3], tasks[6])
    prefetch.wait()
    assert is_kept(tasks[6], "PET")
    assert is_kept(tasks[6], "CT")
    assert KEPT.size_bytes >= 2 * MATRIX


@pytest.mark.parametrize(("matrices", "kept"), [(5, []), (6, ["CT"]), (7, ["CT", "PET"])])
def test_room_is_for_a_matrix_what_is_held_of_a_pack_and_the_work(planned, matrices, kept):
    """One, a quarter of the bound, and three more."""
    tasks, prefetch = planned(), Prefetch()
    KEPT.bound(matrices * MATRIX)
    prefetch.begin(tasks[3], tasks[6])
    prefetch.wait()
    assert [name for name in ("CT", "PET") if is_kept(tasks[6], name)] == kept


def test_a_task_is_read_for_once_and_one_at_a_time(planned, monkeypatch):
    tasks, begun, goes_on = planned(), [], threading.Event()

    def read(*asked: Task) -> None:
        begun.append(names(asked[-1]))
        assert goes_on.wait(60)

    monkeypatch.setattr("trainer.prefetch._read", read)
    prefetch = Prefetch()
    prefetch.begin(tasks[0], tasks[3])
    prefetch.begin(tasks[3], tasks[6])
    goes_on.set()
    prefetch.wait()
    prefetch.begin(tasks[1], tasks[4])
    prefetch.begin(tasks[4], tasks[7])
    prefetch.wait()
    assert begun == ["ct", "both"]


def test_an_error_of_it_is_told_and_stops_nothing(planned, caplog):
    tasks, prefetch = planned(), Prefetch()
    lost = tasks[6].model_copy(update={"snapshots": dict.fromkeys(tasks[6].snapshots, "0" * 64)})
    with caplog.at_level("INFO", logger="trainer.prefetch"):
        prefetch.begin(tasks[3], lost)
        prefetch.wait()
    assert "reading ahead for both, fold 0 ended: " in caplog.text
    assert is_kept(tasks[3], "CT")


def test_where_no_thread_can_be_started_a_fit_goes_on(planned, monkeypatch):
    def refused(self):
        raise RuntimeError("can't start new thread")

    tasks, prefetch = planned(), Prefetch()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        prefetch.begin(tasks[3], tasks[6])
    prefetch.wait()
    assert not is_kept(tasks[6], "CT")
    prefetch.begin(tasks[3], tasks[6])
    prefetch.wait()
    assert is_kept(tasks[6], "CT")


def test_a_run_of_another_folder_is_read_for_anew(planned):
    first, second, prefetch = planned("first"), planned("second"), Prefetch()
    for tasks in (first, second):
        KEPT.clear()
        prefetch.begin(tasks[3], tasks[6])
        prefetch.wait()
        assert is_kept(tasks[6], "PET")


def test_a_worker_reads_ahead_of_the_task_that_it_does(planned, monkeypatch):
    here = SimpleNamespace(name="a", memory_manager=SimpleNamespace(memory_limit=None))
    monkeypatch.setattr("trainer.at_worker.get_worker", lambda: here)
    tasks = planned()
    assert on_worker(tasks[3].model_dump_json(), versions(), do=lambda task: None) == tasks[3].id
    assert not is_kept(tasks[6], "PET")
    later = tasks[6].model_dump_json()
    assert on_worker(tasks[3].model_dump_json(), versions(), do=lambda task: None, later=later) == tasks[3].id
    PREFETCH.wait()
    assert is_kept(tasks[6], "PET")


def test_each_task_is_sent_with_the_one_to_read_ahead_for(planned):
    class StopHereError(Exception):
        pass

    class Recording:
        """A client that is given all tasks, and does none."""

        def __init__(self):
            self.later = []

        def submit(self, _do, _task, _versions, _how, _cache_mib, later, **_options):
            self.later.append(later and Task.model_validate_json(later))
            if len(self.later) == len(tasks):
                raise StopHereError
            return len(self.later)

    tasks, client = planned(), Recording()
    with pytest.raises(StopHereError):
        next(_sent(client, tasks, Workers(), run_task, None))
    assert client.later == followers(tasks)


def results(tasks) -> list[dict]:
    folder = RunFolder.open(tasks[0].run_url)
    read = [parse_result(folder.location.get(task_name(task.id)), where="", task_id=task.id) for task in tasks]
    return [found.model_dump(exclude={"seconds"}) for one in read for found in one.outer]


def test_fits_of_workers_that_read_ahead_are_those_of_this_process(planned):
    here, there = planned("here"), planned("there")
    run_tasks(here, Workers(number=0), on_done=lambda outcome: None)
    outcomes = run_tasks(there, Workers(number=1), on_done=lambda outcome: None)
    assert [outcome.error for outcome in outcomes] == [None] * len(there)
    assert results(here) == results(there)
