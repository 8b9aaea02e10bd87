"""Takes the kept slices and boxes of a region of a prepared study, disturbed where its settings say so; knows no network."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from extractor.perturbation import Perturbation
from extractor.perturbation_kinds import PLACED
from extractor.perturbed_boxes import covered_share, jittered, left_after_drop, misplaced, padded
from extractor.prompts import kept_slices, tight_boxes
from extractor.study import PreparedStudy
from store_schema import EntryKey
from store_schema.errors import StudyError

Frames = tuple[tuple[int, ...], Int[np.ndarray, "slice 4"]]
"""Kept slices from superior to inferior, and the box on each: inclusive x0, y0, x1, y1 in native pixels."""


def frames_of(prepared: PreparedStudy, key: EntryKey, stride: int) -> Frames:
    """Kept slices and boxes of an entry.

    Raises
    ------
    MaskError, StudyError
        If the region is empty, or the perturbation would leave every slice and box as it is.
    """
    mask_zyx, perturb = prepared.masks_zyx[key.roi], prepared.perturb
    slices = kept_slices(mask_zyx, stride)
    boxes = tight_boxes(mask_zyx, slices)
    if perturb is None or not (perturb.kind == "drop" or perturb.moves_boxes_only):
        return slices, boxes
    if perturb.kind == "drop":
        left = left_after_drop(len(slices), perturb.amount, seed=f"{perturb.seed} {key}")
        frames = tuple(slices[rank] for rank in left), boxes[left]
    else:
        frames = slices, _moved(boxes, slices, prepared, key, perturb)
    if np.array_equal(frames[1], boxes):
        raise _unchanged(prepared, key, perturb, len(slices))
    return frames


def _unchanged(prepared: PreparedStudy, key: EntryKey, perturb: Perturbation, count: int) -> StudyError:
    """Of an entry that would be the undisturbed one under another name, and so would seem robust."""
    pixel = " x ".join(f"{mm:g}" for mm in prepared.grid.spacing_xyz_mm[:2])
    return StudyError(
        f"{perturb.suffix[1:]} leaves all slices and boxes of region '{key.roi}' as they are ({count} kept, pixels of {pixel} mm): "
        "the entry would seem robust. Give a larger size. A single slice cannot be left out, nor a box move that fills the image."
    )


def _moved(
    boxes: Int[np.ndarray, "slice 4"],
    slices: tuple[int, ...],
    prepared: PreparedStudy,
    key: EntryKey,
    perturb: Perturbation,
) -> Int[np.ndarray, "slice 4"]:
    """Boxes as a kind that touches nothing else moves them."""
    spacing_xy, size_xy, seed = prepared.grid.spacing_xyz_mm[:2], prepared.grid.size_xyz[:2], f"{perturb.seed} {key}"
    if perturb.kind == "padding":
        return padded(boxes, perturb.amount, spacing_xy, size_xy)
    if perturb.kind == "jitter":
        return jittered(boxes, slices, perturb.amount, spacing_xy, size_xy, seed=seed)
    placed = [
        misplaced(box, _unwanted(prepared, key.roi, z), seed=f"{seed} {z}")[0]
        for z, box in zip(slices, boxes, strict=True)
    ]
    return np.array(placed, dtype=np.int32)


def _unwanted(prepared: PreparedStudy, roi: str, z: int) -> Bool[np.ndarray, "y x"]:
    """Pixels that a misplaced box should not cover: all outside the body; for `elsewhere` the region and bones too."""
    assert prepared.surroundings is not None
    assert prepared.perturb is not None
    around = prepared.surroundings
    unwanted: Bool[np.ndarray, "y x"] = ~around.body_zyx[z]
    if prepared.perturb.kind == "elsewhere":
        unwanted |= prepared.masks_zyx[roi][z] != 0
        if around.bones_zyx is not None:
            unwanted |= around.bones_zyx[z]
    return unwanted


def told_of(prepared: PreparedStudy, roi: str, frames: Frames) -> dict[str, Any]:
    """What an entry's attributes say of its perturbation; nothing of none.

    Of misplaced boxes also the share of each that is where it should not be, 0–1: above 0 where a slice had no such place.
    """
    perturb = prepared.perturb
    if perturb is None:
        return {}
    told = perturb.told()
    if perturb.kind in PLACED:
        pairs = zip(*frames, strict=True)
        told["unwanted_share"] = [round(covered_share(box, _unwanted(prepared, roi, int(z))), 6) for z, box in pairs]
        around = prepared.surroundings
        told["bones_known"] = around is not None and around.bones_zyx is not None and not around.unknown
        told["bones_unknown"] = [] if around is None else list(around.unknown)
    return {"perturbation": told}
