"""Harrell's c against scikit-survival and brute force, pair by pair."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sksurv.metrics import concordance_index_censored

from store_schema.errors import CohortError, TaskError, UsageError
from trainer.metrics import comparable_pairs, harrell_c

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared


def brute_force(risk, time, event):
    """Counts pairs one by one, straight from the definition."""
    concordant = discordant = tied = same_time = 0
    for i in range(len(time)):
        for j in range(len(time)):
            later = time[j] > time[i] or (time[j] == time[i] and not event[j])
            if i == j or not event[i] or not later:
                continue
            concordant += risk[i] > risk[j]
            discordant += risk[i] < risk[j]
            tied += risk[i] == risk[j]
            same_time += time[j] == time[i]
    return concordant, discordant, tied, same_time


def counts(result):
    return result.concordant, result.discordant, result.tied_risk, result.tied_time


def simulated(seed, n, *, times, risks, censored):
    rng = np.random.default_rng(seed)
    time = rng.integers(1, times + 1, n).astype(float) if times else rng.exponential(30, n)
    risk = rng.integers(0, risks, n).astype(float) if risks else rng.normal(size=n)
    return risk, time, rng.random(n) >= censored


CASES = {
    "untied": {"times": 0, "risks": 0, "censored": 0.3},
    "tied_times": {"times": 12, "risks": 0, "censored": 0.3},
    "tied_risks": {"times": 0, "risks": 4, "censored": 0.3},
    "tied_times_and_risks": {"times": 5, "risks": 3, "censored": 0.5},
    "no_censoring": {"times": 20, "risks": 6, "censored": 0.0},
    "one_risk_for_all": {"times": 9, "risks": 1, "censored": 0.4},
    "one_time_for_all": {"times": 1, "risks": 5, "censored": 0.5},
    "mostly_censored": {"times": 30, "risks": 0, "censored": 0.95},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("n", [40, 227])
def test_harrell_c_equals_scikit_survival_and_brute_force(case, n):
    risk, time, event = simulated(7, n, **case)
    result = harrell_c(risk=risk, time=time, event=event)
    c, *pairs = concordance_index_censored(event, time, risk, tied_tol=0.0)
    assert result.c == pytest.approx(c, abs=1e-12)
    assert list(counts(result)) == pairs
    assert counts(result) == brute_force(risk, time, event)
    assert result.comparable == sum(counts(result)[:3]) == comparable_pairs(time=time, event=event)


patients = st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 6), st.booleans()), min_size=1, max_size=25)


@given(patients)
@UNHURRIED
def test_harrell_c_equals_brute_force_under_heavy_ties(rows):
    risk, time, event = (np.array(column) for column in zip(*rows, strict=True))
    concordant, discordant, tied, same_time = brute_force(risk, time, event)
    comparable = concordant + discordant + tied
    if comparable == 0:
        with pytest.raises(CohortError, match="no comparable pair"):
            harrell_c(risk=risk.astype(float), time=time.astype(float), event=event)
        return
    result = harrell_c(risk=risk.astype(float), time=time.astype(float), event=event)
    assert counts(result) == (concordant, discordant, tied, same_time)
    assert result.c == pytest.approx((concordant + tied / 2) / comparable, abs=1e-12)


@given(patients, st.integers(0, 2**32 - 1))
@UNHURRIED
def test_harrell_c_depends_on_neither_the_order_of_patients_nor_the_scale_of_risk(rows, seed):
    risk, time, event = (np.array(column) for column in zip(*rows, strict=True))
    if comparable_pairs(time=time, event=event) == 0:
        return
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    plain = harrell_c(risk=risk.astype(float), time=time, event=event)
    assert harrell_c(risk=np.exp(risk[shuffled]), time=time[shuffled] * 30, event=event[shuffled]) == plain


@given(patients)
@UNHURRIED
def test_harrell_c_of_turned_risks_is_one_minus_c(rows):
    risk, time, event = (np.array(column) for column in zip(*rows, strict=True))
    if comparable_pairs(time=time, event=event) == 0:
        return
    result = harrell_c(risk=risk.astype(float), time=time, event=event)
    turned = harrell_c(risk=-risk.astype(float), time=time, event=event)
    assert turned.c == pytest.approx(1 - result.c, abs=1e-12)
    assert (turned.concordant, turned.discordant) == (result.discordant, result.concordant)


def test_harrell_c_of_five_thousand_patients_equals_counting_event_by_event():
    risk, time, event = simulated(3, 5_000, times=400, risks=3000, censored=0.4)
    expected = np.zeros(3, dtype=int)
    for i in np.flatnonzero(event):
        partners = risk[(time > time[i]) | ((time == time[i]) & ~event)]
        expected += (partners < risk[i]).sum(), (partners > risk[i]).sum(), (partners == risk[i]).sum()
    result = harrell_c(risk=risk, time=time, event=event)
    assert counts(result)[:3] == tuple(expected)


def test_harrell_c_takes_float32_risks_without_making_or_breaking_ties():
    risk, time, event = simulated(11, 150, times=20, risks=40, censored=0.3)
    single = (risk / 7).astype(np.float32)
    assert counts(harrell_c(risk=single, time=time, event=event)) == brute_force(single, time, event)


def test_harrell_c_refuses_patients_without_a_comparable_pair():
    with pytest.raises(CohortError, match="0 events"):
        harrell_c(risk=np.arange(3.0), time=np.arange(1.0, 4.0), event=np.zeros(3, dtype=bool))
    with pytest.raises(CohortError, match="no comparable pair"):
        harrell_c(risk=np.arange(3.0), time=np.array([1.0, 2.0, 3.0]), event=np.array([False, False, True]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_harrell_c_refuses_risks_that_are_not_finite(bad):
    with pytest.raises(TaskError, match="1 of 3 risks are not finite"):
        harrell_c(risk=np.array([0.0, bad, 1.0]), time=np.arange(1.0, 4.0), event=np.ones(3, dtype=bool))


def test_harrell_c_refuses_swapped_or_uneven_arguments():
    with pytest.raises(UsageError, match="booleans"):
        harrell_c(risk=np.arange(3.0), time=np.ones(3), event=np.arange(3.0))
    with pytest.raises(UsageError, match="one length"):
        harrell_c(risk=np.arange(4.0), time=np.ones(3), event=np.ones(3, dtype=bool))
