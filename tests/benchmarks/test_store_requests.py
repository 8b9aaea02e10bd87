"""Requests that reach a real S3 server, counted on the wire between client and server, not by the store's own doubles.

The counts are asserted in `make test`; `make bench ARGS=tests/benchmarks/test_store_requests.py` prints them as a table, beside
those of zarr-python over the same server.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import s3fs
import zarr
from zarr.storage import FsspecStore, ObjectStore

from store_schema import BulkReader, EntryKey, Store, create_store, make_pack, open_store
from store_schema.arrays import Entry
from store_schema.location.clients import connect_s3
from store_schema.packs import SHARD_ENTRIES
from store_schema.testing import digest_of, example_entry, example_view
from store_schema.testing.proxy import FaultProxy

FULL = {"PUT": 10, "LIST": 1}
"""To write an entry of four arrays: its group, metadata and data of each array, its commit; and one look for the last commit."""


@pytest.fixture
def wire(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy that does nothing but count; object storage is reached through it."""
    with FaultProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def counted(wire: FaultProxy) -> Callable[[Callable[[], object]], dict[str, int]]:
    """Requests by method that an action makes."""

    def count(action: Callable[[], object]) -> dict[str, int]:
        wire.requests.clear()
        action()
        return dict(wire.requests)

    return count


def key(i: int) -> EntryKey:
    return EntryKey(f"P{i:03d}", "PET", "spine")


def grown(url: str, entries: int) -> tuple[Store, str]:
    """A store of so many entries, opened anew, its view read."""
    store = create_store(url)
    view = store.put_view(example_view())
    for i in range(entries):
        store.publish(view, key(i), example_entry(i), input_sha256=digest_of(str(i)))
    fresh = open_store(url)
    fresh.view(view)
    return fresh, view


@pytest.mark.parametrize("size", [1, 40])
def test_writing_costs_the_same_in_a_store_of_any_size(s3_url: str, counted: Any, size: int) -> None:
    store, view = grown(s3_url, size)

    def publish(i: int, text: str, **how: bool) -> Callable[[], object]:
        return lambda: store.publish(view, key(i), example_entry(i), input_sha256=digest_of(text), **how)

    assert counted(publish(size, "new")) == FULL
    assert counted(publish(size, "new")) == {"LIST": 1, "GET": 1}, "done already: one look and the commit"
    assert counted(publish(size, "other")) == FULL | {"GET": 1}, "a second input: the commit before it is read too"
    assert counted(publish(size, "new")) == {"LIST": 1, "GET": 1}, "superseded"
    assert counted(publish(size, "new", make_current=True)) == FULL | {"GET": 1}


@pytest.mark.parametrize("size", [1, 40])
def test_reading_costs_the_same_in_a_store_of_any_size(s3_url: str, counted: Any, size: int) -> None:
    store, view = grown(s3_url, size)
    snapshot = store.snapshot(store.make_snapshot(view))
    assert counted(lambda: snapshot.read(key(0), arrays=["mean_map"])) == {"GET": 2}
    assert counted(lambda: snapshot.read(key(0))) == {"GET": 5}, "commit and one chunk or shard an array"
    assert counted(lambda: store.read(view, key(0), arrays=["mean_map"])) == {"LIST": 1, "GET": 2}
    assert counted(lambda: open_store(s3_url)) == {"GET": 1}


def test_many_entries_cost_two_requests_each_and_none_from_a_loaded_pack(s3_url: str, counted: Any) -> None:
    count = SHARD_ENTRIES + 10
    store, view = grown(s3_url, count)
    snapshot = store.snapshot(store.make_snapshot(view))
    keys = snapshot.keys
    alone = counted(lambda: BulkReader(snapshot).stack("mean_map", keys))
    assert alone == {"GET": 2 * count + 1}, "one look for a pack, then commit and chunk an entry"
    make_pack(snapshot, "mean_map")
    reader = BulkReader(snapshot)
    assert counted(lambda: reader.stack("mean_map", keys)) == {"GET": 4}, "the pack's record, its metadata, two shards"
    assert counted(lambda: reader.stack("mean_map", keys[:3])) == {}, "what was loaded costs nothing"
    assert counted(lambda: reader.stack("mean_map", keys)) == {}


def test_a_snapshot_that_builds_on_another_reads_what_is_new(s3_url: str, counted: Any) -> None:
    """Whatever it builds on, a snapshot costs the same besides one GET for each entry that the other does not pin."""
    store, view = grown(s3_url, 30)
    first = counted(lambda: store.make_snapshot(view))
    assert first["GET"] >= 30
    for new in (1, 3):
        for i in range(100 * new, 101 * new):
            store.publish(view, key(i), example_entry(i), input_sha256=digest_of(f"new {i}"))
        later = counted(lambda: store.make_snapshot(view))
        assert later["GET"] <= new + 3, later


# The table


def write_naively(store: Any, entry: Entry) -> None:
    group = zarr.create_group(store, zarr_format=3)
    for name, values in entry.arrays.items():
        group.create_array(name, data=values, chunks=values.shape)


def read_naively(store: Any) -> None:
    group: Any = zarr.open_group(store, mode="r")
    assert group["mean_map"][...].size


@pytest.mark.bench
def test_requests_beside_those_of_zarr(s3_url: str, wire: FaultProxy, counted: Any) -> None:
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    store, view = grown(f"{s3_url}/engram", 1)
    snapshot = store.snapshot(store.make_snapshot(view))
    files = s3fs.S3FileSystem(asynchronous=True, endpoint_url=wire.url)
    a, b = FsspecStore(files, path=f"{bucket}/{prefix}/a"), ObjectStore(connect_s3(bucket, f"{prefix}/b"))
    entry = example_entry(7)
    # Once before, so that no connection, bucket or credential is looked up while requests are counted.
    write_naively(FsspecStore(files, path=f"{bucket}/{prefix}/before"), entry)
    rows: dict[str, tuple[Counter[str], Counter[str]]] = {
        "engram": (
            counted(lambda: store.publish(view, key(7), entry, input_sha256=digest_of("7"))),
            counted(lambda: snapshot.read(key(0), arrays=["mean_map"])),
        ),
        "(a) zarr with s3fs": (counted(lambda: write_naively(a, entry)), counted(lambda: read_naively(a))),
        "(b) zarr with obstore": (counted(lambda: write_naively(b, entry)), counted(lambda: read_naively(b))),
    }
    print("\n| requests | write an entry of four arrays | read its mean map |\n|---|---|---|")
    for name, counts in rows.items():
        print(f"| {name} | {' | '.join(', '.join(f'{n} {m}' for m, n in sorted(one.items())) for one in counts)} |")
    assert all(
        sum(rows["engram"][i].values()) < sum(rows[name][i].values())
        for name in rows
        if name != "engram"
        for i in (0, 1)
    )
