"""What a machine is and has, as `extractor doctor` asks it: memory, disks, devices, libraries; judges nothing.

Each question is a function, so that a test can answer in the machine's place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from extractor.versions import Sam2, found_sam2
from store_schema.origin import ABSENT

DRIVER_S = 20.0
"""How long `nvidia-smi` may take to answer."""
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
CGROUP_USES = (Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"))


@dataclass(frozen=True)
class Gpu:
    """One CUDA device, as torch sees it."""

    name: str
    free_bytes: int
    total_bytes: int
    bfloat16: bool
    """Whether it computes in bfloat16 by itself."""


@dataclass(frozen=True)
class Library:
    """A distribution that the extractor needs."""

    name: str
    needed: str
    """Versions that serve, such as `>=2.6`; empty where any does."""
    version: str
    fits: bool


def libraries() -> list[Library]:
    """What `engram[extractor]` needs, and what is installed."""
    found = []
    for text in metadata.requires("engram") or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": "extractor"}):
            found.append(_library(requirement))
    return found


def _library(requirement: Requirement) -> Library:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Library(requirement.name, str(requirement.specifier), ABSENT, fits=False)
    fits = requirement.specifier.contains(version, prereleases=True)
    return Library(requirement.name, str(requirement.specifier), version, fits)


def free_memory_bytes() -> int:
    """Memory that processes here may still take: the machine's, or what a container or batch job leaves of its limit."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    machine = int(lines["MemAvailable"].split()[0]) * 1024
    limit, use = _first_number(CGROUP_LIMITS), _first_number(CGROUP_USES)
    return machine if limit is None or use is None else min(machine, max(0, limit - use))


def _first_number(paths: Sequence[Path]) -> int | None:
    for path in paths:
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            return int(text)
    return None


def free_disk_bytes(folder: Path) -> int:
    """Free space of the file system that a folder is on, or would be made on."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def gpus() -> list[Gpu]:
    """CUDA devices that torch sees; none where it sees none."""
    import torch  # noqa: PLC0415 - what is asked without a device needs no torch

    found = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(number)
        major, _ = torch.cuda.get_device_capability(number)
        found.append(Gpu(torch.cuda.get_device_name(number), free, total, bfloat16=major >= 8))
    return found


def driver() -> str | None:
    """Version of the NVIDIA driver; None where there is none that answers."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DRIVER_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None


def cuda_of_torch() -> str | None:
    """CUDA version that torch was built for; None where it was built without."""
    import torch  # noqa: PLC0415

    return torch.version.cuda


@dataclass(frozen=True)
class Machine:
    """The questions, and who answers them."""

    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    cores: Callable[[], int] = lambda: len(os.sched_getaffinity(0))
    """Cores that this process may use; batch systems give fewer than there are."""
    libraries: Callable[[], list[Library]] = libraries
    sam2: Callable[[], Sam2] = found_sam2
    free_memory_bytes: Callable[[], int] = free_memory_bytes
    free_disk_bytes: Callable[[Path], int] = free_disk_bytes
    gpus: Callable[[], list[Gpu]] = gpus
    driver: Callable[[], str | None] = driver
    cuda_of_torch: Callable[[], str | None] = cuda_of_torch
