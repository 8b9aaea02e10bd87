"""A project's catalogue says what its store says, whatever was written, noted, damaged or withdrawn, and in which order."""

import itertools
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from services.catalogue.index import note_commit, note_run, note_snapshot, note_view, reindex
from services.catalogue.notes import UNKNOWN_SHA256, UNKNOWN_TIME
from services.database.models import EntryRow, Project
from services.errors import Refusal
from services.service import Service
from store_schema import EntryKey, Store
from store_schema.commits import commit_path, current_record
from store_schema.errors import BackendError, StoreNotFoundError
from store_schema.records import sha256
from store_schema.testing import WrappedLocation, digest_of
from store_schema.withdraw import withdraw

from .catalogue_help import (
    KEYS,
    PROJECT,
    add_project,
    clear,
    entry_rows,
    expected_rows,
    fill,
    publish,
    put_run,
    rows_of,
)

A, B = KEYS[0], KEYS[1]


@pytest.fixture
def store(service: Service) -> Store:
    return add_project(service)


def path_of(store: Store, path: str) -> Path:
    return Path(store.url) / path


def spoil(store: Store, path: str) -> None:
    """Alters one byte of an object."""
    data = bytearray(path_of(store, path).read_bytes())
    data[len(data) // 2] ^= 1
    path_of(store, path).write_bytes(data)


def note(service: Service, store: Store, view: str, key: EntryKey) -> None:
    """Tells the catalogue of an entry's current record."""
    record = current_record(store.location, view, key)
    data = store.location.get(commit_path(view, key, record.number))
    service.database.run(lambda session: note_commit(session, PROJECT, record, sha256(data)))


def indexed_at(service: Service) -> datetime | None:
    return service.database.read(lambda session: session.get(Project, PROJECT).indexed_at)


def through(service: Service, store: Store, location: WrappedLocation) -> None:
    """Has the service see its store through another location."""
    objects = service.project_store(PROJECT).objects
    objects.store = replace(store, location=location)


class CountedLocation(WrappedLocation):
    """Counts what is read and listed."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.got: list[str] = []
        self.listed: list[str] = []

    def get(self, path: str) -> bytes:
        self.got.append(path)
        return self.inner.get(path)

    def paths(self, prefix: str) -> list[str]:
        self.listed.append(prefix)
        return self.inner.paths(prefix)

    def children(self, prefix: str) -> list[str]:
        self.listed.append(prefix)
        return self.inner.children(prefix)


class UnreadableLocation(WrappedLocation):
    """Cannot give some objects."""

    def __init__(self, inner: Any, *parts: str) -> None:
        super().__init__(inner)
        self.parts = parts

    def get(self, path: str) -> bytes:
        if any(part in path for part in self.parts):
            raise BackendError("could not read it: failed on purpose.")
        return self.inner.get(path)


# Agreement


def test_rows_are_what_reading_every_record_gives(service: Service, store: Store) -> None:
    first, second = fill(store), fill(store, KEYS[:5], recipe=2)
    publish(store, first, A, "B")
    publish(store, first, A, "A", make_current=True)
    publish(store, first, B, "B")
    for view in (first, second):
        store.make_snapshot(view)
    store.make_snapshot(first, KEYS[:2])
    withdraw(store, [first], keys=[KEYS[5]], reason="consent")
    withdraw(store, patients=[KEYS[-1].patient], reason="consent")
    report = reindex(service, PROJECT)
    found, expected = rows_of(service), expected_rows(store)
    assert found.pop("runs") == []
    assert found == expected
    assert (report.views, report.entries, report.snapshots, report.runs) == (2, 21, 3, 0)
    assert (report.damaged, report.unread, report.complete, report.removed) == ({}, {}, True, 0)
    assert [entry_rows(service)[first, key]["number"] for key in (A, B)] == [2, 1]
    assert sum(row["withdrawn"] for row in found["entries"]) == 5


def test_second_look_reads_and_writes_nothing(service: Service, store: Store) -> None:
    view = fill(store)
    store.make_snapshot(view)
    put_run(store, "cv-1", trainer={"kind": "trainer"})
    reindex(service, PROJECT)
    before = rows_of(service)
    counted = CountedLocation(store.location)
    through(service, store, counted)
    report = reindex(service, PROJECT)
    assert set(counted.got) == {"engram.json"}
    assert counted.listed.count(f"commits/{view}") == 1
    assert (report.written, report.removed, rows_of(service)) == (0, 0, before)


def test_only_what_changed_is_read(service: Service, store: Store) -> None:
    view = fill(store)
    reindex(service, PROJECT)
    publish(store, view, A, "B")
    publish(store, view, EntryKey("new", "CT", "spine"), "A")
    counted = CountedLocation(store.location)
    through(service, store, counted)
    report = reindex(service, PROJECT)
    read = sorted(path for path in counted.got if path.startswith("commits"))
    assert read == [f"commits/{view}/{A}/000001.json", f"commits/{view}/new/CT/spine/000000.json"]
    assert report.written == 2
    assert rows_of(service)["entries"] == expected_rows(store)["entries"]


@pytest.mark.parametrize("rebuild", [False, True])
def test_rows_that_were_lost_come_back_the_same(service: Service, store: Store, rebuild: bool) -> None:
    view = fill(store)
    publish(store, view, A, "B")
    store.make_snapshot(view)
    withdraw(store, keys=[B], reason="consent")
    put_run(store, "cv-1", trainer={"kind": "trainer", "models": [{"name": "image", "mean": 0.7}]})
    put_run(store, "run-1", start={"started_at": "2026-01-02T03:04:05+00:00", "studies": 4})
    reindex(service, PROJECT)
    before = rows_of(service)
    if not rebuild:
        clear(service)
    reindex(service, PROJECT, rebuild=rebuild)
    assert rows_of(service) == before
    assert all(before.values())


def test_other_projects_rows_stay(service: Service, store: Store) -> None:
    other = add_project(service, "lymphoma")
    fill(store)
    fill(other, KEYS[:3])
    for project in (PROJECT, "lymphoma"):
        reindex(service, project)
    before = rows_of(service, "lymphoma")
    reindex(service, PROJECT, rebuild=True)
    assert rows_of(service, "lymphoma") == before
    assert len(before["entries"]) == 3


def test_project_that_is_not_there_is_refused(service: Service) -> None:
    with pytest.raises(Refusal, match="no project") as refused:
        reindex(service, "nobody")
    assert refused.value.status == 404


def test_time_of_agreement_is_when_the_look_began(service: Service, store: Store) -> None:
    assert indexed_at(service) is None
    before = datetime.now(UTC)
    reindex(service, PROJECT)
    assert before <= indexed_at(service) <= datetime.now(UTC)


def test_whoever_is_told_can_stop_it_and_what_was_written_stays(service: Service, store: Store) -> None:
    first, second = sorted([fill(store), fill(store, recipe=2)])
    told: list[tuple[int, int]] = []

    class StoppedError(Exception):
        pass

    def tell(looked: int, of: int) -> None:
        told.append((looked, of))
        if looked == len(KEYS):
            raise StoppedError

    with pytest.raises(StoppedError):
        reindex(service, PROJECT, told=tell)
    assert told[-1] == (len(KEYS), len(KEYS))
    assert {view for view, _ in entry_rows(service)} == {first}
    assert indexed_at(service) is None
    reindex(service, PROJECT)
    assert {view for view, _ in entry_rows(service)} == {first, second}


def test_many_batches_are_as_one(service: Service, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store)
    reindex(service, PROJECT)
    whole = rows_of(service)
    monkeypatch.setattr("services.catalogue.entries.BATCH", 3)
    clear(service)
    report = reindex(service, PROJECT)
    assert (rows_of(service), report.entries) == (whole, len(KEYS))
    for key in KEYS[:6]:
        for one in path_of(store, f"commits/{whole['views'][0]['id']}/{key}").iterdir():
            one.unlink()
    assert reindex(service, PROJECT).removed == 6
    assert rows_of(service)["entries"] == whole["entries"][6:]


# Notes


def test_notes_of_what_was_published_are_what_a_look_finds(service: Service, store: Store) -> None:
    view = fill(store, [A])
    publish(store, view, A, "B")
    publish(store, view, B, "A")
    snapshot = store.snapshot(store.make_snapshot(view))
    withdraw(store, keys=[B], reason="consent")
    put_run(store, "cv-1", trainer={"kind": "trainer"})
    service.database.run(lambda session: note_view(session, PROJECT, store.view(view)))
    for key in (A, B):
        note(service, store, view, key)
    service.database.run(lambda session: note_snapshot(session, PROJECT, snapshot.id, view, len(snapshot)))
    note_run(service, PROJECT, "cv-1")
    noted = rows_of(service)
    report = reindex(service, PROJECT)
    found = rows_of(service)
    # The time of a snapshot is the server's: a note can only guess it.
    assert (report.written, report.removed) == (1, 0)
    for rows in (noted, found):
        rows["snapshots"][0].pop("written_at")
    assert noted == found


def test_notes_in_any_order_leave_the_newest(service: Service, store: Store) -> None:
    view = fill(store, [A])
    publish(store, view, A, "B")
    publish(store, view, A, "C")
    withdraw(store, keys=[A], reason="consent")
    paths = store.location.paths(f"commits/{view}/{A}")
    expected = expected_rows(store)["entries"]
    records = [
        (current_record_at(store, view, number), sha256(store.location.get(paths[number]))) for number in range(4)
    ]
    for order in itertools.permutations(records):
        clear(service)
        for record, digest in order:
            service.database.run(lambda session, r=record, d=digest: note_commit(session, PROJECT, r, d))
        assert rows_of(service)["entries"] == expected


def current_record_at(store: Store, view: str, number: int) -> Any:
    from store_schema.commits import read_record  # noqa: PLC0415

    return read_record(store.location, view, A, number)


def test_withdrawal_wins_over_every_number(service: Service, store: Store) -> None:
    view = fill(store, [A])
    withdraw(store, keys=[A], reason="consent")
    reindex(service, PROJECT)
    commit = current_record_at(store, view, 0).model_copy(update={"number": 7, "earlier_inputs": ("0" * 64,) * 7})
    service.database.run(lambda session: note_commit(session, PROJECT, commit, "0" * 64))
    assert [(row["number"], row["withdrawn"]) for row in rows_of(service)["entries"]] == [(1, True)]


def test_two_who_note_the_same_at_once_do_not_fail(service: Service, store: Store) -> None:
    view = fill(store)
    errors: list[BaseException] = []

    def work(keys: list[EntryKey]) -> None:
        try:
            for key in keys:
                note(service, store, view, key)
                note_run(service, PROJECT, "run-1")
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    put_run(store, "run-1", start={})
    threads = [threading.Thread(target=work, args=(keys,)) for keys in (KEYS, KEYS[::-1], KEYS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert rows_of(service)["entries"] == expected_rows(store)["entries"]


# Damage


def test_damaged_commits_are_counted_and_do_not_stop_the_others(
    service: Service, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    view = fill(store)
    for path in (f"commits/{view}/{A}/000000.json", f"commits/{view}/{B}/000000.json"):
        spoil(store, path)
    for _ in range(2):
        report = reindex(service, PROJECT)
        assert (report.damaged, report.entries, report.complete) == ({"commits": 2}, len(KEYS), True)
    assert set(entry_rows(service)) == {(view, key) for key in KEYS[2:]}
    assert "catalogue incomplete" in caplog.text
    assert not any(key.patient in f"{caplog.text}{[vars(one) for one in caplog.records]}" for key in KEYS)


def test_entry_whose_current_commit_is_damaged_has_no_row_of_an_earlier_one(service: Service, store: Store) -> None:
    view = fill(store)
    reindex(service, PROJECT)
    publish(store, view, A, "B")
    spoil(store, f"commits/{view}/{A}/000001.json")
    report = reindex(service, PROJECT)
    assert (report.damaged, report.removed) == ({"commits": 1}, 1)
    assert (view, A) not in entry_rows(service)
    publish_after = entry_rows(service)
    clear(service)
    reindex(service, PROJECT)
    assert entry_rows(service) == publish_after


def test_what_cannot_be_read_keeps_its_row_until_it_can(service: Service, store: Store) -> None:
    view = fill(store)
    reindex(service, PROJECT)
    agreed = indexed_at(service)
    publish(store, view, A, "B")
    through(service, store, UnreadableLocation(store.location, f"{A}/000001"))
    report = reindex(service, PROJECT)
    assert (report.unread, report.damaged, report.complete) == ({"commits": 1}, {}, False)
    assert entry_rows(service)[view, A]["number"] == 0
    assert indexed_at(service) == agreed
    through(service, store, WrappedLocation(store.location))
    assert reindex(service, PROJECT).complete
    assert entry_rows(service)[view, A]["number"] == 1


def test_store_that_gives_nothing_is_away(service: Service, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.catalogue.tally.MAX_UNREAD", 5)
    fill(store)
    through(service, store, UnreadableLocation(store.location, "commits/"))
    with pytest.raises(BackendError, match="taken to be away"):
        reindex(service, PROJECT)


def test_everything_else_that_is_damaged_is_counted_by_its_folder(service: Service, store: Store) -> None:
    view, other = fill(store), fill(store, KEYS[:2], recipe=2)
    snapshot, kept = store.make_snapshot(view), store.make_snapshot(view, KEYS[:1])
    withdraw(store, [view], keys=[KEYS[3]], reason="consent")
    put_run(store, "run-1", start={"studies": 1})
    spoil(store, f"views/{other}.json")
    spoil(store, f"snapshots/{snapshot}.jsonl.zst")
    spoil(store, f"withdrawn/{view}/000000.json")
    for path in (
        f"commits/{view}/-odd-/CT/spine/000000.json",
        f"commits/{view}/too/short/000000.json",
        "commits/-no-view-/a/b/c/000000.json",
        "views/-no-view-.json",
        "snapshots/else.txt",
        "runs/-odd-/start.json",
    ):
        path_of(store, path).parent.mkdir(parents=True, exist_ok=True)
        path_of(store, path).write_bytes(b"{}")
    report = reindex(service, PROJECT)
    assert report.damaged == {"views": 2, "commits": 2, "withdrawn": 1, "snapshots": 2, "runs": 1}
    rows = rows_of(service)
    assert [row["id"] for row in rows["views"]] == [view]
    assert [row["id"] for row in rows["snapshots"]] == [kept]
    # The tombstone itself tells what the list does not.
    assert entry_rows(service)[view, KEYS[3]]["withdrawn"]
    assert len(rows["entries"]) == len(KEYS) + 2


def test_commits_of_a_view_without_specification_are_rows_and_the_view_is_damaged(
    service: Service, store: Store
) -> None:
    view = fill(store)
    reindex(service, PROJECT)
    path_of(store, f"views/{view}.json").unlink()
    report = reindex(service, PROJECT)
    assert (report.damaged, report.removed) == ({"views": 1}, 1)
    assert (len(entry_rows(service)), rows_of(service)["views"]) == (len(KEYS), [])


def test_withdrawn_entry_whose_tombstone_is_damaged_is_withdrawn_by_the_list(service: Service, store: Store) -> None:
    view = fill(store)
    withdraw(store, keys=[A], reason="consent")
    spoil(store, f"commits/{view}/{A}/000001.json")
    report = reindex(service, PROJECT)
    row = entry_rows(service)[view, A]
    assert report.damaged == {"commits": 1}
    assert (row["withdrawn"], row["number"], row["commit_sha256"]) == (True, 1, UNKNOWN_SHA256)
    assert reindex(service, PROJECT).written == 0


def test_withdrawal_that_was_noted_too_late_is_found(service: Service, store: Store) -> None:
    view = fill(store)
    withdraw(store, keys=[A], reason="consent")
    reindex(service, PROJECT)
    expected = rows_of(service)

    # As if the row had been written by somebody who knew nothing of the withdrawal.
    def forget(session: Any) -> None:
        session.execute(update(EntryRow).where(EntryRow.patient == A.patient).values(withdrawn=False))

    service.database.run(forget)
    reindex(service, PROJECT)
    assert rows_of(service)["entries"] == expected["entries"]
    assert entry_rows(service)[view, A]["withdrawn"]


@pytest.mark.parametrize("written_at", ["yesterday", "", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_clock_that_tells_nothing_is_no_damage(service: Service, store: Store, written_at: str) -> None:
    odd = replace(store, clock=lambda: written_at)
    view = fill(odd, [A])
    assert reindex(service, PROJECT).damaged == {}
    assert entry_rows(service)[view, A]["written_at"] == UNKNOWN_TIME


def test_sizes_that_no_database_holds_are_cut(service: Service, store: Store) -> None:
    view = fill(store, [A])
    commit = store.current(view, A)
    huge = {name: one.model_copy(update={"size_bytes": 10**30}) for name, one in commit.objects.items()}
    later = commit.model_copy(update={"objects": huge, "number": 1, "earlier_inputs": (digest_of("A"),)})
    store.location.create(commit_path(view, A, 1), later.to_bytes())
    assert reindex(service, PROJECT).damaged == {}
    assert entry_rows(service)[view, A]["size_bytes"] == 2**63 - 1


@pytest.mark.parametrize(
    "record",
    [b"", b"{}", b"[" * 100_000, b'{"withdrawn":true,"a":' + b"[" * 100_000, b"\xff\xfe", b'{"number": 1e400}'],
    ids=["empty", "none", "deep", "deep tombstone", "no text", "infinite"],
)
def test_hostile_records_are_damage_and_nothing_else(service: Service, store: Store, record: bytes) -> None:
    from store_schema.records import seal  # noqa: PLC0415

    view = fill(store, [B])
    for name, data in (("000000", record), ("000001", seal(record or b"{}"))):
        path = f"commits/{view}/{EntryKey(f'p{name}', 'CT', 'spine')}/000000.json"
        store.location.create(path, data)
    assert reindex(service, PROJECT).damaged == {"commits": 2}
    assert set(entry_rows(service)) == {(view, B)}


def test_snapshot_of_another_store_is_damage(service: Service, store: Store) -> None:
    other = add_project(service, "lymphoma")
    snapshot = other.make_snapshot(fill(other))
    path = f"snapshots/{snapshot}.jsonl.zst"
    store.location.create(path, other.location.get(path))
    assert reindex(service, PROJECT).damaged == {"snapshots": 1}
    assert rows_of(service)["snapshots"] == []


# What vanished


def test_rows_of_what_was_removed_by_hand_are_removed(service: Service, store: Store) -> None:
    view, other = fill(store), fill(store, KEYS[:2], recipe=2)
    snapshot = store.make_snapshot(view)
    put_run(store, "run-1", start={})
    reindex(service, PROJECT)
    for path in store.location.paths(f"commits/{view}/{A.patient}") + store.location.paths(f"commits/{other}"):
        store.location.delete(path)
    for path in (f"views/{other}.json", f"snapshots/{snapshot}.jsonl.zst", "runs/run-1/start.json"):
        store.location.delete(path)
    report = reindex(service, PROJECT)
    assert report.removed == 4 + 2 + 1 + 1 + 1
    found = rows_of(service)
    assert (found["runs"], found["snapshots"], [row["id"] for row in found["views"]]) == ([], [], [view])
    assert found["entries"] == expected_rows(store)["entries"]


def test_store_that_was_put_back_to_an_earlier_state_is_followed(service: Service, store: Store) -> None:
    view = fill(store)
    reindex(service, PROJECT)
    before = rows_of(service)
    publish(store, view, A, "B")
    withdraw(store, keys=[B], reason="consent")
    reindex(service, PROJECT)
    later = rows_of(service)["entries"]
    store.location.delete(f"commits/{view}/{A}/000001.json")
    store.location.delete(f"commits/{view}/{B}/000001.json")
    store.location.delete(f"withdrawn/{view}/000000.json")
    report = reindex(service, PROJECT)
    assert report.removed == 2
    assert rows_of(service)["entries"] == before["entries"] != later


def test_folder_that_is_not_mounted_removes_no_row(service: Service, store: Store) -> None:
    fill(store)
    reindex(service, PROJECT)
    before = rows_of(service)
    root = Path(store.url)
    root.rename(root.with_name("away"))
    root.mkdir()
    with pytest.raises(Exception, match="not there"):
        reindex(service, PROJECT)
    (root / "engram.json").write_text(json.dumps({"schema": 1, "store_id": "f" * 32}))
    with pytest.raises(StoreNotFoundError, match="lies where"):
        reindex(service, PROJECT)
    assert rows_of(service) == before


@pytest.mark.parametrize(
    "folders", [("views", "commits", "snapshots", "runs"), ("commits",), ("snapshots",), ("runs",)]
)
def test_store_that_goes_away_during_the_look_removes_no_row(
    service: Service, store: Store, folders: tuple[str, ...]
) -> None:
    store.make_snapshot(fill(store))
    put_run(store, "run-1", start={})
    reindex(service, PROJECT)
    before = rows_of(service)

    class Leaving(WrappedLocation):
        gone = False

        def listed(self, prefix: str, found: Any) -> Any:
            self.gone = self.gone or prefix.startswith(folders)
            return [] if self.gone else found

        def children(self, prefix: str) -> list[str]:
            return self.listed(prefix, self.inner.children(prefix))

        def paths(self, prefix: str) -> list[str]:
            return self.listed(prefix, self.inner.paths(prefix))

        def objects(self, prefix: str) -> Any:
            return iter(self.listed(prefix, list(self.inner.objects(prefix))))

        def get(self, path: str) -> bytes:
            if self.gone:
                raise StoreNotFoundError("it is away")
            return self.inner.get(path)

    through(service, store, Leaving(store.location))
    with pytest.raises(StoreNotFoundError):
        reindex(service, PROJECT)
    assert rows_of(service) == before


# Races


def test_commit_that_is_noted_after_the_listing_stays(service: Service, store: Store) -> None:
    """The listing is older than the rows: what it does not explain is asked for once more."""
    view = fill(store, KEYS[:4])
    new = EntryKey("new", "CT", "spine")

    class Late(WrappedLocation):
        def paths(self, prefix: str) -> list[str]:
            found = self.inner.paths(prefix)
            if prefix == f"commits/{view}":
                publish(store, view, A, "B")
                note(service, store, view, A)
                publish(store, view, new, "A")
                note(service, store, view, new)
            return found

    through(service, store, Late(store.location))
    report = reindex(service, PROJECT)
    assert report.removed == 0
    assert rows_of(service)["entries"] == expected_rows(store)["entries"]


def test_run_that_gets_another_record_meanwhile_is_not_put_back(service: Service, store: Store) -> None:
    put_run(store, "run-1", start={"studies": 3})

    class Late(WrappedLocation):
        done = False

        def get(self, path: str) -> bytes:
            data = self.inner.get(path)
            if path.startswith("runs/") and not self.done:
                self.done = True
                put_run(store, "run-1", finish={"failed": 0})
                note_run(service, PROJECT, "run-1")
            return data

    through(service, store, Late(store.location))
    reindex(service, PROJECT)
    summary = rows_of(service)["runs"][0]["summary"]
    assert (summary["records"], summary["failed"]) == (["finish.json", "start.json"], 0)


class Race:
    """Writers, looks at the whole, and one who watches that no row ever goes back."""

    WRITERS = 3

    def __init__(self, service: Service, store: Store, view: str) -> None:
        self.service, self.store, self.view = service, store, view
        self.stop = threading.Event()
        self.errors: list[BaseException] = []
        self.seen: dict[EntryKey, tuple[bool, int]] = {}

    def run(self) -> None:
        looking = [self.thread(work) for work in (self.look, self.look, self.watch)]
        writing = [self.thread(lambda n=n: self.write(KEYS[n :: self.WRITERS])) for n in range(self.WRITERS)]
        for thread in looking + writing:
            thread.start()
        for thread in writing:
            thread.join()
        self.stop.set()
        for thread in looking:
            thread.join()

    def thread(self, work: Any) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001
                self.errors.append(error)
                self.stop.set()

        return threading.Thread(target=guarded)

    def write(self, keys: list[EntryKey]) -> None:
        for turn in range(6):
            for key in keys:
                publish(self.store, self.view, key, f"turn {turn}", seed=turn)
                if turn % 2:
                    note(self.service, self.store, self.view, key)
        withdraw(self.store, keys=keys[:1], reason="consent")

    def look(self) -> None:
        while not self.stop.is_set():
            assert reindex(self.service, PROJECT).damaged == {}

    def watch(self) -> None:
        while not self.stop.is_set():
            rows = entry_rows(self.service)
            assert self.seen.keys() <= {key for _, key in rows}
            for (_, key), row in rows.items():
                now = (row["withdrawn"], row["number"])
                assert now >= self.seen.get(key, (False, 0))
                self.seen[key] = now


def test_looks_that_race_with_writers_never_go_back_and_end_right(service: Service, store: Store) -> None:
    race = Race(service, store, fill(store))
    race.run()
    assert not race.errors
    reindex(service, PROJECT)
    assert rows_of(service)["entries"] == expected_rows(store)["entries"]
    assert sum(row["withdrawn"] for row in rows_of(service)["entries"]) == race.WRITERS
