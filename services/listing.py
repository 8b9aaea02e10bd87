"""Names in a store that a caller may see: committed objects below a folder; reads no object's bytes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from services.access import Reach
from services.errors import unprocessable
from services.objects import Objects
from store_schema import Snapshot
from store_schema.errors import InvalidKeyError, ObjectAlteredError, SchemaError, StoreError
from store_schema.keys import MAX_VIEW_ID_LENGTH, EntryKey
from store_schema.location import ObjectInfo
from store_schema.location.base import check_path
from store_schema.snapshot import MARKERS

KINDS = ("views", "commits", "data", "snapshots", "packs", "withdrawn", "runs")
Row = dict[str, Any]


def listed(objects: Objects, reach: Reach, prefix: str, *, names_only: bool) -> Iterator[Row]:
    """Rows of a listing below a prefix, which is a whole folder: of objects, or of the names directly below.

    Raises
    ------
    Refusal
        422, if the prefix is no folder of a store.
    """
    kind = prefix.partition("/")[0]
    if prefix:
        try:
            check_path(prefix)
        except StoreError as error:
            raise unprocessable(str(error)) from None
    if prefix and kind not in KINDS:
        raise unprocessable(f"{prefix[:80]!a} is no folder of a store: expected one below {', '.join(KINDS)}.")
    if any(len(name) > MAX_VIEW_ID_LENGTH for name in prefix.split("/")):
        return iter(())  # no store has such a name, and a file system would call it a failure
    if names_only:
        return _names(objects, reach, prefix)
    return (_row(one) for one in _objects(objects, reach, prefix, kind))


def _row(one: ObjectInfo) -> Row:
    return {"path": one.path, "size_bytes": one.size_bytes, "modified": one.modified.isoformat()}


def _objects(objects: Objects, reach: Reach, prefix: str, kind: str) -> Iterator[ObjectInfo]:
    sees = _Sees(objects, reach)
    for one in objects.store.location.objects(prefix):
        if sees.path(one.path):
            yield one
    # A folder that is not mounted lists nothing, and nothing must not be told as the whole.
    objects.check_there()


def _names(objects: Objects, reach: Reach, prefix: str) -> Iterator[Row]:
    location, sees = objects.store.location, _Sees(objects, reach)
    objects.check_there()
    if reach.own and prefix.split("/", maxsplit=1)[0] != "data":
        names = location.children(prefix)
        return iter([{"name": name} for name in names if prefix or name in KINDS or name == "engram.json"])
    if not prefix:
        return iter([{"name": name} for name in (*KINDS, "engram.json") if sees.kind(name)])
    start = f"{prefix}/"
    found = {
        one.path.removeprefix(start).split("/")[0]
        for one in _objects(objects, reach, prefix, prefix.split("/", maxsplit=1)[0])
    }
    return iter([{"name": name} for name in sorted(found)])


class _Sees:
    """What one caller sees of one store."""

    def __init__(self, objects: Objects, reach: Reach) -> None:
        self._objects, self._reach = objects, reach
        self._pinned: list[Snapshot] = [] if reach.own else objects.granted_snapshots(reach)
        self._attempts: dict[tuple[str, EntryKey], Mapping[str, Collection[str]]] = {}

    def kind(self, name: str) -> bool:
        return self._reach.own or name != "runs"

    def path(self, path: str) -> bool:
        """Whether an object is seen."""
        kind, _, rest = path.partition("/")
        names = rest.split("/")
        if kind == "data":
            return self._data(names)
        if self._reach.own:
            return kind in KINDS
        tests: dict[str, Callable[[], bool]] = {
            "views": lambda: self._spec(names[0].removesuffix(".json")),
            "withdrawn": lambda: self._view(names[0]),
            "commits": lambda: self._view(names[0]) or self._pins(names[0], names[1:4], names[-1]),
            "snapshots": lambda: self._snapshot(path),
            "packs": lambda: self._snapshot_id(names[0].rpartition("-")[0]),
        }
        return kind in tests and tests[kind]()

    def _view(self, view: str) -> bool:
        return self._reach.reads_view(view)

    def _spec(self, view: str) -> bool:
        return self._view(view) or any(one.view_id == view for one in self._pinned)

    def _pins(self, view: str, names: list[str], record: str) -> bool:
        try:
            key = EntryKey(*names)
        except (InvalidKeyError, TypeError):
            return False
        return any(
            one.view_id == view and key in one and record == f"{one.row(key).number:06d}.json" for one in self._pinned
        )

    def _snapshot(self, path: str) -> bool:
        if path.startswith(f"{MARKERS}/"):
            view, _, snapshot_id = path.removeprefix(f"{MARKERS}/").partition("/")
            return self._reach.reads_snapshot(snapshot_id, view)
        return self._snapshot_id(path.rpartition("/")[2].partition(".")[0])

    def _snapshot_id(self, snapshot_id: str) -> bool:
        if snapshot_id in self._reach.snapshots:
            return True
        if not self._reach.views:
            return False
        markers = self._objects.store.location
        return any(markers.exists(f"{MARKERS}/{view}/{snapshot_id}") for view in self._reach.views)

    def _data(self, names: list[str]) -> bool:
        """Whether data is of an attempt that a commit names, which the caller may read."""
        if len(names) < 6:
            return False
        try:
            key = EntryKey(*names[1:4])
        except InvalidKeyError:
            return False
        return "/".join(names[5:]) in self._attempts_of(names[0], key).get(names[4], ())

    def _attempts_of(self, view: str, key: EntryKey) -> Mapping[str, Collection[str]]:
        at = (view, key)
        if at not in self._attempts:
            try:
                self._attempts = {at: self._read_attempts(view, key)}
            except (ObjectAlteredError, SchemaError):
                # Whoever reads the damaged commit is told; the rest of the store is listed all the same.
                self._attempts = {at: {}}
        return self._attempts[at]

    def _read_attempts(self, view: str, key: EntryKey) -> Mapping[str, Collection[str]]:
        """Paths of the objects that commits list, by attempt."""
        if self._view(view):
            commits = list(self._objects.attempts(view, key).values())
        else:
            commits = [one.commit(key) for one in self._pinned if one.view_id == view and key in one]
        return {commit.attempt: commit.objects.keys() for commit in commits}
