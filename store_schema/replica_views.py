"""Copies the entries of one view, the withdrawn ones first; knows no snapshot and no other view."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from store_schema.keys import EntryKey
from store_schema.records import Sha256
from store_schema.replica_entries import EntryCopier, Series, lengths
from store_schema.replica_report import EntryCount
from store_schema.replica_withdrawals import copy_lists, erase
from store_schema.store import Store
from store_schema.withdrawals import withdrawn


@dataclass
class ViewCopy:
    """The entries of one view on their way to a replica."""

    source: Store
    copier: EntryCopier
    view: str
    wanted: Collection[EntryKey] | None
    """None means all."""
    count: EntryCount
    lengths: dict[EntryKey, int] = field(default_factory=dict, init=False)
    """How many records the target has of each entry that was copied."""
    _recorded: set[EntryKey] = field(default_factory=set, init=False, repr=False)
    """Entries of which the target has any record."""
    _gone: Mapping[EntryKey, frozenset[Sha256]] = field(default_factory=dict, init=False, repr=False)
    """Withdrawn entries that were dealt with."""
    _unlisted: set[EntryKey] = field(default_factory=set, init=False, repr=False)
    """Entries with a tombstone that the source's list does not name yet."""

    def copy_entries(self) -> None:
        """Copies all that is wanted; ends first what was withdrawn."""
        source, target = self.copier.source, self.copier.target
        here = lengths(target, self.view, None, stray=lambda _: None)
        self._recorded = set(here)
        self._gone = withdrawn(source, self.view)
        # Who wants some entries is not given the records of other people, who withdrew.
        ended = {key for key in self._gone if self.wanted is None or key in self.wanted or key in here}
        keys = None if self.wanted is None else {*self.wanted, *ended}
        there = lengths(source, self.view, keys, stray=self._stray)
        series = [Series(self.view, key, count, here.get(key, 0)) for key, count in sorted(there.items())]
        self.count.total += len(series)
        self._copy([one for one in series if one.key in ended], gone=ended)
        self._end(ended)
        self._copy([one for one in series if one.key not in ended])

    def end_late(self) -> None:
        """Ends what was withdrawn while it was copied."""
        gone = withdrawn(self.copier.source, self.view)
        late = (gone.keys() - self._gone.keys() - self._unlisted) & self._recorded
        self._gone = gone
        self._copy([self.copier.series(self.view, key) for key in sorted(late)], gone=late, again=True)
        if late or self._unlisted:
            self._end(late | self._unlisted)

    def _stray(self, path: str) -> None:
        self.count.report.problems.append(f"{path}: not copied, it belongs to no entry")

    def _end(self, keys: AbstractSet[EntryKey]) -> None:
        """Lists entries whose records are copied; erases at the target what an earlier copy had brought of any withdrawn one."""
        if self.copier.dry_run or not (keys or self._gone):
            return
        copy_lists(self.copier.source, self.copier.target, self.view, keys)
        replica = Store(self.copier.target, self.source.record)
        erased = erase(replica, self.view, keys | self._gone.keys(), recorded=self._recorded)
        self.count.report.erased += erased.objects
        self.count.report.problems += erased.problems

    def _copy(self, series: Sequence[Series], *, gone: Collection[EntryKey] = frozenset(), again: bool = False) -> None:
        for one in self.copier.copy(series, gone=gone):
            self.count.add(one, again=again)
            if one.problem is None:
                self.lengths[one.series.key] = one.series.there
            if one.problem is None or one.series.here:
                self._recorded.add(one.series.key)
            if one.ended and one.series.key not in gone:
                self._unlisted.add(one.series.key)
