"""Layers of many equal networks at once, each with the slopes of its own loss; knows nothing of losses, steps or seeds.

Every layer writes into memory of its own, made once: a step then allocates next to nothing, and fresh memory is what
batched layers would wait for. Rows of padding are zero on the way in and stay zero.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.model import LOWEST_WORD, least_level, words_of
from trainer.stacked_memory import aligned

EPSILON = nn.BatchNorm1d(1).eps


class Tensors(Protocol):
    """Finds the tensors of every model by their name in the network's state."""

    def value(self, name: str) -> Float[Tensor, "model ..."]:
        """Parameter or running statistic."""

    def slope(self, name: str) -> Float[Tensor, "model ..."]:
        """How the loss grows with a parameter."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Which rows of a stack are patients."""

    valid: Float[Tensor, "model row 1"]
    """1 for patients, 0 for padding."""
    count: Float[Tensor, "model 1"]
    """Patients of each model."""

    @classmethod
    def of(cls, counts: Sequence[int], rows: int, *, like: Tensor) -> Self:
        """Rows of models with so many patients each."""
        count = like.new_tensor(counts).unsqueeze(1)
        place = torch.arange(rows, device=like.device)
        valid = aligned(len(counts), rows, 1, like=like)
        return cls(valid.copy_((place < count).unsqueeze(2)), count)


class Masks:
    """Draws which units of a layer each model keeps, as `trainer.model.SeededDropout` does for one.

    `kept` may be memory that others use too: it is read before the layer that draws is done.
    """

    def __init__(
        self,
        shares: Sequence[float],
        streams: Sequence[torch.Generator],
        counts: Sequence[int],
        *,
        kept: Float[Tensor, "model row unit"],
    ) -> None:
        """Masks to be written into `kept`; models that drop nothing draw nothing."""
        models, rows, units = kept.shape
        self._kept = kept
        self._words = torch.zeros(models, words_of(rows * units), dtype=torch.int64, device=kept.device)
        levels = [least_level(share) for share in shares]
        self._least = torch.tensor(levels, dtype=torch.int16, device=kept.device).view(-1, 1, 1)
        self._draws = [
            (stream, words[: words_of(count * units)])
            for share, stream, count, words in zip(shares, streams, counts, self._words, strict=True)
            if share
        ]

    def draw(self) -> Float[Tensor, "model row unit"]:
        """1 for units that are kept, 0 for the others; what padding is given has no meaning."""
        for stream, words in self._draws:
            words.random_(LOWEST_WORD, None, generator=stream)
        levels = self._words.view(torch.int16)[:, : self._kept[0].numel()].view(self._kept.shape)
        return torch.ge(levels, self._least, out=self._kept)


class Norm:
    """Batch normalisation of many models: gain, running statistics, and what one step must remember."""

    def __init__(self, name: str, tensors: Tensors, *, rows: Rows, momentum: Float[Tensor, "model 1"]) -> None:
        """Normalisation of this name in the network's state; `momentum` is the weight of the newest step."""
        self.gain, self.gain_slope = tensors.value(f"{name}.weight"), tensors.slope(f"{name}.weight")
        self.mean, self.variance = tensors.value(f"{name}.running_mean"), tensors.value(f"{name}.running_var")
        self._momentum = momentum
        # the running variance is that of a sample, as in torch
        self._sample = momentum * rows.count / (rows.count - 1)
        self.inverse = torch.empty_like(self.gain)

    def note(self, mean: Float[Tensor, "model unit"], variance: Float[Tensor, "model unit"]) -> None:
        """Take the mean and (biased) variance over a model's patients into its running statistics."""
        torch.rsqrt(variance + EPSILON, out=self.inverse)
        self.mean.mul_(1 - self._momentum).addcmul_(self._momentum, mean)
        self.variance.mul_(1 - self._momentum).addcmul_(self._sample, variance)


@dataclass(frozen=True, eq=False)
class HiddenParts:
    """Tensors of a hidden layer, whatever it is fed."""

    weight: Float[Tensor, "model input unit"]
    weight_slope: Float[Tensor, "model input unit"]
    bias: Float[Tensor, "model unit"]
    """Of the normalisation where there is one, else of the linear part."""
    bias_slope: Float[Tensor, "model unit"]
    norm: Norm | None
    rows: Rows
    masks: Masks | None
    """None where no model drops a unit."""
    scale: Float[Tensor, "model 1"]
    """What kept units are multiplied by, 1 / (1 - share)."""
    output: Float[Tensor, "model row unit"]
    """Where the layer writes."""


class Hidden(ABC):
    """Linear layer, batch normalisation where the network has it, ReLU and dropout."""

    def __init__(self, parts: HiddenParts) -> None:
        self.parts = parts
        self._scaled_weight = aligned(*parts.weight.shape, like=parts.weight)

    @property
    def width(self) -> int:
        """Units."""
        return self.parts.weight.shape[2]

    @abstractmethod
    def forward(self, x: Float[Tensor, "model row input"]) -> Float[Tensor, "model row unit"]:
        """Output in training, of the patients that are fitted."""

    @abstractmethod
    def backward(self, slope: Float[Tensor, "model row unit"]) -> Float[Tensor, "model row input"] | None:
        """Put down the slopes of the parameters and hand back those of the input; the slopes given are used up."""

    def evaluate(self, x: Float[Tensor, "model row input"]) -> Float[Tensor, "model row unit"]:
        """Output in evaluation mode, of any patients."""
        weight, bias, norm = self.parts.weight, self.parts.bias, self.parts.norm
        if norm is not None:
            factor = norm.gain * torch.rsqrt(norm.variance + EPSILON)
            weight = torch.mul(weight, factor.unsqueeze(1), out=self._scaled_weight)
            bias = bias - norm.mean * factor
        return torch.baddbmm(bias.unsqueeze(1), x, weight).relu_()

    def _activated(self) -> Float[Tensor, "model row unit"]:
        # a unit dropped before ReLU is one dropped after it, and its zero tells the way back that it was off
        if self.parts.masks is not None:
            self.parts.output.mul_(self.parts.masks.draw())
        return self.parts.output.relu_()

    def _through_active(self, slope: Float[Tensor, "model row unit"]) -> Float[Tensor, "model row unit"]:
        # the slope where the output is above 0, else 0, in place and in one pass
        torch.ops.aten.threshold_backward.grad_input(slope, self.parts.output, 0, grad_input=slope)
        return slope


class FreeHidden(Hidden):
    """Hidden layer of what other layers made, or of inputs too wide for `FixedHidden`."""

    def __init__(self, parts: HiddenParts, *, passes: bool) -> None:
        """Layer that hands slopes back only where it `passes` them to something that learns."""
        super().__init__(parts)
        self._linear = torch.empty_like(parts.output)
        models, rows, _ = parts.output.shape
        self._passed = aligned(models, rows, parts.weight.shape[1], like=parts.weight) if passes else None

    def forward(self, x: Float[Tensor, "model row input"]) -> Float[Tensor, "model row unit"]:
        """Output in training, of the patients that are fitted."""
        parts, linear = self.parts, self._linear
        self._x = x
        torch.bmm(x, parts.weight, out=linear)
        self._factor = parts.scale if parts.norm is None else self._normalised(parts.norm)
        torch.mul(linear, self._factor.unsqueeze(1), out=parts.output)
        parts.output.addcmul_(parts.rows.valid, (parts.bias * parts.scale).unsqueeze(1))
        return self._activated()

    def backward(self, slope: Float[Tensor, "model row unit"]) -> Float[Tensor, "model row input"] | None:
        """Put down the slopes of the parameters and hand back those of the input; the slopes given are used up."""
        parts = self.parts
        self._through_active(slope)
        total = slope.sum(1)
        torch.mul(total, parts.scale, out=parts.bias_slope)
        if parts.norm is not None:
            self._through_norm(parts.norm, slope, total)
        torch.bmm(self._x.mT, slope, out=parts.weight_slope)
        parts.weight_slope.mul_(self._factor.unsqueeze(1))
        if self._passed is None:
            return None
        torch.mul(parts.weight, self._factor.unsqueeze(1), out=self._scaled_weight)
        return torch.bmm(slope, self._scaled_weight.mT, out=self._passed)

    def _normalised(self, norm: Norm) -> Float[Tensor, "model unit"]:
        """Take the mean off the linear part; returns what it is to be multiplied by."""
        linear, rows = self._linear, self.parts.rows
        mean = linear.sum(1) / rows.count
        linear.addcmul_(rows.valid, mean.unsqueeze(1), value=-1)
        norm.note(mean, torch.mul(linear, linear, out=self.parts.output).sum(1) / rows.count)
        return norm.gain * norm.inverse * self.parts.scale

    def _through_norm(
        self, norm: Norm, slope: Float[Tensor, "model row unit"], total: Float[Tensor, "model unit"]
    ) -> None:
        rows = self.parts.rows
        along = torch.mul(slope, self._linear, out=self.parts.output).sum(1)
        torch.mul(along * norm.inverse, self.parts.scale, out=norm.gain_slope)
        slope.addcmul_(self._linear, (along * norm.inverse.square() / rows.count).unsqueeze(1), value=-1)
        slope.addcmul_(rows.valid, (total / rows.count).unsqueeze(1), value=-1)


class FixedHidden(Hidden):
    """Hidden layer of inputs that stay as they are from step to step, and are few.

    Mean and variance of its linear part then follow from those of the inputs, W'CW, and normalisation is folded into the weights:
    no pass over patients and units is needed but those of two products, ReLU and dropout. The variance is taken in float64, where
    one-hot inputs that add up to a constant lose nothing.
    """

    def __init__(self, parts: HiddenParts, x: Float[Tensor, "model row input"]) -> None:
        """Layer of these inputs, rows of padding zero."""
        super().__init__(parts)
        models, rows, inputs = x.shape
        # a last input of ones carries the bias
        self._x = aligned(models, rows, inputs + 1, like=x)
        self._x[..., :inputs], self._x[..., inputs:] = x, parts.rows.valid
        self._joint = aligned(models, inputs + 1, self.width, like=x)
        self._joint_slope = aligned(models, inputs + 1, self.width, like=x)
        if parts.norm is not None:
            self._take_moments(x)

    def forward(self, x: Float[Tensor, "model row input"]) -> Float[Tensor, "model row unit"]:
        """Output in training; the inputs are those of the layer."""
        assert x.shape[2] == self._x.shape[2] - 1
        parts, joint = self.parts, self._joint
        self._factor = parts.scale if parts.norm is None else self._normalised(parts.norm)
        torch.mul(parts.weight, self._factor.unsqueeze(1), out=joint[:, :-1])
        torch.mul(parts.bias, parts.scale, out=joint[:, -1])
        torch.bmm(self._x, joint, out=parts.output)
        return self._activated()

    def backward(self, slope: Float[Tensor, "model row unit"]) -> None:
        """Put down the slopes of the parameters; the slopes given are used up."""
        parts = self.parts
        torch.bmm(self._x.mT, self._through_active(slope), out=self._joint_slope)
        by_weight, by_bias = self._joint_slope[:, :-1], self._joint_slope[:, -1]
        torch.mul(by_bias, parts.scale, out=parts.bias_slope)
        torch.mul(by_weight, self._factor.unsqueeze(1), out=parts.weight_slope)
        if parts.norm is not None:
            norm, along = parts.norm, (by_weight * parts.weight).sum(1)
            torch.mul(along * norm.inverse, parts.scale, out=norm.gain_slope)
            bend = (self._factor * along * norm.inverse.square()).unsqueeze(1)
            parts.weight_slope.addcmul_(self._spread_weight.to(bend.dtype), bend, value=-1)

    def _take_moments(self, x: Float[Tensor, "model row input"]) -> None:
        models, _, inputs = x.shape
        rows, like = self.parts.rows, x.new_zeros(0, dtype=torch.float64)
        self._mean = aligned(models, 1, inputs, like=x)
        torch.div(x.sum(1, keepdim=True), rows.count.unsqueeze(2), out=self._mean)
        self._linear_mean = aligned(models, 1, self.width, like=x)
        centred = self._x[..., :-1]
        centred.addcmul_(rows.valid, self._mean, value=-1)
        wide = aligned(*x.shape, like=like).copy_(centred)
        self._spread = aligned(models, inputs, inputs, like=like)
        torch.bmm(wide.mT, wide, out=self._spread).div_(rows.count.unsqueeze(2))
        self._wide_weight, self._spread_weight = (aligned(models, inputs, self.width, like=like) for _ in range(2))

    def _normalised(self, norm: Norm) -> Float[Tensor, "model unit"]:
        """Note mean and variance of the linear part; returns what it is to be multiplied by."""
        weight = self._wide_weight.copy_(self.parts.weight)
        torch.bmm(self._spread, weight, out=self._spread_weight)
        variance = (self._spread_weight * weight).sum(1).clamp_(min=0).to(self.parts.weight.dtype)
        mean = torch.bmm(self._mean, self.parts.weight, out=self._linear_mean)
        norm.note(mean.squeeze(1), variance)
        return norm.gain * norm.inverse * self.parts.scale
