"""Names of the baseline views and how they pack what an encoder makes of slices; knows no network, image or store.

A baseline sees no prompt: the region decides which slices are kept, and with `box` what is cut out of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32

from extractor.layouts import PAPER_PX, LayoutArray, MemoryMap, to_paper_plane

BaselineName = Literal[
    "resnet50",
    "resnet50-last2",
    "resnet50-box",
    "resnet50-box-last2",
    "vit",
    "vit-last2",
    "vit-box",
    "vit-box-last2",
    "hiera",
    "hiera-last2",
]
"""Encoder, then `box` where a slice is cut to the region's box, then `last2` where the last two kept slices alone count."""
SliceEncoderName = Literal["resnet50", "vit"]
HIERA = "hiera"
"""The image encoder of the segmentation network alone."""
VECTOR_DTYPE: Literal["float32"] = "float32"
LAST = 2
"""Kept slices that `last2` takes, as the `paper` layout of memories does."""


@dataclass(frozen=True)
class Baseline:
    """What one baseline view holds."""

    name: BaselineName

    @property
    def encoder(self) -> str:
        """`resnet50`, `vit` or `hiera`."""
        return self.name.partition("-")[0]

    @property
    def crop(self) -> Literal["slice", "box"]:
        """Whether the whole slice or the region's box on it is looked at."""
        return "box" if "-box" in self.name else "slice"

    @property
    def aggregate(self) -> Literal["all", "last2"]:
        """Whether all kept slices count, or the last two."""
        return "last2" if self.name.endswith("-last2") else "all"

    @property
    def is_map(self) -> bool:
        """Whether the view keeps a map in plane, so that a head for mean maps reads it; the others are vectors."""
        return self.encoder == HIERA and self.aggregate == "last2"

    @property
    def layout(self) -> str:
        """Name of the layout in the view."""
        return "last2-map" if self.is_map else "vector"

    def shape(self, features: int) -> tuple[int, int, int, int]:
        """Memory layer, channel, row, column, of an encoder with this many features."""
        return (LAST, 1, PAPER_PX, PAPER_PX) if self.is_map else (1, features, 1, 1)

    def counted(self, slices: Sequence[int]) -> tuple[int, ...]:
        """The kept slices that count, from superior to inferior."""
        return tuple(slices[-LAST:] if self.aggregate == "last2" else slices)


def mean_vector(vectors: Sequence[Float32[np.ndarray, " feature"]]) -> Float32[np.ndarray, "1 feature 1 1"]:
    """The mean over slices, as a vector view holds it; summed in double precision."""
    mean = np.mean(np.stack(vectors), axis=0, dtype=np.float64).astype(np.float32)
    return mean.reshape(1, -1, 1, 1)


def last_maps(means: Sequence[MemoryMap]) -> LayoutArray:
    """The channel means of the last two slices' maps on 64×64 cells, zero-padded in front; the mean map is theirs.

    The matched control of the `paper` layout: slices, padding and plane are the same, and so is what its mean map averages.
    """
    memory = np.zeros((LAST, 1, PAPER_PX, PAPER_PX), np.float32)
    padding = LAST - len(means)
    for layer, mean in enumerate(means, start=padding):
        memory[layer] = to_paper_plane(mean)
    valid = tuple(layer >= padding for layer in range(LAST))
    mean_map = memory[np.asarray(valid)].mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    return LayoutArray(memory, valid, mean_map)


def pooled(one: MemoryMap) -> Float32[np.ndarray, " channel"]:
    """The mean of a map over its plane."""
    mean: Float32[np.ndarray, " channel"] = one.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
    return mean


def channel_mean(one: MemoryMap) -> MemoryMap:
    """The mean of a map over its channels: one channel."""
    mean: MemoryMap = one.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    return mean


class HieraBuilder:
    """Takes the encoder's map of each kept slice of a region, in any order, and keeps no more than it must."""

    def __init__(self, baseline: Baseline, slices: Sequence[int]) -> None:
        self.slices = frozenset(baseline.counted(slices))
        """The slices whose maps count."""
        self._reduce: Callable[[MemoryMap], np.ndarray] = channel_mean if baseline.is_map else pooled
        self._taken: dict[int, np.ndarray] = {}

    def take(self, z: int, features: MemoryMap) -> None:
        """Takes a slice's map; one that does not count is let go."""
        if z in self.slices:
            self._taken[z] = self._reduce(features)

    def in_order(self) -> list[np.ndarray]:
        """What was taken, from superior to inferior."""
        return [self._taken[z] for z in sorted(self._taken, reverse=True)]
