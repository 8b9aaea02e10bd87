"""Copies what lies around the entries of a store: views, snapshots, packs, records of runs; each checked, none ever overwritten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from store_schema.commits import create_or_read, read_or_none
from store_schema.errors import ObjectMissingError, SchemaError
from store_schema.keys import EntryKey
from store_schema.location import Location
from store_schema.packs import KINDS, PackRecord, pack_folder, record_path
from store_schema.parallel import each
from store_schema.records import ObjectRecord, parse_record, sha256, unseal
from store_schema.replica_entries import MEMORY_BYTES, fetched
from store_schema.snapshot import MARKERS, SnapshotList, parse_list, snapshot_path
from store_schema.views import read_view, view_path


def copy_record(source: Location, target: Location, path: str, *, dry_run: bool = False) -> bool:
    """Copies an object that is created once; whether the target lacked it.

    Raises
    ------
    SchemaError
        If the target has another one of that name.
    """
    data = source.get(path)
    there = read_or_none(target, path)
    if there is None and not dry_run:
        there = create_or_read(target, path, data)
        if there is None:
            return True
    if there not in {None, data}:
        raise SchemaError(
            f"{target.url}/{path} is not the same as {source.url}/{path}: it was altered, or the copy was written to. Copy into an "
            "empty place."
        )
    return there is None


def copy_view(source: Location, target: Location, view: str, *, dry_run: bool = False) -> None:
    """Copies the specification of a view, which must be sound and the same at both places."""
    read_view(source, view)
    copy_record(source, target, view_path(view), dry_run=dry_run)


# Snapshots


def copy_snapshot(
    source: Location,
    target: Location,
    content: SnapshotList,
    counts: Mapping[EntryKey, int],
    *,
    store_id: str,
    dry_run: bool = False,
) -> None:
    """Copies a snapshot and its marker, if every entry that it pins is copied.

    Parameters
    ----------
    counts
        How many records of each entry the target has now.

    Raises
    ------
    SchemaError
        If an entry is not there, or the snapshot was made in another store.
    ObjectAlteredError
        If the target has something else under its name.
    """
    if content.header.store_id != store_id:
        raise SchemaError(f"it was made in store {content.header.store_id}, this is {store_id}.")
    missing = [row.key for row in content.rows if row.number >= counts.get(row.key, 0)]
    if missing:
        raise SchemaError(
            f"{len(missing)} of its {len(content.rows)} entries were not copied, the first: {missing[0]}."
        )
    path = snapshot_path(content.id)
    there = read_or_none(target, path)
    if there is not None:
        # Another version of the compressor gives other bytes of the same lines; those give the snapshot its name.
        parse_list(there, snapshot_id=content.id)
    elif not dry_run:
        create_or_read(target, path, source.get(path))
    if not dry_run and not target.exists(marker := f"{MARKERS}/{content.header.view}/{content.id}"):
        create_or_read(target, marker, b"")


# Packs


@dataclass(frozen=True)
class CopiedPack:
    """A pack that the target has now, and what was written for it."""

    folder: str
    objects: int
    size_bytes: int


def copy_packs(
    source: Location, target: Location, snapshot_id: str, *, verify_existing: bool = False, dry_run: bool = False
) -> list[CopiedPack]:
    """Copies the packs of a snapshot; where the target has made one of its own, that stays.

    Parameters
    ----------
    verify_existing
        Read and check also what the target has already, instead of its size alone.

    Raises
    ------
    ObjectMissingError, ObjectAlteredError, SchemaError
        If a pack is damaged at the source.
    """
    copy = partial(_copy_pack, source, target, snapshot_id, verify_existing=verify_existing, dry_run=dry_run)
    return [one for one in map(copy, KINDS) if one is not None]


def _copy_pack(
    source: Location, target: Location, snapshot_id: str, kind: str, *, verify_existing: bool, dry_run: bool
) -> CopiedPack | None:
    path = record_path(snapshot_id, kind)
    data = read_or_none(source, path)
    if data is None:
        return None
    record = parse_record(PackRecord, unseal(data, where=path), where=path)
    there = read_or_none(target, path)
    folder = f"{pack_folder(snapshot_id, kind)}/{record.attempt}"
    if there not in {None, data}:
        return CopiedPack(pack_folder(snapshot_id, kind), 0, 0)
    wanted = {f"{folder}/{name}": one for name, one in record.objects.items()}
    for path in [] if there is None else _right(target, folder, wanted, read=verify_existing):
        del wanted[path]
    if not dry_run:
        _copy_objects(source, target, wanted)
        create_or_read(target, path, data)
    return CopiedPack(pack_folder(snapshot_id, kind), len(wanted), sum(one.size_bytes for one in wanted.values()))


def _right(target: Location, folder: str, wanted: Mapping[str, ObjectRecord], *, read: bool) -> list[str]:
    """Paths of the objects that the target has as they were recorded, by their sizes, or by their bytes."""
    present = {one.path: one.size_bytes for one in target.objects(folder)}
    sized = [path for path, one in wanted.items() if present.get(path) == one.size_bytes]
    if not read:
        return sized
    digests = each(
        lambda path: sha256(target.get(path)),
        sized,
        parallel=target.parallel,
        weigh=lambda path: wanted[path].size_bytes,
        limit=MEMORY_BYTES,
    )
    return [path for path, digest in zip(sized, digests, strict=True) if digest == wanted[path].sha256]


def _copy_objects(source: Location, target: Location, wanted: Mapping[str, ObjectRecord]) -> None:
    """Several objects at once, as many as memory allows."""

    def copy(item: tuple[str, ObjectRecord]) -> None:
        target.put(item[0], fetched(source, *item))

    parallel = max(source.parallel, target.parallel)
    for _ in each(copy, wanted.items(), parallel=parallel, weigh=lambda item: item[1].size_bytes, limit=MEMORY_BYTES):
        pass


# Runs


def copy_runs(source: Location, target: Location, *, dry_run: bool = False) -> tuple[int, list[str]]:
    """Copies all records of runs; how many the target has now, and what went wrong."""
    problems: list[str] = []
    paths = source.paths("runs")
    copy = partial(copy_record, source, target, dry_run=dry_run)

    def told(path: str) -> str | None:
        try:
            copy(path)
        except (ObjectMissingError, SchemaError) as error:
            return str(error)
        return None

    problems = [text for text in each(told, paths, parallel=max(source.parallel, target.parallel)) if text is not None]
    return len(paths) - len(problems), problems
