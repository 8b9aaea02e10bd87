"""Finds where a misplaced box may lie in a study: the body, and the bones of its label maps; knows no region and no box."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from extractor.alignment import BODY_HU, body
from extractor.label_sets import LABEL_SETS
from extractor.volumes import Grid, Labels, Volume, decoded_sha256, read_labels, resample_nearest


@dataclass(frozen=True)
class Surroundings:
    """Body and bones on a study's grid."""

    body_zyx: Bool[np.ndarray, "z y x"]
    """To about 5 mm, holes filled."""
    bones_zyx: Bool[np.ndarray, "z y x"] | None = None
    """None where the study has no label map."""
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
    """
    in_body = resample_nearest(_beyond(body(coarse_ct.array_zyx, BODY_HU), coarse_ct.grid), grid).array_zyx != 0
    digest, bones = hashlib.sha256(in_body.tobytes()), None
    for part, file in LABEL_SETS[label_set].items():
        if part not in maps:
            continue
        labels = read_labels(maps[part])
        digest.update(decoded_sha256(labels).encode())
        here = np.isin(resample_nearest(labels, grid).array_zyx, list(file.bones))
        bones = here if bones is None else bones | here
    return Surroundings(in_body, bones, digest.hexdigest())


def _beyond(body_zyx: Bool[np.ndarray, "z y x"], grid: Grid) -> Labels:
    """The body with its last layers once more: the coarse grid ends up to a step before the image, and the body does not."""
    columns, rows, slices = grid.size_xyz
    longer = replace(grid, size_xyz=(columns + 1, rows + 1, slices + 1))
    return Labels(np.pad(body_zyx, (0, 1), mode="edge").astype(np.uint16), longer, "LPS")
