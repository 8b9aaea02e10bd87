"""Cumulative/dynamic AUCs against scikit-survival and brute force."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sksurv.metrics import cumulative_dynamic_auc

from store_schema.errors import CohortError, TaskError, UsageError
from trainer.measures.censoring import Censoring
from trainer.measures.dynamic_auc import dynamic_auc, mean_auc

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared

patients = st.lists(st.tuples(st.integers(-2, 2), st.integers(1, 6), st.booleans()), min_size=1, max_size=20)


def columns(rows):
    risk, time, event = (np.array(column) for column in zip(*rows, strict=True))
    return risk.astype(float), time.astype(float), event


def test_dynamic_auc_and_its_mean_equal_scikit_survival(parts):
    train, test = parts
    # scikit-survival refuses test patients beyond the training part
    train.time[np.argmax(train.time)] = test.time.max() + 1
    train.y["time"] = train.time
    first, last = test.time[test.event].min(), test.time.max()
    times = np.unique(np.quantile(test.time[(test.time >= first) & (test.time < last)], [0.1, 0.3, 0.5, 0.7, 0.9]))
    censoring = Censoring.fit(time=train.time, event=train.event)
    ours = dynamic_auc(risk=test.risk, time=test.time, event=test.event, times=times, censoring=censoring)
    auc, mean = cumulative_dynamic_auc(train.y, test.y, test.risk, times, tied_tol=0.0)
    np.testing.assert_allclose(ours.auc, auc, atol=1e-9)
    assert ours.mean == pytest.approx(mean, abs=1e-9)
    np.testing.assert_array_equal(ours.times, times)
    np.testing.assert_array_equal(ours.controls, [(test.time > at).sum() for at in times])
    np.testing.assert_array_equal(ours.cases, [(test.event & (test.time <= at)).sum() for at in times])


@given(patients, patients)
@UNHURRIED
def test_dynamic_auc_equals_brute_force_and_leaves_out_what_it_must(kin, train, test):
    (_, train_time, train_event), (risk, time, event) = columns(train), columns(test)
    censoring = Censoring.fit(time=train_time, event=train_event)
    expected = {}
    for at in range(1, 8):
        right = total = 0.0
        for i in np.flatnonzero(event & (time <= at)):
            for j in np.flatnonzero(time > at) if at < censoring.end else ():
                weight = 1 / kin.following(train_time, train_event, time[i])
                total += weight
                right += weight * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
        if total:
            expected[float(at)] = right / total
    if not expected:
        with pytest.raises(CohortError, match="no time has an AUC"):
            dynamic_auc(risk=risk, time=time, event=event, times=range(1, 8), censoring=censoring)
        return
    ours = dynamic_auc(risk=risk, time=time, event=event, times=range(1, 8), censoring=censoring)
    assert dict(zip(ours.times.tolist(), ours.auc.tolist(), strict=True)) == pytest.approx(expected, abs=1e-9)
    assert sorted([*ours.times, *(one.time for one in ours.left_out)]) == list(range(1, 8))


def test_dynamic_auc_without_censoring_is_the_area_under_the_roc_curve(kin):
    test = kin.draw(3, risks=9, censored=0.0)
    censoring = Censoring.fit(time=test.time, event=test.event)
    at = float(np.median(test.time))
    ours = dynamic_auc(risk=test.risk, time=test.time, event=test.event, times=[at], censoring=censoring)
    assert ours.auc[0] == pytest.approx(roc_auc_score(test.time <= at, test.risk), abs=1e-12)
    assert ours.mean == ours.auc[0]


def test_times_without_cases_controls_or_follow_up_are_left_out_with_their_reason():
    time, event = np.array([2.0, 4.0, 6.0, 20.0]), np.array([True, True, False, True])
    censoring = Censoring.fit(time=np.array([3.0, 10.0]), event=np.array([True, False]))
    ours = dynamic_auc(risk=np.arange(4.0), time=time, event=event, times=[1, 5, 12], censoring=censoring)
    assert ours.times.tolist() == [5.0]
    assert [(one.time, one.reason) for one in ours.left_out] == [
        (1.0, "nobody has had the event by then"),
        (12.0, "the training part is followed up to 10 only"),
    ]
    full = Censoring.fit(time=np.array([30.0]), event=np.array([True]))
    with pytest.raises(CohortError, match="nobody is followed beyond it"):
        dynamic_auc(risk=np.arange(4.0), time=time, event=event, times=[25], censoring=full)


def test_broken_arguments_are_refused(kin):
    test = kin.draw(8, n=5)
    censoring = Censoring.fit(time=test.time, event=test.event)
    with pytest.raises(UsageError, match="booleans"):
        dynamic_auc(risk=test.risk, time=test.event, event=test.time, times=[1], censoring=censoring)
    with pytest.raises(UsageError, match="rising times"):
        dynamic_auc(risk=test.risk, time=test.time, event=test.event, times=[2, 1], censoring=censoring)
    with pytest.raises(TaskError, match="not finite"):
        dynamic_auc(risk=test.risk * np.inf, time=test.time, event=test.event, times=[1], censoring=censoring)
    with pytest.raises(UsageError, match="one AUC per time"):
        mean_auc(np.array([0.5]), times=np.array([1.0, 2.0]), time=test.time, event=test.event)
    with pytest.raises(CohortError, match="no mean AUC"):
        mean_auc(np.array([0.5]), times=np.array([1.0]), time=np.array([2.0]), event=np.array([True]))
