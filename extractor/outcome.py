"""What stands before each item of an extraction, what became of it, and the plan as a person reads it; makes neither."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from store_schema import events
from store_schema.pseudonyms import PlainIds

State = Literal["new", "done", "superseded", "stale", "refused", "changed", "withdrawn"]
Result = Literal["committed", "done", "superseded", "withdrawn", "failed"]

LEFT_OUT = ("failed", "refused")
"""Result, and state of a plan, of items that have no entry because something is wrong."""
MAX_REASON = 1500
"""Characters of a reason as it is shown and recorded."""
RESULTS: tuple[Result, ...] = ("committed", "done", "superseded", "withdrawn", "failed")


@dataclass(frozen=True)
class PlanItem:
    """What stands before one entry of one view, and why."""

    patient: str
    modality: str
    roi: str
    layout: str
    state: State
    """`changed` means that a source file changed: its voxels are read, then it is done, superseded or stale. `withdrawn` items are
    left alone, and are no failure."""
    reason: str
    number: int | None = None
    """The current commit, where there is one."""

    @property
    def to_do(self) -> bool:
        """Whether a run has to read this study for this item."""
        return self.state in ("new", "stale", "changed")


@dataclass(frozen=True)
class ItemOutcome:
    """What became of one entry of one view."""

    patient: str
    modality: str
    roi: str
    layout: str
    result: Result
    reason: str
    number: int | None = None
    """Commit that holds this item's input; None where it failed."""
    seconds: float = 0.0
    """Wall time of the item's own share: embedding of its stream and writing of its entry."""


class StudyLike(Protocol):
    """A study that was worked on as a whole."""

    @property
    def patient(self) -> str:
        """Its id."""

    @property
    def state(self) -> str:
        """What became of it: `failed`, or another word."""

    @property
    def reason(self) -> str:
        """Why."""


def one_line(reason: str) -> str:
    """A reason that can be printed and recorded wherever it is: paths may hold line breaks, commands to terminals, or megabytes."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in reason)
    half = MAX_REASON // 2
    return shown if len(shown) <= MAX_REASON else f"{shown[:half]} … {shown[-half:]}"


class StdoutNames:
    """How stdout names patients: as they are, and beside JSON lines by a number, since logs of containers hold both.

    Parameters
    ----------
    ids
        What is hidden in reasons then.
    numbers
        Of each patient: its line of the table, or which one it is.
    word
        What the numbers are.
    """

    def __init__(self, ids: PlainIds, numbers: Mapping[str, int], *, word: str = "line") -> None:
        self._ids, self._numbers, self._word = ids, numbers, word

    @classmethod
    def in_order(cls, ids: PlainIds, patients: Iterable[str]) -> StdoutNames:
        """By which patient of all these it is, from 1."""
        numbers = {patient: number for number, patient in enumerate(dict.fromkeys(patients), start=1)}
        return cls(ids, numbers, word="patient")

    def patient(self, patient: str) -> str:
        """Its name."""
        return f"{self._word} {self._numbers[patient]}" if events.on() else patient

    def reason(self, reason: str) -> str:
        """A text that may name patients and files."""
        return self._ids.logged(reason) if events.on() else reason

    def all[T: (PlanItem, ItemOutcome)](self, items: Sequence[T]) -> Sequence[T]:
        """Items as they are told."""
        return [replace(item, patient=self.patient(item.patient), reason=self.reason(item.reason)) for item in items]


def to_jsonl(records: Iterable[PlanItem | ItemOutcome]) -> bytes:
    """One JSON object a line, keys sorted."""
    return "".join(json.dumps(asdict(record), sort_keys=True) + "\n" for record in records).encode()


def print_plan(items: Sequence[PlanItem], console: Console) -> None:
    """Counts by state and reason, then every refused study."""
    table = Table(title="Plan", caption="An item is one patient / modality / ROI in one view.")
    for column in ("state", "items", "studies", "reason"):
        table.add_column(column, justify="right" if column in ("items", "studies") else "left", overflow="fold")
    groups = Counter((item.state, _group(item)) for item in items)
    for (state, reason), count in sorted(groups.items()):
        studies = {item.patient for item in items if (item.state, _group(item)) == (state, reason)}
        # As text: what stands in brackets in a path is no mark-up.
        table.add_row(state, str(count), str(len(studies)), Text(reason))
    console.print(table)


def _group(item: PlanItem) -> str:
    """Reasons that name a file are listed one by one only where somebody has to act on them."""
    return f"{item.patient}: {item.reason}" if item.state == "refused" else item.reason


def _print_failures(failures: Collection[tuple[str, str]], console: Console) -> None:
    if not failures:
        return
    table = Table(title="Failed: nothing was written for these; mend the cause and run the same command again")
    table.add_column("patient")
    table.add_column("reason", overflow="fold")
    for patient, reason in failures:
        table.add_row(patient, Text(reason))
    console.print(table)


def print_studies(studies: Sequence[StudyLike], console: Console) -> None:
    """Counts by state, then each failed study with its reason; events have told each failure already where they are on."""
    counts = Counter(study.state for study in studies)
    console.print("Studies: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items(), reverse=True)))
    if not events.on():
        _print_failures([(study.patient, study.reason) for study in studies if study.state == "failed"], console)
