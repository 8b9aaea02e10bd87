"""What a process that works on studies holds, and what it tells of them; knows no pool, no cluster and no plan.

A process opens the store and loads the network once, and computes on one thread, so that the numbers do not depend on how many
processes there are.
"""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from extractor.outcome import ItemOutcome
from extractor.spent import Spent, Stage
from extractor.work import LoadedStudy, StudyTask, load_study
from store_schema import Store, open_store
from store_schema.allocator import keep_freed_memory
from store_schema.errors import StoreNotFoundError

if TYPE_CHECKING:
    from extractor.baselines import SliceEncoder
    from extractor.segmenter import Segmenter

MAX_DEATHS = 2
"""A study whose process dies this often is given up: it is the likely cause."""
DIED = f"its process died {MAX_DEATHS} times: out of memory, or killed"
NO_WORKER = "no worker process could be started"


@dataclass(frozen=True)
class BaselineSpec:
    """An encoder of single slices, to be loaded from the same weights everywhere."""

    name: str
    weights: str | None
    """None for the published ones."""
    sha256: str


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker process needs to open: addresses, not objects, so that no credential travels."""

    store_url: str
    model: str
    weights: str
    weights_sha256: str
    device: str
    precision: str
    baselines: tuple[BaselineSpec, ...] = ()
    """Encoders beside the segmentation network."""
    segmenter: bool = True
    """Whether anything is made by the segmentation network."""
    store_id: str | None = None
    """Of the store that is meant: another machine may have another one at the same address."""
    sealed_with: str | None = None
    """Fingerprint of the pseudonym key under which studies travel sealed; None where patients are called by their own ids."""


@dataclass(frozen=True)
class StudyResult:
    """What came of one study: outcomes by item, or the reason why the whole study failed."""

    task: StudyTask
    outcomes: tuple[ItemOutcome, ...] = ()
    error: str | None = None
    spent: Spent = field(default_factory=Spent)
    """Nothing where its process died."""


@dataclass(frozen=True)
class StudyStage:
    """What is being done with a study; None where its process died, and it waits again."""

    task: StudyTask
    stage: Stage | None
    where: str = ""
    """Device or machine that does it, where there are several."""


Told = Callable[[StudyStage | StudyResult], None]
"""Takes what happens to studies, as it happens, and perhaps from several threads."""
Load = Callable[[StudyTask], LoadedStudy]
"""Reads a study for the network of this process."""

_opening = threading.Lock()


def worker(spec: WorkerSpec) -> Load:
    """What loads studies in this process; opens store and network at the first call, and keeps them.

    Raises
    ------
    ConfigError, WeightsError
        If the network does not run here, or its weights are not those expected.
    StoreError
        If the store cannot be opened, or is not the one meant.
    """
    # Threads that ask at once must not load the network twice.
    with _opening:
        return _opened(spec)


@functools.lru_cache(maxsize=1)
def _opened(spec: WorkerSpec) -> Load:
    one_thread()
    keep_freed_memory()
    encoders = [_encoder(spec, baseline) for baseline in spec.baselines]
    segmenter = _segmenter(spec) if spec.segmenter else None
    return functools.partial(load_study, segmenter=segmenter, store=_store(spec), encoders=encoders)


def _segmenter(spec: WorkerSpec) -> Segmenter:
    from extractor.segmenter import load_segmenter  # noqa: PLC0415 - a process that only plans needs no torch

    return load_segmenter(
        spec.model,
        spec.weights,
        device=spec.device,
        precision=spec.precision,
        expected_sha256=spec.weights_sha256,
    )


def _encoder(spec: WorkerSpec, baseline: BaselineSpec) -> SliceEncoder:
    from extractor.baselines import load_encoder  # noqa: PLC0415 - see `_segmenter`

    return load_encoder(
        baseline.name,
        baseline.weights,
        device=spec.device,
        precision=spec.precision,
        expected_sha256=baseline.sha256,
    )


def _store(spec: WorkerSpec) -> Store:
    store = open_store(spec.store_url)
    if spec.store_id not in {None, store.store_id}:
        raise StoreNotFoundError(
            f"{store.url} is another store here ({store.store_id}) than where the run began ({spec.store_id}): every worker must "
            "reach the same one by this address. Use a shared folder or object storage."
        )
    return store


def one_thread() -> None:
    """Lets the network compute on one thread where it is called from this one."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)


def reason_of(error: BaseException) -> str:
    """Kind, message and place in the code of an error that nobody foresaw."""
    where = traceback.extract_tb(error.__traceback__)[-1:] if error.__traceback__ else []
    place = f" ({Path(where[0].filename).name}:{where[0].lineno})" if where else ""
    return f"{type(error).__name__}: {error}{place}"
