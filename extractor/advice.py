"""The summary of a run as a person reads it: what became of the items, why some failed, and what to do; makes no outcome."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from extractor.outcome import RESULTS, ItemOutcome

DEFECT = (
    "nobody foresaw this: run the study alone with --jobs 0; if it stays, it is a defect to be reported, reason and all"
)
_STEPS: tuple[tuple[str, str], ...] = (
    (
        r"^file not found|FileNotFoundError",
        "correct the path in the study table (paths are relative to it), or bring the file there",
    ),
    (r"^(patient|ROI) '.*differs by case alone", "write the id as the store has it, or use another one"),
    (
        r"No space left|Disk quota exceeded",
        "free or add space (`extractor doctor --store URL` says where it is missing)",
    ),
    (
        r"died \d+ times",
        "give each process more memory: fewer --jobs, or more memory a worker; then --jobs 0 on this study alone",
    ),
    (r"scheduler was lost", "start the scheduler again and run the same command: what is committed is kept"),
    (
        r"^no worker process could be started",
        "mend what the reason says; `extractor doctor` on that machine looks at all it needs",
    ),
    (r"out of memory|MemoryError", "use a device or machine with more memory, or fewer processes at once"),
    (r"PermissionError", "give this user the right to read the file or to write the store"),
    (
        r"^ImageError",
        "look at the file with an image viewer, and fetch or convert it again: as it is, it cannot be trusted",
    ),
    (
        r"^GeometryError",
        "check that CT, PET and masks are of one examination and one position, and register or export them again",
    ),
    (r"^MaskError", "draw or export the mask again, or leave its cell in the table empty"),
    (r"^IntensityError", "check the units of the image, and convert it to HU (CT) or SUV by body weight (PET)"),
    (
        r"^(ObjectAltered|ObjectTruncated|ObjectMissing|Schema)Error",
        "the store is damaged: `store-schema verify URL` lists all that is wrong",
    ),
    (r"^WeightsError", "give the workers the very checkpoint that the run began with"),
    (
        r"^(Backend|StoreNotFound|AlreadyExists|NotCommitted)Error",
        "`store-schema doctor URL` tries out the store; then run again",
    ),
    (r"^(StudyError|UsageError|ConfigError|InvalidKeyError|TableError)", "do what the reason says"),
    (r"TimeoutError|ConnectionError|could not be read \(", "check network and server, and run again"),
    (r"^OSError", "check the file system that the reason names, and run again"),
)
"""Pattern of a reason, and the next step; the first that fits counts."""
SHOWN = 6
"""Studies of a group that are named; of more, their number is told."""
_PLACE = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://|/)[^\s,;:'\")]+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def next_step(reason: str) -> str:
    """What a person does about a failure of this reason."""
    return next((step for pattern, step in _STEPS if re.search(pattern, reason)), DEFECT)


@dataclass(frozen=True)
class Failure:
    """Studies that failed in one way."""

    reason: str
    """Of the first of them."""
    step: str
    patients: tuple[str, ...]
    items: int


def grouped(outcomes: Iterable[ItemOutcome]) -> list[Failure]:
    """Failures by their kind, the most frequent first: reasons that differ in the study, its files or numbers alone are one."""
    groups: dict[str, list[ItemOutcome]] = {}
    for outcome in outcomes:
        if outcome.result == "failed":
            groups.setdefault(_kind(outcome), []).append(outcome)
    found = [
        Failure(
            members[0].reason,
            next_step(members[0].reason),
            tuple(dict.fromkeys(member.patient for member in members)),
            len(members),
        )
        for members in groups.values()
    ]
    return sorted(found, key=lambda failure: -len(failure.patients))


def _kind(outcome: ItemOutcome) -> str:
    """The reason without what differs from study to study."""
    words = outcome.reason.replace(outcome.patient, "…")
    return _NUMBER.sub("#", _PLACE.sub("…", words))


def print_summary(outcomes: Sequence[ItemOutcome], console: Console) -> None:
    """Counts by result, then each kind of failure: its studies, the reason of the first, and the next step."""
    counts = Counter(outcome.result for outcome in outcomes)
    parts = [f"{counts[result]} {result}" for result in RESULTS if counts[result]]
    console.print("Items: " + (", ".join(parts) or "none"))
    failures = grouped(outcomes)
    if not failures:
        return
    table = Table(title="Failed: nothing was written for these; mend the cause and run the same command again")
    for column in ("studies", "reason", "next step"):
        table.add_column(column, overflow="fold")
    for failure in failures:
        table.add_row(_named(failure), failure.reason, failure.step)
    console.print(table)


def _named(failure: Failure) -> str:
    """The studies of a group: by name while they are few, with their number otherwise."""
    named, more = ", ".join(failure.patients[:SHOWN]), len(failure.patients) - SHOWN
    return f"{named} and {more} more" if more > 0 else named
