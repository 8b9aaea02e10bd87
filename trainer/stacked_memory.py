"""Lays the numbers of many equal networks side by side in one tensor; knows nothing of layers or how they are fitted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

LANES = 16
"""Numbers to which everything of a model is rounded up in memory: 64 bytes and more. Matrix kernels round differently where
an operand begins elsewhere, and a model's numbers must not depend on its place beside others."""


def rounded(size: int) -> int:
    """Numbers, or rows, that so many take in memory."""
    return -(-size // LANES) * LANES


def aligned(models: int, *shape: int, like: Tensor) -> Float[Tensor, "model ..."]:
    """Zeros for each model, each model's beginning at a multiple of 64 bytes."""
    size = math.prod(shape)
    room = like.new_zeros(models, rounded(size))
    return room[:, :size].view(models, *shape)


@dataclass(frozen=True, eq=False)
class Place:
    """Where a tensor of a network lies among its numbers."""

    start: int
    shape: tuple[int, ...]
    """In the stack: torch's axes in reverse, weights of linear layers as (input, output)."""

    @property
    def size(self) -> int:
        """Numbers it holds."""
        return math.prod(self.shape)

    def of(self, numbers: Float[Tensor, "*model number"]) -> Float[Tensor, "*model_axis"]:
        """The tensor itself, a view."""
        return numbers[..., self.start : self.start + self.size].view(*numbers.shape[:-1], *self.shape)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each tensor of a network lies: parameters among one row of numbers, running statistics among another."""

    names: tuple[str, ...]
    """All of the network's state, in its order."""
    parameters: Mapping[str, Place]
    statistics: Mapping[str, Place]
    survival: int
    """Where the parameters of the survival head begin; they are the last."""

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """Layout of a network whose survival head is named ``survival`` and comes last."""
        state = model.state_dict()
        own = {name for name, _ in model.named_parameters()}
        floating = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
        parameters = _places({name: tensor for name, tensor in floating.items() if name in own})
        survival = next(place.start for name, place in parameters.items() if name.startswith("survival."))
        statistics = _places({name: tensor for name, tensor in floating.items() if name not in own})
        return cls(tuple(state), parameters, statistics, survival)

    def read(self, state: Mapping[str, Tensor]) -> tuple[Float[Tensor, " number"], Float[Tensor, " statistic"]]:
        """Numbers of a network's state."""
        return _read(self.parameters, state), _read(self.statistics, state)

    def state(
        self, numbers: Float[Tensor, " number"], statistics: Float[Tensor, " statistic"], *, steps: int
    ) -> dict[str, Tensor]:
        """State of a network with these numbers, as torch holds it, on the CPU.

        Parameters
        ----------
        steps
            Steps behind the running statistics.
        """
        numbers, statistics = numbers.cpu(), statistics.cpu()
        state: dict[str, Tensor] = {}
        for name in self.names:
            if name in self.parameters:
                tensor = self.parameters[name].of(numbers)
                state[name] = _reversed(tensor).clone(memory_format=torch.contiguous_format)
            else:
                of = self.statistics.get(name)
                state[name] = torch.tensor(steps) if of is None else of.of(statistics).clone()
        return state

    @property
    def decayed(self) -> Float[Tensor, " number"]:
        """1 for the numbers of weights, which decay; 0 for biases and scales, which do not."""
        numbers = torch.zeros(_end(self.parameters))
        for place in self.parameters.values():
            if len(place.shape) > 1:
                place.of(numbers).fill_(1.0)
        return numbers


def _places(tensors: Mapping[str, Tensor]) -> dict[str, Place]:
    places: dict[str, Place] = {}
    start = 0
    for name, tensor in tensors.items():
        places[name] = Place(start, tuple(reversed(tensor.shape)))
        start += rounded(tensor.numel())
    return places


def _end(places: Mapping[str, Place]) -> int:
    return max((place.start + rounded(place.size) for place in places.values()), default=0)


def _read(places: Mapping[str, Place], state: Mapping[str, Tensor]) -> Float[Tensor, " number"]:
    numbers = torch.zeros(_end(places), dtype=next(iter(state.values())).dtype)
    for name, place in places.items():
        place.of(numbers).copy_(_reversed(state[name]))
    return numbers


def _reversed(tensor: Tensor) -> Tensor:
    return tensor.permute(tuple(reversed(range(tensor.ndim))))


def padded(tensors: Sequence[Float[Tensor, "patient ..."]], rows: int) -> Float[Tensor, "model row ..."]:
    """Each model's patients, and rows of zeros behind them."""
    first = tensors[0]
    stacked = aligned(len(tensors), rows, *first.shape[1:], like=first)
    for one, tensor in zip(stacked, tensors, strict=True):
        one[: len(tensor)] = tensor
    return stacked
