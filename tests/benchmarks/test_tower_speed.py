"""The averaging tower: fit_model beside pycox's loop over plain layers, on one core and in two processes; nothing is asserted.

Each round fits the same two folds three times, in turn: pycox in one process, ours in one, ours in two at once.
"""

import os
import statistics
import subprocess
import sys
import time
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

with warnings.catch_warnings():
    # pycox 0.3.0 has "\in" in plain docstrings, a SyntaxWarning on Python 3.12 when it is first compiled
    warnings.simplefilter("ignore", SyntaxWarning)
    from pycox.models import CoxPH

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
SIDE, TRAIN, WATCH, EPOCHS, HIDDEN = 64, 145, 36, 10, 64
ROUNDS = ((0, 1), (2, 3), (4, 0))
MULTIPLICATIONS = (9 * 32 * SIDE**2, 9 * 32 * 64 * (SIDE // 2) ** 2, 9 * 64 * 128 * (SIDE // 4) ** 2)
"""Of each convolution, for one patient."""

WORKER = """
import sys, time
import numpy as np
from trainer.batch import Batch
from trainer.fit import fit_model
from trainer.spec import FitConfig, ModelSpec
spec = ModelSpec(modalities=("PET",), hidden=(int(sys.argv[2]),))
config = FitConfig(epochs=int(sys.argv[3]), patience=int(sys.argv[3]), min_validation_events=1)
folds = []
with np.load(sys.argv[1]) as a:
    for fold in range(5):
        parts = [(a[f"{part}_maps"][fold], a[f"{part}_time"][fold], a[f"{part}_event"][fold]) for part in ("train", "watch")]
        folds.append([Batch.of(maps={"PET": maps}, time=time, event=event) for maps, time, event in parts])
print("ready", flush=True)
for line in sys.stdin:
    start = time.process_time()
    for fold in map(int, line.split()):
        fit_model(spec, config, train=folds[fold][0], validation=folds[fold][1], seed=fold)
    print(time.process_time() - start, flush=True)
"""


def outcomes(rng, n):
    return {
        "maps": rng.normal(size=(5, n, SIDE, SIDE)).astype(np.float32),
        "time": rng.integers(1, 100, (5, n)).astype(float),
        "event": rng.random((5, n)) < 0.6,
    }


def plain_network():
    pooled = (nn.ReLU(), nn.MaxPool2d(2))
    tower = (nn.Conv2d(1, 32, 3, padding=1), *pooled, nn.Conv2d(32, 64, 3, padding=1), *pooled)
    last = (nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head = (nn.Linear(128, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Dropout(0.3))
    return nn.Sequential(*tower, *last, *head, nn.Linear(HIDDEN, 1, bias=False))


def by_pycox(parts, fold):
    network = plain_network()
    model = CoxPH(network, torch.optim.AdamW(network.parameters(), lr=1e-3))
    (x, y), watch = (
        (
            torch.from_numpy(part["maps"][fold]).unsqueeze(1),
            tuple(torch.from_numpy(part[name][fold]).float() for name in ("time", "event")),
        )
        for part in parts
    )
    model.fit(x, y, batch_size=TRAIN, epochs=EPOCHS, verbose=False, val_data=watch)


class Worker:
    """A process that fits folds on one thread."""

    def __init__(self, path):
        command = [sys.executable, "-c", WORKER, str(path), str(HIDDEN), str(EPOCHS)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def start(self, folds):
        self.process.stdin.write(" ".join(map(str, folds)) + "\n")
        self.process.stdin.flush()

    def seconds(self):
        """Of CPU, of what was started last."""
        return float(self.process.stdout.readline())


class Taken(NamedTuple):
    """Seconds by the clock, and of CPU in all processes."""

    clock: float
    used: float


def by_workers(workers, shares):
    """What it takes until each worker has fitted its share of the folds, all at once."""
    start = time.perf_counter()
    for worker, folds in zip(workers, shares, strict=True):
        worker.start(folds)
    used = sum(worker.seconds() for worker in workers)
    return Taken(time.perf_counter() - start, used)


def here(act):
    clock, used = time.perf_counter(), time.process_time()
    act()
    return Taken(time.perf_counter() - clock, time.process_time() - used)


def median(runs):
    return Taken(*(statistics.median(column) for column in zip(*runs, strict=True)))


def sgemm_rate():
    a, b = torch.randn(2, 1024, 1024)
    return 10 * 2 * 1024**3 / here(lambda: [a @ b for _ in range(10)]).used


def flop():
    """Of the convolutions of two fits: forwards, backwards to weights and inputs, and over the validation part."""
    every = sum(MULTIPLICATIONS)
    return 2 * 2 * EPOCHS * (TRAIN * (3 * every - MULTIPLICATIONS[0]) + WATCH * every)


def test_the_averaging_tower_on_one_core_and_in_two_processes(tmp_path):
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    parts = {"train": outcomes(rng, TRAIN), "watch": outcomes(rng, WATCH)}
    arrays = {f"{name}_{key}": array for name, part in parts.items() for key, array in part.items()}
    np.savez(tmp_path / "folds.npz", **arrays)
    pycox, one, two, rates = [], [], [], []
    with Worker(tmp_path / "folds.npz") as first, Worker(tmp_path / "folds.npz") as second:
        for pair in ROUNDS:
            rates.append(sgemm_rate())
            pycox.append(here(lambda folds=pair: [by_pycox(parts.values(), fold) for fold in folds]))
            one.append(by_workers([first], [pair]))
            two.append(by_workers([first, second], [pair[:1], pair[1:]]))
    theirs, ours, both, rate = median(pycox), median(one), median(two), statistics.median(rates)
    print(
        f"\naveraging tower, two folds of {TRAIN} + {WATCH} patients, {EPOCHS} epochs; medians of {len(ROUNDS)} rounds"
    )
    for name, taken in (("pycox, one process", theirs), ("ours, one process", ours), ("ours, two processes", both)):
        print(
            f"  {name:19}: {taken.clock:6.1f} s by the clock, {taken.used:6.1f} s of CPU; "
            f"{theirs.clock / taken.clock:.2f} x by the clock, {theirs.used / taken.used:.2f} x of CPU"
        )
    print(
        f"  from one process to two: {ours.clock / both.clock / 2:.2f} by the clock, {ours.used / both.used:.2f} of CPU"
    )
    print(
        f"  floor: {flop() / rate:.1f} s at {rate / 1e9:.0f} GFLOP/s (sgemm), {flop() / rate / ours.used:.0%} of it reached"
    )
