"""Finds the studies that a person wants looked at: a table, a folder, or single files; reads no voxel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from extractor.config import ExtractConfig
from extractor.image_files import IMAGE_SUFFIXES
from extractor.study import StudyFiles
from extractor.table import StudyRow, read_study_table
from store_schema import check_id
from store_schema.errors import UsageError
from store_schema.files import is_remote
from store_schema.pseudonyms import PlainIds

NAMED = {"ct": "ct", "pet": "pet", "pt": "pet", "label_map": "label_map", "labels": "label_map"}
"""What a file or folder of a study's folder is, by its name without suffix, in small letters; any other image is a mask."""


@dataclass(frozen=True)
class Single:
    """One study given by its files."""

    ct: str | None = None
    pet: str | None = None
    masks: Mapping[str, str] = field(default_factory=dict)
    label_map: str | None = None
    patient: str | None = None


def chosen(
    place: str | None, single: Single, config: ExtractConfig, ids: PlainIds
) -> tuple[list[StudyRow], ExtractConfig]:
    """The studies, and the settings as they fit them: a single study without a PET is a CT alone.

    Parameters
    ----------
    place
        A study table, or a folder with one study; None where the files are given one by one.

    Raises
    ------
    UsageError
        If neither or both were given, or a folder does not say which file is the CT.
    """
    if (place is None) == (single.ct is None):
        raise UsageError(
            "name a study table or a study's folder, or give --ct (with --pet, --mask, --label-map); not both."
        )
    if place is not None and not (Path(place).is_dir() and not is_remote(place)):
        rows = read_study_table(place, config, ids)
        return _of_patient(rows, single.patient, place, ids), config
    if place is not None:
        single = _in_folder(Path(place), single.patient)
    return _one(single, config, ids)


def _of_patient(rows: Sequence[StudyRow], patient: str | None, table: str, ids: PlainIds) -> list[StudyRow]:
    if patient is None:
        return list(rows)
    wanted = {patient, ids.name(patient)}
    found = [row for row in rows if row.patient in wanted or row.patient.startswith(f"{ids.name(patient)}.")]
    if not found:
        raise UsageError(f"{table} has no patient '{patient}': expected one of its {len(rows)} studies.")
    return found


def _in_folder(folder: Path, patient: str | None) -> Single:
    """A study whose folder holds `ct`, `pet`, `label_map` and masks, by the names of files and of folders with a series."""
    found: dict[str, str] = {}
    masks: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        stem = _stem(path)
        if stem is None:
            continue
        role = NAMED.get(stem.lower())
        if role in found:
            raise UsageError(
                f"{folder} has two files that could be the {role}: give them by --ct, --pet, --label-map and --mask."
            )
        if role is not None:
            found[role] = str(path)
        elif path.is_file():
            masks[stem] = str(path)
    if "ct" not in found:
        raise UsageError(
            f"{folder} has no CT: expected ct{IMAGE_SUFFIXES[0]} or a folder ct with a DICOM series, pet likewise, and masks named "
            "after their regions. Or give --ct, --pet and --mask."
        )
    return Single(found["ct"], found.get("pet"), masks, found.get("label_map"), patient or folder.resolve().name)


def _stem(path: Path) -> str | None:
    """Name without the suffix of an image file, or of a folder; None of anything else."""
    if path.is_dir():
        return path.name
    return next(
        (
            path.name[: -len(end)]
            for end in sorted(IMAGE_SUFFIXES, key=len, reverse=True)
            if path.name.lower().endswith(end)
        ),
        None,
    )


def _one(single: Single, config: ExtractConfig, ids: PlainIds) -> tuple[list[StudyRow], ExtractConfig]:
    assert single.ct is not None
    if single.pet is None:
        config = config.model_copy(update={"modalities": ("CT",), "grid": "ct"})
    if single.label_map is None:
        config = config.model_copy(update={"derive": ()})
    patient = single.patient or "study"
    for roi in single.masks:
        check_id("roi", roi)
    files = StudyFiles("", single.ct, single.pet, single.masks, single.label_map)
    ids.know(patients=[patient], places=files.places)
    key = ids.key(patient)
    named = StudyFiles(key, single.ct, single.pet, single.masks, single.label_map)
    return [StudyRow(1, key, named, {place: ids.source(place) for place in named.places})], config
