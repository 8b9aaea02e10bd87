"""Derives the paper's two regions from a CT label map by morphology in millimetres; knows no image or network.

The paper names the regions and gives no distances: closing by 10 mm (which fills the canal) and dilation by 10 mm (which takes
in the paramedullary tissue) are ours, stand in the settings, and are part of the view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from extractor.volumes import Labels
from store_schema.errors import MaskError

TOTALSEGMENTATOR = {
    "vertebrae": tuple(range(25, 51)),
    "skeleton": (*range(25, 51), *range(69, 79), *range(91, 117)),
}
"""Labels of TotalSegmentator v2's `total` task: sacrum 25, vertebrae S1–C1 26–50, humeri, scapulae, clavicles, femora and hips
69–78, skull 91, ribs 92–115, sternum 116. The sacrum counts as spine."""
LABEL_SETS: Mapping[str, Mapping[str, tuple[int, ...]]] = {"totalsegmentator": TOTALSEGMENTATOR}


TOLERANCE_MM = 1e-3
"""Far below a voxel: spacings of 0.4 mm in float32 and in float64 must give one region, also at exact multiples."""


def derive_regions(
    labels: Labels,
    *,
    label_set: str = "totalsegmentator",
    closing_mm: float = 10.0,
    dilation_mm: float = 10.0,
    wanted: Sequence[str] = ("spine_dilated", "skeleton"),
) -> dict[str, Labels]:
    """Masks of the wanted regions on the label map's grid.

    `spine_dilated`: vertebrae and sacrum, closed, then dilated. `skeleton`: all bones, together with `spine_dilated`.

    Raises
    ------
    MaskError
        If the label map has no vertebra.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.2, names the regions; the distances are our decision.
    """
    names = LABEL_SETS[label_set]
    vertebrae = np.isin(labels.array_zyx, names["vertebrae"])
    if not vertebrae.any():
        raise MaskError(
            f"the label map has no vertebra of the {label_set} label set: labels {names['vertebrae'][:3]} … expected."
        )
    spacing_zyx_mm = labels.grid.spacing_xyz_mm[::-1]
    spine = dilated_mm(closed_mm(vertebrae, closing_mm, spacing_zyx_mm), dilation_mm, spacing_zyx_mm)
    regions = {"spine_dilated": spine, "skeleton": spine | np.isin(labels.array_zyx, names["skeleton"])}
    return {name: Labels(regions[name].astype(np.uint16), labels.grid, labels.original_orientation) for name in wanted}


def dilated_mm(
    mask_zyx: Bool[np.ndarray, "z y x"], radius_mm: float, spacing_zyx_mm: Sequence[float]
) -> Bool[np.ndarray, "z y x"]:
    """Voxels whose centre lies within `radius_mm` of the centre of a mask voxel."""
    grown = mask_zyx.copy()
    window = _window(mask_zyx, radius_mm, spacing_zyx_mm)
    grown[window] = (
        ndimage.distance_transform_edt(~mask_zyx[window], sampling=spacing_zyx_mm) <= radius_mm + TOLERANCE_MM
    )
    return grown


def closed_mm(
    mask_zyx: Bool[np.ndarray, "z y x"], radius_mm: float, spacing_zyx_mm: Sequence[float]
) -> Bool[np.ndarray, "z y x"]:
    """The mask with gaps up to twice `radius_mm` filled: dilated, then eroded; the image border eats nothing.

    Computed in a window padded by the radius, so that the dilation is not cut where the mask touches the border.
    """
    margin = [int(np.ceil(radius_mm / step)) + 1 for step in spacing_zyx_mm]
    padded = np.pad(mask_zyx, [(m, m) for m in margin])
    window = _window(padded, radius_mm + max(spacing_zyx_mm), spacing_zyx_mm)
    part = padded[window]
    dilated = ndimage.distance_transform_edt(~part, sampling=spacing_zyx_mm) <= radius_mm + TOLERANCE_MM
    padded[window] = ndimage.distance_transform_edt(dilated, sampling=spacing_zyx_mm) > radius_mm + TOLERANCE_MM
    inside = tuple(slice(m, m + n) for m, n in zip(margin, mask_zyx.shape, strict=True))
    closed: Bool[np.ndarray, "z y x"] = padded[inside] | mask_zyx
    return closed


def _window(
    mask_zyx: Bool[np.ndarray, "z y x"], margin_mm: float, spacing_zyx_mm: Sequence[float]
) -> tuple[slice, ...]:
    """Bounding box of the mask with a margin: distances outside it do not matter."""
    steps = [int(np.ceil(margin_mm / step)) + 1 for step in spacing_zyx_mm]
    (box,) = ndimage.find_objects(mask_zyx.astype(np.uint8))
    return tuple(
        slice(max(0, part.start - step), min(size, part.stop + step))
        for part, step, size in zip(box, steps, mask_zyx.shape, strict=True)
    )
