"""Makes of the controls' finished run what is told of it: rows, contrasts by family, permuted outcomes; fits nothing."""

from collections.abc import Mapping, Sequence

from trainer.features import MEMORY, array_read
from trainer.leaks import chance_band
from trainer.model_config import NetworkModel
from trainer.plan import Plan
from trainer.results import ContrastResult, Row, RunResults
from trainer.stats import CHANCE, holm, paired_contrast
from trainer.trust.control_results import ControlContrast, ControlRow, Controls, Permuted
from trainer.trust.control_run import BASE, ControlPlan, Family, Taken
from trainer.trust.readings import permuted_reading, reading, unlike, verdict
from trainer.trust.subject import Subject
from trainer.trust.views import is_map, is_matched
from trainer.versions import versions
from trainer.wording import tuning_text


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
        contrasts=tuple(
            found for family in ("controls", "ablation") for found in _contrasts(planned, results, rows, family)
        ),
        permuted=_permuted(plan, results, rows[BASE]),
        notes=(
            *_unequal(made[0], own, same=same),
            *planned.notes,
            *_tuning_notes(rows[BASE], made),
            *_notes(subject, planned, plan, results, same=same),
        ),
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
        above_chance=None if low is None or row.tuned == "paper" else low > CHANCE,
        tuned=row.tuned,
        tried=row.tried,
    )


def _interval(row: Row, plan: Plan) -> tuple[float | None, float | None]:
    """95% interval of a row's mean c, by the variance of the corrected test, within 0 and 1."""
    values = [score.c for score in row.scores if score.c is not None]
    if row.mean is None or len(values) < 2:
        return None, None
    found = paired_contrast(values, [0.0] * len(values), test_to_train=plan.splits[0].test_to_train)
    # a c-index ends at 0 and 1, an interval of few folds does not
    return None if found.low is None else max(0.0, found.low), None if found.high is None else min(1.0, found.high)


def _contrasts(
    planned: ControlPlan, results: RunResults, rows: Mapping[str, Row], family: Family
) -> list[ControlContrast]:
    """Contrasts of one family, their p-values adjusted together."""
    mine = [name for name, one in planned.taken.items() if one.family == family]
    tested = {found.second: found for found in results.contrasts if found.first == BASE and found.second in mine}
    known = {name: found.p_two_sided for name, found in tested.items() if found.p_two_sided is not None}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True)) if known else {}
    apart = {name: unlike(rows[BASE], rows[name]) for name in mine}
    return [_contrast(planned, tested[name], adjusted.get(name), family, apart[name]) for name in mine]


def _contrast(
    planned: ControlPlan, found: ContrastResult, p_holm: float | None, family: Family, apart: str | None
) -> ControlContrast:
    base, other = (planned.taken[name].standing for name in (BASE, found.second))
    told = verdict(found, p_holm, apart)
    return ControlContrast.model_validate(
        {
            "name": found.second,
            "family": family,
            **{name: getattr(found, name) for name in ("mean", "se", "t", "df", "low", "high", "differences", "note")},
            "p": found.p_two_sided,
            "p_holm": p_holm,
            "verdict": told,
            "reading": reading(base, other, found, told, p_holm, apart=apart),
        }
    )


def _permuted(plan: Plan, results: RunResults, base: Row) -> Permuted | None:
    row = next((row for row in results.of_kind("permuted") if row.model == BASE), None)
    if row is None or plan.config.control is None:
        return None
    repeats = plan.config.control.repeats
    parts = [plan.cohort.rows(fold.test) for fold in plan.splits[0].outer() if fold.repeat == 0]
    band = chance_band([(plan.cohort.time[part], plan.cohort.event[part]) for part in parts], permutations=repeats)
    tuning = {"tuned": row.tuned, "tried": row.tried}
    found = Permuted(repeats=repeats, mean=row.mean, se=row.se, band=band, p=base.permutation_p, reading="", **tuning)
    return found.model_copy(update={"reading": permuted_reading(found)})


def _unequal(base: ControlRow, study_mean: float | None, *, same: bool) -> tuple[str, ...]:
    """A warning where the same fits on the same folds gave another c than in the study."""
    if not same or study_mean is None or base.mean is None or base.mean == study_mean:
        return ()
    told = (
        f"c of the base is {base.mean:.6f} here and {study_mean:.6f} in the study, on the same patients and folds: other "
        "machines or devices made the two"
    )
    return (told,)


def _tuning_notes(base: Row, rows: Sequence[ControlRow]) -> tuple[str, ...]:
    """How rows were tuned, where that keeps them from being compared."""
    if base.tuned == "paper":
        told = f"c of the base is the {tuning_text(base)}, and that of the others likewise: no difference is claimed"
        return (f"{told}, and on permuted outcomes the choice alone puts c above 0.5",)
    other = [f"{row.label}: {row.tried}" for row in rows if row.tried != base.tried]
    if other:
        return (
            f"the base is the best of {base.tried} settings, others of another number ({', '.join(other)}): no verdict",
        )
    return ()


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
    told += [
        f"{one.label} has one channel, and the model weighs channels: where the base is higher, channels may be why"
        for one in encoders
        if is_map(one.view) and array_read(subject.model) == MEMORY
    ]
    if plan.splits[0].repeats == 1:
        told.append("folds were dealt once, so that only large differences can be told (splits: repeats)")
    return (*told, *results.warnings)
