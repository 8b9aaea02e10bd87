"""Cumulative incidence against scikit-survival, statsmodels and brute force."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sksurv.datasets import load_bmt
from sksurv.nonparametric import cumulative_incidence_competing_risks
from statsmodels.duration.survfunc import CumIncidenceRight

from store_schema.errors import CohortError, UsageError
from trainer.kaplan_meier import kaplan_meier
from trainer.measures.competing import cause_specific, cumulative_incidence

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared


def transplanted():
    _, outcome = load_bmt()
    return outcome["ftime"].astype(float), outcome["status"].astype(int)


def simulated(seed, n=200, times=30):
    rng = np.random.default_rng(seed)
    time = rng.integers(1, times, n).astype(float)
    # the last one is censored: where the last at risk have an event, both references divide by zero
    return np.append(time, times + 1.0), np.append(rng.choice([0, 1, 2, 3], n, p=[0.3, 0.3, 0.3, 0.1]), 0)


@pytest.mark.parametrize("data", [simulated(0), simulated(1, n=25, times=8), simulated(2, n=400, times=4)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_incidence_and_its_band_equal_scikit_survival(data, confidence):
    time, cause = data
    ours = cumulative_incidence(time=time, cause=cause, confidence=confidence)
    times, incidence, band = cumulative_incidence_competing_risks(
        cause, time, conf_type="log-log", conf_level=confidence, var_type="Dinse_Approx"
    )
    np.testing.assert_array_equal(ours.time, times)
    np.testing.assert_allclose(ours.incidence, incidence[1:], atol=1e-12)
    np.testing.assert_allclose(ours.low, band[1:, 0], atol=1e-8)
    np.testing.assert_allclose(ours.high, band[1:, 1], atol=1e-8)


@pytest.mark.parametrize("data", [simulated(3), simulated(4, n=25, times=8)])
def test_incidence_and_its_standard_error_equal_statsmodels(data):
    time, cause = data
    ours = cumulative_incidence(time=time, cause=cause)
    theirs = CumIncidenceRight(time, cause)
    np.testing.assert_allclose(ours.incidence, theirs.cinc, atol=1e-12)
    np.testing.assert_allclose(ours.se, theirs.cinc_se, atol=1e-9)
    assert ours.causes == (1, 2, 3)


def test_incidence_of_transplanted_patients_equals_scikit_survival():
    time, cause = transplanted()
    ours = cumulative_incidence(time=time, cause=cause)
    times, incidence = cumulative_incidence_competing_risks(cause, time)
    np.testing.assert_allclose(ours.at(times), incidence[1:], atol=1e-12)


rows_of_causes = st.lists(st.tuples(st.integers(1, 6), st.sampled_from([0, 2, 5])), min_size=1, max_size=30)


@given(rows_of_causes)
@UNHURRIED
def test_incidence_equals_summing_hazards_and_adds_up_to_what_kaplan_meier_leaves(rows):
    time, cause = (np.array(column) for column in zip(*rows, strict=True))
    assume((cause > 0).any())
    ours = cumulative_incidence(time=time, cause=cause, causes=[2, 5, 7])
    expected = {2: 0.0, 5: 0.0, 7: 0.0}
    alive = 1.0
    for at in range(1, 8):
        at_risk = (time >= at).sum()
        for code in expected:
            expected[code] += alive * ((time == at) & (cause == code)).sum() / max(at_risk, 1)
        alive *= 1 - ((time == at) & (cause > 0)).sum() / max(at_risk, 1)
        assert ours.at(np.array([at]))[:, 0] == pytest.approx(list(expected.values()), abs=1e-12)
    left = kaplan_meier(time, cause > 0).survival_at(np.arange(0, 9))
    np.testing.assert_allclose(ours.at(np.arange(0, 9)).sum(axis=0), 1 - left, atol=1e-12)
    assert np.isfinite(ours.se).all()
    assert ((ours.low <= ours.incidence + 1e-12) & (ours.incidence <= ours.high + 1e-12)).all()
    assert (ours.incidence[2] == 0).all()


def test_the_standard_error_of_a_single_cause_is_greenwoods():
    rng = np.random.default_rng(9)
    time, event = np.append(rng.integers(1, 20, 80), 25).astype(float), np.append(rng.random(80) < 0.6, False)
    ours = cumulative_incidence(time=time, cause=event.astype(int))
    curve = kaplan_meier(time, event)
    greenwood = np.cumsum(curve.events / (curve.at_risk * np.maximum(curve.at_risk - curve.events, 1)))
    np.testing.assert_allclose(ours.se[0], curve.survival * np.sqrt(greenwood), atol=1e-9)


def test_cause_specific_outcomes_censor_the_other_causes():
    time, cause = np.array([3.0, 1.0, 2.0, 5.0]), np.array([1, 0, 2, 1])
    kept, event = cause_specific(time=time, cause=cause, of=1)
    assert (kept.tolist(), event.tolist()) == ([3, 1, 2, 5], [True, False, False, True])
    assert event.dtype == np.bool_


def test_one_minus_kaplan_meier_of_one_cause_is_more_than_its_incidence():
    time, cause = simulated(5)
    incidence = cumulative_incidence(time=time, cause=cause).incidence[0]
    alone = kaplan_meier(*cause_specific(time=time, cause=cause, of=1)).survival
    assert (incidence <= 1 - alone + 1e-12).all()
    assert (1 - alone - incidence).max() > 0.05


def test_broken_arguments_are_refused():
    time = np.arange(1.0, 4.0)
    with pytest.raises(UsageError, match="one length"):
        cumulative_incidence(time=time, cause=np.array([1, 0]))
    for cause in (np.array([1.0, 0, 2]), np.array([1, -1, 0]), np.array([True, False, True])):
        with pytest.raises(UsageError, match="whole numbers"):
            cumulative_incidence(time=time, cause=cause)
    with pytest.raises(UsageError, match=r"causes \[1\], above 0, got \[1, 2\]"):
        cumulative_incidence(time=time, cause=np.array([1, 2, 0]), causes=[1])
    with pytest.raises(CohortError, match="none of 3 patients"):
        cumulative_incidence(time=time, cause=np.zeros(3, dtype=int))
    with pytest.raises(CohortError, match="not finite"):
        cumulative_incidence(time=time * np.nan, cause=np.array([1, 2, 0]))
    with pytest.raises(UsageError, match="that is censoring"):
        cause_specific(time=time, cause=np.array([1, 2, 0]), of=0)
