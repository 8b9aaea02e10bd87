"""Spreads tasks over this process, local processes or a Dask cluster; knows no model.

It, `at_worker`, `cluster` and `performance_report` are the only modules that know Dask.
"""

import os
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from distributed import Client, KilledWorker, as_completed

from store_schema.errors import EngramError, UsageError
from store_schema.location import Location
from store_schema.origin import differing
from store_schema.tls import TlsFiles
from trainer.at_worker import Do, on_worker
from trainer.cluster import checked_tls, connected, local_cluster
from trainer.features import CACHE_MIB, keep_at_most
from trainer.fold import run_task
from trainer.gpus import NO_GPU, gpus
from trainer.performance_report import PerformanceReport
from trainer.prefetch import followers
from trainer.spec import Device
from trainer.task import Task
from trainer.versions import versions

PAUSE_S, LOOK_S = 0.02, 2.0
"""Between two looks at results, and at whether there are workers."""
ASK_S, ASK_WORKERS_S = 30.0, 300.0
"""How long a scheduler may take to say which workers there are; and workers to say what they run, which some load for it."""
LONE_S = 20.0
"""How long local processes may all be gone: one that died has an heir after a few seconds."""
GIVEN_UP = ("cancelled", "lost")
"""States of a task that nobody does any more and that has not failed."""
GPU: Mapping[str, int] = {"GPU": 1}
"""What a task on a GPU asks of its worker."""
MOST_BARREN = 3
"""Sets of local processes that may end one after the other without a result."""
KEY_PREFIX = "fit"
"""All tasks are of one group to Dask, by how their keys begin. Of each group schedulers keep a record, and workers profiles of
what its tasks spend their time on: with a group for each task they would grow with every fit."""


@dataclass(frozen=True)
class Workers:
    """Where tasks run."""

    number: int | None = None
    """Local processes; None for one a core, or a GPU where the tasks want one; 0 for this process alone."""
    scheduler: str | None = None
    """Address of a running Dask scheduler, whose workers reach the store and the run folder."""
    wait_s: float = 60.0
    """How long the scheduler, and then its first worker, is waited for."""
    alone_s: float = 600.0
    """How long a scheduler may be without a worker, or not be asked for them, before the run ends."""
    cache_mib: int = CACHE_MIB
    """Bound of what each process keeps of the features that it has read, besides a third of its memory; 0 keeps none."""
    report: PerformanceReport | None = None
    """Where Dask's report of the run goes."""
    tls: TlsFiles | None = None
    """With which the scheduler is reached; None takes Dask's own settings where its address asks for TLS."""

    def __post_init__(self) -> None:
        if self.scheduler is not None and self.number is not None:
            raise UsageError("--workers counts local processes, and --scheduler names a cluster: give one of them")
        if self.report is not None and self.number == 0:
            raise UsageError(
                "--performance-report is Dask's, and with --workers 0 everything is done in this process, without Dask: leave "
                "one of them out"
            )


@dataclass(frozen=True)
class Outcome:
    """What became of a task: its result is in the run folder, or the error says why not."""

    task: Task
    error: str | None = None


def check_device(device: Device, workers: Workers) -> None:
    """Refuse to fit in this process, or in local ones, on a GPU that is not there.

    Raises
    ------
    UsageError
        If there is none.
    """
    if device == "cuda" and workers.scheduler is None and not gpus():
        raise UsageError(f"{NO_GPU}: use `device: cpu`, or --scheduler with workers that have one")


def check_certificates(workers: Workers) -> None:
    """Refuse certificates that do not fit each other or the scheduler's address, before anything is written.

    Raises
    ------
    UsageError
        If they do not.
    """
    if workers.scheduler is not None:
        checked_tls(workers.scheduler, workers.tls, "client")


def check_reachable(locations: Iterable[Location], workers: Workers) -> None:
    """Refuse to send workers to a place that this process alone can open.

    Raises
    ------
    UsageError
        If there is one.
    """
    for location in locations:
        if workers.number != 0 and not location.reachable():
            raise UsageError(f"{location.url} lives in this process alone: use --workers 0, or a folder")


def run_tasks(
    tasks: Sequence[Task], workers: Workers, *, on_done: Callable[[Outcome], None], do: Do = run_task
) -> list[Outcome]:
    """Do every task; one that fails leaves the others alone. Gives the outcomes in the order of the tasks.

    A worker that dies loses nothing: its tasks are done again elsewhere, and each result is written once.

    Parameters
    ----------
    tasks
        What is to be done.
    workers
        Where.
    on_done
        Called in this process with each outcome as it comes; what it raises ends the others.
    do
        What doing a task is; it keeps what it makes where this process finds it. It travels by its module and name.

    Raises
    ------
    UsageError
        If the scheduler cannot be reached, wants other certificates, has no worker, or a worker runs other code or libraries than
        this process; if tasks want a GPU, and no worker declares one.
    """
    found: dict[str, Outcome] = {}
    keep_at_most(workers.cache_mib)
    # closed, so that what `on_done` raises ends workers, and their report is written, before it goes on
    with closing(_in_process(tasks, do) if workers.number == 0 else _on_cluster(tasks, workers, do)) as source:
        for outcome in source:
            found[outcome.task.id] = outcome
            on_done(outcome)
    return [found[task.id] for task in tasks]


def _in_process(tasks: Sequence[Task], do: Do) -> Generator[Outcome]:
    """One after the other in a thread, whose future holds whatever a task raises."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        for task in tasks:
            error = thread.submit(do, task).exception()
            yield Outcome(task, None if error is None else _reason(error))


def _on_cluster(tasks: Sequence[Task], workers: Workers, do: Do) -> Generator[Outcome]:
    """Outcomes as they come; where every local process has ended, new ones go on with what is left."""
    left = {task.id: task for task in tasks}
    barren = 0
    while left:
        before = len(left)
        with closing(_round(tuple(left.values()), workers, do)) as outcomes:
            for outcome in outcomes:
                del left[outcome.task.id]
                yield outcome
        barren = barren + 1 if len(left) == before else 0
        if left and (workers.scheduler is not None or barren == MOST_BARREN):
            who = (
                f"the scheduler at {workers.scheduler} has"
                if workers.scheduler
                else "local processes ended again: there is"
            )
            what = "worker that declares a GPU" if _on_gpu(tasks) else "worker"
            raise UsageError(
                f"{who} no {what} left, and {len(left)} tasks are waiting. Find what ends workers (memory, a signal), start "
                "some and run the same command again: what is done is kept"
            )


def _round(tasks: Sequence[Task], workers: Workers, do: Do) -> Generator[Outcome]:
    """Outcomes from one set of workers; ends early where none of them is left."""
    resources = GPU if _on_gpu(tasks) else None
    with _client(workers, len(tasks), resources) as client:
        _check_workers(client)
        _check_gpus(client, resources)
        with nullcontext() if workers.report is None else workers.report.of(client):
            yield from _sent(client, tasks, workers, do, resources)


def _sent(
    client: Client, tasks: Sequence[Task], workers: Workers, do: Do, resources: Mapping[str, int] | None
) -> Iterator[Outcome]:
    # keys of this call alone: a key that another call left in error would be answered by that error
    call = uuid.uuid4().hex
    futures = {
        client.submit(
            on_worker,
            task.model_dump_json(),
            versions(),
            do,
            workers.cache_mib,
            None if later is None else later.model_dump_json(),
            key=f"{KEY_PREFIX}-{task.id}-{call}",
            resources=resources,
            pure=False,
        ): task
        for task, later in zip(tasks, followers(tasks), strict=True)
    }
    alone_s = LONE_S if workers.scheduler is None else workers.alone_s
    for future in _answered(client, list(futures), alone_s, resources):
        task = futures.pop(future)
        if workers.scheduler is not None or future.status not in GIVEN_UP:
            # A local process that is told to end gives up the task in its hands: the next set of processes does it.
            yield Outcome(task, _failure(future))
        future.release()


def _answered(
    client: Client, futures: list[Any], alone_s: float, resources: Mapping[str, int] | None = None
) -> Iterator[Any]:
    """Futures as they end, until all have or nobody has been there to do them for so long.

    A worker that is told to end does so without an heir, unlike one that dies; the tasks would wait for good.

    Raises
    ------
    UsageError
        If the scheduler could not be asked for its workers for so long.
    """
    waiting, looked, seen = as_completed(futures), time.monotonic(), time.monotonic()
    while not waiting.is_empty():
        batch = waiting.next_batch(block=False)
        yield from batch
        now = time.monotonic()
        if batch:
            looked = seen = now
            continue
        time.sleep(PAUSE_S)
        if now - looked > LOOK_S:
            looked = now
            there = _has_worker(client, resources)
            if there:
                seen = now
            elif now - seen > alone_s and there is None:
                raise UsageError(_STILL.format(alone_s, waiting.count()))
            elif now - seen > alone_s:
                return


_STILL = (
    "the scheduler could not be asked for its workers for {:g} s, and {} tasks are waiting: see whether it and its host still run, "
    "and run the same command again: what is done is kept"
)


def _has_worker(client: Client, resources: Mapping[str, int] | None) -> bool | None:
    """Whether the scheduler has a worker that declares what tasks ask for; None where it cannot be asked.

    The client ends its futures itself if the scheduler is gone, but not if it stands still.
    """
    try:
        return any(_declares(about, resources) for about in _present(client).values())
    except OSError:
        return None


def _present(client: Client) -> Mapping[str, Mapping[str, Any]]:
    """What the scheduler knows of its workers, by address; a TimeoutError, which is an OSError, where it does not answer."""
    # asked for anew: what the client keeps is overwritten by looks of Dask's own that ask for no workers
    identity = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=ASK_S)
    return dict(identity["workers"])


def _declares(about: Mapping[str, Any], resources: Mapping[str, int] | None) -> bool:
    return all(about["resources"].get(name, 0) >= number for name, number in (resources or {}).items())


def _on_gpu(tasks: Sequence[Task]) -> bool:
    return any(task.device == "cuda" for task in tasks)


def _failure(future: Any) -> str | None:
    if future.status == "finished":
        return None
    if future.status in GIVEN_UP:
        return "the scheduler was lost: run the same command again, what is done is kept"
    return _reason(future.exception(), future.traceback())


def _reason(error: BaseException, trace: Any = None) -> str:
    """Kind and message; of an error that is not ours also where it was raised."""
    if isinstance(error, KilledWorker):
        return f"the worker that did it died, {error.allowed_failures + 1} times (out of memory?)"
    place = ""
    frames = traceback.extract_tb(trace or error.__traceback__)
    if not isinstance(error, EngramError) and frames:
        place = f" ({frames[-1].filename}:{frames[-1].lineno})"
    return f"{type(error).__name__}: {error}{place}"


def _versions_here() -> dict[str, str] | str:
    """What this worker runs, or why it cannot say: an error raised here would look like one of the way here."""
    try:
        return versions()
    except (EngramError, OSError) as error:
        return _reason(error)


def _check_workers(client: Client) -> None:
    """Refuse workers with other code or libraries: Dask sends functions by name, and they would compute other numbers.

    One whose host is cut off is left to the scheduler, which gives it up; should it come back, it looks itself before each task.
    """
    try:
        answers = client.run(_versions_here, on_error="return", callback_timeout=ASK_WORKERS_S)
    except TimeoutError as error:
        raise UsageError(
            f"the scheduler, or one of its workers, did not answer for {ASK_WORKERS_S:g} s: see whether their processes and hosts "
            "still run"
        ) from error
    reached = {address: answer for address, answer in answers.items() if not isinstance(answer, OSError)}
    if answers and not reached:
        raise UsageError(
            f"no worker answers: {next(iter(answers.values()))}. The scheduler must reach each by its address"
        )
    for address, answer in reached.items():
        if isinstance(answer, BaseException):
            raise UsageError(f"worker {address} cannot import `trainer` ({answer}): install engram[trainer] there")
        if isinstance(answer, str):
            raise UsageError(f"worker {address} cannot say what it runs: {answer}")
        other = differing(answer, versions())
        if other:
            raise UsageError(f"worker {address} runs {other}: install the same on workers and client")


def _check_gpus(client: Client, resources: Mapping[str, int] | None) -> None:
    """Refuse a cluster none of whose workers declares what tasks ask for: they would wait for good."""
    if resources is not None and _has_worker(client, resources) is False:
        raise UsageError(
            "no worker declares a GPU, and the run says `device: cuda`: start workers by `trainer worker ADDRESS --device cuda`, "
            "one process a GPU"
        )


@contextmanager
def _client(workers: Workers, tasks: int, resources: Mapping[str, int] | None) -> Iterator[Client]:
    if workers.scheduler is not None:
        with connected(workers.scheduler, workers.tls, workers.wait_s) as client:
            yield client
        return
    most = cores() if resources is None else gpus()
    number = min(workers.number or most, tasks)
    with (
        tempfile.TemporaryDirectory(prefix="engram-dask-") as folder,
        local_cluster(number, folder, resources) as cluster,
        Client(cluster) as client,
    ):
        yield client


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))
