"""Measures radiomics features of studies in their own units, as a table that `importing` takes; knows mirp and no store.

The features are the IBSI's as mirp computes them. Grey values play no part here: CT stays in Hounsfield units, PET in SUV.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from jaxtyping import UInt8
from rich.console import Console

from extractor.config import ExtractConfig
from extractor.feature_table import KEYS, STUDY
from extractor.fetch import fetched
from extractor.intensity import PET_OUTSIDE_SUV
from extractor.reading import read_ct, read_pet
from extractor.study import StudyFiles, prepare_study
from extractor.table import StudyRow, read_study_table
from extractor.volumes import Volume, resample_linear, write_image
from store_schema import events
from store_schema.errors import EngramError, StudyError, TableError, UsageError
from store_schema.files import Place
from store_schema.pseudonyms import PlainIds

SPACING_MM = 2.0
BIN_WIDTHS: Mapping[str, float] = {"CT": 25.0, "PET": 0.25}
"""Width of a bin in HU or SUV; bins begin at -1000 HU and at 0 SUV."""
MIRP_MODALITIES: Mapping[str, str] = {"CT": "ct", "PET": "pt"}
FAMILIES = ("morphology", "statistics", "cm", "rlm", "szm", "ngtdm")
"""Shape, first order, GLCM, GLRLM, GLSZM, NGTDM as mirp calls them."""
FEATURE = re.compile(r"(morph|stat|cm|rlm|szm|ngt)_\w")
WIDTH = re.compile(r"_w\d+(\.\d+)?$")
"""End of a feature's name that says the width of its bins: one name for CT and PET, whose widths are in the settings."""
SETTINGS: Mapping[str, str] = {
    "software": "mirp",
    "spacing_mm": f"{SPACING_MM:g}",
    "bin_hu": f"{BIN_WIDTHS['CT']:g}",
    "bin_suv": f"{BIN_WIDTHS['PET']:g}",
    "families": ",".join(FAMILIES),
}
"""What a view of these features should say of them."""

Features = Mapping[str, float]
"""Value by feature; NaN where one is not defined."""
Measure = Callable[[Volume, UInt8[np.ndarray, "z y x"], str], Features]
"""Takes an image in HU or SUV, a mask on its grid, and the modality."""


@dataclass(frozen=True)
class RadiomicsReport:
    """What became of the entries of a table."""

    measured: int
    held: int
    """Were in the table before."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Reason by patient, or by patient/modality/roi."""


def mirp_measure() -> Measure:
    """Measures with mirp.

    Raises
    ------
    UsageError
        If mirp is not installed.
    """
    try:
        from mirp import extract_features  # noqa: PLC0415 - an optional extra of 2 GB
    except ImportError as error:
        raise UsageError(
            f"radiomics needs mirp, which is not installed ({error}): `pip install 'engram[extractor,radiomics]'` (about 2 GB). "
            "A table that another program measured needs none: `extractor import-features`."
        ) from error
    extract = cast("Callable[..., list[Any]]", extract_features)
    return lambda image, mask, modality: _measured(extract, image, mask, modality)


def _measured(
    extract: Callable[..., list[Any]], image: Volume, mask_zyx: UInt8[np.ndarray, "z y x"], modality: str
) -> Features:
    """The features of one region by mirp, which reads image and mask from files."""
    with TemporaryDirectory(prefix="engram-radiomics-") as folder:
        paths = Path(folder) / "image.nii.gz", Path(folder) / "mask.nii.gz"
        write_image(image.array_zyx, image.grid, paths[0])
        write_image(mask_zyx, image.grid, paths[1])
        tables = extract(
            write_features=False,
            export_features=True,
            image=str(paths[0]),
            mask=str(paths[1]),
            image_modality=MIRP_MODALITIES[modality],
            by_slice=False,
            new_spacing=SPACING_MM,
            base_discretisation_method="fixed_bin_size",
            base_discretisation_bin_width=BIN_WIDTHS[modality],
            base_feature_families=list(FAMILIES),
        )
    if len(tables) != 1 or len(tables[0]) != 1:
        raise StudyError(f"mirp gave {len(tables)} tables of features for one region: expected one with one row.")
    return named(tables[0].iloc[0].to_dict())


def named(row: Mapping[str, object]) -> Features:
    """The features in a row of mirp's table, without what it says of files and settings."""
    found = {WIDTH.sub("", name): value for name, value in row.items() if FEATURE.match(name)}
    return {name: float(cast("float", value)) if value is not None else np.nan for name, value in found.items()}


def measure_study(
    files: StudyFiles,
    config: ExtractConfig,
    rois: Sequence[str],
    *,
    wanted: Callable[[str, str], bool],
    measure: Measure,
) -> Iterator[tuple[str, str, Features | EngramError]]:
    """Modality, ROI and features of each wanted entry of a study, or why there are none.

    Regions, checks and grids are those of an extraction; the images are then read once more, in their units.

    Raises
    ------
    StudyError
        If the study cannot be read or is refused by a check.
    """
    masks, grid = _regions(files, config)
    for modality in config.modalities:
        mine = [roi for roi in rois if wanted(modality, roi)]
        if not mine:
            continue
        if modality == "CT":
            image = read_ct(files.ct)
        else:
            assert files.pet is not None
            pet = read_pet(files.pet, declared=config.pet_units)
            image = resample_linear(pet, grid, outside=PET_OUTSIDE_SUV)
        for roi in mine:
            yield modality, roi, _tried(measure, image, masks[roi], modality)


def _regions(files: StudyFiles, config: ExtractConfig) -> tuple[Mapping[str, UInt8[np.ndarray, "z y x"]], Any]:
    prepared = prepare_study(files, config.rules())
    return prepared.masks_zyx, prepared.grid


def _tried(
    measure: Measure, image: Volume, mask_zyx: UInt8[np.ndarray, "z y x"], modality: str
) -> Features | EngramError:
    try:
        return measure(image, mask_zyx, modality)
    except EngramError as error:
        return error
    except (ValueError, TypeError, IndexError, RuntimeError, ArithmeticError, OSError) as error:
        # A region that is too small for a texture raises one or the other in mirp.
        return StudyError(f"its features cannot be measured: {type(error).__name__}: {error}")


class _Ids(PlainIds):
    """Plain ids that remember what a key was made of: the table has patient and study apart, as the study table has them."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, tuple[str, str]] = {}

    def key(self, patient: str, study: str | None = None) -> str:
        """See `PlainIds.key`."""
        name = super().key(patient, study)
        self.parts[name] = patient, study or ""
        return name


def measure_table(
    studies: Place,
    out: Path,
    config: ExtractConfig,
    *,
    measure: Measure,
    console: Console,
    resume: bool = False,
) -> RadiomicsReport:
    """Measures what the table at `out` does not hold yet, and writes it anew after each study.

    Raises
    ------
    UsageError
        If the study table is wrong, or `out` exists and is not to be resumed, or holds another table.
    """
    if config.relative and "PET" in config.modalities:
        raise UsageError(
            "pet_units is 'relative': bins of 0.25 SUV mean nothing there. Set 'modalities: [CT]', or give PETs in SUV."
        )
    if out.exists() and not resume:
        raise UsageError(
            f"{out} exists. Its rows do not say of which images and settings they are: give --resume if nothing changed since they "
            "were measured, else delete it or give another --out."
        )
    held = read_features(out) if out.exists() else {}
    before, failed = len(held), dict[str, str]()
    ids = _Ids()
    rows = read_study_table(studies, config, ids)
    for number, row in enumerate(rows, start=1):
        new = _measure_row(row, ids.parts[row.patient], config, held=held, measure=measure)
        failed |= {item: ids.clean(reason) for item, reason in new.items()}
        if len(held) > before:
            write_features(held, out)
        if events.on():
            for reason, items in Counter(map(ids.logged, new.values())).items():
                events.tell("failure", level="error", line=row.line, items=items, message=reason)
            events.tell("study", line=row.line, done=number, studies=len(rows), failed=len(failed))
        else:
            console.print(f"[{number}/{len(rows)}] {row.patient}", markup=False)
    return RadiomicsReport(len(held) - before, before, failed)


Key = tuple[str, str, str, str]
"""Patient, study (empty where the table has none), modality, ROI."""
COLUMNS = ("patient", STUDY, "modality", "roi")


def _measure_row(
    row: StudyRow,
    who: tuple[str, str],
    config: ExtractConfig,
    *,
    held: dict[Key, Features],
    measure: Measure,
) -> dict[str, str]:
    """What failed of a study, and why."""
    failed: dict[str, str] = {}
    rois = (*row.files.masks, *config.derive)

    def wanted(modality: str, roi: str) -> bool:
        return (*who, modality, roi) not in held

    if not any(wanted(modality, roi) for modality in config.modalities for roi in rois):
        return failed
    try:
        with fetched(row.files) as files:
            for modality, roi, found in measure_study(files, config, rois, wanted=wanted, measure=measure):
                if isinstance(found, EngramError):
                    failed[f"{row.patient}/{modality}/{roi}"] = f"{type(found).__name__}: {found}"
                else:
                    held[*who, modality, roi] = found
    except (EngramError, OSError) as error:
        failed[row.patient] = f"{type(error).__name__}: {error}"
    return failed


def read_features(path: Path) -> dict[Key, Features]:
    """The table that an earlier run wrote.

    Raises
    ------
    TableError
        If it is no such table.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        if not set(KEYS) <= set(reader.fieldnames or ()):
            raise TableError(f"{path} is not a table of features: expected {', '.join(KEYS)}. Give another --out.")
        return {
            (line["patient"], line.get(STUDY, ""), line["modality"], line["roi"]): {
                name: float(value) if value else np.nan for name, value in line.items() if name not in COLUMNS
            }
            for line in reader
        }


def write_features(held: Mapping[Key, Features], path: Path) -> None:
    """Writes the table whole, under another name first; what is not defined is an empty cell, never a number."""
    names = list(dict.fromkeys(name for features in held.values() for name in features))
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        columns = [place for place, name in enumerate(COLUMNS) if name != STUDY or any(key[place] for key in held)]
        writer.writerow([*(COLUMNS[place] for place in columns), *names])
        for key, features in held.items():
            cells = [_cell(features.get(name, np.nan)) for name in names]
            writer.writerow([*(key[place] for place in columns), *cells])
    temporary.replace(path)


def _cell(value: float) -> str:
    return repr(float(value)) if np.isfinite(value) else ""
