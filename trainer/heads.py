"""Turns an image's stored tensor into a vector; knows nothing of modalities, fusion or survival."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from store_schema.errors import UsageError

BLOCK = 16
"""Patients that a CPU takes through the convolutions at once: their activations then stay in its caches."""


class AverageHead(nn.Module):
    """Vector of a mean map by three small convolutions and global pooling; the paper's winning head.

    Conv 3x3 (1→32), ReLU, max-pool 2x2; conv (32→64), ReLU, max-pool; conv (64→128), ReLU, global average. The
    convolutions hold 92,672 parameters.

    What is changed leaves the function as it is: maximum and ReLU commute, so that pooling comes first and ReLU sees a
    quarter of the pixels; weights lie with their channels last, which makes the kernels keep activations so (the
    layout of the one-channel input cannot tell them); and a CPU takes a few patients at a time.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.3.1 (1), Fig. 3(a); protocol section 5 (the width 32 is inferred).
    """

    width = 128
    """Length of the vector."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 32, kernel_size=3, padding=1)
        self.second = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.third = nn.Conv2d(64, self.width, kernel_size=3, padding=1)
        self.to(memory_format=torch.channels_last)

    def forward(self, maps: Float[Tensor, "patient 1 row column"]) -> Float[Tensor, "patient 128"]:
        """Vectors of standardised mean maps, 64x64 or any size that two poolings fit.

        Raises
        ------
        UsageError
            If the maps have another number of channels, or fewer than 4 rows or columns.
        """
        if maps.ndim != 4 or maps.shape[1] != 1 or min(maps.shape[2:]) < 4:
            raise UsageError(
                f"the average head takes maps as (patient, 1, row, column) of at least 4x4, got {tuple(maps.shape)}"
            )
        blocks = torch.split(maps, BLOCK) if maps.device.type == "cpu" else (maps,)
        return torch.cat([self._vectors(block) for block in blocks])

    def _vectors(self, maps: Float[Tensor, "patient 1 row column"]) -> Float[Tensor, "patient 128"]:
        x = _pooled(self.first(maps.contiguous(memory_format=torch.channels_last)))
        x = _pooled(self.second(x))
        return torch.relu(self.third(x)).mean(dim=(2, 3))


def _pooled(x: Float[Tensor, "patient channel row column"]) -> Float[Tensor, "patient channel row/2 column/2"]:
    return torch.relu(nn.functional.max_pool2d(x, kernel_size=2))
