"""Reads every committed object of a store and says what is missing, altered or left over; repairs nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from store_schema.arrays import content_sha256
from store_schema.errors import EngramError, InvalidKeyError, ObjectAlteredError, ObjectMissingError, SchemaError
from store_schema.keys import EntryKey
from store_schema.records import CommitRecord
from store_schema.store import Store

Kind = Literal["missing", "altered", "chain", "record", "twin"]
THREADS = 8


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    kind: Kind
    """`missing` or `altered` object, broken commit `chain`, unreadable `record`, ids that differ by case alone (`twin`)."""
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
class _Checked:
    commits: tuple[CommitRecord, ...]
    findings: tuple[Finding, ...]


def verify(
    store: Store, *, views: Sequence[str] | None = None, on_entry: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Checks every commit and every object it lists: presence, size, digest, decoded content, chain, ids, snapshots.

    Parameters
    ----------
    views
        View ids; all by default. Snapshots are checked only with all views.
    on_entry
        Takes how many entries are done and how many there are.
    """
    view_ids = list(views) if views is not None else _committed_views(store)
    findings = [finding for view in view_ids for finding in _view_findings(store, view)]
    entries, names = _entries(store, view_ids)
    findings += names
    checked: list[_Checked] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for done, result in enumerate(pool.map(lambda entry: _check_entry(store, *entry), entries), start=1):
            checked.append(result)
            if on_entry is not None:
                on_entry(done, len(entries))
    findings += [finding for result in checked for finding in result.findings] + list(_twins(entries))
    snapshot_ids = store.snapshot_ids() if views is None else []
    findings += [finding for snapshot_id in snapshot_ids for finding in _snapshot_findings(store, snapshot_id)]
    commits = [commit for result in checked for commit in result.commits]
    return VerifyReport(
        views=len(view_ids),
        entries=len(entries),
        commits=len(commits),
        objects=sum(len(commit.objects) for commit in commits),
        size_bytes=sum(o.size_bytes for commit in commits for o in commit.objects.values()),
        snapshots=len(snapshot_ids),
        findings=tuple(findings),
        orphans=tuple(_orphans(store, view_ids, commits)),
    )


def _committed_views(store: Store) -> list[str]:
    return sorted({*store.view_ids(), *store.location.children("commits"), *store.location.children("data")})


def _view_findings(store: Store, view: str) -> Iterator[Finding]:
    yield from _told(f"views/{view}.json", lambda: store.view(view))


def _told(path: str, check: Callable[[], object]) -> Iterator[Finding]:
    """Runs a check and gives what it raises as a finding."""
    try:
        check()
    except EngramError as error:
        yield Finding(_kind(error), path, str(error))


def _kind(error: EngramError) -> Kind:
    kinds: dict[type[EngramError], Kind] = {ObjectMissingError: "missing", ObjectAlteredError: "altered"}
    return kinds.get(type(error), "record")


def _entries(store: Store, view_ids: Sequence[str]) -> tuple[list[tuple[str, EntryKey]], list[Finding]]:
    """Every entry with a commit; a name that is no key is a finding."""
    entries: list[tuple[str, EntryKey]] = []
    findings: list[Finding] = []
    for view in view_ids:
        prefix = f"commits/{view}"
        names = {path.removeprefix(f"{prefix}/").rpartition("/")[0] for path in store.location.paths(prefix)}
        for name in sorted(names):
            try:
                entries.append((view, EntryKey.parse(name)))
            except InvalidKeyError as error:
                findings.append(Finding("record", f"{prefix}/{name}", str(error)))
    return entries, findings


def _check_entry(store: Store, view: str, key: EntryKey) -> _Checked:
    try:
        history = store.history(view, key)
    except (SchemaError, ObjectMissingError) as error:
        return _Checked((), (Finding("chain", f"commits/{view}/{key}", str(error)),))
    findings = [finding for commit in history for finding in _check_commit(store, commit)]
    return _Checked(tuple(history), (*_check_chain(view, key, history), *findings))


def _check_chain(view: str, key: EntryKey, history: Sequence[CommitRecord]) -> Iterator[Finding]:
    for number, commit in enumerate(history):
        inputs = tuple(earlier.input_sha256 for earlier in history[:number])
        if commit.earlier_inputs != inputs:
            yield Finding(
                "chain", f"commits/{view}/{key}", f"commit {number} does not list the inputs of those before it"
            )


def _check_commit(store: Store, commit: CommitRecord) -> Iterator[Finding]:
    findings = [finding for path in commit.objects for finding in _check_object(store, commit, path)]
    yield from findings
    if not findings:
        yield from _told(commit.folder, lambda: _check_content(store, commit))


def _check_object(store: Store, commit: CommitRecord, path: str) -> list[Finding]:
    return list(_told(f"{commit.folder}/{path}", lambda: store.object(commit, path)))


def _check_content(store: Store, commit: CommitRecord) -> None:
    found = content_sha256(store.read_commit(commit).arrays)
    if found != commit.content_sha256:
        raise ObjectAlteredError(f"arrays decode to content {found[:16]}, the commit says {commit.content_sha256[:16]}")


def _twins(entries: Iterable[tuple[str, EntryKey]]) -> Iterator[Finding]:
    """Ids that one file system keeps apart and another does not."""
    for kind in ("patient", "modality", "roi"):
        names = {getattr(key, kind) for _, key in entries}
        folded = Counter(name.casefold() for name in names)
        twins = sorted(name for name in names if folded[name.casefold()] > 1)
        if twins:
            yield Finding("twin", ", ".join(twins), f"{kind} ids that differ by case alone")


def _snapshot_findings(store: Store, snapshot_id: str) -> Iterator[Finding]:
    path = f"snapshots/{snapshot_id}.jsonl.zst"
    found = list(_told(path, lambda: store.snapshot(snapshot_id)))
    yield from found
    if not found:
        snapshot = store.snapshot(snapshot_id)
        for key in snapshot.keys:
            yield from _told(f"{path}: {key}", partial(snapshot.commit, key))


def _orphans(store: Store, view_ids: Iterable[str], commits: Iterable[CommitRecord]) -> Iterator[str]:
    named = {commit.folder for commit in commits}
    for view in view_ids:
        attempts = {"/".join(path.split("/")[:6]) for path in store.location.paths(f"data/{view}")}
        yield from sorted(attempts - named)
