"""Survival at patients' own times and of risks far from all others, against the curves at common times."""

import numpy as np
import pytest

from trainer.baseline_hazard import BreslowBaseline


@pytest.fixture
def baseline():
    time, event = np.array([2.0, 6.0, 10.0]), np.array([True, True, False])
    return BreslowBaseline.fit(risk=np.array([0.0, 0.5, 1.0]), time=time, event=event)


def test_survival_at_own_times_is_the_diagonal_of_the_curves(baseline):
    risk, time = np.linspace(-2, 2, 9), np.array([0.0, 1, 2, 3, 6, 7, 9, 10, 99])
    expected = np.diag(baseline.survival(risk, time))
    np.testing.assert_array_equal(baseline.survival_each(risk, time), expected)


def test_a_risk_however_far_above_the_others_has_survival_1_before_the_first_event_and_0_after_it(baseline):
    far = np.array([1e3, 1e6])
    np.testing.assert_array_equal(baseline.survival(far, np.array([1.0, 2.0, 50.0])), [[1, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(baseline.survival(-far, np.array([1.0, 2.0, 50.0])), np.ones((2, 3)))
