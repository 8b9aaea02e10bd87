"""Reads and checks the study table: which files belong to which patient; opens no image.

A row is one study. Columns: `patient`, `ct`, `pet`, optionally `study` and `label_map`, and one column per ROI mask, named
after the ROI. Paths are relative to the table's folder unless absolute.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from extractor.config import ExtractConfig
from extractor.image_files import IMAGE_SUFFIXES
from extractor.study import StudyFiles
from store_schema import check_id
from store_schema.errors import InvalidKeyError, TableError

RESERVED = ("patient", "study", "ct", "pet", "label_map")


@dataclass(frozen=True)
class StudyRow:
    """One study of the table: its id in the store and its files."""

    line: int
    """Line in the table, the header being line 1."""
    patient: str
    """Id in the store: the patient's, or `patient.study` where the table has a study column."""
    files: StudyFiles

    @property
    def paths(self) -> dict[str, str]:
        """Every file of the study by its role: CT, PET, label_map, mask:ROI."""
        named = {"CT": self.files.ct, "PET": self.files.pet, "label_map": self.files.label_map}
        masks = {f"mask:{roi}": path for roi, path in self.files.masks.items()}
        return {role: path for role, path in (named | masks).items() if path is not None}

    def missing_files(self) -> list[str]:
        """Files that are not there, each with its role."""
        return [f"{role} {path}" for role, path in self.paths.items() if not Path(path).is_file()]


def read_study_table(path: Path, config: ExtractConfig) -> list[StudyRow]:
    """The studies of a CSV or Parquet table, in the table's order.

    Raises
    ------
    TableError
        If the table is unreadable, lacks or has an unknown column, is empty, or has a patient twice without a study column.
    InvalidKeyError
        If a patient, study or ROI id cannot be part of a store key, or two ids differ by case alone.
    """
    frame = _read(path)
    rois = _roi_columns(frame, config, path)
    _check_columns(frame, config, rois, path)
    rows = [
        _row(line, {str(k): str(v) for k, v in record.items()}, rois, config, path)
        for line, record in enumerate(frame.to_dict("records"), start=2)
    ]
    if not rows:
        raise TableError(f"{path} has no studies: expected a line per study below the header.")
    _check_unique(rows, path)
    return rows


def _read(path: Path) -> pd.DataFrame:
    try:
        parquet = path.suffix == ".parquet"
        frame = pd.read_parquet(path).astype("string").fillna("") if parquet else _read_csv(path)
    except (OSError, ValueError, csv.Error) as error:
        raise TableError(f"{path} cannot be read as a study table (CSV or Parquet): {error}") from error
    stripped: pd.DataFrame = frame.apply(lambda column: column.str.strip())
    return stripped


def _read_csv(path: Path) -> pd.DataFrame:
    # not pandas' reader: of a row with a cell too many it takes the first for a label, and shifts all others
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        lines = [(reader.line_num, cells) for cells in reader if cells]
    if not lines:
        raise ValueError("it is empty")
    (_, header), *body = lines
    names = [name.strip() for name in header]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"its header names {', '.join(map(repr, twice))} more than once")
    for line, cells in body:
        if len(cells) != len(names):
            raise ValueError(f"line {line} has {len(cells)} cells, and the header {len(names)}")
    return pd.DataFrame([cells for _, cells in body], columns=pd.Index(names, dtype=object), dtype=str)


def _roi_columns(frame: pd.DataFrame, config: ExtractConfig, path: Path) -> tuple[str, ...]:
    """The mask columns in use; every column that is not reserved must hold image paths."""
    others = [str(name) for name in frame.columns if name not in RESERVED]
    for name in others:
        check_id("roi", name)
        odd = [value for value in frame[name] if value and not value.lower().endswith(IMAGE_SUFFIXES)]
        if odd:
            raise TableError(
                f"{path}: unknown column '{name}': expected {', '.join(RESERVED)}, or one column per ROI holding mask files "
                f"({', '.join(IMAGE_SUFFIXES)}); got '{odd[0]}'. Rename or remove the column."
            )
    folded = Counter(name.casefold() for name in others)
    twins = [name for name in others if folded[name.casefold()] > 1]
    if twins:
        raise InvalidKeyError(
            f"{path}: columns {', '.join(twins)} differ by case alone: not every file system keeps them apart."
        )
    unknown = [roi for roi in config.rois or () if roi not in others]
    if unknown:
        raise TableError(f"{path}: no mask column {unknown}: the settings name it in 'rois'; the table has {others}.")
    return config.rois if config.rois is not None else tuple(others)


def _check_columns(frame: pd.DataFrame, config: ExtractConfig, rois: Iterable[str], path: Path) -> None:
    needed = [
        "patient",
        "ct",
        *(["pet"] if "PET" in config.modalities else []),
        *(["label_map"] if config.derive else []),
    ]
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise TableError(f"{path} lacks the column(s) {missing}: it has {list(frame.columns)}.")
    if not (*rois, *config.derive):
        raise TableError(
            f"{path} has no ROI: add a column per mask, or a label_map column with 'derive: [spine_dilated]' in the settings."
        )
    clash = set(rois) & set(config.derive)
    if clash:
        raise TableError(f"{path}: {sorted(clash)} is both a mask column and a derived region: keep one of the two.")


def _row(line: int, record: Mapping[str, str], rois: Iterable[str], config: ExtractConfig, table: Path) -> StudyRow:
    """One checked row; a mask column left empty means that the study has no such ROI."""
    try:
        patient = check_id("patient", record["patient"])
        if "study" in record:
            if not record["study"]:
                raise TableError(
                    f"{table}, line {line}: patient '{patient}' has no study: fill the column in every row."
                )
            patient = check_id("patient", f"{patient}.{check_id('study', record['study'])}")
    except InvalidKeyError as error:
        raise InvalidKeyError(f"{table}, line {line}: {error}") from error
    for column in ("ct", *(["pet"] if "PET" in config.modalities else [])):
        if not record[column]:
            raise TableError(f"{table}, line {line}: patient '{patient}' has no {column} file.")
    masks = {roi: _resolve(record[roi], table) for roi in rois if record[roi]}
    if not masks and not config.derive:
        raise TableError(f"{table}, line {line}: patient '{patient}' has no mask: fill at least one of {list(rois)}.")
    files = StudyFiles(
        patient=patient,
        ct=_resolve(record["ct"], table),
        pet=_resolve(record["pet"], table) if "PET" in config.modalities else None,
        masks=masks,
        label_map=_resolve(record["label_map"], table) if config.derive and record["label_map"] else None,
    )
    return StudyRow(line=line, patient=patient, files=files)


def _resolve(path: str, table: Path) -> str:
    """Absolute path; a symbolic link keeps its own name, since its target's may say nothing of the format."""
    return os.path.abspath(table.parent / path)  # noqa: PTH100 - resolve() follows links


def _check_unique(rows: Iterable[StudyRow], table: Path) -> None:
    counts = Counter(row.patient for row in rows)
    twice = sorted(patient for patient, count in counts.items() if count > 1)
    if twice:
        raise TableError(
            f"{table}: {', '.join(twice[:5])} stand(s) in more than one row. Several studies of one patient need a 'study' "
            "column, which makes the key patient.study; a repeated row must be removed."
        )
    folded = Counter(patient.casefold() for patient in counts)
    twins = sorted(patient for patient in counts if folded[patient.casefold()] > 1)
    if twins:
        raise InvalidKeyError(
            f"{table}: {', '.join(twins[:6])} differ by case alone: not every file system keeps them apart."
        )
