"""Gives a temporary folder for what memory does not hold, and removes those that killed processes left; reads no file of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "engram-features-"
LOCK = "in-use"
YOUNG_S = 600.0
"""Age below which a folder without a lock may be one that is just being made."""


@contextlib.contextmanager
def shelf_folder() -> Iterator[Path]:
    """An empty folder that is gone at the end of the block; nobody else's process removes it before."""
    tidy_shelves()
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, (Path(name) / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def tidy_shelves() -> None:
    """Remove folders that no process holds any more: the lock of a killed one is gone with it."""
    for place in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # another user's, or gone meanwhile: the others are still looked at
        with contextlib.suppress(OSError):
            if place.stat().st_mtime < time.time() - YOUNG_S and not _held(place / LOCK):
                shutil.rmtree(place, ignore_errors=True)


def _held(lock: Path) -> bool:
    """Whether a process holds a folder; one without a lock is of a version that had none, and is held by nobody we can ask."""
    try:
        file = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
