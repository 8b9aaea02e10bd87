"""Removing what dead writers left: nothing that a record names, nothing that a writer can still be writing."""

import dataclasses
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from store_schema import EntryKey, Store
from store_schema.commits import FRESH_S, GRACE_DAYS, commit_path
from store_schema.errors import ConfigError
from store_schema.gc import MINIMUM_GRACE_DAYS, GcReport, collect_garbage
from store_schema.location import PROBES
from store_schema.records import canonical_json, seal
from store_schema.testing import LaterLocation, WrappedLocation, digest_of, example_entry
from store_schema.withdraw import withdraw

NEW = EntryKey("new", "CT", "skeleton")
ATTEMPT = "a" * 32


def _later(store: Store, days: float = 8.0) -> Store:
    location = LaterLocation(store.location)
    location.days = days
    return dataclasses.replace(store, location=location)


def _orphan(store: Store, view: str, key: EntryKey = NEW, *, attempt: str = ATTEMPT) -> str:
    folder = f"data/{view}/{key}/{attempt}"
    for name in ("zarr.json", "memory/c/0/0/0/0"):
        store.location.put(f"{folder}/{name}", b"half")
    return folder


def _collect(store: Store, **options) -> GcReport:
    return collect_garbage(store, dry_run=False, **options)


def test_writers_give_an_attempt_up_well_before_it_may_be_removed() -> None:
    """What the safety rests on: half of the grace time, and half a day for slow requests where the grace is shortest."""
    assert FRESH_S == GRACE_DAYS / 2 * 86400
    assert (GRACE_DAYS, MINIMUM_GRACE_DAYS) == (7, 4)


@pytest.mark.parametrize("days", [0, 3.9, -1, float("nan")])
def test_grace_time_that_a_running_writer_may_exceed_is_refused(store: Store, view: str, days: float) -> None:
    with pytest.raises(ConfigError, match="expected 4 or more"):
        _collect(store, grace_days=days)


@pytest.mark.parametrize(
    ("grace", "later", "removed"), [(7, 6.9, False), (7, 7.1, True), (4, 4.1, True), (30, 8, False)]
)
def test_age_is_taken_by_the_servers_clock(store: Store, view: str, grace: float, later: float, removed: bool) -> None:
    orphan = _orphan(store, view)
    assert _collect(_later(store, later), grace_days=grace).attempts == ((orphan,) if removed else ())
    assert bool(store.location.paths(orphan)) is not removed


def test_age_of_an_attempt_is_that_of_its_newest_object(store: Store, view: str) -> None:
    orphan = _orphan(store, view)
    old = time.time() - timedelta(days=30).total_seconds()
    os.utime(Path(store.url, orphan, "zarr.json"), (old, old))
    assert _collect(store).attempts == ()
    os.utime(Path(store.url, orphan, "memory/c/0/0/0/0"), (old, old))
    assert _collect(store).attempts == (orphan,)


def test_committed_attempts_stay_whatever_their_age(store: Store, view: str, keys) -> None:
    store.publish(view, keys[0], example_entry(9), input_sha256=digest_of("x"))
    before = store.location.paths("data")
    orphan = _orphan(store, view, keys[0])
    assert _collect(_later(store, 1000)).attempts == (orphan,)
    assert store.location.paths("data") == before
    assert store.verify().ok


def test_attempt_that_is_committed_after_the_first_look_stays(store: Store, view: str) -> None:
    """The commits are listed and read once more right before the removal."""
    commit = store.publish(view, NEW, example_entry(), input_sha256=digest_of("x")).commit
    path = commit_path(view, NEW, 0)
    data = store.location.get(path)
    store.location.delete(path)

    class Meanwhile(LaterLocation):
        """The commit appears after the patient's commits were listed, and before the entry's are listed again."""

        def paths(self, prefix):
            found = super().paths(prefix)
            if prefix == f"commits/{view}/new":
                self.inner.create(path, data)
            return found

    report = _collect(dataclasses.replace(store, location=Meanwhile(store.location)))
    assert report.attempts == ()
    assert store.read(view, NEW).commit == commit


def test_entry_with_a_damaged_commit_keeps_everything_and_is_told(store: Store, view: str, keys) -> None:
    orphan, other = _orphan(store, view, keys[0]), _orphan(store, view)
    store.location.put(commit_path(view, keys[0], 0), b"{}")
    report = _collect(_later(store))
    assert report.attempts == (other,)
    assert not report.ok
    assert report.problems[0].startswith(f"{view}/{keys[0]}: nothing was removed, a commit of it is damaged")
    assert store.location.paths(orphan) != []


def test_data_of_a_withdrawn_entry_is_removed_whatever_its_age(store: Store, view: str, keys) -> None:
    """A writer that was overtaken by the withdrawal and died left it; nobody can commit it any more."""
    withdraw(store, keys=[keys[0]], reason="test")
    orphan = _orphan(store, view, keys[0])
    assert [finding.kind for finding in store.verify().findings] == ["withdrawn"]
    assert _collect(store).attempts == (orphan,)
    assert store.verify().findings == ()


@pytest.mark.parametrize("name", ["notes.txt", "A" * 32, f"{ATTEMPT}x"])
def test_what_is_no_attempt_is_left_alone(store: Store, view: str, name: str) -> None:
    store.location.put(f"data/{view}/{NEW}/{name}/x", b"x")
    store.location.put(f"data/{view}/stray", b"x")
    assert _collect(_later(store)).objects == 0
    assert store.location.exists(f"data/{view}/{NEW}/{name}/x")


def test_pack_attempts_that_no_record_names_are_removed(store: Store, view: str) -> None:
    folder = f"packs/{'0' * 64}-mean_map"
    for attempt in (ATTEMPT, "b" * 32):
        store.location.put(f"{folder}/{attempt}/mean_map/c/0", b"x")
    store.location.create(f"{folder}/000000.json", seal(canonical_json({"attempt": ATTEMPT})))
    assert _collect(store).packs == ()
    assert _collect(_later(store)).packs == (f"{folder}/{'b' * 32}",)
    assert store.location.paths(folder) == [f"{folder}/000000.json", f"{folder}/{ATTEMPT}/mean_map/c/0"]
    store.location.put(f"{folder}/000000.json", b"{}")
    assert _collect(_later(store)).problems[0].startswith(f"{folder}: nothing was removed")


def test_unfinished_files_and_probes_are_removed_when_they_are_old(store: Store, view: str, keys) -> None:
    place = Path(store.url, "data", view, ".engram-tmp-x")
    place.write_bytes(b"half")
    store.location.put(f"{PROBES}/x", b"probe")
    assert _collect(store).leftovers == ()
    dry = collect_garbage(_later(store))
    assert dry.leftovers == (f"data/{view}/.engram-tmp-x", f"{PROBES}/x")
    assert place.exists()
    assert _collect(_later(store)) == dataclasses.replace(dry, dry_run=False)
    assert not place.exists()
    assert not store.location.exists(f"{PROBES}/x")
    assert store.keys(view) == sorted(keys)


def test_progress_counts_to_the_number_of_patients(store: Store, view: str) -> None:
    seen = []
    collect_garbage(store, on_patient=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_entry_that_lost_a_commit_between_two_keeps_everything(store: Store, view: str, keys) -> None:
    """The attempt that the lost commit named is no orphan: the commit may come back from a copy."""
    for text in "xy":
        store.publish(view, keys[0], example_entry(), input_sha256=digest_of(text))
    path = commit_path(view, keys[0], 1)
    lost = store.location.get(path)
    store.location.delete(path)
    report = _collect(_later(store))
    assert (report.attempts, report.ok) == ((), False)
    assert "has commit 2 and not all of those before it" in report.problems[0]
    assert store.verify().orphans == ()
    store.location.create(path, lost)
    assert store.verify().ok


def test_data_of_a_withdrawn_entry_is_removed_though_a_commit_of_it_is_damaged(store: Store, view: str, keys) -> None:
    withdraw(store, keys=[keys[0]], reason="test")
    orphan = _orphan(store, view, keys[0])
    store.location.put(commit_path(view, keys[0], 0), b"{}")
    assert _collect(store).attempts == (orphan,)


def test_entry_with_as_many_attempts_as_commits_is_not_read(store: Store, view: str, keys) -> None:
    """A large store in good order is looked through by listing alone."""
    store.publish(view, keys[1], example_entry(), input_sha256=digest_of("x"))
    orphan = _orphan(store, view, keys[0])
    read = []

    class Counting(LaterLocation):
        def get(self, path):
            read.append(path)
            return super().get(path)

    location = Counting(store.location)
    location.days = 8
    assert _collect(dataclasses.replace(store, location=location)).attempts == (orphan,)
    assert read == [commit_path(view, keys[0], 0)] * 2


def test_attempt_that_a_resumed_copy_writes_to_again_stays(store: Store, view: str) -> None:
    """A copy that was cut off long ago goes on, under the attempt's old name, right after gc has looked at the commits."""
    commit = store.publish(view, NEW, example_entry(), input_sha256=digest_of("x")).commit
    path = commit_path(view, NEW, 0)
    record = store.location.get(path)
    store.location.delete(path)
    old = time.time() - timedelta(days=30).total_seconds()
    for one in store.location.paths(commit.folder):
        os.utime(Path(store.url, one), (old, old))

    class Resuming(WrappedLocation):
        """The copy puts the first object again and commits, between the second look and the removal."""

        def children(self, prefix):
            found = super().children(prefix)
            if prefix == f"commits/{view}/{NEW}":
                first = f"{commit.folder}/zarr.json"
                self.inner.put(first, self.inner.get(first))
                self.inner.create(path, record)
            return found

    assert _collect(dataclasses.replace(store, location=Resuming(store.location))).attempts == ()
    assert store.verify().ok
    assert store.read(view, NEW).commit == commit


@pytest.mark.parametrize("record", [b"{}", b'{"attempt":7}', b"[]", b"nothing"])
def test_sealed_record_of_a_pack_that_names_no_attempt_is_told(store: Store, view: str, record: bytes) -> None:
    folder = f"packs/{'0' * 64}-mean_map"
    store.location.put(f"{folder}/{ATTEMPT}/mean_map/c/0", b"x")
    store.location.put(f"{folder}/000000.json", seal(record))
    report = _collect(_later(store))
    assert (report.packs, report.ok) == ((), False)
    assert report.problems[0].startswith(f"{folder}: nothing was removed, its record is damaged")
