"""Reads what a notebook hands to an estimator, and holds it at prediction against the fit; knows no model and fits nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.sparse import issparse

from store_schema.errors import CohortError, UsageError
from trainer.stored_images import StoredImages

X = pd.DataFrame | np.ndarray | Mapping[str, Any]
"""Covariates as a frame or an array; with images a mapping: ``clinical`` to covariates, if any, each modality to its array."""

CLINICAL = "clinical"
"""Key of the covariates beside images; not a modality."""
LABELS = ("string", "boolean", "categorical", "mixed", "mixed-integer", "bytes", "empty")
"""Kinds of cells, in pandas' words, that are levels of a category; numbers kept as objects, or dates, are not."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Patients as an estimator got them, counted from 0."""

    patients: tuple[str, ...]
    frame: pd.DataFrame
    """Covariates by name, indexed by patient; without columns where there are none."""
    images: Mapping[str, np.ndarray]
    """By modality."""
    named: bool
    """Whether covariates came with names of their own: an array's are counted."""

    @property
    def stored(self) -> StoredImages | None:
        """Images as the trainer holds them; None where there are none."""
        return StoredImages(self.images) if self.images else None


@dataclass(frozen=True)
class Seen:
    """What the patients of a fit came with, and those of a prediction have to come with."""

    columns: tuple[str, ...]
    numbers: frozenset[str]
    """Columns that are continuous covariates; the others are categorical."""
    modalities: tuple[str, ...]
    named: bool

    @classmethod
    def of(cls, rows: Rows) -> Self:
        """Remember what these came with."""
        frame = rows.frame
        numbers = frozenset(name for name in frame.columns if _is_number(frame[name]))
        return cls(tuple(frame.columns), numbers, tuple(rows.images), rows.named)

    def check(self, rows: Rows) -> None:
        """Refuse patients with other columns, other kinds of cells or other images; the order does not matter.

        Raises
        ------
        UsageError
            Naming what is missing, what is new, or what has changed its kind.
        """
        if self.columns and len(rows.frame.columns) and self.named != rows.named:
            fitted, got = ("a frame", "an array") if self.named else ("an array", "a frame")
            raise UsageError(f"expected covariates as {fitted}, as in the fit, got {got}: its columns cannot be told")
        _same("covariates", self.columns, tuple(rows.frame.columns))
        _same("images", self.modalities, tuple(rows.images))
        changed = [name for name in self.columns if not self._kept_kind(rows.frame[name])]
        if changed:
            raise UsageError(
                f"{', '.join(changed)}: numbers in the fit and categories here, or the reverse. Give the columns the "
                "dtypes that they had in the fit"
            )

    def _kept_kind(self, column: pd.Series) -> bool:
        return bool(column.isna().all()) or _is_number(column) == (column.name in self.numbers)


def read_rows(given: X) -> Rows:
    """Patients of a frame, an array, or a mapping of covariates and images.

    Raises
    ------
    UsageError
        If the parts do not have the same number of rows, or covariates are neither numbers nor categories.
    """
    parts = dict(given) if isinstance(given, Mapping) else {CLINICAL: given}
    parts = {name: part for name, part in parts.items() if part is not None}
    images = {name: np.asarray(part) for name, part in parts.items() if name != CLINICAL}
    frame = None if CLINICAL not in parts else _frame(parts[CLINICAL])
    lengths = {name: len(array) for name, array in images.items()} | ({} if frame is None else {CLINICAL: len(frame)})
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise UsageError(f"expected as many rows of everything, at least one, got {lengths}")
    patients = tuple(str(row) for row in range(next(iter(lengths.values()))))
    index = pd.Index(patients, dtype=object)
    frame = pd.DataFrame(index=index) if frame is None else frame.set_axis(index, axis=0)
    return Rows(patients, frame, images, isinstance(parts.get(CLINICAL), pd.DataFrame))


def read_outcome(y: np.ndarray) -> tuple[Bool[np.ndarray, " patient"], Float[np.ndarray, " patient"]]:
    """Events and times of a structured array, whatever its fields are called.

    Raises
    ------
    UsageError
        If it is no such array, or event and time are swapped.
    CohortError
        If a time is not above 0.
    """
    fields = _fields(y)
    if "".join(dtype.kind for dtype in fields.values()) not in {"bf", "bi", "bu"} or np.ndim(y) != 1:
        got = ", ".join(f"{name}: {dtype}" for name, dtype in fields.items()) or type(y).__name__
        raise UsageError(
            "expected y as a structured array of event (boolean) and time (number), in this order, as "
            f"sksurv.util.Surv.from_arrays(event, time) makes it, got {got}"
        )
    event, time = (y[name] for name in fields)
    time = np.asarray(time, dtype=np.float64)
    wrong = ~(np.isfinite(time) & (time > 0))
    if wrong.any():
        raise CohortError(
            f"{int(wrong.sum())} of {len(time)} times are not above 0, the first in row {int(np.flatnonzero(wrong)[0])}: "
            "correct them, or leave these patients out"
        )
    return np.asarray(event), time


def _fields(y: object) -> dict[str, Any]:
    """Dtype of each field of a structured array; none of anything else."""
    dtype = getattr(y, "dtype", None)
    return {name: dtype[name] for name in getattr(dtype, "names", None) or ()} if isinstance(dtype, np.dtype) else {}


def _frame(given: object) -> pd.DataFrame:
    """Covariates under names that are text, every column a number or a category."""
    frame = given.rename(columns=str) if isinstance(given, pd.DataFrame) else _of_array(given)
    twice = sorted(set(frame.columns[frame.columns.duplicated()]))
    if twice:
        raise UsageError(f"{', '.join(twice)}: expected every column once")
    for name in frame.columns:
        _check_cells(frame[name])
    return frame


def _of_array(given: object) -> pd.DataFrame:
    if issparse(given):
        raise UsageError("expected X as a frame or a dense array, got a sparse one: OneHotEncoder(sparse_output=False)")
    array = np.asarray(given)
    if array.ndim != 2:
        raise UsageError(f"expected X as (patient, feature), got shape {array.shape}; images by modality: {{'PET': X}}")
    try:
        numbers = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"expected numbers in an array ({error}): give categories in a pandas frame") from error
    return pd.DataFrame(numbers, columns=[f"x{column}" for column in range(array.shape[1])])


def _is_number(column: pd.Series) -> bool:
    return column.dtype.kind in "fiu"


def _check_cells(column: pd.Series) -> None:
    if _is_number(column):
        if np.isinf(column.to_numpy(dtype=np.float64, na_value=np.nan)).any():
            raise UsageError(f"{column.name} holds infinite numbers: leave unknown values empty (NaN)")
        return
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind not in LABELS:
        raise UsageError(
            f"{column.name} is of dtype {column.dtype} and holds cells of kind {kind}: convert numbers by astype(float), "
            "categories by astype('category'), dates into a duration"
        )


def _same(what: str, fitted: Iterable[str], got: Iterable[str]) -> None:
    missing, new = [name for name in fitted if name not in got], [name for name in got if name not in fitted]
    if missing or new:
        told = [f"{word}: {', '.join(names)}" for word, names in (("missing", missing), ("new", new)) if names]
        raise UsageError(f"expected the {what} of the fit, in any order ({'; '.join(told)})")
