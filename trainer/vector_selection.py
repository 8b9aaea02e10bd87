"""Prunes and standardises measured features by what a training part shows; knows nothing of outcomes, folds or models."""

from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field

from store_schema.errors import TaskError, UsageError
from trainer.scaling import VectorScaler, medians, varies


class SelectionRules(BaseModel):
    """Which features of a vector are left out.

    Attributes
    ----------
    max_missing
        Largest share of training patients for whom a feature may be unknown.
    max_correlation
        Largest absolute correlation that two features may have; of a pair above it the later one goes.

    References
    ----------
    Protocol section 4, radiomics.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_missing: Annotated[float, Field(ge=0, le=1)] = 0.2
    max_correlation: Annotated[float, Field(gt=0, le=1)] = 0.9


class DroppedFeature(BaseModel):
    """A feature that was left out, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    reason: str


class VectorSelection(BaseModel):
    """Frozen preparation of a training part's features: what is left out, filled and standardised; holds no patient.

    In this order: features unknown for too many patients go, then those without variance, then of each pair that is too
    alike the later one. The correlation is Pearson's, since the model is linear, of values after median imputation. A
    feature is held against those before it that are still there: one that is like a dropped feature alone stays.

    Attributes
    ----------
    rules
        By which features were left out.
    length
        Features of a vector as it comes.
    columns, names
        Place and name of each feature that is kept.
    scaler
        Imputation and z-score of those.
    dropped
        The others, in their order, each with its reason.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: SelectionRules
    length: int
    columns: tuple[int, ...]
    names: tuple[str, ...]
    scaler: VectorScaler
    dropped: tuple[DroppedFeature, ...]

    @classmethod
    def fit(
        cls, vectors: Float[np.ndarray, "patient feature"], *, names: Sequence[str], rules: SelectionRules | None = None
    ) -> Self:
        """Preparation of this training part, NaN standing for a value that is not known; give it no other patient.

        Raises
        ------
        UsageError
            If there is no patient, or not one name for each feature.
        TaskError
            If no feature is left.
        """
        rules = rules or SelectionRules()
        if len(vectors) == 0 or vectors.shape[1] != len(names):
            raise UsageError(f"expected one name per feature of some patients, got {len(names)} for {vectors.shape}")
        values = vectors.astype(np.float64)
        reasons = _unknown(values, rules) | _flat(values)
        left = [column for column in range(len(names)) if column not in reasons]
        reasons = {**_alike(values[:, left], left, names, rules), **reasons}
        columns = tuple(column for column in left if column not in reasons)
        if not columns:
            raise TaskError(
                f"none of the {len(names)} features is left for the {len(values)} training patients: they are unknown for "
                f"more than {rules.max_missing:.0%} of them, or do not vary; check the view"
            )
        return cls(
            rules=rules,
            length=len(names),
            columns=columns,
            names=tuple(names[column] for column in columns),
            scaler=VectorScaler.fit(values[:, list(columns)]),
            dropped=tuple(DroppedFeature(name=names[column], reason=reasons[column]) for column in sorted(reasons)),
        )

    def transform(self, vectors: Float[np.ndarray, "patient feature"]) -> Float[np.ndarray, "patient kept"]:
        """Features that are kept, finite and standardised, in the order of `names`; float64.

        Raises
        ------
        UsageError
            If the vectors are not of the length of those of the fit.
        """
        if vectors.shape[1:] != (self.length,):
            raise UsageError(
                f"expected vectors of {self.length} features, as in the training part, got {vectors.shape[1:]}"
            )
        return self.scaler.scores(vectors[:, list(self.columns)])


def _unknown(values: Float[np.ndarray, "patient feature"], rules: SelectionRules) -> dict[int, str]:
    share = np.isnan(values).mean(axis=0)
    return {int(column): f"unknown for {share[column]:.0%}" for column in np.flatnonzero(share > rules.max_missing)}


def _flat(values: Float[np.ndarray, "patient feature"]) -> dict[int, str]:
    filled = np.where(np.isnan(values), medians(values), values)
    return {int(column): "no variance" for column in np.flatnonzero(~varies(filled))}


def _alike(
    values: Float[np.ndarray, "patient feature"], columns: Sequence[int], names: Sequence[str], rules: SelectionRules
) -> dict[int, str]:
    """Reasons of those that are like an earlier one that stays."""
    if not columns:
        return {}
    scores = VectorScaler.fit(values).scores(values)
    correlation = scores.T @ scores / len(scores)
    kept: list[int] = []
    reasons: dict[int, str] = {}
    for place, column in enumerate(columns):
        with_kept = correlation[place, kept]
        first = np.flatnonzero(np.abs(with_kept) > rules.max_correlation)
        if len(first):
            other = names[columns[kept[first[0]]]]
            reasons[column] = f"correlation {with_kept[first[0]]:.2f} with {other}"
        else:
            kept.append(place)
    return reasons
