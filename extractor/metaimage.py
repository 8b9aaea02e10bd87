"""Reads the header of a MetaImage as strictly as its numbers deserve; reads no voxel.

MetaIO itself takes what it does not understand for its default: an origin of 0, another byte order, text for binary. Numbers of
axes that are none overrun its memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from extractor.stored_voxels import Stored, check_voxel_count, finite_numbers, whole_numbers, words_of
from store_schema.errors import ImageError

HEADER_BYTES = 2**16
"""More than any header of names and numbers."""
TYPE_BYTES = {
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
PLACING = {
    "ElementSpacing": (("ElementSpacing",), 3),
    "TransformMatrix": (("TransformMatrix", "Rotation", "Orientation"), 9),
    "Offset": (("Offset", "Position", "Origin"), 3),
}
"""Names and count of the numbers of each part of a geometry."""
BYTE_ORDERS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
FIXED = {
    "ObjectType": ("Image",),
    "NDims": ("3",),
    "ElementNumberOfChannels": ("1",),
    "HeaderSize": ("0",),
    "ElementToIntensityFunctionSlope": ("1",),
    "ElementToIntensityFunctionOffset": ("0",),
    "DistanceUnits": ("mm", "?"),
}
"""What of a header readers take in different ways, with the values that all take alike."""
KNOWN = {*FIXED, *BYTE_ORDERS, *(name for names, _ in PLACING.values() for name in names)} | {
    *("BinaryData", "CompressedData", "CompressedDataSize", "DimSize", "ElementType", "ElementDataFile"),
}
TRUTH = {"True": True, "true": True, "T": True, "1": True, "False": False, "false": False, "F": False, "0": False}
LINE = re.compile(r"[ \t]*([^\s=:]+)[ \t]*=[ \t]*([^\0\r\n]*?)[ \t]*\r?\n")


def metaimage_stored(path: Path) -> Stored:
    """Where the voxels of a MetaImage lie.

    Raises
    ------
    ImageError
        If it is not one scalar 3-D image of binary voxels, or does not say where they lie in space.
    ValueError
        If the header cannot be read, or has impossible numbers; says which.
    """
    fields, length = _fields(path)
    _check_kind(fields, path)
    _check_placing(fields, path)
    sizes = whole_numbers(fields["DimSize"], "DimSize")
    if len(sizes) != 3:
        raise ValueError(f"its header gives DimSize = {fields['DimSize'][:80]!r}, three sizes expected")
    check_voxel_count(sizes)
    where = fields["ElementDataFile"]
    local = where.upper() == "LOCAL"
    packed = _truth(fields, "CompressedData", default=False)
    begins = length if local else 0
    if packed and local and "CompressedDataSize" not in fields:
        # MetaIO then takes a length of its own and hands out unset memory.
        raise ImageError(f"{path} does not say how long its packed voxels are (CompressedDataSize): export it anew.")
    if packed and "CompressedDataSize" in fields:
        _check_packed_size(fields["CompressedDataSize"], path if local else path.parent / where, begins)
    return Stored(sizes, begins, TYPE_BYTES[fields["ElementType"]], packed, None if local else where)


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """Fields by name, and the length of the header."""
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES).decode("latin-1")
    fields: dict[str, str] = {}
    place = 0
    while "ElementDataFile" not in fields:
        line = LINE.match(start, place)
        if line is None:
            number = start.count("\n", 0, place) + 1
            raise ValueError(f"line {number} of its header is not 'Name = value', or ElementDataFile is missing")
        name, value = line.groups()
        if name in KNOWN & fields.keys():
            raise ValueError(f"its header gives {name} twice")
        fields[name], place = value, line.end()
    missing = [name for name in ("NDims", "DimSize", "ElementType") if name not in fields]
    if missing or fields["ElementType"] not in TYPE_BYTES:
        raise ValueError(f"its header lacks or garbles {' and '.join(missing) or 'ElementType'}")
    return fields, place


def _check_kind(fields: Mapping[str, str], path: Path) -> None:
    """Refuses what readers take in different ways: several channels, scaled or text voxels, lists of files."""
    for name, accepted in FIXED.items():
        if name in fields and fields[name] not in accepted:
            raise ImageError(
                f"{path} is not one scalar 3-D image with its values as they are, in millimetres: its header gives {name} = "
                f"{fields[name][:80]!r}, expected {' or '.join(accepted)}. Export it anew."
            )
    where = fields["ElementDataFile"]
    if where.startswith("LIST") or "%" in where:
        raise ImageError(f"{path} is a list of files: write the volume as one file.")
    if where.upper().startswith("LOCAL") and where not in {"LOCAL", "Local", "local"}:
        raise ValueError(f"its header gives ElementDataFile = {where[:80]!r}, LOCAL or the name of a file expected")
    if not _truth(fields, "BinaryData", default=False):
        raise ImageError(f"{path} does not say that its voxels are binary (BinaryData = True): export it so.")
    said = {_truth(fields, name, default=False) for name in BYTE_ORDERS if name in fields}
    if len(said) != 1 and TYPE_BYTES[fields["ElementType"]] > 1:
        raise ImageError(
            f"{path} does not say its byte order, or says two: expected {BYTE_ORDERS[0]} = True or False. Export it anew."
        )


def _check_placing(fields: Mapping[str, str], path: Path) -> None:
    given = {part: [name for name in names if name in fields] for part, (names, _) in PLACING.items()}
    missing = [part for part, names in given.items() if not names]
    if missing:
        raise ImageError(
            f"{path} does not say where its voxels lie: its header has no {' and no '.join(missing)}. Export it with its geometry."
        )
    for part, names in given.items():
        if len(names) > 1:
            raise ValueError(f"its header gives {' and '.join(names)}, one of them expected")
        numbers = finite_numbers(words_of(fields[names[0]]), names[0], PLACING[part][1])
        if part == "ElementSpacing" and min(numbers) <= 0:
            raise ValueError(f"its header gives ElementSpacing = {fields[part][:80]!r}, numbers above 0 expected")


def _truth(fields: Mapping[str, str], name: str, *, default: bool) -> bool:
    if name not in fields:
        return default
    if fields[name] not in TRUTH:
        raise ValueError(f"its header gives {name} = {fields[name][:80]!r}, True or False expected")
    return TRUTH[fields[name]]


def _check_packed_size(written: str, path: Path, offset_bytes: int) -> None:
    """Refuses a length of the compressed voxels that is not the file's: MetaIO unpacks so much and no more."""
    there = path.stat().st_size - offset_bytes if path.is_file() else None
    if there is not None and whole_numbers(written, "CompressedDataSize") != (there,):
        raise ValueError(f"its header gives CompressedDataSize = {written[:80]!r}, and {there} bytes are there")
