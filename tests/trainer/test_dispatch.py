"""Where tasks run changes no number: in process, or on a cluster of which a worker is killed."""

import contextlib
import os
import signal
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
from distributed import Client, KilledWorker, LocalCluster
from distributed.comm import CommClosedError

from store_schema.errors import TaskError, UsageError
from store_schema.testing.page_faults import faults_of_large_blocks
from trainer import dispatch
from trainer.at_worker import on_worker
from trainer.dispatch import Outcome, Workers, _answered, _check_workers, _reason, cores, run_tasks
from trainer.features import KEPT
from trainer.jobs import first_jobs
from trainer.plan import Inputs, make_plan
from trainer.run_folder import RunFolder, task_name
from trainer.run_record import keep_plan
from trainer.task import Task
from trainer.task_results import parse_result
from trainer.versions import versions


@pytest.fixture
def tasks_in(cohort_folder, config, tmp_path):
    """Plans the small run in a folder of this name and gives its tasks."""

    def make(name: str, **changes) -> tuple[Task, ...]:
        inputs = Inputs(cohort_folder / "clinical.csv", str(cohort_folder / "store"))
        plan = make_plan(config(permuted_control={"models": ["image"]}, **changes), inputs)
        folder = RunFolder.open(str(tmp_path / name))
        keep_plan(plan, folder)
        return plan.tasks(first_jobs(plan.config, permutations=plan.splits, folds=len(plan.splits[0])), folder.url)

    return make


def numbers(tasks) -> list[dict]:
    folder = RunFolder.open(tasks[0].run_url)
    results = [parse_result(folder.location.get(task_name(task.id)), where="", task_id=task.id) for task in tasks]
    return [found.model_dump(exclude={"seconds"}) for result in results for found in (*result.outer, *result.inner)]


def with_job(task: Task, **changes) -> Task:
    """The task with something changed in its one job."""
    (job,) = task.jobs
    return task.model_copy(update={"jobs": (job.model_copy(update=changes),)})


def ignore(outcome: Outcome) -> None:
    """The outcomes that `run_tasks` gives are enough."""


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        silence_logs=40,
    ) as made:
        yield made


def test_a_worker_killed_in_mid_run_changes_no_number(tasks_in, cluster):
    here, there = tasks_in("here"), tasks_in("there")
    run_tasks(here, Workers(number=0), on_done=ignore)
    seen: list[Outcome] = []
    held: list[set[str]] = []

    def kill_one(outcome: Outcome) -> None:
        seen.append(outcome)
        if len(seen) == 1:
            busy = max(cluster.workers.values(), key=lambda nanny: len(waiting(nanny)))
            held.append(waiting(busy))
            os.kill(busy.pid, signal.SIGKILL)

    def waiting(nanny) -> set[str]:
        """Tasks that the scheduler has given to the worker and that are not done."""
        state = cluster.scheduler.workers.get(nanny.worker_address)
        return set() if state is None else {task.key.split("-")[1] for task in list(state.processing)}

    outcomes = run_tasks(there, Workers(scheduler=cluster.scheduler_address), on_done=kill_one)
    assert outcomes == [Outcome(task) for task in there]
    assert len(seen) == len(there)
    assert held[0]
    assert held[0] <= {outcome.task.id for outcome in seen[1:]}
    assert numbers(here) == numbers(there)


def test_workers_that_did_a_task_fault_no_freed_memory_in_again(tasks_in):
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=40) as made:
        run_tasks(tasks_in("kept")[:1], Workers(scheduler=made.scheduler_address), on_done=ignore)
        with Client(made) as client:
            (faults,) = client.run(faults_of_large_blocks).values()
    # fifty blocks of 1,024 pages
    assert faults < 5_000


@pytest.fixture
def end_workers():
    """Tells every worker process of the test to end, as a signal to a whole terminal or an administrator does.

    A shell starts what it runs in the background with interrupts ignored, and processes inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    others = {process.pid for process in psutil.Process().children(recursive=True)}

    def end() -> None:
        for process in psutil.Process().children(recursive=True):
            # one that has ended meanwhile needs no telling
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.pid not in others and "spawn_main" in " ".join(process.cmdline()):
                    process.send_signal(signal.SIGINT)

    yield end
    signal.signal(signal.SIGINT, before)


def test_local_processes_that_are_told_to_end_have_heirs(tasks_in, end_workers, monkeypatch):
    monkeypatch.setattr(dispatch, "LONE_S", 1.0)
    tasks, seen = tasks_in("run"), []

    def end_them(outcome: Outcome) -> None:
        seen.append(outcome)
        if len(seen) == 1:
            end_workers()

    assert run_tasks(tasks, Workers(number=2), on_done=end_them) == [Outcome(task) for task in tasks]
    assert len(seen) == len(tasks)


def test_local_processes_that_end_again_and_again_end_the_run(tasks_in, end_workers, monkeypatch):
    monkeypatch.setattr(dispatch, "LONE_S", 0.5)
    monkeypatch.setattr(dispatch, "MOST_BARREN", 1)

    def end_them(client) -> None:
        # on a busy machine a worker would otherwise do every task before it ends; Python drops an interrupt that arrives in a
        # destructor, so that it is told again
        end_workers()
        told = time.monotonic()
        until = told + 120
        while client.nthreads():
            assert time.monotonic() < until
            if time.monotonic() > told + 5:
                end_workers()
                told = time.monotonic()
            time.sleep(0.05)

    monkeypatch.setattr(dispatch, "_check_workers", end_them)
    with pytest.raises(UsageError, match=r"local processes ended again: .* tasks are waiting"):
        run_tasks(tasks_in("run"), Workers(number=1), on_done=ignore)


def test_a_scheduler_that_loses_its_last_worker_is_told(tasks_in):
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=40) as made:
        workers = Workers(scheduler=made.scheduler_address, alone_s=0.5)
        with pytest.raises(UsageError, match=r"has no worker left, and .* what is done is kept"):
            run_tasks(tasks_in("run"), workers, on_done=lambda outcome: made.scale(0))


@pytest.mark.parametrize("where", ["process", "cluster"])
def test_a_task_that_fails_leaves_the_others_alone(tasks_in, cluster, where):
    workers = Workers(number=0) if where == "process" else Workers(scheduler=cluster.scheduler_address)
    tasks = tasks_in("run")
    broken = with_job(tasks[0], part=tasks[0].jobs[0].part.model_copy(update={"fold": 99}))
    outcomes = run_tasks((broken, *tasks[1:3]), workers, on_done=ignore)
    assert outcomes[0].error == "UsageError: fold 99 is not one of 0 to 2"
    assert [outcome.error for outcome in outcomes[1:]] == [None, None]


def test_an_error_that_is_not_ours_says_where_it_was_raised(tasks_in):
    odd = with_job(next(task for task in tasks_in("run") if task.jobs[0].model.name == "image"), seed=2**70)
    (outcome,) = run_tasks([odd], Workers(number=0), on_done=ignore)
    assert "ValueError" in (outcome.error or "")
    assert ".py:" in (outcome.error or "")


def test_a_worker_that_always_dies_is_told_apart_from_an_error():
    error = KilledWorker("key", None, 3)
    assert "the worker that did it died, 4 times" in _reason(error)
    assert _reason(TaskError("diverged")) == "TaskError: diverged"


@pytest.fixture
def limited(monkeypatch):
    """This process as a worker that Dask ends when it takes more than 600 MiB."""
    here = SimpleNamespace(name="a", memory_manager=SimpleNamespace(memory_limit=600 * 2**20))
    monkeypatch.setattr("trainer.at_worker.get_worker", lambda: here)
    kept = KEPT.limit_bytes
    yield here
    KEPT.bound(kept)


@pytest.mark.parametrize(("limit_mib", "kept_mib"), [(600, 200), (6000, 1024), (0, 1024), (None, 1024)])
def test_a_workers_cache_takes_a_third_of_its_memory_at_most(tasks_in, limited, limit_mib, kept_mib):
    limited.memory_manager.memory_limit = limit_mib and limit_mib * 2**20
    on_worker(tasks_in("run")[0].model_dump_json(), versions(), do=lambda task: None)
    assert KEPT.limit_bytes == kept_mib * 2**20


def test_a_worker_with_other_code_does_no_task(tasks_in, limited):
    task = tasks_in("run")[0]
    assert on_worker(task.model_dump_json(), versions()) == task.id
    with pytest.raises(TaskError, match=r"runs code [0-9a-f]{12} \(the client 0{12}\)"):
        on_worker(task.model_dump_json(), versions() | {"code": "0" * 64})
    with pytest.raises(TaskError, match=r"runs torch \S+ \(the client 9\.9\)"):
        on_worker(task.model_dump_json(), versions() | {"torch": "9.9"})


class Answers:
    """A client whose scheduler gives these answers about its workers, one after the other, and then the last for good."""

    scheduler = SimpleNamespace(identity=None)

    def __init__(self, *answers):
        self._answers = list(answers)

    def _next(self):
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer

    def run(self, _function, *, on_error, callback_timeout):
        assert (on_error, callback_timeout) == ("return", dispatch.ASK_WORKERS_S)
        return self._next()

    def sync(self, _function, *, n_workers, callback_timeout):
        assert (n_workers, callback_timeout) == (-1, dispatch.ASK_S)
        return {"workers": self._next()}


@pytest.fixture
def waiting(monkeypatch):
    """Tasks that nobody does, and a short time between two looks at who could."""
    monkeypatch.setattr(dispatch, "LOOK_S", 0.01)
    monkeypatch.setattr(
        dispatch,
        "as_completed",
        lambda futures: SimpleNamespace(
            is_empty=lambda: False, next_batch=lambda block: [], count=lambda: len(futures)
        ),
    )
    return [object(), object()]


@pytest.mark.parametrize("error", [TimeoutError("timed out after 30 s."), CommClosedError("cut off")])
def test_a_scheduler_that_cannot_be_asked_for_good_ends_the_run(waiting, error):
    with pytest.raises(
        UsageError, match=r"scheduler could not be asked for its workers for 0\.1 s, and 2 tasks are waiting"
    ):
        list(_answered(Answers(error), waiting, alone_s=0.1))


def test_tasks_for_a_gpu_do_not_wait_for_workers_without_one(waiting):
    without, one = ({"tcp://a:1": {"resources": declared}} for declared in ({}, {"GPU": 1}))
    assert list(_answered(Answers(one, without), waiting, 0.1, dispatch.GPU)) == []
    assert dispatch._has_worker(Answers(one), dispatch.GPU)
    assert dispatch._has_worker(Answers(without), None)


def test_workers_that_do_not_say_what_they_run_are_refused():
    with pytest.raises(UsageError, match=r"did not answer for 300 s: see whether"):
        _check_workers(Answers(TimeoutError("timed out")))


def test_an_error_of_a_worker_that_says_what_it_runs_is_not_one_of_the_way_there(monkeypatch):
    def broken():
        raise OSError("stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "versions", broken)
        answer = dispatch._versions_here()
    with pytest.raises(UsageError, match="worker tls://here:1 cannot say what it runs: OSError: stale file handle"):
        _check_workers(Answers({"tls://here:1": answer}))


def test_a_worker_whose_host_is_cut_off_is_no_reason_to_refuse_the_others():
    away = OSError("Timed out trying to connect")
    _check_workers(Answers({"tls://here:1": versions(), "tls://there:1": away}))
    with pytest.raises(UsageError, match="no worker answers: Timed out"):
        _check_workers(Answers({"tls://there:1": away}))
    with pytest.raises(UsageError, match="cannot import `trainer`"):
        _check_workers(Answers({"tls://here:1": versions(), "tls://there:1": ModuleNotFoundError("trainer")}))


def test_a_scheduler_that_cannot_be_asked_for_a_while_ends_no_run(cluster, monkeypatch):
    monkeypatch.setattr(dispatch, "LOOK_S", 0.1)
    with Client(cluster.scheduler_address) as client:
        future = client.submit(time.sleep, 1.0, pure=False)
        assert list(_answered(Answers(CommClosedError("cut off")), [future], alone_s=60.0)) == [future]


def test_tasks_for_a_gpu_are_given_to_no_cluster_without_one(tasks_in, cluster):
    with pytest.raises(
        UsageError, match=r"no worker declares a GPU, .*: start workers by `trainer worker ADDRESS --device cuda`"
    ):
        run_tasks(tasks_in("run", device="cuda"), Workers(scheduler=cluster.scheduler_address), on_done=ignore)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a CUDA device")
def test_a_worker_that_declares_a_gpu_and_has_none_fails_its_tasks_and_says_so(tasks_in):
    tasks = tasks_in("run", device="cuda")[:2]
    options = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 40}
    with LocalCluster(n_workers=1, resources={"GPU": 1}, **options) as made:
        outcomes = run_tasks(tasks, Workers(scheduler=made.scheduler_address), on_done=ignore)
    assert {outcome.error for outcome in outcomes} == {
        "TaskError: torch sees no CUDA device here: fit with `device: cpu`, or on workers that have one"
    }


def test_the_device_is_part_of_what_a_task_is(tasks_in):
    here, there = tasks_in("here"), tasks_in("there", device="cuda")
    assert {task.device for task in here} == {"cpu"}
    assert {task.device for task in there} == {"cuda"}
    assert not {task.id for task in here} & {task.id for task in there}


def test_a_scheduler_that_does_not_answer_is_named(tasks_in):
    workers = Workers(scheduler="tcp://127.0.0.1:9", wait_s=0.5)
    with pytest.raises(UsageError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        run_tasks(tasks_in("run"), workers, on_done=ignore)


def test_a_scheduler_without_workers_is_named(tasks_in):
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", silence_logs=40) as empty:
        workers = Workers(scheduler=empty.scheduler_address, wait_s=0.5)
        with pytest.raises(UsageError, match="has no worker"):
            run_tasks(tasks_in("run"), workers, on_done=ignore)


def test_no_task_starts_no_worker():
    assert run_tasks((), Workers(), on_done=ignore) == []
    assert cores() >= 1


def test_processes_and_a_cluster_exclude_each_other():
    with pytest.raises(UsageError, match="give one of them"):
        Workers(number=2, scheduler="tcp://a:1")
