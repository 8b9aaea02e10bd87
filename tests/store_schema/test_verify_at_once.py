"""Verification of many entries at once: as many in flight as the place is worth, no more, and told as it goes."""

import dataclasses
from collections.abc import Callable
from threading import Barrier, Event, Lock

import pytest
from click.testing import CliRunner

import store_schema.verify
from store_schema import EntryKey, Snapshot, Store
from store_schema.cli import main
from store_schema.content import check_content
from store_schema.location import Location
from store_schema.testing import WrappedLocation, digest_of, example_entry
from store_schema.verify import DECODERS

PATIENTS = 9
PATIENCE_S = 60


class Gathering:
    """Counts who is inside at once; the first so many wait there for each other."""

    def __init__(self, parties: int) -> None:
        self.inside, self.most, self._lock, self._barrier = 0, 0, Lock(), Barrier(parties)
        self._left = parties

    def __enter__(self) -> None:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            waits, self._left = self._left > 0, self._left - 1
        if waits:
            self._barrier.wait(PATIENCE_S)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.inside -= 1


class Watched(WrappedLocation):
    """A location on which so many requests are worth having in flight; a reading of data goes through a function first."""

    def __init__(self, inner: Location, parallel: int, read: Callable[[str, Callable[[], bytes]], bytes]) -> None:
        super().__init__(inner)
        self.parallel, self._read = parallel, read

    def get(self, path: str) -> bytes:
        return self._read(path, lambda: self.inner.get(path)) if path.startswith("data/") else self.inner.get(path)


@pytest.fixture
def many(store: Store, view: str) -> Store:
    """A store with an entry more of each of so many patients."""
    for i in range(PATIENTS):
        store.publish(view, EntryKey(f"p{i}", "CT", "spine"), example_entry(i), input_sha256=digest_of(str(i)))
    return store


def _through(store: Store, parallel: int, read: Callable[[str, Callable[[], bytes]], bytes]) -> Store:
    return dataclasses.replace(store, location=Watched(store.location, parallel, read))


@pytest.mark.parametrize("parallel", [1, 2, 5])
@pytest.mark.parametrize("what", ["store", "snapshot"])
def test_as_many_objects_are_read_at_once_as_the_place_is_worth(
    many: Store, view: str, parallel: int, what: str
) -> None:
    """Were they fewer, the first ones would wait in vain for each other."""
    gathering = Gathering(parallel)

    def read(_path: str, get: Callable[[], bytes]) -> bytes:
        with gathering:
            return get()

    pinned: Snapshot | None = many.snapshot(many.make_snapshot(view)) if what == "snapshot" else None
    report = _through(many, parallel, read).verify(snapshot=pinned)
    assert (report.ok, report.entries) == (True, PATIENTS + 3)
    assert gathering.most == parallel


def test_no_more_entries_are_decoded_at_once_than_memory_allows(many: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gathering = Gathering(DECODERS)

    def check(*given: object) -> None:
        with gathering:
            check_content(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(store_schema.verify, "check_content", check)
    report = _through(many, 2 * DECODERS, lambda _path, get: get()).verify()
    assert (report.ok, gathering.most) == (True, DECODERS)


def test_progress_is_told_while_later_entries_are_still_read(many: Store) -> None:
    """The last patient's objects come only after an earlier entry was told as done."""
    told, seen = Event(), []

    def read(path: str, get: Callable[[], bytes]) -> bytes:
        assert f"/p{PATIENTS - 1}/" not in path or told.wait(PATIENCE_S)
        return get()

    def on_entry(done: int, total: int) -> None:
        seen.append((done, total))
        told.set()

    assert _through(many, 2, read).verify(on_entry=on_entry).ok
    assert seen == [(i, PATIENTS + 3) for i in range(1, PATIENTS + 4)]


def test_bar_on_the_command_line_ends_at_the_number_of_entries(many: Store) -> None:
    done = CliRunner().invoke(main, ["verify", many.url])
    assert done.exit_code == 0, done.output
    assert "verifying entries" in done.stderr
    assert f"{PATIENTS + 3}/{PATIENTS + 3}" in done.stderr
    assert "verifying" not in done.stdout
