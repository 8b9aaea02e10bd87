"""The averaging tower over five folds: pycox's loop, then the trainer's own dispatch to one and to two Dask workers.

Nothing is asserted of times. Each round does the same fits in turn: pycox's loop over the plain layers in this process on one
thread; `run_tasks` on one worker; `run_tasks` on two. Workers of a scheduler are started before they are timed, as a cluster's are;
`--workers 2`, which starts them, is told apart. Two workers cannot share five fits evenly (3 + 2), so that the same is done of two
dealings, ten fits.

    make bench ARGS=tests/benchmarks/test_tower_speed.py
    ENGRAM_TOWER="patients=40 epochs=2 rounds=1" make bench ARGS=tests/benchmarks/test_tower_speed.py      # only whether it works
"""

import hashlib
import os
import shutil
import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from distributed import LocalCluster
from torch import nn

from store_schema import Encoder, Entry, EntryKey, Intensity, Layout, Prompt, ViewSpec, create_store
from trainer.config import parse_config
from trainer.dispatch import Workers, run_tasks
from trainer.jobs import first_jobs
from trainer.plan import Inputs, make_plan
from trainer.run_folder import RunFolder
from trainer.run_record import keep_plan

with warnings.catch_warnings():
    # pycox 0.3.0 has "\in" in plain docstrings, a SyntaxWarning on Python 3.12 when it is first compiled
    warnings.simplefilter("ignore", SyntaxWarning)
    from pycox.models import CoxPH

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
SIDE, HIDDEN, FOLDS = 64, 64, 5
SIZES = {"patients": 227, "epochs": 10, "rounds": 3}
VIEW = ViewSpec(
    name="maps",
    encoder=Encoder(name="noise", image_size=512, weights_sha256="0" * 64, trained=False),
    intensity={"PET": Intensity(unit="SUV", low=0, high=10, outside=0)},
    prompt=Prompt(kind="box", mode="sequential", stride=2),
    layout=Layout(name="pooled", shape=(1, 1, SIDE, SIDE)),
    precision="float32",
    recipe=1,
    grid="ct",
)
MULTIPLICATIONS = (9 * 32 * SIDE**2, 9 * 32 * 64 * (SIDE // 2) ** 2, 9 * 64 * 128 * (SIDE // 4) ** 2)
"""Of each convolution, for one patient."""


@pytest.fixture
def sizes() -> SimpleNamespace:
    """Full ones, but for what ENGRAM_TOWER changes."""
    told = dict(part.split("=") for part in os.environ.get("ENGRAM_TOWER", "").split())
    return SimpleNamespace(**{**SIZES, **{name: int(value) for name, value in told.items()}})


@pytest.fixture
def cohort(sizes, tmp_path) -> SimpleNamespace:
    """A store of maps of noise, and outcomes of patients of whom six in ten have an event."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(sizes.patients, SIDE, SIDE)).astype(np.float32)
    table = pd.DataFrame(
        {
            "patient": [f"P{row:04d}" for row in range(sizes.patients)],
            "months": rng.integers(1, 100, sizes.patients).astype(float),
            "event": (rng.random(sizes.patients) < 0.6).astype(int),
        }
    )
    store = create_store(tmp_path / "store")
    view = store.put_view(VIEW)
    for patient, image in zip(table["patient"], maps, strict=True):
        entry = Entry({"memory": image[None, None].astype(np.float16), "mean_map": image}, {"valid": [True]})
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        store.publish(view, EntryKey(patient, "PET", "spine"), entry, input_sha256=digest)
    table.to_csv(tmp_path / "clinical.csv", index=False)
    return SimpleNamespace(
        folder=tmp_path, table=table.set_index("patient"), maps=dict(zip(table["patient"], maps, strict=True))
    )


def plan_of(cohort, sizes, repeats):
    """One row of the averaging head, every epoch of it, on each fold of so many dealings."""
    fit = {"epochs": sizes.epochs, "patience": sizes.epochs, "min_epochs": 1, "min_validation_events": 1}
    image = {"view": "maps", "images": {"modalities": ["PET"], "roi": "spine"}, "hidden": [HIDDEN]}
    config = parse_config(
        {
            "columns": {"time": "months", "time_unit": "months", "event": "event"},
            "splits": {"folds": FOLDS, "repeats": repeats},
            "fit": fit,
            "permuted_control": None,
            "models": [{"name": "tower", "kind": "network", **image}],
        }
    )
    return make_plan(config, Inputs(cohort.folder / "clinical.csv", str(cohort.folder / "store")))


@dataclass(frozen=True)
class Runs:
    """Does the fits of a plan, each time in a new run folder, so that nothing is resumed."""

    plan: object
    folder: Path

    def by(self, workers: Workers) -> float:
        """Seconds by the clock that the trainer's own dispatch takes to do every fit."""
        shutil.rmtree(self.folder, ignore_errors=True)
        folder = RunFolder.open(str(self.folder))
        keep_plan(self.plan, folder)
        jobs = first_jobs(self.plan.config, permutations=self.plan.splits, folds=len(self.plan.splits[0]))
        tasks = self.plan.tasks(jobs, folder.url)
        assert len(tasks) == len(self.plan.splits[0])
        start = time.perf_counter()
        outcomes = run_tasks(tasks, workers, on_done=lambda outcome: None)
        taken = time.perf_counter() - start
        assert not [outcome.error for outcome in outcomes if outcome.error]
        return taken


@contextmanager
def cluster_of(number: int, folder: Path) -> Iterator[Workers]:
    """Workers that are there already, one thread each, as `--workers` starts them."""
    folder.mkdir()
    with LocalCluster(
        n_workers=number,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        local_directory=str(folder),
        memory_limit=0,
        preload=["trainer.fold"],
    ) as cluster:
        cluster.wait_for_workers(number)
        yield Workers(scheduler=cluster.scheduler_address)


def plain_network():
    pooled = (nn.ReLU(), nn.MaxPool2d(2))
    tower = (nn.Conv2d(1, 32, 3, padding=1), *pooled, nn.Conv2d(32, 64, 3, padding=1), *pooled)
    last = (nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head = (nn.Linear(128, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Dropout(0.3))
    return nn.Sequential(*tower, *last, *head, nn.Linear(HIDDEN, 1, bias=False))


def parts_of(cohort, patients):
    x = torch.from_numpy(np.stack([cohort.maps[patient] for patient in patients])).unsqueeze(1)
    rows = cohort.table.loc[list(patients)]
    return x, tuple(torch.tensor(rows[name].to_numpy(), dtype=torch.float32) for name in ("months", "event"))


def by_pycox(cohort, splits, epochs):
    """The loop of pycox and torchtuples over the same folds: four fifths of a training part train, one is watched."""
    start = time.perf_counter()
    for fold in splits.outer():
        watched = len(fold.train) // 5
        (x, y), watch = (parts_of(cohort, part) for part in (fold.train[watched:], fold.train[:watched]))
        network = plain_network()
        model = CoxPH(network, torch.optim.AdamW(network.parameters(), lr=1e-3))
        model.fit(x, y, batch_size=len(x), epochs=epochs, verbose=False, val_data=watch)
    return time.perf_counter() - start


def sgemm_rate():
    a, b = torch.randn(2, 1024, 1024)
    start = time.process_time()
    for _ in range(10):
        a @ b
    return 10 * 2 * 1024**3 / (time.process_time() - start)


def flop(splits, epochs):
    """Of the convolutions of every fit: forwards, backwards to weights and inputs, and over the part that is watched."""
    every = sum(MULTIPLICATIONS)
    train = sum(len(fold.train) - len(fold.train) // 5 for fold in splits.outer())
    watch = sum(len(fold.train) // 5 for fold in splits.outer())
    return 2 * epochs * (train * (3 * every - MULTIPLICATIONS[0]) + watch * every)


def tell(name, seconds, theirs, fits):
    print(f"  {name:31}: {seconds:6.1f} s by the clock, {seconds / fits:5.2f} s a fit; {theirs / seconds:5.2f} x pycox")


def test_five_folds_by_pycox_and_by_one_and_two_dask_workers(cohort, sizes, tmp_path):
    torch.set_num_threads(1)
    once, twice = (plan_of(cohort, sizes, repeats) for repeats in (1, 2))
    five, ten = Runs(once, tmp_path / "five"), Runs(twice, tmp_path / "ten")
    found = {name: [] for name in ("pycox", "one", "two", "ten by one", "ten by two")}
    with cluster_of(1, tmp_path / "w1") as single, cluster_of(2, tmp_path / "w2") as double:
        # every worker has read the maps once, as in a study that fits more than one row of them
        for workers in (single, double):
            ten.by(workers)
        for _ in range(sizes.rounds):
            found["pycox"].append(by_pycox(cohort, once.splits[0], sizes.epochs))
            found["one"].append(five.by(single))
            found["two"].append(five.by(double))
            found["ten by one"].append(ten.by(single))
            found["ten by two"].append(ten.by(double))
        rate = sgemm_rate()
    started = five.by(Workers(number=2))
    theirs, one, two, *many = (statistics.median(found[name]) for name in found)
    print(
        f"\naveraging tower, {sizes.patients} patients, {FOLDS} folds, {sizes.epochs} epochs; medians of {sizes.rounds} rounds"
    )
    tell("pycox's loop, one process", theirs, theirs, FOLDS)
    tell("one Dask worker", one, theirs, FOLDS)
    tell("two Dask workers", two, theirs, FOLDS)
    tell("--workers 2, with their start", started, theirs, FOLDS)
    print(
        f"  from one worker to two: {one / two:.2f} x, at most {FOLDS / 3:.2f} x with five fits; ten fits {many[0]:.1f} s and"
    )
    print(f"  {many[1]:.1f} s: {many[0] / many[1]:.2f} x, efficiency {many[0] / many[1] / 2:.2f}")
    least = flop(once.splits[0], sizes.epochs) / rate
    print(
        f"  floor of five fits: {least:.1f} s at {rate / 1e9:.0f} GFLOP/s (sgemm), {least / one:.0%} of it reached by one worker"
    )
