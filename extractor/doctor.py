"""Judges whether this machine can run an extraction, and says what to do where it cannot; extracts nothing.

What is asked of the machine is in `machine`; the store is tried out by `store_schema.doctor`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from extractor.machine import Machine
from extractor.segmenter import Segmenter, load_segmenter
from extractor.versions import SAM2_DISTRIBUTION, SAM2_VERSION
from store_schema.disk_cache import FOLDER, cache_from_environment
from store_schema.doctor import Check, Verdict, examine
from store_schema.errors import ConfigError, EngramError, UsageError, WeightsError
from store_schema.location import FolderLocation, Location, open_location
from store_schema.origin import ABSENT

GIB = 2**30
PROCESS_BYTES = 2 * GIB
"""Memory that one process may take: libraries, network, and up to three studies of whole-body PET/CT."""
GPU_BYTES = 4 * GIB
"""Memory of a GPU that the network at 512 px takes with its batches."""
LEAST_DISK_BYTES, GOOD_DISK_BYTES = GIB, 20 * GIB
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)

Load = Callable[..., Segmenter]
Answer = tuple[Verdict, str]
"""What a check found: a verdict, and what was seen or is to be done."""


@dataclass(frozen=True)
class Examination:
    """What is to be looked at; without store or weights these are left out."""

    device: str = "cpu"
    """As `extractor run --device` takes it."""
    model: str = "medsam2"
    weights: str | None = None
    store_url: str | None = None
    jobs: int | None = None
    """Processes that a run would have; None for its own choice."""
    machine: Machine = field(default_factory=Machine)
    load: Load = load_segmenter
    try_store: Callable[[Location], list[Check]] = examine

    @property
    def devices(self) -> tuple[str, ...]:
        """Each device once."""
        return tuple(dict.fromkeys(name.strip() for name in self.device.split(",") if name.strip())) or ("cpu",)

    @property
    def on_gpu(self) -> bool:
        """Whether any device is a GPU."""
        return any(name.startswith("cuda") for name in self.devices)

    @property
    def processes(self) -> int:
        """Processes that a run here would have."""
        usual = len(self.devices) if self.on_gpu else self.machine.cores()
        return max(1, usual if self.jobs is None else self.jobs)


def diagnose(this: Examination) -> list[Check]:
    """All checks in order, so that one report names everything that is wrong.

    Raises
    ------
    UsageError
        If the store's address is none.
    """
    location = None if this.store_url is None else open_location(this.store_url)
    checks = [_timed(name, check, this) for name, check in _checks(this)]
    checks += [_timed(f"disk: {name}", _disk_of(folder), this) for name, folder in _folders(location)]
    if location is not None:
        checks += [replace(check, name=f"store: {check.name}") for check in this.try_store(location)]
    return checks


def _checks(this: Examination) -> Iterator[tuple[str, Callable[[Examination], Answer]]]:
    yield "libraries", _libraries
    yield "sam2", _sam2
    yield "memory", _memory
    yield "threads", _threads
    if this.on_gpu:
        yield "driver", _driver
        yield "device", _gpus
        yield "device memory", _gpu_memory
    else:
        yield "device", _cpu
    yield "weights", _weights


def _timed(name: str, check: Callable[[Examination], Answer], this: Examination) -> Check:
    begun = time.perf_counter()
    verdict, detail = check(this)
    return Check(name, verdict, detail, round(time.perf_counter() - begun, 4))


def _libraries(this: Examination) -> Answer:
    found = this.machine.libraries()
    wrong = [one for one in found if not one.fits]
    if wrong:
        have = ", ".join(f"{one.name} {one.version} (needed: {one.needed or 'any'})" for one in wrong)
        return (
            "failed",
            f"{have}: `uv pip sync requirements/extractor.txt` installs what is locked",
        )
    return "ok", ", ".join(f"{one.name} {one.version}" for one in found)


def _sam2(this: Examination) -> Answer:
    found = this.machine.sam2()
    install = f"`pip install --no-build-isolation --force-reinstall --no-deps {SAM2_DISTRIBUTION}=={SAM2_VERSION}`"
    if found.sources == ABSENT:
        return "failed", f"there is no sam2: after torch, {install}"
    others = [name for name in found.distributions if name != SAM2_DISTRIBUTION]
    if others:
        return "failed", (
            f"`import sam2` finds {', '.join(others)}, which took the name of Meta's package (MedSAM2's fork does): "
            f"pip uninstall -y {' '.join(others)}, then {install}; checkpoints of MedSAM2 load in Meta's"
        )
    if not found.known:
        return "failed", (
            f"sam2 {found.version} here is other code (sources {found.sources[:12]}) than {SAM2_VERSION} of PyPI, so that it may "
            f"compute other numbers: {install}"
        )
    return "ok", f"{found.version} of PyPI, file for file Meta's (sources {found.sources[:12]})"


def _memory(this: Examination) -> Answer:
    free, needed = this.machine.free_memory_bytes(), this.processes * PROCESS_BYTES
    said = f"{_gib(free)} free, {this.processes} process(es) of a run may take {_gib(needed)}"
    if free < PROCESS_BYTES:
        return "failed", f"{said}: end other programs, or ask the batch system for more memory"
    if free < needed:
        return "warning", f"{said}: give --jobs {free // PROCESS_BYTES}, or ask the batch system for more memory"
    return "ok", said


def _threads(this: Examination) -> Answer:
    cores, given = this.machine.cores(), {name: this.machine.environment.get(name) for name in THREAD_VARIABLES}
    wrong = [f"{name}={value}" for name, value in given.items() if value is not None and not _positive(value)]
    if wrong:
        return "failed", f"{', '.join(wrong)}: expected a whole number from 1, such as 1, or unset it"
    said = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None) or "no variable set"
    said = f"{cores} core(s) for this process; {said}; the network computes on one thread a process"
    busy = [int(value) for value in given.values() if value is not None]
    if this.processes > 1 and (not busy or max(busy) * this.processes > cores):
        return "warning", f"{said}: with {this.processes} processes set OMP_NUM_THREADS=1 and {THREAD_VARIABLES[-1]}=1"
    return "ok", said


def _positive(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def _cpu(this: Examination) -> Answer:
    unknown = [name for name in this.devices if name != "cpu"]
    if unknown:
        return "failed", f"device {', '.join(unknown)} is unknown: use cpu, cuda or cuda:N"
    return "ok", f"cpu, {this.machine.cores()} core(s)"


def _driver(this: Examination) -> Answer:
    found, built = this.machine.driver(), this.machine.cuda_of_torch()
    if built is None:
        return (
            "failed",
            "torch was built without CUDA: install the build of PyPI, `pip install --force-reinstall torch`",
        )
    if found is None:
        return (
            "failed",
            "no NVIDIA driver answers (`nvidia-smi`): install one, or ask for a node or container with a GPU",
        )
    return "ok", f"NVIDIA {found}; torch is built for CUDA {built}"


def _gpus(this: Examination) -> Answer:
    found = this.machine.gpus()
    if not found:
        visible = this.machine.environment.get("CUDA_VISIBLE_DEVICES")
        hidden = f"CUDA_VISIBLE_DEVICES={visible!r} may hide them; " if visible is not None else ""
        return (
            "failed",
            f"torch sees no CUDA device: {hidden}the driver may be older than torch's CUDA needs; or use --device cpu",
        )
    absent = [name for name in this.devices if _number(name) >= len(found)]
    if absent:
        return "failed", f"{', '.join(absent)}: torch sees {len(found)} device(s), cuda:0 to cuda:{len(found) - 1}"
    coarse = [gpu.name for gpu in found if not gpu.bfloat16]
    said = ", ".join(f"cuda:{number} {gpu.name}" for number, gpu in enumerate(found))
    if coarse:
        return (
            "warning",
            f"{said}: {', '.join(coarse)} has no bfloat16: leave `precision: bfloat16` out of the settings",
        )
    return "ok", said


def _gpu_memory(this: Examination) -> Answer:
    found = this.machine.gpus()
    asked = [(name, found[_number(name)]) for name in this.devices if 0 <= _number(name) < len(found)]
    said = ", ".join(f"{name} {_gib(gpu.free_bytes)} free of {_gib(gpu.total_bytes)}" for name, gpu in asked)
    if not asked or any(gpu.free_bytes < GPU_BYTES for _, gpu in asked):
        return (
            "failed",
            f"{said or 'no device'}: {_gib(GPU_BYTES)} are needed; end other programs there, or use another device",
        )
    return "ok", said


def _number(device: str) -> int:
    """Which of torch's devices a name means; `cuda` is the first, and what is no GPU counts as none."""
    if not device.startswith("cuda"):
        return -1
    _, _, number = device.partition(":")
    return int(number) if number.isdigit() else 0


def _weights(this: Examination) -> Answer:
    if this.weights is None:
        return "warning", "not looked at: give --weights as the run will have them"
    try:
        # On the processor: what is asked of the device is asked above.
        loaded = this.load(this.model, this.weights, device="cpu")
    except (WeightsError, ConfigError) as error:
        return "failed", f"{type(error).__name__}: {error}"
    said = f"{this.model}, sha256 {loaded.weights_sha256}"
    if not loaded.trained:
        return "warning", f"{said}: UNTRAINED random weights, for tests and demonstrations only"
    return "ok", f"{said}, trained"


def _folders(location: Location | None) -> Iterator[tuple[str, Path]]:
    """Where a run writes on disks of this machine."""
    yield "temporary files", Path(tempfile.gettempdir())
    try:
        cache = cache_from_environment()
    except EngramError as error:
        raise UsageError(f"{error} It is read with {FOLDER}.") from error
    if cache is not None:
        yield "cache", cache.folder
    if isinstance(location, FolderLocation):
        yield "store", location.root


def _disk_of(folder: Path) -> Callable[[Examination], Answer]:
    def disk(this: Examination) -> Answer:
        try:
            free = this.machine.free_disk_bytes(folder)
        except OSError as error:
            return "failed", f"{folder} cannot be asked for its free space ({error.strerror}): check that it is mounted"
        said = f"{_gib(free)} free in {folder}"
        if free < LEAST_DISK_BYTES:
            return "failed", f"{said}: at least {_gib(LEAST_DISK_BYTES)} are needed; free some, or name another folder"
        if free < GOOD_DISK_BYTES:
            return (
                "warning",
                f"{said}: a large cohort needs more (an entry of all layouts takes about 1 MiB in the store)",
            )
        return "ok", said

    return disk


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GiB"
