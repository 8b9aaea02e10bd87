"""The commit protocol's arithmetic: which number is current, what an input is, how often a writer asks."""

import dataclasses
import threading
from collections.abc import Callable

import pytest

from store_schema import EntryKey, Store
from store_schema.commits import (
    FRESH_S,
    MAX_FAILURES,
    MAX_TRIES,
    commit_path,
    current_number,
    highest,
    numbers_in,
    state_of,
)
from store_schema.errors import AlreadyExistsError, BackendError, EntryWithdrawnError, ObjectMissingError
from store_schema.testing import BlindLocation, HookedLocation, WrappedLocation, digest_of, example_entry
from store_schema.withdraw import withdraw
from store_schema.withdrawals import withdrawn
from store_schema.writer import MAX_RESTAGES, Provenance, Publication, Writer

NEW = EntryKey("new", "CT", "skeleton")


def _publish(store: Store, view: str, text: str, *, key: EntryKey = NEW, **options) -> Publication:
    return store.publish(view, key, example_entry(), input_sha256=digest_of(text), **options)


class CountingLocation(WrappedLocation):
    """Counts the requests it passes on."""

    def __init__(self, inner):
        super().__init__(inner)
        self.requests: list[str] = []

    def get(self, path):
        self.requests.append("GET")
        return super().get(path)

    def put(self, path, data):
        self.requests.append("PUT")
        super().put(path, data)

    def create(self, path, data):
        self.requests.append("CREATE")
        super().create(path, data)

    def size_bytes(self, path):
        self.requests.append("HEAD")
        return super().size_bytes(path)

    def paths(self, prefix):
        self.requests.append("LIST")
        return super().paths(prefix)

    def children(self, prefix):
        self.requests.append("LIST")
        return super().children(prefix)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 8, 9, 100, 1000])
def test_probing_finds_the_highest_number_in_logarithmic_steps(length: int) -> None:
    asked = []

    def exists(number: int) -> bool:
        asked.append(number)
        return number < length

    assert highest(exists) == (length - 1 if length else None)
    assert asked[:3] == [0, 1, 2][: len(asked)]
    assert len(asked) <= 2 + 2 * length.bit_length()


def test_only_names_of_six_digits_are_commits() -> None:
    assert numbers_in(
        ["000002.json", "000010.json", "7.json", "0000003.json", "x", "000004.json.tmp", "٠٠٠٠٠١.json"]
    ) == [2, 10]


def test_publishing_a_full_entry_costs_ten_puts_and_one_probe(store: Store, view: str, keys) -> None:
    """Memory, mean map, mask and preview are nine objects; the commit is the tenth; also for the next input of an entry."""
    location = CountingLocation(store.location)
    counted = dataclasses.replace(store, location=location)
    counted.view(view)
    location.requests.clear()
    commit = _publish(counted, view, "x").commit
    assert len(commit.objects) == 9
    assert location.requests == ["LIST", *["PUT"] * 9, "CREATE"]
    location.requests.clear()
    _publish(counted, view, "y")
    # An entry that has a commit is asked for it: which inputs it has seen.
    assert location.requests == ["LIST", "GET", *["PUT"] * 9, "CREATE"]


@pytest.mark.parametrize("length", [1, 5])
def test_reading_the_current_commit_costs_one_probe_the_commit_and_the_chunk(
    store: Store, view: str, length: int
) -> None:
    for i in range(length):
        _publish(store, view, f"input {i}")
    location = CountingLocation(store.location)
    dataclasses.replace(store, location=location).read(view, NEW, arrays=["mean_map"])
    assert location.requests == ["LIST", "GET", "GET"]


def test_reading_from_a_snapshot_costs_the_commit_and_the_chunk(store: Store, snapshot, keys) -> None:
    location = CountingLocation(store.location)
    dataclasses.replace(snapshot, location=location).read(keys[0], arrays=["mean_map"])
    assert location.requests == ["GET", "GET"]


def test_commit_that_vanishes_is_an_error_and_not_an_older_one(store: Store, view: str, keys) -> None:
    """A listing may show a commit that cannot be read: then nothing is current, rather than its predecessor."""

    class Vanishing(WrappedLocation):
        def children(self, prefix):
            return [*super().children(prefix), "000001.json"]

    vanishing = Vanishing(store.location)
    assert current_number(vanishing, view, keys[0]) == 1
    with pytest.raises(ObjectMissingError):
        dataclasses.replace(store, location=vanishing).read(view, keys[0])


def test_writer_gives_up_where_a_backend_refuses_for_ever(store: Store, view: str, keys) -> None:
    calls = []

    def refuse(path: str, _data: bytes) -> None:
        calls.append(path)
        raise AlreadyExistsError("409")

    broken = dataclasses.replace(store, location=HookedLocation(store.location, refuse))
    key = dataclasses.replace(keys[0], patient="new")
    with pytest.raises(BackendError, match=f"neither created nor read in {MAX_TRIES} tries"):
        broken.publish(view, key, example_entry(), input_sha256=digest_of("x"))
    assert set(calls) == {commit_path(view, key, 0)}


def test_list_of_withdrawn_entries_costs_one_probe_where_nothing_was_withdrawn(store: Store, view: str, keys) -> None:
    for location in (store.location, BlindLocation(store.location)):
        counting = CountingLocation(location)
        assert withdrawn(counting, view) == {}
        assert len(counting.requests) == 1
    withdraw(store, keys=keys[:2], reason="test")
    for location in (store.location, BlindLocation(store.location)):
        counting = CountingLocation(location)
        assert set(withdrawn(counting, view)) == set(keys[:2])
        assert counting.requests.count("GET") == 1


# Lost answers


class LostAnswers(WrappedLocation):
    """Loses the answers to the first creates: the connection breaks after, or before, the backend has done its work."""

    def __init__(self, inner, *, lost: int, done: bool, rival: Callable[[], object] = lambda: None) -> None:
        super().__init__(inner)
        self.left = lost
        self.done = done
        self.rival = rival

    def create(self, path, data):
        self.left -= 1
        if self.left < 0:
            return super().create(path, data)
        if self.done:
            super().create(path, data)
        else:
            self.rival()
        raise BackendError("could not write: connection reset.")


def test_create_that_was_done_though_its_answer_was_lost_is_the_writers_own(store: Store, view: str) -> None:
    lossy = dataclasses.replace(store, location=LostAnswers(store.location, lost=1, done=True))
    assert _publish(lossy, view, "x").outcome == "committed"
    assert len(store.history(view, NEW)) == 1
    assert store.verify().orphans == ()


def test_create_that_was_not_done_is_tried_again_with_the_same_number(store: Store, view: str) -> None:
    lossy = dataclasses.replace(store, location=LostAnswers(store.location, lost=MAX_FAILURES - 1, done=False))
    assert _publish(lossy, view, "x").commit.number == 0
    assert store.verify().orphans == ()


def test_create_that_failed_while_a_rival_won_takes_the_next_number(store: Store, view: str) -> None:
    lossy = LostAnswers(store.location, lost=1, done=False, rival=lambda: _publish(store, view, "rival"))
    assert _publish(dataclasses.replace(store, location=lossy), view, "x").commit.number == 1
    assert [commit.input_sha256 for commit in store.history(view, NEW)] == [digest_of("rival"), digest_of("x")]


def test_create_that_fails_for_good_is_the_backends_error_and_leaves_nothing_visible(store: Store, view: str) -> None:
    lossy = dataclasses.replace(store, location=LostAnswers(store.location, lost=1000, done=False))
    with pytest.raises(BackendError, match="connection reset"):
        _publish(lossy, view, "x")
    assert store.history(view, NEW) == []
    assert _publish(store, view, "x").outcome == "committed"


def test_tombstone_whose_answer_was_lost_is_written_once(store: Store, view: str, keys) -> None:
    for done in (True, False):
        key = keys[done]
        lossy = dataclasses.replace(store, location=LostAnswers(store.location, lost=1, done=done))
        assert withdraw(lossy, keys=[key], reason="test").ok
        assert current_number(store.location, view, key) == 1
    assert store.verify().findings == ()


# Age of an attempt


class Slow(WrappedLocation):
    """Writing any data takes so many hours by the clock that it carries."""

    def __init__(self, inner, *, hours: list[float]) -> None:
        super().__init__(inner)
        self.hours = hours
        self.seconds = 0.0

    def put(self, path, data):
        super().put(path, data)
        if path.endswith("/memory/zarr.json"):
            self.seconds += 3600 * self.hours.pop(0)


def _writer(store: Store, view: str, location: Slow) -> Writer:
    return Writer(location, store.view(view), passed=lambda: location.seconds)


def test_attempt_older_than_half_the_grace_time_is_written_anew(store: Store, view: str) -> None:
    slow = Slow(store.location, hours=[FRESH_S / 3600, 1])
    commit = (
        _writer(store, view, slow)
        .publish(NEW, example_entry(), input_sha256=digest_of("x"), provenance=Provenance())
        .commit
    )
    assert slow.hours == []
    report = store.verify()
    assert report.ok
    assert len(report.orphans) == 1
    assert commit.folder not in report.orphans
    assert store.read(view, NEW).commit == commit


def test_writer_that_is_always_too_slow_gives_up_and_commits_nothing(store: Store, view: str) -> None:
    slow = Slow(store.location, hours=[200] * MAX_RESTAGES)
    with pytest.raises(BackendError, match="took over 84 hours"):
        _writer(store, view, slow).publish(NEW, example_entry(), input_sha256=digest_of("x"), provenance=Provenance())
    assert slow.hours == []
    assert store.history(view, NEW) == []


# Parallel writes


@pytest.mark.parametrize("parallel", [1, 3])
def test_objects_are_written_at_once_within_bounds_and_before_the_commit(
    store: Store, view: str, parallel: int
) -> None:
    class Watched(WrappedLocation):
        def __init__(self, inner):
            super().__init__(inner)
            self.parallel = parallel
            self.lock = threading.Lock()
            self.now = self.most = 0
            self.at_commit: list[tuple[int, int]] = []

        def put(self, path, data):
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            super().put(path, data)
            with self.lock:
                self.now -= 1

        def create(self, path, data):
            self.at_commit.append((self.now, len(self.inner.paths(f"data/{view}/{NEW}"))))
            super().create(path, data)

    watched = Watched(store.location)
    _publish(dataclasses.replace(store, location=watched), view, "x")
    assert watched.at_commit == [(0, 9)]
    assert 1 <= watched.most <= parallel


# Tombstones


def test_any_input_is_withdrawn_after_a_tombstone(store: Store, view: str, keys) -> None:
    withdraw(store, keys=[keys[0]], reason="test")
    assert store.state(view, keys[0], digest_of(str(keys[0]))) == "withdrawn"
    assert state_of(None, digest_of("x")) == "new"


def test_entry_withdrawn_before_its_first_commit_cannot_be_written(store: Store, view: str) -> None:
    """Data of an attempt that nobody committed is a patient's data too."""
    store.location.put(f"data/{view}/{NEW}/{'0' * 32}/memory/c/0/0/0/0", b"half")
    assert withdraw(store, keys=[NEW], reason="test").objects == 1
    with pytest.raises(EntryWithdrawnError):
        _publish(store, view, "x")
    assert store.verify().findings == ()
