"""Prepares fits and sorts those of one architecture into stacks; knows nothing of how a stack is fitted or epochs are chosen."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from store_schema.errors import CohortError, TaskError
from trainer.batch import Batch, Inputs
from trainer.fit import Fitted
from trainer.loss import RiskSets
from trainer.model import SurvivalModel, build_model, dropout_stream
from trainer.preparing import Scaler, fit_scalers, scaled, sized
from trainer.spec import FitConfig, ModelSpec
from trainer.stacked_fit import StackedJob, StackedPart, Weighed, fit_stack
from trainer.stacked_memory import rounded
from trainer.stacked_towers import TOWERS
from trainer.stopping import Course

Fault = CohortError | TaskError
"""Why there is no model."""

CPU_BYTES = 2**23
"""What a stack may hold in memory on a CPU: little more than its caches, or every step would wait for memory."""
DEVICE_BYTES = 2**31
"""The same on an accelerator, which wants work for all of it at once."""
CONVOLVED_BYTES = 2**34
"""The same of networks with convolutions, most of it activations."""


@dataclass(frozen=True, eq=False)
class Fit:
    """What `trainer.fit.fit_model` is asked for."""

    spec: ModelSpec
    config: FitConfig
    train: Batch
    validation: Batch | None
    seed: int
    fixed_epochs: int | None


class _Ready(NamedTuple):
    """A fit ready to stand in a stack, and what its answer needs beside."""

    job: StackedJob
    scalers: Mapping[str, Scaler]


class Stacker:
    """Fits in stacks; what several fits share is prepared once."""

    def __init__(self, device: torch.device | str, precision: torch.dtype) -> None:
        """Stacks on a device, in a precision."""
        self._device = torch.device(device)
        self._precision = precision

    def fit(self, fits: Sequence[Fit]) -> list[Fitted | Fault]:
        """Answer of every fit, in their order."""
        preparer = _Preparer(self._device, self._precision)
        made = [preparer.ready(fit) for fit in fits]
        ready = {number: one for number, one in enumerate(made) if isinstance(one, _Ready)}
        answers: dict[int, Fitted | Fault] = {n: one for n, one in enumerate(made) if not isinstance(one, _Ready)}
        for stack in self._stacks(ready):
            for number, answer in zip(stack, fit_stack([ready[number].job for number in stack]), strict=True):
                answers[number] = _fitted(fits[number], ready[number], answer)
        return [answers[number] for number in range(len(fits))]

    def _stacks(self, ready: Mapping[int, _Ready]) -> Iterator[list[int]]:
        """Numbers of the fits of each stack: of one architecture, the shorter training parts first."""
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for number, (job, _) in ready.items():
            groups[_architecture(job.spec), job.watch is None].append(number)
        for numbers in groups.values():
            numbers.sort(key=lambda number: ready[number].job.train.patients)
            most = self._most(ready[numbers[-1]].job)
            for start in range(0, len(numbers), most):
                yield numbers[start : start + most]

    def _most(self, job: StackedJob) -> int:
        """How many fits like this one, or shorter, a stack holds."""
        parameters = sum(parameter.numel() for parameter in job.network.parameters())
        tower = None if job.spec.head is None else TOWERS.get(job.spec.head)
        # images, where there are any, come before the covariates
        held = [
            tensor[0].numel() if tensor.ndim == 2 or tower is None else tower.numbers(tensor[0])
            for tensor in job.train.vectors
        ]
        numbers = 6 * parameters + rounded(job.train.patients) * (sum(held) + 3 * sum(job.spec.hidden))
        return max(1, self._room(convolved=tower is not None) // (numbers * self._precision.itemsize))

    def _room(self, *, convolved: bool) -> int:
        if convolved:
            return CONVOLVED_BYTES
        return CPU_BYTES if self._device.type == "cpu" else DEVICE_BYTES


class _Preparer:
    """Makes fits ready, and each thing that several share once; their batches must outlive it."""

    def __init__(self, device: torch.device, precision: torch.dtype) -> None:
        self._device = device
        self._precision = precision
        self._made: dict[Hashable, Any] = {}

    def ready(self, fit: Fit) -> _Ready | Fault:
        """The fit, ready for a stack, or why it cannot be fitted."""
        if len(fit.train) < 2:
            return CohortError(f"a fit needs two patients at least, got {len(fit.train)}")
        try:
            return self._ready(fit)
        except (CohortError, TaskError) as error:
            return error

    def _ready(self, fit: Fit) -> _Ready:
        watched = None if fit.validation is None else fit.validation.events
        course = Course.of(fit.config, watched_events=watched, fixed_epochs=fit.fixed_epochs)
        scaling = (id(fit.train), fit.spec.head, fit.spec.modalities, fit.spec.map_scaling, fit.spec.components)
        scalers = self._once("scalers", scaling, lambda: fit_scalers(fit.spec, fit.train.inputs))

        def entering(batch: Batch) -> Inputs:
            return self._once("inputs", (id(batch), scaling), lambda: scaled(batch.inputs, scalers))

        spec = sized(fit.spec, entering(fit.train))
        network = self._network(spec, fit.seed)
        train = self._part(fit.train, entering(fit.train), network)
        watch = self._part(fit.validation, entering(fit.validation), network) if fit.validation and watched else None
        stream = dropout_stream(fit.seed, self._device)
        return _Ready(StackedJob(network, spec, fit.config, course, stream, train, watch), scalers)

    def _network(self, spec: ModelSpec, seed: int) -> SurvivalModel:
        """Network at its start, in evaluation mode."""
        key = (_architecture(spec), seed)
        return self._once("network", key, lambda: build_model(spec, seed=seed).to(self._precision).eval())

    def _part(self, batch: Batch, inputs: Inputs, network: SurvivalModel) -> StackedPart:
        sets = self._once("sets", id(batch), lambda: RiskSets.of(time=batch.time, event=batch.event))
        key = (id(inputs), _architecture(network.spec))
        return StackedPart(self._once("vectors", key, lambda: self._vectors(inputs, network)), sets)

    def _vectors(self, inputs: Inputs, network: SurvivalModel) -> tuple[Float[Tensor, "patient ..."], ...]:
        """What enters a network: the vectors or images of its modalities, then the covariates that it takes."""
        spec = network.spec
        # the network itself refuses what it cannot take
        with torch.no_grad():
            first = inputs.rows(slice(0, 1))
            first = first.double() if self._precision == torch.float64 else first
            network(first.maps, first.clinical)
        clinical = [inputs.clinical] if spec.clinical_features and inputs.clinical is not None else []
        tensors = [*(inputs.maps[modality] for modality in spec.modalities), *clinical]
        return tuple(tensor.to(self._device, self._precision) for tensor in tensors)

    def _once[T](self, kind: str, key: Hashable, make: Callable[[], T]) -> T:
        if (kind, key) not in self._made:
            self._made[kind, key] = make()
        made: T = self._made[kind, key]
        return made


def _architecture(spec: ModelSpec) -> Hashable:
    """What the networks of a stack share."""
    return (
        spec.head,
        spec.modalities,
        spec.features,
        spec.fusion,
        spec.clinical_features,
        spec.hidden,
        spec.batch_norm,
    )


def _fitted(fit: Fit, ready: _Ready, answer: Weighed | TaskError) -> Fitted | Fault:
    if isinstance(answer, TaskError):
        return answer
    return Fitted(ready.job.spec, fit.config, fit.seed, ready.scalers, answer.state, answer.record)
