"""Workers of a cluster that share one cache on their machine: the same numbers, few requests, and a cache that stays sound."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster

from store_schema import BulkReader, EntryKey, Snapshot, create_store
from store_schema.disk_cache import DiskCache
from store_schema.records import sha256
from store_schema.testing import digest_of, example_entry, example_view
from store_schema.testing.proxy import FaultProxy

ENTRIES, WORKERS = 12, 2


@pytest.fixture
def read(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each object of an entry was read from the server, by whatever process."""
    seen: Counter[str] = Counter()

    def note(path: str) -> bool:
        seen.update([path] if "/data/" in path or ("/commits/" in path and "list-type" not in path) else [])
        return False

    with FaultProxy(s3_server.endpoint, flip=note) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield seen


@pytest.fixture
def snapshot(s3_url: str, read: Counter[str]) -> Snapshot:
    store = create_store(s3_url)
    view = store.put_view(example_view())
    for i in range(ENTRIES):
        store.publish(view, EntryKey(f"p{i:02d}", "CT", "spine"), example_entry(i), input_sha256=digest_of(str(i)))
    made = store.snapshot(store.make_snapshot(view))
    read.clear()
    return made


@pytest.fixture
def client(snapshot: Snapshot) -> Iterator[Client]:
    """Processes that are spawned, with this one's environment and nothing of it in memory."""
    with (
        LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=40,
        ) as cluster,
        Client(cluster) as made,
    ):
        made.wait_for_workers(WORKERS)
        yield made


def _expected() -> np.ndarray:
    return np.stack([example_entry(i).arrays["mean_map"] for i in range(ENTRIES)])


def _check_cache(cache: DiskCache, read: Counter[str]) -> None:
    """Every file is the bytes of its name, and there is one for each object that was read."""
    files = [path for path in cache.folder.rglob("*") if path.is_file()]
    assert all(sha256(path.read_bytes()) == path.name for path in files)
    assert len(files) == len(read) == 2 * ENTRIES


def test_workers_that_read_after_each_other_ask_for_each_object_once(
    client: Client, snapshot: Snapshot, read: Counter[str], tmp_path: Path
) -> None:
    reader = BulkReader(snapshot, cache=DiskCache(tmp_path / "cache"))
    for worker in sorted(client.scheduler_info()["workers"]):
        stacked = client.submit(reader.stack, "mean_map", snapshot.keys, workers=[worker], pure=False).result(60)
        assert np.array_equal(stacked, _expected())
    assert set(read.values()) == {1}
    _check_cache(reader.cache, read)


def test_workers_that_read_at_once_ask_for_each_object_once_a_worker_at_most(
    client: Client, snapshot: Snapshot, read: Counter[str], tmp_path: Path
) -> None:
    """Nobody waits for another's download; whoever comes later asks for nothing at all."""
    reader = BulkReader(snapshot, cache=DiskCache(tmp_path / "cache"))
    asked = [
        client.submit(reader.stack, "mean_map", snapshot.keys, workers=[worker], pure=False)
        for worker in client.scheduler_info()["workers"]
    ]
    for stacked in client.gather(asked):
        assert np.array_equal(stacked, _expected())
    assert max(read.values()) <= WORKERS
    _check_cache(reader.cache, read)
    read.clear()
    assert np.array_equal(client.submit(reader.stack, "mean_map", snapshot.keys, pure=False).result(60), _expected())
    assert not read
