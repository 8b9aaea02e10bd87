"""One feature store as an object: views, entries, snapshots, runs; knows no backend but through its location.

What it reads is checked against the commit that names it; what no commit names does not exist for it.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from store_schema import commits
from store_schema.arrays import Entry, decode, stage
from store_schema.errors import (
    AlreadyExistsError,
    NotCommittedError,
    ObjectAlteredError,
    ObjectMissingError,
    SchemaError,
    StoreNotFoundError,
)
from store_schema.keys import EntryKey, check_id
from store_schema.location import Location, open_location
from store_schema.records import (
    CommitRecord,
    Json,
    ObjectRecord,
    SnapshotHeader,
    Source,
    StoreRecord,
    ViewSpec,
    check_view_id,
    parse_record,
    sha256,
)
from store_schema.snapshot import SnapshotList, SnapshotRow, compress, make_list, parse_list, resolve_id, snapshot_path

if TYPE_CHECKING:
    from store_schema.verify import VerifyReport

ROOT_RECORD = "engram.json"


@dataclass(frozen=True)
class Publication:
    """What became of an attempt."""

    outcome: Literal["committed", "done", "superseded"]
    """`done`: the current commit has this input; `superseded`: an earlier one has it."""
    commit: CommitRecord
    """The commit made, or the current one."""


@dataclass(frozen=True)
class StoredEntry:
    """An entry read through its commit, checked."""

    key: EntryKey
    commit: CommitRecord
    arrays: Mapping[str, np.ndarray]
    attributes: Mapping[str, Json]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _new_attempt() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True)
class Store:
    """A feature store at one location; open it with `open_store`."""

    location: Location
    record: StoreRecord
    clock: Callable[[], str] = field(default=_now, repr=False)
    """Gives `written_at`; it decides nothing."""
    new_attempt: Callable[[], str] = field(default=_new_attempt, repr=False)

    @property
    def url(self) -> str:
        """Address that opens this store again."""
        return self.location.url

    @property
    def store_id(self) -> str:
        """UUID4 in hex, drawn when the store was created."""
        return self.record.store_id

    def __reduce__(self) -> tuple[Callable[[str], Store], tuple[str]]:
        """A pickled store is its address: no handle and no credential travels."""
        return open_store, (self.url,)

    # Views

    def put_view(self, view: ViewSpec) -> str:
        """Writes a view's specification once and gives its id; the same specification again is fine.

        Raises
        ------
        AlreadyExistsError
            If the id is taken by another specification.
        """
        path = f"views/{view.view_id}.json"
        try:
            self.location.create(path, view.to_bytes())
        except AlreadyExistsError:
            if self.view(view.view_id) != view:
                raise
        return view.view_id

    def view_ids(self) -> list[str]:
        """Ids of all views, sorted."""
        return [name.removesuffix(".json") for name in self.location.children("views") if name.endswith(".json")]

    def resolve_view(self, name: str) -> str:
        """The id of a view given by its id, its name, or the beginning of either where that is unique.

        Raises
        ------
        NotCommittedError
            If no view, or several, are meant.
        """
        ids = self.view_ids()
        if name in ids:
            return name
        named = [i for i in ids if i.rpartition("-")[0] == name] or [i for i in ids if i.startswith(name)]
        if len(named) != 1:
            raise NotCommittedError(
                f"'{name}' means {len(named)} views of {self.url}: give a whole id. There are: {', '.join(named or ids) or 'none'}."
            )
        return named[0]

    def view(self, name: str) -> ViewSpec:
        """A view's specification, checked against its id.

        Raises
        ------
        NotCommittedError
            If there is no such view.
        ObjectAlteredError
            If the specification is not the one that gave the view its id.
        """
        view_id = self.resolve_view(name)
        path = f"views/{view_id}.json"
        view = parse_record(ViewSpec, self.location.get(path), where=f"{self.url}/{path}")
        if view.view_id != view_id:
            raise ObjectAlteredError(f"{self.url}/{path} holds the specification of {view.view_id}.")
        return view

    # Entries

    def keys(self, view_id: str) -> list[EntryKey]:
        """Keys of all committed entries of a view, sorted."""
        prefix = f"commits/{check_view_id(view_id)}"
        names = {path.removeprefix(f"{prefix}/").rpartition("/")[0] for path in self.location.paths(prefix)}
        return sorted(EntryKey.parse(name) for name in names)

    def current(self, view_id: str, key: EntryKey) -> CommitRecord | None:
        """The current commit of an entry; None where it has none."""
        return commits.current_commit(self.location, check_view_id(view_id), key)

    def history(self, view_id: str, key: EntryKey) -> list[CommitRecord]:
        """All commits of an entry, 0 first; empty where it has none."""
        last = commits.current_number(self.location, check_view_id(view_id), key)
        count = 0 if last is None else last + 1
        return [commits.read_commit(self.location, view_id, key, number) for number in range(count)]

    def state(self, view_id: str, key: EntryKey, input_sha256: str) -> commits.State:
        """What an input is to an entry: new, done, superseded or stale."""
        return commits.state_of(self.current(view_id, key), input_sha256)

    def publish(
        self,
        view_id: str,
        key: EntryKey,
        entry: Entry,
        *,
        input_sha256: str,
        sources: Sequence[Source] = (),
        versions: Mapping[str, str] | None = None,
        timings_s: Mapping[str, float] | None = None,
        make_current: bool = False,
    ) -> Publication:
        """Writes an entry's data under a new attempt, then makes it visible by one create-only commit.

        Parameters
        ----------
        input_sha256
            Digest of all that decides the entry's numbers.
        make_current
            Commit this input again although a later one has replaced it.

        Raises
        ------
        StoreError
            If the entry is not one that can be stored; nothing was written.
        BackendError
            If the backend failed; the attempt stays invisible.
        """
        current = self.current(view_id, key)
        state = commits.state_of(current, input_sha256)
        if current is not None and (state == "done" or (state == "superseded" and not make_current)):
            return Publication("done" if state == "done" else "superseded", current)
        staged = stage(entry)
        draft = CommitRecord(
            view=view_id,
            patient=key.patient,
            modality=key.modality,
            roi=key.roi,
            number=0,
            attempt=self.new_attempt(),
            input_sha256=input_sha256,
            content_sha256=staged.content_sha256,
            objects={p: ObjectRecord(size_bytes=len(d), sha256=sha256(d)) for p, d in staged.objects.items()},
            arrays=dict(staged.metadata),
            attributes=dict(staged.attributes),
            sources=tuple(sources),
            versions=dict(versions or {}),
            timings_s=dict(timings_s or {}),
            written_at=self.clock(),
        )
        for path, data in sorted(staged.objects.items()):
            self.location.put(f"{draft.folder}/{path}", data)
        outcome, commit = commits.append_commit(self.location, draft, after=current, make_current=make_current)
        return Publication(outcome, commit)

    def read(
        self, view_id: str, key: EntryKey, *, number: int | None = None, arrays: Sequence[str] | None = None
    ) -> StoredEntry:
        """An entry as its current commit, or commit `number`, has it; every byte checked.

        Raises
        ------
        NotCommittedError
            If no commit lists the entry or an array asked for.
        ObjectMissingError, ObjectAlteredError
            If an object is not there, or is not the one committed.
        """
        commit = self.current(view_id, key) if number is None else self._commit_or_none(view_id, key, number)
        if commit is None:
            raise NotCommittedError(
                f"{self.url} has no commit of {view_id}/{key}. List keys with `store-schema ls URL VIEW`."
            )
        return self.read_commit(commit, arrays=arrays)

    def _commit_or_none(self, view_id: str, key: EntryKey, number: int) -> CommitRecord | None:
        try:
            return commits.read_commit(self.location, check_view_id(view_id), key, number)
        except ObjectMissingError:
            return None

    def read_commit(self, commit: CommitRecord, *, arrays: Sequence[str] | None = None) -> StoredEntry:
        """An entry as one commit has it, every byte checked; see `read`."""
        names = tuple(commit.arrays) if arrays is None else arrays
        unknown = [name for name in names if name not in commit.arrays]
        if unknown:
            raise NotCommittedError(
                f"{commit.view}/{commit.key} has no array {unknown}: it has {sorted(commit.arrays)}."
            )
        where = f"{self.url}/{commit.folder}"
        decoded = {
            name: decode(commit.arrays[name], name, lambda p: self.object(commit, p), commit.objects, where=where)
            for name in names
        }
        return StoredEntry(commit.key, commit, decoded, commit.attributes)

    def object(self, commit: CommitRecord, path: str) -> bytes:
        """One object of a commit, checked against its size and digest.

        Raises
        ------
        NotCommittedError
            If the commit lists no such object.
        ObjectMissingError, ObjectAlteredError
            If it is not there, or its bytes are not those committed.
        """
        expected = commit.objects.get(path)
        if expected is None:
            raise NotCommittedError(f"{commit.view}/{commit.key} commit {commit.number} lists no object '{path}'.")
        data = self.location.get(f"{commit.folder}/{path}")
        if len(data) != expected.size_bytes or sha256(data) != expected.sha256:
            raise ObjectAlteredError(
                f"{self.url}/{commit.folder}/{path} has {len(data)} bytes with sha256 {sha256(data)[:16]}: commit {commit.number} "
                f"lists {expected.size_bytes} bytes with {expected.sha256[:16]}. Run `store-schema verify`, then extract it again."
            )
        return data

    # Snapshots

    def make_snapshot(
        self, view_id: str, keys: Iterable[EntryKey] | Mapping[EntryKey, int | None] | None = None
    ) -> str:
        """Pins entries of one view to commits, and gives the snapshot's id; the same pins give the same id.

        Parameters
        ----------
        keys
            Entries to pin, all of the view by default. A mapping gives commit numbers; None stands for the current one.

        Raises
        ------
        NotCommittedError
            If an entry or its commit is not there.
        """
        wanted = self.keys(view_id) if keys is None else keys
        numbers: Mapping[EntryKey, int | None] = wanted if isinstance(wanted, Mapping) else dict.fromkeys(wanted)
        rows = [self._row(view_id, key, number) for key, number in numbers.items()]
        header = SnapshotHeader(store_id=self.store_id, view=self.view(view_id).view_id, rows=len(rows))
        content = make_list(header, rows)
        try:
            self.location.create(snapshot_path(content.id), compress(content.lines))
        except AlreadyExistsError:
            parse_list(self.location.get(snapshot_path(content.id)), snapshot_id=content.id)
        return content.id

    def _row(self, view_id: str, key: EntryKey, number: int | None) -> SnapshotRow:
        found = commits.current_number(self.location, view_id, key) if number is None else number
        path = commits.commit_path(view_id, key, found or 0)
        try:
            data = self.location.get(path)
        except ObjectMissingError as error:
            raise NotCommittedError(
                f"{self.url} has no commit {found} of {view_id}/{key}: it cannot be pinned."
            ) from error
        return SnapshotRow(key, commits.parse_commit(data, path=path).number, sha256(data))

    def snapshot_ids(self) -> list[str]:
        """Ids of all snapshots, sorted."""
        names = self.location.children("snapshots")
        return [name.removesuffix(".jsonl.zst") for name in names if name.endswith(".jsonl.zst")]

    def snapshot(self, snapshot_id: str) -> Snapshot:
        """A snapshot by its id or a unique beginning of it, checked against its name.

        Raises
        ------
        NotCommittedError
            If there is none, or several begin so.
        ObjectAlteredError
            If its content is not what its name says.
        SchemaError
            If it belongs to another store.
        """
        full = resolve_id(snapshot_id, self.snapshot_ids)
        try:
            content = parse_list(self.location.get(snapshot_path(full)), snapshot_id=full)
        except ObjectMissingError as error:
            raise NotCommittedError(
                f"{self.url} has no snapshot {full[:16]}…: list them with `store-schema ls URL`."
            ) from error
        if content.header.store_id != self.store_id:
            raise SchemaError(
                f"snapshot {full[:16]}… was made in store {content.header.store_id}, this is {self.store_id}."
            )
        return Snapshot(self, content)

    def verify(
        self, *, views: Sequence[str] | None = None, on_entry: Callable[[int, int], None] | None = None
    ) -> VerifyReport:
        """Reads every committed object and says what is missing or altered; see `store_schema.verify.verify`."""
        from store_schema.verify import verify  # noqa: PLC0415 - verify is written against this class

        return verify(self, views=views, on_entry=on_entry)

    # Runs

    def put_run(self, run_id: str, name: str, data: bytes) -> None:
        """Adds one record to a run; records are never overwritten."""
        self.location.create(f"runs/{check_id('run', run_id)}/{check_id('record', name)}", data)

    def run_ids(self) -> list[str]:
        """Ids of all runs, sorted."""
        return self.location.children("runs")

    def run_names(self, run_id: str) -> list[str]:
        """Names of a run's records, sorted."""
        return self.location.children(f"runs/{check_id('run', run_id)}")

    def read_run(self, run_id: str, name: str) -> bytes:
        """One record of a run.

        Raises
        ------
        NotCommittedError
            If there is none of that name.
        """
        try:
            return self.location.get(f"runs/{check_id('run', run_id)}/{check_id('record', name)}")
        except ObjectMissingError as error:
            raise NotCommittedError(f"run {run_id} has no record '{name}': it has {self.run_names(run_id)}.") from error


@dataclass(frozen=True)
class Snapshot:
    """Entries of one view pinned to commits; what it reads can never change."""

    store: Store
    content: SnapshotList

    @property
    def id(self) -> str:
        """64 hex digits."""
        return self.content.id

    @property
    def view_id(self) -> str:
        """The one view it pins."""
        return self.content.header.view

    @property
    def view(self) -> ViewSpec:
        """Specification of that view."""
        return self.store.view(self.view_id)

    @property
    def rows(self) -> tuple[SnapshotRow, ...]:
        """The pins, sorted by key."""
        return self.content.rows

    @property
    def keys(self) -> tuple[EntryKey, ...]:
        """The entries, sorted."""
        return tuple(row.key for row in self.rows)

    @cached_property
    def _by_key(self) -> dict[EntryKey, SnapshotRow]:
        return {row.key: row for row in self.rows}

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def __reduce__(self) -> tuple[Callable[[str, str], Snapshot], tuple[str, str]]:
        return open_snapshot, (self.store.url, self.id)

    def commit(self, key: EntryKey) -> CommitRecord:
        """The commit an entry is pinned to, checked against the digest in the snapshot.

        Raises
        ------
        NotCommittedError
            If the snapshot does not hold the entry.
        ObjectMissingError, ObjectAlteredError
            If the commit is gone or is not the one pinned.
        """
        row = self._by_key.get(key)
        if row is None:
            raise NotCommittedError(f"snapshot {self.id[:16]}… of {self.view_id} does not hold {key}.")
        path = commits.commit_path(self.view_id, key, row.number)
        data = self.store.location.get(path)
        if sha256(data) != row.commit_sha256:
            raise ObjectAlteredError(f"{self.store.url}/{path} is not the commit that snapshot {self.id[:16]}… pinned.")
        return commits.parse_commit(data, path=path)

    def read(self, key: EntryKey, *, arrays: Sequence[str] | None = None) -> StoredEntry:
        """An entry as pinned, every byte checked; see `Store.read`."""
        return self.store.read_commit(self.commit(key), arrays=arrays)


def create_store(url: str | os.PathLike[str]) -> Store:
    """Makes an empty place a store, or opens the store that is there already."""
    location = open_location(url)
    with contextlib.suppress(AlreadyExistsError):
        location.create(ROOT_RECORD, StoreRecord(store_id=uuid.uuid4().hex).to_bytes())
    return open_store(url)


def open_store(url: str | os.PathLike[str], *, create: bool = False) -> Store:
    """The store at a URL.

    Raises
    ------
    StoreNotFoundError
        If there is none.
    SchemaError
        If it is of another schema.
    """
    if create:
        return create_store(url)
    location = open_location(url)
    try:
        data = location.get(ROOT_RECORD)
    except ObjectMissingError as error:
        raise StoreNotFoundError(
            f"{location.url} is not a feature store: it has no {ROOT_RECORD}. Make one with `store-schema init {location.url}`."
        ) from error
    return Store(location, parse_record(StoreRecord, data, where=f"{location.url}/{ROOT_RECORD}"))


def open_snapshot(url: str, snapshot_id: str) -> Snapshot:
    """A snapshot by the URL of its store and its id."""
    return open_store(url).snapshot(snapshot_id)


def url(store: Store, view: str, key: EntryKey) -> str:
    """Address of the Zarr group of an entry's current commit, for `zarr.open_group`; of that attempt, for good.

    Raises
    ------
    NotCommittedError
        If no commit lists the entry.
    """
    commit = store.current(store.resolve_view(view), key)
    if commit is None:
        raise NotCommittedError(f"{store.url} has no commit of {view}/{key}.")
    return f"{store.url}/{commit.folder}"
