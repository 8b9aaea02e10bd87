"""Simulates processes that share cores, GPUs and locks, event by event; knows no study, fit or price.

A process is a generator: it yields what it wants next, and goes on once it has had it. Time is in seconds and starts at 0.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import count


class Resource:
    """Something that works for several at once: each at full speed while there is room, else all at equal shares.

    Parameters
    ----------
    capacity
        How many get full speed at once: cores of a machine, 1 for a GPU, infinity for what only takes time, such as a disk's sync.
    units
        How many can be occupied: more than the capacity where those that work at once hinder each other.
    """

    def __init__(self, capacity: float, units: float | None = None) -> None:
        if capacity <= 0:
            raise ValueError(f"a resource of capacity {capacity} never does anything: expected more than 0")
        self.capacity = capacity
        self.units = capacity if units is None else units
        self.busy_s = 0.0
        """Seconds for which units were occupied, all together."""
        self._served = 0.0
        """Seconds of work that one who was there from the start would have got; it says in which order all end."""
        self._since = 0.0
        self._jobs: list[tuple[float, int, Process]] = []

    @property
    def _rate(self) -> float:
        return min(1.0, self.capacity / len(self._jobs))

    def advance(self, now: float) -> None:
        """Bring what was done up to this moment."""
        if self._jobs:
            done = (now - self._since) * self._rate
            self._served += done
            self.busy_s += (now - self._since) * min(len(self._jobs), self.units)
        self._since = now

    def add(self, process: Process, seconds: float, number: int) -> None:
        """Begin so much work for a process; `advance` comes first."""
        heapq.heappush(self._jobs, (self._served + seconds, number, process))

    def next_end(self) -> float:
        """When the next work ends if nothing else happens; infinity where there is none."""
        if not self._jobs:
            return float("inf")
        return self._since + max(0.0, self._jobs[0][0] - self._served) / self._rate

    def pop(self) -> Process:
        """The process whose work has just ended."""
        end, _, process = heapq.heappop(self._jobs)
        # Exactly, so that rounding does not grow with the number of events.
        self._served = end
        return process


@dataclass(eq=False)
class Signal:
    """Something that happens once; whoever waits for it goes on then."""

    happened: bool = False
    waiting: list[Process] = field(default_factory=list)


@dataclass(eq=False)
class Lock:
    """Held by one at a time, in the order of asking."""

    held: bool = False
    waiting: deque[Process] = field(default_factory=deque)


@dataclass(frozen=True)
class Use:
    """So many seconds of work of a resource, as if nobody else used it."""

    resource: Resource
    seconds: float


type Wish = Use | Signal | Lock
"""Work to be done, a signal to be waited for, or a lock to be taken."""
type Process = Generator[Wish, None, None]


class Simulation:
    """Runs processes until none is left."""

    def __init__(self) -> None:
        self.now = 0.0
        self._ready: deque[Process] = deque()
        self._resources: list[Resource] = []
        self._numbers = count()

    def resource(self, capacity: float, units: float | None = None) -> Resource:
        """A resource of this simulation."""
        made = Resource(capacity, units)
        self._resources.append(made)
        return made

    def start(self, process: Process) -> None:
        """Let a process begin now."""
        self._ready.append(process)

    def happen(self, signal: Signal) -> None:
        """Let all go on that wait for a signal."""
        signal.happened = True
        self._ready.extend(signal.waiting)
        signal.waiting.clear()

    def release(self, lock: Lock) -> None:
        """Give a lock to the one that has waited longest."""
        if lock.waiting:
            self._ready.append(lock.waiting.popleft())
        else:
            lock.held = False

    def run(self) -> float:
        """Seconds until the last process has ended."""
        while True:
            while self._ready:
                self._step(self._ready.popleft())
            first = min(self._resources, key=Resource.next_end, default=None)
            if first is None or first.next_end() == float("inf"):
                return self.now
            self.now = first.next_end()
            first.advance(self.now)
            self._ready.append(first.pop())

    def _step(self, process: Process) -> None:
        """Let a process go on until it has to wait."""
        for wish in process:
            if isinstance(wish, Use):
                wish.resource.advance(self.now)
                wish.resource.add(process, wish.seconds, next(self._numbers))
                return
            if isinstance(wish, Signal) and not wish.happened:
                wish.waiting.append(process)
                return
            if isinstance(wish, Lock):
                if wish.held:
                    wish.waiting.append(process)
                    return
                wish.held = True
