"""Fixed intensity rules from Hounsfield units and SUV to grey values; knows no volume's statistics, on purpose.

Per-volume scaling would let a bladder or an injection site set the scale of a patient's marrow.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, UInt8

from store_schema.errors import IntensityError

CT_WINDOWS_HU: Mapping[str, tuple[float, float]] = {"bone": (-500.0, 1300.0), "soft_tissue": (-160.0, 240.0)}
PET_CLIPS_SUV: Mapping[str, tuple[float, float]] = {"suv10": (0.0, 10.0), "suv20": (0.0, 20.0)}
RELATIVE_RANGE = (0.0, 1.0)
"""Of a PET without units, as parts of its percentile inside the body."""
RELATIVE_PERCENTILE = 99.5
CT_OUTSIDE_HU = -1024.0
"""Value of air outside a CT's field of view."""
PET_OUTSIDE_SUV = 0.0
SLAB_VOXELS = 2**22
"""Converted at once."""
MAX_PLAUSIBLE_SUV = 500.0
"""No uptake by body weight comes near; Bq/ml and counts lie far above."""
MAX_PLAUSIBLE_HU = 100_000.0
"""Metal lies below, and so does padding; more are voxels of another type or byte order."""


def to_uint8(values: Float32[np.ndarray, ...], *, low: float, high: float) -> UInt8[np.ndarray, ...]:
    """Grey values: `low` and below become 0, `high` and above 255, linear between, rounded half to even."""
    grey = np.empty(values.shape, np.uint8)
    # In slabs: a whole-body CT would need three more float copies at once.
    slab = max(1, SLAB_VOXELS * len(values) // max(1, values.size))
    for start in range(0, len(values), slab):
        part = np.clip(values[start : start + slab], low, high)
        part -= np.float32(low)
        part *= np.float32(255.0 / (high - low))
        grey[start : start + slab] = np.rint(part, out=part)
    return grey


def check_ct_hu(values: Float32[np.ndarray, ...], *, path: str) -> None:
    """Refuses a CT whose numbers cannot be Hounsfield units.

    Raises
    ------
    IntensityError
        If no voxel is negative: air is −1000 HU, so the rescale intercept was not applied, or it is another image; or if one is
        beyond any material.
    """
    lowest, highest = float(values.min()), float(values.max())
    if max(-lowest, highest) > MAX_PLAUSIBLE_HU:
        raise IntensityError(
            f"{path} has values from {lowest:g} to {highest:g}: a CT in Hounsfield units lies within {MAX_PLAUSIBLE_HU:g} of 0. "
            "Are its type and byte order right?"
        )
    if lowest >= 0:
        raise IntensityError(
            f"{path} has no negative value (lowest {lowest:g}): a CT in Hounsfield units has air near -1000. Apply the rescale "
            "slope and intercept, or check that this is the CT."
        )


def relative_level(values: Float32[np.ndarray, " n"], *, path: str) -> float:
    """What a PET without units is divided by: the 99.5th percentile of its voxels inside the body.

    Raises
    ------
    IntensityError
        If there is no such voxel, or the percentile is not above 0.
    """
    level = float(np.percentile(values, RELATIVE_PERCENTILE)) if values.size else 0.0
    if level <= 0:
        raise IntensityError(
            f"{path} has a {RELATIVE_PERCENTILE:g}th percentile of {level:g} in the {values.size} voxels that lie inside the body "
            "of the CT: expected above 0. Check that it is the PET of this CT."
        )
    return level


def check_pet_suv(values: Float32[np.ndarray, ...], *, path: str) -> None:
    """Refuses a PET whose numbers cannot be SUV by body weight although they were declared, or converted, as such.

    Raises
    ------
    IntensityError
        If the largest value is 0 or lies above any plausible SUV, or the lowest as far below 0.
    """
    lowest, highest = float(values.min()), float(values.max())
    if lowest < -MAX_PLAUSIBLE_SUV:
        raise IntensityError(
            f"{path} has a lowest value of {lowest:g}: no SUV, and no noise of a reconstruction, lies below "
            f"{-MAX_PLAUSIBLE_SUV:g}. Check its units, type and byte order."
        )
    if not 0 < highest <= MAX_PLAUSIBLE_SUV:
        raise IntensityError(
            f"{path} was declared as SUV, or converted by its header, and has a largest value of {highest:g}: expected more than 0 "
            f"and at most {MAX_PLAUSIBLE_SUV:g}. Bq/ml or counts must be converted with the right dose, weight and decay first."
        )
