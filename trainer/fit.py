"""Fits one survival model and stops it in time; knows nothing of folds, stores or how tasks are spread."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from store_schema.errors import CohortError
from trainer.batch import Batch, Inputs
from trainer.gpus import exact
from trainer.loss import RiskSets, cox_loss, partial_likelihood_loss
from trainer.minibatch import deal_rows
from trainer.model import ModelOutput, SurvivalModel, build_model
from trainer.preparing import Scaler, fit_scalers, scaled, sized
from trainer.spec import FitConfig, ModelSpec, Schedule
from trainer.stopping import Course, FitRecord, divergence

BLOCK = 64
"""Patients evaluated at once: memories in float64 are large."""


class Prediction(NamedTuple):
    """What a fitted model says of each patient."""

    log_risk: Float[np.ndarray, " patient"]
    """Log-risk, float64; higher is worse."""
    alpha: Float[np.ndarray, " patient"] | None
    """Gate's weight of the first modality; None where nothing was mixed."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted model: all that prediction needs, and no patient."""

    spec: ModelSpec
    """What the model is, `features` filled."""
    config: FitConfig
    """How it was fitted."""
    seed: int
    """Of weights, dropout and mini-batches."""
    scalers: Mapping[str, Scaler]
    """Standardisation of each modality, from the training part."""
    state: Mapping[str, Tensor]
    """Weights and running statistics of the best epoch, on the CPU."""
    record: FitRecord
    """How the fit went."""

    def model(self) -> SurvivalModel:
        """Rebuild the network, in evaluation mode, on the CPU."""
        model = build_model(self.spec, seed=self.seed)
        model.load_state_dict(dict(self.state))
        return model.eval()

    def predict(self, inputs: Inputs, *, device: torch.device | str = "cpu") -> Prediction:
        """Log-risks, and the gate's weights, of patients whose images come as stored; one thread, evaluation mode.

        Computed on the device, in double precision.

        Raises
        ------
        UsageError
            If a modality is missing, or images or covariates are not of the size of the training part's.
        """
        with one_thread(), exact():
            model = self.model().double().to(device)
            output = _evaluate(model, inputs, lambda some: scaled(some, self.scalers).double().to(device))
        alpha = None if output.alpha is None else output.alpha.cpu().numpy()
        # computed in double and rounded to float32: equal patients stay tied, whatever stands beside them in a block
        return Prediction(output.log_risk.float().double().cpu().numpy(), alpha)


def fit_model(
    spec: ModelSpec,
    config: FitConfig,
    *,
    train: Batch,
    validation: Batch | None = None,
    seed: int,
    fixed_epochs: int | None = None,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
) -> Fitted:
    """Model of a training part, with the weights of the epoch that served the validation part best.

    On the CPU it runs on one thread, whatever the process is set to, and draws from streams of its own: the same
    arguments give the same bits in any process on machines alike, and torch's global random state is not touched.

    Parameters
    ----------
    spec, config
        What the model is and how it is fitted.
    train
        Patients whose gradients move the weights; images as stored. Scalers are fitted here too.
    validation
        Other patients of the outer training fold. Their loss decides when to stop, if they have enough events.
    seed
        Of weights, dropout and mini-batches.
    fixed_epochs
        Epochs to fit where the validation part cannot decide. The learning rate still falls as over all
        `config.epochs`, so that a number that `choose_epochs` found by other fits means the same here.
    device
        Where to fit; the result lies on the CPU.
    precision
        Of weights and activations. float64 tells an error of method from one of rounding.

    Raises
    ------
    CohortError
        If the training part has fewer than two patients, or no event.
    ConfigError
        If nothing says how long to fit, or `fixed_epochs` is beyond `config.epochs`.
    TaskError
        If the images do not differ, or the loss or its gradient stops being finite.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.4.1; protocol section 5.
    """
    if len(train) < 2:
        raise CohortError(f"a fit needs two patients at least, got {len(train)}")
    events = None if validation is None else validation.events
    course = Course.of(config, watched_events=events, fixed_epochs=fixed_epochs)
    with one_thread(), exact():
        scalers = fit_scalers(spec, train.inputs)
        watched = None if validation is None else _prepared(validation, scalers, device, precision)
        prepared = _prepared(train, scalers, device, precision)
        spec = sized(spec, prepared.inputs)
        model = build_model(spec, seed=seed, device=device).to(precision)
        loop = _Loop(model, config, prepared, watched, seed=seed)
        record = loop.run(course)
    return Fitted(spec, config, seed, scalers, loop.state, record)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch inside the block: sums then have one order, and processes do not crowd each other out.

    The setting belongs to the whole process: run one fit at a time in each.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def learning_rate(config: FitConfig, epoch: int) -> float:
    """Learning rate of an epoch, counted from 1."""
    return config.learning_rate * rate_share(config.schedule, epoch, epochs=config.epochs)


def rate_share(schedule: Schedule, epoch: int, *, epochs: int) -> float:
    """Learning rate of an epoch, counted from 1, as a share of that of the first."""
    done = (epoch - 1) / epochs
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 0.1 ** int(3 * done) if schedule == "step" else 1.0


class _Loop:
    """Model and optimiser under way, and the best weights so far."""

    def __init__(
        self, model: SurvivalModel, config: FitConfig, train: Batch, validation: Batch | None, *, seed: int
    ) -> None:
        self._config = config
        self._train = train
        self._validation = validation
        self._model = model
        self._optimiser = _optimiser(self._model, config)
        self._deal_stream = torch.Generator().manual_seed(seed + 2)
        self._whole = (train.inputs, RiskSets.of(time=train.time, event=train.event))
        self.state = self._copied()

    def run(self, course: Course) -> FitRecord:
        """Fit until the course is over."""
        while not course.over:
            epoch = course.epoch + 1
            if course.hear(self._epoch(epoch), self._watch(epoch)):
                self.state = self._copied()
        return course.record()

    def _epoch(self, epoch: int) -> float:
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(self._config, epoch)
        self._model.train()
        losses = [self._step(inputs, sets, epoch) for inputs, sets in self._batches()]
        return math.fsum(losses) / len(losses)

    def _batches(self) -> list[tuple[Inputs, RiskSets]]:
        dealt = deal_rows(self._train.event, batch_size=self._config.batch_size, stream=self._deal_stream)
        if len(dealt) == 1:
            return [self._whole]
        parts = [self._train.rows(rows.to(self._train.time.device)) for rows in dealt]
        return [(part.inputs, RiskSets.of(time=part.time, event=part.event)) for part in parts]

    def _step(self, inputs: Inputs, sets: RiskSets, epoch: int) -> float:
        risk = self._model(inputs.maps, inputs.clinical).log_risk
        loss = partial_likelihood_loss(risk, sets, ties=self._config.ties)
        if self._config.l2:
            squares = [parameter.square().sum() for parameter in self._model.survival.parameters()]
            loss = loss + self._config.l2 * torch.stack(squares).sum()
        self._optimiser.zero_grad()
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), self._config.clip_norm or math.inf)
        _refuse_infinite(float(loss.detach()), float(norm), epoch, self._config)
        self._optimiser.step()
        return float(loss.detach())

    def _watch(self, epoch: int) -> float | None:
        """Judge the validation part, where there is one with an event."""
        if self._validation is None or self._validation.events == 0:
            return None
        risk = _evaluate(self._model, self._validation.inputs).log_risk
        outcome = {"time": self._validation.time, "event": self._validation.event}
        loss = float(cox_loss(risk=risk, **outcome, ties=self._config.ties))
        _refuse_infinite(loss, 0.0, epoch, self._config)
        return loss

    def _copied(self) -> dict[str, Tensor]:
        # in plain memory order, as files of weights want it
        return {
            name: tensor.to("cpu").clone(memory_format=torch.contiguous_format)
            for name, tensor in self._model.state_dict().items()
        }


def _evaluate(
    model: SurvivalModel, inputs: Inputs, prepare: Callable[[Inputs], Inputs] = lambda inputs: inputs
) -> ModelOutput:
    """Output in evaluation mode, a block of patients at a time: activations of thousands would not fit in memory."""
    model.eval()
    outputs = []
    with torch.no_grad():
        for start in range(0, len(inputs), BLOCK):
            block = prepare(inputs.rows(slice(start, start + BLOCK)))
            outputs.append(model(block.maps, block.clinical))
    alphas = [output.alpha for output in outputs if output.alpha is not None]
    return ModelOutput(torch.cat([output.log_risk for output in outputs]), torch.cat(alphas) if alphas else None)


def _prepared(batch: Batch, scalers: Mapping[str, Scaler], device: torch.device | str, precision: torch.dtype) -> Batch:
    inputs = scaled(batch.inputs, scalers)
    return batch.with_inputs(inputs.double() if precision == torch.float64 else inputs).to(device)


def _optimiser(model: SurvivalModel, config: FitConfig) -> torch.optim.AdamW:
    parameters = list(model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1]},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)


def _refuse_infinite(loss: float, norm: float, epoch: int, config: FitConfig) -> None:
    error = divergence(loss, norm, epoch=epoch, config=config)
    if error is not None:
        raise error
