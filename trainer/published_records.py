"""Makes the records that a finished run publishes, from what its files say; computes no figure and knows no store."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from store_schema.errors import InvalidKeyError
from store_schema.keys import check_id
from store_schema.published import (
    CURVES,
    PublishedContrast,
    PublishedCurve,
    PublishedCurves,
    PublishedFigure,
    PublishedModel,
    PublishedRiskGroups,
    PublishedRun,
)
from store_schema.records import ObjectRecord, canonical_json, sha256
from trainer.kaplan_meier import KaplanMeier
from trainer.patient_free import LEFT_OUT
from trainer.report.drawing import Drawn
from trainer.report.page import render
from trainer.report.reading import FinishedRun
from trainer.result_tables import ROW_FACTS
from trainer.results import ContrastResult, RiskGroups, Row
from trainer.row_measures import Measures
from trainer.run_folder import MEASURES, REPORT, RESULTS, RUN
from trainer.summary import quartiles_of


@dataclass(frozen=True)
class Drawings:
    """The page and the figures of a run as records."""

    figures: tuple[PublishedFigure, ...]
    records: Mapping[str, bytes]
    """By name."""


def command_of(run: FinishedRun) -> Literal["cv", "search", "study"]:
    """By what the settings hold, so that it does not matter which command was called with them."""
    if any(model.facets is not None for model in run.config.models):
        return "study"
    return "search" if run.config.tuned else "cv"


def facts_of(run: FinishedRun) -> dict[str, bytes]:
    """Records that follow from the run's files alone: the same run gives the same bytes.

    Parameters
    ----------
    run
        Without patients; see `trainer.patient_free`.
    """
    return {
        RESULTS: run.results.to_json(),
        MEASURES: Measures(dict(run.measures)).to_json(),
        RUN: (json.dumps(run.record, indent=1, ensure_ascii=False) + "\n").encode(),
        CURVES: curves_of(run).to_bytes() + b"\n",
    }


def drawings_of(run: FinishedRun, figures: Sequence[Drawn]) -> Drawings:
    """The page and each figure; another version of a library may draw the same with other bytes."""
    told = tuple(
        PublishedFigure(record=_record_name(figure.name), name=figure.name, caption=figure.caption)
        for figure in figures
    )
    records = {one.record: figure.svg.encode() for one, figure in zip(told, figures, strict=True)}
    return Drawings(told, {REPORT: render(run, figures, left_out=LEFT_OUT).encode(), **records})


def _record_name(figure: str) -> str:
    """By the figure's own name, or by its kind and a digest where that cannot name a record."""
    name = f"figure-{figure}.svg"
    try:
        return check_id("record", name)
    except InvalidKeyError:
        return f"figure-{figure.partition('-')[0]}-{sha256(figure.encode())[:16]}.svg"


def summary_of(
    run: FinishedRun, figures: Sequence[PublishedFigure], records: Mapping[str, bytes], *, published_at: str
) -> PublishedRun:
    """The record that makes the run visible, of the other records as they lie in the store."""
    cohort, columns, record = run.cohort, run.config.columns, run.record
    return PublishedRun(
        engram=record["versions"]["engram"],
        command=command_of(run),
        started_at=record["started_at"],
        published_at=published_at,
        models=tuple(_model(run, row) for row in run.results.rows),
        contrasts=tuple(map(_contrast, run.results.contrasts)),
        patients=len(set(cohort.person)),
        studies=len(cohort),
        events=int(cohort.event.sum()),
        outcome=f"{columns.causes[0]}, time {columns.time} in {columns.time_unit}",
        folds=run.splits.folds,
        repeats=run.splits.repeats,
        store_id=None if record["store"] is None else record["store"]["id"],
        snapshots={pin["view"]: pin["snapshot"] for pin in record["snapshots"]},
        untrained=tuple(dict.fromkeys(run.untrained)),
        settings_sha256=sha256(canonical_json(record["config"])),
        warnings=run.results.warnings,
        notes=run.results.notes,
        left_out=LEFT_OUT,
        figures=tuple(figures),
        records={name: ObjectRecord(size_bytes=len(data), sha256=sha256(data)) for name, data in records.items()},
    )


def _model(run: FinishedRun, row: Row) -> PublishedModel:
    """The figures that `summary.csv` has, with c of each fold."""
    facts: dict[str, Any] = {name: getattr(row, name) for name in ROW_FACTS}
    views, scores = _views(run, row), tuple(score.c for score in row.scores)
    return PublishedModel(
        name=row.label,
        kind=row.kind,
        folds=len(scores),
        scores=scores,
        views=views,
        untrained=any(view in run.untrained for view in views),
        **facts,
    )


def _views(run: FinishedRun, row: Row) -> tuple[str, ...]:
    """Ids of the views that a row's models read; an oracle reads none."""
    config = run.config
    of_label = {line.label: line.row for line in run.lines}
    if row.kind == "oracle" or row.model not in of_label:
        return ()
    ids = {pin["named"]: pin["view"] for pin in run.record["snapshots"]}
    tried = (one for member in config.members[of_label[row.model]] for one in config.candidates[member])
    return tuple(dict.fromkeys(ids[one.view] for one in tried if one.view is not None))


def _contrast(found: ContrastResult) -> PublishedContrast:
    return PublishedContrast.model_validate(found.model_dump(exclude={"differences"}))


def curves_of(run: FinishedRun) -> PublishedCurves:
    """Survival in the outer quartiles of every model: the numbers that the report draws."""
    rows = run.results.of_kind("model")
    return PublishedCurves(
        time_unit=run.cohort.time_unit,
        last_time=float(run.cohort.time.max()),
        models=tuple(_groups(run, row.label, row.risk_groups) for row in rows if row.risk_groups is not None),
        without={row.label: row.risk_groups_note or "" for row in rows if row.risk_groups is None},
    )


def _groups(run: FinishedRun, label: str, told: RiskGroups) -> PublishedRiskGroups:
    found = quartiles_of(run.of(label), run.cohort)
    return PublishedRiskGroups(
        model=label,
        chi_squared=told.chi_squared,
        nominal_p=told.nominal_p,
        permutation_p=told.permutation_p,
        lowest=_curve(found.low_risk, "lowest", told.low_patients, told.low_events, told.low_median),
        highest=_curve(found.high_risk, "highest", told.high_patients, told.high_events, told.high_median),
    )


def _curve(
    curve: KaplanMeier, group: Literal["lowest", "highest"], patients: int, events: int, median: float | None
) -> PublishedCurve:
    return PublishedCurve(
        group=group,
        patients=patients,
        events=events,
        median=median,
        time=tuple(curve.time.tolist()),
        survival=tuple(curve.survival.tolist()),
        low=tuple(curve.low.tolist()),
        high=tuple(curve.high.tolist()),
        at_risk=tuple(curve.at_risk.tolist()),
        events_at=tuple(curve.events.tolist()),
        censored=tuple(curve.censored.tolist()),
    )
