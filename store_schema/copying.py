"""Copies a store, or views or snapshots of it, to another place: the same records byte for byte, every object checked on the way.

A copy is a replica: it keeps the store's id, commit numbers and attempts, so that snapshots of the one are snapshots of the
other. It resumes: what the target has is not copied again. It knows no array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from store_schema.commits import create_or_read, numbers_in, parse_numbered
from store_schema.doctor import examine
from store_schema.errors import ObjectAlteredError, ObjectMissingError, SchemaError, StoreError, UsageError
from store_schema.keys import EntryKey
from store_schema.location import PROBES, Location, open_location
from store_schema.packs import KINDS, PackRecord, pack_folder, record_path
from store_schema.parallel import each
from store_schema.records import CommitRecord, Sha256, TombstoneRecord, parse_record, sha256, unseal
from store_schema.snapshot import MARKERS, SnapshotList, list_snapshots, parse_list, resolve_id, snapshot_path
from store_schema.store import ROOT_RECORD, Store
from store_schema.views import view_path
from store_schema.withdraw import withdraw
from store_schema.withdrawals import withdrawn

Told = Callable[[int, int], None]
MOST_AT_ONCE = 16
"""Entries that are copied at once; each holds one object in memory."""


@dataclass
class CopyReport:
    """What a copy did."""

    source: str
    target: str
    dry_run: bool
    entries: int = 0
    """Entries that the target has now, or would have, with all their commits."""
    commits: int = 0
    """Records copied now; those that were there already are not counted."""
    objects: int = 0
    size_bytes: int = 0
    """Of the objects copied now."""
    snapshots: list[str] = field(default_factory=list)
    """Ids of the snapshots that the target has now."""
    packs: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What was not copied, and why; everything else was."""

    @property
    def ok(self) -> bool:
        """Whether all was copied."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"ok": self.ok}


@dataclass(frozen=True)
class _Series:
    """One entry: how many records the source has, and how many the target."""

    view: str
    key: EntryKey
    there: int
    here: int

    def path(self, number: int) -> str:
        return f"commits/{self.view}/{self.key}/{number:06d}.json"


@dataclass(frozen=True)
class _Copied:
    """What became of one entry."""

    series: _Series
    commits: int = 0
    objects: int = 0
    size_bytes: int = 0
    problem: str | None = None


def copy_store(
    source: Store,
    target_url: str,
    *,
    views: Sequence[str] = (),
    snapshots: Sequence[str] = (),
    runs: bool = False,
    dry_run: bool = False,
    told: Told | None = None,
) -> CopyReport:
    """Copies a store; by default all its views, snapshots and packs.

    Withdrawals travel first: what was withdrawn at the source is never copied, and is erased at the target where an earlier
    copy brought it there.

    Parameters
    ----------
    views
        Copy these alone, with their snapshots and packs.
    snapshots
        Copy only the entries that these pin, each with all its commits, since a series has no gaps; and these snapshots.
    runs
        Copy the records of runs too.

    Raises
    ------
    UsageError
        If the target is another store, is the source, or cannot be written; nothing was copied.
    """
    chosen = _chosen_snapshots(source, views, snapshots)
    view_ids = sorted({one.header.view for one in chosen}) if snapshots else list(views) or source.view_ids()
    wanted = {row.key for one in chosen for row in one.rows} if snapshots else None
    target = _target(source, target_url, dry_run=dry_run)
    report = CopyReport(source.url, target.url, dry_run)
    failed: dict[str, set[EntryKey]] = {view: set() for view in view_ids}
    for view in view_ids:
        if not dry_run:
            _copy_same(source.location, target, view_path(view))
    series = [one for view in view_ids for one in _series(source.location, target, view, wanted)]
    for done, one in enumerate(_copy_all(source.location, target, series, dry_run=dry_run), start=1):
        _count(report, failed, one)
        if told is not None:
            told(done, len(series))
    if not dry_run:
        _copy_withdrawn(source, target, view_ids, report)
        _copy_snapshots(source, target, chosen, failed, report)
        if runs:
            _copy_runs(source.location, target, report)
    return report


def _chosen_snapshots(source: Store, views: Sequence[str], ids: Sequence[str]) -> list[SnapshotList]:
    if views and ids:
        raise UsageError("views and snapshots exclude each other: a snapshot has one view.")
    names = [resolve_id(one, source.snapshot_ids) for one in ids] or list_snapshots(source.location)
    found = [parse_list(source.location.get(snapshot_path(name)), snapshot_id=name) for name in names]
    return [one for one in found if not views or one.header.view in views]


def _target(source: Store, url: str, *, dry_run: bool) -> Location:
    """The place to copy to, made a replica of the source where it is empty."""
    target = open_location(url)
    if target.url == source.url:
        raise UsageError(f"{target.url} is the source itself: give another place.")
    mine = source.location.get(ROOT_RECORD)
    try:
        theirs: bytes | None = target.get(ROOT_RECORD)
    except ObjectMissingError:
        theirs = None
    if theirs is None and [name for name in target.children("") if name != PROBES]:
        raise UsageError(f"{target.url} is not empty and is no store: copy into an empty place.")
    if theirs is not None and theirs != mine:
        raise UsageError(
            f"{target.url} is another store than {source.store_id}: a copy is a replica and keeps the store's id. Copy into an "
            "empty place, or into an earlier copy."
        )
    if theirs is None and not dry_run:
        wrong = [check.detail for check in examine(target) if check.verdict == "failed"]
        if wrong:
            raise UsageError(f"{target.url} cannot hold a store: {wrong[0]}")
        create_or_read(target, ROOT_RECORD, mine)
    return target


def _copy_same(source: Location, target: Location, path: str) -> bool:
    """Copies a record that is created once; whether it was not there before.

    Raises
    ------
    SchemaError
        If the target has another one of that name: the two have gone different ways.
    """
    data = source.get(path)
    there = create_or_read(target, path, data)
    if there not in {None, data}:
        raise SchemaError(
            f"{target.url}/{path} differs from {source.url}/{path}: the copy has gone another way. Copy into an empty place."
        )
    return there is None


# Entries


def _series(source: Location, target: Location, view: str, wanted: set[EntryKey] | None) -> Iterator[_Series]:
    there, here = _lengths(source, view), _lengths(target, view)
    for key, count in sorted(there.items()):
        if wanted is None or key in wanted:
            yield _Series(view, key, count, here.get(key, 0))


def _lengths(location: Location, view: str) -> dict[EntryKey, int]:
    """How many records each entry of a view has, by one listing."""
    prefix = f"commits/{view}"
    lengths: dict[EntryKey, int] = {}
    for path in location.paths(prefix):
        folder, _, name = path.removeprefix(f"{prefix}/").rpartition("/")
        for number in numbers_in([name]):
            key = EntryKey.parse(folder)
            lengths[key] = max(number + 1, lengths.get(key, 0))
    return lengths


def _copy_all(source: Location, target: Location, series: Iterable[_Series], *, dry_run: bool) -> Iterator[_Copied]:
    def copy(one: _Series) -> _Copied:
        try:
            return _copy_series(source, target, one, dry_run=dry_run)
        except StoreError as error:
            return _Copied(one, problem=f"{one.view}/{one.key}: {type(error).__name__}: {error}")

    yield from each(copy, series, parallel=min(MOST_AT_ONCE, max(source.parallel, target.parallel)))


def _copy_series(source: Location, target: Location, series: _Series, *, dry_run: bool) -> _Copied:
    """One entry: the data of each commit, then the commit, in rising number; of a withdrawn entry the records alone."""
    records = [source.get(series.path(number)) for number in range(series.there)]
    for number in range(min(series.here, series.there)):
        if number in {0, min(series.here, series.there) - 1}:
            _check_same(target, series.path(number), records[number])
    if series.here > series.there:
        raise SchemaError(
            f"the target has {series.here} records, the source {series.there}: the copy has gone another way."
        )
    parsed = [parse_numbered(data, path=series.path(number)) for number, data in enumerate(records)]
    ended = isinstance(parsed[-1], TombstoneRecord)
    objects = size = 0
    for number in range(series.here, series.there):
        record = parsed[number]
        if isinstance(record, CommitRecord) and not ended:
            objects += len(record.objects)
            size += sum(one.size_bytes for one in record.objects.values())
            if not dry_run:
                _copy_objects(source, target, record)
        if not dry_run:
            _create_same(target, series.path(number), records[number])
    return _Copied(series, series.there - series.here, objects, size)


def _check_same(target: Location, path: str, data: bytes) -> None:
    if target.get(path) != data:
        raise SchemaError(
            f"{target.url}/{path} is another record: the copy has gone another way. Copy into an empty place."
        )


def _create_same(target: Location, path: str, data: bytes) -> None:
    there = create_or_read(target, path, data)
    if there not in {None, data}:
        raise SchemaError(
            f"{target.url}/{path} is another record: the copy has gone another way. Copy into an empty place."
        )


def _copy_objects(source: Location, target: Location, commit: CommitRecord) -> None:
    for path, expected in commit.objects.items():
        data = source.get(f"{commit.folder}/{path}")
        _check(data, expected.size_bytes, expected.sha256, f"{source.url}/{commit.folder}/{path}")
        target.put(f"{commit.folder}/{path}", data)


def _check(data: bytes, size_bytes: int, digest: Sha256, where: str) -> None:
    if len(data) != size_bytes or sha256(data) != digest:
        raise ObjectAlteredError(f"{where} is not the object that was committed: restore it, then copy again.")


def _count(report: CopyReport, failed: Mapping[str, set[EntryKey]], one: _Copied) -> None:
    report.commits += one.commits
    report.objects += one.objects
    report.size_bytes += one.size_bytes
    if one.problem is None:
        report.entries += 1
    else:
        report.problems.append(one.problem)
        failed[one.series.view].add(one.series.key)


# Withdrawals


def _copy_withdrawn(source: Store, target: Location, view_ids: Iterable[str], report: CopyReport) -> None:
    """Ends at the target what was ended at the source, and erases what an earlier copy had brought there."""
    replica = Store(target, source.record)
    for view in view_ids:
        gone = withdrawn(source.location, view)
        known = withdrawn(target, view)
        present = _lengths(target, view)
        keys = [key for key in gone if key in present and (key not in known or target.paths(f"data/{view}/{key}"))]
        if keys:
            done = withdraw(replica, [view], keys=keys, reason="withdrawn at the source of this copy")
            report.problems += done.problems


# Snapshots, packs, runs


def _copy_snapshots(
    source: Store,
    target: Location,
    chosen: Iterable[SnapshotList],
    failed: Mapping[str, set[EntryKey]],
    report: CopyReport,
) -> None:
    """Snapshots of which every entry is there; packs of those that name nothing withdrawn."""
    for content in chosen:
        view = content.header.view
        missing = [row.key for row in content.rows if row.key in failed[view]]
        if missing:
            report.problems.append(f"snapshot {content.id}: not copied, since {missing[0]} was not")
            continue
        _copy_same(source.location, target, snapshot_path(content.id))
        create_or_read(target, f"{MARKERS}/{view}/{content.id}", b"")
        report.snapshots.append(content.id)
        gone = withdrawn(source.location, view)
        if not any(row.key in gone for row in content.rows):
            _copy_packs(source.location, target, content.id, report)


def _copy_packs(source: Location, target: Location, snapshot_id: str, report: CopyReport) -> None:
    for kind in KINDS:
        path = record_path(snapshot_id, kind)
        if target.exists(path) or not source.exists(path):
            continue
        data = source.get(path)
        record = parse_record(PackRecord, unseal(data, where=path), where=path)
        try:
            for name, expected in record.objects.items():
                place = f"{pack_folder(snapshot_id, kind)}/{record.attempt}/{name}"
                found = source.get(place)
                _check(found, expected.size_bytes, expected.sha256, f"{source.url}/{place}")
                target.put(place, found)
        except (ObjectMissingError, ObjectAlteredError) as error:
            report.problems.append(f"pack {kind} of {snapshot_id}: {error}")
            continue
        create_or_read(target, path, data)
        report.packs.append(pack_folder(snapshot_id, kind))


def _copy_runs(source: Location, target: Location, report: CopyReport) -> None:
    for path in source.paths("runs"):
        try:
            _copy_same(source, target, path)
        except StoreError as error:
            report.problems.append(str(error))
