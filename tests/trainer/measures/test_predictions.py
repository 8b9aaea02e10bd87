"""Predictions of test parts side by side, from a fold small enough to see."""

import dataclasses

import numpy as np
import pytest

from store_schema.errors import UsageError
from trainer.baseline_hazard import BreslowBaseline
from trainer.measures.predictions import Dealing, JudgedFold, dealings


def fold(*, repeat=0, risk=(0.0, 1.0), time=(4.0, 20.0), event=(True, True)):
    """The training part is followed up to 10."""
    train_time, train_event = np.array([2.0, 6.0, 10.0]), np.array([True, True, False])
    return JudgedFold(
        repeat=repeat,
        risk=np.array(risk),
        time=np.array(time),
        event=np.array(event),
        baseline=BreslowBaseline.fit(risk=np.zeros(3), time=train_time, event=train_event),
        train_time=train_time,
        train_event=train_event,
    )


def test_survival_is_the_folds_own_baseline_raised_to_the_relative_hazard():
    # hazard 1/3 at 2 and 1/2 at 6
    expected = [[1, np.exp(-1 / 3), np.exp(-5 / 6)], [1, np.exp(-np.e / 3), np.exp(-5 * np.e / 6)]]
    np.testing.assert_allclose(fold().survival(np.array([1.0, 2.0, 7.0])), expected, atol=1e-12)
    np.testing.assert_allclose(fold().same_for_all(np.array([1.0, 2.0, 7.0])), [1, 2 / 3, 1 / 3], atol=1e-12)


def test_an_event_beyond_the_training_follow_up_is_censored_at_its_end():
    survival, event = fold().own_survival()
    assert event.tolist() == [True, False]
    np.testing.assert_allclose(survival, [np.exp(-1 / 3), np.exp(-5 * np.e / 6)], atol=1e-12)
    assert fold().beyond_training == 1
    assert fold(time=(4.0, 10.0)).beyond_training == 0
    assert fold(time=(4.0, 10.0)).own_survival()[1].tolist() == [True, True]


def test_a_dealing_keeps_patients_in_the_order_of_its_folds():
    dealing = Dealing((fold(), fold(risk=(2.0, 3.0, 4.0), time=(1.0, 2.0, 3.0), event=(False, True, False))))
    assert dealing.time.tolist() == [4, 20, 1, 2, 3]
    assert dealing.event.tolist() == [True, True, False, True, False]
    assert dealing.risk.tolist() == [0, 1, 2, 3, 4]
    assert dealing.fold_of.tolist() == [0, 0, 1, 1, 1]
    at = np.array([2.0, 6.0])
    np.testing.assert_array_equal(dealing.survival(at)[:2], dealing.folds[0].survival(at))
    np.testing.assert_array_equal(dealing.own_survival()[0][2:], dealing.folds[1].own_survival()[0])


def test_repeats_come_in_order_and_hold_as_many_patients_each():
    found = dealings([fold(repeat=1), fold(), fold(repeat=1), fold()], patients=4)
    assert [[one.repeat for one in dealing.folds] for dealing in found] == [[0, 0], [1, 1]]
    with pytest.raises(UsageError, match=r"4 patients in each repeat, got \[2\]"):
        dealings([fold(), fold(), fold(repeat=1)], patients=4)


def test_a_centre_that_was_left_out_weighs_its_own_censoring_as_far_as_the_model_goes():
    time, event = (3.0, 5.0, 8.0, 30.0), (False, True, False, True)
    plain, own = (
        dataclasses.replace(fold(risk=(0.0, 1.0, 2.0, 3.0), time=time, event=event), own_censoring=own)
        for own in (0, 1)
    )
    assert plain.censoring.last == 10
    # three of four are followed beyond 3; at 8 the second of the last two leaves
    np.testing.assert_allclose(own.censoring.following(np.array([2.0, 3.0, 8.0])), [1, 3 / 4, 3 / 8])
    assert own.censoring.last == 10
    assert own.beyond_training == plain.beyond_training == 1
    early = dataclasses.replace(own, time=np.array([1.0, 2.0, 3.0, 4.0]))
    assert early.censoring.last == 4
