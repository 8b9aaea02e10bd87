"""Simulated patients with ties and censoring, as this package and as scikit-survival take them."""

from types import SimpleNamespace

import numpy as np
import pytest
from sksurv.util import Surv

CASES = {
    "untied": {},
    "months": {"times": 24},
    "tied_risks": {"risks": 4},
    "heavy_ties": {"times": 5, "risks": 3, "censored": 0.5},
    "no_censoring": {"times": 20, "censored": 0.0},
    "mostly_censored": {"times": 40, "censored": 0.85},
    "tiny": {"n": 9, "times": 6, "censored": 0.3},
}


def draw(seed, *, n=150, times=0, risks=0, censored=0.35):
    """Patients whose risk matters; `times` and `risks` are how many distinct ones there are, 0 for no ties."""
    rng = np.random.default_rng(seed)
    risk = rng.integers(0, risks, n).astype(float) if risks else rng.normal(size=n)
    onset = 20 * rng.exponential(size=n) * np.exp(-0.7 * (risk - risk.mean()) / max(risk.std(), 1e-9))
    event = rng.random(n) >= censored
    time = np.where(event, onset, onset * rng.uniform(0.2, 1, n))
    time = np.ceil(time * times / time.max()) if times else time
    return SimpleNamespace(risk=risk, time=time, event=event, y=Surv.from_arrays(event, time))


def following(time, event, at):
    """Probability of being followed beyond a time, straight from the product: events leave before those censored."""
    product = 1.0
    for one in sorted(set(time[time <= at])):
        left = (time >= one).sum() - ((time == one) & event).sum()
        lost = ((time == one) & ~event).sum()
        product *= 1 - lost / left if lost else 1.0
    return product


@pytest.fixture(scope="session")
def kin():
    """What several tests draw from and compare with."""
    return SimpleNamespace(draw=draw, following=following, cases=CASES)


@pytest.fixture(params=CASES)
def parts(request):
    """A training and a test part of each kind of tie and censoring."""
    settings = CASES[request.param]
    return draw(1, **settings), draw(2, **settings)
