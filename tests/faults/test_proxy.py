"""A run through a network that fails at every twentieth request completes, and nothing wrong is read."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from store_schema import BulkReader, EntryKey, create_store, make_pack, open_store
from store_schema.errors import ObjectAlteredError
from store_schema.location import open_location
from store_schema.testing import digest_of, example_entry, example_view
from store_schema.testing.proxy import FAULTS, FaultProxy

ENTRIES = int(os.environ.get("ENGRAM_PROXY_ENTRIES", "40"))


@pytest.fixture
def through(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Gives proxies; while one runs, object storage is reached through it."""
    started: list[FaultProxy] = []

    def start(**how: Any) -> FaultProxy:
        proxy = FaultProxy(s3_server.endpoint, **how).__enter__()
        started.append(proxy)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        return proxy

    yield start
    for proxy in started:
        proxy.__exit__()


ENDPOINTS = {
    "S3": ("s3_server", "s3_url", "AWS_ENDPOINT_URL"),
    "Google": ("gcs", "gcs_url", "STORAGE_EMULATOR_HOST"),
    "Azure": ("azure", "azure_url", "AZURE_STORAGE_ENDPOINT"),
}
"""Fixtures of a server and of an empty prefix on it, and the variable that names the server to clients."""


@pytest.fixture(params=ENDPOINTS)
def failing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Gives a proxy and an empty prefix, which is reached through it; of object storage of each kind."""
    server, prefix, variable = ENDPOINTS[request.param]
    target = urlsplit(request.getfixturevalue(server).environment[variable])
    url = request.getfixturevalue(prefix)
    with ExitStack() as running:

        def start(**how: Any) -> tuple[FaultProxy, str]:
            proxy = running.enter_context(FaultProxy(target.geturl(), **how))
            monkeypatch.setenv(variable, f"{proxy.url}{target.path}")
            return proxy, url

        yield start


def key(i: int) -> EntryKey:
    return EntryKey(f"P{i:03d}", "PET", "spine")


def test_run_through_a_failing_network_completes_and_reads_what_was_written(failing: Any) -> None:
    proxy, url = failing(rate=0.05, seed=3)
    store = create_store(url)
    view = store.put_view(example_view())

    def publish(i: int) -> str:
        return store.publish(view, key(i), example_entry(i), input_sha256=digest_of(str(i))).outcome

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(publish, range(ENTRIES))) == ["committed"] * ENTRIES
    snapshot = store.snapshot(store.make_snapshot(view))
    maps = BulkReader(snapshot).stack("mean_map", snapshot.keys)
    make_pack(snapshot, "mean_map")
    packed = BulkReader(snapshot).stack("mean_map", snapshot.keys)
    report = store.verify()
    for i in range(ENTRIES):
        assert np.array_equal(maps[i], example_entry(i).arrays["mean_map"])
    assert np.array_equal(maps, packed)
    assert (report.ok, report.entries, report.commits) == (True, ENTRIES, ENTRIES)
    assert set(proxy.injected) == set(FAULTS), proxy.injected
    print(f"faults put in: {dict(proxy.injected)} of {dict(proxy.requests)} requests")


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "delay"])
def test_each_fault_alone_is_survived(failing: Any, fault: str) -> None:
    proxy, url = failing(rate=0.25, seed=1, faults=(fault,))
    store = create_store(url)
    view = store.put_view(example_view())
    for i in range(3):
        assert store.publish(view, key(i), example_entry(i), input_sha256=digest_of(str(i))).outcome == "committed"
    for i in range(3):
        assert np.array_equal(store.read(view, key(i)).arrays["memory"], example_entry(i).arrays["memory"])
    assert proxy.injected.total() > 0


def test_every_body_that_changed_on_the_way_is_refused(through: Any, s3_url: str) -> None:
    store = create_store(s3_url)
    view = store.put_view(example_view())
    store.publish(view, key(0), example_entry(0), input_sha256=digest_of("0"))
    snapshot_id = store.make_snapshot(view)
    proxy = through(flip=lambda path: "/data/" in path)
    changed = open_store(s3_url)
    for _ in range(5):
        with pytest.raises(ObjectAlteredError):
            changed.read(view, key(0))
    assert proxy.injected["flip"] >= 5
    through(flip=lambda path: "/commits/" in path)
    with pytest.raises(ObjectAlteredError):
        open_store(s3_url).snapshot(snapshot_id).read(key(0))


def test_requests_of_an_entry_are_constant_whatever_the_stores_size(through: Any, s3_url: str) -> None:
    """Counted on the wire: 10 PUT and one LIST to write a full entry, a commit and a chunk an array to read one."""
    store = create_store(s3_url)
    view = store.put_view(example_view())
    for size in (0, 12):
        for i in range(size):
            store.publish(view, key(100 + i), example_entry(i), input_sha256=digest_of(str(i)))
        proxy = through()
        fresh = open_store(s3_url)
        fresh.view(view)
        proxy.requests.clear()
        fresh.publish(view, key(size), example_entry(0), input_sha256=digest_of("full"))
        assert dict(proxy.requests) == {"PUT": 10, "LIST": 1}
        snapshot = fresh.snapshot(fresh.make_snapshot(view))
        proxy.requests.clear()
        snapshot.read(key(size), arrays=["mean_map"])
        assert dict(proxy.requests) == {"GET": 2}


def test_object_that_is_absent_is_told_so_through_failures(failing: Any) -> None:
    """No failure of the network is ever taken for an absent object, nor the other way round."""
    _, url = failing(rate=0.3, seed=5)
    location = open_location(url)
    location.put("there", b"x")
    for _ in range(30):
        assert location.exists("there")
        assert not location.exists("absent")
        assert location.children("") == ["there"]
