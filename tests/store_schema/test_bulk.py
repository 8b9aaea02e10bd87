"""Reading many entries: in order, the very bytes, bounded, with or without pack and cache, and never past an error."""

import gc
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest

from store_schema import EntryKey, Snapshot, Store, create_store
from store_schema.bulk import BulkReader
from store_schema.disk_cache import DiskCache, cache_from_environment
from store_schema.errors import NotCommittedError, ObjectAlteredError
from store_schema.location import Location
from store_schema.packs import make_pack
from store_schema.parallel import each
from store_schema.records import sha256
from store_schema.testing import WrappedLocation, digest_of, example_entry, example_view
from store_schema.withdraw import withdraw

COUNT = 20


@pytest.fixture
def many(tmp_path: Path) -> Snapshot:
    store = create_store(tmp_path / "many")
    view = store.put_view(example_view())
    for i in range(COUNT):
        store.publish(view, EntryKey(f"P{i:03d}", "PET", "spine"), example_entry(i), input_sha256=digest_of(str(i)))
    return store.snapshot(store.make_snapshot(view))


class Watching(WrappedLocation):
    """Counts what is read, and how much at once."""

    def __init__(self, inner: Location) -> None:
        super().__init__(inner)
        self.read: list[str] = []
        self.now_reading = self.most = 0
        self._lock = threading.Lock()

    def get(self, path: str) -> bytes:
        with self._lock:
            self.read.append(path)
            self.now_reading += 1
            self.most = max(self.most, self.now_reading)
        try:
            return self.inner.get(path)
        finally:
            with self._lock:
                self.now_reading -= 1


def watched(snapshot: Snapshot) -> tuple[Watching, Snapshot]:
    location = Watching(snapshot.location)
    return location, Snapshot(location, snapshot.content)


def maps(order: list[int]) -> np.ndarray:
    return np.stack([example_entry(i).arrays["mean_map"] for i in order])


@pytest.mark.parametrize("parallel", [1, 3, 32])
def test_entries_come_in_order_with_the_very_values(many: Snapshot, parallel: int) -> None:
    order = [7, 0, 19, 3, 3]
    read = list(BulkReader(many, ("memory", "mask"), parallel=parallel).read([many.keys[i] for i in order]))
    assert [entry.key for entry in read] == [many.keys[i] for i in order]
    for i, entry in zip(order, read, strict=True):
        assert set(entry.arrays) == {"memory", "mask"}
        assert all(np.array_equal(entry.arrays[name], example_entry(i).arrays[name]) for name in entry.arrays)
    assert len(list(BulkReader(many).read())) == COUNT


def test_reading_costs_a_commit_and_a_chunk_an_entry_and_from_a_pack_nothing(many: Snapshot) -> None:
    location, snapshot = watched(many)
    assert np.array_equal(BulkReader(snapshot).stack("mean_map", many.keys), maps(list(range(COUNT))))
    data = [path for path in location.read if path.startswith(("commits/", "data/"))]
    assert len(data) == 2 * COUNT
    make_pack(many, "mean_map")
    location.read.clear()
    assert np.array_equal(BulkReader(snapshot).stack("mean_map", many.keys), maps(list(range(COUNT))))
    assert not [path for path in location.read if path.startswith(("commits/", "data/"))]
    assert len(location.read) == 3


def test_no_more_is_read_ahead_than_the_memory_allows(many: Snapshot) -> None:
    location, snapshot = watched(many)
    reader = BulkReader(snapshot, memory_bytes=1)
    entries = reader.read()
    next(entries)
    assert len([path for path in location.read if path.startswith("commits/")]) == 1
    assert location.most == 1


def test_reading_stops_when_the_caller_stops(many: Snapshot) -> None:
    location, snapshot = watched(many)
    before = threading.active_count()
    entries = BulkReader(snapshot, parallel=2).read()
    next(entries)
    entries.close()
    gc.collect()
    assert threading.active_count() == before
    assert len(location.read) < 2 * COUNT


@pytest.mark.parametrize("parallel", [1, 4])
def test_first_error_is_raised_in_its_turn(many: Snapshot, tmp_path: Path, parallel: int) -> None:
    commit = many.commit(many.keys[5])
    (tmp_path / "many" / commit.folder / "mean_map/c/0/0").write_bytes(b"altered")
    entries = BulkReader(many, parallel=parallel).read()
    assert [next(entries).key for _ in range(5)] == list(many.keys[:5])
    with pytest.raises(ObjectAlteredError):
        next(entries)
    with pytest.raises(NotCommittedError):
        BulkReader(many, ("nothing",)).stack("nothing", many.keys)


def test_damaged_pack_is_never_passed_over(many: Snapshot, tmp_path: Path) -> None:
    pack = make_pack(many, "mean_map")
    (tmp_path / "many" / pack.folder / "mean_map/c/0/0/0").write_bytes(b"altered")
    with pytest.raises(ObjectAlteredError):
        BulkReader(many).stack("mean_map", many.keys)


def test_reader_is_sent_as_addresses(many: Snapshot, tmp_path: Path) -> None:
    reader = BulkReader(many, cache=DiskCache(tmp_path / "cache"))
    again = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(again.stack("mean_map", many.keys[:2]), maps([0, 1]))
    assert len(pickle.dumps(reader)) < 2000


# Cache


def test_second_reading_from_a_cache_asks_the_store_for_nothing(many: Snapshot, tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache")
    list(BulkReader(many, cache=cache).read())
    location, snapshot = watched(many)
    read = list(BulkReader(snapshot, cache=DiskCache(tmp_path / "cache")).read())
    assert np.array_equal(np.stack([entry.arrays["mean_map"] for entry in read]), maps(list(range(COUNT))))
    assert location.read == [f"views/{many.view_id}.json"]
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def test_file_that_changed_in_the_cache_is_read_again(many: Snapshot, tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache")
    list(BulkReader(many, cache=cache).read())
    for path in (tmp_path / "cache").glob("??/*"):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert np.array_equal(BulkReader(many, cache=cache).stack("mean_map", many.keys), maps(list(range(COUNT))))
    assert all(sha256(path.read_bytes()) == path.name for path in (tmp_path / "cache").glob("??/*"))


def test_withdrawn_entry_leaves_the_cache(many: Snapshot, tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache")
    digests = {one.sha256 for one in many.commit(many.keys[4]).objects.values()}
    list(BulkReader(many, cache=cache).read())
    assert any(cache.get(digest) for digest in digests)
    store = Store(many.location, create_store(many.url).record)
    withdraw(store, patients=["P004"], reason="consent")
    list(BulkReader(store.snapshot(store.make_snapshot(many.view_id)), cache=cache).read())
    assert not any(cache.get(digest) for digest in digests)


def test_cache_stays_near_its_limit_and_keeps_what_was_read_last(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", limit_bytes=10_000)
    kept = b"k" * 1000
    cache.put(sha256(kept), kept)
    for i in range(40):
        data = bytes([i]) * 1000
        cache.put(sha256(data), data)
        if cache.get(sha256(data)):
            os.utime(cache._place(sha256(data)), (i, i))
        assert cache.get(sha256(kept)) == kept
    held = sum(path.stat().st_size for path in (tmp_path / "cache").glob("??/*"))
    assert held <= 20_000
    assert cache.get(sha256(bytes([0]) * 1000)) is None


def test_full_disk_is_said_once_and_reading_goes_on(
    many: Snapshot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = DiskCache(tmp_path / "cache")
    assert len(list(BulkReader(many, cache=cache).read())) == COUNT
    assert [record.message for record in caplog.records] == [
        f"the cache {tmp_path / 'cache'} takes no more objects (File exists): reading goes on without it"
    ]


def test_cache_is_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGRAM_CACHE", raising=False)
    assert cache_from_environment() is None
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path))
    monkeypatch.setenv("ENGRAM_CACHE_BYTES", "1000")
    assert cache_from_environment() == DiskCache(tmp_path, 1000)
    with pytest.raises(ValueError, match="no sha256"):
        DiskCache(tmp_path).get("../../etc/passwd")


# Many at once


def test_each_is_map_in_order_with_a_bounded_window() -> None:
    begun: list[int] = []
    results = each(lambda i: begun.append(i) or i * i, range(100), parallel=4, window=6)
    assert next(results) == 0
    assert len(begun) <= 7
    assert list(results) == [i * i for i in range(1, 100)]
    assert list(each(str, [], parallel=3)) == []
