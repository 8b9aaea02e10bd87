"""Judges a kept model on another cohort: the model frozen, and a recalibration apart; fits no model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from store_schema.errors import AlreadyExistsError, CohortError, ConfigError, TaskError, UsageError
from store_schema.files import Place, without_secret
from store_schema.pseudonyms import PlainIds
from store_schema.records import sha256
from trainer.cohort import Cohort, build_cohort
from trainer.columns import MONTHS_PER_UNIT, Columns, usual_horizons
from trainer.config import parse_columns, read_settings
from trainer.judging import Trained
from trainer.kaplan_meier import kaplan_meier, log_rank, median_follow_up
from trainer.measures.censoring import truncated
from trainer.measures.evaluation import evaluate
from trainer.predicting import Newcomers, available, pinned, risk_group, score_cohort
from trainer.recalibrating import fifths, judged_part, recalibration
from trainer.result_tables import measures_csv, predictions_csv
from trainer.row_measures import Measures, pooled_patients
from trainer.run_folder import RUN, RunFolder, read_cohort
from trainer.saved import CARD, Card, card_bytes
from trainer.tables import read_table, shown
from trainer.validation_results import (
    AS_IT_IS,
    BY_FIFTHS,
    IN_THE_LARGE,
    PREDICTIONS,
    SLOPE_TOO,
    VALIDATION,
    ValidatedGroup,
    Validation,
)
from trainer.versions import versions

COVARIATES = ("continuous", "categorical")


@dataclass(frozen=True, eq=False)
class Scored:
    """A cohort with what a frozen model says of it, in the order of the cohort."""

    cohort: Cohort
    """Cut at the end of the model's follow-up, in the model's time unit."""
    whole: Cohort
    """The same before it was cut."""
    log_risk: Float[np.ndarray, " patient"]
    """Higher is worse."""
    group: Int[np.ndarray, " patient"]
    """1 to 4, by the quartiles of the training patients."""
    snapshot: tuple[str, str] | None
    """Id of the store and of the snapshot that was read."""
    causes: tuple[str, ...] = ()
    """Names of competing events, the one modelled first; none where there are none."""


def columns_of(card: Card, path: Place | None) -> Columns:
    """Roles of the other cohort's columns: the model's own, or those of a YAML file with the same covariates.

    Raises
    ------
    ConfigError
        If the file cannot be read, a setting is unknown, or covariates are not the model's.
    """
    if path is None:
        return card.columns
    where = without_secret(path)
    settings = read_settings(path)
    settings = settings.get("columns", settings) if isinstance(settings, dict) else settings
    if not isinstance(settings, dict):
        raise ConfigError(f"{where} holds {type(settings).__name__}: expected the settings of `columns`")
    own = card.columns.model_dump(mode="json")
    for name in COVARIATES:
        if list(settings.get(name) or own[name]) != own[name]:
            raise ConfigError(
                f"{where}: {name} is {settings[name]}, and the model reads {own[name]}: covariates are the model's own, leave them "
                "out"
            )
    covariates = {name: own[name] for name in COVARIATES}
    # what the file does not say is as where the model was made, such as which texts mean that a value is missing
    return parse_columns({**own, **settings, **covariates}, origin=where)


def score_others(card: Card, trained: Trained, newcomers: Newcomers, columns: Columns) -> Scored:
    """Scores of every patient of a table who has an outcome and what the model reads.

    Parameters
    ----------
    card, trained
        The model, as `trainer.saved.read_model` gives it.
    newcomers
        Store and table of the other cohort.
    columns
        Roles of the table's columns.

    Raises
    ------
    UsageError
        If the table or the store is missing, or the cohort is the very one that the model was fitted on.
    TableError, CohortError
        If the table cannot be read as declared, or allows no judgement.
    NotCommittedError
        If the store holds nothing that the model reads.
    """
    return newcomers.ids.filtered(lambda: _scored(card, trained, newcomers, columns))


def refuse_developers(run_url: str, cohort_sha256: str, cohort: Cohort, ids: PlainIds) -> None:
    """Refuse a cohort with patients whom the model was fitted on.

    Parameters
    ----------
    run_url
        Folder of the run that the model came from.
    cohort_sha256
        Digest of that run's cohort, as the model's card has it.
    ids
        What patients are called here; the run must have called them by the same rule.

    Raises
    ------
    CohortError
        If somebody is in both.
    UsageError
        If the run called its patients otherwise, so that nobody could be found.
    ObjectAlteredError, SchemaError
        If the run is not the one that the model came from.
    """
    theirs = (RunFolder.open(run_url).read_json(RUN) or {}).get("key_fingerprint")
    if (theirs or None) != (ids.rule.key_fingerprint or None):
        named = "by pseudonyms" if theirs else "by their own ids"
        raise UsageError(
            f"the run calls its patients {named}, this cohort otherwise: nobody would be found in both. Give --pseudonymise and "
            "the key of that run, or leave them out, as it did"
        )
    both = sorted(set(cohort.person) & set(read_cohort(run_url, cohort_sha256).person))
    if both:
        raise CohortError(
            f"{len(both)} patients of this cohort are among those that the model was fitted on ({shown(both)}): take them out "
            "of the table"
        )


def judge(
    card: Card,
    scored: Scored,
    *,
    horizons: tuple[float, ...] | None = None,
    card_sha256: str | None = None,
    overlap_checked: bool = False,
    seed: int = 0,
) -> Validation:
    """Every figure of a frozen model on another cohort, and of its recalibration, judged on patients it was not made from.

    Of the model as it is nothing is fitted here: preprocessing, weights, baseline hazard and risk groups are the card's. The
    Kaplan-Meier curve that Brier scores are held against is of this very cohort, as are the weights for censoring; where
    recalibrations are compared with the model as it is, all are judged fifth by fifth, by curves of the other four.

    Parameters
    ----------
    horizons
        Times at which survival is judged, in the model's unit; by default 1, 2, 3 and 5 years.
    card_sha256
        Digest of the card's file; by default of the card as it would be written now.
    overlap_checked
        Whether `refuse_developers` was asked.
    seed
        Of the bootstraps and of the parts by which a recalibration is judged.

    Raises
    ------
    CohortError
        If the cohort has no comparable pair.

    References
    ----------
    Royston and Altman 2013; Debray et al. 2015; TRIPOD+AI 2024.
    """
    cohort, risk = scored.cohort, scored.log_risk
    if horizons is None:
        horizons = usual_horizons(card.time_unit)
    z = (risk - card.risk_mean) / card.risk_sd
    patients = replace(pooled_patients(cohort, z, scored.causes), group=scored.group)
    everybody = np.arange(len(risk))
    frozen = [judged_part(risk, card.baseline, cohort, everybody, everybody)]
    measures = {AS_IT_IS: evaluate(frozen, patients, horizons=horizons, seed=[seed, 0])}
    without: dict[str, str] = {}
    for way in (BY_FIFTHS, IN_THE_LARGE, SLOPE_TOO):
        try:
            folds = fifths(way, cohort, risk, card.baseline, seed=[seed, 1])
            measures[way] = evaluate(folds, patients, horizons=horizons, seed=[seed, 1])
        except (CohortError, TaskError) as error:
            without[way] = str(error)
    return Validation(
        model=card.name,
        card_sha256=card_sha256 or sha256(card_bytes(card)),
        view=card.view,
        snapshot=None if scored.snapshot is None else scored.snapshot[1],
        store_id=None if scored.snapshot is None else scored.snapshot[0],
        recalibration=recalibration(card.baseline, cohort, risk),
        measures=measures,
        without=without,
        notes=_notes(card, scored, overlap_checked=overlap_checked),
        overlap_checked=overlap_checked,
        developed_patients=card.training.patients,
        developed_events=card.training.events,
        developed_c=card.judged.mean,
        developed_tried=card.judged.tried,
        developed_optimistic=card.judged.tuned == "paper",
        **_facts(card, scored),
    )


def write_validation(found: Validation, scored: Scored, card: Card, url: str) -> str:
    """Write a validation into a folder of its own, over an older one; gives the folder's address.

    Raises
    ------
    AlreadyExistsError
        If the folder holds a run or a model.
    """
    folder = RunFolder.open(url)
    for name, what in ((RUN, "a run"), (CARD, "a model")):
        if folder.read(name) is not None:
            raise AlreadyExistsError(
                f"{folder.url} holds {what}, whose files would be overwritten: use a folder of its own"
            )
    survival_at = [at.horizon for at in found.measures[AS_IT_IS].horizons]
    survival = card.baseline.survival(scored.log_risk, np.array(survival_at))
    folder.replace(
        PREDICTIONS,
        predictions_csv(
            scored.cohort, log_risk=scored.log_risk, group=scored.group, survival=survival, times=survival_at
        ),
    )
    folder.replace("measures.csv", measures_csv(Measures(found.measures)))
    folder.replace(VALIDATION, found.model_dump_json(indent=1) + "\n")
    return folder.url


def _scored(card: Card, trained: Trained, newcomers: Newcomers, columns: Columns) -> Scored:
    if newcomers.clinical is None:
        raise UsageError("a validation needs outcomes: give their table with --clinical")
    columns = _as_read(card, columns, newcomers.clinical)
    held = pinned(card, newcomers)
    entries: Mapping[str, set[str]] = {} if held is None else available(card, held[1])
    cohort = build_cohort(newcomers.clinical, columns, entries, ids=newcomers.ids)
    if cohort.digest == card.training.cohort_digest:
        raise UsageError(
            "this is the very cohort that the model was fitted on: its figures there are apparent, no validation. Use "
            "`trainer cv` for an honest estimate on it"
        )
    scale = MONTHS_PER_UNIT[columns.time_unit] / MONTHS_PER_UNIT[card.time_unit]
    whole = replace(cohort, time=cohort.time * scale, time_unit=card.time_unit)
    time, event = truncated(time=whole.time, event=whole.event, at=_end(card))
    cause = None if whole.cause is None else np.where(whole.time <= _end(card), whole.cause, 0)
    cut = replace(whole, time=time, event=event, cause=cause)
    if not event.any():
        raise CohortError(
            f"{len(cut)} patients have no event up to {_end(card):g} {card.time_unit}: nothing can be judged"
        )
    where = None if held is None else (held[0].url, held[1].id)
    said = trained.predict(score_cohort(card, trained, cut, where), cut.patients)
    snapshot = None if held is None else (held[0].store_id, held[1].id)
    causes = () if cause is None else columns.causes
    return Scored(cut, whole, said.log_risk, risk_group(card, said.log_risk), snapshot, causes)


def _as_read(card: Card, columns: Columns, table: Place) -> Columns:
    """Roles without covariates that the model does not read, and without a centre that only its own table has."""
    present = set(read_table(table)[0].columns)
    changes: dict[str, Any] = {}
    if card.preprocessing is None:
        changes |= {name: tuple(one for one in getattr(columns, name) if one in present) for name in COVARIATES}
    if columns.centre == card.columns.centre and columns.centre not in present:
        changes["centre"] = None
    return columns.model_copy(update=changes)


def _notes(card: Card, scored: Scored, *, overlap_checked: bool) -> tuple[str, ...]:
    """What a reader must know before the figures."""
    cohort, told = scored.cohort, []
    if not overlap_checked:
        told.append(
            "whether patients of this cohort were among those that the model was fitted on was not checked: give the run that it "
            "came from with --developed-on; with such patients the figures are too good"
        )
    if cohort.cause is not None:
        told.append(
            f"{int((cohort.cause > 1).sum())} of {len(cohort)} had a competing event first: survival, observed events, Brier "
            "scores, calibration and decision curves are as if such events were abolished; cumulative incidences stand beside"
        )
    persons = len(set(cohort.person))
    if persons < len(cohort):
        told.append(
            f"{len(cohort)} studies of {persons} patients: intervals of curves and of the slope, and D-calibration, take them as "
            "independent and are too narrow; the bootstrap of c draws whole patients"
        )
    longer, end = int((scored.whole.time > _end(card)).sum()), f"{_end(card):g} {card.time_unit}"
    if longer:
        told.append(
            f"{longer} patients were followed beyond {end}, where the follow-up of the model's own patients ends: they are "
            "censored there"
        )
    return tuple(told)


def _end(card: Card) -> float:
    """End of the model's own follow-up; of models of earlier versions its last event."""
    last = card.training.last_follow_up
    return card.baseline.time[-1] if last is None else last


def _facts(card: Card, scored: Scored) -> dict[str, object]:
    cohort, z = scored.cohort, (scored.log_risk - card.risk_mean) / card.risk_sd
    read = cohort.frame.columns if card.preprocessing is not None else ()
    groups = []
    for number in range(1, 5):
        mine = scored.group == number
        curve = kaplan_meier(cohort.time[mine], cohort.event[mine]) if mine.any() else None
        median = None if curve is None else curve.median
        groups.append(
            ValidatedGroup(group=number, patients=int(mine.sum()), events=int(cohort.event[mine].sum()), median=median)
        )
    try:
        p = log_rank(cohort.time, cohort.event, scored.group).p
    except CohortError:
        # all patients of one group: there is nothing to compare
        p = None
    return {
        "time_unit": card.time_unit,
        "flow": tuple((step.reason, step.excluded, step.remaining) for step in cohort.flow),
        "patients": len(cohort),
        "persons": len(set(cohort.person)),
        "events": int(cohort.event.sum()),
        "median_follow_up": median_follow_up(scored.whole.time, scored.whole.event),
        "cut_at": _end(card),
        "cut": int((scored.whole.time > _end(card)).sum()),
        "missing": {name: int(cohort.frame[name].isna().sum()) for name in read},
        "risk_mean": float(z.mean()),
        "risk_sd": float(z.std()),
        "groups": tuple(groups),
        "log_rank_p": p,
        "versions": versions(),
    }
