"""Reads risks that are known because outcomes were simulated with them; knows nothing of models or folds."""

from collections import Counter

import numpy as np
from jaxtyping import Float

from store_schema.errors import CohortError, ConfigError, TableError
from store_schema.files import Place
from store_schema.pseudonyms import PlainIds
from trainer.cohort import Cohort
from trainer.config import RunConfig
from trainer.tables import id_cells, number_cells, read_table, require_columns, shown


def read_oracle(
    config: RunConfig, cohort: Cohort, *, clinical: Place, table: Place | None = None, ids: PlainIds | None = None
) -> dict[str, Float[np.ndarray, " patient"]]:
    """Log-risks of the cohort by each column of the config's oracle, in the cohort's order; empty without one.

    Parameters
    ----------
    clinical
        Clinical table, where the columns stand there.
    table
        Table with a column ``patient`` that wins over the config's.
    ids
        What the cohort calls the tables' patients; by default as they do.

    Raises
    ------
    ConfigError
        If a table is given and the config names no column, or patients have several studies and no table of their own.
    TableError
        If the table cannot be read as declared.
    CohortError
        If a patient of the cohort has no value.
    """
    if config.oracle is None:
        if table is not None:
            raise ConfigError(
                "--oracle was given: name its columns in the config, as `oracle: {columns: [log_hazard]}`"
            )
        return {}
    source = table or config.oracle.table
    columns = config.columns
    if source is None and columns.study is not None:
        raise ConfigError("an oracle of patients with several studies needs a table of its own: `oracle: {table: …}`")
    frame, where = read_table(source or clinical)
    patient = "patient" if source else columns.patient
    require_columns(frame, (patient, *config.oracle.columns), where)
    patients = tuple(map((ids or PlainIds()).name, id_cells(frame[patient], columns.missing, where)))
    twice = sorted(name for name, count in Counter(patients).items() if count > 1)
    if twice:
        raise TableError(f"{where} lists {shown(twice)} more than once: expected one row per patient. Keep one of them")
    values = {name: number_cells(frame[name], patients, columns.missing, where) for name in config.oracle.columns}
    return {
        name: _in_order(cohort, dict(zip(patients, cells.tolist(), strict=True)), f"{where}, column {name!r}")
        for name, cells in values.items()
    }


def _in_order(cohort: Cohort, known: dict[str, float], where: str) -> Float[np.ndarray, " patient"]:
    missing = [patient for patient in cohort.patients if np.isnan(known.get(patient, np.nan))]
    if missing:
        raise CohortError(f"{where}: the oracle has no risk of {shown(missing)}. Complete it, or leave `oracle` out")
    return np.array([known[patient] for patient in cohort.patients])
