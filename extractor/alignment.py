"""Says how well a PET lies on its CT, by the outlines of the body in both; registers nothing and knows no region.

The metric is the Dice overlap of two bodies on a coarse grid, within the space that both images cover: what the PET leaves out of
the CT neither helps nor hurts. Body in the CT: above −500 HU. Body in the PET: above 0.2 SUV. Each is opened by one step (6
neighbours), of which the largest connected part is kept, and holes are filled slice by slice (lungs, cold bowel). Beside it stand
the distance of the two bodies' centroids, and the mutual information of HU and SUV, which also tells something where a crop lies
within the body and no outline is in view.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage

from extractor.volumes import Grid, Volume, coverage, resample_linear

STEP_MM = 5.0
"""Of the grid on which both are compared: about a PET's voxel."""
MOST_STEPS = 256
"""Along an axis: a larger image is compared on a coarser grid."""
BODY_HU, BODY_SUV = -500.0, 0.2
RANGE_HU, RANGE_SUV = (-300.0, 700.0), (0.0, 10.0)
"""Within which mutual information looks; SUV by their square root, so that soft tissue takes more than one bin."""
BINS = 32
RELATIVE_PER_SUV = 0.1
"""Of a PET without units: the percentile inside the body is taken for SUV 10, so that 0.2 SUV is 2% of it."""
LEAST_DICE = 0.80
"""Below, an entry carries a warning. The 24 soft-tissue sarcoma studies used in tests lie between 0.87 and 0.98."""
NO_OUTLINE = 0.97
"""Where so much of the common space is body, hardly any outline is in view, and the overlap is high whatever the shift."""


@dataclass(frozen=True)
class Alignment:
    """How a PET lies on its CT. It is measured and judged; nothing is moved."""

    body_dice: float | None
    """Overlap of the two bodies, 0–1; None where one of them was not found, or hardly any outline is in view."""
    centroid_mm: float | None
    """Distance of the two bodies' centroids; None as for `body_dice`."""
    mutual_information: float
    """Of HU and SUV in the common space, 2 I / (H + H), 0–1; it has no limit, and serves to compare studies of one kind."""
    common_share: float
    """Share of the CT's field of view that the PET covers, 0–1."""
    body_share: float
    """Share of the common space that is body in the CT, 0–1."""

    @property
    def warning(self) -> str | None:
        """What is to be said of a doubtful overlap; None of a good one, and where none could be measured."""
        if self.body_dice is None or self.body_dice >= LEAST_DICE:
            return None
        return (
            f"PET and CT bodies overlap with Dice {self.body_dice:.2f} (expected {LEAST_DICE:.2f} or more), centroids "
            f"{self.centroid_mm:.0f} mm apart: check that they are registered"
        )

    def to_json(self) -> dict[str, float | None]:
        """The numbers as an entry's attributes hold them."""
        return {name: None if value is None else round(value, 6) for name, value in asdict(self).items()}


def coarse(ct: Volume) -> Volume:
    """The CT on the grid of comparison: few voxels, so that the CT itself need not be kept."""
    steps = [
        max(STEP_MM, spacing, size * spacing / MOST_STEPS)
        for size, spacing in zip(ct.grid.size_xyz, ct.grid.spacing_xyz_mm, strict=True)
    ]
    counts = [
        int((size - 1) * spacing / step) + 1
        for size, spacing, step in zip(ct.grid.size_xyz, ct.grid.spacing_xyz_mm, steps, strict=True)
    ]
    grid = Grid(
        (counts[0], counts[1], counts[2]), ct.grid.origin_xyz_mm, (steps[0], steps[1], steps[2]), ct.grid.direction
    )
    return resample_linear(ct, grid, outside=-1024.0)


def alignment(coarse_ct: Volume, pet: Volume, *, per_suv: float = 1.0) -> Alignment:
    """How the PET lies on the CT; they overlap in space.

    Parameters
    ----------
    coarse_ct
        In HU, on the grid of `coarse`.
    pet
        On any grid.
    per_suv
        The PET's value for SUV 1: 1 where it is SUV by body weight, `RELATIVE_PER_SUV` where it is in parts of its percentile.
    """
    hu, grid = coarse_ct.array_zyx, coarse_ct.grid
    suv = resample_linear(pet, grid, outside=0.0).array_zyx / np.float32(per_suv)
    common = coverage(pet.grid, grid)
    if not common.any():
        # the overlap lies between the points of the coarse grid
        return Alignment(None, None, 0.0, 0.0, 0.0)
    in_ct = body(np.where(common, hu, np.float32(-1024)), BODY_HU)
    in_pet = body(np.where(common, suv, np.float32(0)), BODY_SUV)
    body_share = float(in_ct.sum() / common.sum())
    measured = bool(in_ct.any() and in_pet.any()) and body_share < NO_OUTLINE
    return Alignment(
        body_dice=float(2 * (in_ct & in_pet).sum() / (in_ct.sum() + in_pet.sum())) if measured else None,
        centroid_mm=_apart_mm(in_ct, in_pet, grid) if measured else None,
        mutual_information=_mutual_information(hu[common], suv[common]),
        common_share=float(common.mean()),
        body_share=body_share,
    )


def body(values_zyx: Float32[np.ndarray, "z y x"], threshold: float) -> Bool[np.ndarray, "z y x"]:
    """The largest connected part above a threshold after opening, with holes filled in each slice; empty where there is none."""
    # an image that ends within the body does not end the body
    padded = np.pad(values_zyx > threshold, 1, mode="edge")
    parts, count = ndimage.label(ndimage.binary_opening(padded)[1:-1, 1:-1, 1:-1])
    if not count:
        return np.zeros(values_zyx.shape, bool)
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    filled: Bool[np.ndarray, "z y x"] = np.stack([ndimage.binary_fill_holes(plane) for plane in largest])
    return filled


def _apart_mm(one: Bool[np.ndarray, "z y x"], other: Bool[np.ndarray, "z y x"], grid: Grid) -> float:
    centres = [np.mean(np.nonzero(mask), axis=1) for mask in (one, other)]
    return float(np.linalg.norm((centres[0] - centres[1]) * grid.spacing_xyz_mm[::-1]))


def _mutual_information(hu: Float32[np.ndarray, " n"], suv: Float32[np.ndarray, " n"]) -> float:
    """2 I / (H of HU + H of SUV); 0 where both are constant."""
    pairs = np.clip(hu, *RANGE_HU), np.sqrt(np.clip(suv, *RANGE_SUV))
    counts, _, _ = np.histogram2d(*pairs, bins=BINS, range=(RANGE_HU, np.sqrt(RANGE_SUV)))
    joint = counts / counts.sum()
    apart = _entropy(joint.sum(axis=0)) + _entropy(joint.sum(axis=1))
    return max(0.0, 2 * (apart - _entropy(joint)) / apart) if apart > 0 else 0.0


def _entropy(shares: np.ndarray) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())
