"""Predicted against observed risks, against scikit-survival and counting by hand."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sksurv.nonparametric import kaplan_meier_estimator

from store_schema.errors import CohortError, TaskError, UsageError
from trainer.measures.calibration import calibration_groups, observed_expected

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared


def predicted(test, horizon):
    return np.exp(-np.exp(0.7 * test.risk) * horizon / 20)


def curve_at(test, rows, horizon):
    times, survival, (low, high) = kaplan_meier_estimator(test.event[rows], test.time[rows], conf_type="log-log")
    step = np.searchsorted(times, horizon, side="right") - 1
    return 1 - survival[step], 1 - high[step], 1 - low[step]


def test_groups_equal_scikit_survivals_curves_of_equal_parts_of_the_ranking(kin):
    test = kin.draw(1, n=200)
    horizon = float(np.quantile(test.time, 0.4))
    survival = predicted(test, horizon)
    groups = calibration_groups(survival=survival, time=test.time, event=test.event, horizon=horizon, groups=4)
    ranking = np.argsort(-survival)
    for group, rows in zip(groups, np.split(ranking, 4), strict=True):
        assert (group.patients, group.predicted) == (50, pytest.approx((1 - survival[rows]).mean(), abs=1e-12))
        assert (group.observed, group.low, group.high) == pytest.approx(curve_at(test, rows, horizon), abs=1e-9)
        assert group.events == (test.event[rows] & (test.time[rows] <= horizon)).sum()
        assert group.at_risk == (test.time[rows] >= horizon).sum()


def test_observed_over_expected_equals_scikit_survivals_curve_over_the_mean_prediction(parts):
    _, test = parts
    horizon = float(np.median(test.time))
    survival = predicted(test, horizon)
    ours = observed_expected(survival=survival, time=test.time, event=test.event, horizon=horizon)
    expected = (1 - survival).mean()
    ratios = np.array(curve_at(test, slice(None), horizon)) / expected
    assert (ours.ratio, ours.low, ours.high) == pytest.approx(tuple(ratios), abs=1e-9)
    assert (ours.observed, ours.expected) == pytest.approx((ratios[0] * expected, expected), abs=1e-12)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.3, 0.3, 0.6, 0.9]), st.integers(1, 8), st.booleans()), min_size=1, max_size=40
    ),
    st.integers(2, 6),
)
@UNHURRIED
def test_groups_hold_every_patient_once_rise_in_risk_and_part_no_ties(rows, count):
    survival, time, event = (np.array(column) for column in zip(*rows, strict=True))
    groups = calibration_groups(survival=survival, time=time, event=event, horizon=4.0, groups=count)
    assert sum(group.patients for group in groups) == len(rows)
    assert sum(group.events for group in groups) == (event & (time <= 4)).sum()
    assert sum(group.at_risk for group in groups) == (time >= 4).sum()
    risks = [group.predicted for group in groups]
    assert risks == sorted(risks)
    assert 1 <= len(groups) <= min(count, len(set(survival)))


def test_a_risk_at_a_cut_belongs_to_the_lower_group():
    risk, time = np.array([0.1, 0.2, 0.3]), np.array([5.0, 6.0, 7.0])
    low, high = calibration_groups(survival=1 - risk, time=time, event=time > 0, horizon=4.0, groups=2)
    assert (low.patients, high.patients) == (2, 1)


def test_a_group_that_is_not_followed_to_the_horizon_has_no_observed_risk():
    time = np.array([1.0, 2.0, 3.0, 20.0, 21.0, 22.0])
    event = np.array([True, False, False, True, False, False])
    risk = np.array([0.9, 0.9, 0.9, 0.1, 0.1, 0.1])
    low, high = calibration_groups(survival=1 - risk, time=time, event=event, horizon=10.0, groups=2)
    assert (high.observed, high.low, high.high, high.at_risk, high.patients) == (None, None, None, 0, 3)
    assert (low.observed, low.low, low.at_risk) == (0.0, None, 3)


def test_right_predictions_are_calibrated_and_doubled_hazards_are_not():
    rng = np.random.default_rng(5)
    risk = rng.normal(size=6_000)
    onset, end = 30 * rng.exponential(size=6_000) * np.exp(-risk), rng.uniform(5, 80, 6_000)
    time, event = np.minimum(onset, end), onset <= end
    right, doubled = (np.exp(-factor * np.exp(risk) * 24 / 30) for factor in (1, 2))
    found = observed_expected(survival=right, time=time, event=event, horizon=24.0)
    assert found.low < 1 < found.high
    assert found.ratio == pytest.approx(1, abs=0.03)
    assert observed_expected(survival=doubled, time=time, event=event, horizon=24.0).high < 0.9
    for group in calibration_groups(survival=right, time=time, event=event, horizon=24.0):
        assert group.observed == pytest.approx(group.predicted, abs=0.05)


def test_broken_arguments_are_refused():
    time, event = np.arange(1.0, 6.0), np.ones(5, dtype=bool)
    rest = {"time": time, "event": event, "horizon": 3.0}
    for function in (calibration_groups, observed_expected):
        with pytest.raises(UsageError, match="from 0 to 1, got -2 to 2"):
            function(survival=np.arange(-2.0, 3.0), **rest)
        with pytest.raises(TaskError, match="5 of 5 survival probabilities are not a number"):
            function(survival=np.full(5, np.nan), **rest)
        with pytest.raises(UsageError, match="shape"):
            function(survival=np.ones(4), **rest)
        with pytest.raises(CohortError, match="needs a patient"):
            function(survival=np.ones(0), time=time[:0], event=event[:0], horizon=3.0)
    with pytest.raises(UsageError, match="two groups"):
        calibration_groups(survival=np.ones(5), **rest, groups=1)
    with pytest.raises(CohortError, match="no event is expected"):
        observed_expected(survival=np.ones(5), **rest)
