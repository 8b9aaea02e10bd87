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
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name that its users know
from jaxtyping import Float32, UInt16

from store_schema.errors import GeometryError, ImageError

GEOMETRY_DECIMALS = 4
"""Origins and spacings are digested to 0.1 µm: NIfTI keeps them in float32, other formats in float64."""

NIFTI_HEADER_BYTES = 348
SCAN_BYTES = 2**22
"""Read at once while a file is checked."""


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
class NiftiHeader:
    """What of a NIfTI-1 header tells how long the file must be."""

    offset_bytes: int
    """Where the voxels begin."""
    data_bytes: int
    """How long they are."""
    float_type: np.dtype[np.floating] | None
    """Type of the voxels where it can hold NaN."""

    @classmethod
    def parse(cls, data: bytes) -> NiftiHeader | None:
        """The header in the first 348 bytes; None where there is none."""
        if len(data) < NIFTI_HEADER_BYTES:
            return None
        order = "<" if struct.unpack_from("<i", data)[0] == NIFTI_HEADER_BYTES else ">"
        if struct.unpack_from(f"{order}i", data)[0] != NIFTI_HEADER_BYTES:
            return None
        dimensions = struct.unpack_from(f"{order}8h", data, 40)
        kind, bits = struct.unpack_from(f"{order}2h", data, 70)
        offset = max(NIFTI_HEADER_BYTES, int(struct.unpack_from(f"{order}f", data, 108)[0]))
        voxels = math.prod(max(1, int(size)) for size in dimensions[1 : dimensions[0] + 1])
        floats = {16: np.dtype(f"{order}f4"), 64: np.dtype(f"{order}f8")}
        return cls(offset, voxels * int(bits) // 8, floats.get(kind))


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
        raise _not_finite(path, unfit)
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
    return np.asarray(sitk.GetArrayFromImage(_resampled(ones, on, sitk.sitkNearestNeighbor, 0)), dtype=bool)


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
    _check_nifti(path)
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


def _check_nifti(path: str) -> None:
    """Refuses a NIfTI file that SimpleITK would read without a word: cut short, damaged, or with voxels that are not finite.

    ITK's NIfTI reader fills what is missing with zeros, and turns NaN and infinity into zeros.

    Raises
    ------
    ImageError
        If the file is missing, its gzip stream does not end as it should, it is shorter than its header says, or a voxel is
        NaN or infinite.
    """
    if not Path(path).is_file():
        raise ImageError(f"{path} is not there.")
    if not path.lower().endswith((".nii", ".nii.gz")):
        return
    opened = gzip.open if path.lower().endswith(".gz") else Path.open
    try:
        with opened(Path(path), "rb") as file:
            header = NiftiHeader.parse(file.read(NIFTI_HEADER_BYTES))
            if header is None:
                raise ImageError(f"{path} is damaged or cut short, or is no NIfTI-1 file: its header is unreadable.")
            file.read(header.offset_bytes - NIFTI_HEADER_BYTES)
            size_bytes, unfit = _scan(file, header)
    except (EOFError, OSError, zlib.error) as error:
        raise ImageError(f"{path} is damaged or cut short: {error}. Copy it again.") from error
    if size_bytes < header.data_bytes:
        short = f"{size_bytes} bytes of voxels, {header.data_bytes} expected"
        raise ImageError(f"{path} is damaged or cut short: {short}. Copy it again.")
    if unfit:
        raise _not_finite(path, unfit)


def _scan(file: BinaryIO | gzip.GzipFile, header: NiftiHeader) -> tuple[int, int]:
    """Bytes of voxels and count of those that are not finite; reads to the end, so that a gzip checksum is compared."""
    size_bytes = unfit = 0
    while block := file.read(SCAN_BYTES):
        size_bytes += len(block)
        if header.float_type is not None:
            whole = len(block) - len(block) % 8
            unfit += int((~np.isfinite(np.frombuffer(block[:whole], header.float_type))).sum())
    return size_bytes, unfit


def _not_finite(path: str, count: int) -> ImageError:
    return ImageError(
        f"{path} has {count} voxels that are NaN or infinite: export it again or mend them before extraction."
    )


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
