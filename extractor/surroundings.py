"""Finds where a misplaced box may lie in a study: the body, and the bones of its label maps; knows no region and no box."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from extractor.alignment import BODY_HU, body
from extractor.label_sets import LABEL_SETS, map_column
from extractor.regions import check_label_map
from extractor.volumes import Grid, Labels, Volume, coverage, decoded_sha256, read_labels, resample_nearest
from store_schema.errors import StudyError

BEYOND = "beyond the label map"


@dataclass(frozen=True)
class Surroundings:
    """Body and bones on a study's grid."""

    body_zyx: Bool[np.ndarray, "z y x"]
    """To about 5 mm, holes filled."""
    bones_zyx: Bool[np.ndarray, "z y x"] | None = None
    """None where the study has no label map."""
    unknown: tuple[str, ...] = ()
    """Where bones would not be seen: columns of label maps that the study has no file in, and what lies beyond those it has."""
    sha256: str = ""
    """Digest of both: they decide where boxes lie."""


def surroundings(coarse_ct: Volume, maps: Mapping[str, str], label_set: str, grid: Grid) -> Surroundings:
    """Body and bones of a study.

    Parameters
    ----------
    coarse_ct
        In HU, on a coarse grid.
    maps
        Label map files by part; none where bones are of no account.
    grid
        That of the study.

    Raises
    ------
    MaskError
        If a label map does not fit the set: its bones would not be the study's.
    """
    in_body = resample_nearest(_beyond(body(coarse_ct.array_zyx, BODY_HU), coarse_ct.grid), grid).array_zyx != 0
    digest, bones, covered = hashlib.sha256(in_body.tobytes()), None, np.ones(in_body.shape, bool)
    files = LABEL_SETS[label_set]
    for part in files:
        if part not in maps:
            continue
        labels = _checked(maps[part], label_set, part)
        digest.update(decoded_sha256(labels).encode())
        here = np.isin(resample_nearest(labels, grid).array_zyx, list(files[part].bones))
        bones = here if bones is None else bones | here
        covered &= coverage(labels.grid, grid)
    missing = [map_column(part) for part in files if part not in maps] if maps else []
    beyond = [BEYOND] if maps and not covered[in_body].all() else []
    return Surroundings(in_body, bones, (*missing, *beyond), digest.hexdigest())


def _checked(path: str, label_set: str, part: str) -> Labels:
    labels = read_labels(path)
    try:
        check_label_map(labels, label_set, part)
    except StudyError as error:
        raise type(error)(f"{path}: {error}") from error
    return labels


def _beyond(body_zyx: Bool[np.ndarray, "z y x"], grid: Grid) -> Labels:
    """The body with its last layers once more: the coarse grid ends up to a step before the image, and the body does not."""
    columns, rows, slices = grid.size_xyz
    longer = replace(grid, size_xyz=(columns + 1, rows + 1, slices + 1))
    return Labels(np.pad(body_zyx, (0, 1), mode="edge").astype(np.uint16), longer, "LPS")
