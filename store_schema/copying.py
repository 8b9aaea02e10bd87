"""Copies a store, or views or snapshots of it, to another place as a replica, and says what it did; knows no array.

A replica keeps the store's id and every record byte for byte, so that a snapshot's id means the same at both places. A copy
resumes: run again, it writes what is missing. What is visible is whole at any moment: an entry's data is written before its
commit, a snapshot after its entries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from store_schema.commits import create_or_read, read_or_none
from store_schema.doctor import examine
from store_schema.errors import BackendError, StoreError, UsageError
from store_schema.keys import EntryKey
from store_schema.location import PROBES, Location, open_location
from store_schema.replica_entries import EntryCopier
from store_schema.replica_lists import copy_packs, copy_runs, copy_snapshot, copy_view
from store_schema.replica_report import CopyReport, EntryCount, Told
from store_schema.replica_views import ViewCopy
from store_schema.snapshot import SnapshotList, list_snapshots, read_list, resolve_id
from store_schema.store import ROOT_RECORD, Store
from store_schema.withdrawals import withdrawn

__all__ = ["CopyReport", "Told", "copy_store"]


def copy_store(
    source: Store,
    target: str | Location,
    *,
    views: Sequence[str] = (),
    snapshots: Sequence[str] = (),
    runs: bool = False,
    verify_existing: bool = False,
    dry_run: bool = False,
    told: Told | None = None,
) -> CopyReport:
    """Copies a store; by default all its views, snapshots and packs.

    An entry travels with all its commits, since the numbers of a series have no gaps and the data of every commit must be there.
    What was withdrawn is never copied, and is erased at the target where an earlier copy brought it there.

    Parameters
    ----------
    target
        An empty place or an earlier copy.
    views
        Ids: copy these alone, with their snapshots and packs.
    snapshots
        Ids, or unique beginnings: copy only these, their packs, and the entries that they pin.
    runs
        Copy the records of runs too.
    verify_existing
        Read and check what the target has already; without this its size alone is compared.

    Raises
    ------
    UsageError
        If the target is another store, is the source, or cannot hold a store; nothing was copied.
    BackendError
        If a place does not answer any more; the same call goes on where this one stopped.
    """
    if views and snapshots:
        raise UsageError("views and snapshots exclude each other: a snapshot has one view.")
    if not source.location.can_list and (runs or not snapshots):
        raise UsageError(f"{source.url} cannot list names: give the whole ids of snapshots to copy, and no runs.")
    chosen = [read_list(source.location, resolve_id(one, source.snapshot_ids)) for one in snapshots]
    place = _replica(source, open_location(target) if isinstance(target, str) else target, dry_run=dry_run)
    report = CopyReport(source.url, place.url, dry_run)
    copier = EntryCopier(source.location, place, verify_existing, dry_run)
    copy = _Copy(source, copier, EntryCount(report, told))
    if snapshots:
        copy.run(_pinned(chosen), [one.id for one in chosen])
    else:
        # Listed before the entries: what a snapshot names was committed before it was made.
        ids = list_snapshots(source.location)
        copy.run(dict.fromkeys(views or source.view_ids()), ids)
    if runs:
        report.runs, problems = copy_runs(source.location, place, dry_run=dry_run)
        report.problems += problems
    return report


def _pinned(snapshots: Sequence[SnapshotList]) -> Mapping[str, Collection[EntryKey]]:
    """The entries that snapshots pin, by view."""
    keys: dict[str, set[EntryKey]] = defaultdict(set)
    for content in snapshots:
        keys[content.header.view].update(row.key for row in content.rows)
    return keys


# The target


def _replica(source: Store, target: Location, *, dry_run: bool) -> Location:
    """The place to copy to, made a replica where it is empty."""
    _check_apart(source.url, target)
    mine, theirs = source.location.get(ROOT_RECORD), read_or_none(target, ROOT_RECORD)
    if theirs is None and [name for name in target.children("") if name != PROBES]:
        raise UsageError(f"{target.url} is not empty and is no store: copy into an empty place, or an earlier copy.")
    if theirs not in {None, mine}:
        raise UsageError(
            f"{target.url} is another store than {source.store_id}: a copy is a replica and keeps the store's id. Copy into an "
            "empty place, or an earlier copy."
        )
    if theirs is None and not dry_run:
        wrong = [check.detail for check in examine(target) if check.verdict == "failed"]
        if wrong:
            raise UsageError(f"{target.url} cannot hold a store: {wrong[0]}")
        create_or_read(target, ROOT_RECORD, mine)
    return target


def _check_apart(source_url: str, target: Location) -> None:
    mine, theirs = f"{source_url.rstrip('/')}/", f"{target.url.rstrip('/')}/"
    if mine.startswith(theirs) or theirs.startswith(mine):
        raise UsageError(f"{target.url} is the source itself, or one lies in the other: give another place.")
    if not (target.can_write and target.can_list):
        raise UsageError(f"{target.url} can only be read: give the address of a bucket or folder.")
    if not target.can_delete:
        raise UsageError(
            f"{target.url} takes no copy, since nothing is deleted there: give the address of the bucket or folder."
        )


# The content


@dataclass(frozen=True)
class _Copy:
    """One copy on its way."""

    source: Store
    copier: EntryCopier
    count: EntryCount
    copies: dict[str, ViewCopy] = field(default_factory=dict)
    """The views that are copied, by id."""

    def run(self, wanted: Mapping[str, Collection[EntryKey] | None], snapshots: Sequence[str]) -> None:
        """Copies some entries, or all, of some views; then the snapshots that are of these views, with their packs."""
        for view, keys in wanted.items():
            self._try(f"view {view}", partial(self._copy_view, view, keys))
        for snapshot_id in snapshots:
            self._try(f"snapshot {snapshot_id}", partial(self._copy_snapshot, snapshot_id))
        for view, copied in self.copies.items():
            self._try(f"view {view}", copied.end_late)

    def _try(self, what: str, act: Callable[[], None]) -> None:
        """Notes what could not be copied, and goes on; not where a place does not answer any more."""
        try:
            act()
        except BackendError:
            raise
        except StoreError as error:
            self.count.report.fail(what, error)

    def _copy_view(self, view: str, keys: Collection[EntryKey] | None) -> None:
        copy_view(self.copier.source, self.copier.target, view, dry_run=self.copier.dry_run)
        self.copies[view] = ViewCopy(self.source, self.copier, view, keys, self.count)
        self.copies[view].copy_entries()

    def _copy_snapshot(self, snapshot_id: str) -> None:
        """A snapshot of a view that is copied, then its packs; one of another view is passed over."""
        source, target, report = self.copier.source, self.copier.target, self.count.report
        content = read_list(source, snapshot_id)
        copied = self.copies.get(content.header.view)
        if copied is None:
            return
        copy_snapshot(
            source, target, content, copied.lengths, store_id=self.source.store_id, dry_run=self.copier.dry_run
        )
        report.snapshots.append(snapshot_id)
        gone = withdrawn(source, content.header.view)
        if any(row.key in gone for row in content.rows):
            return
        how = {"verify_existing": self.copier.verify_existing, "dry_run": self.copier.dry_run}
        for pack in copy_packs(source, target, snapshot_id, **how):
            report.packs.append(pack.folder)
            report.objects += pack.objects
            report.size_bytes += pack.size_bytes
