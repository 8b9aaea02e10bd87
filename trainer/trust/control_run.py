"""Makes a run of one model on every control and ablation view, and what is told of it; fits nothing itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from store_schema import Snapshot
from store_schema.errors import ConfigError, NotCommittedError, UsageError
from store_schema.records import canonical_json, sha256
from trainer.candidates import candidates_of
from trainer.config import RunConfig, parse_config
from trainer.features import check_view
from trainer.leaks import chance_band
from trainer.model_config import FittedModel, NetworkModel
from trainer.pins import pinned_entries
from trainer.plan import Inputs, Plan
from trainer.results import ContrastResult, Row, RunResults
from trainer.robustness.reading import perturbation_of
from trainer.run_settings import PermutedControl
from trainer.stats import CHANCE, holm, paired_contrast
from trainer.trust.control_results import ControlContrast, ControlRow, Controls, Permuted
from trainer.trust.readings import permuted_reading, reading, verdict
from trainer.trust.subject import Subject
from trainer.trust.views import CONTROLS, Standing, apart, is_map, is_matched, standing, views_found
from trainer.trust_config import ControlsPart
from trainer.versions import versions

BASE = "base"
"""Row of the controls' run that reads the row's own view."""
LEAST_SHARE = 0.9
"""Of the row's patients that a view which nobody named must hold: rows are compared on patients that every view holds."""
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
        *_family(subject, part.views, "controls", left_out),
        *_family(subject, part.ablation, "ablation", left_out),
    ]
    _refuse_twice([one.standing.view_id for one in (base, *others)])
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


def _family(subject: Subject, named: Sequence[str] | None, family: Family, left_out: dict[str, str]) -> Iterator[Taken]:
    """Views of a family: those named, or all that the store holds of it; of these the ones that cannot be used are told."""
    if named is not None:
        for name in named:
            found = standing(subject.view, subject.store.view(name))
            yield _taken(subject, found, family, least=1)
        return
    wanted: tuple[str, ...] = CONTROLS if family == "controls" else (family,)
    least = int(np.ceil(LEAST_SHARE * len(subject.plan.cohort)))
    held = [found for found in views_found(subject.store, subject.view) if found.role in wanted]
    for found in sorted(held, key=lambda one: (wanted.index(one.role), one.label)):
        try:
            yield _taken(subject, found, family, least=least)
        except (ConfigError, NotCommittedError, UsageError) as error:
            left_out[found.view_id] = str(error)


def _taken(subject: Subject, found: Standing, family: Family, *, least: int) -> Taken:
    model = adapted(subject, found)
    snapshot = pinned_entries(
        subject.store,
        found.view_id,
        subject.pairs,
        latest=subject.inputs.latest,
        among=set(subject.plan.cohort.patients),
    )
    having = [{key.patient for key in snapshot.keys if (key.modality, key.roi) == pair} for pair in subject.pairs]
    complete, of = len(set.intersection(*having)), len(subject.plan.cohort)
    if complete < least:
        raise NotCommittedError(
            f"holds what the row reads of {complete} of {of} patients, and rows are compared on patients that every view holds: "
            "extract the others, or name the view in the study's `trust`"
        )
    return Taken(found, family, model, snapshot)


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


def controls_of(subject: Subject, planned: ControlPlan, plan: Plan, results: RunResults, study: RunResults) -> Controls:
    """What is told of the controls' finished run.

    Parameters
    ----------
    planned
        The run as it was asked for.
    plan, results
        The run as it was made, and what it found.
    study
        What the study found.
    """
    rows = {row.label: row for row in results.of_kind("model")}
    made = tuple(_row(name, one, rows[name], subject, plan) for name, one in planned.taken.items())
    same = plan.splits[0] == subject.plan.splits[0]
    own = next((row.mean for row in study.of_kind("model") if row.label == subject.row), None)
    return Controls(
        row=subject.row,
        model=subject.model.model_dump(mode="json", exclude={"name", "facets"}),
        store_id=subject.store.store_id,
        encoder_trained=subject.view.encoder.trained,
        patients=len(plan.cohort),
        events=int(plan.cohort.event.sum()),
        folds=plan.splits[0].folds,
        repeats=plan.splits[0].repeats,
        same_folds=same,
        study_mean=own,
        rows=made,
        contrasts=tuple(found for family in ("controls", "ablation") for found in _contrasts(planned, results, family)),
        permuted=_permuted(plan, results, rows[BASE]),
        notes=_notes(subject, planned, plan, results, same=same),
        left_out=dict(planned.left_out),
        failures=tuple(f"{failure.label}: {failure.reason}" for failure in results.failures),
        run=planned.folder,
        versions=versions(),
    )


def _row(name: str, one: Taken, row: Row, subject: Subject, plan: Plan) -> ControlRow:
    low, high = _interval(row, plan)
    view, model = one.standing.view, one.model
    other_head = isinstance(model, NetworkModel) and model.head != getattr(subject.model, "head", None)
    return ControlRow(
        name=name,
        label=one.standing.label,
        what=one.standing.what,
        role=one.standing.role,
        view=one.standing.view_id,
        snapshot=one.snapshot.id,
        mode=view.prompt.mode,
        layout=view.layout.name,
        head=model.head if isinstance(model, NetworkModel) and other_head else None,
        differs=one.standing.differs,
        scores=tuple(score.c for score in row.scores),
        mean=row.mean,
        se=row.se,
        low=low,
        high=high,
        above_chance=None if low is None else low > CHANCE,
    )


def _interval(row: Row, plan: Plan) -> tuple[float | None, float | None]:
    """95% interval of a row's mean c, by the variance of the corrected test, within 0 and 1."""
    values = [score.c for score in row.scores if score.c is not None]
    if row.mean is None or len(values) < 2:
        return None, None
    found = paired_contrast(values, [0.0] * len(values), test_to_train=plan.splits[0].test_to_train)
    # a c-index ends at 0 and 1, an interval of few folds does not
    return None if found.low is None else max(0.0, found.low), None if found.high is None else min(1.0, found.high)


def _contrasts(planned: ControlPlan, results: RunResults, family: Family) -> list[ControlContrast]:
    """Contrasts of one family, their p-values adjusted together."""
    mine = [name for name, one in planned.taken.items() if one.family == family]
    tested = {found.second: found for found in results.contrasts if found.first == BASE and found.second in mine}
    known = {name: found.p_two_sided for name, found in tested.items() if found.p_two_sided is not None}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True)) if known else {}
    return [_contrast(planned, tested[name], adjusted.get(name), family) for name in mine]


def _contrast(planned: ControlPlan, found: ContrastResult, p_holm: float | None, family: Family) -> ControlContrast:
    base, other = (planned.taken[name].standing for name in (BASE, found.second))
    told = verdict(found, p_holm)
    return ControlContrast.model_validate(
        {
            "name": found.second,
            "family": family,
            **{name: getattr(found, name) for name in ("mean", "se", "t", "df", "low", "high", "differences", "note")},
            "p": found.p_two_sided,
            "p_holm": p_holm,
            "verdict": told,
            "reading": reading(base, other, found, told, p_holm),
        }
    )


def _permuted(plan: Plan, results: RunResults, base: Row) -> Permuted | None:
    row = next((row for row in results.of_kind("permuted") if row.model == BASE), None)
    if row is None or plan.config.control is None:
        return None
    repeats = plan.config.control.repeats
    parts = [plan.cohort.rows(fold.test) for fold in plan.splits[0].outer() if fold.repeat == 0]
    band = chance_band([(plan.cohort.time[part], plan.cohort.event[part]) for part in parts], permutations=repeats)
    found = Permuted(repeats=repeats, mean=row.mean, se=row.se, band=band, p=base.permutation_p, reading="")
    return found.model_copy(update={"reading": permuted_reading(found)})


def _notes(subject: Subject, planned: ControlPlan, plan: Plan, results: RunResults, *, same: bool) -> tuple[str, ...]:
    """What a reader must know before the figures."""
    told = []
    if not subject.view.encoder.trained:
        told.append("the encoder is untrained: nothing here is a finding about a trained one")
    if not same:
        told.append(
            f"{len(plan.cohort)} of the study's {len(subject.plan.cohort)} patients are in every view: folds were dealt anew among "
            "them, and c of the base is not that of the study"
        )
    if subject.model.clinical:
        told.append("the model reads covariates too, which no control takes away: a control may keep their signal")
    told += [
        f"{one.standing.label} differs from the base in {', '.join(one.standing.differs)} too: what is told apart is all of it"
        for one in planned.taken.values()
        if one.standing.differs
    ]
    encoders = [one.standing for one in planned.taken.values() if one.standing.role == "encoder"]
    if encoders and not any(is_matched(subject.view, one.view) for one in encoders):
        told.append(
            f"the encoder alone sees other slices than layout {subject.view.layout.name}: memory and slices are not told apart "
            "by it"
        )
    if plan.splits[0].repeats == 1:
        told.append("folds were dealt once, so that only large differences can be told (splits: repeats)")
    return (*told, *results.warnings)
