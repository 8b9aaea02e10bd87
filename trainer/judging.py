"""Fits models of any kind in the training part of a fold and lets them judge both parts; reads and writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from store_schema.errors import CohortError, TaskError
from trainer.cox import RidgeCox
from trainer.dealing import deal
from trainer.epochs import choose_epochs
from trainer.fit import Fitted, fit_model
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


def judge(asked: Sequence[Asked]) -> list[Judged | CohortError | TaskError]:
    """Fit each model in the training part of its data, and let it judge both parts; in the order asked.

    An error stands where a part does not allow the fit (CohortError) or a fit diverges (TaskError).
    """
    return [_answer(one) for one in asked]


def _answer(asked: Asked) -> Judged | CohortError | TaskError:
    try:
        return _judged(asked)
    except (CohortError, TaskError) as error:
        return error


def _judged(asked: Asked) -> Judged:
    if isinstance(asked.model, RidgeCoxModel):
        return _finite(_ridge_cox(asked.model, asked.data))
    if isinstance(asked.model, NetworkModel):
        return _finite(_network(asked.model, asked.seed, asked.data))
    raise NotImplementedError(asked.model.kind)


def _finite(judged: Judged) -> Judged:
    wrong = int((~np.isfinite(judged.train_risk)).sum() + (~np.isfinite(judged.test_risk)).sum())
    if wrong:
        raise TaskError(
            f"{wrong} of {len(judged.train_risk) + len(judged.test_risk)} risks are not finite: the model diverged"
        )
    return judged


def _ridge_cox(model: RidgeCoxModel, data: PartData) -> Judged:
    train, test = data.clinical(data.fold.train), data.clinical(data.fold.test)
    assert train is not None
    assert test is not None
    assert data.preprocessor is not None
    assert not isinstance(model.penalty, str)
    time_, event = data.outcome(data.fold.train)
    names = data.preprocessor.feature_names
    fitted = RidgeCox.fit(train, time=time_, event=event, penalty=model.penalty, ties=model.ties, feature_names=names)
    return Judged(
        train_risk=fitted.predict(train),
        test_risk=fitted.predict(test),
        coefficients=dict(zip(names, fitted.coefficients, strict=True)),
    )


def _network(model: NetworkModel, seed: int, data: PartData) -> Judged:
    fitted = _fit_network(model, seed, data)
    train = fitted.predict(data.batch(data.fold.train).inputs)
    test = fitted.predict(data.batch(data.fold.test).inputs)
    curves = Curves.model_validate(fitted.record.model_dump())
    return Judged(train_risk=train.log_risk, test_risk=test.log_risk, alpha=test.alpha, curves=curves)


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
