"""Fits models of any kind in the training part of a fold and lets them judge both parts; reads and writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float

from store_schema.errors import CohortError, TaskError
from trainer.cox import RidgeCox
from trainer.dealing import deal
from trainer.epochs import choose_epochs
from trainer.fit import Fitted, Prediction, fit_model
from trainer.model_config import FittedModel, NetworkModel, RidgeCoxModel
from trainer.part_data import PartData
from trainer.results import Curves
from trainer.splits import inner_split

EPOCH_STREAM = 2
"""Keeps the parts that choose a number of epochs apart from outer (0) and inner (1) splits."""
EPOCH_PARTS = 5


@dataclass(frozen=True, eq=False)
class Judged:
    """What a fitted model says of both parts of a fold."""

    train_risk: Float[np.ndarray, " train"]
    """Log-risks of all training patients, in evaluation mode."""
    test_risk: Float[np.ndarray, " test"]
    """Log-risks of the test patients."""
    alpha: Float[np.ndarray, " test"] | None = None
    """Gate's weight of the first modality."""
    curves: Curves | None = None
    """How a network's fit went."""
    coefficients: dict[str, float] | None = None
    """Of a linear model."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A model to fit, and on what."""

    model: FittedModel
    seed: int
    data: PartData


class Trained(Protocol):
    """A fitted model of any kind: all that prediction needs but the preprocessing of covariates, which its data hold."""

    def predict(self, data: PartData, patients: Sequence[str]) -> Prediction:
        """Log-risks of these patients of the data, and the gate's weights where there is one."""

    @property
    def curves(self) -> Curves | None:
        """How a network's fit went."""

    @property
    def coefficients(self) -> dict[str, float] | None:
        """Log hazard ratios of a linear model."""


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """One of our networks."""

    fitted: Fitted

    def predict(self, data: PartData, patients: Sequence[str]) -> Prediction:
        """Log-risks in evaluation mode, and the gate's weights."""
        return self.fitted.predict(data.batch(patients).inputs)

    @property
    def curves(self) -> Curves:
        """How the fit went."""
        return Curves.model_validate(self.fitted.record.model_dump())

    @property
    def coefficients(self) -> None:
        """A network has none."""
        return


@dataclass(frozen=True, eq=False)
class TrainedCox:
    """A linear model of covariates."""

    fitted: RidgeCox

    def predict(self, data: PartData, patients: Sequence[str]) -> Prediction:
        """Log-risks."""
        features = data.clinical(patients)
        assert features is not None
        return Prediction(self.fitted.predict(features), None)

    @property
    def curves(self) -> None:
        """A linear model has none."""
        return

    @property
    def coefficients(self) -> dict[str, float]:
        """Log hazard ratio of each feature."""
        return dict(zip(self.fitted.feature_names, self.fitted.coefficients, strict=True))


Answer = CohortError | TaskError
"""Why there is no model."""


def train(asked: Sequence[Asked]) -> list[Trained | Answer]:
    """Fit each model in the training part of its data; in the order asked.

    An error stands where a part does not allow the fit (CohortError) or a fit diverges (TaskError).
    """
    return [_trained(one) for one in asked]


def judge(asked: Sequence[Asked]) -> list[Judged | Answer]:
    """Fit each model in the training part of its data, and let it judge both parts; in the order asked.

    An error stands where a part does not allow the fit (CohortError) or a fit diverges (TaskError).
    """
    return [
        trained if isinstance(trained, Answer) else _judged(trained, one.data)
        for one, trained in zip(asked, train(asked), strict=True)
    ]


def _judged(trained: Trained, data: PartData) -> Judged | Answer:
    train_said, test = (trained.predict(data, patients) for patients in (data.fold.train, data.fold.test))
    risks = np.concatenate((train_said.log_risk, test.log_risk))
    wrong = int((~np.isfinite(risks)).sum())
    if wrong:
        return TaskError(f"{wrong} of {len(risks)} risks are not finite: the model diverged")
    return Judged(train_said.log_risk, test.log_risk, test.alpha, trained.curves, trained.coefficients)


def _trained(asked: Asked) -> Trained | Answer:
    try:
        if isinstance(asked.model, RidgeCoxModel):
            return _ridge_cox(asked.model, asked.data)
        if isinstance(asked.model, NetworkModel):
            return TrainedNetwork(_fit_network(asked.model, asked.seed, asked.data))
    except (CohortError, TaskError) as error:
        return error
    raise NotImplementedError(asked.model.kind)


def _ridge_cox(model: RidgeCoxModel, data: PartData) -> TrainedCox:
    features = data.clinical(data.fold.train)
    assert features is not None
    assert data.preprocessor is not None
    assert not isinstance(model.penalty, str)
    time_, event = data.outcome(data.fold.train)
    names = data.preprocessor.feature_names
    fitted = RidgeCox.fit(
        features, time=time_, event=event, penalty=model.penalty, ties=model.ties, feature_names=names
    )
    return TrainedCox(fitted)


def _fit_network(model: NetworkModel, seed: int, data: PartData) -> Fitted:
    """Stop by a part of the training part, or, where it has too few events, after a number of epochs chosen there."""
    spec = model.spec(clinical_features=0 if data.preprocessor is None else len(data.preprocessor.feature_names))
    inner = inner_split(data.cohort, data.fold.train, seed=data.split_seed, fold=data.stream)
    watch = data.batch(inner.watch)
    if watch.events >= model.fit.min_validation_events:
        return fit_model(spec, model.fit, train=data.batch(inner.fit), validation=watch, seed=seed)
    whole = data.batch(data.fold.train)
    epochs = choose_epochs(spec, model.fit, train=whole, part=_epoch_parts(data), seed=seed)
    return fit_model(spec, model.fit, train=whole, seed=seed, fixed_epochs=epochs)


def _epoch_parts(data: PartData) -> np.ndarray:
    """Inner part of each training patient; a patient's several studies share one."""
    time_, event = data.outcome(data.fold.train)
    persons = [data.cohort.person[row] for row in data.cohort.rows(data.fold.train)]
    groups = persons if len(set(persons)) < len(persons) else None
    rng = np.random.default_rng([data.split_seed, EPOCH_STREAM, *data.stream])
    return np.asarray(deal(time_, event, folds=EPOCH_PARTS, rng=rng, groups=groups))
