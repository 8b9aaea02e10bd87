"""A store on any other file system that fsspec knows; knows no backend by name.

Most of them cannot create a name exactly once: fsspec's own way is to look whether the name is free and to write then, and two
writers at once both succeed. Nothing is created through those; `store-schema init` and `doctor` try out the others.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from store_schema.errors import AlreadyExistsError, BackendError, ObjectMissingError
from store_schema.location.base import PROBES, Location, ObjectInfo, check_path, reopened
from store_schema.redact import redact


class FilesystemLocation(Location):
    """Objects below a folder of an fsspec file system."""

    parallel = 8

    def __init__(self, url: str, open_filesystem: Callable[[], tuple[Any, str]]) -> None:
        self.url = url
        self._fs, root = open_filesystem()
        self._root = root.rstrip("/")

    def __reduce__(self) -> tuple[Callable[[str], Location], tuple[str]]:
        """A pickled location is its address."""
        return reopened, (self.url,)

    def get(self, path: str) -> bytes:
        """See `Location.get`."""
        with self._told("read", path):
            return bytes(self._fs.cat_file(self._place(path)))

    def get_part(self, path: str, *, start: int = 0, end: int | None = None) -> bytes:
        """See `Location.get_part`."""
        with self._told("read", path):
            return bytes(self._fs.cat_file(self._place(path), start=start, end=end))

    def put(self, path: str, data: bytes) -> None:
        """See `Location.put`."""
        with self._told("write", path):
            self._make_parent(path)
            self._fs.pipe_file(self._place(path), data)

    def create(self, path: str, data: bytes) -> None:
        """See `Location.create`.

        Raises
        ------
        BackendError
            Also if the file system looks first and writes then.
        """
        if _looks_first(self._fs):
            raise BackendError(
                f"{self.url}/{check_path(path)} was not created: this file system cannot create a name exactly once, and two "
                "writers would overwrite each other. A store there can be read; write to s3://, gs://, az:// or a local folder."
            )
        with self._told("write", path):
            self._make_parent(path)
            try:
                self._fs.pipe_file(self._place(path), data, mode="create")
            except FileExistsError as error:
                raise AlreadyExistsError(f"{self.url}/{path} exists.") from error

    def delete(self, path: str) -> None:
        """See `Location.delete`."""
        with self._told("delete", path), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._place(path))

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Location.objects`."""
        with self._told("list", prefix):
            self._fs.invalidate_cache()
            found = self._fs.find(self._place(prefix), detail=True)
        for place, info in sorted(found.items()):
            yield ObjectInfo(place.removeprefix(f"{self._root}/"), int(info["size"]), self._modified(place, info))

    def children(self, prefix: str) -> list[str]:
        """See `Location.children`."""
        with self._told("list", prefix):
            self._fs.invalidate_cache()
            try:
                places = self._fs.ls(self._place(prefix), detail=False)
            except FileNotFoundError:
                return []
        return sorted(place.rstrip("/").rpartition("/")[2] for place in places)

    def size_bytes(self, path: str) -> int | None:
        """See `Location.size_bytes`."""
        with self._told("look up", path):
            self._fs.invalidate_cache()
            try:
                info = self._fs.info(self._place(path))
            except FileNotFoundError:
                return None
        return int(info["size"]) if info["type"] == "file" else None

    def now(self) -> datetime:
        """See `Location.now`."""
        path = f"{PROBES}/{uuid.uuid4().hex}"
        self.put(path, b"now")
        try:
            return self._modified(self._place(path), {})
        finally:
            self.delete(path)

    def _modified(self, place: str, info: dict[str, Any]) -> datetime:
        found = info.get("mtime") or info.get("LastModified") or self._fs.modified(place)
        moment = datetime.fromtimestamp(found, UTC) if isinstance(found, int | float) else found
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

    def _place(self, path: str) -> str:
        return f"{self._root}/{check_path(path)}" if path else self._root

    def _make_parent(self, path: str) -> None:
        self._fs.makedirs(self._place(path).rpartition("/")[0], exist_ok=True)

    @contextlib.contextmanager
    def _told(self, action: str, path: str) -> Iterator[None]:
        """Turns what a file system raises into what a store raises."""
        try:
            yield
        except FileNotFoundError as error:
            raise ObjectMissingError(f"{self.url}/{path} is not there.") from error
        except (OSError, ValueError, NotImplementedError) as error:
            raise BackendError(
                f"could not {action} {self.url}/{path}: {redact(str(error))[:300]} (`store-schema doctor` tells what it can do)."
            ) from None


def _looks_first(fs: Any) -> bool:
    """Whether a file system creates by fsspec's own way, which is not atomic; of one that wraps another, whether that one does."""
    from fsspec import AbstractFileSystem  # noqa: PLC0415

    inner = getattr(fs, "fs", None) or getattr(fs, "sync_fs", None)
    if isinstance(inner, AbstractFileSystem):
        return _looks_first(inner)
    return getattr(fs.pipe_file, "__func__", None) is AbstractFileSystem.pipe_file
