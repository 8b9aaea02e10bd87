"""Does one part of `trainer trust` and records what became of it, so that others go on and a rerun resumes; knows no figure."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from store_schema import events
from store_schema.errors import EngramError
from store_schema.records import canonical_json, sha256
from trainer.probe import Estimate, estimate
from trainer.report.reading import FinishedRun
from trainer.run_folder import REPORT, RunFolder
from trainer.trust.subject import Subject
from trainer.trust_results import KeyFigure, PartRecord, part_file, read_part
from trainer.versions import versions

FAILURES = (EngramError, OSError, RuntimeError, MemoryError)
"""What one part may end in while the others go on; torch raises RuntimeError."""
FAULTS = (ArithmeticError, LookupError, ValueError)
"""The same, of figures that no code foresaw: singular matrices, records that do not hold; told with where they arose."""
BEGUN = "it was begun and did not end"


@dataclass(frozen=True)
class Done:
    """What a part found."""

    figures: tuple[KeyFigure, ...]
    """The first is the key figure."""
    complete: bool
    """Whether nothing of it failed."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """A part that is not done, and why."""

    reason: str


@dataclass(frozen=True)
class Prepared:
    """A part that can be done."""

    said: str
    """What it looks at."""
    inputs_sha256: str
    """Digest of all that it follows from."""
    do: Callable[[str], Done]
    """Does it in a folder, whose address it is given, and writes the page `report.html` there."""
    estimates: Callable[[], Sequence[Estimate]] = tuple
    """What its fits will cost."""


@dataclass(frozen=True)
class Part:
    """One way of looking at a row."""

    name: str
    title: str
    prepare: Callable[[Subject], Prepared | LeftOut]
    """Finds what it needs; does nothing yet."""


def counted(number: int, what: str, several: str | None = None) -> str:
    """A number with its noun."""
    return f"{number} {what if number == 1 else several or f'{what}s'}"


def row_digest(run: FinishedRun, row: str) -> str | None:
    """Digest of what a row became: which settings its folds picked, by which inner scores, and what its fits gave.

    A failed task that later succeeds changes it, times do not. None where the run has no such row.
    """
    line = next((line for line in run.lines if line.label == row), None)
    if line is None:
        return None
    fits = (result for task in run.tasks for result in task.outer)
    scores = (score for task in run.tasks for score in task.inner)
    members = run.config.members[line.row]
    told = {
        "way": line.way,
        "tried": line.tried,
        "picks": [
            [fold, pick.model, pick.candidate] for (number, fold), pick in sorted(line.picks.items()) if not number
        ],
        "fits": [one.model_dump(mode="json", exclude={"seconds"}) for one in line.of(fits) if not one.permutation],
        "inner": sorted(
            (one.model, one.candidate, one.fold, one.inner, repr(one.c))
            for one in scores
            if one.model in members and not one.permutation
        ),
    }
    return sha256(canonical_json(told))


def inputs_digest(subject: Subject, **told: Any) -> str:
    """Digest of what a part follows from: the study's row and what became of it, cohort, snapshot, code, and what it is told."""
    common = {
        "model": subject.model.model_dump(mode="json"),
        "became": None if subject.run is None else row_digest(subject.run, subject.row),
        "cohort": subject.plan.cohort_sha256,
        "splits": subject.plan.splits_sha256[0],
        "snapshot": subject.snapshot.id,
        "versions": versions(),
    }
    return sha256(canonical_json({**common, **told}))


def measured_seconds(subject: Subject) -> float | None:
    """Mean time of a fit of the row in the finished study, on one thread; None where there is none."""
    if subject.run is None:
        return None
    fits = [one for task in subject.run.tasks for one in task.outer if one.model == subject.row]
    return sum(one.seconds for one in fits) / len(fits) if fits else None


def seconds_of_a_fit(subject: Subject) -> float:
    """Time of a fit of the row on one thread: as it was measured in the finished study, else of a timed one."""
    measured = measured_seconds(subject)
    if measured is not None:
        return measured
    others = {model.name: 0.0 for model in subject.config.fitted_models if model.name != subject.row}
    return next(one.seconds_each for one in estimate(subject.plan, known=others) if one.model == subject.row)


def is_done(record: PartRecord | None, prepared: Prepared, folder: RunFolder) -> bool:
    """Whether an earlier call did the part on the very same inputs, and its page stands."""
    if record is None or record.status != "done" or record.inputs_sha256 != prepared.inputs_sha256:
        return False
    return folder.location.exists(part_file(record.part, REPORT))


def run_part(part: Part, subject: Subject, folder: RunFolder) -> tuple[PartRecord, bool]:
    """What became of a part, and whether an earlier call had done it; the record is written last.

    An error that is none of `FAILURES` and `FAULTS` is recorded too before it is raised again.

    Parameters
    ----------
    folder
        The study's run folder.
    """
    record = PartRecord(part=part.name, title=part.title, row=subject.row, status="failed", said="")
    try:
        prepared = part.prepare(subject)
        if isinstance(prepared, LeftOut):
            record = record.model_copy(update={"status": "skipped", "said": prepared.reason})
        else:
            before = read_part(folder, part.name)
            if before is not None and is_done(before, prepared, folder):
                return before, True
            if before is not None:
                # what it says is no longer of the files beside it, also where this call is killed
                _keep(record.model_copy(update={"said": BEGUN}), folder)
            record = _done(record, prepared, folder)
    except (*FAILURES, *FAULTS) as error:
        record = _failed(record, error, subject)
    except Exception as error:
        _keep(_failed(record, error, subject), folder)
        raise
    _keep(record, folder)
    return record, False


def _keep(record: PartRecord, folder: RunFolder) -> None:
    folder.replace(part_file(record.part), record.to_json())


def _failed(record: PartRecord, error: Exception, subject: Subject) -> PartRecord:
    clean = subject.inputs.ids.clean
    if not isinstance(error, FAILURES):
        _tell_defect(record.part, error, subject)
    return record.model_copy(update={"status": "failed", "said": clean(f"{type(error).__name__}: {error}")})


def _tell_defect(part: str, error: Exception, subject: Subject) -> None:
    """What nobody foresaw, with the places in the code."""
    if events.on():
        kind, where = type(error).__name__, events.places(error)
        events.tell("crashed", level="error", part=part, kind=kind, where=where, message=str(error))
        return
    said = subject.inputs.ids.clean("".join(traceback.format_exception(error)))
    subject.console.print(said, markup=False, soft_wrap=True)


def _done(record: PartRecord, prepared: Prepared, folder: RunFolder) -> PartRecord:
    done = prepared.do(f"{folder.url}/{part_file(record.part, '')}".rstrip("/"))
    return record.model_copy(
        update={
            "inputs_sha256": prepared.inputs_sha256,
            "status": "done" if done.complete else "incomplete",
            "said": prepared.said,
            "figures": done.figures,
            "page": REPORT,
            "notes": done.notes,
        }
    )
