"""Moves the boundary of a region by millimetres, and flattens an image; knows no box, file or network."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from extractor.morphology import dilated_mm
from extractor.perturbation import Perturbation
from extractor.perturbation_kinds import BOUNDARIES
from store_schema.errors import StudyError

Mask = UInt8[np.ndarray, "z y x"]
Spacing = tuple[float, float, float]


def perturbed_mask(mask_zyx: Mask, perturb: Perturbation, spacing_xyz_mm: Spacing, *, roi: str) -> Mask:
    """The region with its boundary moved, where the perturbation does that; else as it is.

    Distances are those between voxel centres: grown by the voxels within `size` mm of one of the region, shrunk by those within
    `size` mm of one outside it. What lies beyond the image shrinks nothing.

    Raises
    ------
    StudyError
        If nothing is left of it, or no voxel changes: the size is then below the spacing.
    """
    if perturb.kind not in BOUNDARIES:
        return mask_zyx
    inside, spacing_zyx = mask_zyx != 0, spacing_xyz_mm[::-1]
    if perturb.kind == "dilate":
        moved = dilated_mm(inside, perturb.amount, spacing_zyx)
    else:
        moved = inside & ~dilated_mm(~inside, perturb.amount, spacing_zyx)
    if not moved.any():
        raise StudyError(f"region '{roi}' is gone when eroded by {perturb.amount:g} mm: erode less, or leave it out.")
    if np.array_equal(moved, inside):
        raise StudyError(
            f"region '{roi}' stays as it is with {perturb.kind} by {perturb.amount:g} mm on voxels of "
            f"{' x '.join(f'{mm:g}' for mm in spacing_xyz_mm)} mm: give the least of these or more."
        )
    return moved.astype(np.uint8)


def perturbed_image(image_zyx: UInt8[np.ndarray, "z y x"], perturb: Perturbation) -> UInt8[np.ndarray, "z y x"]:
    """Every voxel at the mean grey value of the volume, where the perturbation says so; else the image as it is."""
    if perturb.kind != "constant":
        return image_zyx
    return np.full_like(image_zyx, round(float(image_zyx.mean())))
