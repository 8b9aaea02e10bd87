"""Towers with convolutions of many equal networks at once, as batched products; knows nothing of fusion, losses or steps.

A convolution becomes one product a model of the patches of its input with its own weights, so that an accelerator computes all
models by the same few calls. A CPU is served better by the heads themselves, one model at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import product
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.attention import affine, gelu_means
from trainer.spec import Head
from trainer.stacked_layers import Rows, Tensors

WINDOW = 3
"""Pixels of a kernel along each axis."""


class ConvolvedTower(ABC):
    """Tower of one modality of every network of a stack: from images to vectors, and the slopes of its parameters."""

    names: ClassVar[tuple[str, ...]]
    """Its parameters, as the head of one model names them."""
    width = 128
    """Length of the vectors."""

    def __init__(self, within: str, tensors: Tensors, rows: Rows) -> None:
        """Tower of this name in the network's state."""
        self._values = {name: tensors.value(f"{within}.{name}") for name in self.names}
        self._slopes = {name: tensors.slope(f"{within}.{name}") for name in self.names}
        self._valid = rows.valid
        self._made: tuple[Tensor, list[Tensor]] | None = None

    def forward(self, images: Float[Tensor, "model row ..."]) -> Float[Tensor, "model row 128"]:
        """Vectors of the patients that are fitted, 0 for padding; remembered for the way back."""
        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in self._values.items()}
            vectors = self._vectors(leaves, images) * self._valid
        self._made = vectors, list(leaves.values())
        return vectors.detach()

    def backward(self, slope: Float[Tensor, "model row 128"]) -> None:
        """Put down the slopes of every parameter."""
        assert self._made is not None
        (vectors, leaves), self._made = self._made, None
        for mine, found in zip(self._slopes.values(), torch.autograd.grad(vectors, leaves, slope), strict=True):
            mine.copy_(found)

    def evaluate(self, images: Float[Tensor, "model row ..."]) -> Float[Tensor, "model row 128"]:
        """Vectors of any patients; those of padding have no meaning."""
        with torch.no_grad():
            return self._vectors(self._values, images)

    @abstractmethod
    def _vectors(
        self, weights: Mapping[str, Tensor], images: Float[Tensor, "model row ..."]
    ) -> Float[Tensor, "model row 128"]:
        """What `trainer.heads` or `trainer.attention` says of each model's images."""

    @staticmethod
    @abstractmethod
    def numbers(image: Float[Tensor, "..."]) -> int:
        """Numbers held at once while a model's patient is on the way, roughly, from the tensor that enters of one patient."""


class AverageTower(ConvolvedTower):
    """`trainer.heads.AverageHead` of every model."""

    names = ("first.weight", "first.bias", "second.weight", "second.bias", "third.weight", "third.bias")

    def _vectors(
        self, weights: Mapping[str, Tensor], images: Float[Tensor, "model row 1 y x"]
    ) -> Float[Tensor, "model row 128"]:
        x = images.movedim(2, -1)
        for name in ("first", "second"):
            x = torch.relu(pooled(convolved(x, weights[f"{name}.weight"], weights[f"{name}.bias"]), ceil=False))
        x = torch.relu(convolved(x, weights["third.weight"], weights["third.bias"]))
        return x.mean(dim=(2, 3))

    @staticmethod
    def numbers(image: Float[Tensor, "1 y x"]) -> int:
        """Activations (88 a pixel) and the patches of the second convolution and their slopes."""
        return 240 * image.numel()


class VolumeTower(ConvolvedTower):
    """`trainer.heads.VolumeHead` of every model."""

    names = (*AverageTower.names, "project.weight", "project.bias")

    def _vectors(
        self, weights: Mapping[str, Tensor], images: Float[Tensor, "model row 1 z y x"]
    ) -> Float[Tensor, "model row 128"]:
        x = images.movedim(2, -1)
        for name in ("first", "second"):
            x = torch.relu(pooled(convolved(x, weights[f"{name}.weight"], weights[f"{name}.bias"]), ceil=True))
        x = torch.relu(convolved(x, weights["third.weight"], weights["third.bias"])).mean(dim=(2, 3, 4))
        return torch.baddbmm(weights["project.bias"].unsqueeze(1), x, weights["project.weight"])

    @staticmethod
    def numbers(image: Float[Tensor, "1 z y x"]) -> int:
        """Activations, and patches of 27 cells of the first two convolutions and their slopes."""
        return 100 * image.numel()


class AttentionTower(ConvolvedTower):
    """`trainer.attention.AttentionHead` of every model."""

    names = (
        "mix.weight",
        "mix.bias",
        "norm.weight",
        "norm.bias",
        "excite.0.weight",
        "excite.0.bias",
        "excite.2.weight",
        "project.weight",
        "project.bias",
    )

    def _vectors(
        self, weights: Mapping[str, Tensor], images: Float[Tensor, "model row layer channel y x"]
    ) -> Float[Tensor, "model row 128"]:
        cells = images.flatten(4)
        # one row of weights for all of a model's patients
        mix = weights["mix.weight"].flatten(1, -2).mT.unsqueeze(1)
        bias, gain, shift = (weights[name].unsqueeze(1) for name in ("mix.bias", "norm.weight", "norm.bias"))
        slope, offset = affine(cells.flatten(3), mix, bias, gain, shift)
        means = gelu_means(cells.flatten(0, 1), slope.flatten(0, 1), offset.flatten(0, 1))
        descriptors = means.reshape(*images.shape[:2], *means.shape[1:])
        pooled_over = torch.softmax(self._logits(weights, descriptors.mT), dim=2)
        vectors = (descriptors @ pooled_over).squeeze(3)
        return torch.baddbmm(weights["project.bias"].unsqueeze(1), vectors, weights["project.weight"])

    @staticmethod
    def _logits(
        weights: Mapping[str, Tensor], x: Float[Tensor, "model row channel base"]
    ) -> Float[Tensor, "model row channel 1"]:
        models, rows, channels, _ = x.shape
        squeezed = torch.baddbmm(weights["excite.0.bias"].unsqueeze(1), x.flatten(1, 2), weights["excite.0.weight"])
        logits = torch.bmm(nn.functional.gelu(squeezed), weights["excite.2.weight"])
        return logits.view(models, rows, channels, 1)

    @staticmethod
    def numbers(image: Float[Tensor, "layer channel y x"]) -> int:
        """Copies of the memory, and what each channel's descriptors need; activations come a block at a time."""
        return 4 * image.numel() + 64 * image.shape[1] * (image.shape[0] + 2)


TOWERS: dict[Head, type[ConvolvedTower]] = {
    "average": AverageTower,
    "attention": AttentionTower,
    "cnn3d": VolumeTower,
}
"""Heads with convolutions; a stack of others has no need of them."""


def convolved(
    x: Float[Tensor, "model row *axis channel"],
    weight: Float[Tensor, "model *window channel unit"],
    bias: Float[Tensor, "model unit"],
) -> Float[Tensor, "model row *axis unit"]:
    """Convolution of each model's images with its own kernels, 3 along every axis, zeros around.

    The axes of the kernels stand in reverse (x, y, z), as `trainer.stacked_memory` holds them.
    """
    found: Tensor = _Convolve.apply(x, weight)
    return found + bias.view(len(bias), *(1 for _ in x.shape[1:-1]), -1)


class _Convolve(torch.autograd.Function):
    """Products of patches and weights; patches are made again on the way back, since they are 9 or 27 times the image."""

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "model row *axis channel"], weight: Float[Tensor, "model *window channel unit"]
    ) -> Float[Tensor, "model row *axis unit"]:
        ctx.save_for_backward(x, weight)
        return _multiplied(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Float[Tensor, "model row *axis unit"]) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        by_weight = torch.bmm(_patches(x).mT, slope.flatten(1, -2)).view(weight.shape)
        if not ctx.needs_input_grad[0]:
            return None, by_weight
        # the slope spreads back through the kernels turned around
        turned = weight.flip(tuple(range(1, weight.ndim - 2))).mT
        return _multiplied(slope, turned), by_weight


def _multiplied(
    x: Float[Tensor, "model row *axis channel"], weight: Float[Tensor, "model *window channel unit"]
) -> Float[Tensor, "model row *axis unit"]:
    return torch.bmm(_patches(x), weight.flatten(1, -2)).view(*x.shape[:-1], weight.shape[-1])


def _patches(x: Float[Tensor, "model row *axis channel"]) -> Float[Tensor, "model place window_channel"]:
    """What the kernel sees at each place of each image, in the order of the weights."""
    axes = x.ndim - 3
    around = nn.functional.pad(x, (0, 0, *(1 for _ in range(2 * axes))))
    shifted = []
    # the last axis is the first of the weights, and moves slowest
    for starts in product(range(WINDOW), repeat=axes):
        cut = tuple(slice(start, start + size) for start, size in zip(reversed(starts), x.shape[2:-1], strict=True))
        shifted.append(around[:, :, *cut])
    return torch.cat(shifted, dim=-1).flatten(1, -2)


def pooled(x: Float[Tensor, "model row *axis channel"], *, ceil: bool) -> Float[Tensor, "model row *half channel"]:
    """Largest of every two along each axis; `ceil` keeps the last of an odd number, else it is left out."""
    flat = x.flatten(0, 1).movedim(-1, 1)
    pool = nn.functional.max_pool2d if flat.ndim == 4 else nn.functional.max_pool3d
    halved: Tensor = pool(flat, kernel_size=2, ceil_mode=ceil).movedim(1, -1)
    return halved.reshape(*x.shape[:2], *halved.shape[1:])
