"""Measures how far the embeddings of the same patients agree; reads nothing."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from store_schema.errors import CohortError
from trainer.robustness.agreement import icc, icc_of_each
from trainer.robustness.results import Agreement, Component, EmbeddingRobustness, Spread

Matrix = Float[np.ndarray, "patient feature"]
NO_VARIANCE = 1e-12
"""Share of the variance below which a component is rounding."""


@dataclass(frozen=True, eq=False)
class Distances:
    """How far each patient's embedding moved."""

    relative_l2: Float[np.ndarray, " patient"]
    """‖perturbed − base‖ / ‖base‖; NaN where the base is all zero."""
    cosine: Float[np.ndarray, " patient"]
    """NaN where one of the two is all zero."""


def distances(base: Matrix, perturbed: Matrix) -> Distances:
    """How far each patient's embedding moved; features not known in one of the two are left out of both."""
    known = np.isfinite(base) & np.isfinite(perturbed)
    one, other = np.where(known, base, 0.0), np.where(known, perturbed, 0.0)
    before, after = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = np.where(before > 0, np.linalg.norm(other - one, axis=1) / before, np.nan)
        cosine = np.where((before > 0) & (after > 0), (one * other).sum(axis=1) / (before * after), np.nan)
    return Distances(moved, np.clip(cosine, -1.0, 1.0))


def embedding_robustness(
    base: Matrix, perturbed: Matrix, *, modality: str, roi: str, components: int
) -> EmbeddingRobustness:
    """Agreement and distances of the embeddings of one modality and region.

    Parameters
    ----------
    base, perturbed
        Of the same patients, in one order; NaN where a feature is not known.
    components
        Principal components of the base to judge, at most.

    Raises
    ------
    CohortError
        If no patient's embedding has a length, so that no distance is defined.
    """
    known = np.isfinite(base).all(axis=0) & np.isfinite(perturbed).all(axis=0)
    first, second = base[:, known], perturbed[:, known]
    each = icc_of_each(np.stack([first, second], axis=1)) if known.any() else np.empty(0)
    each = each[np.isfinite(each)]
    moved = distances(base, perturbed)
    return EmbeddingRobustness(
        modality=modality,
        roi=roi,
        patients=len(base),
        features=base.shape[1],
        constant=base.shape[1] - len(each),
        icc=spread(each) if len(each) else None,
        reason=None if len(each) else "no feature varies: agreement is not defined",
        components=tuple(_components(first, second, components)),
        relative_l2=_told(moved.relative_l2, f"{modality}/{roi}"),
        cosine=_told(moved.cosine, f"{modality}/{roi}"),
    )


def agreement(*series: Float[np.ndarray, " patient"]) -> Agreement:
    """ICC(2,1) of several series of the same patients, or why there is none."""
    try:
        found = icc(np.stack(series, axis=1))
    except CohortError as error:
        return Agreement(value=None, reason=str(error))
    return Agreement(value=found.value, low=found.low, high=found.high)


def spread(values: Float[np.ndarray, " value"]) -> Spread:
    """Median and quartiles of finite numbers."""
    lower, median, upper = (float(one) for one in np.quantile(values, [0.25, 0.5, 0.75]))
    return Spread(median=median, lower=lower, upper=upper, n=len(values))


def _told(values: Float[np.ndarray, " patient"], where: str) -> Spread:
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise CohortError(f"the embeddings of {where} are all zero: no distance is defined")
    return spread(finite)


def _components(base: Matrix, perturbed: Matrix, most: int) -> list[Component]:
    """Agreement along the first principal components of the base, on which both are projected."""
    centre = base.mean(axis=0)
    _, values, axes = np.linalg.svd(base - centre, full_matrices=False)
    total = float((values**2).sum())
    if total == 0:
        return []
    shares = values**2 / total
    chosen = [place for place in range(min(most, len(base) - 1)) if place < len(shares) and shares[place] > NO_VARIANCE]
    return [
        Component(
            explained=float(shares[place]),
            icc=agreement((base - centre) @ axes[place], (perturbed - centre) @ axes[place]),
        )
        for place in chosen
    ]
