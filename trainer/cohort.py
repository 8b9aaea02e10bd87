"""Makes a cohort from a clinical table, every exclusion counted; knows nothing of splits, models or stores."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from store_schema.errors import CohortError, TableError
from store_schema.pseudonyms import PlainIds
from trainer.columns import MONTHS_PER_UNIT, Columns, TimeUnit, event_code
from trainer.stats import permute_outcomes
from trainer.tables import Table, id_cells, number_cells, read_table, require_columns, shown, text_cells


@dataclass(frozen=True)
class FlowStep:
    """One box of the flow diagram: who left at this step and how many stayed."""

    reason: str
    """What was asked for and missing; the first step names the table."""
    excluded: int
    """How many patients left at this step."""
    remaining: int
    """How many are left after it."""
    patients: tuple[str, ...] = ()
    """Who left, in order."""


@dataclass(frozen=True, eq=False)
class Cohort:
    """Patients that every compared model is fitted and judged on, sorted by id."""

    patients: tuple[str, ...]
    """Keys of the feature store (``patient`` or ``patient.study``), sorted."""
    time: Float[np.ndarray, " patient"]
    """Time to event or censoring, > 0, in `time_unit`."""
    event: Bool[np.ndarray, " patient"]
    """True where the event was observed."""
    frame: pd.DataFrame
    """Covariates, indexed by patient: continuous as float64 with NaN, categorical as text with None."""
    time_unit: TimeUnit
    """Unit of `time`."""
    person: tuple[str, ...]
    """Who each row belongs to; equal to `patients` unless patients have several studies."""
    centre: tuple[str, ...] | None = None
    """Centre of each row, where a column was declared."""
    cause: Int[np.ndarray, " patient"] | None = None
    """What ended each follow-up: 0 censoring, 1 the event, 2 … the competing events in their order; None where none is declared."""
    flow: tuple[FlowStep, ...] = ()
    """Exclusions in the order in which they were made (paper, Fig. 1)."""
    only_in_store: tuple[str, ...] = ()
    """Patients with every required entry that the clinical table does not list: counted, never used."""

    def __len__(self) -> int:
        return len(self.patients)

    @cached_property
    def digest(self) -> str:
        """Sha256 over what splits depend on: patients, persons, times, events, centres; covariates are not in it."""
        facts = [self.patients, self.person, self.time.tolist(), self.event.tolist(), self.centre, self.time_unit]
        causes = [] if self.cause is None else [self.cause.tolist()]
        return hashlib.sha256(json.dumps(facts + causes, separators=(",", ":")).encode()).hexdigest()

    @property
    def time_months(self) -> Float[np.ndarray, " patient"]:
        """`time` in months of 365.25/12 days."""
        return self.time * MONTHS_PER_UNIT[self.time_unit]

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {patient: row for row, patient in enumerate(self.patients)}

    def rows(self, patients: Iterable[str]) -> Int[np.ndarray, " patient"]:
        """Row numbers of these patients, in their order.

        Raises
        ------
        CohortError
            If one of them is not in the cohort.
        """
        wanted = list(patients)
        strangers = [patient for patient in wanted if patient not in self._row_of]
        if strangers:
            raise CohortError(f"{shown(strangers)}: not in the cohort of {len(self)} patients")
        return np.array([self._row_of[patient] for patient in wanted], dtype=np.int64)

    def part(self, patients: Sequence[str]) -> "Cohort":
        """These patients alone, in their order, with nothing of how the whole was made.

        Raises
        ------
        CohortError
            If one of them is not in the cohort.
        """
        rows = self.rows(patients)
        return Cohort(
            patients=tuple(patients),
            time=self.time[rows],
            event=self.event[rows],
            frame=self.frame.loc[list(patients)],
            time_unit=self.time_unit,
            person=tuple(self.person[row] for row in rows),
            centre=None if self.centre is None else tuple(self.centre[row] for row in rows),
            cause=None if self.cause is None else self.cause[rows],
        )

    def permuted(self, seed: int | Sequence[int], *, within_centres: bool = False) -> "Cohort":
        """Give the same patients with outcomes dealt at random, for a control that must be at chance.

        The outcomes of one person's studies go together to a person with as many studies. Competing events are then censorings,
        as they are for every model.

        Parameters
        ----------
        seed
            Of the draw.
        within_centres
            Outcomes stay in their centre, for folds that are made of centres.
        """
        within = self.centre if within_centres else None
        time, event = permute_outcomes(self.time, self.event, seed=seed, persons=self.person, within=within)
        return replace(self, time=time, event=event, cause=None)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; `from_dict` gives the same cohort back."""
        continuous = {name for name in self.frame.columns if self.frame[name].dtype.kind == "f"}
        return {
            "patients": list(self.patients),
            "person": list(self.person),
            "time": self.time.tolist(),
            "time_unit": self.time_unit,
            "event": self.event.tolist(),
            "centre": None if self.centre is None else list(self.centre),
            # absent without competing events, as in cohorts of earlier versions
            **({} if self.cause is None else {"cause": self.cause.tolist()}),
            "continuous": {name: _jsonable(self.frame[name]) for name in self.frame.columns if name in continuous},
            "categorical": {name: _jsonable(self.frame[name]) for name in self.frame.columns if name not in continuous},
            "flow": [vars(step) | {"patients": list(step.patients)} for step in self.flow],
            "only_in_store": list(self.only_in_store),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Cohort":
        """Cohort that `to_dict` wrote."""
        continuous = {name: np.array(cells, dtype=np.float64) for name, cells in record["continuous"].items()}
        return cls(
            patients=tuple(record["patients"]),
            person=tuple(record["person"]),
            time=np.array(record["time"], dtype=np.float64),
            time_unit=record["time_unit"],
            event=np.array(record["event"], dtype=bool),
            centre=None if record["centre"] is None else tuple(record["centre"]),
            cause=np.array(record["cause"], dtype=np.int64) if "cause" in record else None,
            frame=_covariate_frame(record["patients"], continuous, record["categorical"]),
            flow=tuple(FlowStep(**{**step, "patients": tuple(step["patients"])}) for step in record["flow"]),
            only_in_store=tuple(record["only_in_store"]),
        )


def build_cohort(
    table: Table,
    columns: Columns,
    available: Mapping[str, AbstractSet[str]],
    *,
    require_clinical: bool = False,
    ids: PlainIds | None = None,
) -> Cohort:
    """Patients with every required entry, a time and an event, in a fixed order.

    Steps, as in the paper: rows of the table; an entry for each required label in turn; any clinical value (on
    request); time; event. Patients with some covariates missing stay: these are imputed on training folds.

    Parameters
    ----------
    table
        Path of a CSV, TSV or Parquet file, or a frame; one row per patient (or per patient and study).
    columns
        Roles of the columns.
    available
        For each required label (such as ``medsam2-1f…/PET/spine_dilated``) the patients that have its entry. Name
        every entry that any compared model reads, so that they share one cohort; empty for clinical models alone.
    require_clinical
        Also exclude patients without a single covariate.
    ids
        What the store calls the table's patients; by default as the table does.

    Raises
    ------
    TableError
        If the table cannot be read as declared, or lists a patient twice.
    CohortError
        If a time is not positive (a mistake in the data, never an exclusion), or nobody remains.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.1 and Fig. 1; protocol section 5 (rows share one cohort).
    """
    frame, where = read_table(table)
    require_columns(frame, columns.used, where)
    rows = _ClinicalRows(frame, columns, where, ids or PlainIds())
    keep, flow = _exclude(rows, available, require_clinical=require_clinical)
    if not keep:
        steps = "; ".join(f"{step.reason}: {step.excluded} excluded" for step in flow[1:])
        raise CohortError(f"nobody remains of the {len(rows.patients)} patients of {where} ({steps})")
    complete = set.intersection(*map(set, available.values())) if available else set()
    return rows.cohort(keep, flow, tuple(sorted(complete - set(rows.patients))))


def covariates_of(table: Table, columns: Columns, ids: PlainIds | None = None) -> tuple[tuple[str, ...], pd.DataFrame]:
    """Patients of a table and their covariates, of whom no outcome is known; sorted by patient.

    Raises
    ------
    TableError
        If the table cannot be read as declared, or lists a patient twice.
    """
    frame, where = read_table(table)
    named = (columns.patient, columns.study, *columns.covariates)
    require_columns(frame, tuple(name for name in named if name is not None), where)
    patients = patient_keys(frame, columns, where, ids or PlainIds())[1]
    order = sorted(range(len(patients)), key=lambda row: patients[row])
    numbers = {name: number_cells(frame[name], patients, columns.missing, where)[order] for name in columns.continuous}
    texts = {name: text_cells(frame[name], columns.missing) for name in columns.categorical}
    ordered = tuple(patients[row] for row in order)
    labels = {name: [cells[row] for row in order] for name, cells in texts.items()}
    return ordered, _covariate_frame(ordered, numbers, labels)


def without_outcomes(patients: Sequence[str], frame: pd.DataFrame, time_unit: TimeUnit) -> Cohort:
    """Patients whose outcome is not known: every time is NaN, which no judgement accepts."""
    nobody = np.zeros(len(patients), dtype=bool)
    return Cohort(
        patients=tuple(patients),
        time=np.full(len(patients), np.nan),
        event=nobody,
        frame=frame.loc[list(patients)],
        time_unit=time_unit,
        person=tuple(patients),
    )


def check_table(table: Table, columns: Columns, ids: PlainIds | None = None) -> None:
    """Refuse a table that `build_cohort` would refuse, before anything else is read or written.

    Raises
    ------
    TableError
        If the table cannot be read as declared, or lists a patient twice.
    CohortError
        If a time is not positive.
    """
    frame, where = read_table(table)
    require_columns(frame, columns.used, where)
    _ClinicalRows(frame, columns, where, ids or PlainIds())


class _ClinicalRows:
    """Cells of the declared columns, parsed, in the order of the table."""

    def __init__(self, frame: pd.DataFrame, columns: Columns, where: str, ids: PlainIds) -> None:
        self.columns = columns
        self.person, self.patients = patient_keys(frame, columns, where, ids)
        self.time = number_cells(frame[columns.time], self.patients, columns.missing, where)
        self.cause = self._causes(frame[columns.event], where)
        self._refuse_times_not_positive(where)
        self._censor()
        self.continuous = {
            name: number_cells(frame[name], self.patients, columns.missing, where) for name in columns.continuous
        }
        self.categorical = {name: text_cells(frame[name], columns.missing) for name in columns.categorical}
        self.centre = None if columns.centre is None else id_cells(frame[columns.centre], columns.missing, where)

    def _causes(self, column: pd.Series, where: str) -> list[int | None]:
        """0 where censored, 1 for the event, 2 … for competing ones; None where not known."""
        meaning = {event_code(value): 0 for value in self.columns.censored_values}
        ends = (self.columns.event_value, *self.columns.competing_values)
        meaning |= {event_code(value): code for code, value in enumerate(ends, start=1)}
        causes: list[int | None] = []
        for row, text in enumerate(text_cells(column, self.columns.missing)):
            code = None if text is None else event_code(text)
            if code is not None and code not in meaning:
                raise TableError(
                    f"{where}, column {column.name!r}, row {row + 1} (patient {self.patients[row]}): expected "
                    f"{self.columns.event_value!r} for an event or one of {self.columns.censored_values!r} for "
                    f"censored, got {text!r}. Declare `event_value`, `censored_values` and, for other events, "
                    "`competing_values` in the config"
                )
            causes.append(None if code is None else meaning[code])
        return causes

    def _refuse_times_not_positive(self, where: str) -> None:
        wrong = [f"{self.patients[row]} ({self.time[row]:g})" for row in np.flatnonzero(self.time <= 0)]
        if wrong:
            raise CohortError(
                f"{where}, column {self.columns.time!r}: a time must be > 0 {self.columns.time_unit}, and is not for "
                f"{shown(wrong)}. Correct these times, or empty their cells to exclude the patients by count"
            )

    def _censor(self) -> None:
        limit = self.columns.censor_at
        if limit is None:
            return
        for row in np.flatnonzero(self.time > limit):
            self.time[row] = limit
            self.cause[row] = None if self.cause[row] is None else 0

    def without_covariates(self, row: int) -> bool:
        """Whether not one covariate of this row has a value."""
        numbers = any(np.isfinite(cells[row]) for cells in self.continuous.values())
        return not numbers and all(cells[row] is None for cells in self.categorical.values())

    def cohort(self, keep: Sequence[int], flow: list[FlowStep], only_in_store: tuple[str, ...]) -> Cohort:
        """Cohort of these rows, sorted by patient."""
        order = sorted(keep, key=lambda row: self.patients[row])
        patients = tuple(self.patients[row] for row in order)
        cause = np.array([self.cause[row] for row in order], dtype=np.int64)
        return Cohort(
            patients=patients,
            person=tuple(self.person[row] for row in order),
            time=self.time[order],
            time_unit=self.columns.time_unit,
            event=cause == 1,
            cause=cause if self.columns.competing_values else None,
            centre=None if self.centre is None else tuple(self.centre[row] for row in order),
            frame=_covariate_frame(
                patients,
                {name: cells[order] for name, cells in self.continuous.items()},
                {name: [cells[row] for row in order] for name, cells in self.categorical.items()},
            ),
            flow=tuple(flow),
            only_in_store=only_in_store,
        )


def patient_keys(
    frame: pd.DataFrame, columns: Columns, where: str, ids: PlainIds
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who each row is, and the key of the store that it names."""
    persons = id_cells(frame[columns.patient], columns.missing, where)
    ids.know(patients=persons)
    studies: tuple[str, ...] | tuple[None, ...] = (None,) * len(persons)
    if columns.study is not None:
        studies = id_cells(frame[columns.study], columns.missing, where)
    keys = tuple(ids.name(person, study) for person, study in zip(persons, studies, strict=True))
    seen: set[str] = set()
    twice = sorted({key for key in keys if key in seen or seen.add(key)})  # type: ignore[func-returns-value]
    if twice:
        raise TableError(
            f"{where} lists {shown(twice)} more than once: expected one row per patient. Keep one row, or declare "
            "the column that tells a patient's studies apart as `columns: study`"
        )
    return tuple(map(ids.patient, persons)), keys


def _exclude(
    rows: _ClinicalRows, available: Mapping[str, AbstractSet[str]], *, require_clinical: bool
) -> tuple[list[int], list[FlowStep]]:
    steps: list[tuple[str, set[int]]] = []
    every = range(len(rows.patients))
    for label, patients in available.items():
        steps.append((f"no entry {label} in the store", {row for row in every if rows.patients[row] not in patients}))
    if require_clinical:
        steps.append(("no clinical value", {row for row in every if rows.without_covariates(row)}))
    steps.append((f"no time ({rows.columns.time})", {row for row in every if np.isnan(rows.time[row])}))
    steps.append((f"no event status ({rows.columns.event})", {row for row in every if rows.cause[row] is None}))
    keep = list(every)
    flow = [FlowStep("rows of the clinical table", 0, len(keep))]
    for reason, missing in steps:
        gone = tuple(sorted(rows.patients[row] for row in keep if row in missing))
        keep = [row for row in keep if row not in missing]
        flow.append(FlowStep(reason, len(gone), len(keep), gone))
    return keep, flow


def _covariate_frame(
    patients: Sequence[str],
    continuous: Mapping[str, Float[np.ndarray, " patient"]],
    categorical: Mapping[str, Sequence[str | None]],
) -> pd.DataFrame:
    index = pd.Index(list(patients), name="patient", dtype=object)
    labels = {name: pd.Series(list(cells), index=index, dtype=object) for name, cells in categorical.items()}
    numbers = {name: pd.Series(cells, index=index, dtype=np.float64) for name, cells in continuous.items()}
    return pd.DataFrame({**numbers, **labels}, index=index)


def _jsonable(column: pd.Series) -> list[Any]:
    return [None if gone else cell for cell, gone in zip(column.tolist(), column.isna(), strict=True)]
