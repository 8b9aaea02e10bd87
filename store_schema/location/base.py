"""What is asked of a place that holds a store: whole objects by path, and a name that can be created only once; no backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from store_schema.errors import StoreError, UsageError

PROBES = ".engram-probe"
"""Folder of the objects that a look at a backend writes and removes; never part of a store."""


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


type Pin = tuple[str, str, str, int | None]
"""Patient, modality, ROI and number of a commit; None stands for the current one."""


def is_path(path: str) -> bool:
    """Whether a path stays inside a store."""
    try:
        check_path(path)
    except StoreError:
        return False
    return True


@dataclass(frozen=True)
class ObjectInfo:
    """One object as a listing tells it."""

    path: str
    size_bytes: int
    modified: datetime
    """When it was written, by the server's clock; UTC."""


class Location(ABC):
    """A flat space of immutable objects, named by slash-separated paths relative to the store's root."""

    url: str
    """Address that opens the same place again, without credentials."""
    can_list: bool = True
    """Whether names can be listed; over plain HTTP they cannot."""
    can_write: bool = True
    """Whether objects can be written; over plain HTTP they cannot."""
    can_delete: bool = True
    """Whether objects can be deleted, and those that no commit names be seen; not through the feature-store service."""
    gives_addresses: bool = False
    """Whether `addresses` may give any."""
    parallel: int = 1
    """Requests worth having in flight at once."""
    part_bytes: int | None = None
    """Part of a large object that is worth a request of its own; None where objects are read whole."""

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
    def get_part(self, path: str, *, start: int = 0, end: int | None = None) -> bytes:
        """The bytes from `start` up to but without `end`; a negative `start` counts from the end of the object.

        No digest covers a part: the store itself always reads whole objects. Plain Zarr readers need parts.
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

        A backend may report the loss of a race that was won, after an answer was lost on the way: callers read the object back.

        Raises
        ------
        AlreadyExistsError
            If the object exists.
        BackendError
            If it cannot be written; nothing partial is visible.
        """

    @abstractmethod
    def delete(self, path: str) -> None:
        """Removes an object; one that is not there is fine."""

    @abstractmethod
    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects below a folder, in no order; none where it is not there. An empty prefix means the whole place."""

    def paths(self, prefix: str) -> list[str]:
        """Paths of all objects below a folder, sorted; empty where there is none."""
        return sorted(one.path for one in self.objects(prefix))

    @abstractmethod
    def children(self, prefix: str) -> list[str]:
        """Names directly below a folder, sorted; empty where there is none. An empty prefix means the root."""

    @abstractmethod
    def size_bytes(self, path: str) -> int | None:
        """The object's size, without reading it; None where there is no such object."""

    @abstractmethod
    def now(self) -> datetime:
        """The time by the clock that dates this place's objects; UTC."""

    def leftovers(self) -> Iterator[ObjectInfo]:
        """What killed writers left that is no object; only file systems have any."""
        return iter(())

    def delete_leftover(self, path: str) -> None:
        """Removes one of `leftovers`."""
        raise StoreError(f"{path} is no leftover of this place: it keeps none.")

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return self.size_bytes(path) is not None

    def sign(self, paths: Sequence[str], *, seconds: int) -> list[str]:
        """Addresses at which objects can be read without credentials for a while; no request is made.

        Raises
        ------
        UsageError
            If the backend has no such addresses.
        """
        raise UsageError(
            f"{self.url} has no signed addresses: only S3 has ({len(paths)} were asked for, of {seconds} s)."
        )

    def make_snapshot(
        self, view_id: str, pins: Sequence[Pin] | None, *, where: Sequence[str] = (), base: str | None = None
    ) -> str | None:
        """Id of a snapshot that was made where the place lies; None where whoever asks makes it from what the place holds.

        Parameters
        ----------
        pins
            Entries to pin, all of the view where None.
        where, base
            See `Store.make_snapshot`; the base by its whole id.
        """
        del view_id, pins, where, base
        return None

    def make_pack(self, snapshot_id: str, kind: str) -> bool:
        """Whether a pack was made where the place lies; else whoever asks makes it."""
        del snapshot_id, kind
        return False

    def addresses(self, snapshot_id: str, names: Sequence[str]) -> Mapping[str, str] | None:
        """Where objects of a snapshot can be read for a while without a key, by PATIENT/MODALITY/ROI/PATH; None where nowhere."""
        del snapshot_id, names
        return None

    def get_at(self, address: str, size_bytes: int) -> bytes | None:
        """What one of `addresses` gives, at most one byte more than expected; None where it gives no object.

        Raises
        ------
        BackendError
            If nothing answers there.
        """
        del address, size_bytes
        return None

    def reachable(self) -> bool:
        """Whether another process can open this place by its address."""
        return True


def reopened(url: str) -> Location:
    """A location unpickled from its address: no handle and no credential travels."""
    from store_schema.location.opening import open_location  # noqa: PLC0415 - opening knows every kind of location

    return open_location(url)
