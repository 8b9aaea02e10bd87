"""Extraction and cross-validation over hosts of their own, over TLS: a host that is cut off changes no number and loses nothing."""

import json
import time
from collections import Counter
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import s3fs
from rich.console import Console

from extractor.config import ExtractConfig
from extractor.phantom import write_cohort
from extractor.run import RunOptions, run
from store_schema import EntryKey, create_store, open_store
from store_schema.copying import copy_store
from store_schema.location import open_location
from store_schema.testing import content_digests, digest_of, example_entry, example_view

from .certificates import make_identity
from .netns import until
from .wire import tapped
from .world import BUCKET, SCHEDULER_PORT, WORKERS, tls_settings

STUDIES, PATIENTS = 8, 24
EXTRACT = ExtractConfig(
    model="mini",
    weights="random:0",
    pet_units="suv",
    stride=6,
    derive=("spine_dilated", "skeleton"),
    layouts=("paper",),
)
ENTRIES = STUDIES * 2 * 2
CROSS_VALIDATE = """\
columns: {time: months, time_unit: months, event: event, continuous: [age]}
splits: {folds: 4}
fit: {epochs: 12, min_epochs: 12, min_validation_events: 1}
permuted_control: null
models:
  - {name: cox, kind: ridge_cox}
  - {name: image, kind: network, view: VIEW, images: {modalities: [CT], roi: spine}, hidden: [4]}
  - {name: wide, kind: network, view: VIEW, images: {modalities: [CT], roi: spine}, hidden: [8]}
"""
TASKS = 3 * 4
S3_AWAY_S = 4.0

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def studies(world, tmp_path_factory) -> Path:
    """Table of phantoms in a folder; the same lies on the S3 server."""
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, n=STUDIES, seed=8, processes=0)
    s3fs.S3FileSystem(skip_instance_cache=True).put(f"{folder}/", f"{BUCKET}/cohort/", recursive=True)
    return folder / "studies.csv"


@pytest.fixture(scope="module")
def extracted(studies, tmp_path_factory) -> dict[str, str]:
    """Content digests of a run in this process alone."""
    store = tmp_path_factory.mktemp("extracted") / "store"
    report = run(EXTRACT, RunOptions(studies, str(store), jobs=0), console=Console(quiet=True))
    assert len(report.outcomes) == ENTRIES
    assert not report.failed
    return content_digests(open_store(store))


@pytest.fixture
def extraction(world, studies, tmp_path):
    """Starts an extraction on the client's host into a store, over the cluster."""
    (tmp_path / "extract.yaml").write_text(EXTRACT.model_dump_json(exclude_defaults=True))
    table = f"s3://{BUCKET}/cohort/studies.csv"

    def start(store: str, *options: str):
        words = [table, "--config", str(tmp_path / "extract.yaml"), "--store", store, "--scheduler", world.scheduler]
        return world.client(uuid4().hex[:6], "extractor", "run", *words, *options)

    return start


def commits(url: str) -> list[str]:
    """Paths of the commits of a store; one that is not there yet has none."""
    return open_location(url).paths("commits")


def check_store(url: str, expected: dict[str, str]) -> None:
    """Every entry is committed once, whole, and as one process makes it."""
    store = open_store(url)
    assert content_digests(store) == expected
    assert len(commits(url)) == len(expected), "an entry was committed twice"
    assert store.verify().findings == ()


@pytest.fixture(scope="module")
def cohort(world, tmp_path_factory) -> Path:
    """A folder with clinical table, settings and a store, which is on the S3 server too."""
    folder = tmp_path_factory.mktemp("cv")
    store, rng = create_store(folder / "store"), np.random.default_rng(0)
    view = store.put_view(example_view())
    lines = ["patient,age,months,event"]
    for number in range(PATIENTS):
        key = EntryKey(f"P{number:03d}", "CT", "spine")
        store.publish(view, key, example_entry(number), input_sha256=digest_of(str(key)))
        lines.append(f"{key.patient},{rng.integers(40, 80)},{number + 1},{number % 3 > 0:d}")
    (folder / "clinical.csv").write_text("\n".join(lines) + "\n")
    (folder / "cv.yaml").write_text(CROSS_VALIDATE.replace("VIEW", view))
    assert copy_store(store, f"s3://{BUCKET}/features").ok
    return folder


def cross_validate(world, cohort: Path, store: str, out: str, *options: str):
    """Starts a cross-validation on the client's host."""
    words = ["--clinical", str(cohort / "clinical.csv"), "--config", str(cohort / "cv.yaml"), "--store", store]
    return world.client(uuid4().hex[:6], "trainer", "cv", *words, "--out", out, *options)


@pytest.fixture(scope="module")
def validated(world, cohort) -> str:
    """Run folder of one process alone."""
    out = str(cohort / "alone")
    told = cross_validate(world, cohort, str(cohort / "store"), out, "--workers", "0").ended()
    assert f"{TASKS} of {TASKS} done" in told
    return out


def check_run(out: str, alone: str) -> None:
    """A run gave what one process gives: risks to the last bit, and every figure."""
    assert len(risks(out)) == TASKS
    assert risks(out) == risks(alone)
    results = [json.loads(open_location(one).get("results.json")) for one in (out, alone)]
    assert results[0]["rows"] == results[1]["rows"]
    assert open_location(out).get("risks.csv") == open_location(alone).get("risks.csv")


def risks(out: str) -> dict[tuple[str, int], list[float]]:
    """What a run gave for each model and fold: times of fitting differ, risks do not."""
    place = open_location(out)
    outcomes = [one for path in place.paths("tasks") for one in json.loads(place.get(path))["outer"]]
    return {(one["model"], one["fold"]): one["log_risk"] for one in outcomes}


def tasks_done(out: str) -> dict[str, object]:
    """When each task's result was written."""
    return {one.path: one.modified for one in open_location(out).objects("tasks")}


def cut_off_at_work(world, client, name: str, kind: str, begun) -> None:
    """Cuts a worker's host off once something is done and the worker has more in its hands."""
    with world.asking() as scheduler:
        until(lambda: begun() and scheduler.held().get(name), f"{name} to be at work: {client.told()[-500:]}")
    assert client.lives()
    world.network.cut(name, kind)


def s3_away(world) -> None:
    """The S3 server is cut off for some seconds, and is back."""
    world.network.cut("s3", "silent")
    time.sleep(S3_AWAY_S)
    world.network.bring_back("s3")


def test_an_extraction_over_hosts_of_which_one_is_cut_off_makes_the_store_of_one_process(world, extraction, extracted):
    url = f"s3://{BUCKET}/served"
    client = extraction(f"{world.service_url}/v1/projects/shared")
    cut_off_at_work(world, client, "worker-2", "silent", lambda: commits(url))
    print("cut", len(commits(url)))
    s3_away(world)
    print("s3 back", len(commits(url)))
    world.until_workers("worker-1")
    print("lost", len(commits(url)))
    world.network.bring_back("worker-2")
    world.rejoin("worker-2")
    print("joined", len(commits(url)), client.lives())
    told = client.ended()
    print(told)
    assert f"{ENTRIES} committed" in told
    check_store(url, extracted)


def test_a_cross_validation_over_hosts_of_which_one_is_cut_off_gives_the_numbers_of_one_process(
    world, cohort, validated
):
    out = f"s3://{BUCKET}/run-cut"
    client = cross_validate(world, cohort, f"s3://{BUCKET}/features", out, "--scheduler", world.scheduler)
    cut_off_at_work(world, client, "worker-2", "down", lambda: tasks_done(out))
    print("cut", len(tasks_done(out)))
    world.until_workers("worker-1")
    world.network.bring_back("worker-2")
    world.rejoin("worker-2")
    print("joined", len(tasks_done(out)), client.lives())
    told = client.ended()
    print(told)
    assert f"{TASKS} of {TASKS} done" in told
    check_run(out, validated)


def test_a_scheduler_killed_in_mid_cross_validation_is_told_and_a_rerun_does_what_is_left(world, cohort, validated):
    out = f"s3://{BUCKET}/run-killed"
    command = (world, cohort, f"s3://{BUCKET}/features", out, "--scheduler", world.scheduler)
    client = cross_validate(*command)
    until(lambda: tasks_done(out), "the first result")
    world.network.hosts["scheduler"].kill()
    told = client.ended(status=1)
    print(told)
    assert "the scheduler was lost: run the same command again" in told
    world.start_scheduler()
    for name in WORKERS:
        world.rejoin(name)
    kept = tasks_done(out)
    assert 0 < len(kept) < TASKS
    told = cross_validate(*command).ended()
    assert f"{TASKS} of {TASKS} done, {len(kept)} of them before" in told
    assert kept.items() <= tasks_done(out).items(), "what was done is not done again"
    check_run(out, validated)
    with world.asking() as scheduler:
        ended = [key for key in scheduler.ended() if key.count("-") == 1]
    print(Counter(ended))
