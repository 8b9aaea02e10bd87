"""The part on perturbed views: finds them, has them judged, and names its key figures; computes no figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from store_schema import Snapshot
from store_schema.console import progress
from store_schema.errors import NotCommittedError, UsageError
from trainer.pins import pinned_entries
from trainer.probe import Estimate
from trainer.robustness.choosing import too_few
from trainer.robustness.files import file_differences
from trainer.robustness.measuring import Asked, measure
from trainer.robustness.page import write_page
from trainer.robustness.reading import FLAG, view_or_snapshot
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
    any_files: bool
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Views that were found and not taken, each with the reason."""

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
            any_files=self.any_files,
            left_out=self.left_out,
        )
        with progress("perturbed views") as told:
            measured = measure(asked, told)
        write_page(measured.found, write_robustness(measured, url))
        left = tuple(f"{view} was left out: {reason}" for view, reason in self.left_out.items())
        return Done(key_figures(measured.found), complete=True, notes=(*left, *measured.found.notes))

    @property
    def told(self) -> dict[str, object]:
        """All that it follows from besides the study."""
        views = [snapshot.id for snapshot in self.perturbed]
        return {"perturbed": views, "any_files": self.any_files, "left_out": dict(self.left_out)}

    def estimates(self) -> Sequence[Estimate]:
        """What it costs to make the model of each fold again."""
        return (Estimate(self.subject.row, len(self.subject.plan.splits[0]), seconds_of_a_fit(self.subject)),)


def _prepared(subject: Subject) -> Prepared | LeftOut:
    settings = subject.settings.robustness
    if settings is None:
        return LeftOut("left out by the study's settings")
    if settings.views is not None:
        work = _Work(subject, tuple(_pinned(subject, name) for name in settings.views), settings.any_files)
    else:
        work = _found(subject, any_files=settings.any_files)
        if not work.perturbed:
            return LeftOut(_nothing(subject, work.left_out))
    told = [counted(len(work.perturbed), "perturbed view"), f"at most {len(subject.plan.cohort)} patients"]
    left = f"; {counted(len(work.left_out), 'view')} left out" if work.left_out else ""
    digest = inputs_digest(subject, **work.told)
    return Prepared(", ".join(told) + left, digest, work.do, work.estimates)


def _nothing(subject: Subject, left_out: Mapping[str, str]) -> str:
    if left_out:
        return "; ".join(f"{view}: {reason}" for view, reason in left_out.items())
    return f"the store has no perturbed view of {subject.view.view_id}: `extractor perturb` makes them"


def _pinned(subject: Subject, name: str) -> Snapshot:
    """A snapshot by its id, or of a view what the study reads of its patients."""
    view = view_or_snapshot(subject.store, name)
    if isinstance(view, Snapshot):
        return view
    places = tuple(dict.fromkeys((key.modality, key.roi) for key in subject.snapshot.keys))
    among = set(subject.plan.cohort.patients)
    return pinned_entries(subject.store, view, places, latest=subject.inputs.latest, among=among)


def _found(subject: Subject, *, any_files: bool) -> _Work:
    """Every view that is the row's own but for its perturbation, and holds what the row reads of enough patients."""
    left_out: dict[str, str] = {}
    held: dict[str, Snapshot] = {}
    for one in views_found(subject.store, subject.view):
        if FLAG in one.view.flags and not one.differs:
            try:
                held[one.view_id] = _pinned(subject, one.view_id)
            except (NotCommittedError, UsageError) as error:
                left_out[one.view_id] = str(error)
    cohort = set(subject.plan.cohort.patients)
    left_out |= too_few(_complete(subject, held, any_files=any_files), named={}, cohort=cohort)
    return _Work(subject, tuple(held[view] for view in held if view not in left_out), any_files, left_out)


def _complete(subject: Subject, held: Mapping[str, Snapshot], *, any_files: bool) -> dict[str, set[str]]:
    """Of each view, patients of whom it holds all that the row reads, from the files of the row's own view."""
    differ = () if any_files else file_differences(subject.snapshot, tuple(held.values()))
    others = {files.view: files.other.keys() for files in differ}
    complete = {}
    for view, snapshot in held.items():
        keys = set(snapshot.keys) - others.get(view, frozenset())
        having = [{key.patient for key in keys if (key.modality, key.roi) == pair} for pair in subject.pairs]
        complete[view] = set.intersection(*having)
    return complete


def key_figures(found: Robustness) -> tuple[KeyFigure, ...]:
    """Agreement of risks under each perturbation, the least of what is no negative control first; then changes of c."""
    judged = [(view, view.risk) for view in found.views if view.risk is not None]
    judged.sort(key=lambda pair: (pair[0].kind in CONTROLS, 1.0 if pair[1].icc.value is None else pair[1].icc.value))
    of = None if found.model is None or found.model.row is None else found.model.row.patients_of_run
    tested = [(view, risk) for view, risk in judged if risk.over_folds is not None]
    return (*(_agreement(view, risk, of) for view, risk in judged), *(_change(view, risk, of) for view, risk in tested))


def _whose(risk: RiskRobustness, of: int | None) -> str:
    """Who was judged."""
    return f"Of {risk.patients}{'' if of is None else f' of the {of}'} patients"


def _agreement(view: PerturbedView, risk: RiskRobustness, of: int | None) -> KeyFigure:
    icc = risk.icc
    told = (
        f"{_whose(risk, of)}: agreement with the risks on the undisturbed view, of which 1 is full and 0 none; "
        f"{risk.changed_group:.0%} change their risk group."
    )
    if icc.value is None:
        told = f"No agreement of risks: {icc.reason}."
    return KeyFigure(label=f"ICC of risks, {view.label}", value=icc.value, low=icc.low, high=icc.high, reading=told)


def _change(view: PerturbedView, risk: RiskRobustness, of: int | None) -> KeyFigure:
    label, c = f"Change of c, {view.label}", risk.over_folds or FoldsTest()
    if c.change is None:
        return KeyFigure(label=label, value=None, reading=f"No change of c: {c.reason}.")
    told = (
        f"{_whose(risk, of)}: mean over folds of c with the models of the undisturbed view, perturbed less undisturbed; p is not "
        "adjusted."
    )
    if c.low is not None and c.high is not None:
        told += " The interval holds 0: no change is shown." if c.low <= 0 <= c.high else " The interval leaves out 0."
    return KeyFigure(label=label, value=c.change, low=c.low, high=c.high, signed=True, reading=told)


ROBUSTNESS = Part("robustness", "Perturbed prompts and images", _prepared)
