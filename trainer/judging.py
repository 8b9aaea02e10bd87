"""Fits models of any kind in the training part of a fold and lets them judge both parts; reads and writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from store_schema.errors import CohortError, TaskError
from trainer.batch import Batch
from trainer.cox import RidgeCox
from trainer.fit import Fitted, Prediction
from trainer.gpus import NO_GPU, gpus
from trainer.linear import features_of, fit_linear
from trainer.model_config import FittedModel, NetworkModel, PycoxModel, RidgeCoxModel
from trainer.part_data import PartData
from trainer.pycox_reference import PycoxFit, choose_pycox_epochs, fit_pycox
from trainer.spec import Device
from trainer.splits import inner_split
from trainer.task_results import Curves
from trainer.together import FitJob, fit_together
from trainer.vector_selection import VectorSelection

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
    penalty: float | None = None
    """Of a linear model, given or chosen inside the training part."""
    selection: VectorSelection | None = None
    """What a linear model left out of its vectors, and how it prepares the rest; None where it reads none."""


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
    device: str = "cpu"
    """Where it predicts."""

    def predict(self, data: PartData, patients: Sequence[str]) -> Prediction:
        """Log-risks in evaluation mode, and the gate's weights."""
        return self.fitted.predict(data.inputs(patients), device=self.device)

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
    """A linear model of covariates, vectors or both."""

    fitted: RidgeCox
    selection: VectorSelection | None = None
    """How vectors are prepared; None where it reads none."""

    def predict(self, data: PartData, patients: Sequence[str]) -> Prediction:
        """Log-risks."""
        return Prediction(self.fitted.predict(features_of(data, self.selection, patients)), None)

    @property
    def curves(self) -> None:
        """A linear model has none."""
        return

    @property
    def coefficients(self) -> dict[str, float]:
        """Log hazard ratio of each feature."""
        return dict(zip(self.fitted.feature_names, self.fitted.coefficients, strict=True))


@dataclass(frozen=True, eq=False)
class TrainedReference:
    """One of pycox's networks, on covariates."""

    fitted: PycoxFit

    def predict(self, data: PartData, patients: Sequence[str]) -> Prediction:
        """Log-risks in evaluation mode."""
        features = data.clinical(patients)
        assert features is not None
        return Prediction(self.fitted.predict(features), None)

    @property
    def curves(self) -> Curves:
        """How the fit went."""
        return Curves.model_validate(self.fitted.record.model_dump())

    @property
    def coefficients(self) -> None:
        """A network has none."""
        return


Answer = CohortError | TaskError
"""Why there is no model."""


@threadpool_limits.wrap(limits=1)  # type: ignore[untyped-decorator]
def train(asked: Sequence[Asked], *, device: Device = "cpu") -> list[Trained | Answer]:
    """Fit each model in the training part of its data; in the order asked. Networks are fitted together where that pays.

    Everything is computed on one thread, so that sums have one order and processes do not crowd each other out; networks on the
    device.

    An error stands where a part does not allow the fit (CohortError) or a fit diverges (TaskError).

    Raises
    ------
    TaskError
        If torch sees no such device here.
    """
    if device == "cuda" and not gpus():
        raise TaskError(f"{NO_GPU}: fit with `device: cpu`, or on workers that have one")
    networks = {row: one for row, one in enumerate(asked) if isinstance(one.model, NetworkModel)}
    answers = dict(zip(networks, _networks(list(networks.values()), device), strict=True))
    return [answers[row] if row in answers else _alone(one) for row, one in enumerate(asked)]


def judge(asked: Sequence[Asked], *, device: Device = "cpu") -> list[Judged | Answer]:
    """Fit each model in the training part of its data, and let it judge both parts; in the order asked.

    An error stands where a part does not allow the fit (CohortError) or a fit diverges (TaskError).

    Raises
    ------
    TaskError
        As `train`.
    """
    return [
        trained if isinstance(trained, Answer) else _judged(trained, one.data)
        for one, trained in zip(asked, train(asked, device=device), strict=True)
    ]


def _judged(trained: Trained, data: PartData) -> Judged | Answer:
    train_said, test = (trained.predict(data, patients) for patients in (data.fold.train, data.fold.test))
    risks = np.concatenate((train_said.log_risk, test.log_risk))
    wrong = int((~np.isfinite(risks)).sum())
    if wrong:
        return TaskError(f"{wrong} of {len(risks)} risks are not finite: the model diverged")
    said = train_said.log_risk, test.log_risk, test.alpha
    if isinstance(trained, TrainedCox):
        return Judged(*said, None, trained.coefficients, trained.fitted.penalty, trained.selection)
    return Judged(*said, trained.curves)


def _networks(asked: Sequence[Asked], device: Device) -> list[Trained | Answer]:
    batches: dict[tuple[int, int], _Watched | CohortError] = {}
    jobs: dict[int, FitJob] = {}
    answers: dict[int, Trained | Answer] = {}
    for row, one in enumerate(asked):
        assert isinstance(one.model, NetworkModel)
        # what several settings share is prepared once
        place = (id(one.data), one.model.fit.min_validation_events)
        if place not in batches:
            batches[place] = _watched(one.data, one.model.fit.min_validation_events)
        found = batches[place]
        if isinstance(found, CohortError):
            answers[row] = found
        else:
            jobs[row] = found.job(one)
    fitted = zip(jobs, fit_together(list(jobs.values()), device=device), strict=True)
    answers |= {row: one if isinstance(one, Answer) else TrainedNetwork(one, device) for row, one in fitted}
    return [answers[row] for row in range(len(asked))]


@dataclass(frozen=True, eq=False)
class _Watched:
    """A training part as a fit takes it: with a part to watch, or whole, with the inner parts that choose how long to fit."""

    train: Batch
    validation: Batch | None
    parts: Int[np.ndarray, " patient"] | None

    def job(self, asked: Asked) -> FitJob:
        """The fit of a network on it."""
        model, data = asked.model, asked.data
        assert isinstance(model, NetworkModel)
        features = 0 if data.preprocessor is None else len(data.preprocessor.feature_names)
        spec = model.spec(clinical_features=features)
        return FitJob(spec, model.fit, self.train, self.validation, asked.seed, parts=self.parts)


def _watched(data: PartData, events: int) -> _Watched | CohortError:
    """Watch a part of the training part, or, where it has fewer events than these, choose a number of epochs there."""
    try:
        inner = inner_split(data.cohort, data.fold.train, seed=data.split_seed, fold=data.stream)
        watch = data.batch(inner.watch)
        if watch.events >= events:
            return _Watched(data.batch(inner.fit), watch, None)
        return _Watched(data.batch(data.fold.train), None, data.inner_parts(EPOCH_PARTS, purpose=EPOCH_STREAM))
    except CohortError as error:
        return error


def _alone(asked: Asked) -> Trained | Answer:
    model, data = asked.model, asked.data
    try:
        if isinstance(model, RidgeCoxModel):
            return TrainedCox(*fit_linear(model, data))
        assert isinstance(model, PycoxModel)
        watched = _watched(data, model.min_validation_events)
        return watched if isinstance(watched, CohortError) else TrainedReference(_reference(model, watched, asked.seed))
    except (CohortError, TaskError) as error:
        return error


def _reference(model: PycoxModel, watched: _Watched, seed: int) -> PycoxFit:
    epochs = None
    if watched.parts is not None:
        epochs = choose_pycox_epochs(model, train=watched.train, part=watched.parts, seed=seed)
    return fit_pycox(model, train=watched.train, watch=watched.validation, seed=seed, fixed_epochs=epochs)
