"""Offers the trainer's models in scikit-survival's style, for notebooks; the same code fits them, and no store or file is known."""

from abc import ABC, abstractmethod
from numbers import Integral
from typing import Self

import numpy as np
from jaxtyping import Float
from pydantic import ValidationError
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from sksurv.functions import StepFunction

from store_schema.errors import ConfigError, UsageError
from trainer.baseline_hazard import BreslowBaseline
from trainer.cohort import Cohort, without_outcomes
from trainer.estimator_inputs import Rows, Seen, X, read_outcome, read_rows
from trainer.judging import Asked, train
from trainer.metrics import harrell_c
from trainer.model_config import FittedModel, Images, NetworkModel, RidgeCoxModel, plain_message
from trainer.part_data import PartData
from trainer.preprocess import PreprocessRules
from trainer.spec import FitConfig
from trainer.splits import Fold


class _SurvivalEstimator(BaseEstimator, ABC):  # type: ignore[misc]
    """What every model shares: outcomes, preprocessing, prediction, score.

    A fit leaves `unique_times_` (distinct times of its patients), `n_features_in_` (covariates) and, of a frame,
    `feature_names_in_`.
    """

    def fit(self, X: X, y: np.ndarray) -> Self:  # noqa: N803 - scikit-learn's name
        """Fit the model.

        Parameters
        ----------
        X
            One row per patient. Numeric columns of a frame are continuous covariates, all others categorical; missing values
            are imputed and covariates standardised by these patients. Images: arrays (patient, ...) by modality; scikit-learn's
            own tools split frames and arrays, not such a mapping.
        y
            Structured array of event and time, as `sksurv.util.Surv` makes it; times > 0 in any unit, which is then the
            curves' too.

        Raises
        ------
        UsageError
            If `y` is no such array, or rows do not agree.
        ConfigError
            If a parameter is out of range.
        CohortError, TaskError
            If the patients do not allow the fit, or it diverges.
        """
        event, time = read_outcome(y)
        rows = read_rows(X)
        patients = rows.patients
        if len(patients) != len(time):
            raise UsageError(f"expected one row of X per patient, got {len(patients)} rows and {len(time)} outcomes")
        model, seed = self._checked_model(rows), self._seed()
        data = PartData.of(
            model,
            # nothing here depends on the unit
            cohort=Cohort(patients, time, event, rows.frame, time_unit="months", person=patients),
            fold=Fold(index=0, repeat=0, train=patients, test=()),
            stream=(0,),
            split_seed=seed,
            rules=PreprocessRules(),
            images=rows.stored,
        )
        (trained,) = train([Asked(model, seed, data)])
        if isinstance(trained, Exception):
            raise trained
        risk = trained.predict(data, patients).log_risk
        self.baseline_ = BreslowBaseline.fit(risk=risk, time=time, event=event)
        self.trained_, self.preprocessor_, self.model_ = trained, data.preprocessor, model
        self.unique_times_ = np.unique(time)
        self._remember(rows)
        return self

    def predict(self, X: X) -> Float[np.ndarray, " patient"]:  # noqa: N803
        """Log-risk of each patient; higher is worse.

        Raises
        ------
        UsageError
            If columns, their kinds, or modalities are not those of the fit; their order does not matter.
        """
        check_is_fitted(self, "trained_")
        rows = read_rows(X)
        self._seen.check(rows)
        cohort = without_outcomes(rows.patients, rows.frame, "months")
        nobody = Fold(index=0, repeat=0, train=(), test=rows.patients)
        data = PartData(cohort, nobody, (0,), 0, self.preprocessor_, rows.stored)
        return np.asarray(self.trained_.predict(data, rows.patients).log_risk)

    def predict_survival_function(self, X: X, *, return_array: bool = False) -> np.ndarray:  # noqa: N803
        """Probability of being free of the event, of each patient over time.

        By Breslow's baseline hazard of the patients of the fit. Step functions, from time 0 to the longest follow-up of the fit;
        with `return_array` their values at `unique_times_`, as (patient, time). scikit-survival's own hold the value of the first
        time before it too; these are 1 there.
        """
        risk = self.predict(X)
        return self._curves(self.baseline_.survival(risk, self.unique_times_), start=1.0, return_array=return_array)

    def predict_cumulative_hazard_function(self, X: X, *, return_array: bool = False) -> np.ndarray:  # noqa: N803
        """Cumulative hazard of each patient over time; as `predict_survival_function`, of which it is -log."""
        risk = self.predict(X)
        return self._curves(self.baseline_.hazard(risk, self.unique_times_), start=0.0, return_array=return_array)

    def score(self, X: X, y: np.ndarray) -> float:  # noqa: N803
        """Harrell's c of the predicted risks: 0.5 is chance, 1 is perfect."""
        event, time = read_outcome(y)
        return harrell_c(risk=self.predict(X), time=time, event=event).c

    @abstractmethod
    def _model(self, rows: Rows) -> FittedModel:
        """The model, for data of this kind."""

    def _checked_model(self, rows: Rows) -> FittedModel:
        try:
            return self._model(rows)
        except ValidationError as error:
            problem = error.errors()[0]
            place = ": ".join(map(str, problem["loc"][:1]))
            told = f"{place}: " if place else ""
            raise ConfigError(
                f"{type(self).__name__}: {told}{plain_message(problem['msg'])}, got {problem['input']!r}"
            ) from error

    def _seed(self) -> int:
        return 0

    def _remember(self, rows: Rows) -> None:
        self._seen = Seen.of(rows)
        self.n_features_in_ = len(self._seen.columns)
        if rows.named:
            self.feature_names_in_ = np.array(self._seen.columns, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _curves(self, values: Float[np.ndarray, "patient time"], *, start: float, return_array: bool) -> np.ndarray:
        if return_array:
            return values
        times = np.concatenate(([0.0], self.unique_times_))
        found = np.empty(len(values), dtype=object)
        for row, curve in enumerate(values):
            found[row] = StepFunction(times, np.concatenate(([start], curve)))
        return found


class RidgeCoxEstimator(_SurvivalEstimator):
    """Ridge Cox on covariates; see `trainer.cox.RidgeCox`.

    Parameters
    ----------
    penalty
        Of the squared coefficients of the standardised covariates, > 0: scikit-survival's ``alpha``. ``inner_cv`` chooses it by
        cross-validation among the patients of the fit.
    ties
        ``efron`` or ``breslow``.
    """

    def __init__(self, *, penalty: float | str = 1.0, ties: str = "efron") -> None:
        self.penalty = penalty
        self.ties = ties

    def _model(self, rows: Rows) -> RidgeCoxModel:
        if rows.images or not len(rows.frame.columns):
            raise UsageError(
                f"ridge Cox reads covariates alone, got {', '.join(rows.images) or 'none'}: use NetworkEstimator"
            )
        return RidgeCoxModel.model_validate(
            {"name": "estimator", "kind": "ridge_cox", "penalty": self.penalty, "ties": self.ties}
        )


class NetworkEstimator(_SurvivalEstimator):
    """DeepSurv on covariates, images, or both; see `trainer.spec.ModelSpec` and `trainer.spec.FitConfig`.

    Early stopping watches a fifth of the patients of the fit, as in a fold of a run.

    Parameters
    ----------
    head, fusion, hidden, dropout
        Of the network.
    epochs, learning_rate, weight_decay, patience
        Of the fit.
    seed
        Of weights, dropout and the watched part: the same seed gives the same model.
    """

    def __init__(
        self,
        *,
        head: str = "average",
        fusion: str = "concat",
        hidden: tuple[int, ...] = (64,),
        dropout: float = 0.3,
        epochs: int = 100,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        patience: int = 20,
        seed: int = 0,
    ) -> None:
        self.head = head
        self.fusion = fusion
        self.hidden = hidden
        self.dropout = dropout
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.patience = patience
        self.seed = seed

    def _model(self, rows: Rows) -> NetworkModel:
        fit = FitConfig(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            patience=self.patience,
        )
        images = Images(modalities=tuple(rows.images), roi="given") if rows.images else None
        settings = {"head": self.head, "fusion": self.fusion, "hidden": self.hidden, "dropout": self.dropout}
        read = {"view": "given" if rows.images else None, "images": images, "clinical": len(rows.frame.columns) > 0}
        return NetworkModel.model_validate({"name": "estimator", "kind": "network", **settings, **read, "fit": fit})

    def _seed(self) -> int:
        given: object = self.seed
        if not isinstance(given, Integral) or given < 0:
            raise ConfigError(f"NetworkEstimator: seed: expected a whole number from 0, got {given!r}")
        return int(given)
