"""Preloaded by a Dask scheduler: writes every task down as the scheduler holds it, whenever it changes its state."""

import os
import pickle
from itertools import count
from pathlib import Path

from distributed.diagnostics.plugin import SchedulerPlugin


class Graph(SchedulerPlugin):
    """Writes one pickle a change into the folder $ENGRAM_GRAPH: key, description, and what would be run."""

    def __init__(self, scheduler):
        self.scheduler, self.number = scheduler, count()

    def transition(self, key, start, finish, *args, **kwargs):
        task = self.scheduler.tasks.get(key)
        if task is not None:
            told = {
                name: repr(getattr(task, name))
                for name in ("group", "prefix", "annotations", "metadata", "exception_text")
            }
            seen = {
                "key": key,
                "task": repr(task),
                "run_spec": task.run_spec,
                "told": told,
                "args": repr((args, kwargs)),
            }
            path = Path(os.environ["ENGRAM_GRAPH"]) / f"{next(self.number):06d}-{start}-{finish}.pickle"
            path.write_bytes(pickle.dumps(seen))


def dask_setup(scheduler):
    """Called by Dask."""
    scheduler.add_plugin(Graph(scheduler))
