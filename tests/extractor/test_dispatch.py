"""Studies on a Dask cluster: the same numbers, dead workers, workers that do not fit, and nothing but descriptions on the wire."""

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import dask
import pytest
from distributed import Client, LocalCluster
from rich.console import Console

from extractor import at_worker, dispatch
from extractor.at_worker import About, about
from extractor.config import ExtractConfig, views_of
from extractor.dispatch import (
    RUN_AGAIN,
    SCHEDULER_LOST,
    SCHEDULER_STILL,
    Cluster,
    _Run,
    run_on_cluster,
)
from extractor.errands import Errand
from extractor.loading import load_networks
from extractor.phantom import write_cohort
from extractor.run import RunOptions, RunReport, run
from extractor.sealing import envelope
from extractor.table import read_study_table
from extractor.versions import versions
from extractor.waiting import Waiting
from extractor.work import StudyTask
from extractor.worker import DIED, NO_WORKER, StudyResult, StudyStage, WorkerSpec
from store_schema import Store, create_store, open_store
from store_schema.errors import UsageError
from store_schema.testing import content_digests
from store_schema.testing.page_faults import faults_of_large_blocks

CONFIG = ExtractConfig(
    model="mini", weights="random:0", pet_units="suv", stride=16, derive=("spine_dilated",), layouts=("paper",)
)
ITEMS = 2
"""Entries of one study: two modalities of one ROI in one layout."""


class Deadly(dict):
    """The views of a study that kills whichever worker takes it up."""

    def __reduce__(self):
        return os._exit, (1,)


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, n=5, seed=1, processes=0)
    return folder / "studies.csv"


def local_cluster(workers: int, **options) -> LocalCluster:
    usual = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "memory_limit": 0, "silence_logs": 40}
    return LocalCluster(n_workers=workers, processes=True, **usual | options)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster(2) as made:
        yield made


def extract(studies: Path, store: Path, **options) -> RunReport:
    return run(CONFIG, RunOptions(studies, str(store), **options), console=Console(quiet=True))


@pytest.fixture(scope="module")
def whole(studies, tmp_path_factory) -> dict[str, str]:
    """Content digests of a run in one process."""
    store = tmp_path_factory.mktemp("whole") / "store"
    assert not extract(studies, store, jobs=0).failed
    return content_digests(open_store(store))


@pytest.fixture
def sent(studies, tmp_path) -> tuple[list[StudyTask], WorkerSpec, Store]:
    """What a run would send of the whole table, for tests that do without its plan."""
    store = create_store(tmp_path / "store")
    spec, facts, _ = load_networks(CONFIG, store.url, device="cpu", looked_at_on="cpu")
    views = {layout: store.put_view(view) for layout, view in views_of(CONFIG, facts).items()}
    return [StudyTask(row, CONFIG, views) for row in read_study_table(studies, CONFIG)], spec, store


def test_a_cluster_makes_the_store_that_one_process_makes(studies, cluster, whole, tmp_path):
    report = extract(studies, tmp_path / "store", scheduler=cluster.scheduler_address)
    assert {outcome.result for outcome in report.outcomes} == {"committed"}
    assert len(report.outcomes) == 5 * ITEMS
    assert content_digests(open_store(tmp_path / "store")) == whole
    again = extract(studies, tmp_path / "store", scheduler=cluster.scheduler_address)
    assert {item.state for item in again.plan} == {"done"}
    assert again.snapshots == report.snapshots
    with Client(cluster) as client:
        # fifty blocks of 1,024 pages; Dask's nannies start workers so that each is faulted in anew
        assert max(client.run(faults_of_large_blocks).values()) < 5_000


def test_a_worker_killed_midway_loses_nothing(studies, cluster, whole, tmp_path):
    killed: list[int] = []

    def kill_a_busy_one() -> None:
        while not killed:
            busy = [
                nanny
                for nanny in cluster.workers.values()
                if (state := cluster.scheduler.workers.get(nanny.worker_address)) and state.processing
            ]
            if busy and any((tmp_path / "store").glob("commits/**/*.json")):
                os.kill(busy[0].pid, signal.SIGKILL)
                killed.append(busy[0].pid)
            time.sleep(0.01)

    killer = threading.Thread(target=kill_a_busy_one, daemon=True)
    killer.start()
    report = extract(studies, tmp_path / "store", scheduler=cluster.scheduler_address)
    assert killed
    assert not report.failed
    assert len(report.outcomes) == 5 * ITEMS
    assert content_digests(open_store(tmp_path / "store")) == whole
    assert len(list((tmp_path / "store").glob("commits/*/*/*/*/*.json"))) == 5 * ITEMS, "no entry is committed twice"
    assert open_store(str(tmp_path / "store")).verify().ok


def test_a_study_that_kills_its_workers_is_given_up_and_the_others_are_done(sent, cluster):
    tasks, spec, store = sent
    results: list[StudyResult] = []

    def tell(event):
        if isinstance(event, StudyResult):
            results.append(event)

    tasks[1] = StudyTask(tasks[1].row, CONFIG, Deadly(tasks[1].views))
    run_on_cluster(tasks, spec, Cluster(cluster.scheduler_address, wait_s=300), tell=tell)
    assert {result.task.row.patient: result.error for result in results} == {
        task.row.patient: DIED if task is tasks[1] else None for task in tasks
    }
    assert results[-1].error == DIED, "a suspect comes after all others"
    assert {key.patient for key in store.keys(tasks[0].views["paper"])} == {"P001", "P003", "P004", "P005"}


def test_stages_say_which_study_is_where_and_every_study_has_one_result(sent, cluster):
    tasks, spec, _ = sent
    events: list[StudyStage | StudyResult] = []
    run_on_cluster(tasks, spec, Cluster(cluster.scheduler_address), tell=events.append)
    stages = [event for event in events if isinstance(event, StudyStage)]
    results = [event for event in events if isinstance(event, StudyResult)]
    assert sorted(result.task.row.patient for result in results) == [task.row.patient for task in tasks]
    assert {event.where for event in stages} <= {str(name) for name in cluster.workers}
    for task in tasks:
        seen = [event.stage for event in stages if event.task.row.patient == task.row.patient]
        assert seen == ["loading", "embedding", "writing"]
    spent = [result.spent for result in results]
    assert all(min(one.loading_s, one.embedding_s, one.writing_s, one.slices) > 0 for one in spent), (
        "it comes with the result"
    )


def test_what_dasks_own_looks_at_its_scheduler_leave_makes_no_worker_seem_gone(sent, cluster, monkeypatch):
    """They ask for no worker, and their answer may stand where that to another question is read."""
    tasks, spec, _ = sent
    events: list[StudyStage | StudyResult] = []
    monkeypatch.setattr(Client, "scheduler_info", lambda _client, n_workers=0: {"workers": {}})
    run_on_cluster(tasks, spec, Cluster(cluster.scheduler_address, wait_s=20), tell=events.append)
    assert [event.error for event in events if isinstance(event, StudyResult)] == [None] * len(tasks)
    assert not [event for event in events if isinstance(event, StudyStage) and event.stage is None]


def test_a_study_that_raises_fails_alone(sent, cluster):
    tasks, spec, _ = sent
    defective = StudyTask(tasks[0].row, CONFIG, {"nonsense": "no-view"})
    results: list[StudyResult] = []

    def tell(event):
        if isinstance(event, StudyResult):
            results.append(event)

    run_on_cluster([defective, tasks[1]], spec, Cluster(cluster.scheduler_address), tell=tell)
    errors = {result.task.row.patient: result.error for result in results}
    assert errors[tasks[1].row.patient] is None
    assert "KeyError" in errors[tasks[0].row.patient]


def test_workers_that_run_other_code_are_refused_before_anything_is_sent(sent, cluster):
    tasks, spec, store = sent
    for other in ({"torch": "9.9"}, {"code": "0" * 64}, {"sam2 code": "1" * 64}):
        ((name, shown),) = other.items()
        look = partial(dict, versions() | other)
        with pytest.raises(UsageError, match=rf"worker tcp://\S+ runs {name} \S+ \(the client {shown[:12]}\)"):
            run_on_cluster(tasks, spec, Cluster(cluster.scheduler_address), tell=fail, look=look)
    assert not store.keys(tasks[0].views["paper"])


THERE = {"tls://there:1": {"name": "worker-1", "nthreads": 1, "resources": {}, "status": "running"}}


class Asked:
    """A client whose scheduler has these workers, or cannot be asked for them, and gives these answers of theirs."""

    status = "running"
    scheduler = SimpleNamespace(identity=None)

    def __init__(self, answers, present=THERE):
        self.answers, self.present, self.asked = list(answers), present, 0

    def sync(self, _function, *, n_workers, callback_timeout):
        assert callback_timeout == dispatch.ASK_S
        if isinstance(self.present, OSError):
            raise self.present
        return {"workers": self.present}

    def run(self, _function, *, workers, on_error, callback_timeout):
        assert on_error == "return"
        assert callback_timeout == (dispatch.ASK_AGAIN_S if self.asked else dispatch.ASK_WORKERS_S)
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, TimeoutError):
            raise answer
        return dict.fromkeys(workers, answer)

    def subscribe_topic(self, _topic, _hear):
        pass

    def unsubscribe_topic(self, _topic):
        pass

    def cancel(self, _futures):
        pass

    def submit(self, *_args, **_options):
        return SimpleNamespace(add_done_callback=lambda _: None, cancel=lambda: None)


@pytest.fixture
def clock(monkeypatch):
    """The time as the plan sees it; waiting for news takes a second of it."""
    now = SimpleNamespace(s=time.monotonic())
    monkeypatch.setattr(dispatch, "time", SimpleNamespace(monotonic=lambda: now.s))

    def listen(_self):
        now.s += 1

    monkeypatch.setattr(_Run, "_listen", listen)
    return now


def plan_of(client, sent, tell) -> _Run:
    tasks, spec, _ = sent
    return _Run(client, Waiting(list(tasks), tell), spec, envelope(None), 60.0, tell, versions())


def test_a_worker_that_cannot_be_reached_is_asked_again_more_and_more_rarely_and_told_of_once(sent, clock, monkeypatch):
    """Its host may be cut off for a moment, or be given up by the scheduler: it is no reason to refuse the run."""
    said = []
    monkeypatch.setattr(dispatch.log, "warning", lambda text, *about: said.append(text % about))
    client = Asked([OSError("Timed out trying to connect")] * 2 + [TimeoutError("timed out after 10 s.")])
    one, begun, times = plan_of(client, sent, fail), clock.s, []
    for _ in range(200):
        asked = client.asked
        one._see(THERE)
        one._refuse_unfit()
        if client.asked > asked:
            times.append(round(clock.s - begun))
        clock.s += 1
    assert times == [0, 5, 15, 35, 75, 135, 195]
    assert not one.places
    assert len(said) == 1
    assert "is given no study until it can be asked what it runs: OSError: Timed out" in said[0]
    client.answers = [About("Worker-1", versions(), None)]
    clock.s += 60
    one._see(THERE)
    assert list(one.places) == ["tls://there:1"]
    assert not one.away


def test_a_run_whose_only_worker_cannot_be_reached_says_so(sent, clock):
    begun, results = clock.s, []
    plan_of(Asked([OSError("Timed out trying to connect")]), sent, results.append).run()
    assert {result.error for result in results} == {
        f"{NO_WORKER}: worker tls://there:1 could not be asked what it runs: OSError: Timed out trying to connect"
    }
    assert clock.s - begun == pytest.approx(61, abs=2)


def test_a_scheduler_that_cannot_be_asked_for_good_ends_the_run_with_every_study_told(sent, clock):
    client, events = Asked([About("Worker-1", versions(), None)]), []

    def tell(event):
        events.append(event)

    one = plan_of(client, sent, tell)
    one._see(THERE)
    one._serve()
    client.present = TimeoutError("timed out after 30 s.")
    one.run()
    results = [event for event in events if isinstance(event, StudyResult)]
    assert {result.error for result in results} == {f"{SCHEDULER_STILL} 60 s: {RUN_AGAIN}"}
    assert len(results) == len(sent[0])


def test_all_news_are_taken_in_between_two_looks(sent):
    events = []
    one = plan_of(Asked([About("Worker-1", versions(), None)]), sent, events.append)
    one._see(THERE)
    one._serve()
    (key,) = one.futures
    for stage in ("loading", "embedding", "writing"):
        one._hear((0.0, (key, stage)))
    one._listen()
    assert [event.stage for event in events] == ["loading", "embedding", "writing"]


def test_an_error_of_a_worker_that_says_what_it_runs_is_not_one_of_the_way_there(sent, monkeypatch):
    def broken():
        raise OSError("stale file handle")

    monkeypatch.setattr(at_worker, "versions", broken)
    answer = about(SimpleNamespace(id="Worker-1"))
    monkeypatch.undo()
    one = plan_of(Asked([answer]), sent, fail)
    one._see(THERE)
    with pytest.raises(UsageError, match="tls://there:1 cannot say what it runs: OSError: stale file handle"):
        one._refuse_unfit()


def fail(event: object) -> None:
    raise AssertionError(f"nothing should be told: {event}")


def test_on_a_gpu_only_workers_that_declare_one_are_used(sent, cluster):
    tasks, spec, _ = sent
    on_gpu = WorkerSpec(spec.store_url, spec.model, spec.weights, spec.weights_sha256, "cuda", spec.precision)
    with pytest.raises(UsageError, match="declares no GPU: start it with `extractor worker ADDRESS --device cuda`"):
        run_on_cluster(tasks, on_gpu, Cluster(cluster.scheduler_address), tell=fail)


def test_gpu_tasks_ask_for_the_whole_gpu_of_their_worker(sent):
    """The workers here have no GPU, and say so when they are to load the network: that is told, and nothing hangs."""
    tasks, spec, _ = sent
    on_gpu = WorkerSpec(spec.store_url, spec.model, spec.weights, spec.weights_sha256, "cuda", spec.precision)
    results: list[StudyResult] = []
    asked: list[dict[str, float]] = []
    with local_cluster(1, threads_per_worker=2, resources={"GPU": 1}) as gpus:

        def tell(event):
            if isinstance(event, StudyResult):
                results.append(event)
            asked.extend(dict(task.resource_restrictions or {}) for task in list(gpus.scheduler.tasks.values()))

        run_on_cluster(tasks[:2], on_gpu, Cluster(gpus.scheduler_address, wait_s=3), tell=tell)
    assert {tuple(one.items()) for one in asked} <= {(("GPU", 0.5),)}
    assert asked
    assert len(results) == 2
    assert all("no worker process could be started" in (result.error or "") for result in results)
    assert all("sees no CUDA device" in (result.error or "") for result in results)


def test_a_store_of_the_same_address_that_is_another_one_is_refused(sent, cluster):
    tasks, spec, store = sent
    other = WorkerSpec(
        spec.store_url, spec.model, spec.weights, spec.weights_sha256, "cpu", "float32", store_id="0" * 32
    )
    results: list[StudyResult] = []

    def tell(event):
        if isinstance(event, StudyResult):
            results.append(event)

    run_on_cluster(tasks[:1], other, Cluster(cluster.scheduler_address, wait_s=2), tell=tell)
    assert "is another store here" in (results[0].error or "")
    assert not store.keys(tasks[0].views["paper"])


def test_what_travels_is_small_and_shows_no_path_to_a_worker_that_logs_it(sent):
    tasks, spec, _ = sent
    errand = Errand(pickle.dumps(tasks[0]), spec, "Worker-1", "topic", "key")
    assert len(pickle.dumps(errand)) < 4096
    assert "P001" not in repr(errand)


def test_a_scheduler_that_does_not_answer_and_one_without_workers_are_named(sent):
    tasks, spec, _ = sent
    with pytest.raises(UsageError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        run_on_cluster(tasks, spec, Cluster("tcp://127.0.0.1:9", wait_s=0.5), tell=fail)
    with (
        local_cluster(0) as empty,
        pytest.raises(UsageError, match="has no worker: start some with `extractor worker"),
    ):
        run_on_cluster(tasks, spec, Cluster(empty.scheduler_address, wait_s=0.5), tell=fail)


def test_a_scheduler_lost_midway_ends_the_run_and_what_is_left_is_for_the_next(sent):
    tasks, spec, store = sent
    results: list[StudyResult] = []
    with dask.config.set({"distributed.comm.timeouts.connect": "2s"}), local_cluster(1) as lost:

        def tell(event):
            if isinstance(event, StudyResult):
                results.append(event)
                lost.close()

        run_on_cluster(tasks, spec, Cluster(lost.scheduler_address), tell=tell)
    assert [result.error for result in results] == [None] + [SCHEDULER_LOST] * 4
    assert sorted(result.task.row.patient for result in results) == [task.row.patient for task in tasks]
    assert store.keys(tasks[0].views["paper"])


def test_no_task_asks_for_no_scheduler(sent):
    run_on_cluster([], sent[1], Cluster("tcp://127.0.0.1:9"), tell=fail)


def test_the_cluster_keeps_no_result_of_a_study(sent, cluster):
    tasks, spec, _ = sent
    run_on_cluster(tasks[:1], spec, Cluster(cluster.scheduler_address), tell=lambda _: None)
    with Client(cluster.scheduler_address, set_as_default=False) as client:
        for _ in range(100):
            if not client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
                return
            time.sleep(0.05)
    raise AssertionError("tasks were left on the scheduler")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"jobs": 2}, "give one of them"),
        ({"device": "cuda:0,cuda:1"}, "one process a GPU"),
        ({"store": "memory://x"}, "lives in one process"),
        ({"device": "cuda", "at_once": 2}, "without --scheduler"),
    ],
)
def test_options_that_do_not_go_with_a_scheduler_are_refused(studies, tmp_path, options, said):
    store = options.pop("store", tmp_path / "store")
    with pytest.raises(UsageError, match=said):
        extract(studies, store, scheduler="tcp://127.0.0.1:9", **options)
    assert not (tmp_path / "store").exists()


def test_presigned_addresses_are_refused_with_a_scheduler(studies, tmp_path):
    text = studies.read_text().splitlines()
    signed = text[2].split(",")
    signed[1] = "https://host/ct.nii.gz?X-Amz-Signature=planted-signature"
    table = studies.with_name("signed.csv")
    table.write_text("\n".join([*text[:2], ",".join(signed)]) + "\n")
    with pytest.raises(UsageError, match=r"1 of 2 studies \(first: line 3 of the table\)") as caught:
        extract(table, tmp_path / "store", scheduler="tcp://127.0.0.1:9")
    assert "planted" not in str(caught.value)
    assert "--shard" in str(caught.value)
    assert not (tmp_path / "store").exists()
