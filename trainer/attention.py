"""Turns a memory into a vector by attention over its channels, fast on a CPU; knows nothing of modalities or survival."""

import math
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from store_schema.errors import UsageError

BASE, GROUPS, SQUEEZED = 32, 8, 16
EPSILON = nn.GroupNorm(1, 1).eps
ACTIVATIONS = {"cpu": 2**19, "cuda": 2**26}
"""Computed at once: few enough for a CPU's caches, many enough for the calls not to count."""


class AttentionHead(nn.Module):
    """Vector of a memory by light depth attention: layers are channels of a convolution, channels are its depth.

    1x1x1 convolution (memory layers to 32), group normalisation (8), GELU; the spatial mean of each depth is its descriptor,
    from which linear (32 to 16), GELU, linear (16 to 1) and a softmax over depth make weights; the weighted sum over depth,
    its global average, and a linear projection (32 to 128) follow. The last logit has no bias: it would cancel in the
    softmax. Weights start equal.

    What is computed differs from the figure and leaves the function as it is. The weighted sum commutes with the global
    average, so that only the descriptors are needed; resizing to S x S before that average is the identity where S divides
    the size, and is left out. Normalised activations are an affine function of the few memory layers, whose coefficients
    follow from the mean and covariance of the layers. And each block of activations gives its descriptors together with
    their derivatives, so that no activation is kept for the backward pass.

    The average over (1, 2, 2) that comes first in the figure is taken once, as memories are read (`trainer.features`). A
    memory layer that is not valid is stored as zeros and enters as such.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.3.1 (2), Fig. 3(b); Hu et al. 2019; protocol section 5.
    """

    width = 128
    """Length of the vector."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.mix = nn.Conv3d(layers, BASE, kernel_size=1)
        self.norm = nn.GroupNorm(GROUPS, BASE)
        self.excite = nn.Sequential(nn.Linear(BASE, SQUEEZED), nn.GELU(), nn.Linear(SQUEEZED, 1, bias=False))
        self.project = nn.Linear(BASE, self.width)

    def forward(self, memory: Float[Tensor, "patient layer channel row column"]) -> Float[Tensor, "patient 128"]:
        """Vectors of standardised memories of any size in plane; no gradient flows into the memories.

        Raises
        ------
        UsageError
            If the memories have another number of layers, or ask for a gradient.
        """
        descriptors = self._descriptors(memory)
        vectors: Tensor = self.project((self._weights(descriptors) * descriptors).sum(dim=2))
        return vectors

    def weights(self, memory: Float[Tensor, "patient layer channel row column"]) -> Float[Tensor, "patient channel"]:
        """Attention of each patient's channels, in (0, 1), summing to 1.

        Raises
        ------
        UsageError
            As `forward`.
        """
        return self._weights(self._descriptors(memory)).squeeze(1)

    def _weights(self, descriptors: Float[Tensor, "patient base channel"]) -> Float[Tensor, "patient 1 channel"]:
        return torch.softmax(self.excite(descriptors.transpose(1, 2)), dim=1).transpose(1, 2)

    def _descriptors(
        self, memory: Float[Tensor, "patient layer channel row column"]
    ) -> Float[Tensor, "patient base channel"]:
        layers = self.mix.in_channels
        if memory.ndim != 5 or memory.shape[1] != layers or memory.requires_grad:
            raise UsageError(
                f"the attention head takes memories as (patient, {layers}, channel, row, column) that ask for no gradient, "
                f"got {tuple(memory.shape)}"
            )
        cells = memory.flatten(3)
        assert self.mix.bias is not None
        weight, bias = self.mix.weight.flatten(1), self.mix.bias
        return gelu_means(cells, *affine(cells.flatten(2), weight, bias, self.norm.weight, self.norm.bias))


def affine(
    values: Float[Tensor, "*patient layer cell"],
    weight: Float[Tensor, "*#patient base layer"],
    bias: Float[Tensor, "*#patient base"],
    gain: Float[Tensor, "*#patient base"],
    shift: Float[Tensor, "*#patient base"],
) -> tuple[Float[Tensor, "*patient base layer"], Float[Tensor, "*patient base"]]:
    """Slope and offset that convolution and group normalisation together apply to each patient's layers.

    With weights w and offsets b, channel k has the mean m_k = w_k · mean(x) + b_k and the variance w_k · cov(x) w_k; a
    group's variance is the mean of those plus the variance of its channels' means.

    Parameters
    ----------
    values
        Memory layers of each patient.
    weight, bias
        Of the convolution: one for all patients, or for those of each model.
    gain, shift
        Of the normalisation.
    """
    mean = values.mean(dim=-1)
    centred = values - mean.unsqueeze(-1)
    covariance = centred @ centred.mT / values.shape[-1]
    means = _grouped((weight @ mean.unsqueeze(-1)).squeeze(-1) + bias)
    within = _grouped(((weight @ covariance) * weight).sum(dim=-1)).mean(dim=-1)
    spread = torch.sqrt(within + means.var(dim=-1, correction=0) + EPSILON)
    scale = (_grouped(gain) / spread.unsqueeze(-1)).flatten(-2)
    offset = scale * (means - means.mean(dim=-1, keepdim=True)).flatten(-2) + shift
    # `means` hold what the layers' mean brings: what is left is an offset for layers as they are
    slope = scale.unsqueeze(-1) * weight
    return slope, offset - (slope * mean.unsqueeze(-2)).sum(dim=-1)


def _grouped(x: Float[Tensor, "*patient base"]) -> Float[Tensor, "*patient group channel"]:
    return x.reshape(*x.shape[:-1], GROUPS, BASE // GROUPS)


def gelu_means(
    cells: Float[Tensor, "patient layer channel cell"],
    slope: Float[Tensor, "patient base layer"],
    offset: Float[Tensor, "patient base"],
) -> Float[Tensor, "patient base channel"]:
    """Mean over cells of GELU(slope · layers + offset): the descriptor of each patient's channels."""
    found: Tensor = _GeluMeans.apply(cells, slope, offset)
    return found


class _GeluMeans(torch.autograd.Function):
    """Mean over cells of GELU(slope · layers + offset), for each patient, base and channel.

    Derivatives to slope and offset are means over the same cells, taken in the same pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        cells: Float[Tensor, "patient layer channel cell"],
        slope: Float[Tensor, "patient base layer"],
        offset: Float[Tensor, "patient base"],
    ) -> Float[Tensor, "patient base channel"]:
        patients, layers, channels, size = cells.shape
        means = cells.new_empty(patients, BASE, channels)
        derivatives = cells.new_empty(patients, channels, layers + 1, BASE) if any(ctx.needs_input_grad) else None
        affine = torch.cat((slope, offset[:, :, None]), dim=2)
        rows, depth = _block(cells)
        # kept over all blocks: allocating half a megabyte each time costs as much as a pass over it
        first, second, ones = (cells.new_ones(rows * BASE * depth * size) for _ in range(3))
        for row, start in product(range(0, patients, rows), range(0, channels, depth)):
            block = cells[row : row + rows, :, start : start + depth]
            known = torch.cat((block, torch.ones_like(block[:, :1])), dim=1)
            shape = (len(block), BASE, block.shape[2], size)
            active, result, one = (kept[: math.prod(shape)].view(shape) for kept in (first, second, ones))
            torch.bmm(affine[row : row + rows], known.flatten(2), out=active.flatten(2))
            torch.ops.aten.gelu.out(active, out=result)
            means[row : row + rows, :, start : start + depth] = result.mean(dim=3)
            if derivatives is not None:
                torch.ops.aten.gelu_backward.grad_input(one, active, grad_input=result)
                found = known.transpose(1, 2) @ result.permute(0, 2, 3, 1)
                derivatives[row : row + rows, start : start + depth] = found / size
        if derivatives is not None:
            ctx.save_for_backward(derivatives)
        return means

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Float[Tensor, "patient base channel"]
    ) -> tuple[None, Float[Tensor, "patient base layer"], Float[Tensor, "patient base"]]:
        (derivatives,) = ctx.saved_tensors
        found = torch.einsum("pbd,pdlb->pbl", gradient, derivatives)
        return None, found[:, :, :-1], found[:, :, -1]


def _block(cells: Float[Tensor, "patient layer channel cell"]) -> tuple[int, int]:
    """Patients and channels that are computed at once: some channels of one patient, or all of some patients."""
    patients, _, channels, size = cells.shape
    most = max(1, ACTIVATIONS.get(cells.device.type, ACTIVATIONS["cuda"]) // (BASE * size))
    return min(patients, max(1, most // channels)), min(channels, most)
