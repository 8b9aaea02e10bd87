"""What is damaged or gone costs its own row and no other, and a store that is away costs none."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from services.catalogue.index import reindex
from services.catalogue.notes import UNKNOWN_SHA256, UNKNOWN_TIME
from services.database.models import EntryRow
from services.service import Service
from store_schema import EntryKey, Store
from store_schema.commits import commit_path
from store_schema.errors import BackendError, StoreNotFoundError
from store_schema.testing import WrappedLocation, digest_of
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
    path_of,
    publish,
    put_run,
    rows_of,
    spoil,
    through,
)

store = catalogue_help.store


class UnreadableLocation(WrappedLocation):
    """Cannot give some objects."""

    def __init__(self, inner: Any, *parts: str) -> None:
        super().__init__(inner)
        self.parts = parts

    def get(self, path: str) -> bytes:
        if any(part in path for part in self.parts):
            raise BackendError("could not read it: failed on purpose.")
        return self.inner.get(path)


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
