"""What a process of a cluster is given of one study, and gives back; knows no cluster, and opens no envelope."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from extractor.worker import WorkerSpec


@dataclass(frozen=True)
class Errand:
    """One study, for one worker process."""

    task: bytes = field(repr=False)
    """The study in its envelope: the scheduler passes it on unread. No worker repeats it in a log: paths may name patients."""
    spec: WorkerSpec = field(repr=False)
    worker_id: str
    topic: str
    key: str


@dataclass(frozen=True)
class Answer:
    """What came of an errand."""

    kind: Literal["done", "broken", "elsewhere", "cancelled"]
    """`broken`: this worker cannot work; `elsewhere`: Dask gave it to another process than was meant; `cancelled`: the
    scheduler was lost or restarted, and nothing is known."""
    made: bytes | None = field(default=None, repr=False)
    """Outcomes, the error if there is one, and what it took, in an envelope: they may speak of files. None where there is none."""
    error: str | None = field(default=None, repr=False)
    """Of the worker itself, or of Dask; it knows no study."""
