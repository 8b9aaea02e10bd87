"""Reads and checks the study table: which files belong to which patient; opens no image.

A row is one study. Columns: `patient`, `ct`, `pet`, optionally `study` and label maps, and one column per ROI mask, named
after the ROI. `ct` and `pet` name an image file, or a folder with one DICOM series. A label map with every bone is `label_map`; a
label set in several files has `label_map_vertebrae`, `label_map_ribs` and `label_map_peripheral_bones`. Paths are relative to the
table's folder or address unless they are absolute or addresses themselves.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from extractor.config import ExtractConfig
from extractor.image_files import IMAGE_SUFFIXES
from extractor.label_sets import LABEL_SETS, PARTS, WHOLE, map_column, parts_needed
from extractor.reading import is_series
from extractor.study import StudyFiles
from store_schema import check_id
from store_schema.errors import InvalidKeyError, TableError, UsageError
from store_schema.files import Place, is_remote, local_file, name_of, record_name, resolve, without_secret
from store_schema.pseudonyms import PlainIds

MAX_REASON = 300
"""Characters of what a library says that are told on."""
UNREADABLE = (OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, OverflowError, MemoryError)
"""What pyarrow raises of a damaged Parquet file; its own errors are these."""
RESERVED = ("patient", "study", "ct", "pet", "label_map", *(map_column(part) for part in PARTS))


@dataclass(frozen=True)
class StudyRow:
    """One study of the table: its id in the store and its files."""

    line: int
    """Line in the table, the header being line 1."""
    patient: str
    """Id in the store: the patient's, or `patient.study` where the table has a study column; its pseudonym where asked for."""
    files: StudyFiles
    recorded: Mapping[str, str] = field(default_factory=dict)
    """What a commit calls each file, by place."""
    person: str = ""
    """The patient's id in the store, whichever study is meant."""

    @property
    def paths(self) -> dict[str, str]:
        """Every file of the study by its role: CT, PET, label_map (or label_map_PART), mask:ROI."""
        named = {"CT": self.files.ct, "PET": self.files.pet}
        named |= {map_column(part): path for part, path in self.files.label_maps.items()}
        masks = {f"mask:{roi}": path for roi, path in self.files.masks.items()}
        return {role: path for role, path in (named | masks).items() if path is not None}

    def record_name(self, role: str) -> str:
        """What a commit calls the file of a role."""
        place = self.paths[role]
        return self.recorded.get(place) or record_name(place)

    def missing_files(self) -> list[str]:
        """Files and folders of this machine that are not there, or are neither file nor folder, each with its role."""
        local = {role: path for role, path in self.paths.items() if not is_remote(path)}
        return [f"{role} {path}{why}" for role, path in local.items() if (why := _why_missing(Path(path))) is not None]

    @property
    def undeclared_pet(self) -> str | None:
        """The PET, if its format cannot say its units; None where it is a DICOM series, or none at all."""
        return None if self.files.pet is None or is_series(self.files.pet) else self.files.pet


def _why_missing(path: Path) -> str | None:
    """What stands in the place of a file or folder, in brackets where anything does; None where it is there."""
    if "\0" in str(path):
        return " (the path holds a NUL character)"
    try:
        if path.is_file() or path.is_dir():
            return None
        if path.exists():
            return " (a pipe, socket or device, and no file)"
    except OSError as error:
        return f" ({error.strerror}: check the path and the rights of its folders)"
    return " (a link that leads to no file)" if path.is_symlink() else ""


def read_study_table(
    table: Place,
    config: ExtractConfig,
    ids: PlainIds | None = None,
    *,
    need_regions: bool = True,
    every_map: bool = False,
) -> list[StudyRow]:
    """The studies of a CSV or Parquet table, in the table's order.

    Parameters
    ----------
    ids
        What patients are called; it takes note of every id and file of the table before anything is refused.
    need_regions
        Whether each study must have a mask, or a label map to derive one from; it need not where label maps are yet to be made.
    every_map
        Whether label maps count that no region is derived from: those that name bones.

    Raises
    ------
    TableError
        If the table is unreadable, lacks or has an unknown column, is empty, or has a patient twice without a study column.
    InvalidKeyError
        If a patient, study or ROI id cannot be part of a store key, or two ids differ by case alone.
    """
    path, ids = without_secret(table), ids or PlainIds()
    frame = read_cells(path)
    _note(frame, path, ids)
    rois = _roi_columns(frame, config, path)
    _check_columns(frame, config, path)
    if need_regions:
        _check_regions(frame, config, rois, path)
    parts = _parts(config, every_map=every_map)
    rows = [
        _row(line, {str(k): str(v) for k, v in record.items()}, rois, config, parts=parts, table=path, ids=ids)
        for line, record in enumerate(frame.to_dict("records"), start=2)
    ]
    for row in rows if need_regions else ():
        if not row.files.masks and not config.derive:
            raise TableError(
                f"{path}, line {row.line}: patient '{row.patient}' has no mask: fill at least one of {list(rois)}."
            )
    if not rows:
        raise TableError(f"{path} has no studies: expected a line per study below the header.")
    _check_unique(rows, path)
    _check_twins(frame, path)
    return rows


def with_columns(table: Place, more: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The table with these columns added or replaced, a cell a row, and its paths made absolute: for a table in another folder."""
    path = without_secret(table)
    frame = read_cells(path)
    for name in frame.columns:
        if name not in {"patient", "study"}:
            frame[name] = [resolve(cell, path) if cell and not is_remote(cell) else cell for cell in frame[name]]
    return frame.assign(**{name: list(cells) for name, cells in more.items()})


def read_cells(path: str, *, kind: str = "study table") -> pd.DataFrame:
    """Every cell of a CSV or Parquet table as text, stripped; an empty one is an empty text.

    Raises
    ------
    TableError
        If it cannot be read; `kind` says what was expected.
    """
    try:
        with local_file(path) as local:
            parquet = local.suffix == ".parquet"
            frame = pd.read_parquet(local).astype("string").fillna("") if parquet else _read_csv(local)
    except UsageError as error:
        raise TableError(str(error)) from error
    except (*UNREADABLE, csv.Error) as error:
        raise TableError(f"{path} cannot be read as a {kind} (CSV or Parquet): {str(error)[:MAX_REASON]}") from error
    stripped: pd.DataFrame = frame.apply(lambda column: column.str.strip())
    return stripped


def _note(frame: pd.DataFrame, path: str, ids: PlainIds) -> None:
    """Tells the filter what no text may hold: ids, files, and whatever stands in a column that has no business here."""
    cells = {str(name): [str(cell) for cell in frame[name] if cell] for name in frame.columns}
    ids.know(patients=cells.pop("patient", ()), studies=cells.pop("study", ()))
    for name, column in cells.items():
        images = [cell for cell in column if name in RESERVED or _is_image(cell)]
        ids.know(places=(resolve(cell, path) for cell in images), studies=set(column) - set(images))


def _is_image(cell: str) -> bool:
    return name_of(cell).lower().endswith(IMAGE_SUFFIXES)


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


def _roi_columns(frame: pd.DataFrame, config: ExtractConfig, path: str) -> tuple[str, ...]:
    """The mask columns in use; every column that is not reserved must hold image paths."""
    others = [str(name) for name in frame.columns if name not in RESERVED]
    for name in others:
        check_id("roi", name)
        odd = [without_secret(value) for value in frame[name] if value and not _is_image(value)]
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


def _check_columns(frame: pd.DataFrame, config: ExtractConfig, path: str) -> None:
    needed = [
        "patient",
        "ct",
        *(["pet"] if config.rules().reads_pet else []),
        *(map_column(part) for part in parts_needed(config.label_set, config.derive)),
    ]
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise TableError(
            f"{path} lacks the column(s) {missing}: it has {list(frame.columns)}.{_other_set(frame, config, missing)}"
        )


def _check_regions(frame: pd.DataFrame, config: ExtractConfig, rois: Iterable[str], path: str) -> None:
    if not (*rois, *config.derive):
        raise TableError(
            f"{path} has no ROI: add a column per mask, or a label_map column with 'derive: [spine_dilated]' in the settings."
        )
    clash = set(rois) & set(config.derive)
    if clash:
        raise TableError(f"{path}: {sorted(clash)} is both a mask column and a derived region: keep one of the two.")


def _other_set(frame: pd.DataFrame, config: ExtractConfig, missing: Iterable[str]) -> str:
    """What to do where the label maps of the table are not those of the declared set."""
    if not any(name.startswith(map_column(WHOLE)) for name in missing):
        return ""
    fitting = [
        name
        for name in LABEL_SETS
        if {map_column(part) for part in parts_needed(name, config.derive)} <= set(frame.columns)
    ]
    return f" 'label_set: {config.label_set}' needs them; these columns fit: {', '.join(fitting) or 'no set'}."


def _parts(config: ExtractConfig, *, every_map: bool) -> tuple[str, ...]:
    """Parts of the label set that are read where a row has them, those that regions are derived from first."""
    more = LABEL_SETS[config.label_set] if every_map or config.asks_bones else ()
    return tuple(dict.fromkeys((*parts_needed(config.label_set, config.derive), *more)))


def _row(
    line: int,
    record: Mapping[str, str],
    rois: Iterable[str],
    config: ExtractConfig,
    *,
    parts: Iterable[str],
    table: str,
    ids: PlainIds,
) -> StudyRow:
    """One checked row; a mask column left empty means that the study has no such ROI."""
    patient = _key(line, record, table, ids)
    for name in ("ct", *(["pet"] if config.rules().reads_pet else [])):
        if not record[name]:
            raise TableError(f"{table}, line {line}: patient '{patient}' has no {name} file.")
    masks = {roi: resolve(record[roi], table) for roi in rois if record[roi]}
    maps = {part: resolve(record[map_column(part)], table) for part in parts if record.get(map_column(part))}
    files = StudyFiles(
        patient=patient,
        ct=resolve(record["ct"], table),
        pet=resolve(record["pet"], table) if config.rules().reads_pet else None,
        masks=masks,
        label_map=maps.pop(WHOLE, None),
        label_parts=maps,
    )
    recorded = {place: ids.source(place) for place in files.places}
    return StudyRow(line, patient, files, recorded, ids.patient(record["patient"]))


def _key(line: int, record: Mapping[str, str], table: str, ids: PlainIds) -> str:
    """The study's PATIENT in the store."""
    patient, study = record["patient"], record.get("study")
    if not patient:
        raise InvalidKeyError(f"{table}, line {line}: there is no patient: fill the column in every row.")
    if study == "":
        raise TableError(f"{table}, line {line}: patient '{patient}' has no study: fill the column in every row.")
    try:
        return ids.key(patient, study)
    except InvalidKeyError as error:
        raise InvalidKeyError(f"{table}, line {line}: {error}") from error


def _check_unique(rows: Iterable[StudyRow], table: str) -> None:
    counts = Counter(row.patient for row in rows)
    twice = sorted(patient for patient, count in counts.items() if count > 1)
    if twice:
        raise TableError(
            f"{table}: {', '.join(twice[:5])} stand(s) in more than one row. Several studies of one patient need a 'study' "
            "column, which makes the key patient.study; a repeated row must be removed."
        )


def _check_twins(frame: pd.DataFrame, table: str) -> None:
    """Refuses ids of the table that differ by case alone, whatever the store calls them."""
    parts = [frame[name] for name in ("patient", "study") if name in frame.columns]
    names = {".".join(cells) for cells in zip(*parts, strict=True)}
    folded = Counter(name.casefold() for name in names)
    twins = sorted(name for name in names if folded[name.casefold()] > 1)
    if twins:
        raise InvalidKeyError(
            f"{table}: {', '.join(twins[:6])} differ by case alone: not every file system keeps them apart."
        )
