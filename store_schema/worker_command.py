"""The `dask worker` that a program starts: its options, its environment, and how this process becomes it; knows no Dask.

Workers hold no data of Dask's, so that nothing could be spilled, and one that Dask paused for the memory of its network would wait
for good: of Dask's care for memory only the last step is kept, which ends a process that takes more than its share.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from store_schema import worker_gpu
from store_schema.allocator import KEPT_BYTES, MAPPED_BYTES
from store_schema.errors import UsageError
from store_schema.events import release_stderr
from store_schema.tls import TlsFiles
from store_schema.worker_limits import Split

ONE_THREAD: Mapping[str, str] = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
KEEP_FREED: Mapping[str, str] = {
    "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES),
    "MALLOC_MMAP_THRESHOLD_": str(MAPPED_BYTES),
}
"""What `keep_freed_memory` sets, from the first block on; Dask's nannies leave a variable alone that is there."""
FEW_PROFILES: Mapping[str, str | int] = {
    "distributed.worker.profile.cycle": "10s",
    "distributed.admin.low-level-log-length": 60,
}
"""Settings of Dask by which a worker keeps 60 profiles of what its threads do, of 10 s each, and not 1,000 of 1 s: Dask's own
would take some hundred MiB of each worker in its first quarter of an hour."""
END_BUT_NEVER_PAUSE: Mapping[str, str] = {
    f"DASK_DISTRIBUTED__WORKER__MEMORY__{step}": "False" for step in ("TARGET", "SPILL", "PAUSE")
}

DEALING = frozenset(("--nworkers", "--resources", "--name"))
"""Options of `dask worker` by which each worker has a GPU and declares it."""
PRELOAD = "DASK_DISTRIBUTED__WORKER__PRELOAD"


@dataclass(frozen=True)
class WorkerOptions:
    """What workers are told besides what they may take."""

    address: str
    """Of the scheduler."""
    tls: TlsFiles | None = None
    local_directory: str | None = None
    name: str | None = None
    host: str | None = None
    """By which scheduler and other workers reach these."""
    dashboard_port: int | None = None
    """None opens no page."""
    death_timeout_s: int = 300
    """How long a worker looks for its scheduler before it ends."""
    more: tuple[str, ...] = ()
    """Options of `dask worker`, as they are."""

    def __post_init__(self) -> None:
        if "--preload" in self.more_names():
            raise UsageError("--preload would take the place of what these workers load themselves: leave it out")

    def more_names(self) -> set[str]:
        """Options of `dask worker` that are given as they are, without their values."""
        return {option.partition("=")[0] for option in self.more}


def command(split: Split, options: WorkerOptions) -> list[str]:
    """Program and arguments that start the workers.

    Raises
    ------
    UsageError
        If an option of `dask worker` contradicts how GPUs are dealt to workers.
    """
    tls = options.tls
    if split.gpus and (wrong := sorted(DEALING & options.more_names())):
        raise UsageError(
            f"{', '.join(wrong)} after -- would change which worker has which GPU: leave it out, name workers by --name before --, "
            "and choose GPUs by CUDA_VISIBLE_DEVICES"
        )
    name = options.name or (_unique_name() if split.processes > 1 and split.gpus else None)
    # -P: a folder that happens to be the current one holds no module of ours
    found = [sys.executable, "-P", "-m", "dask", "worker", options.address]
    found += ["--nworkers", str(split.processes), "--nthreads", str(split.threads)]
    found += ["--memory-limit", str(split.memory_bytes)]
    found += ["--resources", "GPU=1"] if split.gpus else []
    found += ["--tls-ca-file", tls.ca, "--tls-cert", tls.cert, "--tls-key", tls.key] if tls else []
    for option, value in (("--name", name), ("--host", options.host), ("--local-directory", options.local_directory)):
        found += [option, value] if value else []
    port = options.dashboard_port
    found += ["--no-dashboard"] if port is None else ["--dashboard-address", f":{port}"]
    found += ["--death-timeout", str(options.death_timeout_s)]
    return [*found, *options.more]


def environment(split: Split, preload: Sequence[str]) -> dict[str, str]:
    """Variables that the workers have besides those of this process.

    Parameters
    ----------
    split
        What they get.
    preload
        Modules that each process loads before it counts as there: imports hold the lock that heartbeats need. As a setting of
        Dask's, since of its option `--preload` the process that only watches loads them too.
    """
    gpus = {worker_gpu.VARIABLE: ",".join(split.gpus)} if split.gpus else {}
    modules = [*((worker_gpu.__name__,) if split.gpus else ()), *preload]
    profiles = {_variable(setting): str(value) for setting, value in FEW_PROFILES.items()}
    return {**ONE_THREAD, **KEEP_FREED, **END_BUT_NEVER_PAUSE, **profiles, **gpus, PRELOAD: repr(modules)}


def _variable(setting: str) -> str:
    """Of the environment, for a setting of Dask's."""
    return "DASK_" + setting.replace(".", "__").replace("-", "_").upper()


def shown(arguments: Sequence[str], variables: Mapping[str, str]) -> str:
    """The command as a line for a shell."""
    return shlex.join(["env", *(f"{name}={value}" for name, value in variables.items()), *arguments])


def become(arguments: Sequence[str], variables: Mapping[str, str]) -> NoReturn:
    """Let this process go on as that command: it gets the signals, and its end is this one's.

    Raises
    ------
    UsageError
        If the program cannot be started.
    """
    release_stderr()
    try:
        os.execve(arguments[0], list(arguments), {**os.environ, **variables})  # noqa: S606 - a shell would keep signals to itself
    except OSError as error:
        raise UsageError(f"{arguments[0]} cannot be started: {error.strerror}") from error


def _unique_name() -> str:
    """A name that no other command's workers have; GPUs are dealt by what Dask appends to it."""
    return f"{socket.gethostname()}-{uuid.uuid4().hex[:6]}"
