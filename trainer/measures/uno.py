"""Judges risks by Uno's c, which no pattern of censoring shifts; knows nothing of how the risks were made."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from store_schema.errors import CohortError
from trainer.measures.censoring import Censoring
from trainer.metrics import checked, pair_counts


@dataclass(frozen=True)
class UnoConcordance:
    """How weighted comparable pairs are ordered by risk, up to a time."""

    c: float
    """Weighted share of comparable pairs in the right order: 0.5 is chance, 1 is perfect."""
    tau: float
    """Events from this time on judge nothing."""
    events: int
    """Events before tau."""
    beyond: int
    """Patients whose own time is tau or later: they count as the later one of a pair only."""
    comparable: int
    """Pairs that judged c, unweighted."""


def uno_c(
    *,
    risk: Float[np.ndarray, " patient"],
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    censoring: Censoring,
    tau: float | None = None,
) -> UnoConcordance:
    """Share of pairs in which the patient who progressed first, before tau, had the higher risk, as without censoring.

    An event at t stands for 1/G(t)² pairs, since it and its partner had to be followed for so long. Pairs are those of
    `trainer.metrics.harrell_c`; risks are tied when they are equal, without a tolerance. Takes O(n log n).

    Parameters
    ----------
    risk
        Log-risk on any scale; higher is worse.
    time
        Time to event or censoring, in the unit of the training part.
    event
        True where the event was observed.
    censoring
        G of the training part of the model. It is taken to depend on no covariate.
    tau
        Where the tail is cut off; by default, and at most, where the training part's follow-up ends. Near that end
        few patients carry large weights: a tau with some at risk is the steadier choice.

    Raises
    ------
    CohortError
        If no pair is comparable before tau.
    UsageError, TaskError
        As in `trainer.metrics.harrell_c`.

    References
    ----------
    Uno et al. 2011, equation 6.
    """
    risk, time, event = checked(risk, time, event)
    tau = min(censoring.end, np.inf if tau is None else float(tau))
    pairs = pair_counts(risk=risk, time=time, event=event)
    weights = censoring.weights(time=time, event=event, before=tau) ** 2
    total = float(weights @ pairs.comparable)
    if total == 0:
        raise CohortError(
            f"no comparable pair among {len(time)} patients with {int((weights > 0).sum())} events before {tau:g}: "
            "Uno's c is undefined. Use fewer folds, a later tau, or a longer follow-up"
        )
    return UnoConcordance(
        c=float(weights @ (pairs.concordant + 0.5 * pairs.tied_risk)) / total,
        tau=tau,
        events=int((weights > 0).sum()),
        beyond=int((time >= tau).sum()),
        comparable=int(pairs.comparable[weights > 0].sum()),
    )
