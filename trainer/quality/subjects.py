"""Says whose study each patient of the store is, and which groups and outcomes they have; knows no embedding."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from store_schema.errors import TableError, UsageError
from store_schema.files import Place
from store_schema.pseudonyms import PSEUDONYM, PlainIds
from trainer.cohort import Cohort, build_cohort
from trainer.columns import Columns
from trainer.tables import id_cells, read_table, require_columns, shown, text_cells

PATIENT = "patient"
"""Column of the ids where no roles of columns were given."""
USUAL_MISSING = ("NA", "N/A", "NaN", "null")


@dataclass(frozen=True)
class Subjects:
    """What is known of patients besides their embeddings, by key of the store."""

    person: Mapping[str, str] = field(default_factory=dict)
    """Whose study each one is; of those that are not in it, see `owners`."""
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By column, the patients that have a value."""
    event: Mapping[str, bool] | None = None
    """Whether the event was observed; None where no outcomes were given."""

    def owners(self, patients: Iterable[str]) -> dict[str, str]:
        """Whose study each of these is: as a table says, else as a pseudonym tells, else a person each."""
        return {patient: self.person.get(patient) or owner_by_name(patient) for patient in patients}


def owner_by_name(patient: str) -> str:
    """The person of a pseudonymised study; plain ids may hold dots of their own, and stand for themselves."""
    return re.split(r"\.", patient)[0] if PSEUDONYM.fullmatch(patient) else patient


def subjects_of_table(table: Place, columns: Columns | None, groups: tuple[str, ...], ids: PlainIds) -> Subjects:
    """Subjects as a table lists them, one row per patient or study.

    Parameters
    ----------
    columns
        Roles of the table's columns, with outcomes where the table has them; without roles the ids are in `patient`.
    groups
        Columns whose values are groups, besides the centre that the roles name.

    Raises
    ------
    TableError
        If the table cannot be read, lacks a column, lists somebody twice, or has outcomes that are not what the roles say.
    UsageError
        If a column of groups is that of ids.
    """
    frame, where = read_table(table)
    patient, study = (PATIENT, None) if columns is None else (columns.patient, columns.study)
    missing = USUAL_MISSING if columns is None else columns.missing
    if wrong := [name for name in groups if name in {patient, study}]:
        raise UsageError(f"--group {wrong[0]}: the column says who is who, and its values are no groups of patients")
    require_columns(frame, tuple(one for one in (patient, study, *groups) if one is not None), where)
    persons = id_cells(frame[patient], missing, where)
    ids.know(patients=persons)
    studies = (None,) * len(persons) if study is None else id_cells(frame[study], missing, where)
    keys = [ids.name(person, one) for person, one in zip(persons, studies, strict=True)]
    if len(set(keys)) < len(keys):
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise TableError(
            f"{where} lists {shown(twice)} more than once: expected one row per patient, or the column of studies in "
            "`columns: study` of --config"
        )
    centre = columns.centre if columns is not None and columns.centre in frame.columns else None
    named = dict.fromkeys((*groups, *([] if centre is None else [centre])))
    found = {name: zip(keys, text_cells(frame[name], missing), strict=True) for name in named}
    return Subjects(
        person=dict(zip(keys, map(ids.patient, persons), strict=True)),
        groups={name: {key: text for key, text in cells if text is not None} for name, cells in found.items()},
        event=_events(table, columns, set(frame.columns), ids),
    )


def subjects_of_cohort(cohort: Cohort, columns: Columns, groups: tuple[str, ...]) -> Subjects:
    """Subjects as a run judged them.

    Raises
    ------
    UsageError
        If a column of groups is none of the run's categorical covariates or its centre.
    """
    known = {name for name in cohort.frame.columns if name in columns.categorical}
    known |= set() if cohort.centre is None else {str(columns.centre)}
    if strangers := [name for name in groups if name not in known]:
        raise UsageError(
            f"--group {strangers[0]}: the run's cohort has no such column, only {', '.join(sorted(known)) or 'none'}. Give the "
            "table with --clinical"
        )
    found: dict[str, dict[str, str]] = {}
    for name in dict.fromkeys((*groups, *([] if cohort.centre is None else [str(columns.centre)]))):
        cells = cohort.centre if name == columns.centre and cohort.centre is not None else cohort.frame[name].tolist()
        found[name] = {
            one: str(cell) for one, cell in zip(cohort.patients, cells, strict=True) if isinstance(cell, str)
        }
    events = dict(zip(cohort.patients, (bool(one) for one in cohort.event), strict=True))
    return Subjects(dict(zip(cohort.patients, cohort.person, strict=True)), found, events)


def joined(table: Subjects, cohort: Subjects) -> Subjects:
    """What a table says, and the outcomes and persons of a run where the table has none."""
    return replace(
        table, person={**cohort.person, **table.person}, event=cohort.event if table.event is None else table.event
    )


def _events(table: Place, columns: Columns | None, present: set[str], ids: PlainIds) -> dict[str, bool] | None:
    """Events of those whose follow-up is known; None where the table has no outcomes."""
    if columns is None or not {columns.time, columns.event} <= present:
        return None
    kept = columns.model_copy(update={"continuous": (), "categorical": (), "centre": None})
    cohort = build_cohort(table, kept, {}, ids=ids)
    return dict(zip(cohort.patients, (bool(one) for one in cohort.event), strict=True))
