"""Opens the place a store lies in and moves whole objects; the only module that knows backends, and no record or array.

Few things are asked of a backend: read one object, write one, create one that must not exist yet, give its size, list names.
Everything above runs the same protocol over every backend.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote

from store_schema.errors import AlreadyExistsError, BackendError, ObjectMissingError, StoreError, UsageError

TEMPORARY = ".engram-tmp-"
"""Prefix of a folder's unfinished files: never listed, never read."""
SYNCED_HELD = 10_000
"""Folders that a location remembers as synced."""


def check_path(path: str) -> str:
    """The path itself, if it stays inside a store.

    Raises
    ------
    StoreError
        If it is absolute, empty, or has an empty, `.` or `..` segment, a backslash or a control character.
    """
    segments = path.split("/")
    if any(s in {"", ".", ".."} for s in segments) or "\\" in path or any(ord(c) < 32 for c in path):
        raise StoreError(f"{path!r} is not a path inside a store: expected segments joined by single slashes.")
    return path


class Location(ABC):
    """A flat space of immutable objects, named by slash-separated paths relative to the store's root."""

    url: str
    """Address that opens the same place again, without credentials."""
    can_list: bool = True
    """Whether names can be listed; over HTTP it does not."""

    @abstractmethod
    def get(self, path: str) -> bytes:
        """The object's bytes.

        Raises
        ------
        ObjectMissingError
            If there is no such object.
        BackendError
            If there may be one and it cannot be read.
        """

    @abstractmethod
    def put(self, path: str, data: bytes) -> None:
        """Writes an object of an attempt; durable when it returns.

        Raises
        ------
        BackendError
            If it cannot be written; nothing partial is visible.
        """

    @abstractmethod
    def create(self, path: str, data: bytes) -> None:
        """Writes an object that must not exist; exactly one of any number of racing writers succeeds.

        Raises
        ------
        AlreadyExistsError
            If the object exists.
        BackendError
            If it cannot be written; nothing partial is visible.
        """

    @abstractmethod
    def paths(self, prefix: str) -> list[str]:
        """Paths of all objects below a folder, sorted; empty where there is none."""

    @abstractmethod
    def children(self, prefix: str) -> list[str]:
        """Names directly below a folder, sorted; empty where there is none."""

    @abstractmethod
    def size_bytes(self, path: str) -> int | None:
        """The object's size, without reading it; None where there is no such object."""

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return self.size_bytes(path) is not None

    def reachable(self) -> bool:
        """Whether another process can open this place by its address."""
        return True


class MemoryLocation(Location):
    """A store in this process, for tests and trials; gone when the process ends."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, path: str) -> bytes:
        """See `Location.get`."""
        with self._lock:
            data = self._objects.get(check_path(path))
        if data is None:
            raise ObjectMissingError(f"{self.url}/{path} is not there.")
        return data

    def put(self, path: str, data: bytes) -> None:
        """See `Location.put`."""
        with self._lock:
            self._objects[check_path(path)] = bytes(data)

    def create(self, path: str, data: bytes) -> None:
        """See `Location.create`."""
        with self._lock:
            if check_path(path) in self._objects:
                raise AlreadyExistsError(f"{self.url}/{path} exists.")
            self._objects[path] = bytes(data)

    def paths(self, prefix: str) -> list[str]:
        """See `Location.paths`."""
        below = check_path(prefix) + "/"
        with self._lock:
            return sorted(path for path in self._objects if path.startswith(below))

    def children(self, prefix: str) -> list[str]:
        """See `Location.children`."""
        depth = len(prefix) + 1
        return sorted({path[depth:].split("/")[0] for path in self.paths(prefix)})

    def size_bytes(self, path: str) -> int | None:
        """See `Location.size_bytes`."""
        with self._lock:
            data = self._objects.get(check_path(path))
        return None if data is None else len(data)

    def reachable(self) -> bool:
        """Only from this process."""
        return False


class FolderLocation(Location):
    """A store in a folder, local or on a shared POSIX file system, with the guarantees of object storage.

    An object appears whole or not at all: it is written beside its place under a temporary name, synced, and then linked
    (a hard link fails where the name exists, so that creation has one winner), and the folder is synced.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = str(self.root)
        self._real_root = os.path.realpath(self.root)
        self._synced: set[Path] = set()
        """Folders known to be there for good: what is written into them needs no sync of the folders above."""

    def get(self, path: str) -> bytes:
        """See `Location.get`."""
        try:
            return self._place(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ObjectMissingError(f"{self.root / path} is not there.") from error
        except OSError as error:
            raise BackendError(_told("read", self.root / path, error)) from error

    def put(self, path: str, data: bytes) -> None:
        """See `Location.put`."""
        with self._written(path, data) as (temporary, place):
            temporary.replace(place)

    def create(self, path: str, data: bytes) -> None:
        """See `Location.create`."""
        with self._written(path, data) as (temporary, place):
            try:
                os.link(temporary, place)
            except FileExistsError as error:
                raise AlreadyExistsError(f"{place} exists.") from error

    def paths(self, prefix: str) -> list[str]:
        """See `Location.paths`."""
        return sorted(self._walk(self._place(prefix), PurePosixPath(prefix)))

    def children(self, prefix: str) -> list[str]:
        """See `Location.children`."""
        try:
            return sorted(e.name for e in os.scandir(self._place(prefix)) if not e.name.startswith(TEMPORARY))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise BackendError(_told("list", self.root / prefix, error)) from error

    def size_bytes(self, path: str) -> int | None:
        """See `Location.size_bytes`."""
        try:
            status = self._place(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise BackendError(_told("look up", self.root / path, error)) from error
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def _place(self, path: str) -> Path:
        """The file of an object; a symbolic link that leads out of the root is refused."""
        place = self.root / check_path(path)
        if not os.path.realpath(place).startswith(f"{self._real_root.rstrip(os.sep)}{os.sep}"):
            raise StoreError(f"{place} leads out of the store {self.root}: a store holds no links.")
        return place

    def _walk(self, folder: Path, prefix: PurePosixPath) -> Iterator[str]:
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise BackendError(_told("list", folder, error)) from error
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path), prefix / entry.name)
            elif not entry.name.startswith(TEMPORARY):
                yield str(prefix / entry.name)

    @contextlib.contextmanager
    def _written(self, path: str, data: bytes) -> Iterator[tuple[Path, Path]]:
        """A synced temporary file beside its place, for the block to move there; then the folder is synced."""
        place = self._place(path)
        temporary = place.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            self._make_folders(place.parent)
            with temporary.open("xb") as file:
                self._fill(file, data)
            yield temporary, place
            _sync_folder(place.parent)
        except OSError as error:
            raise BackendError(_told("write", place, error)) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _make_folders(self, folder: Path) -> None:
        """Makes a folder and those above it, each synced into the one above, also where another writer has just made it."""
        if not self.root.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            _sync_folder(self.root.parent)
        missing: list[Path] = []
        while folder != self.root and folder not in self._synced:
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            _sync_folder(path.parent)
        if len(self._synced) > SYNCED_HELD:
            self._synced.clear()
        self._synced.update(missing)

    def _fill(self, file: BinaryIO, data: bytes) -> None:
        """Writes all bytes of an object and syncs them; the one place where a disk runs full."""
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _told(action: str, place: Path, error: OSError) -> str:
    """What failed and what to do about it."""
    remedies = {
        errno.ENOSPC: "the disk is full: free space and run the same command again; nothing partial is visible",
        errno.EDQUOT: "the quota is used up: free space and run the same command again; nothing partial is visible",
        errno.EACCES: "permission denied: check the owner and mode of the store's folder",
        errno.EPERM: "not permitted: a store needs hard links, which FAT and some network file systems lack; use another",
        errno.EOPNOTSUPP: "a store needs hard links, which this file system lacks: use another",
        errno.ENAMETOOLONG: "the path is too long for this file system: use a shorter folder",
        errno.EROFS: "the file system is read-only: use another place or remount it",
    }
    remedy = remedies.get(error.errno or 0, "check the file system and run the same command again")
    return f"could not {action} {place}: {error.strerror or error} ({remedy})."


_MEMORY: dict[str, MemoryLocation] = {}
_MEMORY_LOCK = threading.Lock()


def open_location(url: str | os.PathLike[str]) -> Location:
    """The place behind a URL: a folder's path, `file://…`, or `memory://NAME`.

    Raises
    ------
    UsageError
        If the scheme is not one this version opens.
    """
    text = os.fspath(url)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return FolderLocation(Path(text).expanduser())
    if scheme == "file" and rest.removeprefix("localhost").startswith("/"):
        return FolderLocation(Path(unquote(rest.removeprefix("localhost"))))
    if scheme == "memory" and rest:
        with _MEMORY_LOCK:
            return _MEMORY.setdefault(text, MemoryLocation(text))
    raise UsageError(
        f"{scheme}://… is not a store this version opens: use a folder's path, file:///PATH, or memory://NAME."
    )
