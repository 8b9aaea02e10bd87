"""Does work in batches that fit into memory; knows no network and no image."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch

from store_schema.errors import ConfigError


@dataclass(frozen=True)
class BatchSizes:
    """How many slices are encoded at once, and how many streams share memory attention and decoder, at most."""

    slices: int = 1
    streams: int = 1

    def __post_init__(self) -> None:
        if min(self.slices, self.streams) < 1:
            raise ConfigError(f"a batch holds at least one: got {self.slices} slices and {self.streams} streams")

    @property
    def alone(self) -> bool:
        """Whether everything is computed by itself, so that no number depends on what else is computed."""
        return self.slices == self.streams == 1


GPU_BATCHES = BatchSizes(slices=8, streams=16)


def usual_batches(device: str) -> BatchSizes:
    """What is computed at once on a device: a CPU gains nothing from batches."""
    return GPU_BATCHES if torch.device(device).type == "cuda" else BatchSizes()


@dataclass
class Batcher:
    """Runs work in batches of at most `limit`; out of GPU memory, it halves the limit and goes on."""

    limit: int
    halved: int = field(default=0, init=False)
    """How often memory did not suffice."""

    def run[A, B](self, items: Sequence[A], act: Callable[[Sequence[A]], Sequence[B]]) -> list[B]:
        """What `act` gives for each item, in the items' order.

        Raises
        ------
        torch.OutOfMemoryError
            If not even one item fits.
        """
        made: list[B] = []
        while len(made) < len(items):
            part = items[len(made) : len(made) + self.limit]
            try:
                made += act(part)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                self.limit = max(1, len(part) // 2)
                self.halved += 1
                torch.cuda.empty_cache()
        return made

    def run_alike[A, B](
        self, items: Sequence[A], alike: Callable[[A], Hashable], act: Callable[[Sequence[A]], Sequence[B]]
    ) -> list[B]:
        """As `run`, with only items of one kind in a batch."""
        groups: dict[Hashable, list[int]] = {}
        for place, item in enumerate(items):
            groups.setdefault(alike(item), []).append(place)
        made: dict[int, B] = {}
        for places in groups.values():
            made |= zip(places, self.run([items[place] for place in places], act), strict=True)
        return [made[place] for place in range(len(items))]
