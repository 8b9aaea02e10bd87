"""Shows how far a run is while it works: live states on a terminal, lines or events in a log; knows no plan and no store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from extractor.outcome import ItemOutcome
from store_schema import events

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
def study_progress(console: Console, lines: Mapping[str, int]) -> Iterator[StudyProgress]:
    """What is told of studies as a bar on a terminal, as events, or as lines where the output is a file.

    Parameters
    ----------
    lines
        Line of the study table by patient, for all studies that are worked on.
    """
    if events.on() or not console.is_terminal:
        yield StudyProgress(len(lines), console, None, lines=lines)
        return
    with bars(console) as shown:
        yield StudyProgress(len(lines), console, shown, lines=lines)


@contextmanager
def pack_progress(console: Console, layout: str, entries: int) -> Iterator[Callable[[int, int], None]]:
    """What takes how many entries of how many are packed."""
    if events.on():
        yield events.steps(f"pack {layout}")
        return
    with bars(console) as shown:
        bar = shown.add_task(f"pack {layout}", total=entries, failed=0, rate="", doing="")
        yield lambda done, total: shown.update(bar, completed=done, total=total)
        shown.update(bar, completed=entries)


@dataclass
class StudyProgress:
    """Counts of a run so far, and what is being done."""

    studies: int
    console: Console
    shown: Progress | None
    """None where the output is no terminal: then each study is a line, or an event."""
    done: int = 0
    failed: int = 0
    stages: dict[str, str] = field(default_factory=dict)
    """What is being done, by patient."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """Of the study table by patient: an event names no patient."""
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
        level: events.Level = "warning" if stage is None else "info"
        events.tell(
            "study_stage", level=level, line=self.lines.get(patient), stage=stage or "waiting", where=where or None
        )
        self._show()

    def result(self, patient: str, outcomes: Sequence[ItemOutcome]) -> None:
        """A study is through."""
        self.stages.pop(patient, None)
        failed = sum(outcome.result == "failed" for outcome in outcomes)
        self.done, self.failed = self.done + 1, self.failed + bool(failed)
        if events.on():
            self._tell(patient, outcomes)
        elif self.shown is None:
            kept = len(outcomes) - failed
            self.console.print(
                f"[{self.done}/{self.studies}] {patient}: {kept} items held, {failed} failed; {self.rate}, left {self.left}",
                markup=False,
            )
        self._show()

    def _tell(self, patient: str, outcomes: Sequence[ItemOutcome]) -> None:
        """Events of a study that is through: one for each reason of a failure, then its own."""
        line, counts = self.lines.get(patient), Counter(outcome.result for outcome in outcomes)
        for reason, items in Counter(one.reason for one in outcomes if one.result == "failed").items():
            events.tell("failure", level="error", line=line, items=items, message=reason)
        events.tell(
            "study", level="error" if counts["failed"] else "info", line=line, items=counts, done=self.done,
            failed=self.failed, studies=self.studies, studies_per_hour=round(self._per_hour, 2), left_s=round(self._left_s),
        )  # fmt: skip

    @property
    def rate(self) -> str:
        """Studies an hour since the start."""
        return f"{self._per_hour:,.0f} studies/h"

    @property
    def left(self) -> str:
        """Time that the studies left would take at that rate, as h:mm:ss."""
        return hours(self._left_s)

    @property
    def _per_hour(self) -> float:
        return self.done / max(self._elapsed_s, 1e-6) * 3600

    @property
    def _left_s(self) -> float:
        return self._elapsed_s / max(self.done, 1) * (self.studies - self.done)

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
