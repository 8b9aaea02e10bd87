"""What reading ahead gains where each request to the store takes 20 ms; nothing is asserted of times.

    make bench ARGS=tests/benchmarks/test_prefetch.py

Whole runs with it and without are made in turn, by two local processes.
"""

import statistics
import time

import numpy as np
import pytest
from rich.console import Console

from store_schema import Entry, EntryKey, create_store
from store_schema.testing import digest_of, example_view
from store_schema.testing.proxy import FaultProxy
from trainer import dispatch
from trainer.config import parse_config
from trainer.dispatch import Workers
from trainer.plan import Inputs
from trainer.run import cross_validate

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
PATIENTS, SIDE, VIEWS, TIMES = 227, 64, 6, 3
DELAY_S = 0.02


@pytest.fixture
def far_store(s3_url, s3_server, monkeypatch):
    """A store of views of mean maps, as they were published, behind a proxy that answers late."""
    store, rng = create_store(s3_url), np.random.default_rng(0)
    for number in range(VIEWS):
        view = store.put_view(example_view(name=f"view-{number}", shape=(1, 1, SIDE, SIDE)))
        for patient in range(PATIENTS):
            memory = rng.normal(size=(1, 1, SIDE, SIDE)).astype(np.float16)
            made = Entry({"memory": memory, "mean_map": memory[0, 0].astype(np.float32)}, {"valid": [True]})
            key = EntryKey(f"P{patient:03d}", "CT", "spine")
            store.publish(view, key, made, input_sha256=digest_of(f"{view} {key}"))
    monkeypatch.setattr("store_schema.testing.proxy.DELAY_S", DELAY_S)
    with FaultProxy(s3_server.endpoint, rate=1.0, faults=("delay",)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield s3_url


@pytest.mark.parametrize("epochs", [1, 10, 40])
def test_runs_with_and_without_reading_ahead(far_store, tmp_path, monkeypatch, epochs):
    rng = np.random.default_rng(1)
    lines = [f"P{row:03d},{rng.integers(1, 60)},{int(rng.random() < 0.6)}" for row in range(PATIENTS)]
    (tmp_path / "clinical.csv").write_text("\n".join(["patient,months,event", *lines]) + "\n")
    model = {"kind": "network", "images": {"modalities": ["CT"], "roi": "spine", "pool": 4}, "hidden": [8]}
    config = parse_config(
        {
            "columns": {"time": "months", "time_unit": "months", "event": "event"},
            "splits": {"folds": 5},
            "fit": {"epochs": epochs, "min_epochs": epochs},
            "permuted_control": None,
            "models": [model | {"name": f"m{number}", "view": f"view-{number}"} for number in range(VIEWS)],
        }
    )
    taken: dict[bool, list[float]] = {True: [], False: []}
    followers = dispatch.followers
    for number in range(TIMES):
        for ahead in (True, False):
            monkeypatch.setattr(dispatch, "followers", followers if ahead else lambda tasks: [None] * len(tasks))
            began = time.perf_counter()
            out = tmp_path / f"{epochs}-{number}-{ahead}"
            inputs = Inputs(tmp_path / "clinical.csv", far_store)
            cross_validate(config, inputs, out=str(out), workers=Workers(number=2), console=Console(quiet=True))
            taken[ahead].append(time.perf_counter() - began)
    medians = {ahead: statistics.median(found) for ahead, found in taken.items()}
    shown = {ahead: ", ".join(f"{one:.1f}" for one in found) for ahead, found in taken.items()}
    told = f"ahead {shown[True]} s, on demand {shown[False]} s, ratio of medians {medians[True] / medians[False]:.2f}"
    print(f"\n  {VIEWS} views, {PATIENTS} patients, {epochs} epochs: {told}")
