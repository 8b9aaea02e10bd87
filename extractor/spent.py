"""Counts what the work on a study takes: seconds by stage, slices through encoders, GPU memory; knows none of the stages."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

Stage = Literal["loading", "embedding", "writing"]
"""`loading`: files are read, resampled and compared with the store; `embedding`: the network runs; `writing`: the rest is
written."""


@dataclass
class Spent:
    """What one study took of the process that worked on it."""

    loading_s: float = 0.0
    embedding_s: float = 0.0
    """Of studies that went through the network side by side, an equal share; waiting for the network is not in it."""
    writing_s: float = 0.0
    slices: int = 0
    """Slices that went through an image encoder; of studies side by side, all are counted with the first."""
    gpu_peak_bytes: int = 0
    """Most GPU memory that tensors of the process held at once since it began; 0 without a GPU."""

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Adds the time of the block to a stage."""
        started_s = time.perf_counter()
        try:
            yield
        finally:
            name = f"{stage}_s"
            setattr(self, name, getattr(self, name) + time.perf_counter() - started_s)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Adds the slices that are encoded in the block, in this thread."""
        token = _counting.set(self)
        try:
            yield
        finally:
            _counting.reset(token)


_counting: ContextVar[Spent | None] = ContextVar("_counting", default=None)


def count_slices(number: int) -> None:
    """So many slices went through an image encoder."""
    spent = _counting.get()
    if spent is not None:
        spent.slices += number


def gpu_peak_bytes() -> int:
    """Most GPU memory that tensors of this process held at once; 0 where no GPU was used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return max(int(torch.cuda.max_memory_allocated(device)) for device in range(torch.cuda.device_count()))
