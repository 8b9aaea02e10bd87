"""Cox loss: against statsmodels, pycox, a brute force in many digits, and its own symmetries."""

import math
import warnings
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.duration.hazard_regression import PHReg

from store_schema.errors import CohortError, UsageError
from trainer.loss import RiskSets, cox_loss, partial_likelihood_loss

with warnings.catch_warnings():
    # pycox 0.3.0 has "\in" in plain docstrings, a SyntaxWarning on Python 3.12 when it is first compiled
    warnings.simplefilter("ignore", SyntaxWarning)
    from pycox.models.loss import CoxPHLoss

TIES = ("efron", "breslow")


def outcomes(seed, n, *, distinct=None):
    """Risks, times and events; times are whole numbers up to `distinct`, or all different."""
    rng = np.random.default_rng(seed)
    time = rng.permutation(n) + 1.0 if distinct is None else rng.integers(1, distinct + 1, n).astype(float)
    event = rng.random(n) < 0.6
    event[0] = True
    return rng.normal(size=n), time, event


def loss(risk, time, event, ties="efron"):
    return float(cox_loss(risk=torch.tensor(risk), time=torch.tensor(time), event=torch.tensor(event), ties=ties))


def brute_force(risk, time, event, ties):
    """Mean over events, each tied time written out; fsum over shifted exponentials, one risk set after another."""
    total = 0.0
    for moment in np.unique(time[event]):
        tied = risk[event & (time == moment)]
        others = np.concatenate([risk[time > moment], risk[(time == moment) & ~event]])
        top = max(risk[time >= moment])
        for rank, own in enumerate(tied):
            share = 1 - rank / len(tied) if ties == "efron" else 1.0
            terms = [math.exp(value - top) for value in others] + [share * math.exp(value - top) for value in tied]
            total += math.log(math.fsum(terms)) + top - own
    return total / event.sum()


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("distinct", [3, 12, 60])
def test_cox_loss_equals_statsmodels_log_likelihood_on_tied_times(ties, distinct):
    rng = np.random.default_rng(distinct)
    _, time, event = outcomes(distinct, 80, distinct=distinct)
    features, coefficients = rng.normal(size=(80, 4)), rng.normal(size=4)
    reference = PHReg(time, features, status=event, ties=ties).loglike(coefficients)
    assert loss(features @ coefficients, time, event, ties) == pytest.approx(-reference / event.sum(), rel=1e-12)


def test_cox_loss_equals_pycox_on_untied_times():
    risk, time, event = outcomes(1, 60)
    ours = torch.tensor(risk, requires_grad=True)
    theirs = torch.tensor(risk, requires_grad=True)
    cox_loss(risk=ours, time=torch.tensor(time), event=torch.tensor(event)).backward()
    order = np.argsort(-time)
    reference = CoxPHLoss()(theirs[order], torch.tensor(time)[order], torch.tensor(event)[order])
    reference.backward()
    # pycox adds 1e-7 within the logarithm
    assert loss(risk, time, event) == pytest.approx(reference.item(), abs=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=0)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("distinct", [1, 4, None])
def test_cox_loss_gradient_equals_finite_differences(ties, distinct):
    risk, time, event = outcomes(2, 14, distinct=distinct)
    time, event = torch.tensor(time), torch.tensor(event)
    point = torch.tensor(risk, requires_grad=True)
    assert torch.autograd.gradcheck(lambda risk: cox_loss(risk=risk, time=time, event=event, ties=ties), (point,))


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("spread", [1.0, 100.0, 1000.0])
def test_cox_loss_is_right_for_risks_far_apart(ties, spread):
    risk, time, event = outcomes(3, 50, distinct=9)
    risk *= spread
    assert loss(risk, time, event, ties) == pytest.approx(brute_force(risk, time, event, ties), rel=1e-12)


@pytest.mark.parametrize("ties", TIES)
def test_cox_loss_has_a_finite_gradient_for_risks_far_apart(ties):
    risk, time, event = outcomes(4, 50, distinct=9)
    point = torch.tensor(np.sign(risk) * 1e3, requires_grad=True)
    cox_loss(risk=point, time=torch.tensor(time), event=torch.tensor(event), ties=ties).backward()
    assert torch.isfinite(point.grad).all()
    assert abs(float(point.grad.sum())) < 1e-12


def test_efron_does_not_cancel_when_the_tied_events_carry_all_of_the_risk():
    # exp(0) beside two tied exp(50): S - (1/2) D in float64 would lose exp(0), as S and D are then equal
    risk, time, event = np.array([0.0, 50.0, 50.0]), np.array([2.0, 1.0, 1.0]), np.array([True, True, True])
    expected = (0 + math.log1p(2 * math.exp(50)) - 50 + math.log1p(math.exp(50)) - 50) / 3
    assert loss(risk, time, event) == pytest.approx(expected, rel=1e-14)


def test_cox_loss_of_float32_risks_is_computed_in_float64():
    risk, time, event = outcomes(5, 400, distinct=30)
    exact = loss(risk.astype(np.float32).astype(np.float64), time, event)
    assert loss(risk.astype(np.float32), time, event) == pytest.approx(exact, rel=1e-14)
    assert cox_loss(risk=torch.zeros(2), time=torch.ones(2), event=torch.ones(2).bool()).dtype == torch.float64


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 30), distinct=st.integers(1, 10), ties=st.sampled_from(TIES))
def test_cox_loss_depends_neither_on_row_order_nor_on_a_shift_of_risk(seed, n, distinct, ties):
    risk, time, event = outcomes(seed, n, distinct=distinct)
    shuffled = np.random.default_rng(seed).permutation(n)
    expected = brute_force(risk, time, event, ties)
    assert loss(risk, time, event, ties) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert loss(risk[shuffled], time[shuffled], event[shuffled], ties) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert loss(risk + 300, time, event, ties) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_cox_loss_gradient_follows_the_rows_when_they_are_reordered():
    risk, time, event = outcomes(6, 30, distinct=5)
    shuffled = np.random.default_rng(0).permutation(30)
    gradients = []
    for order in (np.arange(30), shuffled):
        point = torch.tensor(risk[order], requires_grad=True)
        cox_loss(risk=point, time=torch.tensor(time[order]), event=torch.tensor(event[order])).backward()
        gradients.append(point.grad.numpy())
    np.testing.assert_allclose(gradients[0][shuffled], gradients[1], atol=1e-15)


def test_efron_equals_breslow_without_tied_events_even_beside_tied_censorings():
    risk, time, event = outcomes(7, 40, distinct=12)
    for first, second in combinations(np.flatnonzero(event), 2):
        event[second] &= time[first] != time[second]
    assert len(np.unique(time)) < len(time)
    assert loss(risk, time, event, "efron") == pytest.approx(loss(risk, time, event, "breslow"), rel=1e-14)


def test_equal_risks_give_the_mean_log_size_of_the_risk_sets():
    time, event = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, False])
    assert loss(np.zeros(4), time, event) == pytest.approx((math.log(4) + math.log(2)) / 2)


def test_models_side_by_side_get_the_losses_they_get_alone():
    _, time, event = outcomes(8, 25, distinct=6)
    risks = torch.randn(3, 25, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sets = RiskSets.of(time=torch.tensor(time), event=torch.tensor(event))
    together = partial_likelihood_loss(risks, sets)
    assert together.tolist() == pytest.approx([loss(risk.numpy(), time, event) for risk in risks], rel=1e-14)


def test_all_censored_patients_are_refused_and_give_no_nan():
    with pytest.raises(CohortError, match="all 3 patients are censored"):
        loss(np.zeros(3), np.ones(3), np.zeros(3, dtype=bool))


def test_lengths_that_differ_are_refused():
    with pytest.raises(UsageError, match="one time and one event"):
        loss(np.zeros(3), np.ones(3), np.ones(2, dtype=bool))
    with pytest.raises(UsageError, match="each of 2 patients"):
        loss(np.zeros(3), np.ones(2), np.ones(2, dtype=bool))
