"""Takes every measure of every row of a run, and lists them as lines of a table; knows no store, cluster or file."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import RootModel, ValidationError

from store_schema.errors import SchemaError
from trainer.cohort import Cohort
from trainer.columns import MONTHS_PER_UNIT
from trainer.measures.evaluation import evaluate
from trainer.measures.predictions import JudgedFold, PooledPatients
from trainer.measures.row_measures import Estimate, HorizonMeasures, RowMeasures
from trainer.summary import Judgement, pooled_risks
from trainer.task_results import JobResult

COLUMNS = ("row", "measure", "horizon", "group", "value", "low", "high", "reason", "interval", "tried", "tuned")
BOOTSTRAPPED = ("pooled_c", "c")
"""Measures whose interval is drawn from resamples of persons."""
ESTIMATES = ("uno_c", "pooled_c", "mean_auc", "ibs", "ibs_km", "ibs_scaled", "calibration_slope")
AT_HORIZON = ("auc", "brier", "brier_km", "observed", "observed_over_expected")


class Measures(RootModel[dict[str, RowMeasures]]):
    """Measures by the label of the row."""

    def to_json(self) -> bytes:
        """Text of the file."""
        return (self.model_dump_json(indent=1) + "\n").encode()


def measures_of(judgement: Judgement) -> Measures:
    """Measures of every row of a model of which no fold is missing."""
    found = {}
    for place, line in enumerate(judgement.lines):
        results = judgement.of(line.label)
        if len(results) == len(judgement.splits):
            measured = _of_row(judgement, results, place)
            found[line.label] = measured.model_copy(update={"tried": line.tried, "tuned": line.way})
    return Measures(found)


def pooled_patients(
    cohort: Cohort, risk: Float[np.ndarray, " patient"] | None, causes: tuple[str, ...]
) -> PooledPatients:
    """A cohort's patients as the measures take them.

    Parameters
    ----------
    risk
        On one scale for all, higher is worse; None where there is none.
    causes
        Names of the event and of those that compete with it.
    """
    return PooledPatients(
        risk=risk,
        time=cohort.time,
        event=cohort.event,
        persons=cohort.person,
        covariates=cohort.frame if len(cohort.frame.columns) else None,
        centres=cohort.centre,
        cause=cohort.cause,
        causes=() if cohort.cause is None else causes,
    )


def parse_measures(data: bytes, *, where: str) -> Measures:
    """Measures from their file.

    Raises
    ------
    SchemaError
        If it is anything else.
    """
    try:
        return Measures.model_validate_json(data)
    except ValidationError as error:
        raise SchemaError(f"{where} is not a run's measures: {error}. Run `trainer cv` again") from error


def measure_lines(measures: Measures) -> Iterator[tuple[Any, ...]]:
    """One line per figure, in the columns of `COLUMNS`."""
    for label, row in measures.root.items():
        for line in _row_lines(label, row):
            yield (*line, _interval(row, line), row.tried, row.tuned)


def _interval(row: RowMeasures, line: tuple[Any, ...]) -> str | None:
    """What the interval of a line is; None where it has none."""
    _, measure, _, _, _, low, *_ = line
    if low is None:
        return None
    return f"95%{', bootstrap over persons' if measure in BOOTSTRAPPED else ''}, {row.intervals}"


def _row_lines(label: str, row: RowMeasures) -> Iterator[tuple[Any, ...]]:
    """Of one row: all columns but the last three."""
    for name in ESTIMATES:
        yield (label, name, None, None, *_figure(getattr(row, name)))
    yield (label, "d_calibration_chi_squared", None, None, row.d_calibration.statistic, None, None, None)
    yield (label, "d_calibration_p", None, None, row.d_calibration.p, None, None, None)
    for horizon in row.horizons:
        yield from _at_horizon(label, horizon)
    for left in row.horizons_left_out:
        yield (label, "horizon", left.time, None, None, None, None, left.reason)
    for covariate, groups in row.subgroups.items():
        for group in groups:
            yield (label, "c", None, f"{covariate}={group.label}", group.c, group.low, group.high, group.reason)
    for found in row.incidence:
        who = f"risk_group={found.group}; {found.cause}" if found.group != "all" else f"all; {found.cause}"
        none = "the group's follow-up ends before" if found.incidence is None else None
        yield (label, "cumulative_incidence", found.horizon, who, found.incidence, found.low, found.high, none)
        yield (label, "one_minus_km", found.horizon, who, found.one_minus_km, None, None, none)
    yield (label, "tau", None, None, row.tau, None, None, None if row.tau is not None else row.uno_c.reason)
    yield (label, "beyond_tau", None, None, row.beyond_tau, None, None, None)
    yield (label, "beyond_training", None, None, row.beyond_training, None, None, None)
    if row.centres is not None:
        yield (label, "c_within_centres", None, None, row.centres.within, None, None, None)
    for group in () if row.centres is None else row.centres.groups:
        yield (label, "c", None, f"centre={group.label}", group.c, group.low, group.high, group.reason)


def _at_horizon(label: str, horizon: HorizonMeasures) -> Iterator[tuple[Any, ...]]:
    at = horizon.horizon
    for name in AT_HORIZON:
        yield (label, name, at, None, *_figure(getattr(horizon, name)))
    yield (label, "expected", at, None, horizon.expected, None, None, None)
    for number, point in enumerate(horizon.calibration, start=1):
        yield (label, "calibration_predicted", at, number, point.predicted, None, None, None)
        yield (label, "calibration_observed", at, number, point.observed, point.low, point.high, None)
    if horizon.decision is not None:
        pairs = zip(horizon.decision.thresholds, horizon.decision.net_benefit, horizon.decision.treat_all, strict=True)
        for threshold, benefit, everybody in pairs:
            yield (label, "net_benefit", at, f"threshold={threshold:g}", benefit, None, None, None)
            yield (label, "net_benefit_of_all", at, f"threshold={threshold:g}", everybody, None, None, None)


def _figure(estimate: Estimate) -> tuple[float | None, float | None, float | None, str | None]:
    return estimate.value, estimate.low, estimate.high, estimate.reason


def _of_row(judgement: Judgement, results: tuple[JobResult, ...], place: int) -> RowMeasures:
    cohort, config = judgement.cohort, judgement.config
    horizons = sorted({months / MONTHS_PER_UNIT[cohort.time_unit] for months in config.horizons_months})
    pooled: Mapping[str, float] = pooled_risks(results)
    risk = np.array([pooled[patient] for patient in cohort.patients]) if pooled else None
    patients = pooled_patients(cohort, risk, config.columns.causes)
    folds = [_judged_fold(judgement, result) for result in results]
    return evaluate(folds, patients, horizons=horizons, seed=[config.seed, place])


def _judged_fold(judgement: Judgement, result: JobResult) -> JudgedFold:
    cohort = judgement.cohort
    test, train = cohort.rows(result.patients), cohort.rows(judgement.splits.fold(result.fold).train)
    return JudgedFold(
        repeat=result.repeat,
        risk=np.array(result.log_risk),
        time=cohort.time[test],
        event=cohort.event[test],
        baseline=result.baseline,
        train_time=cohort.time[train],
        train_event=cohort.event[train],
        own_censoring=judgement.config.splits.of_centres,
    )
