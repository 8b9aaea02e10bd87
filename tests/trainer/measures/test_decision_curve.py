"""Net benefit against counting, and against scikit-survival's curve of those treated."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sksurv.nonparametric import kaplan_meier_estimator

from store_schema.errors import CohortError, TaskError, UsageError
from trainer.measures.decision_curve import decision_curve

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared
THRESHOLDS = np.arange(1, 20) / 20


def observed(event, time, horizon):
    """1 - Kaplan-Meier at the horizon; NaN where it would be drawn on."""
    # scikit-survival wants an event
    times, survival = kaplan_meier_estimator(event, time) if event.any() else (np.unique(time), np.ones(len(set(time))))
    if times[-1] < horizon and survival[-1] > 0:
        return np.nan
    return 1 - np.concatenate(([1.0], survival))[np.searchsorted(times, horizon, side="right")]


def brute_force(risk, time, event, horizon, thresholds):
    found = []
    for p in thresholds:
        treated = risk >= p
        among = observed(event[treated], time[treated], horizon) if treated.any() else 0.0
        found.append(treated.mean() * (among - (1 - among) * p / (1 - p)))
    return np.array(found)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_net_benefit_equals_scikit_survivals_curve_of_those_treated(parts, share):
    _, test = parts
    horizon = float(np.quantile(test.time, share))
    survival = np.exp(-np.exp(0.7 * test.risk) * horizon / 20)
    ours = decision_curve(survival=survival, time=test.time, event=test.event, horizon=horizon, thresholds=THRESHOLDS)
    expected = brute_force(1 - survival, test.time, test.event, horizon, THRESHOLDS)
    np.testing.assert_allclose(ours.net_benefit, expected, atol=1e-9)
    everybody = observed(test.event, test.time, horizon)
    odds = THRESHOLDS / (1 - THRESHOLDS)
    np.testing.assert_allclose(ours.treat_all, everybody - (1 - everybody) * odds, atol=1e-9)
    np.testing.assert_array_equal(ours.treated, [(1 - survival >= p).sum() for p in THRESHOLDS])


patients = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.integers(1, 8), st.booleans()), min_size=1, max_size=25
)


@given(patients, st.permutations([0.1, 0.25, 0.5, 0.75, 0.9]))
@UNHURRIED
def test_net_benefit_equals_brute_force_whoever_is_not_followed(rows, thresholds):
    risk, time, event = (np.array(column) for column in zip(*rows, strict=True))
    if np.isnan(observed(event, time, 4.0)):
        with pytest.raises(CohortError, match="follow-up of these"):
            decision_curve(survival=1 - risk, time=time, event=event, horizon=4.0, thresholds=thresholds)
        return
    ours = decision_curve(survival=1 - risk, time=time, event=event, horizon=4.0, thresholds=thresholds)
    expected = brute_force(risk, time, event, 4.0, thresholds)
    np.testing.assert_allclose(ours.net_benefit, expected, atol=1e-12)


def test_net_benefit_without_censoring_is_true_less_weighted_false_positives(kin):
    test = kin.draw(3, censored=0.0)
    horizon = float(np.median(test.time))
    survival = 1 / (1 + np.exp(test.risk))
    ours = decision_curve(survival=survival, time=test.time, event=test.event, horizon=horizon, thresholds=[0.3])
    treated, case = 1 - survival >= 0.3, test.time <= horizon
    expected = (treated & case).mean() - (treated & ~case).mean() * 0.3 / 0.7
    assert ours.net_benefit[0] == pytest.approx(expected, abs=1e-12)


def test_whoever_treats_at_a_threshold_below_every_risk_treats_all_and_above_every_risk_nobody(kin):
    test = kin.draw(4)
    survival = np.clip(1 / (1 + np.exp(test.risk)), 0.2, 0.8)
    low, high = (
        decision_curve(survival=survival, time=test.time, event=test.event, horizon=5.0, thresholds=[p])
        for p in (0.1, 0.9)
    )
    assert low.net_benefit[0] == pytest.approx(low.treat_all[0], abs=1e-12)
    assert (high.net_benefit[0], high.treated[0]) == (0.0, 0)


def test_broken_arguments_are_refused():
    time, event = np.arange(1.0, 6.0), np.ones(5, dtype=bool)
    rest = {"time": time, "event": event, "horizon": 3.0}
    for thresholds in ([], [0.0], [1.0], [np.nan], [[0.5]]):
        with pytest.raises(UsageError, match="above 0 and below 1"):
            decision_curve(survival=np.ones(5), **rest, thresholds=thresholds)
    with pytest.raises(UsageError, match="from 0 to 1"):
        decision_curve(survival=np.full(5, 2.0), **rest, thresholds=[0.5])
    with pytest.raises(TaskError, match="not a number"):
        decision_curve(survival=np.full(5, np.nan), **rest, thresholds=[0.5])
    with pytest.raises(CohortError, match="needs a patient"):
        decision_curve(survival=np.ones(0), time=time[:0], event=event[:0], horizon=3.0, thresholds=[0.5])
