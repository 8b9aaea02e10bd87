"""A store in this process's memory, for tests and trials; knows no disk and no network."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

from store_schema.errors import AlreadyExistsError, ObjectMissingError
from store_schema.location.base import Location, ObjectInfo, check_path


class MemoryLocation(Location):
    """Gone when the process ends."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._objects: dict[str, bytes] = {}
        self._modified: dict[str, datetime] = {}
        self._lock = threading.Lock()

    def get(self, path: str) -> bytes:
        """See `Location.get`."""
        with self._lock:
            data = self._objects.get(check_path(path))
        if data is None:
            raise ObjectMissingError(f"{self.url}/{path} is not there.")
        return data

    def get_part(self, path: str, *, start: int = 0, end: int | None = None) -> bytes:
        """See `Location.get_part`."""
        return self.get(path)[start:end]

    def put(self, path: str, data: bytes) -> None:
        """See `Location.put`."""
        with self._lock:
            self._keep(check_path(path), data)

    def create(self, path: str, data: bytes) -> None:
        """See `Location.create`."""
        with self._lock:
            if check_path(path) in self._objects:
                raise AlreadyExistsError(f"{self.url}/{path} exists.")
            self._keep(path, data)

    def _keep(self, path: str, data: bytes) -> None:
        self._objects[path] = bytes(data)
        self._modified[path] = self.now()

    def delete(self, path: str) -> None:
        """See `Location.delete`."""
        with self._lock:
            self._objects.pop(check_path(path), None)

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Location.objects`."""
        below = check_path(prefix) + "/" if prefix else ""
        with self._lock:
            found = [(path, len(data)) for path, data in self._objects.items() if path.startswith(below)]
            return iter([ObjectInfo(path, size, self._modified.get(path, self.now())) for path, size in found])

    def children(self, prefix: str) -> list[str]:
        """See `Location.children`."""
        depth = len(prefix) + 1 if prefix else 0
        return sorted({path[depth:].split("/")[0] for path in self.paths(prefix)})

    def size_bytes(self, path: str) -> int | None:
        """See `Location.size_bytes`."""
        with self._lock:
            data = self._objects.get(check_path(path))
        return None if data is None else len(data)

    def now(self) -> datetime:
        """See `Location.now`."""
        return datetime.now(UTC)

    def reachable(self) -> bool:
        """Only from this process."""
        return False
