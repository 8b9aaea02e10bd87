"""Checks what a store holds besides entries: snapshots, packs, names, strays; knows no array."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from store_schema.commits import commit_path
from store_schema.errors import EntryWithdrawnError, ObjectAlteredError, ObjectMissingError, SchemaError
from store_schema.findings import Finding, tried
from store_schema.keys import EntryKey
from store_schema.location import PROBES, Location
from store_schema.packs import PackRecord, record_path
from store_schema.parallel import each
from store_schema.reader import decoded
from store_schema.records import check_object, members, parse_record, sha256, unseal
from store_schema.scan import PACK_NAME, Attempt, PackFolder, pack_folders
from store_schema.snapshot import MARKERS, SUFFIX, SnapshotList, SnapshotRow, list_snapshots, read_list, snapshot_path
from store_schema.views import read_view

KINDS_AT_ROOT = frozenset(
    {"engram.json", "views", "commits", "data", "withdrawn", "snapshots", "packs", "runs", PROBES}
)


def check_names(ids: Mapping[str, Collection[str]]) -> Iterator[Finding]:
    """Ids that one file system keeps apart and another does not."""
    for kind, names in ids.items():
        folded = Counter(name.casefold() for name in names)
        twins = sorted(name for name in names if folded[name.casefold()] > 1)
        if twins:
            yield Finding("twin", ", ".join(twins), f"{kind} ids that differ by case alone: a reader may mix them up")


def check_root(location: Location) -> Iterator[Finding]:
    """Names at the root, and among views, snapshots and packs, that the layout does not have."""
    for name in location.children(""):
        if name not in KINDS_AT_ROOT:
            yield Finding("unknown", name, "is no part of a store: move it elsewhere")
    known: Mapping[str, Callable[[str], object]] = {
        "views": lambda name: name.endswith(".json"),
        "snapshots": lambda name: name.endswith(SUFFIX) or f"snapshots/{name}" == MARKERS,
        "packs": PACK_NAME.fullmatch,
    }
    for folder, is_known in known.items():
        for name in location.children(folder):
            if not is_known(name):
                yield Finding("record", f"{folder}/{name}", f"is nothing that belongs in {folder}: move it elsewhere")


# Snapshots


def check_snapshots(location: Location, store_id: str) -> list[Finding]:
    """Every snapshot, and every marker that should find one; a row that the snapshot before it has is not read again."""
    findings: list[Finding] = []
    views: dict[str, str] = {}
    sound: frozenset[SnapshotRow] = frozenset()
    ids = list_snapshots(location)
    for snapshot_id in ids:
        content, wrong = _read(location, store_id, snapshot_id)
        if content is not None:
            views[snapshot_id] = content.header.view
            wrong += _check_rows(location, content, known=sound)
            sound = frozenset() if wrong else frozenset(content.rows)
        findings += wrong
    return [*findings, *_check_markers(location, ids, views)]


def check_snapshot(location: Location, store_id: str, snapshot_id: str) -> list[Finding]:
    """Its name, its store, its view, and every commit it pins."""
    content, findings = _read(location, store_id, snapshot_id)
    return findings if content is None else [*findings, *_check_rows(location, content)]


def _read(location: Location, store_id: str, snapshot_id: str) -> tuple[SnapshotList | None, list[Finding]]:
    path = snapshot_path(snapshot_id)
    content, findings = tried(path, partial(_shown, location, snapshot_id))
    return content, [
        *findings,
        *([] if content is None else tried(path, partial(_check_header, location, store_id, content))[1]),
    ]


def _shown(location: Location, snapshot_id: str) -> SnapshotList | None:
    """A snapshot; None where a service withholds it, since it names entries that were withdrawn."""
    try:
        return read_list(location, snapshot_id)
    except EntryWithdrawnError:
        return None


def _check_header(location: Location, store_id: str, content: SnapshotList) -> None:
    header = content.header
    if header.store_id != store_id:
        raise SchemaError(f"it was made in store {header.store_id}, this is {store_id}")
    if read_view(location, header.view).digest != header.view_sha256:
        raise ObjectAlteredError(f"view {header.view} is not the one that it names")


def _check_rows(
    location: Location, content: SnapshotList, *, known: Collection[SnapshotRow] = frozenset()
) -> list[Finding]:
    """The commits it pins; those of withdrawn entries are there too, since commits are never deleted."""
    path = snapshot_path(content.id)
    rows = (row for row in content.rows if row not in known)
    check = partial(_check_row, location, content.header.view)
    found = each(lambda row: tried(f"{path}: {row.key}", partial(check, row))[1], rows, parallel=location.parallel)
    return [finding for wrong in found for finding in wrong]


def _check_row(location: Location, view: str, row: SnapshotRow) -> None:
    path = commit_path(view, row.key, row.number)
    if sha256(location.get(path)) != row.commit_sha256:
        raise ObjectAlteredError(f"{path} is not the commit that it pins")


def _check_markers(location: Location, ids: Collection[str], views: Mapping[str, str]) -> Iterator[Finding]:
    for path in location.paths(MARKERS):
        view, _, snapshot_id = path.removeprefix(f"{MARKERS}/").partition("/")
        if snapshot_id not in ids:
            yield Finding("missing", path, "marks a snapshot that is not there")
        elif views.get(snapshot_id, view) != view:
            yield Finding("record", path, f"marks a snapshot of {views[snapshot_id]}")


# Packs


@dataclass(frozen=True)
class CheckedPacks:
    """What was found in all packs."""

    packs: int
    findings: tuple[Finding, ...]
    orphans: tuple[Attempt, ...]


def check_packs(location: Location, withdrawn: Mapping[str, Collection[EntryKey]]) -> CheckedPacks:
    """Every pack: its record, every object's size and digest, that its rows are its snapshot's, and none of them withdrawn."""
    findings: list[Finding] = []
    orphans: list[Attempt] = []
    folders = pack_folders(location)
    for folder in folders:
        named: set[str] = set()
        for name in folder.records:
            path = f"{folder.path}/{name}"
            record, wrong = tried(path, partial(_read_pack_record, location, path))
            findings += wrong
            if record is not None:
                named.add(f"{folder.path}/{record.attempt}")
                findings += _check_pack(location, folder, record, withdrawn)
        # Where a record cannot be read, nobody knows which attempt it names.
        orphans += (
            [one for one in folder.attempts if one.path not in named] if len(named) == len(folder.records) else []
        )
    return CheckedPacks(len(folders), tuple(findings), tuple(orphans))


def _read_pack_record(location: Location, path: str) -> PackRecord:
    record = parse_record(PackRecord, unseal(location.get(path), where=path), where=path)
    if record_path(record.snapshot, record.kind) != path:
        raise SchemaError(f"{path} is the record of another pack: {record_path(record.snapshot, record.kind)}.")
    return record


def _check_pack(
    location: Location, folder: PackFolder, record: PackRecord, withdrawn: Mapping[str, Collection[EntryKey]]
) -> list[Finding]:
    place = f"{folder.path}/{record.attempt}"
    check = partial(_read_packed, location, place, record)
    found = each(
        lambda path: tried(f"{place}/{path}", partial(check, path))[1], record.objects, parallel=location.parallel
    )
    findings = [finding for wrong in found for finding in wrong]
    content, wrong = tried(folder.path, partial(read_list, location, record.snapshot))
    if content is None or findings:
        return [*findings, *wrong]
    gone = [row.key for row in content.rows if row.key in withdrawn.get(content.header.view, ())]
    if gone:
        detail = (
            f"holds {len(gone)} withdrawn entries ({gone[0]} …): run `store-schema withdraw` again, it erases the pack"
        )
        findings.append(Finding("withdrawn", folder.path, detail))
    return [*findings, *tried(place, partial(_check_pack_rows, check, record, content))[1]]


def _read_packed(location: Location, place: str, record: PackRecord, path: str) -> bytes:
    todo = "Delete the pack and make it again with `store-schema pack`."
    expected = record.objects.get(path)
    if expected is None:
        raise ObjectMissingError(f"{path} is not among the objects of the pack's record. {todo}")
    return check_object(location.get(f"{place}/{path}"), expected, where=path, listed_by="the pack's record", todo=todo)


def _check_pack_rows(read: Callable[[str], bytes], record: PackRecord, content: SnapshotList) -> None:
    """The coordinates of the pack are the rows of its snapshot, in order."""
    columns: dict[str, list[object]] = {
        "patient": [row.key.patient for row in content.rows],
        "modality": [row.key.modality for row in content.rows],
        "roi": [row.key.roi for row in content.rows],
        "number": [row.number for row in content.rows],
    }
    for name, expected in columns.items():
        metadata = members(read(f"{name}/zarr.json"))
        found = decoded(metadata, name, read, record.objects, where=name).tolist()
        if found != expected:
            raise SchemaError(f"its {name} coordinates are not the rows of snapshot {record.snapshot[:16]}…")
    shape = members(read(f"{record.kind}/zarr.json")).get("shape")
    entries = shape[0] if isinstance(shape, list) and shape else None
    if record.rows != len(content.rows) or entries != record.rows:
        raise SchemaError(f"it has {entries} entries, its record says {record.rows}, its snapshot {len(content.rows)}")
