"""Works through a study table into a folder a study, so that a rerun makes only what is not there; knows not what is made.

A study's folder appears whole, with its record, or not at all: what an earlier run made of other inputs never stays under its name.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console

from extractor.fetch import fetched
from extractor.outcome import ItemOutcome
from extractor.progress import study_progress
from extractor.study import StudyFiles
from extractor.table import StudyRow
from store_schema import events
from store_schema.errors import EngramError, StudyError
from store_schema.files import remember, remembered
from store_schema.folders import fingerprint_of

FAILURES = (EngramError, OSError, RuntimeError, MemoryError)
"""What one study may end in while the others go on; SimpleITK raises RuntimeError."""

Make = Callable[[StudyFiles, Path], Mapping[str, Any]]
"""Makes the files of one study, read from paths of this machine, in an empty folder; gives what is to be known of them as JSON."""


class FolderRecord(BaseModel):
    """What a study's folder was made from and holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    """Fingerprint of each file by role."""
    files: dict[str, int]
    """Size in bytes by name."""
    facts: dict[str, Any]


@dataclass(frozen=True)
class Folders:
    """Where the studies' folders go and what they are made with."""

    out: Path
    name: str
    """Of the record in each folder: what the command is called."""
    settings: Mapping[str, Any]
    """All that decides what is made, besides the files; as JSON."""
    make: Make
    """Can be pickled."""


@dataclass(frozen=True)
class StudyMade:
    """What became of one study."""

    patient: str
    state: Literal["made", "kept", "failed"]
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Empty where it failed."""


def work_through(rows: Sequence[StudyRow], folders: Folders, *, jobs: int, console: Console) -> list[StudyMade]:
    """What became of each study, in the table's order; the folders of those that were made or kept are complete."""
    folders.out.mkdir(parents=True, exist_ok=True)
    made: dict[str, StudyMade] = {}
    with study_progress(console, {row.patient: row.line for row in rows}) as progress:
        for study in _each(rows, folders, jobs):
            made[study.patient] = study
            progress.result(study.patient, [_outcome(study)])
            if study.state == "failed" and not events.on():
                console.print(f"{study.patient}: {study.reason}", markup=False, soft_wrap=True)
    return [made[row.patient] for row in rows]


def _outcome(study: StudyMade) -> ItemOutcome:
    result = "failed" if study.state == "failed" else "done"
    return ItemOutcome(study.patient, "CT", "all", "folder", result, study.reason)  # type: ignore[arg-type]


def _each(rows: Sequence[StudyRow], folders: Folders, jobs: int) -> Iterator[StudyMade]:
    """Every study as it is through, here or in processes."""
    if jobs <= 1 or len(rows) <= 1:
        yield from (study_made(row, folders) for row in rows)
        return
    # Not forked: clients of object stores hang in a forked process.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(rows)), context, initializer=remember, initargs=(remembered(),)) as pool:
        waiting = {pool.submit(study_made, row, folders): row.patient for row in rows}
        for future in as_completed(waiting):
            yield _result(future, waiting[future])


def _result(future: Future[StudyMade], patient: str) -> StudyMade:
    try:
        return future.result()
    except BrokenProcessPool:
        reason = "a process died, of this study or of another one: was memory short? Run it again with fewer --jobs."
        return StudyMade(patient, "failed", reason)


def study_made(row: StudyRow, folders: Folders) -> StudyMade:
    """Makes one study's folder, unless it is there for these inputs and settings."""
    place = folders.out / row.patient
    try:
        inputs = _inputs(row)
        record = _record(place, folders.name)
        if record is not None and _fits(record, place, inputs, folders.settings):
            return StudyMade(row.patient, "kept", "its inputs and settings have not changed", record.facts)
        _remove(place, folders.name)
        return StudyMade(row.patient, "made", "", _made(row, folders, inputs))
    except FAILURES as error:
        return StudyMade(row.patient, "failed", f"{type(error).__name__}: {error}")


def _inputs(row: StudyRow) -> dict[str, dict[str, Any]]:
    missing = row.missing_files()
    if missing:
        raise StudyError(f"file not found: {'; '.join(missing)}")
    return {role: {"place": place, **asdict(fingerprint_of(place))} for role, place in row.paths.items()}


def _record(place: Path, name: str) -> FolderRecord | None:
    """The record in a study's folder; None where there is none that can be read."""
    try:
        return FolderRecord.model_validate_json((place / f"{name}.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _fits(
    record: FolderRecord, place: Path, inputs: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
) -> bool:
    decided = all(found["mtime_ns"] is not None or found["etag"] is not None for found in inputs.values())
    there = {path.name: path.stat().st_size for path in place.iterdir() if path.name in record.files}
    return decided and record.inputs == inputs and record.settings == settings and record.files == there


def _remove(place: Path, name: str) -> None:
    """Removes what an earlier run of the same command made; nothing else."""
    if not place.exists():
        return
    if any(place.iterdir()) and not (place / f"{name}.json").exists():
        raise StudyError(
            f"{place} holds files that this command did not write: choose another --out, or remove the folder."
        )
    shutil.rmtree(place)


def _made(row: StudyRow, folders: Folders, inputs: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Facts of a study whose folder was made aside and put into place when complete."""
    aside = Path(tempfile.mkdtemp(prefix=".making-", dir=folders.out))
    try:
        with fetched(row.files) as files:
            facts = folders.make(files, aside)
        record = FolderRecord(
            settings=dict(folders.settings),
            inputs={role: dict(found) for role, found in inputs.items()},
            files={path.name: path.stat().st_size for path in sorted(aside.iterdir())},
            facts=dict(facts),
        )
        (aside / f"{folders.name}.json").write_text(json.dumps(record.model_dump(), indent=1, ensure_ascii=False))
        aside.chmod(0o755)  # temporary folders are for their owner alone
        aside.rename(folders.out / row.patient)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return facts
