"""A store in a folder, local or on a shared POSIX file system, with the guarantees of object storage; knows no network."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from store_schema.errors import AlreadyExistsError, BackendError, ObjectMissingError, StoreError
from store_schema.location.base import PROBES, Location, ObjectInfo, check_path

TEMPORARY = ".engram-tmp-"
"""Prefix of a folder's unfinished files: never listed, never read."""
SYNCED_HELD = 10_000
"""Folders that a location remembers as synced."""
TRIES = 50
"""Of a write whose folder was removed, as empty, between its making and its use."""


class FolderLocation(Location):
    """A store in a folder, local or on a shared POSIX file system, with the guarantees of object storage.

    An object appears whole or not at all: it is written beside its place under a temporary name, synced, and then linked
    (a hard link fails where the name exists, so that creation has one winner), and the folder is synced.
    """

    parallel = 8

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

    def get_part(self, path: str, *, start: int = 0, end: int | None = None) -> bytes:
        """See `Location.get_part`."""
        try:
            with self._place(path).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                begin, stop, _ = slice(start, end).indices(size)
                file.seek(begin)
                return file.read(max(0, stop - begin))
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

    def delete(self, path: str) -> None:
        """See `Location.delete`; folders that it leaves empty go too."""
        place = self._place(path)
        try:
            place.unlink(missing_ok=True)
            self._remove_empty(place.parent)
        except NotADirectoryError:
            return
        except OSError as error:
            raise BackendError(_told("delete", place, error)) from error

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Location.objects`."""
        for entry, path in self._walk(prefix):
            if not entry.name.startswith(TEMPORARY):
                yield from _info(entry, path)

    def paths(self, prefix: str) -> list[str]:
        """See `Location.paths`; without a look at each file."""
        return sorted(path for entry, path in self._walk(prefix) if not entry.name.startswith(TEMPORARY))

    def leftovers(self) -> Iterator[ObjectInfo]:
        """Temporary files of writers that were killed, or that write right now."""
        for entry, path in self._walk(""):
            if entry.name.startswith(TEMPORARY):
                yield from _info(entry, path)

    def delete_leftover(self, path: str) -> None:
        """See `Location.delete_leftover`."""
        if not PurePosixPath(path).name.startswith(TEMPORARY):
            raise StoreError(f"{path} is no unfinished file: those start with {TEMPORARY}.")
        self.delete(path)

    def children(self, prefix: str) -> list[str]:
        """See `Location.children`."""
        try:
            return sorted(e.name for e in os.scandir(self._folder(prefix)) if not e.name.startswith(TEMPORARY))
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

    def now(self) -> datetime:
        """See `Location.now`: the file system's clock, which on a network is the server's."""
        path = f"{PROBES}/{uuid.uuid4().hex}"
        self.put(path, b"")
        try:
            return datetime.fromtimestamp(self._place(path).stat().st_mtime, UTC)
        except OSError as error:
            raise BackendError(_told("look up", self.root / path, error)) from error
        finally:
            self.delete(path)

    def _folder(self, prefix: str) -> Path:
        return self._place(prefix) if prefix else self.root

    def _place(self, path: str) -> Path:
        """The file of an object; a symbolic link that leads out of the root is refused."""
        place = self.root / check_path(path)
        if not os.path.realpath(place).startswith(f"{self._real_root.rstrip(os.sep)}{os.sep}"):
            raise StoreError(f"{place} leads out of the store {self.root}: a store holds no links.")
        return place

    def _walk(self, prefix: str) -> Iterator[tuple[os.DirEntry[str], str]]:
        """Every file below a folder with its path in the store; links are not followed."""
        folders = [(str(self._folder(prefix)), prefix)]
        while folders:
            folder, inside = folders.pop()
            try:
                with os.scandir(folder) as found:
                    entries = list(found)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise BackendError(_told("list", self.root / inside, error)) from error
            for entry in entries:
                path = f"{inside}/{entry.name}" if inside else entry.name
                # What is a folder itself, not a link to one, lies below the root as the folder it is in does.
                if entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, path))
                else:
                    yield entry, path

    @contextlib.contextmanager
    def _written(self, path: str, data: bytes) -> Iterator[tuple[Path, Path]]:
        """A synced temporary file beside its place, for the block to move there; then the folder is synced."""
        place = self._place(path)
        temporary = place.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            with self._opened(temporary) as file:
                self._fill(file, data)
            yield temporary, place
            _sync_folder(place.parent)
        except OSError as error:
            raise BackendError(_told("write", place, error)) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _opened(self, temporary: Path) -> BinaryIO:
        """A new file; its folder is made once more where somebody has just removed it because it was empty."""
        for _ in range(TRIES):
            # FileExistsError: mkdir met a folder that was gone again when it looked what it was.
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                self._make_folders(temporary.parent)
                return temporary.open("xb")
            self._synced.clear()
        self._make_folders(temporary.parent)
        return temporary.open("xb")

    def _remove_empty(self, folder: Path) -> None:
        """Removes a folder and those above it as long as they are empty; whoever writes there makes them again."""
        while folder != self.root:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                return
            self._synced.discard(folder)
            folder = folder.parent

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
            path.mkdir(exist_ok=True, parents=True)
            _sync_folder(path.parent)
        if len(self._synced) > SYNCED_HELD:
            self._synced.clear()
        self._synced.update(missing)

    def _fill(self, file: BinaryIO, data: bytes) -> None:
        """Writes all bytes of an object and syncs them; the one place where a disk runs full."""
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _info(entry: os.DirEntry[str], path: str) -> Iterator[ObjectInfo]:
    """What is known of a file; nothing where it has just been removed."""
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        raise BackendError(_told("look up", Path(entry.path), error)) from error
    yield ObjectInfo(path, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))


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
