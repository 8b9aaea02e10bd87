"""Reads each file of a study for itself and says what it holds; knows no other file and no prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extractor.dicom.suv import SuvScale
from extractor.inspection.findings import ImageFacts, UnreadImage
from extractor.reading import read_ct, read_pet_and_scale
from extractor.study import StudyFiles
from extractor.volumes import Grid, Labels, Volume, coverage, read_labels
from store_schema.errors import EngramError

FORMATS = {
    ".nii.gz": "NIfTI, compressed",
    ".nii": "NIfTI",
    ".nrrd": "NRRD",
    ".nhdr": "NRRD with a detached header",
    ".mha": "MetaImage",
    ".mhd": "MetaImage with a detached header",
}
SAMPLE_VOXELS = 2_000_000
"""Percentiles are taken of no more than so many voxels, evenly spread."""
Clean = Callable[[str], str]
"""Takes what must not be shown out of a text."""


@dataclass(frozen=True)
class ReadFiles:
    """What is kept of the files of a study: facts, refusals and grids, no voxels."""

    images: tuple[ImageFacts, ...]
    unread: tuple[UnreadImage, ...]
    grids: Mapping[str, Grid]
    """By role."""
    outside_ct: Mapping[str, float | None]
    """Share of each mask's voxels beyond the CT, by ROI; that of the label map is 0 where it lies within, else not known."""


def read_files(files: StudyFiles, *, names: Mapping[str, str], declared: str | None, clean: Clean) -> ReadFiles:
    """Every file of the study, one after the other; one that is refused keeps no other from being read.

    Parameters
    ----------
    names
        What each file is called, by role.
    declared
        Units that the settings declare for PETs whose format cannot say them.
    """
    reading = _Reading(names, clean)
    reading.look("CT", lambda: _ct(files.ct))
    pet = files.pet
    if pet is not None:
        reading.look("PET", lambda: _pet(pet, declared))
    for role, place in _label_files(files).items():
        reading.look(role, lambda place=place: _labels(place, reading.grids.get("CT")))  # type: ignore[misc]
    return reading.done()


def _label_files(files: StudyFiles) -> dict[str, str]:
    masks = {f"mask:{roi}": place for roi, place in files.masks.items()}
    return masks if files.label_map is None else masks | {"label_map": files.label_map}


@dataclass(frozen=True)
class _Seen:
    """One file that was read."""

    image: Volume | Labels
    place: str
    facts: Mapping[str, Any]
    """What differs between kinds of images."""
    outside_ct: float | None = None


class _Reading:
    """Collects what is read."""

    def __init__(self, names: Mapping[str, str], clean: Clean) -> None:
        self.names, self.clean = names, clean
        self.images: list[ImageFacts] = []
        self.unread: list[UnreadImage] = []
        self.grids: dict[str, Grid] = {}
        self.outside_ct: dict[str, float | None] = {}

    def look(self, role: str, read: Callable[[], _Seen]) -> None:
        """Takes note of one file, or of why it was refused."""
        try:
            seen = read()
        except (EngramError, OSError) as error:
            self.unread.append(UnreadImage(role, self.names[role], self.clean(f"{type(error).__name__}: {error}")))
            return
        self.grids[role] = seen.image.grid
        self.outside_ct[role.removeprefix("mask:")] = seen.outside_ct
        self.images.append(_facts(role, self.names[role], seen))

    def done(self) -> ReadFiles:
        return ReadFiles(tuple(self.images), tuple(self.unread), self.grids, self.outside_ct)


def _ct(place: str) -> _Seen:
    ct = read_ct(place)
    return _Seen(ct, place, {"unit": "HU", "unit_from": _hu_from(place), "values": spread(ct.array_zyx)})


def _hu_from(place: str) -> str:
    if Path(place).is_dir():
        return "each slice's rescale slope and intercept"
    return "taken for HU: the format cannot say, and the lowest value is negative, as air's"


def _pet(place: str, declared: str | None) -> _Seen:
    pet, scale = read_pet_and_scale(place, declared=declared)
    said = f"declared: pet_units: {declared}" if scale is None else f"the header: {scale.units}, {_rule(scale)}"
    facts = {"unit": "none" if declared == "relative" else "SUV", "unit_from": said, "values": spread(pet.array_zyx)}
    return _Seen(pet, place, facts | {"suv": None if scale is None else asdict(scale)})


def _rule(scale: SuvScale) -> str:
    """How a rescaled value became SUV, in one line."""
    if scale.injected_at is None and scale.elapsed_s is None and scale.units == "GML":
        return "SUV by body weight already"
    return f"× {scale.factor:.6g} (decay counted to: {scale.reference})"


def _labels(place: str, ct: Grid | None) -> _Seen:
    labels = read_labels(place)
    inside = labels.array_zyx != 0
    voxel_ml = float(np.prod(labels.grid.spacing_xyz_mm)) / 1000
    count = int(np.count_nonzero(inside))
    kinds = int(np.count_nonzero(np.bincount(labels.array_zyx.reshape(-1))[1:]))
    values = {"labels": kinds, "voxels": count, "volume_ml": count * voxel_ml}
    facts = {"unit": "labels", "unit_from": "whole numbers", "values": values}
    return _Seen(labels, place, facts, _outside(inside, labels.grid, ct))


def _outside(inside: np.ndarray, own: Grid, ct: Grid | None) -> float | None:
    """Share of the voxels that are not 0 beyond the CT; None where there is no CT, or nothing to count."""
    if ct is None or not inside.any():
        return None
    return 0.0 if own == ct else 1.0 - float(coverage(ct, own)[inside].mean())


def spread(values: np.ndarray) -> dict[str, float]:
    """Lowest and highest value, and percentiles of voxels spread evenly over the image."""
    flat = values.reshape(-1)
    some = np.percentile(flat[:: max(1, flat.size // SAMPLE_VOXELS)], (1, 50, 99))
    low, middle, high = (float(value) for value in some)
    return {"lowest": float(flat.min()), "p01": low, "median": middle, "p99": high, "highest": float(flat.max())}


def _facts(role: str, name: str, seen: _Seen) -> ImageFacts:
    grid = seen.image.grid
    extent = [size * mm for size, mm in zip(grid.size_xyz, grid.spacing_xyz_mm, strict=True)]
    return ImageFacts(
        role=role,
        name=name,
        format=format_of(seen.place, grid),
        orientation=seen.image.original_orientation,
        turned=seen.image.original_orientation != "LPS",
        tilt_degrees=tilt_degrees(grid),
        size_xyz=(int(grid.size_xyz[0]), int(grid.size_xyz[1]), int(grid.size_xyz[2])),
        spacing_xyz_mm=grid.spacing_xyz_mm,
        extent_xyz_mm=(extent[0], extent[1], extent[2]),
        **seen.facts,
    )


def format_of(place: str, grid: Grid) -> str:
    """What kind of file a place is."""
    if Path(place).is_dir():
        return f"DICOM series, {grid.size_xyz[2]} slices"
    lower = place.lower()
    return next((said for suffix, said in FORMATS.items() if lower.endswith(suffix)), "image file")


def tilt_degrees(grid: Grid) -> float:
    """Greatest angle between an axis of the image and the patient's axis that it was turned to."""
    cosines = np.abs(np.diag(np.reshape(grid.direction, (3, 3))))
    return float(np.degrees(np.arccos(np.clip(cosines, 0, 1))).max())
