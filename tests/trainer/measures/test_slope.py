"""Calibration slopes against statsmodels, scikit-survival and R's published fit."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sksurv.linear_model import CoxPHSurvivalAnalysis
from statsmodels.duration.hazard_regression import PHReg

from store_schema.errors import CohortError, TaskError, UsageError
from trainer.measures.slope import calibration_slope

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared


def statsmodels(risk, time, event, strata=None):
    model = PHReg(time, risk[:, np.newaxis], status=event.astype(int), ties="efron", strata=strata)
    found = model.fit(disp=False, method="newton", maxiter=200, tol=1e-12)
    return found.params[0], found.bse[0]


def test_slope_and_its_interval_equal_statsmodels(parts):
    _, test = parts
    ours = calibration_slope(risk=test.risk, time=test.time, event=test.event)
    slope, se = statsmodels(test.risk, test.time, test.event)
    assert (ours.slope, ours.se) == pytest.approx((slope, se), abs=1e-6)
    reach = norm.ppf(0.975) * se
    assert (ours.low, ours.high) == pytest.approx((slope - reach, slope + reach), abs=1e-6)
    assert ours.events == test.event.sum()


@pytest.mark.parametrize("case", ["months", "heavy_ties", "untied"])
def test_slope_within_strata_equals_statsmodels(kin, case):
    test = kin.draw(3, **kin.cases[case])
    strata = np.random.default_rng(3).integers(0, 5, len(test.time))
    # each stratum has a zero of its own, which must not matter
    ours = calibration_slope(risk=test.risk + 40.0 * strata, time=test.time, event=test.event, strata=strata)
    slope, se = statsmodels(test.risk, test.time, test.event, strata)
    assert (ours.slope, ours.se) == pytest.approx((slope, se), abs=1e-6)


def test_slope_equals_scikit_survival(kin):
    test = kin.draw(4, times=30)
    theirs = CoxPHSurvivalAnalysis(alpha=0, ties="efron", tol=1e-12).fit(test.risk[:, np.newaxis], test.y)
    ours = calibration_slope(risk=test.risk, time=test.time, event=test.event)
    assert ours.slope == pytest.approx(theirs.coef_[0], abs=1e-6)


def test_slope_of_the_aml_trial_is_rs():
    # R: coxph(Surv(time, status) ~ x, aml) prints coef 0.9155, se 0.5119 for "Nonmaintained" (Efron)
    time = np.array(
        [9, 13, 13, 18, 23, 28, 31, 34, 45, 48, 161, 5, 5, 8, 8, 12, 16, 23, 27, 30, 33, 43, 45], dtype=float
    )
    event = np.array([1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1], dtype=bool)
    ours = calibration_slope(risk=np.repeat([0.0, 1.0], [11, 12]), time=time, event=event)
    assert (ours.slope, ours.se) == pytest.approx((0.9155, 0.5119), abs=5e-5)


@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.integers(1, 6), st.booleans(), st.integers(0, 2)), min_size=2, max_size=40
    )
)
@UNHURRIED
def test_a_slope_that_is_found_is_where_the_likelihood_is_highest(rows):
    risk, time, event, strata = (np.array(column) for column in zip(*rows, strict=True))
    risk, time = risk.astype(float), time.astype(float)
    try:
        ours = calibration_slope(risk=risk, time=time, event=event, strata=strata)
    except CohortError:
        assume(False)
    likelihood = PHReg(time, risk[:, np.newaxis], status=event.astype(int), ties="efron", strata=strata)
    assert likelihood.score(np.array([ours.slope]))[0] == pytest.approx(0, abs=1e-6)
    assert -likelihood.hessian(np.array([ours.slope]))[0, 0] == pytest.approx(ours.se**-2, rel=1e-5, abs=1e-8)


def test_the_slope_of_risks_spread_twice_too_far_is_halved(kin):
    test = kin.draw(6, n=400)
    plain, twice = (calibration_slope(risk=k * test.risk, time=test.time, event=test.event) for k in (1, 2))
    assert (twice.slope, twice.se) == pytest.approx((plain.slope / 2, plain.se / 2), rel=1e-9)
    far = calibration_slope(risk=1e6 + 300 * test.risk, time=test.time, event=test.event)
    assert far.slope == pytest.approx(plain.slope / 300, rel=1e-6)


def test_the_slope_of_right_log_risks_is_one():
    rng = np.random.default_rng(7)
    risk = rng.normal(size=5_000)
    onset, end = rng.exponential(size=5_000) * np.exp(-risk), rng.uniform(0.1, 3, 5_000)
    ours = calibration_slope(risk=risk, time=np.minimum(onset, end), event=onset <= end)
    assert ours.low < 1 < ours.high
    assert ours.slope == pytest.approx(1, abs=0.06)


def test_events_that_do_not_bound_a_slope_are_refused():
    time, event = np.arange(1.0, 6.0), np.ones(5, dtype=bool)
    with pytest.raises(CohortError, match="all predicted risks are equal"):
        calibration_slope(risk=np.ones(5), time=time, event=event)
    with pytest.raises(CohortError, match="all predicted risks are equal"):
        calibration_slope(risk=np.array([1.0, 1, 1, 2, 2]), time=time, event=event, strata=[0, 0, 0, 1, 1])
    with pytest.raises(CohortError, match=r"5 events do not bound .* highest risk"):
        calibration_slope(risk=-time, time=time, event=event)
    with pytest.raises(CohortError, match="lowest risk"):
        calibration_slope(risk=time, time=time, event=event)
    with pytest.raises(CohortError, match="0 events"):
        calibration_slope(risk=time, time=time, event=~event)


def test_broken_arguments_are_refused():
    time, event = np.arange(1.0, 6.0), np.ones(5, dtype=bool)
    with pytest.raises(UsageError, match="booleans"):
        calibration_slope(risk=time, time=event, event=time)
    with pytest.raises(TaskError, match="not finite"):
        calibration_slope(risk=np.full(5, np.inf), time=time, event=event)
    with pytest.raises(UsageError, match="one stratum per patient, got 2 for 5"):
        calibration_slope(risk=time, time=time, event=event, strata=[0, 1])
