"""Reads a clinical table and its cells strictly, so that no value is guessed; knows nothing of cohorts or models."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from store_schema.errors import TableError
from store_schema.files import local_file, name_of, without_secret
from trainer.columns import plain_label

Table = str | os.PathLike[str] | pd.DataFrame


def read_table(table: Table) -> tuple[pd.DataFrame, str]:
    """Clinical table as it stands, and the name by which messages call it.

    CSV and TSV cells stay text, so that the patient id ``007`` keeps its zeros; Parquet cells keep their types.

    Parameters
    ----------
    table
        Path or address of a ``.csv``, ``.tsv`` or ``.parquet`` file, or a frame that was read already.

    Raises
    ------
    TableError
        If the file is absent, unreadable, empty, of another kind, or names a column twice.
    """
    if isinstance(table, pd.DataFrame):
        frame, where = table, "the clinical table"
    else:
        where = without_secret(table)
        frame = _read_file(where)
    frame = frame.rename(columns=lambda name: str(name).strip())
    twice = sorted(set(frame.columns[frame.columns.duplicated()]))
    if twice:
        raise TableError(f"{where} names {', '.join(twice)} more than once: give every column a name of its own")
    return frame.reset_index(drop=True), where


def _read_file(path: str) -> pd.DataFrame:
    readers: dict[str, Callable[[str], pd.DataFrame]] = {
        ".csv": lambda name: _read_text(name, ","),
        ".tsv": lambda name: _read_text(name, "\t"),
        ".parquet": pd.read_parquet,
    }
    suffix = Path(name_of(path)).suffix.lower()
    if suffix not in readers:
        raise TableError(
            f"{path} is not a clinical table: expected .csv, .tsv or .parquet, got {suffix or 'no suffix'}"
        )
    try:
        with local_file(path) as local:
            return readers[suffix](str(local))
    except (OSError, ValueError, csv.Error) as error:
        raise TableError(f"{path} cannot be read as a {suffix[1:]} table ({type(error).__name__}): {error}") from error


def _read_text(path: str, delimiter: str) -> pd.DataFrame:
    # not pandas' reader: it fills short rows, renames a second column of one name and reads "None" as no value
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file, delimiter=delimiter, strict=True) if line]
    if not lines:
        raise ValueError("it is empty")
    header, *body = lines
    uneven = [row for row, cells in enumerate(body, start=1) if len(cells) != len(header)]
    if uneven:
        cells = len(body[uneven[0] - 1])
        raise ValueError(f"row {uneven[0]} under the header has {cells} cells, and the header {len(header)}")
    return pd.DataFrame(body, columns=pd.Index(header, dtype=object), dtype=object)


def require_columns(frame: pd.DataFrame, names: tuple[str, ...], where: str) -> None:
    """Refuse a table that lacks a declared column, naming those it has."""
    unknown = [name for name in names if name not in frame.columns]
    if unknown:
        raise TableError(
            f"{where} has no column {', '.join(map(repr, unknown))}: its columns are "
            f"{', '.join(map(repr, frame.columns))}. Correct the names under `columns` in the config"
        )


def text_cells(column: pd.Series, missing: tuple[str, ...]) -> list[str | None]:
    """Cells as stripped text with one spelling per whole number; None where there is no value."""
    labels = (None if gone else str(cell).strip() for cell, gone in zip(column, column.isna(), strict=True))
    return [None if label is None or is_absent(label, missing) else plain_label(label) for label in labels]


def is_absent(text: str, missing: tuple[str, ...]) -> bool:
    """Whether a cell says that there is no value: capitals do not matter, nor decimals (a gap makes 999 a 999.0)."""
    return not text or plain_label(text).casefold() in {plain_label(word).casefold() for word in missing}


def id_cells(column: pd.Series, missing: tuple[str, ...], where: str) -> tuple[str, ...]:
    """Ids, one in every row, exactly as the file spells them (whole-number floats of Parquet without decimals)."""
    spelled = column.map(str) if column.dtype.kind != "f" else pd.Series(text_cells(column, ()))
    ids = [None if gone else str(cell).strip() for cell, gone in zip(spelled, column.isna(), strict=True)]
    empty = [row for row, name in enumerate(ids, start=1) if name is None or is_absent(name, missing)]
    if empty:
        raise TableError(
            f"{where}, column {column.name!r}: expected an id in every row, none in row "
            f"{shown(list(map(str, empty)))} (the first row under the header is 1)"
        )
    return tuple(name for name in ids if name is not None)


def number_cells(
    column: pd.Series, patients: tuple[str, ...], missing: tuple[str, ...], where: str
) -> Float[np.ndarray, " patient"]:
    """Cells as float64, NaN where there is no value.

    Raises
    ------
    TableError
        If a cell is not a finite number; names its row and patient.
    """
    values = np.full(len(column), np.nan)
    for row, text in enumerate(text_cells(column, missing)):
        if text is not None:
            values[row] = _number(text, f"{where}, column {column.name!r}, row {row + 1} (patient {patients[row]})")
    return values


def _number(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    # float() reads digits grouped by underscores, which no table means
    if not np.isfinite(value) or "_" in text:
        raise TableError(
            f"{place}: expected a finite number with a decimal point, or an empty cell, got {text!r}. Correct the "
            "cell, or name the text under `columns: missing` if it stands for no value"
        )
    return value


def shown(names: list[str], most: int = 10) -> str:
    """First names of a list and how many more there are, for a message."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
