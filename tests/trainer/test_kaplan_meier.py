"""Survival curves, follow-up and log-rank tests against scikit-survival, and values worked by hand."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sksurv.compare import compare_survival
from sksurv.datasets import load_veterans_lung_cancer, load_whas500
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv

from store_schema.errors import CohortError, UsageError
from trainer.kaplan_meier import kaplan_meier, log_rank, median_follow_up, reverse_kaplan_meier

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared

outcomes = st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=60)


def columns(rows):
    time, event = zip(*rows, strict=True)
    return np.array(time, dtype=float), np.array(event)


def real_sets():
    _, veterans = load_veterans_lung_cancer()
    _, whas = load_whas500()
    return [(veterans["Survival_in_days"], veterans["Status"]), (whas["lenfol"], whas["fstat"])]


@given(outcomes)
@UNHURRIED
def test_kaplan_meier_and_its_band_equal_scikit_survival(rows):
    time, event = columns(rows)
    curve = kaplan_meier(time, event)
    times, survival, (low, high) = kaplan_meier_estimator(event, time, conf_type="log-log")
    np.testing.assert_array_equal(curve.time, times)
    np.testing.assert_allclose(curve.survival, survival, atol=1e-12)
    np.testing.assert_allclose(curve.low, low, atol=1e-9)
    np.testing.assert_allclose(curve.high, high, atol=1e-9)


@pytest.mark.parametrize("case", [0, 1], ids=["veterans", "whas500"])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_kaplan_meier_equals_scikit_survival_on_real_patients(case, confidence):
    time, event = real_sets()[case]
    curve = kaplan_meier(time, event, confidence=confidence)
    times, survival, (low, high) = kaplan_meier_estimator(event, time, conf_type="log-log", conf_level=confidence)
    for ours, theirs in zip(
        (curve.time, curve.survival, curve.low, curve.high), (times, survival, low, high), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


@given(outcomes)
@UNHURRIED
def test_reverse_kaplan_meier_equals_scikit_survivals_censoring_distribution(rows):
    time, event = columns(rows)
    times, following = kaplan_meier_estimator(event, time, reverse=True)
    curve = reverse_kaplan_meier(time, event)
    np.testing.assert_array_equal(curve.time, times)
    np.testing.assert_allclose(curve.survival, following, atol=1e-12)


def test_freireich_leukaemia_curve_has_its_textbook_values():
    # 6-MP arm of Freireich et al. 1963, as in Kalbfleisch and Prentice: survival after each remission's end
    time = np.array([6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35], dtype=float)
    event = np.array([1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
    curve = kaplan_meier(time, event)
    at = np.array([6, 7, 10, 13, 16, 22, 23], dtype=float)
    np.testing.assert_allclose(curve.survival_at(at), [0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448], atol=5e-4)
    assert curve.at_risk_at(at).tolist() == [21, 17, 15, 12, 11, 7, 6]
    assert curve.median == 23.0


@given(outcomes, st.lists(st.floats(0, 15), min_size=1, max_size=10))
@UNHURRIED
def test_numbers_at_risk_equal_counting_patients(rows, times):
    time, event = columns(rows)
    counted = [int((time >= at).sum()) for at in times]
    assert kaplan_meier(time, event).at_risk_at(np.array(times)).tolist() == counted


@given(outcomes)
@UNHURRIED
def test_events_and_censorings_add_up_to_the_patients(rows):
    time, event = columns(rows)
    curve = kaplan_meier(time, event)
    assert (curve.events.sum(), curve.censored.sum()) == (event.sum(), (~event).sum())
    assert ((curve.low <= curve.survival) & (curve.survival <= curve.high)).all()


def test_survival_is_one_before_the_first_time_and_keeps_its_last_value():
    curve = kaplan_meier(np.array([2.0, 4.0, 6.0]), np.array([True, True, False]))
    np.testing.assert_allclose(curve.survival_at(np.array([0, 1.9, 2, 3, 4, 99])), [1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3])


def test_median_is_the_first_time_at_one_half_and_none_above_it():
    ten = np.arange(1.0, 11.0)
    assert kaplan_meier(ten, np.ones(10, dtype=bool)).median == 5.0
    assert kaplan_meier(ten, ten < 5).median is None


def test_median_follow_up_is_that_of_the_censored_where_nobody_has_the_event():
    time = np.array([10.0, 20.0, 30.0])
    assert median_follow_up(time, np.zeros(3, dtype=bool)) == 20.0
    assert median_follow_up(time, np.ones(3, dtype=bool)) is None


def test_curve_without_patients_or_with_uneven_arguments_is_refused():
    with pytest.raises(CohortError, match="needs a patient"):
        kaplan_meier(np.array([]), np.array([], dtype=bool))
    with pytest.raises(UsageError, match="one event per time"):
        kaplan_meier(np.array([1.0, 2.0]), np.array([True]))


grouped = st.lists(st.tuples(st.integers(1, 10), st.booleans(), st.integers(0, 3)), min_size=6, max_size=80)


@given(grouped)
@UNHURRIED
def test_log_rank_of_any_number_of_groups_equals_scikit_survival(rows):
    time, event, group = (np.array(column) for column in zip(*rows, strict=True))
    assume(len(set(group)) > 1)
    try:
        ours = log_rank(time.astype(float), event, group)
    except CohortError:
        assume(False)  # a group that never meets another: no test, by design
    statistic, p, table, _ = compare_survival(Surv.from_arrays(event, time), group, return_stats=True)
    assert ours.statistic == pytest.approx(statistic, rel=1e-7, abs=1e-9)
    assert ours.p == pytest.approx(p, rel=1e-7, abs=1e-9)
    assert ours.observed == tuple(table["observed"])
    assert ours.expected == pytest.approx(tuple(table["expected"]), abs=1e-9)
    assert ours.df == len(set(group)) - 1


def test_log_rank_of_freireich_leukaemia_is_16_79():
    treated = [(6, 1), (6, 1), (6, 1), (6, 0), (7, 1), (9, 0), (10, 1), (10, 0), (11, 0), (13, 1), (16, 1), (17, 0),
               (19, 0), (20, 0), (22, 1), (23, 1), (25, 0), (32, 0), (32, 0), (34, 0), (35, 0)]  # fmt: skip
    placebo = [(t, 1) for t in (1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23)]
    time, event = columns([(t, bool(e)) for t, e in treated + placebo])
    result = log_rank(time, event, ["6-MP"] * 21 + ["placebo"] * 21)
    # chi-squared 16.79 with 9 and 21 events, 19.3 and 10.7 expected: R's survdiff, quoted throughout the literature
    assert result.statistic == pytest.approx(16.793, abs=5e-4)
    assert (result.observed, result.expected) == ((9, 21), pytest.approx((19.25, 10.75), abs=5e-3))


def test_log_rank_without_a_second_group_or_an_event_is_refused():
    time = np.array([1.0, 2.0, 3.0])
    with pytest.raises(CohortError, match="two groups or more, got 1"):
        log_rank(time, np.ones(3, dtype=bool), [0, 0, 0])
    with pytest.raises(CohortError, match="needs an event"):
        log_rank(time, np.zeros(3, dtype=bool), [0, 1, 0])
