"""Reads every committed object of a store and says what is missing, altered or left over; repairs nothing, prints nothing."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import BoundedSemaphore
from typing import Any

from store_schema.commits import UNKNOWN_INPUT, Numbered, commit_path, numbers_in, read_record
from store_schema.content import check_content
from store_schema.errors import EntryWithdrawnError
from store_schema.findings import Finding, tried
from store_schema.keys import EntryKey
from store_schema.location import Location
from store_schema.parallel import each
from store_schema.reader import read_object
from store_schema.records import CommitRecord, TombstoneRecord
from store_schema.scan import Attempt, EntryFolder, patients, scan
from store_schema.snapshot import Snapshot, list_snapshots
from store_schema.store import Store
from store_schema.verify_lists import check_names, check_packs, check_root, check_snapshot, check_snapshots
from store_schema.views import read_view
from store_schema.withdrawals import withdrawn

DECODERS = 4
"""Entries decoded at once: a decoded mask is large, an object on its way is not."""


@dataclass(frozen=True)
class VerifyReport:
    """What a verification read and found."""

    views: int
    entries: int
    """Entries with a commit or a tombstone."""
    commits: int
    """Commits whose objects were read: those of withdrawn entries have none."""
    objects: int
    size_bytes: int
    """Bytes of all committed objects."""
    snapshots: int
    findings: tuple[Finding, ...]
    orphans: tuple[str, ...]
    """Attempts that no commit or pack names: left by writers that died, invisible to readers."""
    orphan_bytes: int = 0
    packs: int = 0
    withdrawn: int = 0
    """Entries that a tombstone ends."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; orphans are not wrong."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {"ok": self.ok, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class _Checked:
    """What was found under one name."""

    key: EntryKey | None = None
    commits: int = 0
    objects: int = 0
    size_bytes: int = 0
    withdrawn: bool = False
    findings: tuple[Finding, ...] = ()
    orphans: tuple[Attempt, ...] = ()


@dataclass
class _Tally:
    """Sums over all names, so that memory does not grow with the number of entries."""

    total: int
    on_entry: Callable[[int, int], None] | None
    entries: int = 0
    commits: int = 0
    objects: int = 0
    size_bytes: int = 0
    withdrawn: int = 0
    findings: list[Finding] = field(default_factory=list)
    orphans: list[Attempt] = field(default_factory=list)
    ids: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Ids seen by what they name."""

    def add(self, one: _Checked) -> None:
        """Takes one name's result."""
        self.findings += one.findings
        self.orphans += one.orphans
        if one.key is None:
            return
        self.entries += 1
        self.commits += one.commits
        self.objects += one.objects
        self.size_bytes += one.size_bytes
        self.withdrawn += one.withdrawn
        for kind in ("patient", "modality", "roi"):
            self.ids[kind].add(getattr(one.key, kind))
        if self.on_entry is not None:
            self.on_entry(self.entries, max(self.entries, self.total))

    def report(self, *, views: int, snapshots: int, packs: int) -> VerifyReport:
        """The sums as they are reported."""
        return VerifyReport(
            views=views,
            entries=self.entries,
            commits=self.commits,
            objects=self.objects,
            size_bytes=self.size_bytes,
            snapshots=snapshots,
            findings=tuple(self.findings),
            orphans=tuple(attempt.path for attempt in self.orphans),
            orphan_bytes=sum(attempt.size_bytes for attempt in self.orphans),
            packs=packs,
            withdrawn=self.withdrawn,
        )


@dataclass(frozen=True)
class _Check:
    """What all checks of a verification share."""

    store: Store
    withdrawn: Mapping[str, frozenset[EntryKey]]
    """Keys that the list of a view names."""
    decoding: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(DECODERS))


def verify(
    store: Store,
    *,
    views: Sequence[str] | None = None,
    snapshot: Snapshot | None = None,
    on_entry: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Checks every commit and every object it lists: presence, size, digest, decoded content, chain, ids, snapshots, packs.

    Parameters
    ----------
    views
        View ids; by default everything in the store, its snapshots and packs too.
    snapshot
        Check only what this snapshot pins.
    on_entry
        Takes how many entries are done and how many there are.
    """
    if snapshot is not None:
        return _verify_snapshot(store, snapshot, on_entry)
    view_ids = list(views) if views is not None else _all_views(store)
    tally = _Tally(sum(_entries_in(store, view) for view in view_ids), on_entry)
    check = _check_views(store, view_ids, tally)
    if views is not None:
        return tally.report(views=len(view_ids), snapshots=0, packs=0)
    tally.findings += [*check_root(store.location), *check_snapshots(store.location, store.store_id)]
    packs = check_packs(store.location, check.withdrawn)
    tally.findings += packs.findings
    tally.orphans += packs.orphans
    return tally.report(views=len(view_ids), snapshots=len(list_snapshots(store.location)), packs=packs.packs)


def _check_views(store: Store, view_ids: Sequence[str], tally: _Tally) -> _Check:
    """Tallies all entries of some views, what these are called, and what the views themselves hold."""
    location = store.location
    lists = {view: tried(f"withdrawn/{view}", partial(withdrawn, location, view)) for view in view_ids}
    tally.findings += [finding for _, wrong in lists.values() for finding in wrong]
    check = _Check(store, {view: frozenset(listed or ()) for view, (listed, _) in lists.items()})
    places = ((view, patient) for view in view_ids for patient in patients(location, view))
    for ones in each(partial(_check_patient, check), places, parallel=location.parallel):
        for one in ones:
            tally.add(one)
    tally.findings += [finding for view in view_ids for finding in _check_view(check, view)]
    tally.findings += check_names({"view": set(view_ids), **tally.ids})
    return check


def _verify_snapshot(store: Store, snapshot: Snapshot, on_entry: Callable[[int, int], None] | None) -> VerifyReport:
    tally = _Tally(len(snapshot.rows), on_entry)
    check = _Check(store, {})
    pinned = ((snapshot.view_id, row.key, row.number) for row in snapshot.rows)
    for one in each(lambda place: _check_pinned(check, *place), pinned, parallel=store.location.parallel):
        tally.add(one)
    tally.findings += check_snapshot(store.location, store.store_id, snapshot.id)
    return tally.report(views=1, snapshots=1, packs=0)


def _all_views(store: Store) -> list[str]:
    listed = (store.location.children(kind) for kind in ("commits", "data", "withdrawn"))
    return sorted({*store.view_ids(), *(name for names in listed for name in names)})


def _entries_in(store: Store, view: str) -> int:
    """How many entries a view has: each has a record 0."""
    return sum(one.path.endswith("/000000.json") for one in store.location.objects(f"commits/{view}"))


# Entries


def _check_patient(check: _Check, place: tuple[str, str]) -> list[_Checked]:
    view, patient = place
    found = scan(check.store.location, view, patient)
    if not found:
        # An empty folder, or one in which a killed writer left an unfinished file, is nothing wrong.
        places = [f"{kind}/{view}/{patient}" for kind in ("commits", "data")]
        strays = [place for place in places if check.store.location.exists(place)]
        wrong = tuple(Finding("record", place, "is an object where a patient's folder belongs") for place in strays)
        return [_Checked(findings=wrong)]
    return [_check_name(check, entry) for entry in found]


def _check_name(check: _Check, entry: EntryFolder) -> _Checked:
    """What lies under one name of an entry; a name that is no key has nothing that could be read."""
    folder = f"commits/{entry.view}/{entry.name}"
    _, findings = tried(folder, partial(EntryKey.parse, entry.name)) if entry.records else (None, [])
    strays = len(entry.records) - len(entry.numbers)
    if strays:
        findings.append(Finding("record", folder, f"{strays} objects here are no commits"))
    if entry.key is None:
        findings += [Finding("unknown", attempt.path, "is no attempt of an entry") for attempt in entry.attempts]
        return _Checked(findings=tuple(findings))
    if not entry.numbers:
        return _Checked(findings=tuple(findings), orphans=entry.attempts)
    checked = _check_entry(check, entry, entry.key)
    return dataclasses.replace(checked, findings=(*findings, *checked.findings))


def _check_entry(check: _Check, entry: EntryFolder, key: EntryKey) -> _Checked:
    records: list[Numbered] = []
    findings: list[Finding] = []
    for number in entry.numbers:
        path = commit_path(entry.view, key, number)
        record, wrong = tried(path, partial(_shown, check.store.location, entry.view, key, number))
        findings += wrong
        records += [] if record is None else [record]
    findings += _check_chain(f"commits/{entry.view}/{key}", entry.numbers, records)
    if any(isinstance(record, TombstoneRecord) for record in records):
        return _Checked(key, withdrawn=True, findings=(*findings, *_check_withdrawn(check, entry, key)))
    if key in check.withdrawn.get(entry.view, ()):
        findings.append(_unfinished(f"withdrawn/{entry.view}", f"names {key}, which no tombstone ends"))
    commits = [record for record in records if isinstance(record, CommitRecord)]
    findings += [finding for commit in commits for finding in _check_commit(check, commit)]
    # A commit that is gone or cannot be read names an attempt that nobody knows: then none is called an orphan.
    named = {commit.folder for commit in commits}
    whole = [commit.number for commit in commits] == list(range(entry.numbers[-1] + 1))
    orphans = [one for one in entry.attempts if one.path not in named] if whole else []
    return _Checked(
        key,
        commits=len(commits),
        objects=sum(len(commit.objects) for commit in commits),
        size_bytes=sum(one.size_bytes for commit in commits for one in commit.objects.values()),
        findings=tuple(findings),
        orphans=tuple(orphans),
    )


def _shown(location: Location, view: str, key: EntryKey, number: int) -> Numbered | None:
    """A record; None where a service withholds it, since the entry was withdrawn: its tombstone is shown."""
    try:
        return read_record(location, view, key, number)
    except EntryWithdrawnError:
        return None


def _check_pinned(check: _Check, view: str, key: EntryKey, number: int) -> _Checked:
    """One commit that a snapshot pins."""
    record, findings = tried(
        commit_path(view, key, number), partial(read_record, check.store.location, view, key, number)
    )
    if not isinstance(record, CommitRecord):
        return _Checked(key, findings=tuple(findings))
    size_bytes = sum(one.size_bytes for one in record.objects.values())
    return _Checked(key, 1, len(record.objects), size_bytes, findings=tuple(_check_commit(check, record)))


def _check_withdrawn(check: _Check, entry: EntryFolder, key: EntryKey) -> Iterator[Finding]:
    """A withdrawn entry is in the view's list, and no data of it is left."""
    if key not in check.withdrawn[entry.view]:
        yield _unfinished(f"commits/{entry.view}/{key}", "is ended by a tombstone and not in the view's list")
    for attempt in entry.attempts:
        yield _unfinished(attempt.path, f"has {attempt.objects} objects of a withdrawn entry")


def _unfinished(path: str, what: str) -> Finding:
    return Finding("withdrawn", path, f"{what}: run `store-schema withdraw` again, it completes what was cut short")


def _check_chain(path: str, numbers: Sequence[int], records: Sequence[Numbered]) -> Iterator[Finding]:
    """Numbers without gaps, each record naming the inputs of those before it, and a tombstone the last."""
    if list(numbers) != list(range(len(numbers))):
        yield Finding("chain", path, f"numbers are {list(numbers)[:20]}: expected 0, 1, 2 … without gaps")
    inputs = {record.number: record.input_sha256 for record in records if isinstance(record, CommitRecord)}
    for record in records:
        ends = isinstance(record, TombstoneRecord)
        told = enumerate(record.earlier_inputs)
        if any(
            inputs.get(number, digest) != digest for number, digest in told if not (ends and digest == UNKNOWN_INPUT)
        ):
            yield Finding("chain", path, f"commit {record.number} does not list the inputs of those before it")
        # A second tombstone may follow: the first one was damaged when the entry was withdrawn again.
        later = [number for number in inputs if number > record.number]
        if ends and later:
            yield Finding("chain", path, f"commit {max(later)} follows the tombstone {record.number}")


def _check_commit(check: _Check, commit: CommitRecord) -> list[Finding]:
    held: dict[str, bytes] = {}
    findings: list[Finding] = []
    for path in commit.objects:
        data, wrong = tried(f"{commit.folder}/{path}", partial(read_object, check.store.location, commit, path))
        findings += wrong
        held[path] = data or b""
    if findings:
        return findings
    # A view that cannot be read is a finding of its own.
    view, _ = tried(commit.view, partial(check.store.view, commit.view))
    with check.decoding:
        return tried(commit.folder, partial(check_content, commit, held, view))[1]


def _check_view(check: _Check, view: str) -> Iterator[Finding]:
    yield from tried(f"views/{view}.json", partial(read_view, check.store.location, view))[1]
    strays = [name for name in check.store.location.children(f"withdrawn/{view}") if not numbers_in([name])]
    for name in strays:
        yield Finding("record", f"withdrawn/{view}/{name}", "is no list of withdrawn entries")
