"""Reading many entries: in order, the very bytes, bounded, with or without pack and cache, and never past an error."""

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_schema import Entry, EntryKey, Snapshot, Store, create_store
from store_schema.bulk import COMMIT_BYTES, BulkReader
from store_schema.disk_cache import DiskCache
from store_schema.errors import NotCommittedError, ObjectAlteredError, ObjectMissingError, StoreError
from store_schema.location import Location
from store_schema.packs import make_pack
from store_schema.parallel import Guard, each
from store_schema.records import sha256
from store_schema.shards import SHARD_ENTRIES
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


def test_entries_of_a_loaded_pack_cost_no_request(many: Snapshot) -> None:
    make_pack(many, "mean_map")
    location, snapshot = watched(many)
    reader = BulkReader(snapshot)
    reader.stack("mean_map", many.keys[:1])
    location.read.clear()
    assert np.array_equal(reader.stack("mean_map", many.keys), maps(list(range(COUNT))))
    assert location.read == []
    assert len(pickle.dumps(reader)) < 2000
    small = BulkReader(snapshot, memory_bytes=10)
    for _ in range(2):
        location.read.clear()
        small.stack("mean_map", many.keys[:1])
        assert [path for path in location.read if "/c/" in path]


def test_arrays_of_several_shapes_cannot_be_stacked(tmp_path: Path) -> None:
    store = create_store(tmp_path / "store")
    view = store.put_view(example_view())
    for i in range(2):
        entry = example_entry(i)
        arrays = {**entry.arrays, "mask": np.ones((2 + i, 3, 3), np.uint8)}
        store.publish(view, EntryKey(f"P{i}", "PET", "spine"), Entry(arrays, {}), input_sha256=digest_of(str(i)))
    snapshot = store.snapshot(store.make_snapshot(view))
    with pytest.raises(StoreError, match=r"\(2, 3, 3\) in P0/PET/spine and \(3, 3, 3\) in P1/PET/spine"):
        BulkReader(snapshot).stack("mask", snapshot.keys)


def test_no_more_is_read_ahead_than_the_memory_allows(many: Snapshot) -> None:
    """Commits tell how large an entry is: they are read before it, so many as there are requests."""
    location, snapshot = watched(many)
    entries = BulkReader(snapshot, ("memory", "mask"), memory_bytes=1).read()
    next(entries)
    read = [path for path in location.read if path.startswith("data/")]
    entries.close()
    assert [path.split("/")[2] for path in read] == ["P000", "P000"]


def test_weight_of_an_entry_counts_its_objects_and_its_values_twice(many: Snapshot) -> None:
    commit, entry = many.commit(many.keys[3]), example_entry(3)
    raw = sum(commit.objects[path].size_bytes for path in ("memory/c/0/0/0/0", "mask/c/0/0/0"))
    expected = COMMIT_BYTES + raw + 2 * (entry.arrays["memory"].nbytes + entry.arrays["mask"].nbytes)
    assert BulkReader(many, ("memory", "mask"))._weight(commit) == expected


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


@pytest.mark.parametrize("parallel", [1, 2, 8])
def test_lost_commit_is_raised_in_its_turn_and_nothing_is_left_running(many: Snapshot, parallel: int) -> None:
    many.location.delete(f"commits/{many.view_id}/{many.keys[7]}/000000.json")
    before = threading.active_count()
    entries = BulkReader(many, parallel=parallel).read()
    assert [next(entries).key for _ in range(7)] == list(many.keys[:7])
    with pytest.raises(ObjectMissingError, match="P007"):
        next(entries)
    assert threading.active_count() == before
    with pytest.raises(StopIteration):
        next(entries)


def test_key_outside_the_snapshot_is_refused(many: Snapshot) -> None:
    with pytest.raises(NotCommittedError, match="does not hold nobody/PET/spine"):
        list(BulkReader(many).read([many.keys[0], EntryKey("nobody", "PET", "spine")]))


def test_reader_bounds_the_memory_and_the_requests_of_its_pack_too(tmp_path: Path) -> None:
    """Two objects of a pack: one at a time where memory or requests say so."""
    store = create_store(tmp_path / "two")
    view = store.put_view(example_view())
    for i in range(SHARD_ENTRIES + 1):
        store.publish(view, EntryKey(f"P{i:03d}", "PET", "spine"), example_entry(i), input_sha256=digest_of(str(i)))
    location, snapshot = watched(store.snapshot(store.make_snapshot(view)))
    make_pack(snapshot, "mean_map")
    for reader in (BulkReader(snapshot, memory_bytes=10), BulkReader(snapshot, parallel=1)):
        location.most = 0
        assert len(reader.stack("mean_map", snapshot.keys)) == SHARD_ENTRIES + 1
        assert location.most == 1


def test_threads_share_a_reader_and_what_it_holds(many: Snapshot) -> None:
    make_pack(many, "mean_map")
    reader = BulkReader(many)
    wanted = [[many.keys[i]] for i in range(COUNT)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda keys: reader.stack("mean_map", keys)[0], wanted))
    assert np.array_equal(np.stack(found), maps(list(range(COUNT))))


def test_of_a_pack_no_more_is_held_than_may_be_and_a_sent_reader_says_the_same(many: Snapshot) -> None:
    make_pack(many, "mean_map")
    free, bound = BulkReader(many), BulkReader(many, hold_bytes=0)
    for reader in (free, bound, pickle.loads(pickle.dumps(bound))):
        assert reader.held_bytes == 0
        assert np.array_equal(reader.stack("mean_map", many.keys[:2]), maps([0, 1]))
        assert (reader.held_bytes > 0) == (reader is free)


def test_no_entry_gives_an_empty_array_where_the_view_says_its_shape(many: Snapshot) -> None:
    shape = many.view.layout.shape
    assert BulkReader(many).stack("memory", []).shape == (0, *shape)
    assert BulkReader(many).stack("mean_map", []).shape == (0, *shape[2:])
    with pytest.raises(StoreError, match="declares no shape of 'mask'"):
        BulkReader(many).stack("mask", [])


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
    assert location.read == []


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


def test_withdrawn_entry_leaves_the_cache_also_where_a_pack_is_read(many: Snapshot, tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache")
    digests = {one.sha256 for one in many.commit(many.keys[4]).objects.values()}
    list(BulkReader(many, cache=cache).read())
    store = Store(many.location, create_store(many.url).record)
    withdraw(store, patients=["P004"], reason="consent")
    after = store.snapshot(store.make_snapshot(many.view_id))
    make_pack(after, "mean_map")
    BulkReader(after, cache=cache).stack("mean_map", after.keys)
    assert not any(cache.get(digest) for digest in digests)


def test_full_disk_is_said_once_and_reading_goes_on(
    many: Snapshot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = DiskCache(tmp_path / "cache")
    assert len(list(BulkReader(many, cache=cache).read())) == COUNT
    assert [record.message for record in caplog.records] == [
        f"the cache {tmp_path / 'cache'} takes no more objects (File exists): reading goes on without it"
    ]


def test_folder_that_takes_nothing_is_said_once_and_reading_goes_on(
    many: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    reader = BulkReader(many, cache=DiskCache(Path("/proc/no-cache-can-be-here")))
    assert np.array_equal(reader.stack("mean_map", many.keys), maps(list(range(COUNT))))
    assert len(caplog.records) == 1


FILLING = """
import pickle, resource, sys
reader = pickle.loads(bytes.fromhex(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sys.stdout.buffer.write(reader.stack("mean_map", reader.snapshot.keys).tobytes())
"""


def test_disk_that_fills_up_within_an_object_keeps_nothing_of_it(many: Snapshot, tmp_path: Path) -> None:
    """No file of that process may grow beyond 1,000 bytes: commits are larger, chunks smaller."""
    sent = pickle.dumps(BulkReader(many, cache=DiskCache(tmp_path / "cache"))).hex()
    run = subprocess.run([sys.executable, "-c", FILLING, sent], capture_output=True, check=True, timeout=120)
    assert run.stdout == maps(list(range(COUNT))).tobytes()
    assert run.stderr.decode().count("takes no more objects (File too large)") == 1
    kept = list((tmp_path / "cache").glob("??/*"))
    assert len(kept) == COUNT
    assert all(sha256(path.read_bytes()) == path.name for path in kept)


READING = """
import pickle, sys
reader = pickle.loads(bytes.fromhex(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    for path in reader.cache.folder.glob("??/[0-9a-f]*"):
        path.unlink(missing_ok=True)
    for entry in reader.read():
        print(entry.arrays["mean_map"].tobytes().hex(), flush=True)
"""


def test_processes_share_a_cache_also_with_one_that_is_killed(many: Snapshot, tmp_path: Path) -> None:
    """Each empties it again and again under the others; it holds far less than they read."""
    sent = pickle.dumps(BulkReader(many, cache=DiskCache(tmp_path / "cache", limit_bytes=20_000))).hex()

    def reader(rounds: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", READING, sent, str(rounds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    killed, *whole = reader(10_000), reader(5), reader(5)
    assert killed.stdout is not None
    killed.stdout.readline()
    killed.kill()
    killed.communicate(timeout=60)
    expected = [one.tobytes().hex() for one in maps(list(range(COUNT)))]
    for process in whole:
        out, told = process.communicate(timeout=120)
        assert (process.returncode, out.split(), told) == (0, expected * 5, "")
    again = BulkReader(many, cache=DiskCache(tmp_path / "cache", limit_bytes=20_000))
    assert np.array_equal(again.stack("mean_map", many.keys), maps(list(range(COUNT))))


# Many at once


def test_each_is_map_in_order_with_a_bounded_window() -> None:
    begun: list[int] = []
    results = each(lambda i: begun.append(i) or i * i, range(100), parallel=4, window=6)
    assert next(results) == 0
    assert len(begun) <= 7
    assert list(results) == [i * i for i in range(1, 100)]
    assert list(each(str, [], parallel=3)) == []


@settings(max_examples=50, deadline=None)
@given(weights=st.lists(st.integers(0, 9), max_size=25), limit=st.integers(0, 12), parallel=st.integers(2, 4))
def test_no_more_weight_than_the_limit_is_begun_and_not_taken(weights: list[int], limit: int, parallel: int) -> None:
    lock, begun, most = threading.Lock(), [0], [0]

    def act(weight: int) -> int:
        with lock:
            begun[0] += weight
            most[0] = max(most[0], begun[0])
        return weight

    taken = []
    for weight in each(act, weights, parallel=parallel, weigh=lambda weight: weight, limit=limit):
        with lock:
            begun[0] -= weight
        taken.append(weight)
    assert taken == weights
    assert most[0] <= max([limit, *weights])


# Other processes


def _stacked(reader: BulkReader) -> bytes:
    """In a process of its own."""
    return reader.stack("mean_map", reader.snapshot.keys).tobytes()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_reader_of_object_storage_refuses_in_a_forked_child(s3_url: str) -> None:
    """It must not hang: the client's threads are gone."""
    store = create_store(s3_url)
    view = store.put_view(example_view())
    store.publish(view, EntryKey("P0", "PET", "spine"), example_entry(0), input_sha256=digest_of("0"))
    reader = BulkReader(store.snapshot(store.make_snapshot(view)))
    assert np.array_equal(reader.stack("mean_map", reader.snapshot.keys), maps([0]))
    answers, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = f"{len(list(reader.read()))} entries"
        except StoreError as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(tell, answer.encode())
        os._exit(0)
    os.waitpid(child, 0)
    answer = os.read(answers, 1000).decode()
    assert answer.startswith("BackendError")
    assert "start workers by spawn" in answer


def in_a_fork(act: Callable[[], object]) -> str:
    """What it gives or raises in a forked child, which is given 20 seconds."""
    answers, tell = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            answer = f"{act()}"
        except StoreError as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(tell, answer.encode())
        os._exit(0)
    os.close(tell)
    os.waitpid(child, 0)
    with os.fdopen(answers, "rb") as told:
        return told.read().decode()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_reading_that_was_begun_before_a_fork_is_refused_in_the_child_and_goes_on_in_the_parent(many: Snapshot) -> None:
    """It must not hang: the threads that read are gone."""
    entries = BulkReader(many, parallel=4).read()
    next(entries)
    assert in_a_fork(lambda: next(entries)).startswith("BackendError: reading was begun before this process was forked")
    assert in_a_fork(entries.close) == "None"
    assert [entry.key for entry in entries] == list(many.keys[1:])
    assert in_a_fork(lambda: len(list(BulkReader(many).read()))) == str(COUNT)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_guard_that_another_thread_held_is_open_in_a_forked_child() -> None:
    guard, held, free = Guard(), threading.Event(), threading.Event()

    def hold() -> None:
        with guard:
            held.set()
            free.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)

    def enter() -> str:
        with guard:
            return "entered"

    assert in_a_fork(enter) == "entered"
    free.set()
    thread.join(60)
    assert enter() == "entered"


@pytest.mark.parametrize("how", ["spawn", "forkserver"])
def test_other_process_reads_the_same(many: Snapshot, tmp_path: Path, how: str) -> None:
    reader = BulkReader(many, cache=DiskCache(tmp_path / "cache"))
    here = reader.stack("mean_map", many.keys).tobytes()
    with multiprocessing.get_context(how).Pool(1) as pool:
        assert pool.apply(_stacked, [reader]) == here
