"""Turns a map or a volume into a vector by small convolutions; knows nothing of modalities, fusion or survival."""

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


class VolumeHead(nn.Module):
    """Vector of a memory taken as one volume of one channel, by three small 3-D convolutions and global pooling.

    Conv 3x3x3 (1→8), max-pool 2x2x2, ReLU; conv (8→16), max-pool, ReLU; conv (16→32), ReLU, global average; linear (32→128).
    21,776 parameters. The paper discarded this head and gives no layout: widths, pooling and projection are ours, small
    for a cohort of hundreds.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.3.1, discarded configuration (i).
    """

    width = 128
    """Length of the vector."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 8, kernel_size=3, padding=1)
        self.second = nn.Conv3d(8, 16, kernel_size=3, padding=1)
        self.third = nn.Conv3d(16, 32, kernel_size=3, padding=1)
        self.project = nn.Linear(32, self.width)
        self.to(memory_format=torch.channels_last_3d)

    def forward(self, volumes: Float[Tensor, "patient 1 depth row column"]) -> Float[Tensor, "patient 128"]:
        """Vectors of standardised volumes of any size.

        Raises
        ------
        UsageError
            If the volumes have another number of channels.
        """
        if volumes.ndim != 5 or volumes.shape[1] != 1:
            raise UsageError(
                f"the volume head takes volumes as (patient, 1, depth, row, column), got {tuple(volumes.shape)}"
            )
        blocks = torch.split(volumes, BLOCK) if volumes.device.type == "cpu" else (volumes,)
        return torch.cat([self._vectors(block) for block in blocks])

    def _vectors(self, volumes: Float[Tensor, "patient 1 depth row column"]) -> Float[Tensor, "patient 128"]:
        x = _halved(self.first(volumes.contiguous(memory_format=torch.channels_last_3d)))
        x = _halved(self.second(x))
        vectors: Tensor = self.project(torch.relu(self.third(x)).mean(dim=(2, 3, 4)))
        return vectors


def _pooled(x: Float[Tensor, "patient channel row column"]) -> Float[Tensor, "patient channel row/2 column/2"]:
    return torch.relu(nn.functional.max_pool2d(x, kernel_size=2))


def _halved(
    x: Float[Tensor, "patient channel depth row column"],
) -> Float[Tensor, "patient channel depth/2 row/2 column/2"]:
    # rounded up, so that an axis of one, such as the depth of a memory of one channel, stays one
    return torch.relu(nn.functional.max_pool3d(x, kernel_size=2, ceil_mode=True))
