"""Offers the trainer's models in scikit-survival's style, for notebooks; the same code fits them, and no store or file is known."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from sksurv.functions import StepFunction

from store_schema.errors import UsageError
from trainer.baseline_hazard import BreslowBaseline
from trainer.cohort import Cohort, without_outcomes
from trainer.judging import Asked, train
from trainer.metrics import harrell_c
from trainer.model_config import FittedModel, Images, NetworkModel, RidgeCoxModel
from trainer.part_data import PartData
from trainer.preprocess import PreprocessRules
from trainer.spec import FitConfig
from trainer.splits import Fold
from trainer.stored_images import StoredImages

X = pd.DataFrame | np.ndarray | Mapping[str, Any]
"""Covariates as a frame or an array; with images a mapping: ``clinical`` to covariates, if any, each modality to its array."""


class _SurvivalEstimator(BaseEstimator, ABC):  # type: ignore[misc]
    """What every model shares: outcomes, preprocessing, prediction, score.

    A fit leaves `unique_times_`, the distinct times of its patients.
    """

    def fit(self, X: X, y: np.ndarray) -> Self:  # noqa: N803 - scikit-learn's name
        """Fit the model.

        Parameters
        ----------
        X
            One row per patient. Numeric columns of a frame are continuous covariates, all others categorical; missing values
            are imputed and covariates standardised by these patients. Images: arrays (patient, ...) by modality.
        y
            Structured array of event and time, as `sksurv.util.Surv` makes it.

        Raises
        ------
        UsageError
            If `y` is no such array, or rows do not agree.
        CohortError, TaskError
            If the patients do not allow the fit, or it diverges.
        """
        event, time = _outcome(y)
        frame, images = _parts(X)
        patients = tuple(str(row) for row in range(len(time)))
        cohort = Cohort(
            patients=patients,
            time=time,
            event=event,
            frame=_indexed(frame, patients),
            time_unit="months",
            person=patients,
        )
        model = self._model(clinical=len(frame.columns) > 0, modalities=tuple(images))
        everybody = Fold(index=0, repeat=0, train=patients, test=())
        data = PartData.of(
            model,
            cohort=cohort,
            fold=everybody,
            stream=(0,),
            split_seed=self._seed(),
            rules=PreprocessRules(),
            images=_stored(images),
        )
        (trained,) = train([Asked(model, self._seed(), data)])
        if isinstance(trained, Exception):
            raise trained
        self.trained_, self.preprocessor_, self.model_ = trained, data.preprocessor, model
        risk = trained.predict(data, patients).log_risk
        self.baseline_ = BreslowBaseline.fit(risk=risk, time=time, event=event)
        self.unique_times_ = np.unique(time)
        return self

    def predict(self, X: X) -> Float[np.ndarray, " patient"]:  # noqa: N803
        """Log-risk of each patient; higher is worse."""
        check_is_fitted(self, "trained_")
        frame, images = _parts(X)
        number = len(frame) if len(frame.columns) else len(next(iter(images.values()), ()))
        patients = tuple(str(row) for row in range(number))
        cohort = without_outcomes(patients, _indexed(frame, patients), "months")
        nobody = Fold(index=0, repeat=0, train=(), test=patients)
        data = PartData(cohort, nobody, (0,), self._seed(), self.preprocessor_, _stored(images))
        return np.asarray(self.trained_.predict(data, patients).log_risk)

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
        event, time = _outcome(y)
        return harrell_c(risk=self.predict(X), time=time, event=event).c

    @abstractmethod
    def _model(self, *, clinical: bool, modalities: tuple[str, ...]) -> FittedModel:
        """The model, for data of this kind."""

    def _seed(self) -> int:
        return int(getattr(self, "seed", 0))

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
        Of the squared coefficients, > 0.
    ties
        ``efron`` or ``breslow``.
    """

    def __init__(self, *, penalty: float = 1.0, ties: str = "efron") -> None:
        self.penalty = penalty
        self.ties = ties

    def _model(self, *, clinical: bool, modalities: tuple[str, ...]) -> RidgeCoxModel:
        if modalities or not clinical:
            raise UsageError(
                f"ridge Cox reads covariates alone, got {', '.join(modalities) or 'none'}: use NetworkEstimator"
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

    def _model(self, *, clinical: bool, modalities: tuple[str, ...]) -> NetworkModel:
        fit = FitConfig(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            patience=self.patience,
        )
        images = Images(modalities=modalities, roi="given") if modalities else None
        settings = {"head": self.head, "fusion": self.fusion, "hidden": self.hidden, "dropout": self.dropout}
        named = {"name": "estimator", "kind": "network", "view": "given" if modalities else None}
        return NetworkModel.model_validate({**named, **settings, "images": images, "clinical": clinical, "fit": fit})


def _outcome(y: np.ndarray) -> tuple[Bool[np.ndarray, " patient"], Float[np.ndarray, " patient"]]:
    names = getattr(getattr(y, "dtype", None), "names", None)
    if names is None or len(names) != 2 or y.dtype[names[0]] != np.bool_:
        raise UsageError(
            "expected y as a structured array of event (boolean) and time, as sksurv.util.Surv.from_arrays(event, time) makes it"
        )
    return np.asarray(y[names[0]]), np.asarray(y[names[1]], dtype=np.float64)


def _parts(given: X) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Covariates, without columns where there are none, and images by modality."""
    if not isinstance(given, Mapping):
        return _frame(given), {}
    images = {name: np.asarray(array) for name, array in given.items() if name != "clinical"}
    lengths = {name: len(rows) for name, rows in given.items()}
    if len(set(lengths.values())) != 1:
        raise UsageError(f"expected as many rows of everything, at least one, got {lengths}")
    rows = next(iter(lengths.values()))
    clinical = given.get("clinical")
    return pd.DataFrame(index=range(rows)) if clinical is None else _frame(clinical), images


def _stored(images: dict[str, np.ndarray]) -> StoredImages | None:
    return StoredImages(images) if images else None


def _frame(given: pd.DataFrame | np.ndarray) -> pd.DataFrame:
    if isinstance(given, pd.DataFrame):
        return given
    array = np.asarray(given, dtype=np.float64)
    if array.ndim != 2:
        raise UsageError(f"expected X as (patient, feature), got shape {array.shape}")
    return pd.DataFrame(array, columns=[f"x{column}" for column in range(array.shape[1])])


def _indexed(frame: pd.DataFrame, patients: tuple[str, ...]) -> pd.DataFrame:
    if len(frame) != len(patients):
        raise UsageError(f"expected one row of X per patient, got {len(frame)} rows and {len(patients)} outcomes")
    return frame.set_axis(pd.Index(patients, dtype=object), axis=0)
