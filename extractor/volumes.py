"""Reads medical images into one orientation and resamples them; knows no unit, region meaning or network.

Every array here is z, y, x with x towards left, y towards posterior and z towards superior (LPS), whatever the file said.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import struct
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name that its users know
from jaxtyping import Float32, UInt16

from store_schema.errors import GeometryError, ImageError

GEOMETRY_DECIMALS = 4
"""Origins and spacings are digested to 0.1 µm: NIfTI keeps them in float32, other formats in float64."""


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
        rounded = {
            name: [round(float(value), GEOMETRY_DECIMALS) + 0.0 for value in values]
            for name, values in asdict(self).items()
        }
        return hashlib.sha256(json.dumps(rounded, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


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
        If the file is missing, damaged or cut short, is not a scalar 3-D image, or has voxels that are not finite.
    """
    image, orientation = _read_lps(path)
    array_zyx = sitk.GetArrayFromImage(sitk.Cast(image, sitk.sitkFloat32))
    unfit = int(array_zyx.size - np.isfinite(array_zyx).sum())
    if unfit:
        raise ImageError(
            f"{path} has {unfit} voxels that are NaN or infinite: export it again or mend them before extraction."
        )
    return Volume(array_zyx, _grid(image), orientation)


def read_labels(path: str) -> Labels:
    """A mask or label map from a file, as whole numbers 0–65535 in LPS.

    Raises
    ------
    ImageError
        If the file cannot be read as in `read_volume`, or a voxel is not a whole number from 0 to 65535.
    """
    image, orientation = _read_lps(path)
    values = sitk.GetArrayFromImage(image)
    with np.errstate(invalid="ignore"):
        labels = values.astype(np.uint16)
    if not np.array_equal(labels, values):
        raise ImageError(f"{path} is not a mask or label map: expected whole numbers from 0 to 65535 in every voxel.")
    return Labels(labels, _grid(image), orientation)


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
    return np.asarray(sitk.GetArrayViewFromImage(_resampled(ones, on, sitk.sitkNearestNeighbor, 0)), dtype=bool)


def decoded_sha256(image: Volume | Labels) -> str:
    """Digest of voxels, their kind and their place, before any resampling; the same for every file format."""
    digest = hashlib.sha256(f"{image.array_zyx.dtype.name} {image.array_zyx.shape} {image.grid.sha256()}\n".encode())
    digest.update(np.ascontiguousarray(image.array_zyx).tobytes())
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
    _check_whole(path)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = sitk.ReadImage(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ImageError(f"{path} cannot be read as an image: {reason}. Expected NIfTI, NRRD or MetaImage.") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        shape = (*image.GetSize(), image.GetNumberOfComponentsPerPixel())
        raise ImageError(
            f"{path} is not one scalar 3-D image: size and components {shape}. Split series and drop channels first."
        )
    orientation = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    return sitk.DICOMOrient(image, "LPS"), orientation


def _check_whole(path: str) -> None:
    """Refuses a NIfTI file that was cut short or damaged: SimpleITK fills what is missing with zeros and says nothing.

    Raises
    ------
    ImageError
        If the file is missing, its gzip stream does not end as it should, or it is shorter than its header says.
    """
    if not Path(path).is_file():
        raise ImageError(f"{path} is not there.")
    if not path.lower().endswith((".nii", ".nii.gz")):
        return
    header, size_bytes = (_gzip_size if path.lower().endswith(".gz") else _plain_size)(path)
    expected = _nifti_size_bytes(header)
    if expected is None or size_bytes < expected:
        raise ImageError(
            f"{path} is damaged or cut short: {size_bytes} bytes of {expected or 'an unreadable header'}. Copy it again."
        )


def _plain_size(path: str) -> tuple[bytes, int]:
    with Path(path).open("rb") as file:
        return file.read(348), Path(path).stat().st_size


def _gzip_size(path: str) -> tuple[bytes, int]:
    """First bytes and length of what a gzip file holds, after its checksum was found right."""
    header, size_bytes = b"", 0
    try:
        with gzip.open(path) as file:
            while block := file.read(2**22):
                header = header or block[:348]
                size_bytes += len(block)
    except (EOFError, OSError, zlib.error) as error:
        raise ImageError(f"{path} is damaged or cut short: {error}. Copy it again.") from error
    return header, size_bytes


def _nifti_size_bytes(header: bytes) -> int | None:
    """Bytes that a NIfTI-1 file must have; None where the header is none. NIfTI-2 is left to the reader."""
    if len(header) < 348:
        return None
    order = "<" if struct.unpack_from("<i", header)[0] in {348, 540} else ">"
    if struct.unpack_from(f"{order}i", header)[0] != 348:
        return 0 if struct.unpack_from(f"{order}i", header)[0] == 540 else None
    dimensions = struct.unpack_from(f"{order}8h", header, 40)
    bits = struct.unpack_from(f"{order}h", header, 72)[0]
    offset = int(struct.unpack_from(f"{order}f", header, 108)[0])
    voxels = math.prod(max(1, int(size)) for size in dimensions[1 : dimensions[0] + 1])
    return offset + voxels * int(bits) // 8


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
        raise GeometryError(f"an image cannot be resampled onto the CT grid: {str(error).splitlines()[-1]}") from error
