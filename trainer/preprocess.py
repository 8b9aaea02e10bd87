"""Turns clinical covariates into numbers by what a training fold says; knows nothing of outcomes, folds or models."""

from collections import Counter
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict

from store_schema.errors import TableError
from trainer.columns import plain_label

MISSING_LEVEL = "missing"
"""Level of a category without a value; a category that is spelled so in the table means the same."""


class PreprocessRules(BaseModel):
    """How missing values are filled.

    Attributes
    ----------
    continuous_missing
        ``mean`` (default) or ``median`` of the training fold's known values. The mean is 0 after z-scoring, so that a
        linear predictor does not move for a patient whose value is unknown.
    categorical_missing
        ``level`` (default): an explicit level `MISSING_LEVEL`. ``mode``: the training fold's most frequent level, as
        in the paper; the alphabetically first among equals.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    continuous_missing: Literal["mean", "median"] = "mean"
    categorical_missing: Literal["level", "mode"] = "level"


class ContinuousColumn(BaseModel):
    """A z-scored covariate: (value, or `fill` where missing, - mean) / sd."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fill: float
    mean: float
    """Mean of the known training values, in the table's unit."""
    sd: float
    """Standard deviation of the same (divisor n), > 0."""


class CategoricalColumn(BaseModel):
    """A one-hot covariate: one feature for each level that some, but not every, training patient has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fill: str
    """Level that a missing value counts as."""
    levels: tuple[str, ...]
    """Levels in order; any other level of a new patient is 0 in all of them."""


class ClinicalPreprocessor(BaseModel):
    """Frozen preprocessing of a training fold; applies to any patient and never learns from one.

    Continuous covariates are imputed and z-scored, categorical ones are one-hot. A covariate or level without
    variance in the training fold is dropped. A level that the training fold does not have becomes 0 in every
    feature of its covariate.

    References
    ----------
    Guinea-Pérez et al. 2026, sections 2.1 and 2.4.2; protocol section 5.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: PreprocessRules
    continuous: tuple[ContinuousColumn, ...]
    categorical: tuple[CategoricalColumn, ...]
    dropped: tuple[str, ...]
    """Covariates or features (``name=level``) without variance in the training fold."""

    @classmethod
    def fit(cls, frame: pd.DataFrame, rules: PreprocessRules | None = None) -> Self:
        """Preprocessing of this training fold.

        Parameters
        ----------
        frame
            Covariates of the training patients alone, such as ``cohort.frame.loc[list(fold.train)]``. Numeric columns
            are continuous, all others (booleans too) categorical.
        rules
            How missing values are filled.
        """
        rules = rules or PreprocessRules()
        numeric = [name for name in frame.columns if _is_continuous(frame[name])]
        continuous = [_fit_continuous(frame[name], rules) for name in numeric]
        pairs = [_fit_categorical(frame[name], rules) for name in frame.columns if name not in numeric]
        flat = [name for name, fitted in zip(numeric, continuous, strict=True) if fitted is None]
        return cls(
            rules=rules,
            continuous=tuple(fitted for fitted in continuous if fitted is not None),
            categorical=tuple(fitted for fitted, _ in pairs if fitted.levels),
            dropped=(*flat, *(name for _, dropped in pairs for name in dropped)),
        )

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns of `transform`: continuous ones, then ``name=level``."""
        one_hot = (f"{column.name}={level}" for column in self.categorical for level in column.levels)
        return (*(column.name for column in self.continuous), *one_hot)

    def transform(self, frame: pd.DataFrame) -> Float[np.ndarray, "patient feature"]:
        """Features of these patients, finite, in the order of `feature_names`.

        Raises
        ------
        TableError
            If a covariate that was fitted is not in the frame.
        """
        fitted = [column.name for column in self.continuous] + [column.name for column in self.categorical]
        absent = [name for name in fitted if name not in frame.columns]
        if absent:
            raise TableError(
                f"expected the covariates of the training fold, and {', '.join(absent)} is not among "
                f"{', '.join(map(str, frame.columns)) or 'none'}"
            )
        parts = [_z_scores(frame[column.name], column) for column in self.continuous]
        parts += [_one_hot(frame[column.name], column) for column in self.categorical]
        return np.concatenate([np.empty((len(frame), 0)), *parts], axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """Preprocessing that `to_dict` wrote."""
        return cls.model_validate(record)


def _is_continuous(column: pd.Series) -> bool:
    return column.dtype.kind in "fiu"


def _fit_continuous(column: pd.Series, rules: PreprocessRules) -> ContinuousColumn | None:
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    known = values[~np.isnan(values)]
    if _is_flat(known):
        return None
    mean = float(known.mean())
    fill = mean if rules.continuous_missing == "mean" else float(np.median(known))
    return ContinuousColumn(name=str(column.name), fill=fill, mean=mean, sd=float(known.std()))


def _is_flat(known: Float[np.ndarray, " value"]) -> bool:
    """Whether the values differ by no more than rounding, or by so little that dividing by it would overflow."""
    return known.size == 0 or float(known.std()) <= max(1e-12 * float(np.abs(known).max()), 1e-150)


def _labels(column: pd.Series, fill: str | None = None) -> list[str | None]:
    missing = column.isna()
    return [fill if gone else plain_label(str(cell)) for cell, gone in zip(column, missing, strict=True)]


def _fit_categorical(column: pd.Series, rules: PreprocessRules) -> tuple[CategoricalColumn, list[str]]:
    known = Counter(label for label in _labels(column) if label is not None)
    fill = MISSING_LEVEL
    if rules.categorical_missing == "mode" and known:
        fill = min(known, key=lambda level: (-known[level], level))
    counts = Counter(_labels(column, fill))
    levels = sorted(level for level in counts if level is not None)
    varying = tuple(level for level in levels if counts[level] < len(column))
    dropped = [f"{column.name}={level}" for level in levels if level not in varying]
    return CategoricalColumn(name=str(column.name), fill=fill, levels=varying), dropped


def _z_scores(column: pd.Series, fitted: ContinuousColumn) -> Float[np.ndarray, "patient 1"]:
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    filled = np.where(np.isnan(values), fitted.fill, values)
    return ((filled - fitted.mean) / fitted.sd)[:, np.newaxis]


def _one_hot(column: pd.Series, fitted: CategoricalColumn) -> Float[np.ndarray, "patient level"]:
    labels = np.array(_labels(column, fitted.fill), dtype=object)
    return np.asarray(labels[:, np.newaxis] == np.array(fitted.levels, dtype=object), dtype=np.float64)
