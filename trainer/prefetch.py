"""Has a worker read, while it fits, what the tasks after that need; knows no Dask, and nothing of what is read.

Tasks come in the order of their models, so that most workers need the same matrices next. What is read ahead is kept in the same
cache, under the same keys, as what tasks read themselves, and only while nothing has to go for it and the bound of the cache holds
for the reading too: no number can differ, and no fit waits for a matrix that was given up for one that is not needed yet. An error
is told at the level of information: a task that needs the matrix reads it again, and it is that task's.
"""

import logging
from collections.abc import Hashable, Sequence
from threading import Lock, Thread

from trainer.fold import TaskData, reads
from trainer.task import Task

log = logging.getLogger(__name__)


def followers(tasks: Sequence[Task]) -> list[Task | None]:
    """For each task the first after it that reads something else, with a job for each thing; None where there is none."""
    found: list[Task | None] = [None] * len(tasks)
    for number in reversed(range(len(tasks) - 1)):
        following = tasks[number + 1]
        same = reads(following) <= reads(tasks[number])
        found[number] = found[number + 1] if same else _short(following)
    return found


def _short(task: Task) -> Task:
    """A task that reads the same by as few jobs as do."""
    first: dict[frozenset[Hashable], Task] = {}
    for job in task.jobs:
        alone = task.model_copy(update={"jobs": (job,)})
        first.setdefault(reads(alone), alone)
    return task.model_copy(update={"jobs": tuple(one.jobs[0] for wanted, one in first.items() if wanted)})


class Prefetch:
    """Reads for one process, in a thread that ends with it: one task's matrices at a time, each task's once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._thread: Thread | None = None
        self._begun: Hashable = None

    def begin(self, now: Task, later: Task) -> None:
        """Read what a later task needs, once what this one needs is read; returns at once."""
        wanted = (later.run_url, later.cohort_sha256, reads(later))
        with self._lock:
            if wanted == self._begun or (self._thread is not None and self._thread.is_alive()):
                return
            thread = Thread(target=_read, args=(now, later), name="prefetch", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                log.info("nothing is read ahead: %s", error)
                return
            self._begun, self._thread = wanted, thread

    def wait(self) -> None:
        """Return once nothing is being read."""
        if self._thread is not None:
            self._thread.join()


def _read(*tasks: Task) -> None:
    for task in tasks:
        try:
            if not TaskData(task).read_ahead():
                return
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told by the task that needs it
            log.info("reading ahead for %s ended: %s: %s", task.label, type(error).__name__, error)
            return
