"""Checks that the voxels which a header promises are all there, whole, and no more; knows no format of headers.

A file with bytes too many is as suspect as one with too few: where a byte was added before them, every voxel is another one.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_VOXELS = 2**29
"""Of one image, before it is read: 512 x 512 x 2048, more than any whole-body scan. What claims more is a broken header or a
bomb."""
SCAN_BYTES = 2**22
"""Read at once."""
ZLIB_OR_GZIP = 47
"""Window bits of zlib that take either kind of stream, as MetaIO does."""
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"\d{1,10}", re.ASCII)


@dataclass(frozen=True)
class Stored:
    """Where the voxels of an image lie, as its header says."""

    sizes: tuple[int, ...]
    """Voxels along each axis, the fastest first."""
    offset_bytes: int
    """Where they begin in their file."""
    voxel_bytes: int
    packed: bool = False
    """Whether they are one stream of zlib or gzip."""
    beside: str | None = None
    """The file of the same folder that holds them; None where they follow the header."""

    @property
    def data_bytes(self) -> int:
        """How long they are, unpacked."""
        return math.prod(self.sizes) * self.voxel_bytes


def check_stored(path: Path, stored: Stored) -> None:
    """Refuses voxels that are too few, too many, or do not unpack as their checksum says.

    Raises
    ------
    ValueError, EOFError, zlib.error, OSError
        Says what is wrong with them.
    """
    place = path if stored.beside is None else voxels_beside(path, stored.beside)
    if not stored.packed:
        # Opened, not asked for: what may not be read is found here, and ITK would not say so.
        with place.open("rb") as file:
            check_length(file.seek(0, os.SEEK_END) - stored.offset_bytes, stored.data_bytes)
        return
    size_bytes = 0
    for block in _unpacked(place, stored.offset_bytes):
        size_bytes += len(block)
        check_not_more(size_bytes, stored.data_bytes)
    check_length(size_bytes, stored.data_bytes)


def voxels_beside(path: Path, name: str) -> Path:
    """The file of voxels that a header names; a header may come from anybody, so that it must lie beside it."""
    plain = name.removeprefix("./")
    if plain in {"", ".", ".."} or "/" in plain or "\\" in plain or "\0" in plain:
        raise ValueError(f"it names {name[:80]!r} as the file of its voxels, a file in the same folder expected")
    beside = path.parent / plain
    if not beside.is_file():
        raise ValueError(f"the file of its voxels, {name[:80]!r}, is not there or no regular file")
    return beside


def _unpacked(path: Path, offset_bytes: int) -> Iterator[bytes]:
    """The unpacked blocks; raises zlib.error where they or their checksum are wrong, EOFError where they end early."""
    stream = zlib.decompressobj(ZLIB_OR_GZIP)
    with path.open("rb") as file:
        file.seek(offset_bytes)
        while block := file.read(SCAN_BYTES):
            if stream.eof:
                raise ValueError("it goes on after its compressed voxels")
            # In parts: a block of zeros would become a thousand of its size at once.
            while block and not stream.eof:
                yield stream.decompress(block, SCAN_BYTES)
                block = stream.unconsumed_tail
            if stream.unused_data:
                raise ValueError("it goes on after its compressed voxels")
    if not stream.eof:
        raise EOFError("its compressed voxels end too early")


def check_length(size_bytes: int, expected_bytes: int) -> None:
    """Refuses another number of bytes than the header promises."""
    if size_bytes < expected_bytes:
        raise ValueError(f"{max(0, size_bytes)} bytes of voxels, {expected_bytes} expected")
    check_not_more(size_bytes, expected_bytes)


def check_not_more(size_bytes: int, expected_bytes: int) -> None:
    """Refuses more bytes than the header promises."""
    if size_bytes > expected_bytes:
        raise ValueError(f"it goes on after the {expected_bytes} bytes of voxels that its header promises")


def check_voxel_count(sizes: Sequence[int]) -> None:
    """Refuses an image without voxels, or with more than any scan has."""
    if not sizes or min(sizes) < 1 or math.prod(sizes) > MAX_VOXELS:
        raise ValueError(
            f"its header gives sizes {list(sizes)[:8]}, each above 0 and at most {MAX_VOXELS} voxels expected"
        )


def words_of(written: str) -> list[str]:
    """The words of a field between blanks; other characters are blanks to some readers only, and stay in their word."""
    return [word for word in re.split(r"[ \t]+", written) if word]


def whole_numbers(written: str, what: str) -> tuple[int, ...]:
    """The whole numbers of a field, each of at most ten digits; readers take what follows a digit in ways of their own."""
    words = words_of(written)
    if not all(_WHOLE.fullmatch(word) for word in words):
        raise ValueError(f"its header gives {what} = {written[:80]!r}, whole numbers expected")
    return tuple(map(int, words))


def finite_numbers(words: Sequence[str], what: str, count: int) -> tuple[float, ...]:
    """So many finite numbers of a field."""
    if len(words) != count or not all(_NUMBER.fullmatch(word) and math.isfinite(float(word)) for word in words):
        raise ValueError(f"its header gives {what} = {' '.join(words)[:80]!r}, {count} finite numbers expected")
    return tuple(map(float, words))
