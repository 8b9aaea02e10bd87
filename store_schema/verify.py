"""Reads every committed object of a store and says what is missing, altered or left over; repairs nothing, prints nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from typing import Any, Literal

from store_schema.arrays import Entry, check_entry, content_sha256
from store_schema.commits import commit_path, numbers_in, read_commit
from store_schema.errors import (
    EngramError,
    InvalidKeyError,
    NotCommittedError,
    ObjectAlteredError,
    ObjectMissingError,
    SchemaError,
    StoreError,
)
from store_schema.keys import EntryKey
from store_schema.reader import StoredEntry, read_entry, read_object
from store_schema.records import CommitRecord
from store_schema.snapshot import Snapshot, snapshot_path
from store_schema.store import Store
from store_schema.views import read_view

Kind = Literal["missing", "altered", "chain", "record", "twin", "unreadable"]
KINDS: Mapping[type[EngramError], Kind] = {
    ObjectMissingError: "missing",
    ObjectAlteredError: "altered",
    SchemaError: "record",
    InvalidKeyError: "record",
    NotCommittedError: "record",
}
THREADS = 8
"""Entries checked at once; most of the time goes into waiting for the backend."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    kind: Kind
    """`missing` or `altered` object, broken commit `chain`, malformed `record`, ids that differ by case alone (`twin`),
    or an object that the backend could not give (`unreadable`)."""
    path: str
    detail: str


@dataclass(frozen=True)
class VerifyReport:
    """What a verification read and found."""

    views: int
    entries: int
    commits: int
    objects: int
    size_bytes: int
    """Bytes of all committed objects."""
    snapshots: int
    findings: tuple[Finding, ...]
    orphans: tuple[str, ...]
    """Attempts that no commit names: left by writers that died, invisible to readers."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; orphans are not wrong."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {"ok": self.ok, **asdict(self)}


@dataclass(frozen=True)
class _Entry:
    """What is to be checked of one entry."""

    view: str
    key: EntryKey
    numbers: tuple[int, ...]
    whole: bool = True
    """Whether these are all its commits, and not the one that a snapshot pins."""


@dataclass(frozen=True)
class _Checked:
    commits: tuple[CommitRecord, ...]
    findings: tuple[Finding, ...]


def verify(
    store: Store,
    *,
    views: Sequence[str] | None = None,
    snapshot: Snapshot | None = None,
    on_entry: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Checks every commit and every object it lists: presence, size, digest, decoded content, chain, ids, snapshots.

    Parameters
    ----------
    views
        View ids; by default everything in the store, its snapshots too.
    snapshot
        Check only what this snapshot pins.
    on_entry
        Takes how many entries are done and how many there are.
    """
    if snapshot is not None:
        return _verify_snapshot(store, snapshot, on_entry)
    view_ids = list(views) if views is not None else _all_views(store)
    entries, findings = _listed(store, view_ids)
    checked = _check_all(store, entries, on_entry)
    snapshots = store.snapshot_ids() if views is None else []
    findings += [finding for view in view_ids for finding in _check_view(store, view)]
    findings += _twins(view_ids, entries)
    findings += [finding for snapshot_id in snapshots for finding in _check_snapshot(store, snapshot_id)]
    return _report(checked, findings, views=len(view_ids), snapshots=len(snapshots), orphans=_attempts(store, view_ids))


def _verify_snapshot(store: Store, snapshot: Snapshot, on_entry: Callable[[int, int], None] | None) -> VerifyReport:
    entries = [_Entry(snapshot.view_id, row.key, (row.number,), whole=False) for row in snapshot.rows]
    checked = _check_all(store, entries, on_entry)
    return _report(checked, _check_snapshot(store, snapshot.id), views=1, snapshots=1, orphans=[])


def _report(
    checked: Sequence[_Checked], findings: Iterable[Finding], *, views: int, snapshots: int, orphans: Iterable[str]
) -> VerifyReport:
    commits = [commit for result in checked for commit in result.commits]
    named = {commit.folder for commit in commits}
    return VerifyReport(
        views=views,
        entries=len(checked),
        commits=len(commits),
        objects=sum(len(commit.objects) for commit in commits),
        size_bytes=sum(record.size_bytes for commit in commits for record in commit.objects.values()),
        snapshots=snapshots,
        findings=(*findings, *(finding for result in checked for finding in result.findings)),
        orphans=tuple(orphan for orphan in orphans if orphan not in named),
    )


def _all_views(store: Store) -> list[str]:
    return sorted({*store.view_ids(), *store.location.children("commits"), *store.location.children("data")})


def _tried[T](path: str, read: Callable[[], T]) -> tuple[T | None, list[Finding]]:
    """What a check gives, or what it raises as a finding."""
    try:
        return read(), []
    except EngramError as error:
        return None, [Finding(KINDS.get(type(error), "unreadable"), path, str(error))]


# Entries


def _listed(store: Store, view_ids: Iterable[str]) -> tuple[list[_Entry], list[Finding]]:
    """Every entry with a commit; a name among the commits that is none is a finding."""
    entries: list[_Entry] = []
    findings: list[Finding] = []
    for view in view_ids:
        paths = [path.rpartition("/") for path in store.location.paths(f"commits/{view}")]
        for folder, names in groupby(sorted(paths), key=lambda parts: parts[0]):
            entry, wrong = _entry(view, folder, [name for _, _, name in names])
            entries += [entry] if entry is not None and entry.numbers else []
            findings += wrong
    return entries, findings


def _entry(view: str, folder: str, names: Sequence[str]) -> tuple[_Entry | None, list[Finding]]:
    """The entry whose commits lie in a folder."""
    key, findings = _tried(folder, partial(EntryKey.parse, folder.removeprefix(f"commits/{view}").removeprefix("/")))
    numbers = tuple(numbers_in(names))
    if len(numbers) < len(names):
        findings.append(Finding("record", folder, f"{len(names) - len(numbers)} objects here are no commits"))
    return (None if key is None else _Entry(view, key, numbers)), findings


def _check_all(store: Store, entries: Sequence[_Entry], on_entry: Callable[[int, int], None] | None) -> list[_Checked]:
    checked: list[_Checked] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for result in pool.map(partial(_check_entry, store), entries):
            checked.append(result)
            if on_entry is not None:
                on_entry(len(checked), len(entries))
    return checked


def _check_entry(store: Store, entry: _Entry) -> _Checked:
    commits: list[CommitRecord] = []
    findings: list[Finding] = []
    for number in entry.numbers:
        path = commit_path(entry.view, entry.key, number)
        commit, wrong = _tried(path, partial(read_commit, store.location, entry.view, entry.key, number))
        findings += wrong if commit is None else _check_commit(store, commit)
        commits += [] if commit is None else [commit]
    chain = _check_chain(entry, commits) if entry.whole else ()
    return _Checked(tuple(commits), (*chain, *findings))


def _check_chain(entry: _Entry, commits: Sequence[CommitRecord]) -> Iterator[Finding]:
    """Numbers without gaps, and each commit naming the inputs of those before it."""
    path = f"commits/{entry.view}/{entry.key}"
    if list(entry.numbers) != list(range(len(entry.numbers))):
        yield Finding("chain", path, f"numbers are {list(entry.numbers)[:20]}: expected 0, 1, 2 … without gaps")
    inputs = {commit.number: commit.input_sha256 for commit in commits}
    for commit in commits:
        if any(inputs.get(number, digest) != digest for number, digest in enumerate(commit.earlier_inputs)):
            yield Finding("chain", path, f"commit {commit.number} does not list the inputs of those before it")


def _check_commit(store: Store, commit: CommitRecord) -> list[Finding]:
    findings = [
        finding
        for path in commit.objects
        for finding in _tried(f"{commit.folder}/{path}", partial(read_object, store.location, commit, path))[1]
    ]
    return findings or _tried(commit.folder, partial(_check_content, store, commit))[1]


def _check_content(store: Store, commit: CommitRecord) -> None:
    """The arrays decode to the content the commit names, are an entry's, and the copies of metadata are the objects' own."""
    entry = read_entry(store.location, commit)
    found = content_sha256(entry.arrays)
    if found != commit.content_sha256:
        raise ObjectAlteredError(f"arrays decode to content {found[:16]}, the commit says {commit.content_sha256[:16]}")
    group = json.loads(read_object(store.location, commit, "zarr.json"))
    arrays = {n: json.loads(read_object(store.location, commit, f"{n}/zarr.json")) for n in commit.arrays}
    if group.get("attributes") != commit.attributes or arrays != commit.arrays:
        raise SchemaError("attributes or array metadata in the commit are not those in the attempt's zarr.json")
    _check_arrays(store, entry)


def _check_arrays(store: Store, entry: StoredEntry) -> None:
    """The arrays are such as a writer of this schema may store, the memory of the shape that its view declares."""
    try:
        check_entry(Entry(entry.arrays, entry.attributes))
    except StoreError as error:
        raise SchemaError(f"the entry must not be stored so: {error}") from error
    view, _ = _tried(entry.commit.view, partial(store.view, entry.commit.view))
    shape = entry.arrays["memory"].shape
    # A view that cannot be read is a finding of its own.
    if view is not None and shape != view.layout.shape:
        raise SchemaError(f"memory has shape {shape}, the view declares {view.layout.shape}")


# Views, ids, snapshots, attempts


def _check_view(store: Store, view: str) -> list[Finding]:
    return _tried(f"views/{view}.json", partial(read_view, store.location, view))[1]


def _twins(view_ids: Iterable[str], entries: Iterable[_Entry]) -> Iterator[Finding]:
    """Ids that one file system keeps apart and another does not."""
    names = {"view": set(view_ids)} | {
        kind: {getattr(entry.key, kind) for entry in entries} for kind in ("patient", "modality", "roi")
    }
    for kind, ids in names.items():
        folded = Counter(name.casefold() for name in ids)
        twins = sorted(name for name in ids if folded[name.casefold()] > 1)
        if twins:
            yield Finding("twin", ", ".join(twins), f"{kind} ids that differ by case alone: a reader may mix them up")


def _check_snapshot(store: Store, snapshot_id: str) -> list[Finding]:
    """Its name, its view, and every commit it pins."""
    path = snapshot_path(snapshot_id)
    snapshot, findings = _tried(path, partial(store.snapshot, snapshot_id))
    if snapshot is None:
        return findings
    findings += _tried(path, lambda: snapshot.view)[1]
    for key in snapshot.keys:
        findings += _tried(f"{path}: {key}", partial(snapshot.commit, key))[1]
    return findings


def _attempts(store: Store, view_ids: Iterable[str]) -> list[str]:
    """Every attempt's data folder: data, view, patient, modality, ROI, attempt."""
    paths = (path for view in view_ids for path in store.location.paths(f"data/{view}"))
    return sorted({"/".join(path.split("/")[:6]) for path in paths})
