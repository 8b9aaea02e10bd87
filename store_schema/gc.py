"""Removes what no record names and no writer can still be writing: attempts, leftovers, probes; touches nothing committed.

An attempt is removed only if its newest object is older than the grace time by the server's clock, and if no commit names it
when its entry's commits are listed and read once more right before. A writer never commits an attempt that it began more than
half the grace ago. Data of a withdrawn entry is removed whatever its age, since nobody can commit it any more. Commits are read
only where something may go: each names one attempt, so that an entry with as many attempts as commits has none to spare.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

from store_schema.commits import FRESH_S, GRACE_DAYS, numbers_in
from store_schema.errors import (
    BackendError,
    ConfigError,
    ObjectAlteredError,
    ObjectMissingError,
    SchemaError,
    UsageError,
)
from store_schema.keys import EntryKey
from store_schema.location import PROBES, Location, ObjectInfo
from store_schema.parallel import each
from store_schema.scan import (
    ATTEMPT_NAME,
    Attempt,
    EntryFolder,
    PackFolder,
    named_by_pack,
    pack_folders,
    patients,
    read_series,
    scan,
    views,
)
from store_schema.store import Store
from store_schema.withdrawals import listed

MINIMUM_GRACE_DAYS = FRESH_S / 86400 + 0.5
"""Writers commit an attempt up to `FRESH_S` after they began it; half a day more allows for slow requests and clocks."""
DAMAGED = (ObjectMissingError, ObjectAlteredError, SchemaError)


Clock = Literal["server", "machine"]


@dataclass(frozen=True)
class GcReport:
    """What was removed, or would be."""

    dry_run: bool
    grace_days: float
    attempts: tuple[str, ...]
    """Folders of data that no commit names."""
    packs: tuple[str, ...]
    """Folders of packs that no record names."""
    leftovers: tuple[str, ...]
    """Unfinished files of killed writers, and probes."""
    objects: int
    size_bytes: int
    problems: tuple[str, ...]
    """Entries and packs of which nothing was removed, since a record of theirs cannot be read."""
    clock: Clock = "server"
    """Whose clock ages were taken by: this machine's in a dry run of one who may not write, which the server's clock needs."""

    @property
    def ok(self) -> bool:
        """Whether everything could be judged."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {"ok": self.ok, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class _Rule:
    """What may go: everything last written before a moment of the server's clock."""

    location: Location
    before: datetime
    dry_run: bool
    withdrawn: Mapping[str, Collection[EntryKey] | None] = field(default_factory=dict)
    """Keys that the list of a view names; None where it is damaged."""

    def may_spare(self, entry: EntryFolder, key: EntryKey) -> bool:
        """Whether an entry can have an attempt that goes, as far as names and ages tell without reading a record."""
        gone = self.withdrawn.get(entry.view)
        if gone is None or key in gone:
            return True
        old = any(attempt.newest < self.before for attempt in entry.attempts)
        return old and len(entry.attempts) != len(entry.numbers)


@dataclass(frozen=True)
class _Removed:
    attempts: tuple[Attempt, ...] = ()
    problems: tuple[str, ...] = ()


def collect_garbage(
    store: Store,
    *,
    grace_days: float = GRACE_DAYS,
    dry_run: bool = True,
    on_patient: Callable[[int, int], None] | None = None,
) -> GcReport:
    """Removes attempts that no record names and that are older than the grace time, and what killed writers left.

    Parameters
    ----------
    grace_days
        Age in days, by the server's clock, at least `MINIMUM_GRACE_DAYS`.
    on_patient
        Takes how many patients (of all views) are done and how many there are.

    Raises
    ------
    ConfigError
        If the grace time is too short for running writers.
    UsageError
        If nothing can be deleted there.
    """
    if not store.location.can_delete:
        raise UsageError(
            f"{store.url} shows only what is committed and lets nobody delete: collect garbage at the address of the bucket or "
            "folder."
        )
    if not grace_days >= MINIMUM_GRACE_DAYS:
        raise ConfigError(
            f"a grace time of {grace_days:g} days is too short: expected {MINIMUM_GRACE_DAYS:g} or more. A running writer may "
            f"commit data up to {FRESH_S / 86400:g} days after it began to write it."
        )
    now, clock = _now(store.location, dry_run=dry_run)
    gone = {view: listed(store.location, view) for view in views(store.location)}
    rule = _Rule(store.location, now - timedelta(days=grace_days), dry_run, gone)
    removed = _from_data(rule, on_patient)
    from_packs = [_from_pack(rule, pack) for pack in pack_folders(rule.location)]
    leftovers = _leftovers(rule)
    went = [attempt for one in (*removed, *from_packs) for attempt in one.attempts]
    return GcReport(
        dry_run=dry_run,
        grace_days=grace_days,
        attempts=tuple(attempt.path for one in removed for attempt in one.attempts),
        packs=tuple(attempt.path for one in from_packs for attempt in one.attempts),
        leftovers=tuple(one.path for one in leftovers),
        objects=sum(attempt.objects for attempt in went) + len(leftovers),
        size_bytes=sum(attempt.size_bytes for attempt in went) + sum(one.size_bytes for one in leftovers),
        problems=tuple(text for one in (*removed, *from_packs) for text in one.problems),
        clock=clock,
    )


def _now(location: Location, *, dry_run: bool) -> tuple[datetime, Clock]:
    """The time, and whose; asking the server writes a probe, and who removes nothing can do without."""
    try:
        return location.now(), "server"
    except BackendError:
        if not dry_run:
            raise
        return datetime.now(UTC), "machine"


def _from_data(rule: _Rule, on_patient: Callable[[int, int], None] | None) -> list[_Removed]:
    places = [(view, patient) for view in views(rule.location) for patient in patients(rule.location, view)]
    removed: list[_Removed] = []
    for done, ones in enumerate(each(partial(_of_patient, rule), places, parallel=rule.location.parallel), 1):
        removed += ones
        if on_patient is not None:
            on_patient(done, len(places))
    return removed


def _of_patient(rule: _Rule, place: tuple[str, str]) -> list[_Removed]:
    removed = [_from_entry(rule, entry) for entry in scan(rule.location, *place) if entry.attempts]
    return [one for one in removed if one.attempts or one.problems]


def _from_entry(rule: _Rule, entry: EntryFolder) -> _Removed:
    """Removes the attempts of one entry that no commit names: judged by one look, and by a second one right before."""
    key = entry.key
    if key is None or not rule.may_spare(entry, key):
        return _Removed()
    place = f"{entry.view}/{key}"

    def unnamed(numbers: Sequence[int]) -> tuple[list[Attempt], bool]:
        """Attempts that may go, and whether they go whatever their age."""
        series = read_series(rule.location, entry.view, key, numbers)
        found = [attempt for attempt in entry.attempts if ATTEMPT_NAME.fullmatch(attempt.path.rpartition("/")[2])]
        if series.tombstone is not None:
            return found, True
        return [one for one in found if one.path not in series.attempts and one.newest < rule.before], False

    try:
        if not unnamed(entry.numbers)[0]:
            return _Removed()
        doomed, of_any_age = unnamed(numbers_in(rule.location.children(f"commits/{place}")))
    except DAMAGED as error:
        return _Removed(problems=(f"{place}: nothing was removed, a commit of it is damaged: {error}",))
    return _remove(rule, doomed, of_any_age=of_any_age)


def _from_pack(rule: _Rule, pack: PackFolder) -> _Removed:
    """Removes the attempts at a pack that its record does not name."""
    try:
        named = named_by_pack(rule.location, pack.path)
    except DAMAGED as error:
        return _Removed(problems=(f"{pack.path}: nothing was removed, its record is damaged: {error}",))
    return _remove(rule, [one for one in pack.attempts if one.path not in named and one.newest < rule.before])


def _remove(rule: _Rule, doomed: Sequence[Attempt], *, of_any_age: bool = False) -> _Removed:
    """Removes attempts; not one that somebody writes to again, as a copy does that goes on where it was cut off long ago."""
    removed: list[Attempt] = []
    for attempt in doomed:
        objects = [] if rule.dry_run else list(rule.location.objects(attempt.path))
        if of_any_age or all(one.modified < rule.before for one in objects):
            removed.append(attempt)
            for one in objects:
                rule.location.delete(one.path)
    return _Removed(tuple(removed))


def _leftovers(rule: _Rule) -> list[ObjectInfo]:
    """Unfinished files of killed writers, and probes of killed doctors."""
    files = [one for one in rule.location.leftovers() if one.modified < rule.before]
    probes = [one for one in rule.location.objects(PROBES) if one.modified < rule.before]
    if not rule.dry_run:
        for one in files:
            rule.location.delete_leftover(one.path)
        for one in probes:
            rule.location.delete(one.path)
    return [*files, *probes]
