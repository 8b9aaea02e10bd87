"""Shows how far a run of patches is: bars on a terminal, lines or events now and then in a log; knows no plan or network."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from extractor.outcome import ItemOutcome
from extractor.progress import hours
from store_schema import events

LINE_S = 30.0
"""Seconds from line to line in a log, while an entry is worked on."""


@dataclass
class PatchesLeft:
    """How much of an entry is left, by how long its patches should take and how long those that are done took."""

    seconds: Sequence[float]
    """That each should take; 0 for one that changes nothing."""
    done: int = 0
    _should_s: float = 0.0
    """That those made in this run should have taken."""
    _took_s: float = 0.0

    def pass_over(self, count: int) -> None:
        """So many more need no work."""
        self.done += count

    def finish(self, took_s: float) -> None:
        """One more was made."""
        self._should_s += self.seconds[self.done]
        self._took_s += took_s
        self.done += 1

    @property
    def left_s(self) -> float:
        """Seconds that the others will take."""
        factor = self._took_s / self._should_s if self._should_s else 1.0
        return factor * sum(self.seconds[self.done :])


@contextmanager
def patch_progress(console: Console, studies: int) -> Iterator[PatchProgress]:
    """What is told of patches as bars on a terminal, as events, or as lines where the output is a file."""
    if events.on() or not console.is_terminal:
        yield PatchProgress(studies, console, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[doing]}"),
    )
    with Progress(*columns, console=console) as shown:
        yield PatchProgress(studies, console, shown)


@dataclass
class PatchProgress:
    """Studies and patches so far, and what is being done."""

    studies: int
    console: Console
    shown: Progress | None
    """None where the output is no terminal."""
    clock: Callable[[], float] = time.monotonic
    """In seconds."""
    through: int = 0
    """Studies that are done."""
    failed: int = 0
    """Entries."""
    line: int | None = None
    """Of the study table, for the study in hand: an event names no patient."""
    _what: str = ""
    _left: PatchesLeft = field(default_factory=lambda: PatchesLeft(()))
    _before: int = 0
    """Patches of the entry that an earlier run had made."""

    def __post_init__(self) -> None:
        self._now_s = self._told_s = self.clock()
        if self.shown is not None:
            self._bars = [
                self.shown.add_task(name, total=total, failed="", doing="")
                for name, total in (("studies", self.studies), ("  patches", None))
            ]

    def begin(self, what: str, seconds: Sequence[float]) -> None:
        """An entry is begun; how long each of its patches should take."""
        self._what, self._left, self._before = what, PatchesLeft(seconds), 0
        self._now_s = self.clock()
        self._show(now=True)

    def kept(self, count: int) -> None:
        """So many patches in a row had been made before."""
        self._left.pass_over(count)
        self._before += count
        self._now_s = self.clock()
        self._show(now=self._left.done == len(self._left.seconds))

    def made(self) -> None:
        """One more patch is done."""
        before_s, self._now_s = self._now_s, self.clock()
        self._left.finish(self._now_s - before_s)
        self._show(now=self._left.done == len(self._left.seconds))

    def study(self, outcomes: Sequence[ItemOutcome]) -> None:
        """A study is through, with these outcomes of its entries."""
        failed = [one for one in outcomes if one.result == "failed"]
        self.through, self.failed = self.through + 1, self.failed + len(failed)
        for one in failed:
            events.tell(
                "failure", level="error", line=self.line, modality=one.modality, roi=one.roi, message=one.reason
            )
        counts = Counter(one.result for one in outcomes)
        level: events.Level = "error" if failed else "info"
        events.tell("study", level=level, line=self.line, items=counts, done=self.through, studies=self.studies)
        if self.shown is not None:
            told = f"{self.failed} failed" if self.failed else ""
            self.shown.update(self._bars[0], completed=self.through, failed=told)

    @property
    def doing(self) -> str:
        """The entry in hand, how much of it was made before, and the time that the rest will take."""
        before = f" ({self._before} made before)" if self._before else ""
        return f"{self._what}{before}, left {hours(self._left.left_s)}"

    def _show(self, *, now: bool) -> None:
        done, total = self._left.done, len(self._left.seconds)
        if self.shown is not None:
            self.shown.update(self._bars[1], completed=done, total=total, doing=self.doing)
        elif now or self._now_s - self._told_s >= LINE_S:
            self._told_s = self._now_s
            if events.on():
                left_s = round(self._left.left_s)
                events.tell(
                    "patches", line=self.line, done=done, total=total, made_before=self._before, left_s=left_s,
                    message=self._what,
                )  # fmt: skip
                return
            self.console.print(
                f"[study {self.through + 1}/{self.studies}] {done} of {total} patches of {self.doing}",
                markup=False,
                soft_wrap=True,
            )
