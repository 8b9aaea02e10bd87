"""Gives each of several worker processes a GPU of its own; loaded by Dask in every worker, and knows no Dask.

``dask worker --nworkers N --name NAME`` calls its workers NAME-0 to NAME-(N−1); an heir of a worker that died is called as it was.
"""

import os
import sys
from typing import Any

from store_schema.errors import UsageError

VARIABLE = "ENGRAM_WORKER_GPUS"
"""Names the GPUs of the workers of one command, in the order of their numbers."""


def dask_setup(worker: Any) -> None:
    """Show this process one GPU alone, before anything in it has asked for one; Dask calls it when a worker starts.

    One without a GPU of its own ends: Dask would log an error, and go on with a worker that takes the GPU of another.
    """
    try:
        gpu = gpu_of(str(worker.name), os.environ.get(VARIABLE, ""))
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(1) from error
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu


def gpu_of(name: str, listed: str) -> str:
    """What the GPU of the worker of this name is called.

    Raises
    ------
    UsageError
        If there is none for it.
    """
    gpus = [one for one in listed.split(",") if one]
    number = name.rpartition("-")[2]
    if len(gpus) == 1:
        return gpus[0]
    if not number.isdigit() or int(number) >= len(gpus):
        raise UsageError(
            f"worker {name} has no GPU of its own: {VARIABLE} lists {len(gpus)}, for names that end in -0, -1, …"
        )
    return gpus[int(number)]
