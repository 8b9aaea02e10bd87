"""Plans a run of one model on its own view and on every control and ablation view; fits nothing and judges nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from store_schema import Snapshot
from store_schema.errors import ConfigError, NotCommittedError, UsageError
from store_schema.records import canonical_json, sha256
from trainer.candidates import candidates_of
from trainer.config import RunConfig, parse_config
from trainer.features import check_view
from trainer.model_config import FittedModel, NetworkModel
from trainer.pins import pinned_entries
from trainer.plan import Inputs
from trainer.robustness.choosing import too_few
from trainer.robustness.files import FileDifferences, file_differences
from trainer.robustness.reading import perturbation_of
from trainer.run_settings import PermutedControl
from trainer.trust.subject import Subject
from trainer.trust.views import CONTROLS, Standing, apart, is_map, standing, views_found
from trainer.trust_config import ControlsPart

BASE = "base"
"""Row of the controls' run that reads the row's own view."""
LONGEST_NAME = 56
Family = str


@dataclass(frozen=True)
class Taken:
    """A view that the model is fitted on."""

    standing: Standing
    family: Family
    """``base``, ``controls`` or ``ablation``."""
    model: FittedModel
    """The row's model, as it reads this view."""
    snapshot: Snapshot
    files: FileDifferences | None = None
    """Entries that it holds of other files than the base: they are not in the snapshot. None of the base itself."""

    def complete(self, pairs: Sequence[tuple[str, str]]) -> set[str]:
        """Patients of whom it holds all of these modalities and regions."""
        keys = self.snapshot.keys
        return set.intersection(*({key.patient for key in keys if (key.modality, key.roi) == pair} for pair in pairs))


@dataclass(frozen=True)
class ControlPlan:
    """The run to be made."""

    config: RunConfig
    inputs: Inputs
    """With every view pinned."""
    taken: Mapping[str, Taken]
    """By the name of its row; the base first."""
    left_out: Mapping[str, str]
    """Views that were found and not taken, each with the reason."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the files that the views were made from, each without a full stop."""
        return tuple(note for one in self.taken.values() if one.files is not None for note in one.files.notes)

    def of(self, family: Family) -> int:
        """How many views of a family there are."""
        return sum(one.family == family for one in self.taken.values())

    @property
    def digest(self) -> str:
        """Of all that the run's numbers follow from, but for versions of the code."""
        told = {"config": self.config.model_dump(mode="json"), "snapshots": self.inputs.snapshots}
        return sha256(canonical_json(told))

    @property
    def folder(self) -> str:
        """Of the run, below that of the part: another choice of views is another run."""
        return f"run-{self.digest[:12]}"


def plan_controls(subject: Subject, part: ControlsPart) -> ControlPlan:
    """The run that fits the row's model on its own view and on every control and ablation view, on patients of the study alone.

    Raises
    ------
    NotCommittedError
        If there is nothing to hold the row against, or a view that was named is not there.
    ConfigError, UsageError
        If the model cannot read a view that was named, or it was named twice.
    """
    left_out: dict[str, str] = {}
    base = Taken(standing(subject.view, subject.view), BASE, subject.model, _pinned_base(subject))
    others = [
        *_family(subject, base, part, "controls", left_out),
        *_family(subject, base, part, "ablation", left_out),
    ]
    _refuse_twice([one.standing.view_id for one in (base, *others)])
    left_out |= _too_few(subject, part, others)
    others = [one for one in others if one.standing.view_id not in left_out]
    if not others and not part.permutations:
        raise NotCommittedError(f"the store has no view to hold {subject.view.view_id} against: {_how(left_out)}")
    labelled = apart(one.standing for one in (base, *others))
    taken = _named([replace(one, standing=told) for one, told in zip((base, *others), labelled, strict=True)])
    config = _config(subject, taken, part.permutations)
    # each snapshot once, in the order of the rows
    inputs = replace(subject.inputs, snapshots=tuple(one.snapshot.id for one in taken.values()))
    return ControlPlan(config, inputs, taken, left_out)


def _how(left_out: Mapping[str, str]) -> str:
    if left_out:
        return "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
    return "`extractor perturb --kind elsewhere` makes one, and `baselines: [hiera-last2]` of `extractor run` the encoder alone"


def _pinned_base(subject: Subject) -> Snapshot:
    """The study's own snapshot, of the study's patients."""
    among = set(subject.plan.cohort.patients)
    numbers = {
        row.key: row.number
        for row in subject.snapshot.rows
        if row.key.patient in among and (row.key.modality, row.key.roi) in subject.pairs
    }
    return subject.store.snapshot(subject.store.make_snapshot(subject.snapshot.view_id, numbers))


def _named_of(part: ControlsPart, family: Family) -> Sequence[str] | None:
    return part.views if family == "controls" else part.ablation


def _too_few(subject: Subject, part: ControlsPart, others: Sequence[Taken]) -> dict[str, str]:
    """Views that were found and would leave too few patients to all others, each with the reason."""
    complete = [(one, one.complete(subject.pairs)) for one in others]
    named = {one.standing.view_id: mine for one, mine in complete if _named_of(part, one.family) is not None}
    found = {one.standing.view_id: mine for one, mine in complete if _named_of(part, one.family) is None}
    return too_few(found, named=named, cohort=set(subject.plan.cohort.patients))


def _family(
    subject: Subject, base: Taken, part: ControlsPart, family: Family, left_out: dict[str, str]
) -> Iterator[Taken]:
    """Views of a family: those named, or all that the store holds of it; of these the ones that cannot be used are told."""
    named = _named_of(part, family)
    if named is not None:
        for name in named:
            found = standing(subject.view, subject.store.view(name))
            yield _taken(subject, base, found, family, any_files=part.any_files)
        return
    wanted: tuple[str, ...] = CONTROLS if family == "controls" else (family,)
    held = [found for found in views_found(subject.store, subject.view) if found.role in wanted]
    for found in sorted(held, key=lambda one: (wanted.index(one.role), one.label)):
        try:
            yield _taken(subject, base, found, family, any_files=part.any_files)
        except (ConfigError, NotCommittedError, UsageError) as error:
            left_out[found.view_id] = str(error)


def _taken(subject: Subject, base: Taken, found: Standing, family: Family, *, any_files: bool) -> Taken:
    model = adapted(subject, found)
    snapshot = pinned_entries(
        subject.store,
        found.view_id,
        subject.pairs,
        latest=subject.inputs.latest,
        among=set(subject.plan.cohort.patients),
    )
    taken = Taken(found, family, model, snapshot)
    if not any_files:
        taken = _of_same_files(subject, base, taken)
    if not taken.complete(subject.pairs):
        others = len(taken.files.other) if taken.files is not None else 0
        told = f" ({others} entries were made from other files than the base's)" if others else ""
        raise NotCommittedError(
            f"holds what the row reads of none of {len(subject.plan.cohort)} patients{told}: extract them, or name another view"
        )
    return taken


def _of_same_files(subject: Subject, base: Taken, taken: Taken) -> Taken:
    """The same without entries that were made from other files than the base's: what is told apart would be the files too."""
    snapshot = taken.snapshot
    (files,) = file_differences(base.snapshot, (snapshot,))
    if not files.other:
        return replace(taken, files=files)
    kept = {row.key: row.number for row in snapshot.rows if row.key not in files.other}
    if not kept:
        raise NotCommittedError(
            f"{snapshot.view_id} has no entry that the base has too and of its files: {files.notes[0]}"
        )
    return replace(
        taken, snapshot=subject.store.snapshot(subject.store.make_snapshot(snapshot.view_id, kept)), files=files
    )


def adapted(subject: Subject, found: Standing) -> FittedModel:
    """The row's model as it reads another view: with the head of vectors where the base holds maps and the view vectors.

    Raises
    ------
    ConfigError
        If it cannot read the view.
    """
    model = subject.model
    if isinstance(model, NetworkModel) and is_map(subject.view) and not is_map(found.view):
        assert model.images is not None
        searched = {name: values for name, values in model.search.items() if name not in ("head", "images.pool")}
        images = model.images.model_copy(update={"pool": 1})
        model = model.model_copy(update={"head": "vector", "images": images, "search": searched})
    for candidate in candidates_of(model, subject.config.search):
        check_view(candidate, found.view)
    return model


def _refuse_twice(views: Sequence[str]) -> None:
    twice = sorted({view for view in views if views.count(view) > 1})
    if twice:
        raise UsageError(
            f"trust: controls: {', '.join(twice)} is the row's own view, or named twice: each is another view"
        )


def _named(taken: Sequence[Taken]) -> dict[str, Taken]:
    """Views by a name that a row can have."""
    found: dict[str, Taken] = {}
    for one in taken:
        name = BASE if one.family == BASE else _row_name(one.standing)
        numbered = (name if number == 1 else f"{name}.{number}" for number in range(1, 2 + len(taken)))
        found[next(name for name in numbered if name not in found)] = one
    return found


def _row_name(found: Standing) -> str:
    view = found.view
    if found.role == "encoder":
        return f"encoder.{view.flags['aggregate']}"
    if found.role == "ablation":
        return f"{view.prompt.mode}.{view.layout.name}"
    if found.role in CONTROLS:
        _, _, _, seed = perturbation_of(view)
        return f"{found.role}.seed{seed}" if seed else found.role
    return view.name[:LONGEST_NAME].rstrip("._-")


def _config(subject: Subject, taken: Mapping[str, Taken], permutations: int) -> RunConfig:
    """The study's settings with these models, each held against the base."""
    models = []
    for name, one in taken.items():
        record = one.model.model_dump(mode="json", exclude={"facets"})
        models.append({**record, "name": name, "view": one.standing.view_id})
    control = subject.config.control
    seed = 0 if control is None else control.seed
    permuted = PermutedControl(models=(BASE,), repeats=permutations, seed=seed) if permutations else None
    changed = {
        "models": models,
        "claim": None,
        "contrasts": [{"first": BASE, "second": name} for name in taken if name != BASE],
        "permuted_control": None if permuted is None else permuted.model_dump(mode="json"),
    }
    return parse_config({**subject.config.model_dump(mode="json"), **changed}, origin="the controls")
