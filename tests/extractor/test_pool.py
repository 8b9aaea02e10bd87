"""Processes that work on studies: a study whose process dies twice is given up, the others are done once each."""

import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from extractor.config import ExtractConfig, views_of
from extractor.loading import load_networks
from extractor.phantom import write_cohort
from extractor.pool import Processes, run_studies
from extractor.table import read_study_table
from extractor.work import StudyTask
from extractor.worker import DIED, NO_WORKER, StudyResult, StudyStage, WorkerSpec
from store_schema import create_store, open_store

CONFIG = ExtractConfig(
    model="mini", weights="random:0", pet_units="suv", stride=16, derive=("spine_dilated",), layouts=("paper",)
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, n=4, seed=5)
    return folder


@pytest.fixture
def planned(cohort, tmp_path) -> tuple[list[StudyTask], WorkerSpec]:
    """Tasks of four studies, and what a process opens for them."""
    store = create_store(str(tmp_path / "store"))
    spec, facts, _ = load_networks(CONFIG, store.url, device="cpu", looked_at_on="cpu")
    views = {name: store.put_view(view) for name, view in views_of(CONFIG, facts).items()}
    rows = read_study_table(str(cohort / "studies.csv"), CONFIG)
    return [StudyTask(row, CONFIG, views) for row in rows], spec


class Killer:
    """Takes what is told, and kills the one process at work whenever a certain study is embedded in it."""

    def __init__(self, patient: str, times: int) -> None:
        self.patient, self.left = patient, times
        self.events: list[StudyStage | StudyResult] = []

    def __call__(self, event: StudyStage | StudyResult) -> None:
        self.events.append(event)
        hit = isinstance(event, StudyStage) and (event.task.row.patient, event.stage) == (self.patient, "embedding")
        if hit and self.left:
            self.left -= 1
            (child,) = multiprocessing.active_children()
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)

    @property
    def results(self) -> dict[str, StudyResult]:
        found = [event for event in self.events if isinstance(event, StudyResult)]
        assert len({event.task.row.patient for event in found}) == len(found), "a study has two results"
        return {event.task.row.patient: event for event in found}

    def waited_again(self) -> list[str]:
        return [one.task.row.patient for one in self.events if isinstance(one, StudyStage) and one.stage is None]


def test_a_study_whose_process_dies_once_is_done_by_another_process(planned):
    tasks, spec = planned
    killer = Killer("P001", times=1)
    run_studies(tasks, spec, Processes(1), tell=killer)
    assert {result.error for result in killer.results.values()} == {None}
    assert "P001" in killer.waited_again()
    report = open_store(spec.store_url).verify()
    assert report.ok
    assert report.entries == report.commits == 2 * len(tasks)


@pytest.mark.parametrize("jobs", [0, 1])
def test_studies_that_are_worked_on_at_once_have_the_results_of_studies_alone(planned, jobs):
    tasks, spec = planned
    events = []
    run_studies(tasks, spec, Processes(jobs, at_once=3), tell=events.append)
    results = [event for event in events if isinstance(event, StudyResult)]
    assert [result.task.row.patient for result in results] == [task.row.patient for task in tasks]
    assert {result.error for result in results} == {None}
    assert {outcome.result for result in results for outcome in result.outcomes} == {"committed"}
    stages = [(event.task.row.patient, event.stage) for event in events if isinstance(event, StudyStage)]
    first, *_ = (place for place, (_, stage) in enumerate(stages) if stage == "embedding")
    # the fourth may be loaded meanwhile, never embedded
    assert [name for name, stage in stages[first : first + 4] if stage == "embedding"][:3] == [
        task.row.patient for task in tasks[:3]
    ]
    assert open_store(spec.store_url).verify().ok


def test_of_studies_in_a_process_that_died_each_is_tried_alone(planned):
    tasks, spec = planned
    killer = Killer("P001", times=2)
    run_studies(tasks, spec, Processes(1, at_once=3), tell=killer)
    assert {patient: result.error for patient, result in killer.results.items()} == {
        task.row.patient: DIED if task.row.patient == "P001" else None for task in tasks
    }


def test_a_study_whose_process_dies_twice_is_given_up_and_no_other_suffers(planned):
    tasks, spec = planned
    killer = Killer("P002", times=99)
    run_studies(tasks, spec, Processes(1), tell=killer)
    errors = {patient: result.error for patient, result in killer.results.items()}
    assert errors == {task.row.patient: DIED if task.row.patient == "P002" else None for task in tasks}
    assert killer.left == 99 - 2
    assert not multiprocessing.active_children()


def test_processes_that_cannot_start_end_in_results_that_say_why(planned):
    tasks, spec = planned
    seen: list[StudyStage | StudyResult] = []
    run_studies(tasks, replace(spec, weights="random:1"), Processes(2), tell=seen.append)
    assert len(seen) == len(tasks)
    for event in seen:
        assert isinstance(event, StudyResult)
        assert str(event.error).startswith(f"{NO_WORKER}: WeightsError: mini with random:1 has sha256")


def test_what_is_committed_stands_when_the_run_ends_early(planned):
    tasks, spec = planned

    def stop(event: StudyStage | StudyResult) -> None:
        if isinstance(event, StudyResult):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_studies(tasks, spec, Processes(2), tell=stop)
    assert not multiprocessing.active_children()
    report = open_store(spec.store_url).verify()
    assert report.ok
    assert report.entries >= 2
    shutil.rmtree(spec.store_url)


@pytest.mark.parametrize("prefetch", [True, False])
def test_this_process_alone_gives_the_same_store_with_and_without_loading_ahead(planned, prefetch):
    tasks, spec = planned
    events: list[StudyStage | StudyResult] = []
    run_studies(tasks, spec, Processes(0, prefetch=prefetch), tell=events.append)
    results = [event for event in events if isinstance(event, StudyResult)]
    assert [result.task.row.patient for result in results] == [task.row.patient for task in tasks]
    assert all(one.result == "committed" for result in results for one in result.outcomes)
