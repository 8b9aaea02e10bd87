"""Loss of many models at once: against the loss of one, finite differences, and what padding and neighbours must not do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.loss import RiskSets, partial_likelihood_loss
from trainer.stacked_loss import WIDEST, StackedRiskSets

ROWS = 32


def patients(seed, n, *, distinct):
    """Log-risks and risk sets; times are whole numbers up to `distinct`."""
    rng = np.random.default_rng(seed)
    event = rng.random(n) < 0.6
    event[rng.integers(n)] = True
    time = rng.integers(1, distinct + 1, n).astype(float)
    return torch.from_numpy(rng.normal(size=n)), RiskSets.of(time=torch.from_numpy(time), event=torch.from_numpy(event))


def alone(risk, sets, ties):
    """Loss of one model, and its slopes by torch."""
    point = risk.clone().requires_grad_()
    loss = partial_likelihood_loss(point, sets, ties=ties)
    return loss.detach(), torch.autograd.grad(loss, point)[0]


def stacked(risks, sets, ties, *, padding=0.0):
    """Losses, slopes, and losses without slopes."""
    whole = torch.full((len(risks), ROWS), padding, dtype=torch.float64)
    for row, risk in zip(whole, risks, strict=True):
        row[: len(risk)] = risk
    both = StackedRiskSets.of(sets, ties=ties, rows=ROWS)
    return *both.losses_and_slopes(whole), both.losses(whole)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_each_model_has_the_loss_and_the_slopes_that_it_has_alone(data):
    models = data.draw(st.integers(1, 5))
    ties = [data.draw(st.sampled_from(["efron", "breslow"])) for _ in range(models)]
    sizes = [(data.draw(st.integers(1, ROWS)), data.draw(st.integers(1, 40))) for _ in range(models)]
    made = [patients(seed, n, distinct=distinct) for seed, (n, distinct) in enumerate(sizes)]
    spread = data.draw(st.sampled_from([0.01, 1.0, 100.0, 10_000.0]))
    risks, sets = [spread * risk for risk, _ in made], [one for _, one in made]
    losses, slopes, again = stacked(risks, sets, ties)
    assert torch.equal(losses, again)
    for model, (risk, one) in enumerate(zip(risks, sets, strict=True)):
        loss, slope = alone(risk, one, ties[model])
        torch.testing.assert_close(losses[model], loss, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(slopes[model, : len(risk)], slope, rtol=1e-9, atol=1e-12)
        assert not slopes[model, len(risk) :].any()


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_slopes_equal_finite_differences(ties):
    risk, sets = patients(1, 20, distinct=6)
    _, slopes, _ = stacked([risk], [sets], [ties])
    for patient in range(20):
        moved = [risk + step * torch.eye(20, dtype=torch.float64)[patient] for step in (1e-5, -1e-5)]
        above, below = (stacked([one], [sets], [ties])[2][0] for one in moved)
        assert float(slopes[0, patient]) == pytest.approx(float((above - below) / 2e-5), abs=1e-8)


def test_what_padding_holds_changes_no_bit():
    made = [patients(seed, n, distinct=9) for seed, n in enumerate((5, 17, ROWS))]
    risks, sets = zip(*made, strict=True)
    runs = [stacked(risks, sets, ["efron"] * 3, padding=padding) for padding in (0.0, 1e6, -1e6)]
    for other in runs[1:]:
        assert all(torch.equal(one, two) for one, two in zip(runs[0], other, strict=True))


@pytest.mark.parametrize("spread", [0.9 * WIDEST, 1.1 * WIDEST, 1e5])
def test_wide_spreads_keep_what_a_patient_far_below_the_highest_risk_adds(spread):
    # the highest risk leaves first, by censoring: the event after it is compared with its equal alone
    time, event = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([False, True, False])
    risk = torch.tensor([spread, 0.0, 0.0], dtype=torch.float64)
    losses, slopes, _ = stacked([risk], [RiskSets.of(time=time, event=event)], ["efron"])
    assert float(losses[0]) == pytest.approx(np.log(2), rel=1e-12)
    assert slopes[0, :3].tolist() == pytest.approx([0.0, -0.5, 0.5], abs=1e-12)


def test_a_model_that_is_not_finite_leaves_the_others_as_they_are():
    made = [patients(seed, 20, distinct=9) for seed in range(3)]
    risks, sets = [risk for risk, _ in made], [one for _, one in made]
    before = stacked(risks, sets, ["efron"] * 3)
    risks[1] = torch.full((20,), torch.nan, dtype=torch.float64)
    after = stacked(risks, sets, ["efron"] * 3)
    assert not torch.isfinite(after[0][1])
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one[[0, 2]], other[[0, 2]])
