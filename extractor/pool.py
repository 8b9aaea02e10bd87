"""Spreads studies over local processes and survives the death of one; knows a study only as a task with a name.

A worker process is started by spawn, opens the store and loads the network once, and computes on one thread, so that the
numbers do not depend on how many processes there are.
"""

from __future__ import annotations

import functools
import multiprocessing
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from extractor.outcome import ItemOutcome
from extractor.work import StudyTask, extract_study
from store_schema import open_store
from store_schema.files import remember, remembered

MAX_DEATHS = 2
"""A study whose process dies this often is given up: it is the likely cause."""
DIED = f"its process died {MAX_DEATHS} times: out of memory, or killed"
NO_WORKER = "no worker process could be started: run with --jobs 0 to see why"


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker process needs to open: addresses, not objects, so that no credential travels."""

    store_url: str
    model: str
    weights: str
    weights_sha256: str
    device: str
    precision: str


@dataclass(frozen=True)
class StudyResult:
    """What came of one study: outcomes by item, or the reason why the whole study failed."""

    task: StudyTask
    outcomes: tuple[ItemOutcome, ...] = ()
    error: str | None = None


Work = Callable[[StudyTask], list[ItemOutcome]]


@functools.cache
def worker(spec: WorkerSpec) -> Work:
    """The function that extracts a study in this process; opens store and network at the first call."""
    import torch  # noqa: PLC0415 - a process that only plans needs no torch

    from extractor.segmenter import load_segmenter  # noqa: PLC0415

    torch.set_num_threads(1)
    segmenter = load_segmenter(
        spec.model,
        spec.weights,
        device=spec.device,
        precision=spec.precision,
        expected_sha256=spec.weights_sha256,
    )
    return functools.partial(extract_study, segmenter=segmenter, store=open_store(spec.store_url))


def _extract(spec: WorkerSpec, task: StudyTask) -> list[ItemOutcome]:
    return worker(spec)(task)


def run_studies(tasks: Sequence[StudyTask], spec: WorkerSpec, *, jobs: int) -> Generator[StudyResult]:
    """Results as they come; with `jobs` 0 in this process, one after the other.

    A study that raises, or whose process dies, is a result with an error: the others go on.
    """
    deaths: dict[str, int] = {}
    waiting = list(tasks)
    fruitless = 0
    while waiting:
        # After a death the suspects run alone, so that the study that kills its process is known.
        suspects = [task for task in waiting if deaths.get(task.row.patient)]
        batch = suspects[:1] or waiting
        returned = 0
        for result in _run_pool(batch, spec, jobs=min(jobs, len(batch))):
            returned += 1
            patient = result.task.row.patient
            if result.error == DIED:
                deaths[patient] = deaths.get(patient, 0) + 1
                if deaths[patient] < MAX_DEATHS:
                    continue
            waiting.remove(result.task)
            yield result
        # A pool whose processes cannot even start gives nothing back: without this, it would be tried for ever.
        fruitless = 0 if returned else fruitless + 1
        if fruitless == MAX_DEATHS:
            yield from (StudyResult(task, error=NO_WORKER) for task in waiting)
            return


def _run_pool(tasks: Sequence[StudyTask], spec: WorkerSpec, *, jobs: int) -> Iterator[StudyResult]:
    """Results of one pool of processes; `DIED` stands for those that the pool died under, and ends it."""
    queue = list(tasks)
    running: dict[Future[list[ItemOutcome]], StudyTask] = {}
    with _executor(jobs) as executor:
        while queue or running:
            try:
                while queue and len(running) < max(1, jobs):
                    running[executor.submit(_extract, spec, queue[0])] = queue[0]
                    queue.pop(0)
            except BrokenProcessPool:
                queue.clear()
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                task = running.pop(future)
                result = _result(task, future)
                if result.error == DIED:
                    queue.clear()
                yield result


def _executor(jobs: int) -> Executor:
    """Spawned processes (forked ones would inherit locks), or one thread of this process where `jobs` is 0."""
    if jobs == 0:
        return ThreadPoolExecutor(max_workers=1)
    # What a presigned address hides goes to these processes alone, past every task, log and record.
    return ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=remember, initargs=(remembered(),)
    )


def _result(task: StudyTask, future: Future[list[ItemOutcome]]) -> StudyResult:
    error = future.exception()
    if error is None:
        return StudyResult(task, outcomes=tuple(future.result()))
    if isinstance(error, BrokenProcessPool):
        return StudyResult(task, error=DIED)
    where = traceback.extract_tb(error.__traceback__)[-1:] if error.__traceback__ else []
    place = f" ({Path(where[0].filename).name}:{where[0].lineno})" if where else ""
    return StudyResult(task, error=f"{type(error).__name__}: {error}{place}")
