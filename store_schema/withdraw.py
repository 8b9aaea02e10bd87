"""Withdraws entries, as when a patient takes back consent: ends their series, then erases their data; asks nobody.

The order makes it safe to stop anywhere and run again: tombstones (from then on no writer can bring the entry back), the
view's list (from then on snapshots that name it refuse to open), then data and packs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from pydantic import ValidationError

from store_schema.commits import append_tombstone, read_or_none, read_record
from store_schema.errors import (
    NotCommittedError,
    ObjectAlteredError,
    ObjectMissingError,
    SchemaError,
    UsageError,
)
from store_schema.keys import EntryKey, check_id
from store_schema.location import Location, ObjectInfo
from store_schema.parallel import each
from store_schema.records import MAX_REASON_LENGTH, CommitRecord, Sha256, TombstoneRecord, check_view_id, sha256
from store_schema.scan import PACK_NAME, patients, scan, views
from store_schema.snapshot import list_snapshots, read_list
from store_schema.store import Store
from store_schema.withdrawals import add_withdrawn

DAMAGED = (ObjectMissingError, ObjectAlteredError, SchemaError)
PACK_RECORD_DEPTH = 2
"""Slashes in the path of a pack's record; its data lies deeper."""


@dataclass(frozen=True, order=True)
class Place:
    """One entry of one view."""

    view: str
    key: EntryKey

    def __str__(self) -> str:
        return f"{self.view}/{self.key}"


@dataclass(frozen=True)
class WithdrawReport:
    """What was withdrawn and erased, or would be, and what names the patients still."""

    dry_run: bool
    reason: str
    patients: tuple[str, ...]
    """PATIENT of the entries: the patients named, and their studies."""
    entries: tuple[str, ...]
    """`VIEW/PATIENT/MODALITY/ROI`."""
    objects: int
    """Objects of data and packs that were erased."""
    size_bytes: int
    packs: tuple[str, ...]
    """Folders of packs that held the entries: erased whole, to be made again from new snapshots."""
    snapshots: tuple[str, ...]
    """Ids of snapshots that name the entries: they stay, and refuse to open."""
    mentions: tuple[str, ...]
    """Records of runs whose text has a patient's id: not erased."""
    problems: tuple[str, ...]
    """What could not be done, or not in full, because a record is damaged or of another version."""

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for was done."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {"ok": self.ok, **asdict(self)}


def withdraw(
    store: Store,
    view_ids: Iterable[str] | None = None,
    *,
    patients: Iterable[str] = (),
    keys: Iterable[EntryKey] = (),
    reason: str,
    dry_run: bool = False,
) -> WithdrawReport:
    """Withdraws entries for good; run it again after any stop, and it completes.

    What stays: commits and tombstones (ids, digests, geometry, source paths), snapshots (ids) and records of runs.

    Parameters
    ----------
    view_ids
        Views to look in; all of the store by default.
    patients
        Ids of patients; `P` means all entries of PATIENT `P` and of its studies `P.…`.
    keys
        Single entries.
    reason
        One line for the tombstones, which are never deleted: no health data.
    dry_run
        Only say what would be erased.

    Raises
    ------
    NotCommittedError
        If the store holds nothing of what was named.
    UsageError
        If nothing was named, the reason is empty or too long, or the place cannot list or delete.
    """
    named = _Named(tuple(check_id("patient", patient) for patient in patients), tuple(keys))
    if not named.patients and not named.keys:
        raise UsageError("nothing was named to withdraw: give patients or keys.")
    places = _places(store, view_ids, named)
    drafts = [_draft(store, place, reason) for place in places]
    if not places:
        raise NotCommittedError(f"{store.url} holds nothing of {named}: look with `store-schema ls URL VIEW`.")
    ended, problems = (places, []) if dry_run else _end(store.location, drafts)
    found = _found(store.location, ended)
    if not dry_run:
        _erase(store.location, found)
    return WithdrawReport(
        dry_run=dry_run,
        reason=reason,
        patients=tuple(sorted({place.key.patient for place in places})),
        entries=tuple(map(str, places)),
        objects=len(found.objects),
        size_bytes=sum(one.size_bytes for one in found.objects),
        packs=found.packs,
        snapshots=found.snapshots,
        mentions=tuple(_mentions(store.location, {*named.patients, *(place.key.patient for place in places)})),
        problems=tuple(problems),
    )


@dataclass(frozen=True)
class _Named:
    patients: tuple[str, ...]
    keys: tuple[EntryKey, ...]

    def __str__(self) -> str:
        return ", ".join([*self.patients, *map(str, self.keys)])

    def patient_ids(self, names: Iterable[str]) -> set[str]:
        """Those of the names that can hold something of what is named."""
        exact = {key.patient for key in self.keys} | set(self.patients)
        studies = tuple(f"{patient}." for patient in self.patients)
        return {name for name in names if name in exact or name.startswith(studies)}

    def holds(self, key: EntryKey) -> bool:
        return key in self.keys or bool(_Named(self.patients, ()).patient_ids([key.patient]))


# Finding


def _places(store: Store, view_ids: Iterable[str] | None, named: _Named) -> list[Place]:
    """Every entry that has a commit, a tombstone or only data of an attempt; also those that were withdrawn before."""
    if not (store.location.can_list and store.location.can_delete):
        raise UsageError(
            f"{store.url} cannot list names, or lets nobody delete: withdraw at the address of the bucket or folder."
        )
    found = views(store.location) if view_ids is None else [check_view_id(view_id) for view_id in view_ids]
    return sorted({place for view in found for place in _places_in(store.location, view, named)})


def _places_in(location: Location, view: str, named: _Named) -> Iterator[Place]:
    for patient in named.patient_ids(patients(location, view)):
        for entry in scan(location, view, patient):
            # Names that are no keys are nobody's entries: `verify` reports them.
            if entry.key is not None and named.holds(entry.key):
                yield Place(view, entry.key)


@dataclass(frozen=True)
class _Found:
    """What is there of some entries."""

    data: tuple[ObjectInfo, ...]
    snapshots: tuple[str, ...]
    packs: tuple[str, ...]
    in_packs: tuple[ObjectInfo, ...]
    leftovers: tuple[ObjectInfo, ...]
    """Unfinished files of killed writers below the data and the packs."""

    @property
    def objects(self) -> tuple[ObjectInfo, ...]:
        return (*self.data, *self.in_packs, *self.leftovers)


def _found(location: Location, places: Sequence[Place]) -> _Found:
    data = [found for place in places for found in location.objects(f"data/{place}")]
    packs = [name for name in location.children("packs") if PACK_NAME.fullmatch(name)]
    known = list_snapshots(location)
    # A pack without its snapshot cannot be opened, and nobody can say any more whom it holds: it goes too.
    named = {name for name in {*known, *map(_snapshot_of, packs)} if _names(location, name, set(places))}
    folders = [f"packs/{name}" for name in packs if _snapshot_of(name) in named]
    in_packs = [found for folder in folders for found in location.objects(folder)]
    below = tuple(f"{folder}/" for folder in (*(f"data/{place}" for place in places), *folders))
    leftovers = tuple(one for one in location.leftovers() if one.path.startswith(below))
    snapshots = tuple(name for name in known if name in named)
    return _Found(tuple(data), snapshots, tuple(folders), tuple(in_packs), leftovers)


def _snapshot_of(pack: str) -> str:
    return pack.partition("-")[0]


def _names(location: Location, snapshot_id: str, places: AbstractSet[Place]) -> bool:
    """Whether a snapshot names one of the entries; one that is gone or damaged may have."""
    try:
        content = read_list(location, snapshot_id)
    except (NotCommittedError, *DAMAGED):
        return True
    return any(Place(content.header.view, row.key) in places for row in content.rows)


# Ending and erasing


def _draft(store: Store, place: Place, reason: str) -> TombstoneRecord:
    try:
        return TombstoneRecord(
            view=place.view,
            patient=place.key.patient,
            modality=place.key.modality,
            roi=place.key.roi,
            number=0,
            reason=reason,
            written_at=store.clock(),
        )
    except ValidationError as error:
        raise UsageError(
            f"nothing was withdrawn: the reason is no line of 1 to {MAX_REASON_LENGTH} characters."
        ) from error


def _end(location: Location, drafts: Sequence[TombstoneRecord]) -> tuple[list[Place], list[str]]:
    """Writes the tombstones, then the lists; gives the entries that are ended now, and what went wrong."""
    ends = list(each(partial(_end_one, location), drafts, parallel=location.parallel))
    problems = [text for end in ends for text in end.problems]
    erased: dict[str, dict[EntryKey, frozenset[Sha256]]] = defaultdict(dict)
    for end in ends:
        if end.digests is not None:
            erased[end.place.view][end.place.key] = end.digests
    for view, entries in erased.items():
        try:
            add_withdrawn(location, view, entries)
        except DAMAGED as error:
            # Whoever reads by key meets the tombstone, whoever reads by snapshot the damaged list: the data can go.
            problems.append(
                f"{view}: the data is erased, but the list of withdrawn entries is damaged and could not be continued: local "
                f"caches may keep objects, and no snapshot of the view opens. Restore the list and run again: {error}"
            )
    return [end.place for end in ends if end.digests is not None], problems


@dataclass(frozen=True)
class _End:
    """What became of one entry's series."""

    place: Place
    digests: frozenset[Sha256] | None
    """Of all objects that its commits list; None where it could not be ended."""
    problems: tuple[str, ...] = ()


def _end_one(location: Location, draft: TombstoneRecord) -> _End:
    place = Place(draft.view, draft.key)
    try:
        last = append_tombstone(location, draft).number
    except SchemaError as error:
        return _End(
            place, None, (f"{place} was NOT withdrawn, do it with the version that wrote its last record: {error}",)
        )
    commits: list[CommitRecord] = []
    problems: list[str] = []
    for number in range(last):
        try:
            record = read_record(location, place.view, place.key, number)
        except DAMAGED as error:
            problems.append(
                f"{place} is withdrawn, but local caches may keep objects of commit {number}, those of them that the store itself "
                f"had lost: {error}"
            )
            continue
        commits += [record] if isinstance(record, CommitRecord) else []
    digests = {one.sha256 for commit in commits for one in commit.objects.values()}
    if problems:
        digests |= _digests_beside(location, place, commits)
    return _End(place, frozenset(digests), tuple(problems))


def _digests_beside(location: Location, place: Place, commits: Iterable[CommitRecord]) -> set[Sha256]:
    """Of what lies there and no sound commit lists: what a damaged commit listed is among it."""
    listed = tuple(f"{commit.folder}/" for commit in commits)
    paths = [path for path in location.paths(f"data/{place}") if not path.startswith(listed)]
    return set(each(lambda path: sha256(location.get(path)), paths, parallel=location.parallel))


def _erase(location: Location, found: _Found) -> None:
    """Erases data and packs; a pack's records first, so that nobody opens one that is half erased."""
    records = {one.path for one in found.in_packs if one.path.count("/") == PACK_RECORD_DEPTH}
    data = [one.path for one in (*found.data, *found.in_packs) if one.path not in records]
    for paths, delete in (
        (sorted(records), location.delete),
        (data, location.delete),
        ([one.path for one in found.leftovers], location.delete_leftover),
    ):
        for _ in each(delete, paths, parallel=location.parallel):
            pass


def _mentions(location: Location, patients: Iterable[str]) -> list[str]:
    """Records of runs whose bytes hold an id as a whole word."""
    words = b"|".join(re.escape(patient).encode() for patient in sorted(patients))
    pattern = re.compile(rb"(?<![A-Za-z0-9])(?:" + words + rb")(?![A-Za-z0-9])")
    paths = location.paths("runs")
    hits = each(lambda path: pattern.search(read_or_none(location, path) or b""), paths, parallel=location.parallel)
    return [path for path, hit in zip(paths, hits, strict=True) if hit]
