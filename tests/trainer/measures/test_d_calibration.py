"""D-calibration against spreading patients over bins one by one, and what right predictions must give."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, chisquare, kstest

from store_schema.errors import CohortError, TaskError, UsageError
from trainer.measures.d_calibration import d_calibration

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared


def brute_force(survival, event, bins):
    """Haider et al. 2020, appendix B: a censored patient's mass falls evenly between 0 and the own survival."""
    counts = [0.0] * bins
    for s, died in zip(survival, event, strict=True):
        own = min(sum(s >= edge / bins for edge in range(1, bins + 1)), bins - 1)
        if died:
            counts[own] += 1
        elif s == 0:
            counts[0] += 1
        else:
            counts[own] += (s - own / bins) / s
            for below in range(own):
                counts[below] += 1 / bins / s
    return counts


patients = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 1, allow_subnormal=False), st.sampled_from([0.0, 0.1, 0.3, 0.7, 0.9, 1.0])),
        st.booleans(),
    ),
    min_size=1,
    max_size=40,
)


@given(patients, st.sampled_from([2, 5, 10]))
@UNHURRIED
def test_bins_and_test_equal_spreading_patients_one_by_one(rows, bins):
    survival, event = (np.array(column) for column in zip(*rows, strict=True))
    ours = d_calibration(survival_at_own_time=survival, event=event, bins=bins)
    expected = brute_force(survival, event, bins)
    assert ours.bins == pytest.approx(expected, abs=1e-9)
    assert sum(ours.bins) == pytest.approx(len(rows), abs=1e-9)
    statistic, p = chisquare(expected, np.full(bins, sum(expected) / bins))
    assert ours.statistic == pytest.approx(statistic, rel=1e-9, abs=1e-9)
    assert ours.p == pytest.approx(p, abs=1e-9)
    assert ours.df == bins - 1


def test_uncensored_patients_are_counted_and_one_censored_at_a_half_fills_the_lower_bins():
    died = d_calibration(survival_at_own_time=np.array([0.05, 0.15, 0.15, 1.0]), event=np.ones(4, dtype=bool))
    assert died.bins == (1, 2, 0, 0, 0, 0, 0, 0, 0, 1)
    half = d_calibration(survival_at_own_time=np.array([0.5]), event=np.array([False]))
    assert half.bins == pytest.approx((0.2,) * 5 + (0,) * 5, abs=1e-12)
    assert half.p == pytest.approx(chi2.sf(1.0, 9))


def simulated(seed, n, censored):
    rng = np.random.default_rng(seed)
    rate = np.exp(rng.normal(size=n))
    onset = rng.exponential(size=n) / rate
    end = rng.exponential(size=n) / (rate * censored) if censored else np.full(n, np.inf)
    return np.exp(-rate * np.minimum(onset, end)), onset <= end


def test_p_of_right_predictions_is_uniform_without_censoring_and_never_too_small_with_it():
    plain = [d_calibration(**named(*simulated(seed, 200, 0))).p for seed in range(400)]
    assert kstest(plain, "uniform").pvalue > 0.001
    censored = [d_calibration(**named(*simulated(seed, 200, 0.5))).p for seed in range(400)]
    assert np.mean(np.array(censored) < 0.05) < 0.05


def named(survival, event):
    return {"survival_at_own_time": survival, "event": event}


def test_hazards_twice_too_high_are_found():
    survival, event = simulated(1, 400, 0.5)
    assert d_calibration(survival_at_own_time=survival, event=event).p > 0.05
    assert d_calibration(survival_at_own_time=survival**2, event=event).p < 1e-6


def test_broken_arguments_are_refused():
    with pytest.raises(UsageError, match="booleans"):
        d_calibration(survival_at_own_time=np.ones(2), event=np.ones(2))
    with pytest.raises(UsageError, match="shape"):
        d_calibration(survival_at_own_time=np.ones(3), event=np.ones(2, dtype=bool))
    with pytest.raises(UsageError, match="from 0 to 1"):
        d_calibration(survival_at_own_time=np.array([-1.0]), event=np.array([True]))
    with pytest.raises(TaskError, match="not a number"):
        d_calibration(survival_at_own_time=np.array([np.nan]), event=np.array([True]))
    with pytest.raises(UsageError, match="two bins"):
        d_calibration(survival_at_own_time=np.ones(2), event=np.ones(2, dtype=bool), bins=1)
    with pytest.raises(CohortError, match="needs a patient"):
        d_calibration(survival_at_own_time=np.ones(0), event=np.ones(0, dtype=bool))
