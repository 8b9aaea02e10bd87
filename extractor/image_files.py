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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from extractor.image_geometry import check_metaimage_geometry, check_nifti_geometry, check_nrrd_geometry, nrrd_fields
from store_schema.errors import ImageError

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
MAX_VOXELS = 2**29
"""Of one image, before it is read: 512 x 512 x 2048, more than any whole-body scan. What claims more is a broken header or a
bomb."""
SPARE_BYTES = 2**20
"""How much a file may hold, decompressed, beyond the voxels that its header promises; reading stops there."""
NIFTI_HEADER_BYTES = 348
MAX_OFFSET_BYTES = 2**24
"""Of a NIfTI file's voxels: header extensions are far smaller."""
METAIMAGE_HEADER_BYTES = 2**16
"""More than any header of names and numbers."""
METAIMAGE_TYPE_BYTES = {
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_LONG": 4,
    "MET_ULONG": 4,
    "MET_LONG_LONG": 8,
    "MET_ULONG_LONG": 8,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}
METAIMAGE_GEOMETRY = {"Offset", "Origin", "Position", "ElementSpacing", "TransformMatrix", "Rotation", "Orientation"}
METAIMAGE_TRUE = ("T", "t", "1")
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
SCAN_BYTES = 2**22
"""Read at once."""
ZLIB_OR_GZIP = 47
"""Window bits of zlib that take either kind of stream, as MetaIO does."""


def check_image_file(path: str) -> None:
    """Refuses a file that SimpleITK would read wrongly without a word.

    Raises
    ------
    ImageError
        If the file is missing, is of no format read here, does not decompress as its checksum says, is shorter than its header
        says or much longer, claims more than `MAX_VOXELS`, has a geometry that is not finite, missing, contradictory or sheared, or
        NIfTI voxels that are NaN or infinite.
    """
    _check_regular(path)
    name = path.lower()
    if not name.endswith(IMAGE_SUFFIXES):
        raise ImageError(
            f"{path} is of no format read here: expected a name ending in one of {IMAGE_SUFFIXES}, or for ct and pet a folder "
            "with one DICOM series. Masks in DICOM (SEG, RTSTRUCT) must be converted first, as with dcmqi or plastimatch."
        )
    try:
        _checker(name)(Path(path))
    except PermissionError:
        raise ImageError(f"{path}, or a file that it names, may not be read: check its rights.") from None
    except (EOFError, OSError, OverflowError, ValueError, struct.error, zlib.error) as error:
        raise ImageError(f"{path} is damaged or cut short: {error}. Copy it again.") from error


def _check_regular(path: str) -> None:
    """Refuses what opening could block on, or what is no file at all."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - Path.stat() is the same call; the path is text here
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} is not there, or cannot be asked for ({error.__class__.__name__}).") from None
    if stat.S_ISDIR(mode):
        raise ImageError(
            f"{path} is a folder: expected a file. Only ct and pet may be folders, each with one DICOM series; a mask in DICOM "
            "(SEG, RTSTRUCT) must be converted to NIfTI or NRRD first, as with dcmqi or plastimatch."
        )
    if not stat.S_ISREG(mode):
        raise ImageError(f"{path} is a pipe, socket or device: expected a file.")


def _checker(name: str) -> Callable[[Path], None]:
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
    offset_bytes: int
    """Where the voxels begin."""
    data_bytes: int
    """How long they are."""
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
        if struct.unpack_from(f"{order}i", data)[0] != NIFTI_HEADER_BYTES or data[344:347] != b"n+1":
            raise ValueError("its header is not that of a single-file NIfTI-1 image")
        rank, *sizes = struct.unpack_from(f"{order}8h", data, 40)
        if not 1 <= rank <= 7 or min(sizes[:rank]) < 1:
            raise ValueError(f"its header gives {rank} dimensions of sizes {sizes}")
        _check_voxel_count(sizes[:rank])
        kind, bits = struct.unpack_from(f"{order}2h", data, 70)
        floats = {16: np.dtype(f"{order}f4"), 64: np.dtype(f"{order}f8")}
        codes, offset = _nifti_geometry(data, order, rank)
        return cls(order, offset, math.prod(sizes[:rank]) * int(bits) // 8, floats.get(kind), codes)


def _nifti_geometry(data: bytes, order: str, rank: int) -> tuple[tuple[int, int], int]:
    """Form codes, and where the voxels begin; refuses a geometry that ITK would replace by one of its own."""
    spacing_mm = struct.unpack_from(f"{order}3f", data, 80)[:rank]
    (offset,) = struct.unpack_from(f"{order}f", data, 108)
    qform, sform = struct.unpack_from(f"{order}2h", data, 252)
    placing = struct.unpack_from(f"{order}6f", data, 256) if qform > 0 else ()
    placing += struct.unpack_from(f"{order}12f", data, 280) if sform > 0 else ()
    if not all(map(math.isfinite, (offset, *spacing_mm, *placing))) or 0 in spacing_mm:
        raise ValueError(f"its header gives spacing {spacing_mm} mm and placing {placing}")
    if offset > MAX_OFFSET_BYTES:
        raise ValueError(f"its voxels begin at byte {offset:g}, at most {MAX_OFFSET_BYTES} expected")
    return (qform, sform), max(NIFTI_HEADER_BYTES, int(offset))


def _check_nifti(path: Path) -> None:
    with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as file:
        first = file.read(NIFTI_HEADER_BYTES)
        header = NiftiHeader.parse(first)
        file.read(header.offset_bytes - NIFTI_HEADER_BYTES)
        size_bytes, unfit = _scan(file, header)
    _check_length(size_bytes, header.data_bytes)
    if unfit:
        raise not_finite(path, unfit)
    if header.form_codes == (0, 0):
        raise ImageError(
            f"{path} does not say how the patient lies: qform and sform code are 0. Export it with its orientation; slices are "
            "taken from superior to inferior."
        )
    check_nifti_geometry(first, header.order, path)


def _scan(file: BinaryIO | gzip.GzipFile, header: NiftiHeader) -> tuple[int, int]:
    """Bytes of voxels and count of those that are not finite; reads to the end, so that a gzip checksum is compared.

    Holds one block at a time, and stops where a file goes on long after its voxels.
    """
    size_bytes = unfit = 0
    while block := file.read(SCAN_BYTES):
        size_bytes += len(block)
        _check_not_more(size_bytes, header.data_bytes)
        if header.float_type is not None:
            # the last block may end within eight bytes; blocks before it cannot end within a voxel
            whole = len(block) - len(block) % header.float_type.itemsize
            unfit += int((~np.isfinite(np.frombuffer(block[:whole], header.float_type))).sum())
    return size_bytes, unfit


def _check_metaimage(path: Path) -> None:
    """Refuses voxels that are too few or do not decompress; voxels written as text are left to ITK."""
    fields, header_bytes = _metaimage_header(path)
    check_metaimage_geometry(fields, path)
    where = fields["ElementDataFile"]
    if where.startswith("LIST") or "%" in where:
        raise ImageError(f"{path} is a list of files: write the volume as one file.")
    if not fields.get("BinaryData", "").startswith(METAIMAGE_TRUE):
        return
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    sizes = [int(size) for size in fields["DimSize"].split()]
    _check_voxel_count([*sizes, channels])
    expected_bytes = math.prod(sizes) * channels * METAIMAGE_TYPE_BYTES[fields["ElementType"]]
    local = where.upper() == "LOCAL"
    with (path if local else _voxels_beside(path, where)).open("rb") as file:
        file.seek(header_bytes if local else 0)
        blocks = iter(lambda: file.read(SCAN_BYTES), b"")
        compressed = fields.get("CompressedData", "").startswith(METAIMAGE_TRUE)
        size_bytes = 0
        for block in _inflated(blocks) if compressed else blocks:
            size_bytes += len(block)
            _check_not_more(size_bytes, expected_bytes)
    _check_length(size_bytes, expected_bytes)


def _check_nrrd(path: Path) -> None:
    """Refuses a void geometry, too many voxels and voxels elsewhere; NRRD's own library compares lengths and checksums."""
    check_nrrd_geometry(path)
    _check_voxel_count([int(size) for size in nrrd_fields(path).get("sizes", "").split()])
    for name in files_beside(path, shown=str(path)):
        _voxels_beside(path, name)


def _voxels_beside(path: Path, name: str) -> Path:
    """The file of voxels that a header names; a header may come from anybody, so that it must lie beside it."""
    plain = name.removeprefix("./")
    if plain in {"", ".", ".."} or "/" in plain or "\\" in plain or "\0" in plain:
        raise ValueError(f"it names '{name[:80]}' as the file of its voxels, a file in the same folder expected")
    beside = path.parent / plain
    if not beside.is_file():
        raise ValueError(f"the file of its voxels, '{name[:80]}', is not there or no regular file")
    return beside


def _metaimage_header(path: Path) -> tuple[dict[str, str], int]:
    """Fields by name, and the length of the header."""
    with path.open("rb") as file:
        start = file.read(METAIMAGE_HEADER_BYTES)
    fields: dict[str, str] = {}
    length = 0
    for line in start.splitlines(keepends=True):
        length += len(line)
        name, _, value = line.decode("latin-1").partition("=")
        fields[name.strip()] = value.strip()
        if name.strip() == "ElementDataFile":
            break
    missing = {"DimSize", "ElementType", "ElementDataFile"} - fields.keys()
    if missing or fields["ElementType"] not in METAIMAGE_TYPE_BYTES:
        raise ValueError(f"its header lacks or garbles {sorted(missing) or 'ElementType'}")
    for name in METAIMAGE_GEOMETRY & fields.keys():
        if not all(math.isfinite(float(number)) for number in fields[name].split()):
            raise ValueError(f"its header gives {name} = {fields[name]}")
    return fields, length


def _inflated(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The decompressed blocks; raises zlib.error where they or their checksum are wrong, EOFError where they end early."""
    stream = zlib.decompressobj(ZLIB_OR_GZIP)
    for block in blocks:
        # In parts: a block of zeros would become a thousand of its size at once.
        rest = block
        while rest and not stream.eof:
            yield stream.decompress(rest, SCAN_BYTES)
            rest = stream.unconsumed_tail
    if not stream.eof:
        raise EOFError("its compressed voxels end too early")


def _check_length(size_bytes: int, expected_bytes: int) -> None:
    if size_bytes < expected_bytes:
        raise ValueError(f"{size_bytes} bytes of voxels, {expected_bytes} expected")


def _check_not_more(size_bytes: int, expected_bytes: int) -> None:
    if size_bytes > expected_bytes + SPARE_BYTES:
        raise ValueError(f"it goes on after the {expected_bytes} bytes of voxels that its header promises")


def _check_voxel_count(sizes: Sequence[int]) -> None:
    if not sizes or min(sizes) < 1 or math.prod(sizes) > MAX_VOXELS:
        raise ValueError(
            f"its header gives sizes {list(sizes)[:8]}, each above 0 and at most {MAX_VOXELS} voxels expected"
        )
