"""Pools out-of-fold risks and compares survival between their outer quartiles (Fig. 4); knows nothing of models."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from store_schema.errors import CohortError, TaskError
from trainer.kaplan_meier import KaplanMeier, LogRank, kaplan_meier, log_rank

GROUPS = ("lowest", "lower", "higher", "highest")
"""Risk groups 1 to 4 of a kept model: quartiles of the risks of the patients that it was fitted on."""


@dataclass(frozen=True, eq=False)
class RiskQuartiles:
    """Quartiles of pooled, standardised risks and the curves of the outer two."""

    cuts: tuple[float, float, float]
    """Quartile cuts of the pooled risks, by linear interpolation."""
    quartile: Int[np.ndarray, " patient"]
    """0 for risks up to the first cut, … 3 for those above the third (lowest to highest risk)."""
    low_risk: KaplanMeier
    """Survival in quartile 0."""
    high_risk: KaplanMeier
    """Survival in quartile 3."""
    log_rank: LogRank
    """Quartile 0 against 3; nominal, since folds share training patients."""


def standardise_risks(
    risk: Float[np.ndarray, " patient"], *, train_risk: Float[np.ndarray, " train"]
) -> Float[np.ndarray, " patient"]:
    """Log-risks of a fold's test patients in standard deviations of its training patients' log-risks.

    Models of different folds have their own zero and scale; this makes their risks poolable.

    Parameters
    ----------
    risk
        Log-risks that the fold's model gives its test patients.
    train_risk
        Log-risks that the same model, in evaluation mode, gives all its outer-training patients.

    Raises
    ------
    TaskError
        If the training risks are all equal or not finite: the model tells nobody apart.

    References
    ----------
    Protocol section 6 (Fig. 4): (h - mean)/sd, the sd with divisor n.
    """
    train = np.asarray(train_risk, dtype=np.float64)
    if not np.isfinite(train).all() or np.ptp(train) == 0:
        raise TaskError("the model's training risks are all equal or not finite: its risks cannot be standardised")
    return np.asarray((np.asarray(risk, dtype=np.float64) - train.mean()) / train.std())


def risk_quartiles(
    pooled: Float[np.ndarray, " patient"],
    *,
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
) -> RiskQuartiles:
    """Survival of the patients least and most at risk, by quartiles of pooled risks.

    Parameters
    ----------
    pooled
        Out-of-fold risks of all folds by `standardise_risks`; higher is worse.
    time, event
        Outcomes of the same patients.

    Raises
    ------
    CohortError
        If an outer quartile is empty (ties) or the outer two have no event.

    References
    ----------
    Guinea-Pérez et al. 2026, Fig. 4; protocol section 6.
    """
    z = np.asarray(pooled, dtype=np.float64)
    if not np.isfinite(z).all():
        raise TaskError(f"{int((~np.isfinite(z)).sum())} of {z.size} pooled risks are not finite")
    cuts = np.quantile(z, [0.25, 0.5, 0.75])
    quartile = np.searchsorted(cuts, z, side="left")
    low, high = quartile == 0, quartile == 3
    if not low.any() or not high.any():
        raise CohortError(f"risks of {z.size} patients have no outer quartiles: too many are equal")
    outer = low | high
    return RiskQuartiles(
        cuts=(float(cuts[0]), float(cuts[1]), float(cuts[2])),
        quartile=quartile,
        low_risk=kaplan_meier(time[low], event[low]),
        high_risk=kaplan_meier(time[high], event[high]),
        log_rank=log_rank(time[outer], event[outer], quartile[outer]),
    )
