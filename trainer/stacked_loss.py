"""Scores the log-risks of many models at once, each by its own patients; knows nothing of networks or how they are fitted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trainer.loss import RiskSets, partial_likelihood_loss
from trainer.spec import Ties

WIDEST = 500.0
"""Spread of log-risks up to which their exponentials, taken off the largest, can be added up in float64."""


class _Places(NamedTuple):
    """Risk sets of one model, by the places of its patients in order of falling time."""

    order: Int[Tensor, " row"]
    before: Int[Tensor, " row"]
    share: Float[Tensor, " row"]
    weight: Float[Tensor, " row"]
    absent: Bool[Tensor, " row"]


@dataclass(frozen=True, eq=False)
class StackedRiskSets:
    """Who is at risk at each event of each model's patients; rows beyond a model's patients are padding.

    The loss is that of `trainer.loss`, summed another way: exponentials are taken off each model's largest risk and added up once,
    forwards for the denominators and backwards for the slopes, which costs a fifth of sums over logarithms. A model whose risks
    spread too far for that goes through `trainer.loss` itself.
    """

    order: Int[Tensor, "model row"]
    """Row of the patient at each place, in order of falling time; padding comes last."""
    before: Int[Tensor, "model row"]
    """Place of the first of the tied events that the event at a place belongs to; one past the last place for others."""
    share: Float[Tensor, "model row"]
    """Share of its tied events that the risk set of an event keeps; 0 for those without the event."""
    weight: Float[Tensor, "model row"]
    """One over the number of events, for an event; 0 for others."""
    absent: Bool[Tensor, "model row"]
    """True at places of padding."""
    sets: Sequence[RiskSets]
    """The same of each model, for those that spread too far."""
    ties: Sequence[Ties]
    """How each model's tied events share their risk set."""

    @classmethod
    def of(
        cls, sets: Sequence[RiskSets], *, ties: Sequence[Ties], rows: int, device: torch.device | str = "cpu"
    ) -> Self:
        """Risk sets of a stack of models with so many rows, from those of each model on the CPU."""
        made: dict[tuple[int, Ties], _Places] = {}
        for one, tie in zip(sets, ties, strict=True):
            if (id(one), tie) not in made:
                made[id(one), tie] = _places(one, tie, rows)
        places = [made[id(one), tie] for one, tie in zip(sets, ties, strict=True)]
        stacked = (torch.stack(tensors).to(device) for tensors in zip(*places, strict=True))
        order, before, share, weight, absent = stacked
        return cls(order, before, share, weight, absent, sets, ties)

    def losses(self, risk: Float[Tensor, "model row"]) -> Float[Tensor, " model"]:
        """Negative log partial likelihood of each model, the mean over its events; float64, lower is better.

        Parameters
        ----------
        risk
            Log-risk of each row; higher is worse. Padding may hold any finite number.
        """
        parts = self._parts(risk)
        losses = (self.weight * (parts.denominator.log() - parts.shifted)).sum(1)
        return self._with_wide(risk, parts, losses, None)

    def losses_and_slopes(
        self, risk: Float[Tensor, "model row"]
    ) -> tuple[Float[Tensor, " model"], Float[Tensor, "model row"]]:
        """The losses, and how each grows with each of its risks; 0 for padding."""
        parts = self._parts(risk)
        losses = (self.weight * (parts.denominator.log() - parts.shifted)).sum(1)
        slopes = torch.zeros_like(parts.shifted).scatter_(1, self.order, self._slopes(parts))
        return self._with_wide(risk, parts, losses, slopes), slopes

    def _parts(self, risk: Float[Tensor, "model row"]) -> "_Parts":
        ordered = risk.double().gather(1, self.order).masked_fill_(self.absent, -torch.inf)
        shifted = ordered - ordered.amax(1, keepdim=True)
        widest = -shifted.masked_fill(self.absent, 0.0).amin(1)
        exponential = shifted.exp()
        ahead = _room(exponential)
        torch.cumsum(exponential, 1, out=ahead[:, 1:])
        tied = _room(exponential).scatter_add_(1, self.before, exponential).gather(1, self.before)
        denominator = torch.addcmul(ahead.gather(1, self.before), self.share, tied)
        return _Parts(shifted.masked_fill_(self.absent, 0.0), exponential, denominator, widest)

    def _slopes(self, parts: "_Parts") -> Float[Tensor, "model row"]:
        """Slopes by place: what each patient adds to the denominators of the events before it in time, and its own event."""
        inverse = self.weight / parts.denominator
        by_first = _room(inverse).scatter_add_(1, self.before, inverse)
        earlier = by_first[:, 1:].flip(1).cumsum(1).flip(1)
        tied = _room(inverse).scatter_add_(1, self.before, self.share * inverse).gather(1, self.before)
        return parts.exponential * earlier.add_(tied) - self.weight

    def _with_wide(
        self,
        risk: Float[Tensor, "model row"],
        parts: "_Parts",
        losses: Float[Tensor, " model"],
        slopes: Float[Tensor, "model row"] | None,
    ) -> Float[Tensor, " model"]:
        for model in torch.nonzero(parts.widest > WIDEST).flatten().tolist():
            sets = self.sets[model]
            patients = len(sets.order)
            with torch.enable_grad():
                own = risk[model, :patients].detach().double().cpu().requires_grad_()
                loss = partial_likelihood_loss(own, sets, ties=self.ties[model])
            losses[model] = loss.item()
            if slopes is not None:
                slopes[model, :patients].copy_(torch.autograd.grad(loss, own)[0])
        return losses


class _Parts(NamedTuple):
    shifted: Float[Tensor, "model row"]
    exponential: Float[Tensor, "model row"]
    denominator: Float[Tensor, "model row"]
    widest: Float[Tensor, " model"]


def _room(like: Float[Tensor, "model row"]) -> Float[Tensor, "model row+1"]:
    """Zeros, one place more than there are rows: the place of those without the event."""
    return like.new_zeros(len(like), like.shape[1] + 1)


def _places(sets: RiskSets, ties: Ties, rows: int) -> _Places:
    order = torch.arange(rows)
    before = torch.full((rows,), rows)
    share, weight = torch.zeros(2, rows, dtype=torch.float64)
    absent = torch.zeros(rows, dtype=torch.bool)
    order[: len(sets.order)] = sets.order
    before[sets.event_row] = sets.before[sets.tie]
    share[sets.event_row] = 1.0 if ties == "breslow" else sets.log_share.exp()
    weight[sets.event_row] = 1 / len(sets.event_row)
    absent[len(sets.order) :] = True
    return _Places(order, before, share, weight, absent)
