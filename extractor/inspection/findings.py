"""What was found of a study: plain values that are printed, put into JSON or on a page; reads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["ok", "warning", "refused", "not checked"]


@dataclass(frozen=True)
class ImageFacts:
    """One file, or folder with a DICOM series, as it was read."""

    role: str
    """CT, PET, label_map, mask:ROI."""
    name: str
    """As a record of the store would call it: never a path of this machine."""
    format: str
    orientation: str
    """Of the file's own axes, such as RAS."""
    turned: bool
    """Whether its axes were turned to LPS."""
    tilt_degrees: float
    """Greatest angle between an axis and the patient's axis nearest to it, after turning."""
    size_xyz: tuple[int, int, int]
    spacing_xyz_mm: tuple[float, float, float]
    extent_xyz_mm: tuple[float, float, float]
    unit: Literal["HU", "SUV", "none", "labels"]
    unit_from: str
    """What says that the numbers are in this unit."""
    values: Mapping[str, float]
    """Of an image lowest, 1%, median, 99%, highest; of labels how many there are, their voxels and volume in ml."""
    suv: Mapping[str, Any] | None = None
    """Of a DICOM PET, what the conversion to SUV was made from."""


@dataclass(frozen=True)
class UnreadImage:
    """A file that was refused."""

    role: str
    name: str
    refusal: str


@dataclass(frozen=True)
class RegionFacts:
    """One region on the grid that the network would see."""

    roi: str
    source: Literal["mask", "label map"]
    volume_ml: float
    bearing_slices: int
    kept_slices_z: tuple[int, ...]
    """From superior to inferior."""
    boxes_xyxy: tuple[tuple[int, int, int, int], ...]
    """Inclusive voxel corners, one a kept slice."""
    key_slice_z: int
    """Kept slice with the largest area."""
    outside_pet: float | None
    """Share of the region beyond the PET; None without a PET."""
    outside_ct: float | None
    """Share of the region, on its file's grid, beyond the CT; None where a derived region's is not known: over 5% is refused."""


@dataclass(frozen=True)
class Check:
    """One statement about a study."""

    name: str
    verdict: Verdict
    said: str


@dataclass(frozen=True)
class StudyFindings:
    """All that was understood of one study."""

    patient: str
    grid: Literal["ct", "pet"]
    """Whose grid the network would see."""
    images: tuple[ImageFacts, ...] = ()
    unread: tuple[UnreadImage, ...] = ()
    overlap: Mapping[str, float] = field(default_factory=dict)
    """`pet_covers_ct`, `ct_covers_pet`: shares of voxels, 0–1."""
    alignment: Mapping[str, float | None] | None = None
    regions: tuple[RegionFacts, ...] = ()
    checks: tuple[Check, ...] = ()
    entries: tuple[str, ...] = ()
    """PATIENT/MODALITY/ROI of what a run would make, in each of `products`; empty for a refused study."""
    products: tuple[str, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether a run would refuse the study."""
        return any(check.verdict == "refused" for check in self.checks)

    @property
    def warnings(self) -> int:
        """How many checks ended in a warning."""
        return sum(check.verdict == "warning" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Everything, with the verdict first."""
        return {"verdict": "refused" if self.refused else "would be extracted", **asdict(self)}
