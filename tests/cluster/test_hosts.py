"""Extraction and cross-validation over hosts of their own, over TLS: a host that is cut off changes no number and loses nothing."""

import json
import random
import re
import socket
import ssl
import time
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import s3fs
from distributed import Client
from distributed.security import Security
from rich.console import Console

from extractor.config import ExtractConfig
from extractor.dispatch import SCHEDULER_LOST
from extractor.phantom import write_cohort
from extractor.run import RunOptions, run
from store_schema import EntryKey, create_store, open_store
from store_schema.copying import copy_store
from store_schema.location import open_location
from store_schema.testing import content_digests, digest_of, example_entry, example_view

from .certificates import make_identity
from .netns import until
from .wire import tapped
from .world import BIN, BUCKET, HOSTS, SCHEDULER_PORT, SERVED, WORKERS

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
FEATURES = f"s3://{BUCKET}/features"
TLS_HANDSHAKE = b"\x16\x03"
"""How a connection over TLS begins."""
TOLD = (b"engram-task-2", b"ridge_cox", b"trainer.fold", b"run-read-along")
"""What a task says of itself."""

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


def held(told: str) -> int:
    """Entries that a run says are committed: by its workers, or already by one that was given up and came to its end."""
    (line,) = re.findall(r"Items: (.*)", told)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", line)}
    assert counts.keys() <= {"committed", "done"}
    return sum(counts.values())


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
    assert copy_store(store, FEATURES).ok
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


def away(world, name: str, kind: str, seconds: float) -> None:
    """A host is cut off for so long, and is back."""
    world.network.cut(name, kind)
    time.sleep(seconds)
    world.network.bring_back(name)


def restart_scheduler(world) -> None:
    """Power cut of the scheduler's host: a new scheduler, and new workers in the place of those that lost theirs."""
    world.network.hosts["scheduler"].kill()
    world.start_scheduler()
    for name in WORKERS:
        world.rejoin(name)


def test_an_extraction_over_hosts_of_which_one_is_cut_off_makes_the_store_of_one_process(world, extraction, extracted):
    """Through the service, whose S3 server is away for a while too."""
    world.until_workers(*WORKERS)
    client = extraction(f"{world.service_url}/v1/projects/shared")
    cut_off_at_work(world, client, "worker-2", "silent", lambda: commits(SERVED))
    away(world, "s3", "silent", S3_AWAY_S)
    world.until_workers("worker-1")
    world.network.bring_back("worker-2")
    world.rejoin("worker-2")
    assert held(client.ended()) == ENTRIES
    check_store(SERVED, extracted)
    again = extraction(f"{world.service_url}/v1/projects/shared").ended()
    assert f"{ENTRIES} done" in again


def test_an_extraction_goes_on_when_its_killed_scheduler_is_back(world, extraction, extracted):
    url = f"s3://{BUCKET}/restarted"
    world.until_workers(*WORKERS)
    client = extraction(url)
    with world.asking() as scheduler:
        until(lambda: commits(url) and any(scheduler.held().values()), f"a commit: {client.told()[-500:]}")
    assert client.lives()
    restart_scheduler(world)
    assert held(client.ended()) == ENTRIES
    check_store(url, extracted)


def test_a_cross_validation_over_hosts_of_which_one_is_cut_off_gives_the_numbers_of_one_process(
    world, cohort, validated
):
    out = f"s3://{BUCKET}/run-cut"
    world.until_workers(*WORKERS)
    client = cross_validate(world, cohort, FEATURES, out, "--scheduler", world.scheduler)
    cut_off_at_work(world, client, "worker-2", "down", lambda: tasks_done(out))
    away(world, "s3", "silent", S3_AWAY_S)
    world.until_workers("worker-1")
    world.network.bring_back("worker-2")
    world.rejoin("worker-2")
    assert f"{TASKS} of {TASKS} done" in client.ended()
    check_run(out, validated)


def test_a_scheduler_killed_in_mid_cross_validation_is_told_and_a_rerun_does_what_is_left(world, cohort, validated):
    out = f"s3://{BUCKET}/run-killed"
    world.until_workers(*WORKERS)
    client = cross_validate(world, cohort, FEATURES, out, "--scheduler", world.scheduler)
    until(lambda: tasks_done(out), f"a result: {client.told()[-500:]}")
    restart_scheduler(world)
    assert "the scheduler was lost: run the same command again, what is done is kept" in client.ended(status=1)
    kept = tasks_done(out)
    assert 0 < len(kept) < TASKS
    world.until_workers(*WORKERS)
    told = cross_validate(world, cohort, FEATURES, out, "--scheduler", world.scheduler).ended()
    assert f"{TASKS} of {TASKS} done, {len(kept)} of them before" in told
    assert kept.items() <= tasks_done(out).items(), "a result was written again"
    check_run(out, validated)
    with world.asking() as scheduler:
        ended = [key for key in scheduler.ended() if any(Path(name).stem in key for name in tasks_done(out))]
    assert len(ended) == len(set(ended)) == TASKS - len(kept), "the new scheduler saw what was left, each once"


# On the wire


def test_no_task_can_be_read_on_the_wire(world, cohort):
    out = f"s3://{BUCKET}/run-read-along"
    world.until_workers(*WORKERS)
    with tapped(world.network.switch) as tap:
        cross_validate(world, cohort, FEATURES, out, "--scheduler", world.scheduler).ended()
    flows = tap.between({world.network.hosts[name].address for name in ("client", "scheduler", *WORKERS)})
    sent = [data for flow, data in flows.items() if flow[0] == world.network.hosts["client"].address]
    assert tap.dropped == 0
    assert sum(map(len, sent)) > TASKS * 1000, "descriptions of tasks went over the wire"
    assert {data[:2] for data in sent} == {TLS_HANDSHAKE}
    assert not [word for word in TOLD for data in flows.values() if word in data]
    s3 = b"".join(tap.between({world.network.hosts[name].address for name in ("s3", *WORKERS)}).values())
    assert b"PUT /engram/run-read-along/tasks/" in s3, "what is not encrypted is read along"


def test_a_task_could_be_read_on_the_wire_without_tls(world):
    """That the test before this one looks for the right thing."""
    host = world.network.hosts["scheduler"]
    words = ["scheduler", "--host", host.address, "--port", "8790", "--no-dashboard"]
    plain = host.start(
        [BIN / "dask", *words], log=world.folder / "plain.log", environment=world.environment("scheduler")
    )
    with tapped(world.network.switch) as tap, Client(f"tcp://{host.address}:8790", timeout=120) as client:
        future = client.submit(len, json.dumps({"layout": TOLD[0].decode()}), key="plain")
        until(lambda: "plain" in client.run_on_scheduler(_keys), "the task to reach the scheduler")
        future.cancel()
    plain.terminate()
    plain.wait(60)
    assert any(TOLD[0] in data for data in tap.port(8790).values())


_keys = lambda dask_scheduler: list(dask_scheduler.tasks)  # noqa: E731 - travels by value: the scheduler has no tests


def test_who_shows_no_certificate_is_refused(world):
    """Without Dask, which asks its own clients for one before they connect."""
    context = ssl.create_default_context(cafile=str(world.identities["client"].ca))
    context.check_hostname = False
    address = (world.network.hosts["scheduler"].address, SCHEDULER_PORT)
    with (
        socket.create_connection(address, timeout=30) as plain,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
        context.wrap_socket(plain) as stranger,
    ):
        # With TLS 1.3 the refusal comes after the client's part of the handshake.
        stranger.recv(1)


@pytest.mark.parametrize("who", ["another authority's certificate", "no encryption"])
def test_who_comes_with_something_else_is_refused(world, who, tmp_path):
    security, address = None, world.scheduler.replace("tls://", "tcp://")
    if who != "no encryption":
        stranger = make_identity(tmp_path / "tls", "stranger")["stranger"]
        files = {"tls_client_cert": str(stranger.cert), "tls_client_key": str(stranger.key)}
        ca = str(world.identities["client"].ca)
        security, address = Security(tls_ca_file=ca, require_encryption=True, **files), world.scheduler
    with pytest.raises(OSError, match=r"tls://|tcp://"):
        Client(address, security=security, timeout=5, set_as_default=False)
    world.until_workers(*WORKERS)


# For long


@pytest.mark.soak
def test_a_scheduler_that_stays_away_is_told_and_another_extraction_does_what_is_left(world, extraction, extracted):
    url = f"s3://{BUCKET}/stays-away"
    world.until_workers(*WORKERS)
    client = extraction(url)
    until(lambda: commits(url), f"a commit: {client.told()[-500:]}")
    world.network.hosts["scheduler"].kill()
    told = client.ended(status=1)
    # The table of failures breaks the reason into lines.
    assert all(part in told for part in re.split(r": |, ", SCHEDULER_LOST)), told
    kept = {one.path: one.modified for one in open_location(url).objects("commits")}
    assert 0 < len(kept) < ENTRIES
    restart_scheduler(world)
    world.until_workers(*WORKERS)
    assert f"{len(kept)} done" in extraction(url).ended()
    assert kept.items() <= {one.path: one.modified for one in open_location(url).objects("commits")}.items()
    check_store(url, extracted)


@pytest.mark.soak
@pytest.mark.parametrize("program", ["extractor", "trainer"])
def test_hosts_cut_off_for_moments_change_nothing(world, program, extraction, extracted, cohort, validated):
    """Any host but the client's, in either way, for less than Dask's patience, again and again until the run has ended."""
    draw, cuts = random.Random(11), 0
    url = f"s3://{BUCKET}/moments-{program}"
    world.until_workers(*WORKERS)
    if program == "extractor":
        client = extraction(url)
    else:
        client = cross_validate(world, cohort, FEATURES, url, "--scheduler", world.scheduler)
    while client.lives():
        away(world, draw.choice(HOSTS[:-1]), draw.choice(["down", "silent"]), draw.uniform(0.5, 5.0))
        time.sleep(draw.uniform(0.5, 2.0))
        cuts += 1
    client.ended()
    assert cuts > 1
    if program == "extractor":
        check_store(url, extracted)
    else:
        check_run(url, validated)
    print(f"{program}: {cuts} cuts of hosts, the results of one process")
