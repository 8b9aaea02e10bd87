"""Immutable lists of commits: what a run of the trainer pins; knows no array.

A snapshot is named by the sha256 of its uncompressed lines, so that its id does not depend on a compressor's version.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from numcodecs import Zstd

from store_schema.errors import NotCommittedError, ObjectAlteredError, SchemaError
from store_schema.keys import EntryKey
from store_schema.records import SnapshotHeader, canonical_json, parse_record, sha256

ZSTD_LEVEL = 9


@dataclass(frozen=True, order=True)
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
        rows = (
            canonical_json([r.key.patient, r.key.modality, r.key.roi, r.number, r.commit_sha256]) for r in self.rows
        )
        return b"\n".join([self.header.to_bytes(), *rows]) + b"\n"

    @property
    def id(self) -> str:
        """sha256 of the lines."""
        return sha256(self.lines)


def make_list(header: SnapshotHeader, rows: Iterable[SnapshotRow]) -> SnapshotList:
    """A snapshot's content in its one order."""
    return SnapshotList(header, tuple(sorted(rows)))


def snapshot_path(snapshot_id: str) -> str:
    """Path of a snapshot relative to the store's root."""
    return f"snapshots/{snapshot_id}.jsonl.zst"


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
    try:
        lines = bytes(Zstd().decode(data))
    except (RuntimeError, ValueError) as error:
        raise ObjectAlteredError(f"{path} does not decompress: {error}.") from error
    if sha256(lines) != snapshot_id:
        raise ObjectAlteredError(f"{path} has content {sha256(lines)}: its name says otherwise.")
    first, *rest = lines.decode().splitlines()
    header = parse_record(SnapshotHeader, first.encode(), where=path)
    rows = tuple(_row(line, path) for line in rest)
    if len(rows) != header.rows or list(rows) != sorted(rows):
        raise SchemaError(f"{path} has {len(rows)} rows, sorted or not: its header says {header.rows}.")
    return SnapshotList(header, rows)


def _row(line: str, path: str) -> SnapshotRow:
    try:
        patient, modality, roi, number, digest = json.loads(line)
    except ValueError as error:
        raise SchemaError(f"{path}: {line[:120]!r} is not a row [patient, modality, roi, number, sha256].") from error
    return SnapshotRow(EntryKey(patient, modality, roi), int(number), str(digest))


def resolve_id(text: str, ids: Callable[[], Sequence[str]]) -> str:
    """The one snapshot id that starts with the text.

    Raises
    ------
    NotCommittedError
        If none or several do.
    """
    if len(text) == 64:
        return text
    found = [name for name in ids() if name.startswith(text)]
    if len(found) != 1:
        known = ", ".join(name[:16] for name in ids()[:8]) or "none"
        raise NotCommittedError(
            f"'{text}' names {len(found)} snapshots: give more of the id. Those there are: {known}."
        )
    return found[0]
