"""Extraction and cross-validation through a network that fails at every twentieth request: as if nothing had failed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractor.phantom import write_cohort
from store_schema import EntryKey, create_store, open_store
from store_schema.copying import copy_store
from store_schema.location import open_location
from store_schema.testing import content_digests, digest_of, example_entry, example_view
from store_schema.testing.proxy import FaultProxy

EXTRACT = (
    "model: mini\nweights: random:0\npet_units: suv\nstride: 16\nderive: [spine_dilated]\nlayouts: [paper, pooled]\n"
)
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


@pytest.fixture
def failing(s3_server: Any) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.endpoint, rate=0.05, seed=11) as proxy:
        yield proxy


def call(program: str, *arguments: str, endpoint: str = "") -> str:
    """What a program prints that ended well; it reaches S3 by an endpoint of its own."""
    command = [str(Path(sys.executable).parent / program), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"AWS_ENDPOINT_URL": endpoint} if endpoint else {})
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_extraction_through_a_failing_network_makes_the_same_store(
    failing: FaultProxy, s3_url: str, tmp_path: Path
) -> None:
    """By a worker process; run again, it finds all done, and nothing of a failed request is left behind."""
    write_cohort(tmp_path / "cohort", n=2, seed=5, processes=0)
    (tmp_path / "extract.yaml").write_text(EXTRACT)
    arguments = [str(tmp_path / "cohort/studies.csv"), "--config", str(tmp_path / "extract.yaml")]
    plain = str(tmp_path / "plain")
    assert "8 committed" in call("extractor", "run", *arguments, "--store", plain, "--jobs", "0")
    for said in ("8 committed", "8 done"):
        told = call("extractor", "run", *arguments, "--store", s3_url, "--jobs", "1", endpoint=failing.url)
        assert said in told
    assert failing.injected.total() > 0
    assert "verified" in call("store-schema", "verify", s3_url)
    assert open_store(s3_url).verify().orphans == ()
    assert content_digests(open_store(s3_url)) == content_digests(open_store(plain))
    print(f"faults put in: {dict(failing.injected)} of {dict(failing.requests)} requests")


def _cohort(folder: Path) -> tuple[str, list[str]]:
    """A store with an entry of each patient, and what `trainer cv` is told of the cohort."""
    store, rng = create_store(folder / "store"), np.random.default_rng(0)
    view = store.put_view(example_view())
    lines = ["patient,age,months,event"]
    for number in range(PATIENTS):
        key = EntryKey(f"P{number:03d}", "CT", "spine")
        store.publish(view, key, example_entry(number), input_sha256=digest_of(str(key)))
        lines.append(f"{key.patient},{rng.integers(40, 80)},{number + 1},{number % 3 > 0:d}")
    (folder / "clinical.csv").write_text("\n".join(lines) + "\n")
    (folder / "cv.yaml").write_text(CROSS_VALIDATE.replace("VIEW", view))
    return store.url, [
        "--clinical",
        str(folder / "clinical.csv"),
        "--config",
        str(folder / "cv.yaml"),
        "--workers",
        "2",
    ]


def _risks(out: str) -> dict[tuple[str, int], list[float]]:
    """What a run gave for each model and fold: times of fitting differ, risks do not."""
    place = open_location(out)
    outcomes = [one for path in place.paths("tasks") for one in json.loads(place.get(path))["outer"]]
    return {(one["model"], one["fold"]): one["log_risk"] for one in outcomes}


def test_cross_validation_through_a_failing_network_gives_the_same_results(
    failing: FaultProxy, s3_url: str, tmp_path: Path
) -> None:
    """A worker process reads the store and writes its results there; both runs pin the same snapshot."""
    store, options = _cohort(tmp_path)
    assert copy_store(open_store(store), f"{s3_url}/store").ok
    plain, far = str(tmp_path / "run"), f"{s3_url}/run"
    assert "4 of 4 done" in call("trainer", "cv", "--store", store, *options, "--out", plain, "--workers", "0")
    through = ["--store", f"{s3_url}/store", "--out", far, "--workers", "1"]
    assert "4 of 4 done" in call("trainer", "cv", *through, *options, endpoint=failing.url)
    assert failing.injected.total() > 0
    assert len(_risks(far)) == 4
    assert _risks(far) == _risks(plain)
    results = [json.loads(open_location(out).get("results.json")) for out in (plain, far)]
    assert results[0]["rows"] == results[1]["rows"]
    assert open_store(f"{s3_url}/store").snapshot_ids() == open_store(store).snapshot_ids()
    assert "verified" in call("store-schema", "verify", f"{s3_url}/store")
    print(f"faults put in: {dict(failing.injected)} of {dict(failing.requests)} requests")
