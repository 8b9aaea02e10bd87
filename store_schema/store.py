"""One feature store as an object: views, entries, snapshots, runs; knows no backend but through its location.

What it reads is checked against the commit that names it; what no commit names does not exist for it.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from store_schema import commits
from store_schema.arrays import Entry
from store_schema.errors import (
    InvalidKeyError,
    NotCommittedError,
    ObjectMissingError,
    SchemaError,
    StoreNotFoundError,
    UsageError,
)
from store_schema.keys import EntryKey
from store_schema.location import Location, open_location
from store_schema.pinning import Asked, SnapshotDiff, Told, diff, make
from store_schema.reader import StoredEntry, read_entry
from store_schema.records import (
    CommitRecord,
    Source,
    StoreRecord,
    ViewSpec,
    check_view_id,
    parse_record,
)
from store_schema.run_records import RunRecords
from store_schema.snapshot import Snapshot, list_snapshots, opened, read_list, resolve_id
from store_schema.views import create_view, list_views, read_view, resolve_view
from store_schema.withdrawals import withdrawn
from store_schema.writer import Provenance, Publication, Writer, utc_now, uuid4_hex

if TYPE_CHECKING:
    from store_schema.verify import VerifyReport

ROOT_RECORD = "engram.json"


@dataclass(frozen=True)
class Store(RunRecords):
    """A feature store at one location; open it with `open_store`."""

    location: Location
    record: StoreRecord
    clock: Callable[[], str] = field(default=utc_now, repr=False, compare=False)
    """Gives `written_at`; it decides nothing."""
    new_attempt: Callable[[], str] = field(default=uuid4_hex, repr=False, compare=False)
    _views: dict[str, ViewSpec] = field(default_factory=dict, repr=False, compare=False)
    """Specifications read so far, by id; they never change."""

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
        return create_view(self.location, view)

    def view_ids(self) -> list[str]:
        """Ids of all views, sorted."""
        return list_views(self.location)

    def resolve_view(self, name: str) -> str:
        """The id of a view given by its id, its name, or the beginning of either where that is unique.

        Raises
        ------
        NotCommittedError
            If no view, or several, are meant.
        """
        return resolve_view(self.location, name)

    def view(self, name: str) -> ViewSpec:
        """A view's specification, checked against its id; see `resolve_view` for what may be given.

        Raises
        ------
        NotCommittedError
            If there is no such view.
        ObjectAlteredError
            If the specification is not the one that gave the view its id.
        """
        view_id = name if name in self._views else self.resolve_view(name)
        if view_id not in self._views:
            self._views[view_id] = read_view(self.location, view_id)
        return self._views[view_id]

    # Entries

    def keys(self, view_id: str) -> list[EntryKey]:
        """Keys of all committed entries of a view that were not withdrawn, sorted."""
        return sorted(self.current_numbers(view_id))

    def current_numbers(self, view_id: str) -> dict[EntryKey, int]:
        """Number of the current commit of every entry of a view, by one listing; withdrawn entries are left out.

        An entry whose withdrawal was cut short between its tombstone and the view's list is still named here, by the number
        of the tombstone; whoever reads it gets EntryWithdrawnError. `withdraw`, run again, completes the list.
        """
        prefix = f"commits/{check_view_id(view_id)}"
        left_out = withdrawn(self.location, view_id)
        numbers: dict[EntryKey, int] = {}
        for path in self.location.paths(prefix):
            folder, _, name = path.removeprefix(f"{prefix}/").rpartition("/")
            for number in commits.numbers_in([name]):
                key = _listed(folder, path)
                numbers[key] = max(number, numbers.get(key, 0))
        return {key: number for key, number in numbers.items() if key not in left_out}

    def current(self, view_id: str, key: EntryKey) -> CommitRecord | None:
        """The current commit of an entry; None where it has none.

        Raises
        ------
        EntryWithdrawnError
            If the entry was withdrawn.
        """
        return commits.current_commit(self.location, check_view_id(view_id), key)

    def history(self, view_id: str, key: EntryKey) -> list[CommitRecord]:
        """All commits of an entry, 0 first; empty where it has none.

        Raises
        ------
        EntryWithdrawnError
            If the entry was withdrawn.
        """
        last = self.current(view_id, key)
        if last is None:
            return []
        return [*(commits.read_commit(self.location, view_id, key, number) for number in range(last.number)), last]

    def state(self, view_id: str, key: EntryKey, input_sha256: str) -> commits.State:
        """What an input is to an entry: new, done, superseded or stale; withdrawn, whatever the input."""
        return commits.state_of(commits.current_record(self.location, check_view_id(view_id), key), input_sha256)

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

        An input that a commit has already is not written again.

        Parameters
        ----------
        input_sha256
            Digest of all that decides the entry's numbers, in 64 hex digits.
        make_current
            Commit this input again although a later one has replaced it.

        Raises
        ------
        NotCommittedError
            If the store has no such view.
        EntryWithdrawnError
            If the entry was withdrawn; neither another input nor `make_current` brings it back.
        StoreError
            If the entry is not one that can be stored in this view; nothing was written.
        BackendError
            If the backend failed; the attempt stays invisible, and the same call may be made again.
        """
        writer = Writer(self.location, self.view(check_view_id(view_id)), self.clock, self.new_attempt)
        provenance = Provenance(sources, versions or {}, timings_s or {})
        return writer.publish(key, entry, input_sha256=input_sha256, provenance=provenance, make_current=make_current)

    def read(
        self, view_id: str, key: EntryKey, *, number: int | None = None, arrays: Sequence[str] | None = None
    ) -> StoredEntry:
        """An entry as its current commit, or commit `number`, has it; every byte checked.

        Raises
        ------
        NotCommittedError
            If no commit lists the entry or an array asked for.
        EntryWithdrawnError
            If the entry was withdrawn, whatever the number.
        ObjectMissingError, ObjectAlteredError
            If an object is not there, or is not the one committed.
        """
        return read_entry(self.location, self.commit(view_id, key, number=number), arrays=arrays)

    def commit(self, view_id: str, key: EntryKey, *, number: int | None = None) -> CommitRecord:
        """The current commit of an entry, or commit `number`.

        Raises
        ------
        NotCommittedError
            If there is none.
        EntryWithdrawnError
            If the entry was withdrawn, whatever the number.
        """
        # Also for an earlier number: the last record alone says whether the entry may be read at all.
        current = self.current(view_id, key)
        if current is not None and number in {None, current.number}:
            return current
        if current is not None and number is not None and 0 <= number < current.number:
            with contextlib.suppress(ObjectMissingError):
                return commits.read_commit(self.location, view_id, key, number)
        which = "no commit" if number is None else f"no commit {number}"
        raise NotCommittedError(
            f"{self.url} has {which} of {view_id}/{key}. List keys with `store-schema ls URL VIEW`."
        )

    # Snapshots

    def make_snapshot(
        self,
        view_id: str,
        keys: Iterable[EntryKey] | Mapping[EntryKey, int | None] | None = None,
        *,
        where: Sequence[str] = (),
        base: str | None = None,
        told: Told | None = None,
    ) -> str:
        """Pins entries of one view to commits, and gives the snapshot's id; the same pins give the same id.

        One listing finds the current commits; only those that an earlier snapshot does not pin already are read. A place that
        makes snapshots itself, as the feature-store service does, is asked for it.

        Parameters
        ----------
        keys
            Entries to pin, all of the view by default. A mapping gives commit numbers; None stands for the current one.
        where
            Filters such as `patient=MM_0*` or `modality!=CT`; see `store_schema.where.where`.
        base
            Snapshot to build on, by default the newest and the largest of the view. It changes the work, never the result.

        Raises
        ------
        NotCommittedError
            If the view, an entry or its commit is not there, or nothing is left to pin by the filter.
        EntryWithdrawnError
            If an entry asked for was withdrawn.
        """
        view = self.view(view_id)
        given = None if base is None else resolve_id(base, self.snapshot_ids)
        asked = Asked.of(view, self.store_id, keys, terms=where, base=given)
        return make(self.location, asked, current=partial(self.current_numbers, view.view_id), told=told)

    def diff(self, before: str, after: str) -> SnapshotDiff:
        """What changed between two snapshots of one view; both may name withdrawn entries, since nothing of them is read.

        Raises
        ------
        NotCommittedError
            If one is not there.
        UsageError
            If they are of two views.
        """
        return diff(*(read_list(self.location, resolve_id(one, self.snapshot_ids)) for one in (before, after)))

    def snapshot_ids(self) -> list[str]:
        """Ids of all snapshots, sorted."""
        return list_snapshots(self.location)

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
        EntryWithdrawnError
            If it names an entry that was withdrawn.
        """
        content = read_list(self.location, resolve_id(snapshot_id, self.snapshot_ids))
        if content.header.store_id != self.store_id:
            raise SchemaError(
                f"snapshot {content.id[:16]}… was made in store {content.header.store_id}, this is {self.store_id} at {self.url}."
            )
        return opened(self.location, content)

    # Care

    def verify(
        self,
        *,
        views: Sequence[str] | None = None,
        snapshot: Snapshot | None = None,
        on_entry: Callable[[int, int], None] | None = None,
    ) -> VerifyReport:
        """Reads every committed object and says what is missing or altered; see `store_schema.verify.verify`."""
        from store_schema.verify import verify  # noqa: PLC0415 - verify is written against this class

        return verify(self, views=views, snapshot=snapshot, on_entry=on_entry)


def create_store(url: str | os.PathLike[str]) -> Store:
    """Makes a place a store, or opens the store that is there already; see `commits.create_first` for what is refused."""
    location = open_location(url)
    commits.create_first(location, ROOT_RECORD, StoreRecord(store_id=uuid.uuid4().hex).to_bytes())
    return Store(location, _root_record(location))


def open_store(url: str | os.PathLike[str], *, create: bool = False) -> Store:
    """The store at a URL.

    Raises
    ------
    StoreNotFoundError
        If there is none.
    SchemaError
        If it is of another schema.
    UsageError
        If no backend serves such a URL.
    """
    if create:
        return create_store(url)
    location = open_location(url)
    return Store(location, _root_record(location))


def _listed(folder: str, path: str) -> EntryKey:
    """The entry that a record was listed under; nobody but a hand or a tool beside the store makes another folder."""
    try:
        return EntryKey.parse(folder)
    except InvalidKeyError as error:
        raise SchemaError(
            f"{path} lies where no entry can ({error}) Move it out of the store; `store-schema verify` finds all such names."
        ) from error


def _root_record(location: Location) -> StoreRecord:
    try:
        data = location.get(ROOT_RECORD)
    except ObjectMissingError as error:
        raise StoreNotFoundError(
            f"{location.url} is not a feature store: it has no {ROOT_RECORD}. Make one with `store-schema init {location.url}`."
        ) from error
    return parse_record(StoreRecord, data, where=f"{location.url}/{ROOT_RECORD}")


def url(store: Store | str | os.PathLike[str], view: str, key: EntryKey | str, *, number: int | None = None) -> str:
    """Address of the Zarr group of one entry, for `zarr.open_group(url, mode="r")`.

    It is the attempt of the current commit (or of commit `number`), and stays that attempt's for good. Readers of this address
    check no digest: read through the store or a snapshot where that matters. Through the service they send the key in a header
    (SPEC.md, section 10).

    Raises
    ------
    NotCommittedError
        If no commit lists the entry.
    EntryWithdrawnError
        If the entry was withdrawn.
    UsageError
        If only this process can reach the store.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    if not opened.location.reachable():
        raise UsageError(f"{opened.url} lives in this process alone: open its snapshot with SnapshotStore instead.")
    entry = key if isinstance(key, EntryKey) else EntryKey.parse(key)
    return f"{opened.url}/{opened.commit(opened.resolve_view(view), entry, number=number).folder}"
