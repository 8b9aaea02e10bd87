"""Stored values of one DICOM slice, decompressed where it must be; knows no unit and no place.

pydicom decodes what is uncompressed, run-length encoded or JPEG 2000 (by Pillow). For JPEG lossless and JPEG-LS the pixels alone,
without patient or rescaling, go through GDCM in a process of its own (`extractor.dicom.gdcm`).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import pixel_array
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from extractor.dicom.headers import DAMAGE, Slice, number, quiet, text
from store_schema.errors import ImageError

BY_GDCM = frozenset((JPEGLossless, JPEGLosslessSV1, JPEGLSLossless))
BY_PYDICOM = frozenset(
    (
        *(ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian),
        *(RLELossless, JPEG2000Lossless, JPEG2000),
    )
)
"""JPEG2000 may lose or not; that it lost is said by LossyImageCompression."""
PIXEL_FIELDS = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
SPARE_BYTES = 2**24
"""What a slice may hold besides its pixels: private blocks, icons, overlays."""
DECODE_S = 900
"""A series of two thousand slices takes a minute."""
WHOLE_NUMBERS = {8, 16, 32}
"""Bits allocated of a scalar slice of whole numbers."""


def stored_slices(slices: Sequence[Slice], *, shown: str) -> Iterator[Integer[np.ndarray, "y x"]]:
    """Values of each slice as they are stored, before slope and intercept: whole numbers, rows from the first to the last.

    Raises
    ------
    ImageError
        If the pixels are no scalars, were compressed with loss or in a way that is not read here, or are damaged.
    """
    apart = {one.name for one in slices if _syntax(one, shown) in BY_GDCM}
    for one in slices:
        _check_packed_size(one, shown)
    with tempfile.TemporaryDirectory(prefix="engram-dicom-") as folder:
        decoded = _decoded_apart([one for one in slices if one.name in apart], Path(folder), shown) if apart else {}
        for one in slices:
            try:
                with quiet():
                    values = np.load(decoded[one.name]) if one.name in apart else pixel_array(one.path, raw=True)
            except DAMAGE as error:
                raise _damaged(one, shown, type(error).__name__) from None
            one.check_unchanged(shown)
            yield _checked(one, values, shown)


def _checked(one: Slice, values: np.ndarray, shown: str) -> Integer[np.ndarray, "y x"]:
    """The values, if they are what the header says."""
    expected = (int(number(one.header, "Rows") or 0), int(number(one.header, "Columns") or 0))
    if values.shape != expected or values.dtype.kind not in "iu":
        raise ImageError(
            f"{one.name} in {shown} decodes to {values.dtype.name} of shape {values.shape}: expected whole numbers, {expected}."
        )
    return values


def _check_packed_size(one: Slice, shown: str) -> None:
    """Refuses compressed pixels that are longer than the pixels themselves: what they unpack to is not bounded by the header."""
    rows, columns, bits = (number(one.header, name) or 0 for name in ("Rows", "Columns", "BitsAllocated"))
    most_bytes = 2 * int(rows * columns * bits / 8) + SPARE_BYTES
    size_bytes = one.path.stat().st_size
    if size_bytes > most_bytes:
        raise ImageError(
            f"{one.name} in {shown} has {size_bytes} bytes for {rows:.0f} x {columns:.0f} pixels: expected at most {most_bytes}. "
            "Export it again, without what else it holds."
        )


def _damaged(one: Slice, shown: str, why: str) -> ImageError:
    return ImageError(
        f"{one.name} in {shown} is damaged or cut short: its pixels do not decode ({why}). Copy it again."
    )


def _syntax(one: Slice, shown: str) -> UID:
    """The transfer syntax, if this slice can be read."""
    samples, bits = number(one.header, "SamplesPerPixel"), number(one.header, "BitsAllocated")
    photometric = text(one.header, "PhotometricInterpretation")
    if (samples, photometric) != (1, "MONOCHROME2") or bits not in WHOLE_NUMBERS:
        raise ImageError(
            f"{one.name} in {shown} is {photometric} with {samples or 0:g} sample(s) of {bits or 0:g} bits a pixel: expected "
            "MONOCHROME2, 1 sample of 8, 16 or 32 bits."
        )
    if text(one.header, "LossyImageCompression") == "01":
        raise ImageError(
            f"{one.name} in {shown} was compressed with loss: its numbers are no measurements any more. Export the original."
        )
    syntax = UID(text(one.header.file_meta, "TransferSyntaxUID") or "")
    if syntax not in BY_PYDICOM | BY_GDCM:
        known = ", ".join(sorted(known.name for known in BY_PYDICOM | BY_GDCM))
        raise ImageError(
            f"{one.name} in {shown} is stored as '{syntax.name}', which is not read here: expected one of {known}. Decompress "
            "it, as with `gdcmconv --raw` or `dcmdjpeg`."
        )
    return syntax


def _decoded_apart(slices: Sequence[Slice], folder: Path, shown: str) -> dict[str, Path]:
    """Arrays decoded by GDCM, by the name of their slice."""
    for z, one in enumerate(slices):
        try:
            with quiet():
                _write_bare(one.path, folder / f"{z:06d}.dcm")
        except DAMAGE as error:
            raise _damaged(one, shown, type(error).__name__) from None
    command = [sys.executable, "-P", "-m", "extractor.dicom.gdcm", str(folder)]
    try:
        ended = subprocess.run(command, capture_output=True, check=False, timeout=DECODE_S).returncode
    except subprocess.TimeoutExpired:
        ended = None
    decoded = {one.name: folder / f"{z:06d}.npy" for z, one in enumerate(slices)}
    if ended != 0:
        first = next((one for one in slices if not decoded[one.name].exists()), slices[-1])
        raise _damaged(first, shown, "GDCM gave it up" if ended is not None else f"GDCM took more than {DECODE_S} s")
    return decoded


def _write_bare(path: Path, target: Path) -> None:
    """A file that has nothing but the pixels: no slope that GDCM could apply, and no patient."""
    whole = dcmread(path)
    bare = Dataset()
    for field in (*PIXEL_FIELDS, "PhotometricInterpretation", "PixelData"):
        bare[field] = whole[field]
    bare.SOPClassUID, bare.SOPInstanceUID, bare.Modality = SecondaryCaptureImageStorage, "1.2.3", "OT"
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = whole.file_meta.TransferSyntaxUID
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID
    bare.file_meta.MediaStorageSOPInstanceUID = bare.SOPInstanceUID
    bare.save_as(target, enforce_file_format=True)
