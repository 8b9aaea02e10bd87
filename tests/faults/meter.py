"""Watches the processes of a program while it works: memory, open files, sockets, threads, children, temporary files."""

from __future__ import annotations

import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

EVERY_S = 0.1
LEFT_S = 20.0


def count(folder: Path) -> int:
    """Entries of a folder; 0 where there is none yet."""
    return sum(1 for _ in folder.iterdir()) if folder.exists() else 0


@dataclass(frozen=True)
class Sample:
    """What the processes of a program held together, at one moment."""

    done: int
    """Pieces of work that were finished."""
    memory_kib: dict[int, int]
    """Anonymous memory of each process: what it allocated, without the pages of files, which come and go as the kernel likes."""
    files: int
    sockets: int
    threads: int
    temporary: int
    """Entries of the program's folder for temporary files."""

    @property
    def processes(self) -> int:
        """How many there were."""
        return len(self.memory_kib)


@dataclass
class Watch:
    """Samples of a program, from its start to its end."""

    samples: list[Sample] = field(default_factory=list)
    seen: set[tuple[int, float]] = field(default_factory=set)
    """Every process that it had, by its id and start."""

    def settled(self, of: int) -> list[Sample]:
        """Samples between the warm-up, which is the first quarter of the work, and the last piece."""
        return [one for one in self.samples if of / 4 <= one.done < of]

    def memory_slope_kib(self, of: int) -> dict[int, float]:
        """By process, how much its memory grew with each piece of work, after the warm-up.

        The median of the slopes between the first and the second half of the samples (Theil and Sen's, over such pairs): a peak
        that one sample met does not show in it.
        """
        settled = self.settled(of)
        lasting = set.intersection(*(set(one.memory_kib) for one in settled))
        points = {pid: [(one.done, one.memory_kib[pid]) for one in settled] for pid in lasting}
        return {pid: _slope(found) for pid, found in points.items()}

    def growth(self, of: int, what: Callable[[Sample], int]) -> float:
        """How much more there was at the end than after the warm-up: of the median quarters of the settled samples."""
        values = [what(one) for one in self.settled(of)]
        quarter = max(1, len(values) // 4)
        return statistics.median(values[-quarter:]) - statistics.median(values[:quarter])

    def left(self) -> list[str]:
        """Processes of the program that live still; one whose parent has just ended gets a moment to end too."""
        deadline = time.monotonic() + LEFT_S
        while (found := [f"{pid}" for pid, began in self.seen if _lives(pid, began)]) and time.monotonic() < deadline:
            time.sleep(EVERY_S)
        return found


def _slope(points: Sequence[tuple[int, int]]) -> float:
    half = len(points) // 2
    pairs = zip(points[:half], points[-half:], strict=True)
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs if b[0] > a[0])


def watched(process: subprocess.Popen[bytes], done: Callable[[], int], temporary: Path) -> Watch:
    """Samples a program until it has ended."""
    watch = Watch()
    while process.poll() is None:
        watch.samples += _sampled([process.pid], done, temporary, watch)
        time.sleep(EVERY_S)
    return watch


class Beside:
    """Samples several programs while a block runs, in a thread."""

    def __init__(self, pids: Sequence[int], done: Callable[[], int], temporary: Path) -> None:
        self.watch = Watch()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(pids, done, temporary))

    def _run(self, pids: Sequence[int], done: Callable[[], int], temporary: Path) -> None:
        while not self._stop.wait(EVERY_S):
            self.watch.samples += _sampled(pids, done, temporary, self.watch)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self.watch

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _sampled(pids: Sequence[int], done: Callable[[], int], temporary: Path, watch: Watch) -> list[Sample]:
    """One sample; none where a process ended meanwhile."""
    number = done()
    try:
        tops = [psutil.Process(pid) for pid in pids]
        processes = [*tops, *(child for top in tops for child in top.children(recursive=True))]
        watch.seen |= {(one.pid, one.create_time()) for one in processes}
        links = [_descriptors(one.pid) for one in processes]
        return [
            Sample(
                done=number,
                memory_kib={one.pid: _anonymous_kib(one.pid) for one in processes},
                files=sum(len(one) for one in links),
                sockets=sum(link.startswith("socket:") for one in links for link in one),
                threads=sum(one.num_threads() for one in processes),
                temporary=count(temporary),
            )
        ]
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return []


def _descriptors(pid: int) -> list[str]:
    """What each open descriptor of a process leads to; one that was closed meanwhile is left out."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except FileNotFoundError:
            continue
    return found


def _anonymous_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


def _lives(pid: int, began: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.create_time() == began and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def check_flat(watch: Watch, of: int, *, leak_kib: float, told: str) -> None:
    """Nothing grows with the work.

    Parameters
    ----------
    leak_kib
        Memory that no process may gain with each piece of work.
    told
        What is measured, for the line that is printed.
    """
    settled = watch.settled(of)
    assert len(settled) >= 8, f"{len(settled)} samples tell nothing: {told}"
    slopes = watch.memory_slope_kib(of)
    grown = {
        name: watch.growth(of, what)
        for name, what in {
            "files": lambda one: one.files,
            "sockets": lambda one: one.sockets,
            "threads": lambda one: one.threads,
            "processes": lambda one: one.processes,
            "temporary": lambda one: one.temporary,
        }.items()
    }
    peak_mib = max(sum(one.memory_kib.values()) for one in settled) / 1024
    print(
        f"\n{told}: peak {peak_mib:.0f} MiB in {settled[-1].processes} processes; growth with each piece of work "
        f"{sorted(round(slope, 1) for slope in slopes.values())} KiB; of the rest {grown}",
        flush=True,
    )
    assert max(slopes.values()) <= leak_kib
    assert grown["processes"] <= 0
    assert grown["temporary"] <= 0
    # What one sample meets in the midst of a request or a write.
    assert max(grown["files"], grown["sockets"], grown["threads"]) <= 2
