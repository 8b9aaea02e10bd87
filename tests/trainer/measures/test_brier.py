"""Brier scores against scikit-survival and brute force."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sksurv.metrics import brier_score, integrated_brier_score

from store_schema.errors import CohortError, TaskError, UsageError
from trainer.kaplan_meier import kaplan_meier
from trainer.measures.brier import brier_scores, compared, integrated, integrated_brier
from trainer.measures.censoring import Censoring

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared


def predicted(test, times):
    """Some falling curves, worse for higher risk."""
    return np.exp(-np.outer(np.exp(0.5 * test.risk), times / 20))


def judged(parts):
    train, test = parts
    train.time[np.argmax(train.time)] = test.time.max() + 1
    train.y["time"] = train.time
    inside = test.time[(test.time >= np.quantile(test.time, 0.1)) & (test.time < test.time.max())]
    times = np.unique(np.quantile(inside, np.linspace(0, 1, 12)))
    return train, test, times, Censoring.fit(time=train.time, event=train.event)


def test_brier_scores_equal_scikit_survival(parts):
    train, test, times, censoring = judged(parts)
    survival = predicted(test, times)
    ours = brier_scores(survival=survival, time=test.time, event=test.event, times=times, censoring=censoring)
    _, expected = brier_score(train.y, test.y, survival, times)
    np.testing.assert_allclose(ours.score, expected, atol=1e-9)
    assert ours.left_out == ()


def test_integrated_brier_and_that_of_kaplan_meier_equal_scikit_survival(parts):
    train, test, times, censoring = judged(parts)
    survival, reference = predicted(test, times), kaplan_meier(train.time, train.event).survival_at(times)
    ours = integrated_brier(
        survival=survival, reference=reference, time=test.time, event=test.event, times=times, censoring=censoring
    )
    assert ours.score == pytest.approx(integrated_brier_score(train.y, test.y, survival, times), abs=1e-9)
    everybody = np.tile(reference, (len(test.time), 1))
    assert ours.reference == pytest.approx(integrated_brier_score(train.y, test.y, everybody, times), abs=1e-9)
    assert ours.scaled == pytest.approx(1 - ours.score / ours.reference, abs=1e-12)
    assert (ours.start, ours.end) == (times[0], times[-1])


patients = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(1, 6), st.booleans()), min_size=1, max_size=20
)


@given(patients, patients)
@UNHURRIED
def test_brier_scores_equal_brute_force_and_leave_out_what_they_must(kin, train, test):
    _, train_time, train_event = (np.array(column) for column in zip(*train, strict=True))
    survival, time, event = (np.array(column) for column in zip(*test, strict=True))
    censoring = Censoring.fit(time=train_time.astype(float), event=train_event)
    times = np.arange(0.5, 8)
    kept = [at for at in times if at < censoring.end]
    expected = []
    for at in kept:
        total = 0.0
        for s, own, died in zip(survival, time, event, strict=True):
            if own <= at and died:
                total += s**2 / kin.following(train_time, train_event, own)
            elif own > at:
                total += (1 - s) ** 2 / kin.following(train_time, train_event, at)
        expected.append(total / len(time))
    predicted = np.tile(survival[:, np.newaxis], (1, len(times)))
    ours = brier_scores(survival=predicted, time=time, event=event, times=times, censoring=censoring)
    np.testing.assert_allclose(ours.score, expected, atol=1e-12)
    np.testing.assert_array_equal(ours.times, kept)
    assert [one.time for one in ours.left_out] == [at for at in times if at not in kept]


def test_a_perfect_prediction_scores_0_and_a_coin_a_quarter():
    time, event = np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4, dtype=bool)
    censoring, times = Censoring.fit(time=time, event=event), np.array([1.5, 2.5])
    known = (time[:, np.newaxis] > times).astype(float)
    assert brier_scores(survival=known, time=time, event=event, times=times, censoring=censoring).score.tolist() == [
        0,
        0,
    ]
    coin = brier_scores(survival=0 * known + 0.5, time=time, event=event, times=times, censoring=censoring)
    assert coin.score.tolist() == [0.25, 0.25]
    assert compared(coin.score, np.zeros(2), times=times).scaled is None


def test_probabilities_that_are_none_and_times_that_cannot_be_judged_are_refused(kin):
    test = kin.draw(8, n=5)
    censoring = Censoring.fit(time=test.time, event=test.event)
    rest = {"time": test.time, "event": test.event, "times": [1.0, 2.0], "censoring": censoring}
    with pytest.raises(UsageError, match="a log-risk becomes one"):
        brier_scores(survival=np.full((5, 2), 1.1), **rest)
    with pytest.raises(UsageError, match=r"\(patients, times\), shape \(5, 2\), got \(2, 5\)"):
        brier_scores(survival=np.ones((2, 5)), **rest)
    with pytest.raises(TaskError, match="10 of 10 survival probabilities are not a number"):
        brier_scores(survival=np.full((5, 2), np.nan), **rest)
    with pytest.raises(CohortError, match="follow-up of the training part ends"):
        brier_scores(survival=np.ones((5, 2)), **{**rest, "times": [1e6, 1e7]})
    with pytest.raises(CohortError, match="two times"):
        integrated(np.ones(1), np.ones(1))
    with pytest.raises(UsageError, match="one score per time"):
        integrated(np.ones(2), np.ones(1))
