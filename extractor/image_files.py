"""Checks that an image file is whole before SimpleITK reads it; knows no unit, orientation or region.

ITK reads damaged files without a word: it fills what a NIfTI file lacks with zeros, turns its NaN into zeros and its broken
geometry into 1 mm and 0 mm, and hands out unset memory where a compressed MetaImage does not decompress.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from extractor.image_geometry import check_nifti_geometry
from extractor.metaimage import metaimage_stored
from extractor.nrrd import nrrd_stored
from extractor.stored_voxels import (
    SCAN_BYTES,
    Stored,
    check_length,
    check_not_more,
    check_stored,
    check_voxel_count,
    voxels_beside,
)
from store_schema.errors import ImageError

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
NIFTI_HEADER_BYTES = 348
MIN_OFFSET_BYTES, MAX_OFFSET_BYTES = 352, 2**24
"""Of a NIfTI file's voxels: the header and the mark of its extensions come before; header extensions are far smaller."""
NIFTI_TYPE_BYTES = {2: 1, 4: 2, 8: 4, 16: 4, 64: 8, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8}
"""Bytes of a voxel by the code of its type, for whole and floating numbers; a file may claim another size."""
FORM_CODES = set(range(6))
"""What readers take of others is each one's own."""
NIFTI_KINDS = {
    1: "bits",
    32: "complex numbers",
    128: "RGB",
    1536: "float128",
    1792: "complex",
    2048: "complex",
    2304: "RGBA",
}
HEADER_SUFFIXES = (".mhd", ".nhdr")
"""Files that hold a header and name the file of the voxels."""
MIXED_SUFFIXES = (".mha", ".nrrd")
"""Files that hold header and voxels, or a header alone."""
VOXEL_FILE = re.compile(
    rb"^(?:data ?file\s*:|ElementDataFile\s*=(?!\s*LOCAL\b))[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE
)
"""The line of a NRRD or MetaImage header that names a file of voxels."""
HEADER_BYTES = 2**16
"""More than any such header."""


@dataclass(frozen=True)
class Checked:
    """A file that was found whole."""

    sizes: tuple[int, ...]
    """Voxels along each axis, as this module reads the header."""
    files: Mapping[Path, tuple[int, int, int]]
    """Which version of each file was looked at: inode, size and time."""

    def check_unchanged(self, shown: str) -> None:
        """Refuses a file that another one has replaced since; what was checked is then not what was read.

        Raises
        ------
        ImageError
            If a file changed.
        """
        if not all(is_version(path, version) for path, version in self.files.items()):
            raise ImageError(f"{shown} changed while it was read: wait until it is written, then run again.")


def check_image_file(path: str) -> Checked:
    """Sizes and version of an image file; refuses a file that SimpleITK would read wrongly without a word.

    Raises
    ------
    ImageError
        If the file is missing, is of no format read here, does not decompress as its checksum says, is shorter or longer than its
        header says, claims more than `MAX_VOXELS`, says something that readers take in different ways, has a geometry that is not
        finite, missing, contradictory or sheared, or NIfTI voxels that are NaN or infinite.
    """
    _check_regular(path)
    name = path.lower()
    if not name.endswith(IMAGE_SUFFIXES):
        raise ImageError(
            f"{path} is of no format read here: expected a name ending in one of {IMAGE_SUFFIXES}, or for ct and pet a folder "
            "with one DICOM series. Masks in DICOM (SEG, RTSTRUCT) must be converted first, as with dcmqi or plastimatch."
        )
    try:
        files = {part: version_of(part) for part in (Path(path), *_parts(path))}
        return Checked(_checker(name)(Path(path)), files)
    except PermissionError:
        raise ImageError(f"{path}, or a file that it names, may not be read: check its rights.") from None
    except (EOFError, OSError, OverflowError, ValueError, struct.error, zlib.error) as error:
        raise ImageError(f"{path} is damaged or cut short: {error}. Copy it again.") from error


def _parts(path: str) -> list[Path]:
    """The file of the voxels, where a header names one."""
    return [voxels_beside(Path(path), name) for name in files_beside(Path(path), shown=path)]


def is_version(path: Path, version: tuple[int, int, int]) -> bool:
    """Whether a file is still the one that it was."""
    try:
        return version_of(path) == version
    except OSError:
        return False


def version_of(path: Path) -> tuple[int, int, int]:
    """Inode, size and time of a file: another one in its place differs."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _check_regular(path: str) -> None:
    """Refuses what opening could block on, or what is no file at all."""
    try:
        found = os.stat(path)  # noqa: PTH116 - Path.stat() is the same call; the path is text here
    except FileNotFoundError:
        what = "is a link to a file that is not there" if os.path.islink(path) else "is not there"  # noqa: PTH114
        raise ImageError(f"{path} {what}: check the path in the table.") from None
    except PermissionError:
        raise ImageError(f"{path} may not be read: check its rights and those of its folders.") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ImageError(f"{path} cannot be asked for ({why}): check the path in the table.") from None
    if stat.S_ISDIR(found.st_mode):
        raise ImageError(
            f"{path} is a folder: expected a file. Only ct and pet may be folders, each with one DICOM series; a mask in DICOM "
            "(SEG, RTSTRUCT) must be converted to NIfTI or NRRD first, as with dcmqi or plastimatch."
        )
    if not stat.S_ISREG(found.st_mode):
        raise ImageError(f"{path} is a pipe, socket or device: expected a file.")
    if not found.st_size:
        # So are the files of /proc, of which some block who reads them.
        raise ImageError(f"{path} is empty (0 bytes): copy it again.")


def _checker(name: str) -> Callable[[Path], tuple[int, ...]]:
    if name.endswith((".nrrd", ".nhdr")):
        return _check_nrrd
    return _check_metaimage if name.endswith((".mha", ".mhd")) else _check_nifti


def may_name_voxels(name: str) -> bool:
    """Whether a file of this name may leave its voxels to another file."""
    return name.lower().endswith((*HEADER_SUFFIXES, *MIXED_SUFFIXES))


def voxel_file(start: bytes) -> str | None:
    """The file of voxels that a NRRD or MetaImage header names; None where they follow the header.

    Parameters
    ----------
    start
        The first `HEADER_BYTES` of the file.
    """
    # A blank line ends a NRRD header; what follows are voxels.
    found = VOXEL_FILE.search(start.partition(b"\n\n")[0])
    return None if found is None else found[1].decode("latin-1").strip()


def files_beside(path: Path, *, shown: str) -> list[str]:
    """Names of the files that an image file needs in its folder; `shown` is what the file is called in an error.

    Raises
    ------
    ImageError
        If it names a list of files.
    """
    if not may_name_voxels(path.name):
        return []
    with path.open("rb") as file:
        name = voxel_file(file.read(HEADER_BYTES))
    if name is None:
        return []
    if name.startswith("LIST") or "%" in name:
        raise ImageError(f"{shown} is a list of files: write the volume as one file.")
    return [name]


def not_finite(path: str | Path, count: int) -> ImageError:
    """The error for voxels that are NaN or infinite."""
    return ImageError(
        f"{path} has {count} voxels that are NaN or infinite: export it again or mend them before extraction."
    )


@dataclass(frozen=True)
class NiftiHeader:
    """What of a NIfTI-1 header tells how long the file must be and whether it says where its voxels lie."""

    order: str
    """Byte order, as `struct` writes it."""
    stored: Stored
    float_type: np.dtype[np.floating] | None
    """Type of the voxels where it can hold NaN."""
    form_codes: tuple[int, int]
    """qform and sform code; both 0: the file does not say how the patient lies."""

    @classmethod
    def parse(cls, data: bytes) -> NiftiHeader:
        """The header in the first 348 bytes.

        Raises
        ------
        ValueError
            If they hold no NIfTI-1 header, or one with impossible numbers; says which.
        """
        if len(data) < NIFTI_HEADER_BYTES:
            raise ValueError(f"its header has {len(data)} bytes, {NIFTI_HEADER_BYTES} expected")
        order = "<" if struct.unpack_from("<i", data)[0] == NIFTI_HEADER_BYTES else ">"
        if struct.unpack_from(f"{order}i", data)[0] != NIFTI_HEADER_BYTES or data[344:348] != b"n+1\0":
            raise ValueError("its header is not that of a single-file NIfTI-1 image")
        rank, *sizes = struct.unpack_from(f"{order}8h", data, 40)
        if not 1 <= rank <= 7 or min(sizes[:rank]) < 1:
            raise ValueError(f"its header gives {rank} dimensions of sizes {sizes}")
        check_voxel_count(sizes[:rank])
        kind, bits = struct.unpack_from(f"{order}2h", data, 70)
        voxel_bytes = NIFTI_TYPE_BYTES.get(kind)
        if voxel_bytes is not None and bits != 8 * voxel_bytes:
            raise ValueError(f"its header gives voxels of type {kind} and {bits} bits, {8 * voxel_bytes} bits expected")
        codes, offset = _nifti_geometry(data, order, rank)
        floats = {16: np.dtype(f"{order}f4"), 64: np.dtype(f"{order}f8")}
        return cls(order, Stored(tuple(sizes[:rank]), offset, voxel_bytes or 0), floats.get(kind), codes)


def _nifti_geometry(data: bytes, order: str, rank: int) -> tuple[tuple[int, int], int]:
    """Form codes, and where the voxels begin; refuses a geometry that ITK would replace by one of its own."""
    spacing_mm = struct.unpack_from(f"{order}3f", data, 80)[:rank]
    (offset,) = struct.unpack_from(f"{order}f", data, 108)
    qform, sform = struct.unpack_from(f"{order}2h", data, 252)
    if not {qform, sform} <= FORM_CODES:
        raise ValueError(f"its header gives qform code {qform} and sform code {sform}, 0 to 5 expected")
    placing = struct.unpack_from(f"{order}6f", data, 256) if qform > 0 else ()
    placing += struct.unpack_from(f"{order}12f", data, 280) if sform > 0 else ()
    if not all(map(math.isfinite, (*spacing_mm, *placing))) or min(spacing_mm) <= 0:
        raise ValueError(f"its header gives spacing {spacing_mm} mm and placing {placing}")
    if not MIN_OFFSET_BYTES <= offset <= MAX_OFFSET_BYTES or offset != int(offset):
        raise ValueError(
            f"its voxels begin at byte {offset:g}, a whole number from {MIN_OFFSET_BYTES} to {MAX_OFFSET_BYTES} expected"
        )
    return (qform, sform), int(offset)


def _check_nifti(path: Path) -> tuple[int, ...]:
    with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as file:
        first = file.read(NIFTI_HEADER_BYTES)
        header = NiftiHeader.parse(first)
        _check_scalar(first, header, path)
        file.read(header.stored.offset_bytes - NIFTI_HEADER_BYTES)
        size_bytes, unfit = _scan(file, header)
    check_length(size_bytes, header.stored.data_bytes)
    if unfit:
        raise not_finite(path, unfit)
    if header.form_codes == (0, 0):
        raise ImageError(
            f"{path} does not say how the patient lies: qform and sform code are 0. Export it with its orientation; slices are "
            "taken from superior to inferior."
        )
    check_nifti_geometry(first, header.order, path)
    return header.stored.sizes


def _check_scalar(first: bytes, header: NiftiHeader, path: Path) -> None:
    """Refuses colours, time series and other voxels that are not one number each."""
    (kind,) = struct.unpack_from(f"{header.order}h", first, 70)
    sizes = header.stored.sizes
    if kind not in NIFTI_TYPE_BYTES or len(sizes) < 3 or math.prod(sizes[3:]) > 1:
        raise not_scalar(path, f"size {sizes}, voxels are {NIFTI_KINDS.get(kind, f'of type {kind}')}")


def not_scalar(path: str | Path, what: str) -> ImageError:
    """The error for an image that has other voxels than one number each, or other than three axes."""
    return ImageError(
        f"{path} is not one scalar 3-D image: {what}. Split series, and drop channels and imaginary parts first."
    )


def _scan(file: BinaryIO | gzip.GzipFile, header: NiftiHeader) -> tuple[int, int]:
    """Bytes of voxels and count of those that are not finite; reads to the end, so that a gzip checksum is compared.

    Holds one block at a time, and stops where a file goes on after its voxels.
    """
    size_bytes = unfit = 0
    while block := file.read(SCAN_BYTES):
        size_bytes += len(block)
        check_not_more(size_bytes, header.stored.data_bytes)
        if header.float_type is not None:
            # the last block may end within eight bytes; blocks before it cannot end within a voxel
            whole = len(block) - len(block) % header.float_type.itemsize
            unfit += int((~np.isfinite(np.frombuffer(block[:whole], header.float_type))).sum())
    return size_bytes, unfit


def _check_metaimage(path: Path) -> tuple[int, ...]:
    stored = metaimage_stored(path)
    check_stored(path, stored)
    return stored.sizes


def _check_nrrd(path: Path) -> tuple[int, ...]:
    stored = nrrd_stored(path)
    check_stored(path, stored)
    return stored.sizes
