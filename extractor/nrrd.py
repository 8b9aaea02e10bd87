"""Reads the header of a NRRD file as strictly as its numbers deserve; reads no voxel.

NRRD's own library reads the numbers before a character that it does not know and drops the rest, and ITK knows no unit but mm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from extractor.stored_voxels import Stored, check_voxel_count, finite_numbers, whole_numbers
from store_schema.errors import ImageError

HEADER_BYTES = 2**16
"""More than any header of names and numbers."""
TYPE_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), 8),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), 8),
    "float": 4,
    "double": 8,
}
PACKED = {"raw": False, "gzip": True, "gz": True}
SPACES = frozenset(
    (
        *("lps", "left-posterior-superior"),
        *("ras", "right-anterior-superior"),
        *("las", "left-anterior-superior"),
    )
)
NEEDED = ("space", "space directions", "space origin")
UNITS = {"", "mm", "millimeter", "millimeters", "millimetre", "millimetres"}
SKIPS = ("line skip", "lineskip", "byte skip", "byteskip")
DATA_FILES = ("data file", "datafile")
VECTOR = re.compile(r"\(([^()]*)\)")
VECTORS = re.compile(r"\([^()]*\)(?: +\([^()]*\))*")


def nrrd_stored(path: Path) -> Stored:
    """Where the voxels of a NRRD file lie.

    Raises
    ------
    ImageError
        If it is not one scalar 3-D image in millimetres of a patient's space, or keeps its voxels in a way that is not read here.
    ValueError
        If the header cannot be read, or has impossible numbers; says which.
    """
    fields, length = _fields(path)
    _check_kind(fields, path)
    _check_placing(fields, path)
    sizes = whole_numbers(fields["sizes"], "sizes")
    if len(sizes) != 3:
        raise ValueError(f"its header gives sizes: {fields['sizes'][:80]!r}, three expected")
    check_voxel_count(sizes)
    named = [fields[name] for name in DATA_FILES if name in fields]
    if len(named) > 1:
        raise ValueError("its header names the file of its voxels twice")
    if named and (named[0].startswith("LIST") or "%" in named[0]):
        raise ImageError(f"{path} is a list of files: write the volume as one file.")
    voxel_bytes, packed = TYPE_BYTES[fields["type"].lower()], PACKED[fields["encoding"].lower()]
    return Stored(sizes, 0 if named else length, voxel_bytes, packed, named[0] if named else None)


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """Fields by their names in small letters, and the length of the header with the blank line that ends it."""
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES + 1)
    ends = re.search(rb"\n\r?\n", start)
    if ends is None and len(start) > HEADER_BYTES:
        raise ValueError(f"its header does not end within {HEADER_BYTES} bytes")
    header = start[: ends.start() if ends else len(start)].decode("latin-1")
    magic, *lines = header.splitlines()
    if not re.fullmatch(r"NRRD000[1-5]", magic):
        raise ValueError("it does not begin with NRRD0001 to NRRD0005")
    fields: dict[str, str] = {}
    for number, line in enumerate(lines, start=2):
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if line.startswith("#") or (colon and value.startswith("=")):
            continue
        if not colon or name in fields:
            raise ValueError(f"line {number} of its header is no 'field: value', or repeats a field")
        fields[name] = value.strip()
    return fields, ends.end() if ends else len(start)


def _check_kind(fields: Mapping[str, str], path: Path) -> None:
    missing = [name for name in ("dimension", "sizes", "type", "encoding") if name not in fields]
    if missing:
        raise ValueError(f"its header lacks {', '.join(missing)}")
    if fields["dimension"] != "3":
        raise ImageError(f"{path} is not one scalar 3-D image: it has dimension {fields['dimension'][:20]!r}.")
    if fields["type"].lower() not in TYPE_BYTES:
        raise ValueError(f"its header gives type: {fields['type'][:80]!r}, a number of 8 to 64 bits expected")
    if fields["encoding"].lower() not in PACKED:
        raise ImageError(
            f"{path} stores its voxels as {fields['encoding'][:20]!r}: expected raw or gzip. Save it in one of the two."
        )
    if fields.get("endian", "") not in {"little", "big"} and TYPE_BYTES[fields["type"].lower()] > 1:
        raise ImageError(f"{path} does not say its byte order: expected 'endian: little' or 'endian: big'.")
    skips = [name for name in SKIPS if fields.get(name, "0") != "0"]
    if skips:
        raise ImageError(f"{path} skips a part of its voxels' file ('{skips[0]}'): save it as NRRD alone.")


def _check_placing(fields: Mapping[str, str], path: Path) -> None:
    missing = [name for name in NEEDED if name not in fields]
    if missing:
        raise ImageError(
            f"{path} does not say where its voxels lie: its header has no '{', '.join(missing)}'. Export it with its geometry."
        )
    if fields["space"].lower() not in SPACES:
        raise ImageError(
            f"{path} lies in space {fields['space'][:40]!r}, which says nothing of the patient: expected one of "
            f"{', '.join(sorted(SPACES))}."
        )
    units = {unit for name in ("space units", "units") for unit in re.findall(r'"([^"]*)"', fields.get(name, ""))}
    if units - UNITS:
        raise ImageError(f"{path} gives its place in {min(units - UNITS)[:20]!r}: expected mm. Save it in mm.")
    for name, count in (("space directions", 3), ("space origin", 1)):
        vectors = VECTOR.findall(fields[name])
        if len(vectors) != count or not VECTORS.fullmatch(fields[name]):
            raise ValueError(f"its header gives {name}: {fields[name][:80]!r}, {count} vector(s) of three expected")
        for vector in vectors:
            finite_numbers([word.strip(" \t") for word in vector.split(",")], name, 3)
