"""Immutable lists of commits: what a run of the trainer pins; knows no array and never the current commit.

A snapshot is named by the sha256 of its uncompressed lines, so that its id does not depend on a compressor's version.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import pairwise
from sys import intern

from numcodecs import Zstd

from store_schema.commits import commit_path, create_or_read, parse_commit
from store_schema.errors import (
    EntryWithdrawnError,
    InvalidKeyError,
    NotCommittedError,
    ObjectAlteredError,
    ObjectMissingError,
    SchemaError,
    UsageError,
)
from store_schema.keys import EntryKey
from store_schema.location import Location, open_location
from store_schema.reader import StoredEntry, read_entry
from store_schema.records import CommitRecord, SnapshotHeader, ViewSpec, canonical_json, parse_record, sha256
from store_schema.views import read_view
from store_schema.withdrawals import withdrawn

ZSTD_LEVEL = 9
SNAPSHOT_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
SUFFIX = ".jsonl.zst"
MARKERS = "snapshots/of"
"""Empty objects VIEW/SNAPSHOT below it find the snapshots of a view without reading any."""


@dataclass(frozen=True, order=True, slots=True)
class SnapshotRow:
    """One pinned entry."""

    key: EntryKey
    number: int
    """Commit number."""
    commit_sha256: str
    """Digest of the commit record's bytes."""


@dataclass(frozen=True)
class SnapshotList:
    """The content of a snapshot: a header that names one view, and rows sorted by key."""

    header: SnapshotHeader
    rows: tuple[SnapshotRow, ...]

    @cached_property
    def lines(self) -> bytes:
        """The uncompressed JSON lines; equal lists give equal bytes."""
        lines = BytesIO()
        lines.write(self.header.to_bytes() + b"\n")
        for row in self.rows:
            key = row.key
            lines.write(canonical_json([key.patient, key.modality, key.roi, row.number, row.commit_sha256]) + b"\n")
        return lines.getvalue()

    @cached_property
    def id(self) -> str:
        """sha256 of the lines."""
        return sha256(self.lines)


def make_list(header: SnapshotHeader, rows: Iterable[SnapshotRow]) -> SnapshotList:
    """A snapshot's content in its one order."""
    return SnapshotList(header, tuple(sorted(rows, key=lambda row: (row.key.patient, row.key.modality, row.key.roi))))


def snapshot_path(snapshot_id: str) -> str:
    """Path of a snapshot relative to the store's root."""
    return f"snapshots/{snapshot_id}{SUFFIX}"


def compress(lines: bytes) -> bytes:
    """The bytes that are stored."""
    return bytes(Zstd(level=ZSTD_LEVEL).encode(lines))


def parse_list(data: bytes, *, snapshot_id: str) -> SnapshotList:
    """A snapshot from its stored bytes, checked against its name.

    Raises
    ------
    ObjectAlteredError
        If the bytes are not those that gave the snapshot its name.
    SchemaError
        If they are of another schema.
    """
    path = snapshot_path(snapshot_id)
    lines = BytesIO(_decompressed(data, snapshot_id))
    header = parse_record(SnapshotHeader, lines.readline().removesuffix(b"\n"), where=path)
    rows = tuple(_row(line, path) for line in lines)
    if len(rows) != header.rows or any(before.key >= after.key for before, after in pairwise(rows)):
        raise SchemaError(f"{path} has {len(rows)} rows: expected {header.rows}, sorted by key, each key once.")
    return SnapshotList(header, rows)


def _decompressed(data: bytes, snapshot_id: str) -> bytes:
    """The lines that gave a snapshot its name."""
    path = snapshot_path(snapshot_id)
    try:
        lines = bytes(Zstd().decode(data))
    except (RuntimeError, ValueError) as error:
        raise ObjectAlteredError(
            f"{path} does not decompress: {error}. Restore it from a copy of the store."
        ) from error
    if sha256(lines) != snapshot_id:
        raise ObjectAlteredError(f"{path} has content {sha256(lines)[:16]}…: restore it from a copy of the store.")
    return lines


def _row(line: bytes, path: str) -> SnapshotRow:
    try:
        patient, modality, roi, number, digest = json.loads(line.decode())
        # A snapshot repeats few modalities and ROIs: each is held once.
        return SnapshotRow(EntryKey(patient, intern(modality), intern(roi)), int(number), str(digest))
    except (TypeError, ValueError, InvalidKeyError) as error:
        raise SchemaError(f"{path}: {line[:120]!r} is not a row [patient, modality, roi, number, sha256].") from error


def resolve_id(text: str, ids: Callable[[], Sequence[str]]) -> str:
    """The one snapshot id that starts with the text; `ids` is asked only where the text is not a whole id.

    Raises
    ------
    NotCommittedError
        If none or several do.
    """
    if SNAPSHOT_ID.fullmatch(text):
        return text
    known = ids()
    found = [name for name in known if text and name.startswith(text)]
    if len(found) != 1:
        some = ", ".join(name[:16] for name in (found or known)[:8]) or "none"
        raise NotCommittedError(
            f"{ascii(text)[:80]} begins {len(found)} snapshot ids: give one, or more of it. There are: {some}."
        )
    return found[0]


def write_list(location: Location, content: SnapshotList) -> str:
    """Stores a snapshot under its name, where an equal one may be already.

    Raises
    ------
    ObjectAlteredError
        If what is there under that name is something else.
    """
    path = snapshot_path(content.id)
    there = create_or_read(location, path, compress(content.lines))
    if there is not None:
        _decompressed(there, content.id)
    create_or_read(location, f"{MARKERS}/{content.header.view}/{content.id}", b"")
    return content.id


def newest_snapshots(location: Location, view_id: str) -> list[str]:
    """Ids of the snapshot of a view that was written last, by the server's clock, and of the largest, if that is another.

    Empty without any, or where nothing can be listed. The newest alone may be a small choice of the view's entries.
    """
    if not location.can_list:
        return []
    listed = {one.path: one for one in location.objects("snapshots")}
    marks = [one for path, one in listed.items() if path.startswith(f"{MARKERS}/{view_id}/")]
    found = {one.path.rpartition("/")[2]: one.modified for one in marks}
    sizes = {name: listed[snapshot_path(name)].size_bytes for name in found if snapshot_path(name) in listed}
    if not sizes:
        return []
    newest = max(sizes, key=lambda name: (found[name], name))
    largest = max(sizes, key=lambda name: (sizes[name], found[name], name))
    return list(dict.fromkeys([newest, largest]))


def read_list(location: Location, snapshot_id: str) -> SnapshotList:
    """A snapshot's content, checked against its whole id.

    Raises
    ------
    NotCommittedError
        If there is none.
    ObjectAlteredError
        If its content is not what its name says.
    """
    try:
        data = location.get(snapshot_path(snapshot_id))
    except ObjectMissingError as error:
        raise NotCommittedError(
            f"{location.url} has no snapshot {snapshot_id[:16]}…: list them with `store-schema ls URL`."
        ) from error
    return parse_list(data, snapshot_id=snapshot_id)


def list_snapshots(location: Location) -> list[str]:
    """Ids of all snapshots, sorted.

    Raises
    ------
    UsageError
        If the place cannot list names.
    """
    if not location.can_list:
        raise UsageError(f"{location.url} cannot list its snapshots: give the whole id of one, 64 hex digits.")
    names = location.children("snapshots")
    return [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]


@dataclass(frozen=True)
class Snapshot:
    """Entries of one view pinned to commits; what it reads can never change."""

    location: Location
    content: SnapshotList

    @property
    def url(self) -> str:
        """Address of the store it lies in."""
        return self.location.url

    @property
    def id(self) -> str:
        """64 hex digits."""
        return self.content.id

    @property
    def view_id(self) -> str:
        """The one view it pins."""
        return self.content.header.view

    @cached_property
    def view(self) -> ViewSpec:
        """Specification of that view, checked against the digest in the snapshot.

        Raises
        ------
        ObjectAlteredError
            If the store holds another specification now.
        """
        view = read_view(self.location, self.view_id)
        if view.digest != self.content.header.view_sha256:
            raise ObjectAlteredError(
                f"{self.url}: view {self.view_id} is not the one that snapshot {self.id[:16]}… names."
            )
        return view

    @property
    def rows(self) -> tuple[SnapshotRow, ...]:
        """The pins, sorted by key."""
        return self.content.rows

    @cached_property
    def keys(self) -> tuple[EntryKey, ...]:
        """The entries, sorted."""
        return tuple(row.key for row in self.rows)

    @cached_property
    def _by_key(self) -> dict[EntryKey, SnapshotRow]:
        return {row.key: row for row in self.rows}

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def __reduce__(self) -> tuple[Callable[[str, str], Snapshot], tuple[str, str]]:
        """A pickled snapshot is its store's address and its id: no handle and no credential travels."""
        return open_snapshot, (self.url, self.id)

    def row(self, key: EntryKey) -> SnapshotRow:
        """The pin of an entry.

        Raises
        ------
        NotCommittedError
            If the snapshot does not hold it.
        """
        row = self._by_key.get(key)
        if row is None:
            raise NotCommittedError(f"snapshot {self.id[:16]}… of {self.view_id} does not hold {key}.")
        return row

    def commit(self, key: EntryKey) -> CommitRecord:
        """The commit an entry is pinned to, checked against the digest in the snapshot.

        Raises
        ------
        NotCommittedError
            If the snapshot does not hold the entry.
        ObjectMissingError, ObjectAlteredError
            If the commit is gone or is not the one pinned.
        """
        row = self.row(key)
        path = commit_path(self.view_id, key, row.number)
        data = self.location.get(path)
        if sha256(data) != row.commit_sha256:
            raise ObjectAlteredError(f"{self.url}/{path} is not the commit that snapshot {self.id[:16]}… pinned.")
        return parse_commit(data, path=path)

    def read(self, key: EntryKey, *, arrays: Sequence[str] | None = None) -> StoredEntry:
        """An entry as pinned, every byte checked; see `Store.read`."""
        return read_entry(self.location, self.commit(key), arrays=arrays)


def open_snapshot(url: str, snapshot_id: str) -> Snapshot:
    """A snapshot by the URL of its store and its whole id, or a unique beginning of it; see `Store.snapshot`."""
    location = open_location(url)
    full = resolve_id(snapshot_id, lambda: list_snapshots(location))
    return opened(location, read_list(location, full))


def opened(location: Location, content: SnapshotList) -> Snapshot:
    """A snapshot to read from, after a look at what was withdrawn since it was made.

    Raises
    ------
    EntryWithdrawnError
        If it names an entry that was withdrawn.
    """
    view = content.header.view
    gone = withdrawn(location, view)
    named = [row.key for row in content.rows if row.key in gone] if gone else []
    if named:
        raise EntryWithdrawnError(
            f"snapshot {content.id[:16]}… of {view} names {len(named)} withdrawn entries (the first: {named[0]}) and must not be "
            f"used: make a new one with `store-schema snapshot {location.url} {view}` and run again with it."
        )
    return Snapshot(location, content)
