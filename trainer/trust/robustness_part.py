"""The part on perturbed views: finds them, has them judged, and names its key figures; computes no figure."""

from collections.abc import Sequence
from dataclasses import dataclass

from store_schema import Snapshot
from store_schema.console import progress
from trainer.probe import Estimate
from trainer.robustness.agreement import LEAST_SUBJECTS
from trainer.robustness.measuring import Asked, measure
from trainer.robustness.page import write_page
from trainer.robustness.reading import FLAG, snapshot_of
from trainer.robustness.results import FoldsTest, PerturbedView, RiskRobustness, Robustness
from trainer.robustness.writing import own_folder, write_robustness
from trainer.trust.parts import Done, LeftOut, Part, Prepared, counted, inputs_digest, seconds_of_a_fit
from trainer.trust.subject import Subject
from trainer.trust.views import CONTROLS, views_found
from trainer.trust_results import KeyFigure


@dataclass(frozen=True)
class _Work:
    subject: Subject
    perturbed: tuple[Snapshot, ...]

    def do(self, url: str) -> Done:
        """Judge embeddings and risks, and write figures and page."""
        subject = self.subject
        views = tuple(snapshot.id for snapshot in self.perturbed)
        asked = Asked(
            subject.store.url,
            subject.snapshot.id,
            views,
            ids=subject.inputs.ids,
            run_url=subject.url,
            row=subject.row,
            keep=own_folder(url).url,
            workers=subject.workers,
        )
        with progress("perturbed views") as told:
            measured = measure(asked, told)
        write_page(measured.found, write_robustness(measured, url))
        return Done(key_figures(measured.found), complete=True, notes=measured.found.notes)

    def estimates(self) -> Sequence[Estimate]:
        """What it costs to make the model of each fold again."""
        return (Estimate(self.subject.row, len(self.subject.plan.splits[0]), seconds_of_a_fit(self.subject)),)


def _prepared(subject: Subject) -> Prepared | LeftOut:
    settings = subject.settings.robustness
    if settings is None:
        return LeftOut("left out by the study's settings")
    names = _found(subject) if settings.views is None else settings.views
    if not names:
        return LeftOut(f"the store has no perturbed view of {subject.view.view_id}: `extractor perturb` makes them")
    perturbed = tuple(snapshot_of(subject.store, name) for name in names)
    said = f"{counted(len(perturbed), 'perturbed view')}, at most {len(subject.plan.cohort)} patients"
    digest = inputs_digest(subject, perturbed=[snapshot.id for snapshot in perturbed])
    work = _Work(subject, perturbed)
    return Prepared(said, digest, work.do, work.estimates)


def _found(subject: Subject) -> tuple[str, ...]:
    """Every view that is the row's own but for its perturbation, and holds what the row reads of enough patients."""
    found = []
    for one in views_found(subject.store, subject.view):
        if FLAG in one.view.flags and not one.differs:
            keys = subject.store.current_numbers(one.view_id)
            if sum((key.modality, key.roi) in subject.pairs for key in keys) >= LEAST_SUBJECTS * len(subject.pairs):
                found.append(one.view_id)
    return tuple(found)


def key_figures(found: Robustness) -> tuple[KeyFigure, ...]:
    """Agreement of risks under each perturbation, the least of what is no negative control first; then changes of c."""
    judged = [(view, view.risk) for view in found.views if view.risk is not None]
    judged.sort(key=lambda pair: (pair[0].kind in CONTROLS, 1.0 if pair[1].icc.value is None else pair[1].icc.value))
    tested = [(view, risk.over_folds) for view, risk in judged if risk.over_folds is not None]
    return (*(_agreement(*pair) for pair in judged), *(_change(*pair) for pair in tested))


def _agreement(view: PerturbedView, risk: RiskRobustness) -> KeyFigure:
    icc = risk.icc
    told = (
        f"Agreement with the risks on the undisturbed view, of which 1 is full and 0 none; {risk.changed_group:.0%} of "
        "patients change their risk group."
    )
    if icc.value is None:
        told = f"No agreement of risks: {icc.reason}."
    return KeyFigure(label=f"ICC of risks, {view.label}", value=icc.value, low=icc.low, high=icc.high, reading=told)


def _change(view: PerturbedView, c: FoldsTest) -> KeyFigure:
    label = f"Change of c, {view.label}"
    if c.change is None:
        return KeyFigure(label=label, value=None, reading=f"No change of c: {c.reason}.")
    told = (
        "Mean over folds of c with the models of the undisturbed view, perturbed less undisturbed; p is not adjusted."
    )
    if c.low is not None and c.high is not None:
        told += " The interval holds 0: no change is shown." if c.low <= 0 <= c.high else " The interval leaves out 0."
    return KeyFigure(label=label, value=c.change, low=c.low, high=c.high, signed=True, reading=told)


ROBUSTNESS = Part("robustness", "Perturbed prompts and images", _prepared)
