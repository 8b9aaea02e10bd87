"""What the trainer's own kernels gain over the plain way, both timed in turn in one run; nothing is asserted of a time."""

import statistics
import time

import numpy as np
import pytest
import torch
from sksurv.metrics import concordance_index_censored
from torch import nn

from trainer.heads import AverageHead
from trainer.metrics import harrell_c

pytestmark = pytest.mark.bench
ROUNDS = 5


def in_turn(*acts):
    """Median seconds of each act, called one after the other in each round."""
    taken = [[] for _ in acts]
    for _ in range(ROUNDS):
        for act, times in zip(acts, taken, strict=True):
            start = time.perf_counter()
            act()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in taken]


def test_a_training_step_of_the_averaging_head():
    torch.set_num_threads(1)
    head = AverageHead()
    pooled = (nn.ReLU(), nn.MaxPool2d(2))
    plain = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), *pooled, nn.Conv2d(32, 64, 3, padding=1), *pooled)
    plain.extend([nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    maps = torch.randn(77, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    ours, theirs = in_turn(*(lambda n=network: n(maps).square().mean().backward() for network in (head, plain)))
    print(
        f"\naveraging head, 77 patients, forward and backward: {ours:.3f} s, plain layers {theirs:.3f} s, {theirs / ours:.1f} x"
    )


def test_harrells_c_of_twenty_thousand_patients():
    rng = np.random.default_rng(0)
    time_, event, risk = rng.integers(1, 200, 20_000).astype(float), rng.random(20_000) < 0.5, rng.normal(size=20_000)
    ours, theirs = in_turn(
        lambda: harrell_c(risk=risk, time=time_, event=event),
        lambda: concordance_index_censored(event, time_, risk),
    )
    expected = concordance_index_censored(event, time_, risk)[0]
    assert harrell_c(risk=risk, time=time_, event=event).c == pytest.approx(expected, abs=1e-12)
    print(
        f"\nHarrell's c, n = 20,000: {ours * 1e3:.1f} ms, scikit-survival {theirs * 1e3:.1f} ms, {theirs / ours:.0f} x"
    )
