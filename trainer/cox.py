"""Fits the ridge-penalised Cox model that image models must beat; knows nothing of tables, folds or images."""

import warnings
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv

from store_schema.errors import CohortError, ConfigError, TaskError, UsageError
from trainer.baseline_hazard import BreslowBaseline

Ties = Literal["efron", "breslow"]


class RidgeCox(BaseModel):
    """Proportional hazards, linear in the features, with an L2 penalty; holds no patient.

    Attributes
    ----------
    penalty
        Weight a of (partial log-likelihood - a/2 · sum of squared coefficients), summed over events, not averaged: 1
        is a standard normal prior on each coefficient. Features are taken as they come: standardise them first.
    ties
        How tied event times share their risk set.
    feature_names
        Names of the columns that were fitted, for reports.
    coefficients
        Log hazard ratio per unit of each feature.
    baseline
        Hazard of the training part, for survival curves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    penalty: float
    ties: Ties
    feature_names: tuple[str, ...]
    coefficients: tuple[float, ...]
    baseline: BreslowBaseline

    @classmethod
    def fit(
        cls,
        features: Float[np.ndarray, "patient feature"],
        *,
        time: Float[np.ndarray, " patient"],
        event: Bool[np.ndarray, " patient"],
        penalty: float = 1.0,
        ties: Ties = "efron",
        feature_names: tuple[str, ...] | None = None,
    ) -> Self:
        """Model of a training part.

        Parameters
        ----------
        features
            Finite and standardised, such as `ClinicalPreprocessor.transform` gives.
        time, event
            Outcomes of the same patients.
        penalty
            Above 0: one-hot features are collinear, and without a penalty they have no solution.
        ties
            ``efron`` (default) or ``breslow``.
        feature_names
            Names for reports.

        Raises
        ------
        ConfigError
            If the penalty is not positive.
        CohortError
            If there is no event, or no feature is left.
        TaskError
            If the fit does not converge.

        References
        ----------
        Guinea-Pérez et al. 2026, section 2.4.2 (clinical-only baselines); sksurv/linear_model/coxph.py.
        """
        if not penalty > 0:
            raise ConfigError(f"the penalty of ridge Cox must be > 0, got {penalty}")
        names = feature_names or tuple(f"x{column}" for column in range(features.shape[1]))
        _check_training(features, np.asarray(event), names)
        coefficients = _coefficients(features, time, event, CoxPHSurvivalAnalysis(alpha=penalty, ties=ties))
        risk = _log_risk(features, coefficients)
        return cls(
            penalty=penalty,
            ties=ties,
            feature_names=names,
            coefficients=coefficients,
            baseline=BreslowBaseline.fit(risk=risk, time=np.asarray(time), event=np.asarray(event)),
        )

    def predict(self, features: Float[np.ndarray, "patient feature"]) -> Float[np.ndarray, " patient"]:
        """Log-risk of each patient; higher is worse.

        Raises
        ------
        UsageError
            If the number of features is not that of the fit.
        """
        if features.shape[1] != len(self.coefficients):
            raise UsageError(f"expected {len(self.coefficients)} features, got {features.shape[1]}")
        return _log_risk(features, self.coefficients)

    def predict_survival(
        self, features: Float[np.ndarray, "patient feature"], times: Float[np.ndarray, " time"]
    ) -> Float[np.ndarray, "patient time"]:
        """Probability that each patient is free of the event after each time, in the unit of the training times."""
        return self.baseline.survival(self.predict(features), times)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """Model that `to_dict` wrote."""
        return cls.model_validate(record)


def _check_training(
    features: Float[np.ndarray, "patient feature"], event: Bool[np.ndarray, " patient"], names: tuple[str, ...]
) -> None:
    if len(names) != features.shape[1]:
        raise UsageError(f"expected one name per feature, got {len(names)} for {features.shape[1]}")
    if not event.any():
        raise CohortError(f"ridge Cox needs an event in its training part, and {len(event)} patients have none")
    if features.shape[1] == 0:
        raise CohortError("ridge Cox needs a feature: no declared covariate varies in the training fold")
    if not np.isfinite(features).all():
        raise UsageError("ridge Cox needs finite features: impute missing values first")


def _coefficients(
    features: Float[np.ndarray, "patient feature"],
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    model: CoxPHSurvivalAnalysis,
) -> tuple[float, ...]:
    if features.shape[1] <= len(features):
        return tuple(_converged(features, time, event, model).coef_.tolist())
    # more features than patients: the penalty keeps the coefficients in the space that the patients span, and there the
    # same model has as many coefficients as patients, with the same penalty
    left, spread, axes = np.linalg.svd(np.asarray(features, dtype=np.float64), full_matrices=False)
    reduced = _converged(left * spread, time, event, model).coef_
    return tuple((reduced @ axes).tolist())


def _converged(
    features: Float[np.ndarray, "patient feature"],
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    model: CoxPHSurvivalAnalysis,
) -> CoxPHSurvivalAnalysis:
    with warnings.catch_warnings():
        # not converged (a UserWarning), overflow or a singular Hessian: each leaves coefficients that mean nothing
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return model.fit(features, Surv.from_arrays(event, time))
        except (UserWarning, RuntimeWarning, ValueError, np.linalg.LinAlgError) as error:
            raise TaskError(
                f"ridge Cox with penalty {model.alpha:g} on {features.shape[0]} patients and {features.shape[1]} "
                f"features did not converge ({error}): standardise the features or raise the penalty"
            ) from error


def _log_risk(
    features: Float[np.ndarray, "patient feature"], coefficients: tuple[float, ...]
) -> Float[np.ndarray, " patient"]:
    # row by row, not by a matrix product: equal rows then get equal risks wherever they stand, and ties stay ties
    return np.asarray((np.ascontiguousarray(features, dtype=np.float64) * np.array(coefficients)).sum(axis=1))
