"""Shows how far a run is while it works: live states on a terminal, a line a study in a log; knows no plan and no store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from extractor.outcome import ItemOutcome

SHOWN = 4
"""Studies whose state a terminal shows by name; of more, their number is shown."""


def hours(seconds: float) -> str:
    """A time as h:mm:ss."""
    whole_s = round(seconds)
    return f"{whole_s // 3600}:{whole_s // 60 % 60:02d}:{whole_s % 60:02d}"


def bars(console: Console) -> Progress:
    """Progress bars with counts, failures, rate and times."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[doing]}"),
        console=console,
    )


@contextmanager
def study_progress(console: Console, studies: int) -> Iterator[StudyProgress]:
    """What is told of studies as a bar on a terminal, or as lines where the output is a file."""
    if not console.is_terminal:
        yield StudyProgress(studies, console, None)
        return
    with bars(console) as shown:
        yield StudyProgress(studies, console, shown)


@dataclass
class StudyProgress:
    """Counts of a run so far, and what is being done."""

    studies: int
    console: Console
    shown: Progress | None
    """None where the output is no terminal: then each study is a line."""
    done: int = 0
    failed: int = 0
    stages: dict[str, str] = field(default_factory=dict)
    """What is being done, by patient."""
    clock: Callable[[], float] = time.perf_counter
    """In seconds."""

    def __post_init__(self) -> None:
        self._began_s = self.clock()
        if self.shown is not None:
            self._bar = self.shown.add_task("studies", total=self.studies, failed=0, rate="", doing="")

    def stage(self, patient: str, stage: str | None, where: str = "") -> None:
        """A study went on to another stage, perhaps somewhere else; None where its process died and it waits again."""
        if stage is None:
            self.stages.pop(patient, None)
        else:
            self.stages[patient] = f"{stage} on {where}" if where else stage
        self._show()

    def result(self, patient: str, outcomes: Sequence[ItemOutcome]) -> None:
        """A study is through."""
        self.stages.pop(patient, None)
        failed = sum(outcome.result == "failed" for outcome in outcomes)
        self.done, self.failed = self.done + 1, self.failed + bool(failed)
        if self.shown is None:
            kept = len(outcomes) - failed
            self.console.print(
                f"[{self.done}/{self.studies}] {patient}: {kept} items held, {failed} failed; {self.rate}, left {self.left}",
                markup=False,
            )
        self._show()

    @property
    def rate(self) -> str:
        """Studies an hour since the start."""
        return f"{self.done / max(self._elapsed_s, 1e-6) * 3600:,.0f} studies/h"

    @property
    def left(self) -> str:
        """Time that the studies left would take at that rate, as h:mm:ss."""
        return hours(self._elapsed_s / max(self.done, 1) * (self.studies - self.done))

    @property
    def _elapsed_s(self) -> float:
        return self.clock() - self._began_s

    def _show(self) -> None:
        if self.shown is None:
            return
        doing = ", ".join(f"{patient} {stage}" for patient, stage in list(self.stages.items())[:SHOWN])
        more = len(self.stages) - SHOWN
        self.shown.update(
            self._bar,
            completed=self.done,
            failed=self.failed,
            rate=self.rate if self.done else "",
            doing=f"{doing} and {more} more" if more > 0 else doing,
        )
