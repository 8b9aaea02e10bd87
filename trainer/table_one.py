"""Counts who was analysed: covariates, what is missing of each, events per parameter; knows no model and no file."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from trainer.cohort import Cohort
from trainer.kaplan_meier import median_follow_up
from trainer.preprocess import ClinicalPreprocessor, PreprocessRules
from trainer.results import CovariateSummary, TableOne

COLUMNS = ("of", "level", "figure", "value")
"""Of the file: the covariate, or what the line is of; the level of a covariate; which figure; its value."""

Line = tuple[str, str | None, str, float | int | None]


def table_one(cohort: Cohort, causes: Sequence[str], rules: PreprocessRules) -> TableOne:
    """The cohort that every model shares.

    Parameters
    ----------
    cohort
        Who was analysed.
    causes
        Names of the event and of those that compete with it.
    rules
        How covariates become features: they decide how many parameters a linear model of them has.
    """
    parameters = _parameters(cohort.frame, rules)
    events = int(cohort.event.sum())
    return TableOne(
        patients=len(set(cohort.person)),
        studies=len(cohort),
        events=events,
        time_unit=cohort.time_unit,
        median_follow_up=median_follow_up(cohort.time, cohort.event),
        causes=_first_events(cohort, causes),
        covariates=tuple(_covariate(cohort.frame[name]) for name in cohort.frame.columns),
        parameters=parameters,
        events_per_parameter=events / parameters if parameters else None,
    )


def _first_events(cohort: Cohort, causes: Sequence[str]) -> dict[str, int]:
    if cohort.cause is None:
        return {}
    return {name: int((cohort.cause == code).sum()) for code, name in enumerate(causes, start=1)}


def _parameters(frame: pd.DataFrame, rules: PreprocessRules) -> int:
    return len(ClinicalPreprocessor.fit(frame, rules).feature_names) if len(frame.columns) else 0


def _covariate(column: pd.Series) -> CovariateSummary:
    missing, known = int(column.isna().sum()), column.dropna()
    told = {
        "name": str(column.name),
        "known": len(known),
        "missing": missing,
        "missing_share": missing / len(column),
    }
    if column.dtype.kind != "f":
        counts = known.value_counts().sort_index()
        return CovariateSummary.model_validate({**told, "levels": {str(name): int(n) for name, n in counts.items()}})
    if len(known):
        quartiles = np.quantile(known.to_numpy(dtype=float), (0.25, 0.5, 0.75)).tolist()
        told |= dict(zip(("lower_quartile", "median", "upper_quartile"), quartiles, strict=True))
    return CovariateSummary.model_validate(told)


def table_one_lines(found: TableOne) -> Iterator[Line]:
    """One line per figure, in the columns of `COLUMNS`."""
    yield ("cohort", None, "patients", found.patients)
    yield ("cohort", None, "studies", found.studies)
    yield ("cohort", None, "events", found.events)
    yield ("cohort", None, f"median_follow_up_{found.time_unit}", found.median_follow_up)
    for name, count in found.causes.items():
        yield ("first event", name, "count", count)
    for covariate in found.covariates:
        yield from _covariate_lines(covariate)
    yield ("linear model of the covariates", None, "parameters", found.parameters)
    yield ("linear model of the covariates", None, "events_per_parameter", found.events_per_parameter)


def _covariate_lines(found: CovariateSummary) -> Iterator[Line]:
    yield (found.name, None, "known", found.known)
    yield (found.name, None, "missing", found.missing)
    yield (found.name, None, "missing_share", found.missing_share)
    for level, count in (found.levels or {}).items():
        yield (found.name, level, "count", count)
    if found.levels is None:
        for figure in ("lower_quartile", "median", "upper_quartile"):
            yield (found.name, None, figure, getattr(found, figure))
