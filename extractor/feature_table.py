"""Reads a table of features that another program measured: one row an entry, one column a feature; knows no image and no store.

Columns: `patient`, optionally `study`, `modality`, `roi`; every other column is a feature. A cell is a number with a decimal
point, or empty, `NaN`, `NA`, `N/A` or `null` where a feature is not known.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64

from extractor.table import read_cells
from store_schema import EntryKey, events
from store_schema.errors import InvalidKeyError, TableError
from store_schema.files import Place, without_secret
from store_schema.pseudonyms import PlainIds
from store_schema.vectors import MISSING

KEYS = ("patient", "modality", "roi")
STUDY = "study"
NOT_KNOWN = frozenset({"", "nan", "na", "n/a", "null"})
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
MAX_NAME_LENGTH = 200


@dataclass(frozen=True)
class FeatureRow:
    """One entry of the table."""

    key: EntryKey
    values: Float64[np.ndarray, " feature"]
    """As the table has them, NaN where one is not known."""
    problem: str | None = None
    """Why this row cannot be stored; None where it can."""

    @property
    def vector(self) -> Float32[np.ndarray, "1 feature 1 1"]:
        """The row as it is stored: `MISSING` for what is not known."""
        stored = np.where(np.isnan(self.values), MISSING, self.values).astype(np.float32)
        return stored.reshape(1, -1, 1, 1)


@dataclass(frozen=True)
class FeatureTable:
    """A table of features."""

    names: tuple[str, ...]
    """Of the features, sorted: the order of columns in a file means nothing."""
    rows: tuple[FeatureRow, ...]

    @property
    def missing(self) -> int:
        """How many values are not known."""
        return sum(int(np.isnan(row.values).sum()) for row in self.rows)


def read_feature_table(table: Place, ids: PlainIds, *, leave_out: Sequence[str] = ()) -> FeatureTable:
    """The rows of a CSV or Parquet table, in the table's order.

    Parameters
    ----------
    ids
        What patients are called; it takes note of every id of the table before anything is refused.
    leave_out
        Columns that are no features, such as names of files.

    Raises
    ------
    TableError
        If the table is unreadable or empty, lacks a column, or has one without any number, or an entry twice.
    InvalidKeyError
        If a patient, study, modality or ROI cannot be part of a store key, or two patients differ by case alone.
    """
    path = without_secret(table)
    frame = read_cells(path, kind="feature table")
    ids.know(patients=_cells(frame, "patient"), studies=_cells(frame, STUDY))
    names = _feature_names(frame, leave_out, path)
    _check_columns(frame, names, path)
    parsed = {name: [_parsed(str(cell)) for cell in frame[name]] for name in names}
    rows = []
    for place, record in enumerate(frame.to_dict("records")):
        key = _key(place + 2, {str(k): str(v) for k, v in record.items()}, path, ids)
        values = np.array([parsed[name][place][0] for name in names], np.float64)
        odd = [f"{name} is {parsed[name][place][1]}" for name in names if parsed[name][place][1] is not None]
        rows.append(FeatureRow(key, values, _problem(values, odd, names)))
    _check_keys(rows, path)
    return FeatureTable(names, tuple(rows))


def _cells(frame: pd.DataFrame, name: str) -> list[str]:
    return [str(cell) for cell in frame[name] if cell] if name in frame.columns else []


def _feature_names(frame: pd.DataFrame, leave_out: Sequence[str], path: str) -> tuple[str, ...]:
    lacking = [name for name in (*KEYS, *leave_out) if name not in frame.columns]
    if lacking:
        raise TableError(f"{path} lacks the column(s) {lacking}: it has {list(frame.columns)[:20]}.")
    names = sorted(str(name) for name in frame.columns if name not in {*KEYS, STUDY, *leave_out})
    odd = [name for name in names if not name or not name.isprintable() or len(name) > MAX_NAME_LENGTH]
    if odd:
        raise TableError(
            f"{path} has a column {odd[0][:80]!a}: a feature's name is 1 to {MAX_NAME_LENGTH} printable characters."
        )
    if not names:
        raise TableError(f"{path} has no feature: expected a column of numbers for each, beside {', '.join(KEYS)}.")
    return tuple(names)


def _check_columns(frame: pd.DataFrame, names: Iterable[str], path: str) -> None:
    """Refuses a table with a column of text, or a long one: a few cells that are none are their rows' problem."""
    if not len(frame):
        raise TableError(f"{path} has no rows: expected one for each entry below the header.")
    if {"feature", "value"} <= {str(name) for name in frame.columns}:
        raise TableError(
            f"{path} is a long table, with columns 'feature' and 'value': expected a column for each feature. Pivot it first, in "
            "pandas with `table.pivot(index=['patient', 'modality', 'roi'], columns='feature', values='value')`."
        )
    for name in names:
        texts = [str(cell) for cell in frame[name] if str(cell).lower() not in NOT_KNOWN]
        if texts and not any(NUMBER.fullmatch(text) for text in texts):
            raise TableError(
                f"{path}: column '{name}' holds no number, but {_shown(texts[0])}: a feature is a number with a decimal point. "
                f"Give `--leave-out {name}` if it is no feature."
            )


def _shown(cell: str) -> str:
    """The start of a cell; nothing of it where logs leave this machine, since it may be a name."""
    return "a text" if events.on() else f"{cell[:40]!a}"


def _parsed(cell: str) -> tuple[float, str | None]:
    """A number, or NaN and what is there in its place; nothing where it is known to be missing."""
    if cell.lower() in NOT_KNOWN:
        return np.nan, None
    return (float(cell), None) if NUMBER.fullmatch(cell) else (np.nan, f"{_shown(cell)}, which is no number")


def _problem(values: Float64[np.ndarray, " feature"], odd: Sequence[str], names: Sequence[str]) -> str | None:
    """Why a row cannot be stored without changing what it says."""
    if odd:
        return f"{'; '.join(odd[:3])}: leave a cell empty where a feature is not known"
    if np.isnan(values).all():
        return "no feature is known: leave the row out"
    with np.errstate(over="ignore", under="ignore"):
        stored = values.astype(np.float32)
    unfit = ~np.isnan(values) & (~np.isfinite(stored) | (np.abs(stored) == np.float32(MISSING)))
    unfit |= (values != 0) & (stored == 0)
    if unfit.any():
        place = int(np.argmax(unfit))
        return f"{names[place]} is {values[place]:g}, which float32 cannot hold: rescale it"
    return None


def _key(line: int, record: Mapping[str, str], path: str, ids: PlainIds) -> EntryKey:
    patient, study = record["patient"], record.get(STUDY)
    if not patient or study == "":
        raise InvalidKeyError(f"{path}, line {line}: there is no {'study' if patient else 'patient'}: fill every row.")
    try:
        return EntryKey(ids.key(patient, study), record["modality"], record["roi"])
    except InvalidKeyError as error:
        raise InvalidKeyError(f"{path}, line {line}: {error}") from error


def _check_keys(rows: Sequence[FeatureRow], path: str) -> None:
    counts = Counter(row.key for row in rows)
    twice = sorted(str(key) for key, count in counts.items() if count > 1)
    if twice:
        raise TableError(f"{path}: {', '.join(twice[:3])} stand(s) in more than one row: an entry is one row.")
    folded = Counter(str(key).casefold() for key in counts)
    twins = sorted(str(key) for key in counts if folded[str(key).casefold()] > 1)
    if twins:
        raise InvalidKeyError(
            f"{path}: {', '.join(twins[:4])} differ by case alone: not every file system keeps them apart."
        )
