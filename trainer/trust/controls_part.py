"""The part on negative controls and the ablation: plans its run, has it made, and names its key figures; computes no figure."""

from collections.abc import Sequence
from dataclasses import dataclass

from store_schema.errors import NotCommittedError
from trainer.plan import make_plan
from trainer.probe import Estimate, estimate
from trainer.run import cross_validate
from trainer.run_folder import RunFolder
from trainer.trust.control_judging import controls_of
from trainer.trust.control_page import write_control_page
from trainer.trust.control_results import ControlContrast, ControlRow, Controls
from trainer.trust.control_run import ControlPlan, plan_controls
from trainer.trust.control_writing import write_controls
from trainer.trust.parts import Done, LeftOut, Part, Prepared, counted, inputs_digest, seconds_of_a_fit
from trainer.trust.readings import chance_reading
from trainer.trust.subject import Subject
from trainer.trust_config import ControlsPart
from trainer.trust_results import KeyFigure


@dataclass(frozen=True)
class _Work:
    subject: Subject
    planned: ControlPlan

    def do(self, url: str) -> Done:
        """Fit what is missing, and write figures and page."""
        subject, planned = self.subject, self.planned
        assert subject.results is not None
        made = cross_validate(
            planned.config,
            planned.inputs,
            out=f"{url}/{planned.folder}",
            workers=subject.workers,
            console=subject.console,
        )
        found = controls_of(subject, planned, made.plan, made.results, subject.results)
        folder = RunFolder.open(url)
        write_controls(found, folder)
        write_control_page(found, folder)
        failed = (f"{counted(len(found.failures), 'fit')} failed",) if found.failures else ()
        return Done(key_figures(found), found.complete, (*failed, *found.notes))

    def estimates(self) -> Sequence[Estimate]:
        """What its fits will cost: by those of the study where it is finished, else by timed ones."""
        plan = make_plan(self.planned.config, self.planned.inputs)
        seconds, own = seconds_of_a_fit(self.subject), self.subject.model
        alike = [name for name, one in self.planned.taken.items() if _same_head(one.model, own)]
        return estimate(plan, known=dict.fromkeys(alike, seconds))


def _same_head(one: object, own: object) -> bool:
    return getattr(one, "head", None) == getattr(own, "head", None)


def _prepared(subject: Subject) -> Prepared | LeftOut:
    settings = subject.settings.controls
    if settings is None:
        return LeftOut("left out by the study's settings")
    try:
        planned = plan_controls(subject, settings)
    except NotCommittedError as error:
        return _nothing(error, settings)
    work = _Work(subject, planned)
    return Prepared(
        _said(planned, len(subject.plan.cohort)), inputs_digest(subject, run=planned.digest), work.do, work.estimates
    )


def _nothing(error: NotCommittedError, settings: ControlsPart) -> LeftOut:
    """Nothing was found; what was asked for by name and is not there is a failure."""
    if settings.views is not None or settings.ablation is not None:
        raise error
    return LeftOut(str(error))


def _said(planned: ControlPlan, patients: int) -> str:
    control = planned.config.control
    told = [
        counted(planned.of("controls"), "control view"),
        f"{counted(planned.of('ablation'), 'view')} of other modes and layouts",
        counted(0 if control is None else control.repeats, "permutation"),
        f"at most {patients} patients",
    ]
    left = f"; {counted(len(planned.left_out), 'view')} left out" if planned.left_out else ""
    return ", ".join(told) + left


def key_figures(found: Controls) -> tuple[KeyFigure, ...]:
    """What the base has over each control, the encoder alone first; then permuted outcomes, and what constant images tell."""
    pairs = found.of("controls")
    figures = [_difference(row, one) for row, one in pairs]
    figures += [_alone(row) for row, _ in pairs if row.role == "constant"]
    if found.permuted is not None:
        told = found.permuted
        figures.append(KeyFigure(label="c on permuted outcomes", value=told.mean, reading=told.reading))
    figures += [_difference(row, one) for row, one in found.of("ablation")]
    return tuple(figures)


def _difference(row: ControlRow, one: ControlContrast) -> KeyFigure:
    return KeyFigure(
        label=f"Δc, base − {row.label}", value=one.mean, low=one.low, high=one.high, signed=True, reading=one.reading
    )


def _alone(row: ControlRow) -> KeyFigure:
    told = chance_reading(row.label, row.low, row.high, tuned=row.tuned, tried=row.tried)
    told = told or "A fit failed: nothing can be said."
    return KeyFigure(label=f"c of {row.label}", value=row.mean, low=row.low, high=row.high, reading=told)


CONTROLS = Part("controls", "Negative controls and ablation", _prepared)
