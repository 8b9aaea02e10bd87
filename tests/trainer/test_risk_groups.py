"""Pooled risk quartiles (Fig. 4) against numpy, scipy and scikit-survival."""

import numpy as np
import pytest
from scipy.stats import zscore
from sksurv.compare import compare_survival
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv

from store_schema.errors import CohortError, TaskError
from trainer.risk_groups import risk_quartiles, standardise_risks


def patients(seed=0, n=227):
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    onset, end = rng.exponential(30 * np.exp(-risk)), rng.uniform(6, 140, n)
    return risk, np.ceil(np.minimum(onset, end)), onset <= end


def test_training_risks_standardise_themselves_to_z_scores():
    train = np.random.default_rng(0).normal(3.0, 0.2, 180)
    np.testing.assert_allclose(standardise_risks(train, train_risk=train), zscore(train), atol=1e-12)


def test_standardised_risks_do_not_depend_on_the_zero_and_scale_of_a_fold():
    rng = np.random.default_rng(1)
    train, test = rng.normal(size=180), rng.normal(size=47)
    plain = standardise_risks(test, train_risk=train)
    np.testing.assert_allclose(standardise_risks(5 * test - 2, train_risk=5 * train - 2), plain, atol=1e-12)


def test_standardising_by_risks_that_tell_nobody_apart_is_refused():
    for train in (np.full(10, 0.3), np.array([0.1, np.nan])):
        with pytest.raises(TaskError, match="cannot be standardised"):
            standardise_risks(np.zeros(3), train_risk=train)


def test_quartiles_and_their_curves_equal_those_made_with_numpy_and_scikit_survival():
    risk, time, event = patients()
    result = risk_quartiles(risk, time=time, event=event)
    first, third = np.percentile(risk, [25, 75], method="linear")
    low, high = risk <= first, risk > third
    np.testing.assert_array_equal(result.quartile == 0, low)
    np.testing.assert_array_equal(result.quartile == 3, high)
    for curve, group in ((result.low_risk, low), (result.high_risk, high)):
        times, survival = kaplan_meier_estimator(event[group], time[group])
        np.testing.assert_array_equal(curve.time, times)
        np.testing.assert_allclose(curve.survival, survival, atol=1e-12)
        assert curve.at_risk[0] == group.sum()
    outer = low | high
    statistic, p = compare_survival(Surv.from_arrays(event[outer], time[outer]), high[outer].astype(int))
    assert result.log_rank.statistic == pytest.approx(statistic, rel=1e-9)
    assert result.log_rank.p == pytest.approx(p, rel=1e-9)


def test_the_last_quartile_fares_worse_where_risk_drives_the_hazard():
    risk, time, event = patients(3)
    result = risk_quartiles(risk, time=time, event=event)
    assert result.high_risk.median < result.low_risk.median
    assert result.log_rank.p < 1e-6


def test_risks_without_outer_quartiles_are_refused():
    _, time, event = patients()
    with pytest.raises(CohortError, match="too many are equal"):
        risk_quartiles(np.zeros(227), time=time, event=event)
    with pytest.raises(TaskError, match="1 of 227 pooled risks"):
        risk_quartiles(np.concatenate(([np.nan], np.arange(226.0))), time=time, event=event)
