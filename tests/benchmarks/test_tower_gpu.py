"""The averaging tower, every fold and setting at once on a GPU: how long it takes beside its floor; nothing is asserted.

ENGRAM_BENCH_SETTINGS and ENGRAM_BENCH_EPOCHS set the size, ENGRAM_BENCH_DEVICE the device (cuda).
"""

import os
import time

import numpy as np
import pytest
import torch

from trainer.batch import Batch
from trainer.fit import Fitted, fit_model
from trainer.spec import FitConfig, ModelSpec
from trainer.together import FitJob, fit_together

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
DEVICE = os.environ.get("ENGRAM_BENCH_DEVICE", "cuda")
SETTINGS = int(os.environ.get("ENGRAM_BENCH_SETTINGS", "64"))
EPOCHS = int(os.environ.get("ENGRAM_BENCH_EPOCHS", "30"))
FOLDS, SIDE, TRAIN, WATCH = 5, 64, 145, 36
SPEC = ModelSpec(modalities=("PET",), hidden=(64,))
MULTIPLICATIONS = (9 * 32 * SIDE**2, 9 * 32 * 64 * (SIDE // 2) ** 2, 9 * 64 * 128 * (SIDE // 4) ** 2)
"""Of each convolution, for one patient."""


def cohort():
    rng = np.random.default_rng(0)
    n = TRAIN + WATCH
    return Batch.of(
        maps={"PET": rng.normal(size=(n, SIDE, SIDE)).astype(np.float32)},
        time=rng.integers(1, 100, n).astype(float),
        event=rng.random(n) < 0.6,
    )


def jobs():
    """As many settings as are asked for on each of five folds."""
    whole, rates = cohort(), np.geomspace(1e-4, 1e-2, SETTINGS)
    parts = []
    for fold in range(FOLDS):
        order = torch.from_numpy(np.random.default_rng(fold).permutation(TRAIN + WATCH))
        parts.append((whole.rows(order[:TRAIN]), whole.rows(order[TRAIN:])))
    for rate in rates:
        config = FitConfig(epochs=EPOCHS, patience=EPOCHS, min_validation_events=1, learning_rate=float(rate))
        for fold, (train, watch) in enumerate(parts):
            yield FitJob(SPEC, config, train, watch, seed=fold)


def seconds(act):
    synchronise()
    start = time.perf_counter()
    act()
    synchronise()
    return time.perf_counter() - start


def synchronise():
    if DEVICE.startswith("cuda"):
        torch.cuda.synchronize()


def sgemm_rate():
    """Multiplications and additions a second in float32, without reduced precision."""
    side = 8192 if DEVICE.startswith("cuda") else 1024
    a, b = torch.randn(2, side, side, device=DEVICE)
    seconds(lambda: a @ b)
    return 10 * 2 * side**3 / seconds(lambda: [a @ b for _ in range(10)])


def flop(fits):
    """Of the convolutions: forwards, backwards to weights and inputs, and over the validation part."""
    every = sum(MULTIPLICATIONS)
    return 2 * fits * EPOCHS * (TRAIN * (3 * every - MULTIPLICATIONS[0]) + WATCH * every)


@pytest.mark.skipif(DEVICE.startswith("cuda") and not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_the_averaging_tower_of_all_folds_and_settings_on_a_gpu():
    every = list(jobs())
    fit_together(every[:2], device=DEVICE, convolutions=True)  # loads kernels
    rate, found = sgemm_rate(), []
    together = seconds(lambda: found.extend(fit_together(every, device=DEVICE, convolutions=True)))
    assert all(isinstance(one, Fitted) for one in found)
    few = every[:: max(1, len(every) // 4)][:4]
    alone = seconds(
        lambda: [
            fit_model(job.spec, job.config, train=job.train, validation=job.validation, seed=job.seed, device=DEVICE)
            for job in few
        ]
    ) / len(few)
    floor = flop(len(every)) / rate
    print(
        f"\naveraging tower, {SETTINGS} settings x {FOLDS} folds, {EPOCHS} epochs of {TRAIN} + {WATCH} patients, {DEVICE}"
    )
    print(f"  together: {together:6.1f} s, {together / len(every):.3f} s a fit")
    print(f"  alone:    {alone:6.3f} s a fit (mean of {len(few)}): together is {alone * len(every) / together:.2f} x")
    print(f"  floor:    {floor:6.1f} s at {rate / 1e12:.1f} TFLOP/s (sgemm), {floor / together:.0%} of it reached")
    if DEVICE.startswith("cuda"):
        print(f"  {torch.cuda.get_device_name()}, at most {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
