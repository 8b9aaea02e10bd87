"""Censoring distributions and the times that can be judged, against scikit-survival and products by hand."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sksurv.nonparametric import CensoringDistributionEstimator
from sksurv.util import Surv

from store_schema.errors import CohortError, UsageError
from trainer.measures.censoring import Censoring, safe_end, safe_times, truncated

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared

outcomes = st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=30)


def columns(rows):
    time, event = zip(*rows, strict=True)
    return np.array(time, dtype=float), np.array(event)


@given(outcomes)
@UNHURRIED
def test_censoring_distribution_equals_the_product_by_hand(kin, rows):
    time, event = columns(rows)
    censoring = Censoring.fit(time=time, event=event)
    at = np.array([0.5, *range(1, 13)])
    expected = [0.0 if one > time.max() else kin.following(time, event, one) for one in at]
    np.testing.assert_allclose(censoring.following(at), expected, atol=1e-12)


def test_weights_equal_scikit_survivals(parts):
    train, test = parts
    censoring = Censoring.fit(time=train.time, event=train.event)
    known = test.time < censoring.end
    theirs = CensoringDistributionEstimator().fit(train.y)
    expected = theirs.predict_ipcw(Surv.from_arrays(test.event[known], test.time[known]))
    ours = censoring.weights(time=test.time, event=test.event)
    np.testing.assert_allclose(ours[known], expected, atol=1e-12)
    assert (ours[~known] == 0).all()


@given(outcomes)
@UNHURRIED
def test_every_time_before_the_end_has_a_weight_and_none_after_it(rows):
    time, event = columns(rows)
    censoring = Censoring.fit(time=time, event=event)
    at = np.array([0.5, *range(1, 13), censoring.end, np.nextafter(censoring.end, 0)])
    np.testing.assert_array_equal(censoring.following(at) > 0, at < censoring.end)


def test_events_from_a_time_on_get_no_weight():
    time, event = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, True, True, False])
    censoring = Censoring.fit(time=time, event=event)
    assert (censoring.weights(time=time, event=event, before=3.0) > 0).tolist() == [True, True, False, False]
    assert (censoring.weights(time=time, event=event, before=99.0) > 0).tolist() == [True, True, True, False]


def test_times_are_kept_where_enough_are_at_risk_and_every_training_part_is_followed():
    time = np.arange(1.0, 21.0)
    long = Censoring.fit(time=np.array([5.0, 30.0]), event=np.array([True, False]))
    short = Censoring.fit(time=np.array([5.0, 10.0]), event=np.array([True, False]))
    found = safe_times([4, 10, 12, 16], time=time, censoring=[long], least_at_risk=6)
    assert (found.kept, found.at_risk) == ((4.0, 10.0, 12.0), (17, 11, 9))
    assert [(one.time, one.at_risk) for one in found.left_out] == [(16.0, 5)]
    assert found.left_out[0].reason == "5 patients at risk, fewer than 6"
    both = safe_times([4, 10, 12], time=time, censoring=[long, short], least_at_risk=6)
    # at 10 the last training patient was censored: nobody can be followed beyond it
    assert both.kept == (4.0,)
    assert {one.reason for one in both.left_out} == {"patients of a fold are followed up to 10 only"}


def test_a_training_part_that_ends_with_an_event_can_be_judged_at_its_last_time():
    time = np.arange(1.0, 21.0)
    ended = Censoring.fit(time=np.array([5.0, 10.0]), event=np.array([False, True]))
    assert safe_times([10], time=time, censoring=[ended], least_at_risk=1).kept == (10.0,)


@given(outcomes, st.integers(1, 12))
@UNHURRIED
def test_the_safe_end_is_the_last_own_time_that_is_safe(rows, least):
    time, event = columns(rows)
    censoring = [Censoring.fit(time=time, event=event)]
    kept = safe_times(np.unique(time), time=time, censoring=censoring, least_at_risk=least).kept
    if not kept:
        with pytest.raises(CohortError, match="no time has"):
            safe_end(time=time, censoring=censoring, least_at_risk=least)
        return
    assert safe_end(time=time, censoring=censoring, least_at_risk=least) == kept[-1]


def test_truncated_outcomes_are_censored_at_the_time():
    time, event = truncated(time=np.array([1.0, 5.0, 6.0, 9.0]), event=np.array([True, True, True, False]), at=5.0)
    assert (time.tolist(), event.tolist()) == ([1, 5, 5, 5], [True, True, False, False])


def test_outcomes_and_times_that_are_none_are_refused():
    with pytest.raises(UsageError, match="booleans"):
        Censoring.fit(time=np.ones(2), event=np.ones(2))
    with pytest.raises(UsageError, match="one length"):
        Censoring.fit(time=np.ones(3), event=np.ones(2, dtype=bool))
    with pytest.raises(CohortError, match="1 of 2 times are not finite"):
        Censoring.fit(time=np.array([1, np.nan]), event=np.ones(2, dtype=bool))
    with pytest.raises(CohortError, match="needs a patient"):
        Censoring.fit(time=np.array([]), event=np.array([], dtype=bool))
    for times in ([], [2.0, 1.0], [1.0, np.nan]):
        with pytest.raises(UsageError, match="rising times"):
            safe_times(times, time=np.ones(3), censoring=[])
    with pytest.raises(UsageError, match="at least one patient"):
        safe_end(time=np.ones(3), censoring=[], least_at_risk=0)
