"""Reads which bones lie where in a study, and how far its label maps can tell; knows no patch, network or store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt16

from extractor.label_sets import LABEL_SETS, map_column
from extractor.regions import check_label_map
from extractor.volumes import Grid, coverage, read_labels, resample_nearest
from store_schema.errors import StudyError
from store_schema.records import canonical_json


@dataclass(frozen=True)
class Bones:
    """Bones on a study's grid, and what of it the label maps say nothing about."""

    labels_zyx: UInt16[np.ndarray, "z y x"]
    names: Mapping[int, str]
    """Of the labels that are bones, by the numbers used here."""
    covered_zyx: Bool[np.ndarray, "z y x"]
    """Where every label map that was read has voxels."""
    known: tuple[str, ...]
    """Columns of the label maps that were read."""
    missing: tuple[str, ...]
    """Columns of the label set that the study has no file in: their bones are not known."""

    @property
    def sha256(self) -> str:
        """Digest of all that it says."""
        told = {"names": [[label, name] for label, name in sorted(self.names.items())], **self.told()}
        digest = hashlib.sha256(canonical_json(told))
        digest.update(np.ascontiguousarray(self.labels_zyx).tobytes())
        digest.update(np.packbits(self.covered_zyx).tobytes())
        return digest.hexdigest()

    def told(self) -> dict[str, Any]:
        """What an entry says of the label maps."""
        return {"known": list(self.known), "missing": list(self.missing)}


def read_bones(maps: Mapping[str, str], label_set: str, grid: Grid) -> Bones | None:
    """Bones of a study's label maps on its grid; None without one.

    Parameters
    ----------
    maps
        Label map files by part.
    label_set
        What made them.

    Raises
    ------
    MaskError
        If a label map does not fit the set: its bones would bear other names.
    ImageError
        If a file cannot be read.
    """
    files = {part: file for part, file in LABEL_SETS[label_set].items() if part in maps}
    if not files:
        return None
    shape = tuple(reversed(grid.size_xyz))
    joined, covered, names = np.zeros(shape, np.uint16), np.ones(shape, bool), dict[int, str]()
    for part, file in files.items():
        labels = read_labels(maps[part])
        try:
            check_label_map(labels, label_set, part)
        except StudyError as error:
            raise type(error)(f"{maps[part]}: {error}") from error
        found, offset = resample_nearest(labels, grid).array_zyx, max(names, default=0)
        for label, name in file.bones.items():
            joined[found == label] = offset + label
            names[offset + label] = name
        covered &= coverage(labels.grid, grid)
    missing = tuple(map_column(part) for part in LABEL_SETS[label_set] if part not in files)
    return Bones(joined, names, covered, tuple(map(map_column, files)), missing)
