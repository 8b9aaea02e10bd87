"""Keeps objects on a local disk, by their digest, for all processes of a machine; knows no store and trusts no file.

A file's name is the sha256 of its bytes, so that nothing can go stale, and each is checked when it is read. A full or broken disk
makes reading slower, never wrong.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from store_schema.errors import BackendError, ConfigError
from store_schema.parallel import Guard
from store_schema.records import sha256

FOLDER, LIMIT = "ENGRAM_CACHE", "ENGRAM_CACHE_BYTES"
"""Environment variables: the folder of the cache, and how large it may grow."""
LIMIT_BYTES = 20 * 2**30
TRIM_TO = 0.8
"""Part of the limit to which a full cache is trimmed, the objects read longest ago first."""
CHECK_EVERY = 0.02
"""Part of the limit that a process adds before it looks at the size of the whole cache; it also looks when it first adds."""
TEMPORARY = ".engram-tmp-"
"""Prefix of unfinished files: never read, and removed with the rest when they are old."""
UNFINISHED_S = 3600
"""Age of an unfinished file, by this machine's clock, below which another process may still be writing it."""
_NAME = re.compile(r"[0-9a-f]{64}", re.ASCII)

log = logging.getLogger(__name__)


@dataclass
class DiskCache:
    """Objects below one folder, which may be shared by any number of processes.

    What it holds is readable by its owner alone, since it comes from patients.
    """

    folder: Path
    limit_bytes: int = LIMIT_BYTES
    _added: int | None = field(default=None, repr=False, compare=False)
    _broken: bool = field(default=False, repr=False, compare=False)
    _lock: Guard = field(default_factory=Guard, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[DiskCache], tuple[Path, int]]:
        return DiskCache, (self.folder, self.limit_bytes)

    def get(self, digest: str) -> bytes | None:
        """The bytes of this digest; None where they are not there, or no longer what they should be."""
        place = self._place(digest)
        try:
            data = place.read_bytes()
        except OSError:
            return None
        if sha256(data) != digest:
            with contextlib.suppress(OSError):
                place.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(place)
        return data

    def put(self, digest: str, data: bytes) -> None:
        """Keeps bytes under their digest; says once, and goes on, where the disk does not take them."""
        place = self._place(digest)
        temporary = place.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.parent.mkdir(mode=0o700, exist_ok=True)
            with open(temporary, "xb", opener=_owners_alone) as file:
                file.write(data)
            temporary.replace(place)
        except OSError as error:
            self._say_once(error)
            with contextlib.suppress(OSError):
                temporary.unlink()
            return
        if self._full_now(len(data)):
            self.trim()

    def purge(self, digests: Iterable[str]) -> None:
        """Removes objects that were withdrawn.

        Raises
        ------
        BackendError
            If one cannot be removed: it must not stay unnoticed.
        """
        for digest in digests:
            place = self._place(digest)
            try:
                place.unlink(missing_ok=True)
            except OSError as error:
                # Of a cache that cannot be looked into, nothing is ever given.
                if not os.path.lexists(place):
                    continue
                raise BackendError(
                    f"{place} holds data of a withdrawn entry and cannot be removed ({error.strerror}): remove {self.folder}."
                ) from error

    def trim(self) -> None:
        """Removes the objects read longest ago until the cache is well below its limit; others may do the same at once."""
        held = sorted(self._held())
        excess = sum(size for _, size, _ in held) - self.limit_bytes * TRIM_TO
        if excess <= self.limit_bytes * (1 - TRIM_TO):
            return
        for _, size, path in held:
            if excess <= 0:
                return
            with contextlib.suppress(OSError):
                path.unlink()
                excess -= size

    def _held(self) -> Iterable[tuple[float, int, Path]]:
        """Time of the last reading, size and place of each file; what somebody else keeps in the folder is left alone."""
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            unfinished = path.name.startswith(TEMPORARY)
            if unfinished or _NAME.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    status = path.stat()
                    if not unfinished or status.st_mtime < time.time() - UNFINISHED_S:
                        yield status.st_mtime, status.st_size, path

    def _full_now(self, size_bytes: int) -> bool:
        """Whether it is time to look at the whole cache's size."""
        with self._lock:
            due = self._added is None or self._added + size_bytes >= CHECK_EVERY * self.limit_bytes
            self._added = 0 if due or self._added is None else self._added + size_bytes
        return due

    def _say_once(self, error: OSError) -> None:
        with self._lock:
            first, self._broken = not self._broken, True
        if first:
            log.warning(
                "the cache %s takes no more objects (%s): reading goes on without it", self.folder, error.strerror
            )

    def _place(self, digest: str) -> Path:
        if not _NAME.fullmatch(digest):
            raise ValueError(f"{ascii(digest)[:80]} is no sha256 in hex.")
        return self.folder / digest[:2] / digest


def cache_from_environment() -> DiskCache | None:
    """The cache that ENGRAM_CACHE names; None where it is not set.

    Raises
    ------
    ConfigError
        If ENGRAM_CACHE_BYTES is no number of bytes.
    """
    folder = os.environ.get(FOLDER, "").strip()
    if not folder:
        return None
    limit = os.environ.get(LIMIT, "").strip() or str(LIMIT_BYTES)
    if not (limit.isascii() and limit.isdigit() and int(limit)):
        raise ConfigError(
            f"{LIMIT}={limit[:40]!a} is no number of bytes: expected digits alone, such as {LIMIT_BYTES}."
        )
    return DiskCache(Path(folder).expanduser().absolute(), int(limit))


def _owners_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
