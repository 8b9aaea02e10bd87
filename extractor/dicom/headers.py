"""Reads the headers of the one DICOM series that a folder must hold; knows no geometry, unit or voxel.

Errors name no file of the folder, no UID and no patient: file names and UIDs of hospitals are made of patients' names and dates.
A file is named by its place in the order of names, which `ls` shows.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import stat
import struct
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import config
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    CTImageStorage,
    PositronEmissionTomographyImageStorage,
    UID_dictionary,
)

from extractor.dicom.bounded import TooLongError, header_of
from extractor.image_files import is_version, version_of
from store_schema.errors import ImageError

MAX_FILES = 10_000
"""More files than any series of one study; a folder of a whole archive is refused before its files are read."""
STORAGE = {"CT": ("CT", CTImageStorage), "PET": ("PT", PositronEmissionTomographyImageStorage)}
"""DICOM's Modality and SOP class of a role."""
MULTI_FRAME = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{tail}" for tail in ("2.1", "2.2", "128.1", "130", "7.1", "7.2", "7.3", "7.4")
)
"""Enhanced and legacy converted CT and PET, and multi-frame secondary capture."""
HARMLESS_NAMES = ("dicomdir", "readme", "license", "licence", "version", "thumbs.db", "desktop.ini")
"""How files begin that are no DICOM images and may lie beside them; so may hidden files."""
HARMLESS_SUFFIXES = (".txt", ".md", ".json", ".xml", ".html", ".csv")
PREAMBLE_BYTES = 132
DAMAGE = (
    *(AttributeError, BytesLengthException, EOFError, IndexError, InvalidDicomError, KeyError, MemoryError, OSError),
    *(
        NotImplementedError,
        OverflowError,
        RecursionError,
        RuntimeError,
        TypeError,
        ValueError,
        struct.error,
        zlib.error,
    ),
)
"""What pydicom raises where bytes are not what a header promises; it has no error of its own for that."""
NOT_FOR_US = {"LOCALIZER", "REPROJECTION", "PROJECTION IMAGE"}
"""Values of ImageType of pictures that are no slices."""


@dataclass(frozen=True)
class Slice:
    """One image of a series: its file and its header without pixels."""

    path: Path
    header: Dataset
    name: str
    """What an error calls it, such as 'file 17 of 214 by name'."""
    version: tuple[int, int, int] | None = None
    """Inode, size and time of the file when its header was read."""

    def check_unchanged(self, shown: str) -> None:
        """Refuses a file that another one has replaced since: its header would not be that of its pixels.

        Raises
        ------
        ImageError
            If the file changed.
        """
        if self.version is not None and not is_version(self.path, self.version):
            raise ImageError(
                f"{self.name} in {shown} changed while it was read: wait until it is written, then run again."
            )


def series_slices(folder: Path, role: str, *, shown: str) -> list[Slice]:
    """The images of the one series in a folder, in no order that means anything.

    Files whose names begin as one of `HARMLESS_NAMES` or with a dot, or end as one of `HARMLESS_SUFFIXES`, are passed over unless
    they are DICOM images.

    Parameters
    ----------
    role
        CT or PET.
    shown
        What the folder is called in an error.

    Raises
    ------
    ImageError
        If the folder holds anything else, no image, images of several series, or of another kind than its role.
    """
    slices = [one for one in _read(folder, shown) if one is not None]
    if not slices:
        raise ImageError(f"{shown} holds no DICOM image: expected the files of one {role} series.")
    _check_one_series(slices, role, shown)
    _check_kind(slices, role, shown)
    return slices


def label(keyword: str) -> str:
    """A DICOM field as an error names it: keyword and tag."""
    tag = Tag(tag_for_keyword(keyword) or 0)
    return f"{keyword} ({tag.group:04X},{tag.element:04X})"


def text(header: Dataset, keyword: str) -> str | None:
    """The value of a field as text; None where it is absent or empty.

    Raises
    ------
    ImageError
        If its bytes cannot be read as what the field is.
    """
    value = _value(header, keyword)
    if value is None:
        return None
    several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return ("\\".join(map(str, value)) if several else str(value)).strip("\0 ") or None


def number(header: Dataset, keyword: str) -> float | None:
    """The value of a field as a finite number; None where it is absent or empty.

    Raises
    ------
    ImageError
        If it is no such number.
    """
    found = numbers(header, keyword)
    if len(found) > 1:
        raise ImageError(f"{label(keyword)} has {len(found)} values: expected one.")
    return found[0] if found else None


def numbers(header: Dataset, keyword: str) -> tuple[float, ...]:
    """The values of a field as finite numbers; empty where it is absent.

    Raises
    ------
    ImageError
        If one is no such number.
    """
    written = text(header, keyword)
    try:
        found = tuple(float(part) for part in written.split("\\")) if written else ()
    except ValueError:
        raise ImageError(f"{label(keyword)} is not a number.") from None
    if not all(map(math.isfinite, found)):
        raise ImageError(f"{label(keyword)} is not a finite number: {', '.join(map(str, found))}.")
    return found


def items(header: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence; none where it is absent.

    Raises
    ------
    ImageError
        If it cannot be read as a sequence.
    """
    found = _value(header, keyword)
    if found is not None and not isinstance(found, DicomSequence):
        raise ImageError(f"{label(keyword)} is no sequence of items.")
    return found or ()


@contextmanager
def quiet() -> Iterator[None]:
    """Lets pydicom read headers of old scanners without a word on every field's spelling; numbers are checked here.

    Its log quotes what it finds odd, which may be a birth date or a name.
    """
    logger = logging.getLogger("pydicom")
    told, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = told


def _value(header: Dataset, keyword: str) -> Any:
    try:
        with quiet():
            value = header.get(keyword)
    except DAMAGE:
        raise ImageError(f"{label(keyword)} cannot be read: its bytes are no value of that field.") from None
    return value


def _read(folder: Path, shown: str) -> list[Slice | None]:
    """Every file of the folder as a slice; None for those that are passed over."""
    names = _names(folder, shown)
    strangers: list[str] = []
    slices: list[Slice | None] = []
    for place, name in enumerate(names, start=1):
        path, called = folder / name, f"file {place} of {len(names)} by name"
        kind = _kind(path, called, shown)
        if kind == "stranger" and not _is_harmless(name):
            strangers.append(called)
        slices.append(_slice(path, called, shown) if kind == "image" else None)
    if strangers:
        raise ImageError(
            f"{shown} holds {len(strangers)} file(s) that are not DICOM ({', '.join(strangers[:3])}): expected one series and "
            "nothing else. Move them elsewhere; if they are slices without a DICOM preamble, or cut short, export the series "
            "again."
        )
    return slices


def _names(folder: Path, shown: str) -> list[str]:
    """Names of all that the folder holds, in order."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in itertools.islice(entries, MAX_FILES + 1))
    except PermissionError:
        raise ImageError(f"{shown} may not be read: check the rights of the folder.") from None
    except OSError as error:
        raise ImageError(f"{shown} cannot be read ({error.strerror}): check the path in the table.") from None
    if len(names) > MAX_FILES:
        raise ImageError(f"{shown} holds more than {MAX_FILES} files: expected one series and nothing else.")
    return names


def _kind(path: Path, called: str, shown: str) -> str:
    """Whether a file is an image, harmless or a stranger, without opening what could block."""
    try:
        found = path.stat()
        mode = found.st_mode
        if stat.S_ISREG(mode):
            if not found.st_size:
                # So are the files of /proc, of which some block who reads them.
                return "stranger"
            with path.open("rb") as file:
                start = file.read(PREAMBLE_BYTES)
            # A DICOMDIR is DICOM, and lists images elsewhere.
            listing = path.name.lower() == "dicomdir"
            return "image" if start[128:] == b"DICM" and not listing and not path.name.startswith("._") else "stranger"
    except OSError as error:
        raise ImageError(f"{called} in {shown} cannot be read: {error.strerror}.") from None
    if path.name.startswith("."):
        return "harmless"
    what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
    raise ImageError(
        f"{called} in {shown} is {what}: expected a folder with the files of one series and nothing below it."
    )


def _is_harmless(name: str) -> bool:
    lower = name.lower()
    return lower.startswith((*HARMLESS_NAMES, ".")) or lower.endswith(HARMLESS_SUFFIXES)


def _slice(path: Path, called: str, shown: str) -> Slice:
    try:
        version = version_of(path)
        with quiet():
            header = header_of(path, called=f"{called} in {shown}")
    except TooLongError as error:
        raise ImageError(f"{called} in {shown} is no slice: {error}. Move it elsewhere.") from None
    except DAMAGE as error:
        raise ImageError(
            f"{called} in {shown} is damaged or cut short ({type(error).__name__}): copy it again."
        ) from None
    return Slice(path, header, called, version)


def _check_one_series(slices: Sequence[Slice], role: str, shown: str) -> None:
    by_uid: Mapping[str | None, list[Slice]] = defaultdict(list)
    for one in slices:
        by_uid[text(one.header, "SeriesInstanceUID")].append(one)
    if None in by_uid:
        missing = by_uid[None]
        raise ImageError(
            f"{shown} holds {len(missing)} image(s) without {label('SeriesInstanceUID')}: {missing[0].name}."
        )
    if len(by_uid) > 1:
        named = "; ".join(_describe(members) for members in list(by_uid.values())[:6])
        raise ImageError(
            f"{shown} holds {len(by_uid)} series: {named}. Expected one {role} series: put each series into a folder of its own."
        )
    patients = {text(one.header, "PatientID") for one in slices}
    frames = {text(one.header, "FrameOfReferenceUID") for one in slices}
    for what, found in (("patients (PatientID)", patients), ("frames of reference", frames)):
        if len(found) > 1:
            raise ImageError(
                f"{shown} is one series by its UID and has images of {len(found)} {what}: export it again."
            )


def _describe(members: Sequence[Slice]) -> str:
    """A series by kind, number and count of its images."""
    header = members[0].header
    modality, series = text(header, "Modality") or "no modality", text(header, "SeriesNumber")
    return f"{modality} series number {series or 'unknown'} with {len(members)} image(s), first {members[0].name}"


def _check_kind(slices: Sequence[Slice], role: str, shown: str) -> None:
    modality, storage = STORAGE[role]
    for one in slices:
        found, sop = text(one.header, "Modality"), text(one.header, "SOPClassUID")
        if sop in MULTI_FRAME or (number(one.header, "NumberOfFrames") or 1) != 1:
            raise ImageError(
                f"{one.name} in {shown} is an enhanced or multi-frame image, which is not read here: convert the series to single "
                "frames, or to NIfTI (dcm2niix; for a PET then declare its units)."
            )
        if found != modality or sop != storage:
            kind = UID(sop or "").name if sop in UID_dictionary else "unknown"
            raise ImageError(
                f"{one.name} in {shown} is no {role} image: expected Modality {modality} of class '{storage.name}', got Modality "
                f"{found} of class '{kind}'. Give each column its own series."
            )
    odd = Counter(
        kind for one in slices for kind in NOT_FOR_US & set((text(one.header, "ImageType") or "").split("\\"))
    )
    if odd:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(odd.items()))
        raise ImageError(f"{shown} holds pictures that are no slices ({counts} of {len(slices)}): move them elsewhere.")
