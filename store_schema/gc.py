"""Removes what no record names and no writer can still be writing: attempts, leftovers, probes; touches nothing committed.

An attempt is removed only if its newest object is older than the grace time by the server's clock, and if no commit names it
when its entry's commits are listed and read once more right before. A writer never commits an attempt that it began more than
half the grace ago. Data of a withdrawn entry is removed whatever its age, since nobody can commit it any more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from store_schema.commits import FRESH_S, GRACE_DAYS, numbers_in
from store_schema.errors import ConfigError, ObjectAlteredError, ObjectMissingError, SchemaError
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

MINIMUM_GRACE_DAYS = FRESH_S / 86400 + 0.5
"""Writers commit an attempt up to `FRESH_S` after they began it; half a day more allows for slow requests and clocks."""
DAMAGED = (ObjectMissingError, ObjectAlteredError, SchemaError)


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
    """
    if not grace_days >= MINIMUM_GRACE_DAYS:
        raise ConfigError(
            f"a grace time of {grace_days:g} days is too short: expected {MINIMUM_GRACE_DAYS:g} or more. A running writer may "
            f"commit data up to {FRESH_S / 86400:g} days after it began to write it."
        )
    rule = _Rule(store.location, store.location.now() - timedelta(days=grace_days), dry_run)
    removed = _from_data(rule, on_patient)
    from_packs = [_from_pack(rule, pack) for pack in pack_folders(rule.location)]
    leftovers = _leftovers(rule)
    gone = [attempt for one in (*removed, *from_packs) for attempt in one.attempts]
    return GcReport(
        dry_run=dry_run,
        grace_days=grace_days,
        attempts=tuple(attempt.path for one in removed for attempt in one.attempts),
        packs=tuple(attempt.path for one in from_packs for attempt in one.attempts),
        leftovers=tuple(one.path for one in leftovers),
        objects=sum(attempt.objects for attempt in gone) + len(leftovers),
        size_bytes=sum(attempt.size_bytes for attempt in gone) + sum(one.size_bytes for one in leftovers),
        problems=tuple(text for one in (*removed, *from_packs) for text in one.problems),
    )


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
    if key is None:
        return _Removed()
    place = f"{entry.view}/{key}"

    def unnamed(numbers: Sequence[int]) -> list[Attempt]:
        series = read_series(rule.location, entry.view, key, numbers)
        found = [attempt for attempt in entry.attempts if ATTEMPT_NAME.fullmatch(attempt.path.rpartition("/")[2])]
        if series.tombstone is not None:
            return found
        return [one for one in found if one.path not in series.attempts and one.newest < rule.before]

    try:
        if not unnamed(entry.numbers):
            return _Removed()
        doomed = unnamed(numbers_in(rule.location.children(f"commits/{place}")))
    except DAMAGED as error:
        return _Removed(problems=(f"{place}: nothing was removed, a commit of it is damaged: {error}",))
    return _remove(rule, doomed)


def _from_pack(rule: _Rule, pack: PackFolder) -> _Removed:
    """Removes the attempts at a pack that its record does not name."""
    try:
        named = named_by_pack(rule.location, pack.path)
    except DAMAGED as error:
        return _Removed(problems=(f"{pack.path}: nothing was removed, its record is damaged: {error}",))
    return _remove(rule, [one for one in pack.attempts if one.path not in named and one.newest < rule.before])


def _remove(rule: _Rule, doomed: Sequence[Attempt]) -> _Removed:
    if not rule.dry_run:
        for attempt in doomed:
            for path in rule.location.paths(attempt.path):
                rule.location.delete(path)
    return _Removed(tuple(doomed))


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
