"""Puts the layers of many equal networks together, from inputs to log-risks and back; knows nothing of losses or steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.spec import ModelSpec
from trainer.stacked_layers import FixedHidden, FreeHidden, Hidden, HiddenParts, Masks, Norm, Rows, Tensors
from trainer.stacked_memory import aligned, padded
from trainer.stacked_towers import TOWERS

FEW = 48
"""Inputs up to which `FixedHidden` pays: its work on the inputs' moments grows with their square."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """What enters the networks of a stack, rows of padding zero."""

    images: Sequence[Float[Tensor, "model row ..."]]
    """What the heads read of each modality: vectors, or images with their axes."""
    clinical: Float[Tensor, "model row feature"] | None
    """Covariates."""

    @classmethod
    def of(cls, vectors: Sequence[Sequence[Float[Tensor, "patient ..."]]], rows: int, *, modalities: int) -> Self:
        """Stack what each model reads of its modalities and, behind them, its covariates where it has them."""
        stacked = [padded(tensors, rows) for tensors in zip(*vectors, strict=True)]
        return cls(stacked[:modalities], stacked[modalities] if len(stacked) > modalities else None)

    def joined(self) -> Float[Tensor, "model row feature"]:
        """All of them side by side."""
        return torch.cat([*self.images, *([] if self.clinical is None else [self.clinical])], dim=2)


@dataclass(frozen=True, eq=False)
class Individual:
    """What differs between the networks of a stack, beside their numbers."""

    shares: Sequence[float]
    """Of hidden units dropped."""
    momenta: Sequence[float]
    """Weight of the newest step in running statistics."""
    streams: Sequence[torch.Generator]
    """Of dropout."""
    counts: Sequence[int]
    """Patients that are fitted."""


class StackedNetwork:
    """Networks of one architecture, each with its own numbers, patients, dropout and running statistics."""

    def __init__(
        self, spec: ModelSpec, tensors: Tensors, individual: Individual, *, train: Vectors, watch: Vectors | None
    ) -> None:
        """Networks of a specification, up to its dropout and momentum, which are each network's own.

        Parameters
        ----------
        train, watch
            Patients that are fitted, and those that are watched.
        """
        first = (*train.images, train.clinical)[0]
        assert first is not None
        make = _Maker(tensors, individual, Rows.of(individual.counts, first.shape[1], like=first))
        self._front = _front(spec, make, train, watch)
        still = self._front.forward() if isinstance(self._front, Still) else None
        step = 4 if spec.batch_norm else 3
        self._hidden: list[Hidden] = []
        for layer in range(len(spec.hidden)):
            parts = make.parts("survival", layer * step, normed=spec.batch_norm)
            self._hidden.append(_hidden(parts, still, passes=True) if layer == 0 else FreeHidden(parts, passes=True))
        self._last = LogRisk(f"survival.{step * len(spec.hidden)}", tensors, make.scratch)

    def forward(self) -> Float[Tensor, "model row"]:
        """Log-risks of the patients that are fitted, in training; 0 for padding."""
        x = self._front.forward()
        for layer in self._hidden:
            x = layer.forward(x)
        return self._last.forward(x)

    def backward(self, slope: Float[Tensor, "model row"]) -> None:
        """Put down the slopes of every parameter, from those of the last log-risks."""
        passed: Tensor | None = self._last.backward(slope)
        for layer in reversed(self._hidden):
            assert passed is not None
            passed = layer.backward(passed)
        if passed is not None:
            self._front.backward(passed)

    def watch(self) -> Float[Tensor, "model row"]:
        """Log-risks of the patients that are watched, in evaluation mode; those of padding have no meaning."""
        x = self._front.watch()
        for layer in self._hidden:
            x = layer.evaluate(x)
        return self._last.evaluate(x)


class _Maker:
    """Makes the parts of layers, in the order in which they draw from the streams of dropout."""

    def __init__(self, tensors: Tensors, individual: Individual, rows: Rows) -> None:
        self.tensors = tensors
        self.rows = rows
        self._individual = individual
        self._scratch: Tensor | None = None
        self._scale = (1 / (1 - rows.count.new_tensor(individual.shares, dtype=torch.float64))).unsqueeze(1)
        self._momentum = rows.count.new_tensor(individual.momenta).unsqueeze(1)

    def scratch(self, units: int) -> Float[Tensor, "model row unit"]:
        """Memory that layers share for what is read again before another writes."""
        models, rows, _ = self.rows.valid.shape
        if self._scratch is None or self._scratch.shape[1] < rows * units:
            self._scratch = aligned(models, rows * units, like=self.rows.valid)
        return self._scratch[:, : rows * units].view(models, rows, units)

    def parts(self, within: str, place: int, *, normed: bool) -> HiddenParts:
        """Parts of the layer whose linear part stands at this place of a sequence of the network."""
        linear, norm = f"{within}.{place}", f"{within}.{place + 1}"
        weight = self.tensors.value(f"{linear}.weight")
        output = aligned(len(weight), self.rows.valid.shape[1], weight.shape[2], like=weight)
        biased = norm if normed else linear
        return HiddenParts(
            weight=weight,
            weight_slope=self.tensors.slope(f"{linear}.weight"),
            bias=self.tensors.value(f"{biased}.bias"),
            bias_slope=self.tensors.slope(f"{biased}.bias"),
            norm=Norm(norm, self.tensors, rows=self.rows, momentum=self._momentum) if normed else None,
            rows=self.rows,
            masks=self._masks(output) if any(self._individual.shares) else None,
            scale=self._scale.to(weight.dtype),
            output=output,
        )

    def _masks(self, output: Float[Tensor, "model row unit"]) -> Masks:
        own = self._individual
        return Masks(own.shares, own.streams, own.counts, kept=self.scratch(output.shape[2]))


def _hidden(parts: HiddenParts, still: Float[Tensor, "model row input"] | None, *, passes: bool) -> Hidden:
    """Layer of inputs that are still, or else of those that another layer makes."""
    if still is None:
        return FreeHidden(parts, passes=passes)
    return FixedHidden(parts, still) if still.shape[2] <= FEW else FreeHidden(parts, passes=False)


class Tower(Protocol):
    """What makes vectors of one modality: a hidden layer of stored vectors, or convolutions of images."""

    @property
    def width(self) -> int:
        """Length of the vectors."""

    def forward(self, x: Float[Tensor, "model row ..."], /) -> Float[Tensor, "model row feature"]:
        """Vectors in training, 0 for padding."""

    def evaluate(self, x: Float[Tensor, "model row ..."], /) -> Float[Tensor, "model row feature"]:
        """Vectors in evaluation mode."""

    def backward(self, slope: Float[Tensor, "model row feature"], /) -> object:
        """Put down the slopes of every parameter; the slopes given are used up."""


class Front(Protocol):
    """What stands before the survival head."""

    def forward(self) -> Float[Tensor, "model row feature"]:
        """What enters the survival head in training."""

    def watch(self) -> Float[Tensor, "model row feature"]:
        """The same of the patients that are watched, in evaluation mode."""

    def backward(self, slope: Float[Tensor, "model row feature"]) -> None:
        """Put down the slopes of what learns here."""


def _front(spec: ModelSpec, make: _Maker, train: Vectors, watch: Vectors | None) -> Front:
    gate = Gate(make.tensors) if spec.fusion == "gate" and len(spec.modalities) == 2 else None
    towers = [_tower(spec, make, f"towers.{number}", image) for number, image in enumerate(train.images)]
    learning = [tower for tower in towers if tower is not None]
    return LearningFront(train, watch, learning, gate) if learning or gate is not None else Still(train, watch)


def _tower(spec: ModelSpec, make: _Maker, within: str, image: Float[Tensor, "model row ..."]) -> Tower | None:
    """Tower of this name, where the head has weights."""
    if spec.head == "vector":
        return _hidden(make.parts(within, 0, normed=spec.batch_norm), image, passes=False)
    convolved = None if spec.head is None else TOWERS.get(spec.head)
    return None if convolved is None else convolved(within, make.tensors, make.rows)


class Still:
    """Inputs side by side, on their way straight into the survival head; nothing learns."""

    def __init__(self, train: Vectors, watch: Vectors | None) -> None:
        self._train = train.joined()
        self._watch = None if watch is None else watch.joined()

    def forward(self) -> Float[Tensor, "model row feature"]:
        """The inputs of the patients that are fitted."""
        return self._train

    def watch(self) -> Float[Tensor, "model row feature"]:
        """The inputs of the patients that are watched."""
        assert self._watch is not None
        return self._watch

    def backward(self, slope: Float[Tensor, "model row feature"]) -> None:
        """Nothing: no parameter stands before the survival head."""


class LearningFront:
    """Towers, a gate or both, and the covariates beside what they make."""

    def __init__(self, train: Vectors, watch: Vectors | None, towers: Sequence[Tower], gate: "Gate | None") -> None:
        """Without towers the gate mixes the images' vectors themselves."""
        self._train, self._watch = train, watch
        self._towers, self._gate = towers, gate

    def forward(self) -> Float[Tensor, "model row feature"]:
        """Fused vectors and covariates in training."""
        images = self._train.images
        made = [tower.forward(image) for tower, image in zip(self._towers, images, strict=bool(self._towers))]
        return self._fused(made or images, self._train)

    def watch(self) -> Float[Tensor, "model row feature"]:
        """The same of the patients that are watched, in evaluation mode."""
        assert self._watch is not None
        images = self._watch.images
        made = [tower.evaluate(image) for tower, image in zip(self._towers, images, strict=bool(self._towers))]
        return self._fused(made or images, self._watch)

    def backward(self, slope: Float[Tensor, "model row feature"]) -> None:
        """Put down the slopes of the gate and the towers."""
        width = self._towers[0].width if self._towers else self._train.images[0].shape[2]
        slopes = [slope[..., k * width : (k + 1) * width] for k in range(1 if self._gate else len(self._towers))]
        if self._gate is not None:
            slopes = self._gate.backward(slopes[0])
        for tower, own in zip(self._towers, slopes, strict=bool(self._towers)):
            tower.backward(own)

    def _fused(
        self, vectors: Sequence[Float[Tensor, "model row feature"]], x: Vectors
    ) -> Float[Tensor, "model row feature"]:
        fused = list(vectors) if self._gate is None else [self._gate.forward(vectors[0], vectors[1])]
        return Vectors(fused, x.clinical).joined()


class Gate:
    """Mixes the vectors of two modalities, as `trainer.fusion.GateFusion` does for one model."""

    def __init__(self, tensors: Tensors) -> None:
        self._weight, self._bias = tensors.value("fusion.gate.weight"), tensors.value("fusion.gate.bias")
        self._slopes = tensors.slope("fusion.gate.weight"), tensors.slope("fusion.gate.bias")

    def forward(
        self, first: Float[Tensor, "model row feature"], second: Float[Tensor, "model row feature"]
    ) -> Float[Tensor, "model row feature"]:
        """Mixed vectors; remembered for the way back, so that a step ends before others are mixed."""
        one, other = self._weight.mT.chunk(2, dim=2)
        alpha = torch.sigmoid((first * one).sum(2) + (second * other).sum(2) + self._bias).unsqueeze(2)
        self._last = (first, second, alpha)
        return torch.lerp(second, first, alpha)

    def backward(self, slope: Float[Tensor, "model row feature"]) -> list[Float[Tensor, "model row feature"]]:
        """Put down the slopes of the gate and hand back those of both vectors."""
        first, second, alpha = self._last
        by_weighing = (slope * (first - second)).sum(2, keepdim=True) * alpha * (1 - alpha)
        weight, bias = self._slopes
        for part, vector in zip(weight.chunk(2, dim=1), (first, second), strict=True):
            part.copy_((by_weighing * vector).sum(1).unsqueeze(2))
        bias.copy_(by_weighing.sum(1))
        one, other = self._weight.mT.chunk(2, dim=2)
        return [slope * alpha + by_weighing * one, slope * (1 - alpha) + by_weighing * other]


class LogRisk:
    """The last layer: one number for each patient, without a bias."""

    def __init__(self, name: str, tensors: Tensors, scratch: Callable[[int], Tensor]) -> None:
        """Layer of this name in the network's state; `scratch` finds memory for so many units of every row."""
        self._weight, self._slope = tensors.value(f"{name}.weight"), tensors.slope(f"{name}.weight")
        models, units, _ = self._weight.shape
        self._room = scratch(units)
        self._across = aligned(models, 1, units, like=self._weight)

    def forward(self, x: Float[Tensor, "model row unit"]) -> Float[Tensor, "model row"]:
        """Log-risks of the patients that are fitted."""
        self._x = x
        # for one column this is faster than a matrix product
        return torch.mul(x, self._weight.mT, out=self._room).sum(2)

    def evaluate(self, x: Float[Tensor, "model row unit"]) -> Float[Tensor, "model row"]:
        """Log-risks of any patients."""
        return (x * self._weight.mT).sum(2)

    def backward(self, slope: Float[Tensor, "model row"]) -> Float[Tensor, "model row unit"]:
        """Put down the slopes of the weights and hand back those of the input."""
        self._slope.copy_(torch.bmm(slope.unsqueeze(1), self._x, out=self._across).mT)
        return torch.mul(slope.unsqueeze(2), self._weight.mT, out=self._room)
