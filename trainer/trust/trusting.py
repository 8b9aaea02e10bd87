"""Runs or resumes a study, then every part that tells how far to trust it, then the pages; knows no figure of any part."""

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from store_schema import events
from trainer.config import RunConfig
from trainer.dispatch import Workers
from trainer.plan import Inputs, make_plan
from trainer.probe import Estimate, estimate
from trainer.report.page import write_report
from trainer.run import CvReport, cross_validate
from trainer.run_folder import RESULTS, RunFolder
from trainer.run_record import recorded_pins
from trainer.trust.controls_part import CONTROLS
from trainer.trust.explain_part import EXPLAIN
from trainer.trust.index_page import write_index
from trainer.trust.parts import FAILURES, FAULTS, LeftOut, Part, is_done, measured_seconds, run_part
from trainer.trust.quality_part import QUALITY
from trainer.trust.robustness_part import ROBUSTNESS
from trainer.trust.subject import Subject, row_of
from trainer.trust_config import TrustSettings
from trainer.trust_results import PartRecord, keep_row, read_part, read_trusted

ALL_PARTS: tuple[Part, ...] = (CONTROLS, ROBUSTNESS, EXPLAIN, QUALITY)
"""In the order in which they are done and told."""


@dataclass(frozen=True)
class TrustReport:
    """What came of it."""

    study: CvReport
    records: tuple[PartRecord, ...]
    resumed: tuple[str, ...]
    """Parts that an earlier call had done."""
    index: str
    """Address of the summary."""
    report: str
    """Address of the study's page."""

    @property
    def complete(self) -> bool:
        """Whether nothing failed."""
        return self.study.results.complete and not any(record.failed for record in self.records)


def trust(
    config: RunConfig,
    settings: TrustSettings,
    inputs: Inputs,
    *,
    out: str,
    workers: Workers,
    console: Console,
    told: Callable[[CvReport], None],
) -> TrustReport:
    """Run a study and look at one of its rows from every side; a rerun does what is missing or has changed.

    A part that fails leaves the others alone.

    Parameters
    ----------
    config, inputs
        The study, as of `trainer.run.cross_validate`.
    settings
        The study's section `trust`.
    out
        Run folder; the parts lie below it in `trust`.
    workers, console
        Where fits run, and where progress goes.
    told
        Is told of the study once it is there.

    Raises
    ------
    UsageError, CohortError, StoreError
        As of `cross_validate`; and if the row that is looked at is none of the study.
    """
    model = row_of(config, settings.row)
    study = cross_validate(config, inputs, out=out, workers=workers, console=console)
    told(study)
    subject = Subject(settings, study.plan, inputs, model, study.folder.url, workers, console, study.results)
    _turn_to(model.name, study.folder)
    made = inputs.ids.filtered(lambda: _all_parts(subject, study.folder))
    records = tuple(record for record, _ in made)
    index = write_index(study.folder)
    return TrustReport(
        study, records, tuple(record.part for record, before in made if before), index, write_report(study.folder.url)
    )


def _turn_to(row: str, folder: RunFolder) -> None:
    """Keep which row is looked at; where the pages are of another, they say so from now on, also if this call does not end."""
    keep_row(folder, row)
    found = read_trusted(folder)
    if found is not None and found.stale:
        write_index(folder)
        write_report(folder.url)


def _all_parts(subject: Subject, folder: RunFolder) -> list[tuple[PartRecord, bool]]:
    found = []
    for part in ALL_PARTS:
        if not events.on():
            subject.console.print(f"part     {part.title}", markup=False, soft_wrap=True)
        record, kept = run_part(part, subject, folder)
        events.tell(
            "part",
            level="error" if record.failed else "info",
            part=record.part,
            status=record.status,
            kept=kept,
            message=record.said,
        )
        found.append((record, kept))
    return found


@dataclass(frozen=True)
class PlannedPart:
    """What will become of one part."""

    title: str
    said: str
    """What it looks at, or why it is left out or fails."""
    state: str
    """``to do``, ``done before``, ``left out`` or ``fails``."""
    estimates: tuple[Estimate, ...] = ()


@dataclass(frozen=True)
class TrustPlan:
    """What `trust` would do."""

    row: str
    study: tuple[Estimate, ...]
    """Fits of the study; none where it is finished."""
    parts: tuple[PlannedPart, ...]

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """Of everything."""
        return (*self.study, *(one for part in self.parts for one in part.estimates))


def plan_trust(
    config: RunConfig, settings: TrustSettings, inputs: Inputs, *, out: str, workers: Workers, console: Console
) -> TrustPlan:
    """What `trust` would do, pinned but not done; arguments and errors as of `trust`."""
    model, folder = row_of(config, settings.row), RunFolder.open(out)
    plan = make_plan(config, inputs, recorded=recorded_pins(folder))
    subject = Subject(settings, plan, inputs, model, folder.url, workers, console)
    measured = measured_seconds(subject)
    seconds = None if measured is None else {model.name: measured}
    study = () if folder.location.exists(RESULTS) else estimate(plan, known=seconds)
    parts = inputs.ids.filtered(lambda: tuple(_planned(part, subject, folder) for part in ALL_PARTS))
    return TrustPlan(model.name, study, parts)


def _planned(part: Part, subject: Subject, folder: RunFolder) -> PlannedPart:
    try:
        prepared = part.prepare(subject)
        if isinstance(prepared, LeftOut):
            return PlannedPart(part.title, prepared.reason, "left out")
        if is_done(read_part(folder, part.name), prepared, folder):
            return PlannedPart(part.title, prepared.said, "done before")
        return PlannedPart(part.title, prepared.said, "to do", tuple(prepared.estimates()))
    except (*FAILURES, *FAULTS) as error:
        return PlannedPart(part.title, subject.inputs.ids.clean(f"{type(error).__name__}: {error}"), "fails")
