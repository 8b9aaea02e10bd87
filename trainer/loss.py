"""Scores log-risks by the Cox partial likelihood, tied times included; knows nothing of the model that made them."""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from store_schema.errors import CohortError, UsageError
from trainer.spec import Ties


@dataclass(frozen=True, eq=False)
class RiskSets:
    """Who is at risk at each event: all that the loss needs of the outcomes, made once for a batch.

    Patients are ordered by falling time, and at one time those censored before those with the event, so that
    everybody at risk beside the events of a time stands before them.
    """

    order: Int[Tensor, " patient"]
    """Rows of the batch in that order."""
    event_row: Int[Tensor, " event"]
    """Places of the events in that order."""
    tie: Int[Tensor, " event"]
    """Number of the distinct event time that each event belongs to."""
    before: Int[Tensor, " tie"]
    """Patients at risk beside the events of each distinct event time."""
    last: Int[Tensor, " tie"]
    """Place of the last event of each distinct event time."""
    log_share: Float[Tensor, " event"]
    """Log of the share 1 - l/d with which Efron keeps the d tied events in the risk set of the l-th."""

    @classmethod
    def of(cls, *, time: Float[Tensor, " patient"], event: Bool[Tensor, " patient"]) -> Self:
        """Risk sets of patients whose rows may come in any order.

        Raises
        ------
        CohortError
            If no patient has the event: the partial likelihood is empty, and its mean undefined.
        UsageError
            If times and events do not belong to the same patients.
        """
        if time.shape != event.shape or time.ndim != 1:
            raise UsageError(
                f"expected one time and one event per patient, got {tuple(time.shape)}, {tuple(event.shape)}"
            )
        event = event.bool()
        if not bool(event.any()):
            raise CohortError(
                f"the Cox loss needs an event, and all {len(event)} patients are censored: use larger batches, fewer "
                "folds or a longer follow-up"
            )
        by_event = torch.argsort(event, stable=True)
        order = by_event[torch.argsort(time[by_event], descending=True, stable=True)]
        event_row = torch.nonzero(event[order]).squeeze(1)
        _, tie, count = torch.unique_consecutive(time[order][event_row], return_inverse=True, return_counts=True)
        first = torch.cumsum(count, 0) - count
        rank = torch.arange(len(event_row), device=time.device) - first[tie]
        return cls(
            order=order,
            event_row=event_row,
            tie=tie,
            before=event_row[first],
            last=event_row[first + count - 1],
            log_share=torch.log1p(-rank.double() / count[tie]),
        )


def cox_loss(
    *,
    risk: Float[Tensor, "*model patient"],
    time: Float[Tensor, " patient"],
    event: Bool[Tensor, " patient"],
    ties: Ties = "efron",
) -> Float[Tensor, "*model"]:
    """Negative log partial likelihood, the mean over events; lower is better.

    The order of rows does not matter, nor does a constant added to every risk. Sums run over logarithms in float64, so
    that risks hundreds apart neither overflow nor vanish. O(n log n).

    Parameters
    ----------
    risk
        Log-risk; higher is worse. Leading axes are models that saw the same patients.
    time
        Time to event or censoring, in one unit.
    event
        True where the event was observed.
    ties
        ``efron`` (default) or ``breslow``; without tied event times they are equal.

    Returns
    -------
    float64, one value for each model.

    Raises
    ------
    CohortError
        If all patients are censored.
    UsageError
        If the lengths differ.

    References
    ----------
    Cox 1972; Efron 1977; Breslow 1974; Guinea-Pérez et al. 2026, section 2.3.3 (equation of the loss, without its
    penalty).
    """
    return partial_likelihood_loss(risk, RiskSets.of(time=time, event=event), ties=ties)


def partial_likelihood_loss(
    risk: Float[Tensor, "*model patient"], sets: RiskSets, *, ties: Ties = "efron"
) -> Float[Tensor, "*model"]:
    """As `cox_loss`, for risk sets that were made before.

    Raises
    ------
    UsageError
        If the risks are not of as many patients as the risk sets.
    """
    if risk.shape[-1:] != sets.order.shape:
        raise UsageError(f"expected one risk for each of {len(sets.order)} patients, got shape {tuple(risk.shape)}")
    ordered = risk.double()[..., sets.order]
    at_risk = torch.logcumsumexp(ordered, dim=-1)
    own = ordered[..., sets.event_row]
    denominator = at_risk[..., sets.last[sets.tie]] if ties == "breslow" else _efron(at_risk, own, sets)
    return (denominator - own).mean(dim=-1)


def _efron(
    at_risk: Float[Tensor, "*model patient"], own: Float[Tensor, "*model event"], sets: RiskSets
) -> Float[Tensor, "*model event"]:
    # those at risk beside the tied events, plus a shrinking share of these: a sum of positive terms, where the usual
    # difference would cancel when the tied events carry nearly all of the risk
    nobody = at_risk.new_full((*at_risk.shape[:-1], 1), -torch.inf)
    others = torch.cat((nobody, at_risk), dim=-1)[..., sets.before]
    tied = _log_sum_by_tie(own, sets)
    return torch.logaddexp(others[..., sets.tie], tied[..., sets.tie] + sets.log_share)


def _log_sum_by_tie(own: Float[Tensor, "*model event"], sets: RiskSets) -> Float[Tensor, "*model tie"]:
    tie = sets.tie.expand(own.shape)
    nothing = own.new_zeros((*own.shape[:-1], len(sets.before)))
    highest = nothing.scatter_reduce(-1, tie, own.detach(), "amax", include_self=False)
    summed = nothing.scatter_add(-1, tie, torch.exp(own - highest[..., sets.tie]))
    return highest + torch.log(summed)
