"""Extraction and cross-validation with an API key instead of the bucket's credentials: the same store, the same results."""

import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from extractor.phantom import write_cohort
from services.database.migrate import migrate
from services.operations import create_project, make_grant, make_key
from services.service import Service
from services.settings import Settings
from store_schema import BulkReader, EntryKey, create_store, open_store
from store_schema.copying import copy_store
from store_schema.errors import BackendError
from store_schema.published import PublishedRun
from store_schema.testing import content_digests, digest_of, example_entry, example_view

EXTRACT = "model: mini\nweights: random:0\npet_units: suv\nstride: 16\nderive: [spine_dilated]\nlayouts: [paper]\n"
CROSS_VALIDATE = """\
columns: {time: months, time_unit: months, event: event, continuous: [age]}
splits: {folds: 2}
fit: {epochs: 2, min_epochs: 1, min_validation_events: 1}
permuted_control: null
models:
  - {name: cox, kind: ridge_cox}
  - {name: image, kind: network, view: VIEW, images: {modalities: [CT], roi: spine}, hidden: [4]}
"""
PATIENTS = 24


def _running() -> Any:
    name, path = "engram_services_serving", Path(__file__).parents[1] / "services" / "serving.py"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name].running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    service = Service.open(Settings(data=tmp_path_factory.mktemp("service"), reconcile_s=0))
    migrate(service.database)
    with _running()(service) as running:
        yield running


@pytest.fixture
def world(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A project, with the key of a writer in the environment."""
    project = f"p{tmp_path.name[-12:].replace('_', '-').strip('-')}"
    create_project(server.service, project, str(tmp_path / "bucket"))
    key = make_key(server.service, project, label="test", scope="write").text
    monkeypatch.setenv("ENGRAM_API_KEY", key)
    url = f"{server.url}/v1/projects/{project}"
    return SimpleNamespace(service=server.service, base=server.url, project=project, url=url, key=key, folder=tmp_path)


def call(world: SimpleNamespace, program: str, *arguments: str, status: int = 0) -> str:
    """What a program prints; the key is in nothing of it."""
    command = [str(Path(sys.executable).parent / program), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert world.key not in done.stdout + done.stderr
    return done.stdout + done.stderr


def holds_key(world: SimpleNamespace) -> list[Path]:
    """Files that hold the key: everything that the programs and the service left."""
    files = [path for path in world.folder.rglob("*") if path.is_file()]
    return [path for path in files if world.key.encode() in path.read_bytes()]


def test_extraction_through_the_service_makes_the_same_store(world: SimpleNamespace) -> None:
    """By a worker process, and run again it finds all done."""
    write_cohort(world.folder / "cohort", n=1, seed=5, processes=0)
    (world.folder / "extract.yaml").write_text(EXTRACT)
    create_store(world.folder / "plain")
    arguments = [str(world.folder / "cohort/studies.csv"), "--config", str(world.folder / "extract.yaml")]
    for store, jobs, said in (
        (world.url, "1", "2 committed"),
        (world.url, "0", "2 done"),
        (str(world.folder / "plain"), "0", "2 committed"),
    ):
        assert said in call(world, "extractor", "run", *arguments, "--store", store, "--jobs", jobs)
    there, plain = open_store(world.folder / "bucket"), open_store(world.folder / "plain")
    assert content_digests(there) == content_digests(plain)
    assert there.verify().findings == open_store(world.url).verify().findings == ()
    assert holds_key(world) == []


@pytest.fixture
def cohort(world: SimpleNamespace) -> SimpleNamespace:
    """Patients with an entry each, published through the service, and their clinical table."""
    store, rng = open_store(world.url), np.random.default_rng(0)
    view = store.put_view(example_view())
    lines = ["patient,age,months,event"]
    for number in range(PATIENTS):
        key = EntryKey(f"P{number:03d}", "CT", "spine")
        store.publish(view, key, example_entry(number), input_sha256=digest_of(str(key)))
        lines.append(f"{key.patient},{rng.integers(40, 80)},{number + 1},{number % 3 > 0:d}")
    clinical, config = world.folder / "clinical.csv", world.folder / "cv.yaml"
    clinical.write_text("\n".join(lines) + "\n")
    config.write_text(CROSS_VALIDATE.replace("VIEW", view))
    return SimpleNamespace(store=store, view=view, clinical=str(clinical), config=str(config))


def risks(run: Path) -> dict[tuple[str, int], list[float]]:
    """What a run gave for each model and fold: times of fitting differ, risks do not."""
    outcomes = [one for path in (run / "tasks").rglob("*.json") for one in json.loads(path.read_text())["outer"]]
    return {(one["model"], one["fold"]): one["log_risk"] for one in outcomes}


def test_cross_validation_through_the_service_gives_the_same_results(
    world: SimpleNamespace, cohort: SimpleNamespace
) -> None:
    """By worker processes, which take the key from their own environment; the snapshot is made by the service."""
    results = []
    for name, store in (("remote", world.url), ("plain", str(world.folder / "bucket"))):
        out = world.folder / name
        options = ["--clinical", cohort.clinical, "--config", cohort.config, "--out", str(out), "--workers", "2"]
        options += ["--publish"] if name == "remote" else []
        assert "4 of 4 done" in call(world, "trainer", "cv", "--store", store, *options)
        results.append(risks(out))
    assert results[0] == results[1]
    assert len(results[0]) == 4
    assert holds_key(world) == []
    (run,) = listed(world, "runs?kind=trainer")["items"]
    record = PublishedRun.parse(open_store(world.url).read_run(run["id"], "trainer.json"), where="trainer.json")
    found = json.loads((world.folder / "remote" / "results.json").read_text())
    assert {model.name: model.mean for model in record.models} == {row["model"]: row["mean"] for row in found["rows"]}
    detail = listed(world, f"runs/{run['id']}")
    assert detail["kind"] == "trainer"


def listed(world: SimpleNamespace, path: str) -> Any:
    """What the service's catalogue answers."""
    request = urllib.request.Request(f"{world.url}/{path}", headers={"Authorization": f"Bearer {world.key}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_what_was_granted_is_read_by_another_project_and_nothing_else(
    world: SimpleNamespace, cohort: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted = cohort.store.make_snapshot(
        cohort.view, [EntryKey(f"P{number:03d}", "CT", "spine") for number in range(3)]
    )
    other = cohort.store.make_snapshot(cohort.view)
    create_project(world.service, f"{world.project}-2", str(world.folder / "second"))
    make_grant(world.service, world.project, grantee=f"{world.project}-2", snapshot=granted)
    key = make_key(world.service, f"{world.project}-2", label="test", scope="write").text
    monkeypatch.setenv("ENGRAM_API_KEY", key)
    store = open_store(world.url)
    snapshot = store.snapshot(granted)
    values = BulkReader(snapshot).stack("memory", snapshot.keys)
    assert np.array_equal(values[2], example_entry(2).arrays["memory"])
    assert store.keys(cohort.view) == list(snapshot.keys)
    assert store.snapshot_ids() == [granted]
    assert store.run_ids() == []
    for act in (lambda: store.snapshot(other), lambda: store.put_run("r", "x", b"1")):
        with pytest.raises(BackendError, match="may not"):
            act()
    report = copy_store(store, str(world.folder / "copy"), snapshots=[granted])
    assert (report.ok, report.entries, report.problems) == (True, 3, [])
    assert open_store(world.folder / "copy").verify().findings == ()
