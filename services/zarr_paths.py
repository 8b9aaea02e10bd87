"""A snapshot as a Zarr v3 hierarchy over HTTP: which name means which committed object; knows no caller.

HTTP cannot list, so groups carry the metadata of what is below them (consolidated): a snapshot never changes, and so it never goes
stale. Above `MOST_ROWS` entries the root does not, since every reader would fetch it whole; entries are then opened by their paths.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from services.access import Reach
from services.held import COMMITS_BYTES, Held, weight
from services.objects import Objects, absent
from services.ranges import Found
from store_schema import Snapshot
from store_schema.errors import InvalidKeyError, ObjectMissingError
from store_schema.keys import EntryKey
from store_schema.parallel import each
from store_schema.records import CommitRecord, sha256

MOST_ROWS = 5000
GROUPS_BYTES = 64 * 2**20
JSON = "application/json"


@dataclass
class ZarrPaths:
    """Names of the snapshots of one store."""

    objects: Objects
    _commits: Held[tuple[str, str], CommitRecord] = field(default_factory=lambda: Held(COMMITS_BYTES, weight))
    _groups: Held[tuple[str, str], bytes] = field(default_factory=lambda: Held(GROUPS_BYTES, len, parts=1))

    def find(self, snapshot: Snapshot, path: str) -> Found:
        """The object that a Zarr key means.

        Raises
        ------
        Refusal
            404, if the snapshot has no such name.
        ObjectMissingError, ObjectAlteredError
            If it has, and the object is gone or another.
        """
        folder, _, name = f"/{path}".rpartition("/")
        names = folder.strip("/").split("/") if folder else []
        if name == "zarr.json" and len(names) <= 3 and self._below(snapshot, names):
            data = self._group(snapshot, "/".join(names))
            return Found(data, sha256(data), f"snapshot {snapshot.id}", JSON)
        commit, within = self.committed(snapshot, path)
        return self.objects.object(commit, within)

    def held(self, reach: Reach, snapshot_id: str, path: str) -> Found | None:
        """An object within an entry that is in memory and may be read; None where anything must be asked first. Never waits."""
        snapshot = self.objects.held_snapshot(reach, snapshot_id)
        names = path.rsplit("/", path.count("/") - 2) if path.count("/") > 2 else []
        commit = self._commits.get((snapshot_id, names[0])) if names and snapshot is not None else None
        return None if commit is None else self.objects.held_object(commit, path[len(names[0]) + 1 :])

    def committed(self, snapshot: Snapshot, path: str) -> tuple[CommitRecord, str]:
        """The commit and the object of it that a Zarr key within an entry means; see `find`."""
        *names, within = path.split("/", 3)
        try:
            key = EntryKey(*names)
        except (TypeError, InvalidKeyError):
            raise absent() from None
        if key not in snapshot:
            raise absent()
        commit = self._commit(snapshot, key)
        if within in commit.objects:
            return commit, within
        array, _, rest = within.partition("/")
        if array in commit.arrays and (rest == "c" or rest.startswith("c/")):
            raise ObjectMissingError(f"{path} is a chunk of a committed array, and its commit does not list it.")
        raise absent()

    def _commit(self, snapshot: Snapshot, key: EntryKey) -> CommitRecord:
        at = (snapshot.id, str(key))
        return self._commits.get(at) or self._commits.put(at, snapshot.commit(key))

    def _below(self, snapshot: Snapshot, names: list[str]) -> list[EntryKey]:
        """Entries in a group, or the one that it is."""
        if len(names) == 3:
            return [key for key in _keys("/".join(names)) if key in snapshot]
        return [key for key in snapshot.keys if [key.patient, key.modality][: len(names)] == names]

    def _group(self, snapshot: Snapshot, folder: str) -> bytes:
        at = (snapshot.id, folder)
        held = self._groups.get(at)
        if held is not None:
            return held
        keys = self._below(snapshot, folder.split("/") if folder else [])
        group = _group({})
        if len(keys) <= MOST_ROWS:
            commits = list(each(lambda key: self._commit(snapshot, key), keys, parallel=snapshot.location.parallel))
            if folder.count("/") == 2:
                group = _group(commits[0].attributes)
            group["consolidated_metadata"] = {
                "kind": "inline", "must_understand": False, "metadata": _consolidated(folder, commits),
            }  # fmt: skip
        return self._groups.put(at, json.dumps(group, separators=(",", ":")).encode())


def _keys(text: str) -> list[EntryKey]:
    """The key that a path is; none where it is no key."""
    try:
        return [EntryKey.parse(text)]
    except InvalidKeyError:
        return []


def _group(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"attributes": attributes, "zarr_format": 3, "node_type": "group"}


def _consolidated(folder: str, commits: Sequence[CommitRecord]) -> dict[str, Any]:
    """Metadata of everything below a folder, by path relative to it."""
    depth = len(folder.split("/")) if folder else 0
    found: dict[str, Any] = {}
    for commit in commits:
        names = [commit.patient, commit.modality, commit.roi]
        for end in range(depth + 1, 3):
            found.setdefault("/".join(names[depth:end]), _group({}))
        entry = "/".join(names[depth:])
        if entry:
            found[entry] = _group(commit.attributes)
        for name, metadata in commit.arrays.items():
            found[f"{entry}/{name}".lstrip("/")] = metadata
    return found
