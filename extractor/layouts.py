"""Packs the memories of a stream of slices into the arrays that are stored; knows no network, image or store.

A layout is filled one memory at a time, so that it holds no more for a thousand slices than for ten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float32

from store_schema.errors import ConfigError

MEMORY_CHANNELS = 64
"""Channels of one memory as SAM2 makes it."""
PAPER_CHANNELS = 32
PAPER_PX = 64
STRIDE_PX = 16
"""Image pixels to one cell of the memory grid."""
RAW_LAYERS = 7
"""Memories that SAM2 attends to: one conditioning entry and six others."""

Mode = Literal["sequential", "upfront", "first", "key_slice", "sequential_direct"]
"""Orders of prompting (`extractor.memory.embed_volume`)."""
MemoryMap = Float32[np.ndarray, "channel row column"]


@dataclass(frozen=True)
class LayoutArray:
    """One layout of one stream, in float32, before any cast for storage."""

    memory: Float32[np.ndarray, "layer channel row column"]
    """Memory layers from superior to inferior; an invalid layer is zero."""
    valid: tuple[bool, ...]
    """Whether a layer holds a memory."""
    mean_map: Float32[np.ndarray, "row column"]
    """Mean over valid layers and all channels."""

    @property
    def valid_layers(self) -> int:
        """Count of valid layers."""
        return sum(self.valid)


@dataclass(frozen=True)
class Kept:
    """What a layout must know of a stream before its first memory."""

    count: int
    """Kept slices; rank 0 is the most superior."""
    mode: Mode
    grid_px: int
    """Rows and columns of one memory."""
    key: int = 0
    """Rank of the key slice; tells in mode `key_slice` alone."""


class LayoutBuilder(Protocol):
    """Takes the memories of a stream, each once and in any order of their ranks, then gives the layout."""

    def add(self, memory: MemoryMap, rank: int) -> None:
        """Takes a slice's memory; must not keep more than the layout needs."""

    def finish(self) -> LayoutArray:
        """The layout of everything taken so far."""

    @property
    def ranks(self) -> frozenset[int]:
        """Kept slices whose memories it holds, alone or in a mean."""


class PickedBuilder:
    """The memories of certain slices, each at its layer; a layer without a slice is zero and invalid."""

    def __init__(self, ranks: Sequence[int | None], reduce: Callable[[MemoryMap], MemoryMap]) -> None:
        self._ranks = tuple(ranks)
        self._reduce = reduce
        self._taken: dict[int, MemoryMap] = {}

    def add(self, memory: MemoryMap, rank: int) -> None:
        """Takes a memory if it has a layer."""
        if rank in self._ranks:
            self._taken[rank] = self._reduce(memory)

    @property
    def ranks(self) -> frozenset[int]:
        """Slices with a layer."""
        return frozenset(rank for rank in self._ranks if rank is not None)

    def finish(self) -> LayoutArray:
        """The layers; at least one memory was taken."""
        shape = next(iter(self._taken.values())).shape
        stacked = np.zeros((len(self._ranks), *shape), np.float32)
        valid = tuple(rank is not None and rank in self._taken for rank in self._ranks)
        for layer, rank in enumerate(self._ranks):
            if rank is not None and rank in self._taken:
                stacked[layer] = self._taken[rank]
        return _layout(stacked, valid)


def paper_builder(kept: Kept) -> LayoutBuilder:
    """The last two memories, channel pairs averaged 64→32, 64×64 in plane; zero-padded in front.

    In mode `key_slice` the last of the reverse pass and the last of the forward pass: the two ends of the region.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.3.1, gives only the shape 2×32×64×64; which entries and which grouping is our
    decision.
    """
    upper = 0 if kept.mode == "key_slice" else kept.count - 2
    ranks = (upper if kept.count > 1 else None, kept.count - 1)
    return PickedBuilder(ranks, lambda memory: to_paper_plane(average_channel_pairs(memory)))


def raw_builder(kept: Kept) -> LayoutBuilder:
    """What attention could see at the end: [first, last six] in sequential mode, the last seven in the others.

    The last layer is the most inferior slice; missing ones leave zero layers before it (and, in sequential mode, after
    the conditioning entry, which stays layer 0). Mode `key_slice`: the key slice, then the last three of the reverse pass
    (the most superior slice last), then the last three of the forward pass, each padded in front.
    """
    count, layers = kept.count, RAW_LAYERS
    if kept.mode == "key_slice":
        reverse = [rank if rank < kept.key else None for rank in (2, 1, 0)]
        forward = [rank if rank > kept.key else None for rank in range(count - 3, count)]
        ranks: list[int | None] = [kept.key, *reverse, *forward]
    elif kept.mode == "sequential":
        ranks = [0, *(rank if rank > 0 else None for rank in range(count - layers + 1, count))]
    else:
        ranks = [rank if rank >= 0 else None for rank in range(count - layers, count)]
    return PickedBuilder(ranks, lambda memory: memory)


class ThirdsBuilder:
    """Means of equal parts of the kept slices from superior to inferior; an empty part is zero and invalid.

    Slice i of N falls into part ⌊parts · i / N⌋. The mean is a running one in float32, in the order of adding.
    """

    def __init__(self, kept: Kept, *, parts: int = 3) -> None:
        self._count = kept.count
        self._in_part = [0] * parts
        self._means = np.zeros((parts, MEMORY_CHANNELS, kept.grid_px, kept.grid_px), np.float32)

    def add(self, memory: MemoryMap, rank: int) -> None:
        """Takes a memory into the mean of its part."""
        part = len(self._in_part) * rank // self._count
        self._in_part[part] += 1
        self._means[part] += (memory - self._means[part]) / np.float32(self._in_part[part])

    @property
    def ranks(self) -> frozenset[int]:
        """All slices."""
        return frozenset(range(self._count))

    def finish(self) -> LayoutArray:
        """The mean of each part."""
        return _layout(self._means.copy(), tuple(taken > 0 for taken in self._in_part))


def pooled_builder(kept: Kept) -> LayoutBuilder:
    """The mean over all kept slices, each counted once."""
    return ThirdsBuilder(kept, parts=1)


_BUILDERS: dict[str, Callable[[Kept], LayoutBuilder]] = {
    "paper": paper_builder,
    "raw": raw_builder,
    "pooled": pooled_builder,
    "thirds": ThirdsBuilder,
}
LAYOUTS = tuple(_BUILDERS)
"""Names of the layouts, the default first."""


def layout_shape(layout: str, image_size: int) -> tuple[int, int, int, int]:
    """Shape of a layout: memory layer, channel, row, column.

    Parameters
    ----------
    layout
        One of `LAYOUTS`.
    image_size
        Edge of the network's input in pixels.

    Raises
    ------
    ConfigError
        If the layout is unknown, or the memory grid does not fit into the paper's 64×64.
    """
    grid_px = image_size // STRIDE_PX
    _check(layout, grid_px)
    shapes = {
        "paper": (2, PAPER_CHANNELS, PAPER_PX, PAPER_PX),
        "raw": (RAW_LAYERS, MEMORY_CHANNELS, grid_px, grid_px),
        "pooled": (1, MEMORY_CHANNELS, grid_px, grid_px),
        "thirds": (3, MEMORY_CHANNELS, grid_px, grid_px),
    }
    return shapes[layout]


def layout_builder(layout: str, kept: Kept) -> LayoutBuilder:
    """An empty layout for a stream.

    Raises
    ------
    ConfigError
        If the layout is unknown, or the memory grid does not fit into the paper's 64×64.
    """
    _check(layout, kept.grid_px)
    return _BUILDERS[layout](kept)


def average_channel_pairs(memory: MemoryMap) -> MemoryMap:
    """Means of the channel pairs (2c, 2c+1): half as many channels."""
    means: MemoryMap = (memory[0::2] + memory[1::2]) * np.float32(0.5)
    return means


def to_paper_plane(memory: MemoryMap) -> MemoryMap:
    """The map on 64×64 cells: nearest enlargement of a smaller grid, mean pooling of a larger one."""
    channels, grid_px, _ = memory.shape
    if grid_px <= PAPER_PX:
        factor = PAPER_PX // grid_px
        return memory.repeat(factor, axis=1).repeat(factor, axis=2)
    factor = grid_px // PAPER_PX
    blocks = memory.reshape(channels, PAPER_PX, factor, PAPER_PX, factor)
    return blocks.mean(axis=(2, 4), dtype=np.float32)


def _check(layout: str, grid_px: int) -> None:
    if layout not in _BUILDERS:
        raise ConfigError(f"layout {layout!r} is unknown: use one of {', '.join(LAYOUTS)}")
    if layout == "paper" and math.gcd(grid_px, PAPER_PX) not in {grid_px, PAPER_PX}:
        raise ConfigError(
            f"the paper layout needs a memory grid that divides {PAPER_PX} or is a multiple of it, got {grid_px} "
            f"cells: choose an image size of {STRIDE_PX} × such a grid, or another layout"
        )


def _layout(memory: Float32[np.ndarray, "layer channel row column"], valid: tuple[bool, ...]) -> LayoutArray:
    """The layout with its mean map, which an empty one has as zeros."""
    if not any(valid):
        return LayoutArray(memory, valid, np.zeros(memory.shape[2:], np.float32))
    # Summed in double precision: 448 addends would cost float32 its last digits.
    mean_map = memory[np.asarray(valid)].mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    return LayoutArray(memory, valid, mean_map)
