"""Packs the memories of a stream of slices into the arrays that are stored; knows no network, image or store.

A layout is filled one memory at a time, so that it holds no more for a thousand slices than for ten.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
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

Mode = Literal["sequential", "upfront"]
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


class LayoutBuilder(Protocol):
    """Takes the memories of a stream from superior to inferior, then gives the layout."""

    def add(self, memory: MemoryMap) -> None:
        """Takes the next slice's memory; must not keep more than the layout needs."""

    def finish(self) -> LayoutArray:
        """The layout of everything taken so far."""


class PaperBuilder:
    """The last two memories, channel pairs averaged 64→32, 64×64 in plane; zero-padded in front.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.3.1, gives only the shape 2×32×64×64; which entries and which grouping is our
    decision.
    """

    def __init__(self, *, count: int, mode: Mode, grid_px: int) -> None:
        del count, mode  # the last two entries are the same two in every mode
        self._last: deque[MemoryMap] = deque(maxlen=2)
        self._grid_px = grid_px

    def add(self, memory: MemoryMap) -> None:
        """Takes the next memory; the one before the last is dropped."""
        self._last.append(memory)

    def finish(self) -> LayoutArray:
        """The last two memories, reduced."""
        pairs = [to_paper_plane(average_channel_pairs(memory)) for memory in self._last]
        return _padded_in_front(pairs, layers=2, shape=(PAPER_CHANNELS, PAPER_PX, PAPER_PX))


class RawBuilder:
    """What attention could see at the end: [first, last six] in sequential mode, the last seven in upfront mode.

    The last layer is always the most inferior slice; missing ones leave zero layers before it (and, in sequential
    mode, after the conditioning entry, which stays layer 0).
    """

    def __init__(self, *, count: int, mode: Mode, grid_px: int) -> None:
        del count
        self._keeps_first = mode == "sequential"
        self._first: list[MemoryMap] = []
        self._last: deque[MemoryMap] = deque(maxlen=RAW_LAYERS - self._keeps_first)
        self._shape = (MEMORY_CHANNELS, grid_px, grid_px)

    def add(self, memory: MemoryMap) -> None:
        """Takes the next memory; what attention can no longer see is dropped."""
        if self._keeps_first and not self._first:
            self._first.append(memory)
        else:
            self._last.append(memory)

    def finish(self) -> LayoutArray:
        """The memories in view, each at its fixed layer."""
        last = _padded_in_front(list(self._last), layers=RAW_LAYERS - self._keeps_first, shape=self._shape)
        if not self._keeps_first:
            return last
        first = _padded_in_front(self._first, layers=1, shape=self._shape)
        return _layout(np.concatenate([first.memory, last.memory]), first.valid + last.valid)


class ThirdsBuilder:
    """Means of equal parts of the kept slices from superior to inferior; an empty part is zero and invalid.

    Slice i of N falls into part ⌊parts · i / N⌋. The mean is a running one in float32.
    """

    def __init__(self, *, count: int, mode: Mode, grid_px: int, parts: int = 3) -> None:
        del mode
        self._count = count
        self._taken = 0
        self._in_part = [0] * parts
        self._means = np.zeros((parts, MEMORY_CHANNELS, grid_px, grid_px), np.float32)

    def add(self, memory: MemoryMap) -> None:
        """Takes the next memory into the mean of its part."""
        part = len(self._in_part) * self._taken // self._count
        self._taken += 1
        self._in_part[part] += 1
        self._means[part] += (memory - self._means[part]) / np.float32(self._in_part[part])

    def finish(self) -> LayoutArray:
        """The mean of each part."""
        return _layout(self._means.copy(), tuple(taken > 0 for taken in self._in_part))


class PooledBuilder(ThirdsBuilder):
    """The mean over all kept slices."""

    def __init__(self, *, count: int, mode: Mode, grid_px: int) -> None:
        super().__init__(count=count, mode=mode, grid_px=grid_px, parts=1)


_BUILDERS: dict[str, Callable[..., LayoutBuilder]] = {
    "paper": PaperBuilder,
    "raw": RawBuilder,
    "pooled": PooledBuilder,
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


def layout_builder(layout: str, *, count: int, mode: Mode, grid_px: int) -> LayoutBuilder:
    """An empty layout for a stream of `count` kept slices with memories of `grid_px` × `grid_px` cells.

    Raises
    ------
    ConfigError
        If the layout is unknown, or the memory grid does not fit into the paper's 64×64.
    """
    _check(layout, grid_px)
    return _BUILDERS[layout](count=count, mode=mode, grid_px=grid_px)


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


def _padded_in_front(memories: list[MemoryMap], *, layers: int, shape: tuple[int, int, int]) -> LayoutArray:
    """The memories as the last of so many layers, zero layers before them."""
    missing = layers - len(memories)
    stacked = np.zeros((layers, *shape), np.float32)
    if memories:
        stacked[missing:] = memories
    return _layout(stacked, (False,) * missing + (True,) * len(memories))


def _layout(memory: Float32[np.ndarray, "layer channel row column"], valid: tuple[bool, ...]) -> LayoutArray:
    """The layout with its mean map, which an empty one has as zeros."""
    if not any(valid):
        return LayoutArray(memory, valid, np.zeros(memory.shape[2:], np.float32))
    # Summed in double precision: 448 addends would cost float32 its last digits.
    mean_map = memory[np.asarray(valid)].mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    return LayoutArray(memory, valid, mean_map)
