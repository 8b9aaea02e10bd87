"""A project's catalogue says what its store says, whatever was written and noted, and in which order."""

import itertools
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from services.catalogue.index import note_commit, note_run, note_snapshot, note_view, reindex
from services.errors import Refusal
from services.service import Service
from store_schema import EntryKey, Store
from store_schema.records import sha256
from store_schema.testing import WrappedLocation
from store_schema.withdraw import withdraw

from . import catalogue_help
from .catalogue_help import (
    KEYS,
    PROJECT,
    A,
    B,
    add_project,
    clear,
    entry_rows,
    expected_rows,
    fill,
    indexed_at,
    note,
    path_of,
    publish,
    put_run,
    rows_of,
    through,
)

store = catalogue_help.store


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
