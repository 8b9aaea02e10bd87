"""Keeps the parts of an entry that takes long on a local disk until it is committed; knows no store and no network.

A part is whole or not there: it is written beside its name, synced, and put in its place at once. What it was made from names its
folder, so that a part of other inputs, rules or numbers is never read. A full or broken disk makes a rerun slower, never wrong.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

from store_schema.records import sha256

CACHE = "XDG_CACHE_HOME"
"""Environment variable: where programs of a user keep what can be made again."""
OLD_S = 30 * 24 * 3600.0
"""Age, by this machine's clock, beyond which parts of an entry that nobody went on with are removed."""
DIGEST_BYTES = 32
_NAME = re.compile(r"[0-9a-f]{64}", re.ASCII)

log = logging.getLogger(__name__)


def usual_folder() -> Path:
    """Folder of unfinished entries in the user's cache."""
    cache = os.environ.get(CACHE, "").strip()
    return (Path(cache) if cache else Path.home() / ".cache") / "engram" / "unfinished"


@dataclass(frozen=True)
class Unfinished:
    """Parts of entries below one folder, readable by their owner alone, since they come from patients."""

    folder: Path

    def of(self, entry_sha256: str, made_from_sha256: str) -> Parts:
        """Parts of an entry.

        Parameters
        ----------
        entry_sha256
            Digest of the entry's input.
        made_from_sha256
            Digest of all else that decides a part's numbers; parts of another one are left alone.
        """
        return Parts(self._place(entry_sha256) / _checked(made_from_sha256))

    def forget(self, entry_sha256: str) -> None:
        """Remove what is kept of an entry: it is committed, or must not be."""
        shutil.rmtree(self._place(entry_sha256), ignore_errors=True)

    def tidy(self) -> None:
        """Remove entries that nobody went on with for a month; what somebody else keeps in the folder is left alone."""
        with contextlib.suppress(OSError):
            for place in list(self.folder.iterdir()):
                # a place that another process removes meanwhile must not keep the others
                with contextlib.suppress(OSError):
                    if _NAME.fullmatch(place.name) and _newest(place) < time.time() - OLD_S:
                        shutil.rmtree(place, ignore_errors=True)

    def _place(self, entry_sha256: str) -> Path:
        return self.folder / _checked(entry_sha256)


@dataclass(frozen=True)
class Parts:
    """What is kept of one entry, by the number with which a part begins."""

    folder: Path

    def get(self, number: int) -> dict[str, np.ndarray] | None:
        """The arrays of a part; None where it is not there, or is not what was written."""
        try:
            data = self._file(number).read_bytes()
        except OSError:
            return None
        digest, body = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
        if bytes.fromhex(sha256(body)) != digest:
            return None
        try:
            with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (ValueError, BadZipFile):
            return None

    def put(self, number: int, arrays: Mapping[str, np.ndarray]) -> bool:
        """Keep a part; False, and a word in the log, where the disk does not take it."""
        packed = io.BytesIO()
        with ZipFile(packed, "w") as file:
            for name, array in arrays.items():
                with file.open(f"{name}.npy", "w") as held:
                    np.lib.format.write_array(held, np.ascontiguousarray(array), allow_pickle=False)
        body = packed.getvalue()
        place = self._file(number)
        temporary = place.with_name(f".{place.name}-{uuid.uuid4().hex}")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(temporary, "xb", opener=_owners_alone) as raw:
                raw.write(bytes.fromhex(sha256(body)) + body)
                raw.flush()
                os.fsync(raw.fileno())
            temporary.replace(place)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            log.warning("%s takes no more parts (%s): after a kill they are made again", self.folder, error.strerror)
            return False
        return True

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.part"


def _newest(place: Path) -> float:
    """When anything below a folder was last written, in seconds; its own time where it holds nothing."""
    times = [place.stat().st_mtime]
    for one in place.rglob("*"):
        with contextlib.suppress(OSError):
            times.append(one.stat().st_mtime)
    return max(times)


def _checked(digest: str) -> str:
    if not _NAME.fullmatch(digest):
        raise ValueError(f"{ascii(digest)[:80]} is no sha256 in hex.")
    return digest


def _owners_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
