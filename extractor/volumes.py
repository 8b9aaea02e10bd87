"""Reads medical images into one orientation and resamples them; knows no unit, region meaning or network.

Every array here is z, y, x with x towards left, y towards posterior and z towards superior (LPS), whatever the file said.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name that its users know
from jaxtyping import Float32, UInt16

from extractor.image_files import check_image_file, not_finite, not_scalar
from store_schema.errors import GeometryError, ImageError

ORIGIN_STEP_MM = 2.0**-6
COSINE_STEP = SPACING_STEP_MM = 2.0**-13
"""Steps to which a geometry is digested: NIfTI keeps it in float32, other formats in float64, and turning to LPS adds up the
difference. Powers of two, since half of such a step is no short decimal: 0.00005 or 0.005 would round either way."""

MAX_EXTENT_MM = 10_000.0
"""Of an image along an axis, and of its distance from the scanner's middle: more is no patient."""
MIN_SPACING_MM = 0.1
"""Finer is no PET/CT; distances in millimetres would become thousands of voxels."""
MAX_REASON = 300
"""Characters of what ITK says that are told on."""
PERPENDICULAR_WITHIN = 1e-3
"""Greatest cosine between two axes of an image; NIfTI's float32 leaves less than 1e-6."""


@dataclass(frozen=True)
class Grid:
    """Where voxels lie in the patient: LPS millimetres."""

    size_xyz: tuple[int, int, int]
    origin_xyz_mm: tuple[float, float, float]
    """Centre of the first voxel."""
    spacing_xyz_mm: tuple[float, float, float]
    direction: tuple[float, ...]
    """Nine cosines, row-major: column j is the direction of axis j."""

    def sha256(self) -> str:
        """Digest of the geometry, the same for every file format that holds it."""
        steps = {
            "origin": [round(value / ORIGIN_STEP_MM) for value in self.origin_xyz_mm],
            "spacing": [round(value / SPACING_STEP_MM) for value in self.spacing_xyz_mm],
            "direction": [round(value / COSINE_STEP) for value in self.direction],
            "size": [int(n) for n in self.size_xyz],
        }
        return hashlib.sha256(json.dumps(steps, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Volume:
    """An image in canonical orientation."""

    array_zyx: Float32[np.ndarray, "z y x"]
    grid: Grid
    original_orientation: str
    """Orientation code of the file's own axes, such as RAS."""


@dataclass(frozen=True)
class Labels:
    """A mask or label map in canonical orientation."""

    array_zyx: UInt16[np.ndarray, "z y x"]
    grid: Grid
    original_orientation: str


def read_volume(path: str) -> Volume:
    """A CT or PET image from a NIfTI, NRRD or MetaImage file, as float32 in LPS.

    Raises
    ------
    ImageError
        If the file is missing, damaged or cut short, is not a scalar 3-D image, has voxels that are not finite, or axes that are
        not perpendicular.
    """
    image, orientation = _read_lps(path)
    # Through a view: a whole-body CT is not held a second time.
    array_zyx = sitk.GetArrayViewFromImage(image).astype(np.float32)
    unfit = int(array_zyx.size - np.isfinite(array_zyx).sum())
    if unfit:
        raise not_finite(path, unfit)
    return Volume(array_zyx, _grid(image), orientation)


def read_labels(path: str) -> Labels:
    """A mask or label map from a file, as whole numbers 0–65535 in LPS.

    Raises
    ------
    ImageError
        If the file cannot be read as in `read_volume`, or a voxel is not a whole number from 0 to 65535.
    """
    image, orientation = _read_lps(path)
    values = sitk.GetArrayViewFromImage(image)
    with np.errstate(invalid="ignore"):
        labels = values.astype(np.uint16)
    if not np.array_equal(labels, values):
        raise ImageError(f"{path} is not a mask or label map: expected whole numbers from 0 to 65535 in every voxel.")
    return Labels(labels, _grid(image), orientation)


def check_extent(grid: Grid, path: str) -> None:
    """Refuses an image whose place or spacing is no patient's.

    Raises
    ------
    ImageError
        If a number is not finite, a spacing below 0.1 mm, or the image larger than 10 m.
    """
    extent_mm = np.multiply(grid.size_xyz, grid.spacing_xyz_mm)
    numbers = (*grid.origin_xyz_mm, *grid.spacing_xyz_mm, *grid.direction)
    finite = bool(np.isfinite(numbers).all())
    if (
        not finite
        or min(grid.spacing_xyz_mm) < MIN_SPACING_MM
        or max(*extent_mm, *np.abs(grid.origin_xyz_mm)) > MAX_EXTENT_MM
    ):
        raise ImageError(
            f"{path} lies at {grid.origin_xyz_mm} mm with a spacing of {grid.spacing_xyz_mm} mm and {grid.size_xyz} voxels: "
            f"expected finite numbers, a spacing of {MIN_SPACING_MM:g} mm or more and at most {MAX_EXTENT_MM:g} mm along an axis."
        )


def turned_to_lps(array_zyx: Float32[np.ndarray, "z y x"], grid: Grid) -> Volume:
    """Voxels of an image that lies as `grid` says, in canonical orientation; its axes are perpendicular."""
    orientation = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(grid.direction)
    if orientation == "LPS":
        return Volume(array_zyx, grid, orientation)
    turned = sitk.DICOMOrient(_image(array_zyx, grid), "LPS")
    return Volume(sitk.GetArrayFromImage(turned), _grid(turned), orientation)


def resample_linear(volume: Volume, grid: Grid, *, outside: float) -> Volume:
    """The volume on another grid by linear interpolation in float; `outside` where it has no voxels.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.2: rigid resampling onto the CT grid with SimpleITK, no registration.
    """
    if volume.grid == grid:
        return volume
    image = _resampled(_image(volume.array_zyx, volume.grid), grid, sitk.sitkLinear, outside)
    return replace(volume, array_zyx=sitk.GetArrayFromImage(image), grid=grid)


def resample_nearest(labels: Labels, grid: Grid) -> Labels:
    """The labels on another grid by nearest neighbour; 0 where they have no voxels."""
    if labels.grid == grid:
        return labels
    image = _resampled(_image(labels.array_zyx, labels.grid), grid, sitk.sitkNearestNeighbor, 0)
    return replace(labels, array_zyx=sitk.GetArrayFromImage(image), grid=grid)


def coverage(of: Grid, on: Grid) -> np.ndarray:
    """Where on one grid another has voxels to interpolate between: boolean z, y, x."""
    ones = sitk.Image([int(n) for n in of.size_xyz], sitk.sitkUInt8) + 1
    _place(ones, of)
    return np.asarray(sitk.GetArrayFromImage(_resampled(ones, on, sitk.sitkNearestNeighbor, 0)), dtype=bool)


def decoded_sha256(image: Volume | Labels) -> str:
    """Digest of voxels, their kind and their place, before any resampling; the same for every file format."""
    digest = hashlib.sha256(f"{image.array_zyx.dtype.name} {image.array_zyx.shape} {image.grid.sha256()}\n".encode())
    digest.update(np.ascontiguousarray(image.array_zyx).reshape(-1).data)
    return digest.hexdigest()


def write_image(array_zyx: np.ndarray, grid: Grid, path: Path, *, compression: int = 1) -> None:
    """Writes voxels with their place; the format follows the file name."""
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.SetUseCompression(path.name.endswith((".gz", ".nrrd", ".mha")))
    writer.SetCompressionLevel(compression)
    writer.Execute(_image(array_zyx, grid))


def _read_lps(path: str) -> tuple[sitk.Image, str]:
    """The image turned to LPS, with the code of its own orientation."""
    checked = check_image_file(path)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = sitk.ReadImage(path)
    except RuntimeError as error:
        reason = " ".join(str(error).rpartition("ERROR:")[2].split())[:MAX_REASON]
        raise ImageError(f"{path} cannot be read as an image: {reason}. Expected NIfTI, NRRD or MetaImage.") from error
    checked.check_unchanged(path)
    kind = image.GetPixelIDTypeAsString()
    scalar = image.GetNumberOfComponentsPerPixel() == 1 and "complex" not in kind
    if image.GetDimension() != 3 or not scalar:
        raise not_scalar(path, f"size {image.GetSize()}, voxels are {kind}")
    if image.GetSize() != checked.sizes:
        raise ImageError(
            f"{path} has sizes that readers take in different ways: {image.GetSize()} and {checked.sizes}. Export it anew."
        )
    check_extent(_grid(image), path)
    axes = np.reshape(image.GetDirection(), (3, 3))
    if not np.allclose(axes.T @ axes, np.eye(3), atol=PERPENDICULAR_WITHIN):
        raise ImageError(
            f"{path} has axes that are not perpendicular (a tilted gantry?): resample it to an upright grid first, since distances "
            "are taken along the axes."
        )
    orientation = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    return sitk.DICOMOrient(image, "LPS"), orientation


def _grid(image: sitk.Image) -> Grid:
    return Grid(image.GetSize(), image.GetOrigin(), image.GetSpacing(), image.GetDirection())


def _image(array_zyx: np.ndarray, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array_zyx))
    _place(image, grid)
    return image


def _place(image: sitk.Image, grid: Grid) -> None:
    image.SetOrigin(grid.origin_xyz_mm)
    image.SetSpacing(grid.spacing_xyz_mm)
    image.SetDirection(grid.direction)


def _resampled(image: sitk.Image, grid: Grid, interpolator: int, outside: float) -> sitk.Image:
    try:
        return sitk.Resample(
            image,
            [int(n) for n in grid.size_xyz],
            sitk.Transform(),
            interpolator,
            grid.origin_xyz_mm,
            grid.spacing_xyz_mm,
            grid.direction,
            outside,
        )
    except RuntimeError as error:
        raise GeometryError(f"an image cannot be resampled onto another grid: {str(error).splitlines()[-1]}") from error
