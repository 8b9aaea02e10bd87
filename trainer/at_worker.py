"""What a worker of a Dask cluster does with a task; chooses nothing."""

from collections.abc import Callable

from distributed import get_worker

from store_schema.allocator import keep_freed_memory
from store_schema.errors import TaskError
from store_schema.origin import differing
from trainer.features import CACHE_MIB, keep_at_most
from trainer.fold import run_task
from trainer.gpus import take_gpu
from trainer.prefetch import Prefetch
from trainer.task import Task
from trainer.versions import versions

PREFETCH = Prefetch()
"""Of this process."""

Do = Callable[[Task], object]
"""Does a task."""


def on_worker(
    description: str,
    expected: dict[str, str],
    do: Do = run_task,
    cache_mib: int = CACHE_MIB,
    later: str | None = None,
) -> str:
    """Do a task where it landed, and read meanwhile what a later one needs; only the task's id travels back."""
    other = differing(versions(), expected)
    if other:
        # a worker that joined after the check of all workers
        raise TaskError(f"this worker runs {other}: install the same on workers and client")
    keep_freed_memory()
    keep_at_most(_bounded_mib(cache_mib, get_worker().memory_manager.memory_limit))
    task = Task.model_validate_json(description)
    if task.device == "cuda" and isinstance(name := get_worker().name, int):
        # local processes are numbered
        take_gpu(name)
    if later is not None:
        PREFETCH.begin(task, Task.model_validate_json(later))
    do(task)
    return task.id


def _bounded_mib(cache_mib: int, limit_bytes: int | None) -> int:
    """A cache that leaves a fit two thirds of what Dask lets this process take before it is ended; 0 or None sets no limit."""
    return min(cache_mib, limit_bytes // 3 // 2**20) if limit_bytes else cache_mib
