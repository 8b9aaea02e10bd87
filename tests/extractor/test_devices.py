"""Several devices of one machine; `cpu:0` and `cpu:1` stand for two GPUs, since torch takes both for the processor."""

from pathlib import Path

import pytest

from extractor.config import ExtractConfig, views_of
from extractor.loading import load_networks
from extractor.phantom import write_cohort
from extractor.pool import Processes, run_studies
from extractor.run import RunOptions, process_count
from extractor.table import read_study_table
from extractor.work import StudyTask
from extractor.worker import StudyResult, StudyStage
from store_schema import create_store

CONFIG = ExtractConfig(
    model="mini", weights="random:0", pet_units="suv", stride=24, derive=("spine_dilated",), layouts=("paper",)
)


def test_processes_are_dealt_to_the_devices_and_stages_say_which(tmp_path):
    write_cohort(tmp_path, n=4, seed=1, processes=0)
    store = create_store(tmp_path / "store")
    spec, facts, _ = load_networks(CONFIG, store.url, device="cpu", looked_at_on="cpu")
    views = {layout: store.put_view(view) for layout, view in views_of(CONFIG, facts).items()}
    tasks = [StudyTask(row, CONFIG, views) for row in read_study_table(tmp_path / "studies.csv", CONFIG)]
    events: list[StudyStage | StudyResult] = []
    run_studies(tasks, spec, Processes(2, ("cpu:0", "cpu:1"), prefetch=False), tell=events.append)
    assert {event.where for event in events if isinstance(event, StudyStage)} == {"cpu:0", "cpu:1"}
    results = [event for event in events if isinstance(event, StudyResult)]
    assert [result.error for result in results] == [None] * 4
    assert len(store.keys(views["paper"])) == 8


@pytest.mark.parametrize(
    ("device", "devices"),
    [
        ("cuda:0,cuda:1", ("cuda:0", "cuda:1")),
        (" cuda:1 , cuda:0 ,", ("cuda:1", "cuda:0")),
        ("cuda:0,cuda:0", ("cuda:0",)),
        ("", ("cpu",)),
    ],
)
def test_devices_are_named_with_commas_and_each_counts_once(device, devices):
    assert RunOptions(Path("s.csv"), "store", device=device).devices == devices


def test_there_is_a_process_a_gpu_unless_told_otherwise():
    options = RunOptions(Path("s.csv"), "store", device="cuda:0,cuda:1,cuda:2")
    assert process_count(options, studies=20, cores=64) == 3
    assert process_count(options, studies=2, cores=64) == 2
