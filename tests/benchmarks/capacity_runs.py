"""How extraction and fitting spread over processes, as simulated runs; knows no constant and no cohort.

Extraction follows `extractor/pipeline.py` (a process: one study is loaded, one in the network, one being written) and
`extractor/dispatch.py` (a Dask worker: three threads with a study each, the network held by one). Fits follow
`trainer/dispatch.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from capacity_engine import Lock, Process, Resource, Signal, Simulation, Use

Overlap = Literal["pipeline", "threads"]
THREADS = 3
"""Studies that a Dask worker on a GPU has at once."""


@dataclass(frozen=True)
class StudyCost:
    """What one study takes, in seconds of one core unless said otherwise."""

    load_s: float
    network_s: float
    """Of the GPU where there is one, else of a core."""
    write_s: float
    write_wait_s: float = 0.0
    """Waiting for the store, at no core's cost."""


@dataclass(frozen=True)
class Crew:
    """Processes, and what they share."""

    workers: int
    cores: int
    gpus: int = 0
    """Workers are dealt to them in turn; 0: networks run on the cores."""
    start_s: float = 0.0
    """Of a core, before a worker does anything: imports, weights."""
    dispatch_s: float = 0.0
    """Of the one process that hands out work, for each task."""
    overlap: Overlap = "pipeline"
    efficiency: float = 1.0
    """Speed of a core when all are busy, beside that of one that works alone: they share caches and memory."""

    @property
    def capacity(self) -> float:
        """How many processes get full speed at once."""
        return max(1.0, self.cores * self.efficiency)


@dataclass(frozen=True)
class Simulated:
    """What a run took."""

    wall_s: float
    core_s: float
    """Seconds for which cores were busy, all together."""
    gpu_s: float = 0.0


@dataclass
class Dispatcher:
    """The process that hands out work, to one worker after the other."""

    simulation: Simulation
    seconds: float
    """For each task."""

    def __post_init__(self) -> None:
        self._lock, self._time = Lock(), self.simulation.resource(float("inf"))

    def hand_out(self) -> Process:
        """Part of a process that gets a task."""
        yield self._lock
        yield Use(self._time, self.seconds)
        self.simulation.release(self._lock)


@dataclass
class _Floor:
    """What all workers of an extraction share."""

    simulation: Simulation
    studies: deque[StudyCost]
    cores: Resource
    delays: Resource
    dispatcher: Dispatcher
    crew: Crew


def simulate_studies(studies: Sequence[StudyCost], crew: Crew) -> Simulated:
    """What embedding these studies takes, from the start of the workers to the last commit.

    Parameters
    ----------
    studies
        In the order of the table.
    crew
        Who does it.
    """
    simulation = Simulation()
    cores = simulation.resource(crew.capacity, crew.cores)
    delays, dispatcher = simulation.resource(float("inf")), Dispatcher(simulation, crew.dispatch_s)
    networks = [simulation.resource(1) for _ in range(crew.gpus)] or [cores]
    floor = _Floor(simulation, deque(studies), cores, delays, dispatcher, crew)
    for number in range(min(crew.workers, len(studies))):
        simulation.start(_started(floor, networks[number % len(networks)]))
    wall_s = simulation.run()
    gpu_s = sum(one.busy_s for one in networks) if crew.gpus else 0.0
    return Simulated(wall_s, cores.busy_s, gpu_s)


def _started(floor: _Floor, network: Resource) -> Process:
    """A worker: its start, and then what it does with studies."""
    yield Use(floor.cores, floor.crew.start_s)
    if floor.crew.overlap == "pipeline":
        floor.simulation.start(_pipeline(floor, network))
        return
    lock = Lock()
    for _ in range(THREADS):
        floor.simulation.start(_thread(floor, network, lock))


@dataclass
class _Loading:
    """The study that a worker loads meanwhile; None in the end."""

    study: StudyCost | None
    loaded: Signal


def _load(floor: _Floor) -> _Loading:
    coming = _Loading(floor.studies.popleft() if floor.studies else None, Signal())
    if coming.study is not None:
        floor.simulation.start(_loaded(floor, coming.study, coming.loaded))
    return coming


def _loaded(floor: _Floor, study: StudyCost, done: Signal) -> Process:
    yield from floor.dispatcher.hand_out()
    yield Use(floor.cores, study.load_s)
    floor.simulation.happen(done)


def _pipeline(floor: _Floor, network: Resource) -> Process:
    """One process: the next study is loaded and the last one written while one is embedded."""
    coming = _load(floor)
    written: list[Signal] = []
    while coming.study is not None:
        study = coming.study
        yield coming.loaded
        if len(written) > 1:
            # The study before the last is written before another one is loaded: three are in memory at most.
            yield written[-2]
        coming = _load(floor)
        yield Use(network, study.network_s)
        before = written[-1:]
        written.append(Signal())
        floor.simulation.start(_written(floor, study, before, written[-1]))


def _written(floor: _Floor, study: StudyCost, before: Sequence[Signal], done: Signal) -> Process:
    """Writing, in order: one thread of a process does it."""
    yield from before
    yield Use(floor.cores, study.write_s)
    yield Use(floor.delays, study.write_wait_s)
    floor.simulation.happen(done)


def _thread(floor: _Floor, network: Resource, lock: Lock) -> Process:
    """One thread of a Dask worker: study after study, the network for one thread at a time."""
    while floor.studies:
        study = floor.studies.popleft()
        yield from floor.dispatcher.hand_out()
        yield Use(floor.cores, study.load_s)
        yield lock
        yield Use(network, study.network_s)
        floor.simulation.release(lock)
        yield Use(floor.cores, study.write_s)
        yield Use(floor.delays, study.write_wait_s)


@dataclass(frozen=True)
class Fit:
    """One task of the trainer, in seconds of one core or GPU."""

    seconds: float
    reads: str = ""
    """What it reads of the store: a worker reads each such thing once."""


def simulate_fits(fits: Sequence[Fit], crew: Crew, read_s: Callable[[str], float] = lambda _: 0.0) -> Simulated:
    """What fitting these tasks takes, from the start of the workers to the last result.

    Parameters
    ----------
    fits
        In the order in which they are handed out.
    crew
        Who does it; `overlap` plays no part.
    read_s
        Seconds of a core that reading something takes a worker.
    """
    simulation = Simulation()
    cores, dispatcher = simulation.resource(crew.capacity, crew.cores), Dispatcher(simulation, crew.dispatch_s)
    gpus = [simulation.resource(1) for _ in range(crew.gpus)]
    left = deque(fits)

    def worker(device: Resource) -> Process:
        yield Use(cores, crew.start_s)
        known: set[str] = set()
        while left:
            fit = left.popleft()
            yield from dispatcher.hand_out()
            if fit.reads not in known:
                known.add(fit.reads)
                yield Use(cores, read_s(fit.reads))
            yield Use(device, fit.seconds)

    for number in range(min(crew.workers, len(fits))):
        simulation.start(worker(gpus[number % len(gpus)] if gpus else cores))
    wall_s = simulation.run()
    return Simulated(wall_s, cores.busy_s, sum(gpu.busy_s for gpu in gpus))
