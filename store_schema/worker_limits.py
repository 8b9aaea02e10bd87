"""How many Dask workers this process may start and what each may take: cores, memory, GPUs; knows no Dask and starts nothing.

Every question is asked of a tree of files and an environment that are given, so that a test can answer in the machine's place.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from store_schema.errors import UsageError

Device = Literal["cpu", "cuda"]
GIB, MIB = 2**30, 2**20
NURSE_BYTES = 256 * 2**20
"""Memory of the process that starts the workers and watches over them."""
DRIVER_S = 20.0
"""How long `nvidia-smi` may take to answer."""
NO_DEVICES = ("", "none", "void", "NoDevFiles")
"""Values by which NVIDIA's variables say that there is no GPU."""


@dataclass(frozen=True)
class Limits:
    """What this process may use."""

    cores: int
    memory_bytes: int
    gpus: tuple[str, ...] = ()
    """What each GPU is called in CUDA_VISIBLE_DEVICES."""


@dataclass(frozen=True)
class Split:
    """Worker processes, and what each of them gets."""

    processes: int
    threads: int
    memory_bytes: int
    """Of each process; one that takes more is ended and started again."""
    gpus: tuple[str, ...] = ()
    """One for each process; none where nothing is computed on a GPU."""


def split(limits: Limits, device: Device, *, gpu_threads: int, least_bytes: int) -> Split:
    """Shares out what there is: one process a GPU, or one a core.

    Parameters
    ----------
    limits
        What there is.
    device
        Where workers compute.
    gpu_threads
        Threads of a process with a GPU; one on a processor computes on one thread.
    least_bytes
        What a process needs: there are fewer processes on a processor where memory is too small for one a core.

    Raises
    ------
    UsageError
        If a GPU is asked for, and there is none, or memory is too small for one process a GPU.
    """
    if device == "cuda" and not limits.gpus:
        raise UsageError(
            "no GPU here: nvidia-smi lists none, or CUDA_VISIBLE_DEVICES or NVIDIA_VISIBLE_DEVICES hides them. Use --device cpu, "
            "or give the container or job a GPU"
        )
    memory_bytes = max(limits.memory_bytes - NURSE_BYTES, limits.memory_bytes // 2)
    if device == "cuda":
        if memory_bytes < len(limits.gpus) * least_bytes:
            raise UsageError(
                f"{len(limits.gpus)} processes, one a GPU, need {least_bytes / GIB:g} GiB of memory each, "
                f"{(len(limits.gpus) * least_bytes + NURSE_BYTES) / GIB:g} GiB in all, and there are "
                f"{limits.memory_bytes / GIB:.1f}: give the container or job more, or show it fewer GPUs by CUDA_VISIBLE_DEVICES"
            )
        return Split(len(limits.gpus), gpu_threads, memory_bytes // len(limits.gpus), limits.gpus)
    processes = max(1, min(limits.cores, memory_bytes // least_bytes))
    return Split(processes, 1, memory_bytes // processes)


def limits_here(
    root: Path = Path("/"), environment: Mapping[str, str] | None = None, *, device: Device = "cpu"
) -> Limits:
    """What this process may use: its affinity, its control groups, its job of Slurm, the machine's memory, and its GPUs.

    Slurm binds a job by control groups only where its administrator says so; elsewhere the job's variables are all that tells.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` lie.
    environment
        Variables of NVIDIA's and of Slurm's; None takes those of this process.
    device
        Where workers will compute: GPUs are looked for on ``cuda`` alone.
    """
    variables = os.environ if environment is None else environment
    quota, slurm_cores = cpu_quota(root), slurm_cpus(variables)
    cores = whole_cores(len(os.sched_getaffinity(0)), quota)
    limits = (memory_limit_bytes(root), slurm_memory_bytes(variables))
    return Limits(
        cores=cores if slurm_cores is None else max(1, min(cores, slurm_cores)),
        memory_bytes=min((machine_memory_bytes(root), *(limit for limit in limits if limit is not None))),
        gpus=gpus(variables) if device == "cuda" else (),
    )


def whole_cores(cores: int, quota: float | None) -> int:
    """Cores that can be kept busy: those of the affinity, or the whole ones of a quota; at least one."""
    return cores if quota is None else max(1, min(cores, int(quota)))


def machine_memory_bytes(root: Path = Path("/")) -> int:
    """Memory of the whole machine."""
    lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
    return int(lines["MemTotal"].split()[0]) * 1024


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that the control groups of this process give it, such as 1.5; None where they set no limit."""
    found = [_quota_v2(folder) for folder in _groups(root, None)] + [_quota_v1(one) for one in _groups(root, "cpu")]
    return min((quota for quota in found if quota is not None), default=None)


def memory_limit_bytes(root: Path = Path("/")) -> int | None:
    """Memory that the control groups of this process give it; None where they set no limit.

    Without a limit version 1 tells a number beyond any machine's memory, which is given as it is.
    """
    files = [folder / "memory.max" for folder in _groups(root, None)]
    files += [folder / "memory.limit_in_bytes" for folder in _groups(root, "memory")]
    limits = [int(text) for path in files if (text := _text(path)).isdigit()]
    return min(limits, default=None)


def slurm_cpus(environment: Mapping[str, str]) -> int | None:
    """Cores that a job of Slurm gives one of its tasks; None outside of one."""
    return _number(environment, "SLURM_CPUS_PER_TASK") or _number(environment, "SLURM_CPUS_ON_NODE")


def slurm_memory_bytes(environment: Mapping[str, str]) -> int | None:
    """Memory of a job of Slurm on this node, or a task's share of it where it has several there, as its cores are.

    None outside of a job, or where it asked for none or for all (0).
    """
    on_node, a_task = _number(environment, "SLURM_CPUS_ON_NODE"), _number(environment, "SLURM_CPUS_PER_TASK")
    several = a_task if a_task and _tasks_here(environment) > 1 else None
    if megabytes := _number(environment, "SLURM_MEM_PER_NODE"):
        return megabytes * MIB * several // max(on_node, several) if several and on_node else megabytes * MIB
    each, cpus = _number(environment, "SLURM_MEM_PER_CPU"), several or on_node
    return each * cpus * MIB if each and cpus else None


def _tasks_here(environment: Mapping[str, str]) -> int:
    """Most tasks that a job of Slurm, or its step, has on a node, which it tells such as 2(x3),1."""
    told = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE", "")
    return max((int(number) for number in re.findall(r"(?:^|,)(\d+)", told)), default=1)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """A variable of Slurm's; None where it is not set or is no number."""
    value = environment.get(name, "")
    return int(value) if value.isdigit() else None


def _quota_v2(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _quota_v1(folder: Path) -> float | None:
    # without a limit the quota is -1
    quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _groups(root: Path, controller: str | None) -> Iterator[Path]:
    """Folders of the control groups that hold this process, the innermost first; of version 2 without a controller's name.

    In a container the path may be that of the host, which is not there: what is there is the container's own, at the top.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if (controller is None and names) or (controller is not None and controller not in names.split(",")):
            continue
        for mount in _mounts(root / "sys/fs/cgroup", names):
            inner = mount / path.lstrip("/")
            yield from (one for one in (inner, *inner.parents) if one.is_relative_to(mount) and one.is_dir())


def _mounts(top: Path, names: str) -> Iterable[Path]:
    if not names:
        return (top, top / "unified")
    return dict.fromkeys(top / name for name in (names, *names.split(",")))


def _text(path: Path) -> str:
    """What a file of the kernel's says; nothing where there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def gpus(environment: Mapping[str, str], listed: Callable[[], str] | None = None) -> tuple[str, ...]:
    """What each GPU that this process may use is called in CUDA_VISIBLE_DEVICES.

    CUDA_VISIBLE_DEVICES is taken at its word. NVIDIA_VISIBLE_DEVICES says which GPUs a container was given, by names of the host:
    in the container they are numbered anew, as `nvidia-smi` tells; where that is not there, they are counted.

    Parameters
    ----------
    environment
        Variables of the process.
    listed
        Gives what ``nvidia-smi -L`` prints; None runs it.
    """
    if (visible := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return _visible(visible)
    given = environment.get("NVIDIA_VISIBLE_DEVICES", "all").strip()
    if given in NO_DEVICES:
        return ()
    found = _listed((listed or _smi)())
    if found or given == "all":
        return found
    return tuple(str(number) for number in range(len(given.split(","))))


def _visible(value: str) -> tuple[str, ...]:
    """Devices before the first that is none, as CUDA reads them."""
    names: list[str] = []
    for name in (part.strip() for part in value.split(",")):
        if name in NO_DEVICES or name.startswith("-"):
            break
        names.append(name)
    return tuple(names)


def _listed(text: str) -> tuple[str, ...]:
    """GPUs of a list by their numbers; one that is divided gives its instances, by UUID, since a process can use only one."""
    parts: dict[str, list[str]] = {}
    for line in text.splitlines():
        if gpu := re.match(r"GPU (\d+):", line):
            parts[gpu[1]] = []
        elif parts and (instance := re.match(r"\s+MIG .*\(UUID: (\S+)\)", line)):
            parts[next(reversed(parts))].append(instance[1])
    return tuple(name for number, instances in parts.items() for name in (instances or [number]))


def _smi() -> str:
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=DRIVER_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
