"""Says which kept slices a patch of an image can change the embedding through, and what it costs to find out; knows no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from extractor.layouts import Kept, layout_builder
from extractor.streams import Stream


@dataclass(frozen=True)
class Patch:
    """A box of voxels, half-open."""

    start_zyx: tuple[int, int, int]
    stop_zyx: tuple[int, int, int]

    def covers(self, z: int) -> bool:
        """Whether it touches a slice."""
        return self.start_zyx[0] <= z < self.stop_zyx[0]

    def hide(self, slice_yx: UInt8[np.ndarray, "y x"], fill: int) -> UInt8[np.ndarray, "y x"]:
        """A copy of a slice that it touches, the patch filled with one value."""
        hidden = slice_yx.copy()
        hidden[self.start_zyx[1] : self.stop_zyx[1], self.start_zyx[2] : self.stop_zyx[2]] = fill
        return hidden


@dataclass(frozen=True)
class Visits:
    """What a pass, or a part of one, has to do."""

    encoded: int = 0
    """Slices whose image features are computed."""
    propagated: int = 0
    """Slices that go through attention, decoder and memory encoder."""

    def __add__(self, other: Visits) -> Visits:
        return Visits(self.encoded + other.encoded, self.propagated + other.propagated)

    def seconds(self, pace: Pace) -> float:
        """How long it takes."""
        return self.encoded * pace.encode_s + self.propagated * pace.propagate_s


@dataclass(frozen=True)
class Pace:
    """Seconds that a slice takes."""

    encode_s: float
    propagate_s: float


class Reach:
    """Which of a stream's kept slices can change certain layouts, and what a patch makes to be done again.

    References
    ----------
    Protocol section 2: what a stored memory sees.
    """

    def __init__(self, stream: Stream, layouts: Sequence[str], *, grid_px: int) -> None:
        self._stream = stream
        self.key = stream.key if stream.mode == "key_slice" else 0
        """Rank of the slice with which the propagation begins."""
        self.kept = Kept(len(stream.slices), stream.mode, grid_px, self.key)
        self.held = frozenset[int]().union(*(layout_builder(name, self.kept).ranks for name in layouts))
        """Ranks of the slices whose own memories a layout holds, alone or in a mean."""
        self.seen = self._visible()
        """Ranks of the slices that can change a layout: what happens on another one changes nothing. Beyond `held` they act through
        the masks of later slices alone."""

    @property
    def apart(self) -> bool:
        """Whether no slice sees another: boxes on all, or masks that take the decoder's place."""
        by_mask = self._stream.prompt == "mask" and self._stream.mode in {"sequential", "sequential_direct"}
        return self._stream.mode == "upfront" or by_mask

    def ranks(self, patch: Patch) -> tuple[int, ...]:
        """Kept slices that a patch touches and that can change a layout, by their ranks."""
        return tuple(rank for rank, z in enumerate(self._stream.slices) if patch.covers(z) and rank in self.seen)

    def visits(self, patch: Patch) -> Visits:
        """What is done again with a patch hidden; nothing where it can change nothing."""
        touched = self.ranks(patch)
        if not touched:
            return Visits()
        encoded = sum(patch.covers(z) for z in self._stream.slices)
        return Visits(encoded, len(touched) if self.apart else self._propagated(touched))

    @property
    def whole(self) -> Visits:
        """What the pass over the whole image does."""
        return Visits(self.kept.count, self.kept.count)

    def _propagated(self, touched: Sequence[int]) -> int:
        below = [rank for rank in touched if rank >= self.key]
        downwards = self.kept.count - min(below) if below else 0
        above = [rank for rank in touched if rank < self.key]
        if self.key in touched:
            return downwards + self.key
        return downwards + (max(above) + 1 if above else 0)

    def _visible(self) -> frozenset[int]:
        if self.apart:
            return self.held
        below, above = (max(self.held, default=self.key), min(self.held, default=self.key))
        return frozenset(range(min(above, self.key), max(below, self.key) + 1))
