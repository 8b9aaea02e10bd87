"""Reads the fields that are needed of one DICOM file, within bounds; knows what none of them means.

A header may hold anything: private blocks of a gigabyte, a million elements, what inflates to more than the memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from store_schema.errors import ImageError

MAX_FILE_BYTES = 2**28
"""Of one slice with its header; 4096 x 4096 values of 32 bits are a quarter of that."""
MAX_READ_BYTES = 2**20
"""Of one header without its pixels and without the values that nobody asks for."""
FIELDS = (
    *("AcquisitionDate", "AcquisitionDateTime", "AcquisitionTime", "BitsAllocated", "BitsStored", "Columns"),
    *("CorrectedImage", "DecayCorrection", "FrameOfReferenceUID", "FrameReferenceTime", "HighBit"),
    *("ImageOrientationPatient", "ImagePositionPatient", "ImageType", "LossyImageCompression", "Modality"),
    *("NumberOfFrames", "NumberOfSeriesRelatedInstances", "NumberOfSlices", "PatientID", "PatientWeight"),
    *("PhotometricInterpretation", "PixelPaddingValue", "PixelRepresentation", "PixelSpacing"),
    *("RadiopharmaceuticalInformationSequence", "RescaleIntercept", "RescaleSlope", "RescaleType", "Rows"),
    *("SOPClassUID", "SOPInstanceUID", "SUVType", "SamplesPerPixel", "SeriesDate", "SeriesInstanceUID"),
    *("SeriesNumber", "SeriesTime", "TimezoneOffsetFromUTC", "Units", "ActualFrameDuration", "DecayFactor"),
)
"""Everything that this package asks of a header."""
PRIVATE = {0x0009: (0x0D,), 0x7053: (0x00, 0x09)}
"""Elements of private blocks, by group: GE's scan time, and what counts of Philips are worth."""
_BLOCKS = range(0x10, 0x100)
_TAGS: list[str | int | tuple[int, int]] = [
    *FIELDS,
    *(group << 16 | block for group in PRIVATE for block in _BLOCKS),
    *(group << 16 | block << 8 | element for group in PRIVATE for block in _BLOCKS for element in PRIVATE[group]),
]


class TooLongError(ValueError):
    """More was read of a header than any header has."""


class _Bounded:
    """A file of which so many bytes can be read and no more; what is passed over does not count."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left = file, MAX_READ_BYTES

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise TooLongError(f"its header is longer than {MAX_READ_BYTES} bytes")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def header_of(path: Path, *, called: str) -> Dataset:
    """The fields of `FIELDS` and `PRIVATE` of one file, as far as it has them.

    Raises
    ------
    ImageError
        If the file is longer than any slice, or deflated.
    Exception
        Whatever pydicom raises where bytes are not what a header promises.
    """
    size_bytes = path.stat().st_size
    if size_bytes > MAX_FILE_BYTES:
        raise ImageError(
            f"{called} has {size_bytes} bytes, which is no slice: expected at most {MAX_FILE_BYTES}. Move it elsewhere."
        )
    # Before anything is inflated: a deflated header could fill the memory.
    if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise ImageError(f"{called} is deflated, which is not read here: export it uncompressed.")
    with path.open("rb") as file:
        return dcmread(_Bounded(file), stop_before_pixels=True, specific_tags=_TAGS)
