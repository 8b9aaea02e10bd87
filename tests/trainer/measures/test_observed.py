"""Observed risks at a horizon against scikit-survival's Kaplan-Meier curve and its interval."""

import numpy as np
import pytest
from sksurv.nonparametric import kaplan_meier_estimator

from store_schema.errors import CohortError, UsageError
from trainer.measures.observed import ObservedRisk, observed_risk


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_observed_risk_equals_one_minus_scikit_survivals_curve(parts, share, confidence):
    _, test = parts
    horizon = float(np.quantile(test.time, share))
    times, survival, (low, high) = kaplan_meier_estimator(
        test.event, test.time, conf_type="log-log", conf_level=confidence
    )
    step = np.searchsorted(times, horizon, side="right") - 1
    ours = observed_risk(time=test.time, event=test.event, horizon=horizon, confidence=confidence)
    assert ours.risk == pytest.approx(1 - survival[step], abs=1e-12)
    if 0 < ours.risk < 1:
        assert (ours.low, ours.high) == pytest.approx((1 - high[step], 1 - low[step]), abs=1e-9)
    else:
        assert (ours.low, ours.high) == (None, None)


def test_a_share_of_nobody_or_everybody_has_no_interval():
    time = np.array([2.0, 3.0, 4.0])
    assert observed_risk(time=time, event=time > 9, horizon=1.0) == ObservedRisk(0.0, None, None)
    assert observed_risk(time=time, event=time > 9, horizon=3.0) == ObservedRisk(0.0, None, None)
    # all had the event: nobody is left to be followed, and nothing is drawn on
    assert observed_risk(time=time, event=time > 0, horizon=99.0) == ObservedRisk(1.0, None, None)


def test_a_curve_is_not_drawn_on_beyond_the_last_patient():
    time, event = np.array([2.0, 3.0, 4.0]), np.array([True, True, False])
    assert observed_risk(time=time, event=event, horizon=4.0).risk == pytest.approx(2 / 3)
    with pytest.raises(CohortError, match="ends at 4, before 5"):
        observed_risk(time=time, event=event, horizon=5.0)


def test_broken_arguments_are_refused():
    with pytest.raises(UsageError, match="horizon above 0"):
        observed_risk(time=np.ones(2), event=np.ones(2, dtype=bool), horizon=0.0)
    with pytest.raises(UsageError, match="booleans"):
        observed_risk(time=np.ones(2), event=np.ones(2), horizon=1.0)
    with pytest.raises(CohortError, match="needs a patient"):
        observed_risk(time=np.array([]), event=np.array([], dtype=bool), horizon=1.0)
