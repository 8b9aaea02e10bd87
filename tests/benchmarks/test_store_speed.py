"""Reading and writing a cohort, side by side with the usual ways; `make bench` prints the tables that RESULTS.md holds.

Ways compared: (a) zarr-python over s3fs, or over its own LocalStore on a folder, a group an entry, opened and read entry by entry;
(b) the same over obstore; (c) the same bytes as plain objects, as many requests in flight as Engram has: the limit.
ENGRAM_BENCH_PATIENTS sets the size: two modalities and two regions each, 227 by default, as in the paper.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import obstore
import pytest
import s3fs
import zarr
from zarr.storage import FsspecStore, LocalStore, ObjectStore

from store_schema import EntryKey, Snapshot, Store, create_store
from store_schema.arrays import Entry
from store_schema.bulk import BulkReader
from store_schema.location import Location, open_location
from store_schema.location.objects import connect_s3
from store_schema.packs import make_pack
from store_schema.testing import digest_of, example_view

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
PATIENTS = int(os.environ.get("ENGRAM_BENCH_PATIENTS", "227"))
ROUNDS = int(os.environ.get("ENGRAM_BENCH_ROUNDS", "3"))
SHAPE = (2, 32, 64, 64)
PLACES = ("PET/spine", "PET/skeleton", "CT/spine", "CT/skeleton")


class Cohort:
    """The same entries, made again whenever they are asked for: noise, which does not compress, as memories do not."""

    def __init__(self) -> None:
        self.keys = sorted(EntryKey.parse(f"P{i:03d}/{place}") for i in range(PATIENTS) for place in PLACES)
        rng = np.random.default_rng(0)
        self._noise = rng.normal(size=(16, *SHAPE)).astype(np.float16)

    def arrays(self, i: int) -> dict[str, np.ndarray]:
        memory = self._noise[i % 16].copy()
        memory[0, 0, 0, 0] = i % 1000
        return {"memory": memory, "mean_map": memory.astype(np.float32).mean((0, 1))}

    def entry(self, i: int) -> Entry:
        return Entry(self.arrays(i), {})


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return Cohort()


def timed(ways: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each way, in turn, so that a slow moment of the machine meets all."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def show(title: str, seconds: dict[str, float]) -> None:
    ours = seconds["engram"]
    for name, value in seconds.items():
        print(f"| {title} | {name} | {value:.2f} | {value / ours:.2f} |", flush=True)


def publish_all(store: Store, view: str, cohort: Cohort) -> None:
    """As the extractor's processes do together: several entries at a time."""

    def publish(i: int) -> None:
        store.publish(view, cohort.keys[i], cohort.entry(i), input_sha256=digest_of(str(i)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(publish, range(len(cohort.keys))))


def write_naively(open_root: Callable[[str], Any], cohort: Cohort, count: int) -> None:
    for i in range(count):
        group = zarr.create_group(open_root(str(cohort.keys[i])), zarr_format=3)
        for name, values in cohort.arrays(i).items():
            group.create_array(name, data=values, chunks=values.shape)


def write_into_new_folder(open_root: Callable[[str], Any], cohort: Cohort, folders: Iterator[int]) -> None:
    folder = next(folders)
    write_naively(lambda key: open_root(f"{folder}/{key}"), cohort, len(cohort.keys))


def read_naively(open_root: Callable[[str], Any], cohort: Cohort, name: str, count: int) -> None:
    for key in cohort.keys[:count]:
        group: Any = zarr.open_group(open_root(str(key)), mode="r")
        assert group[name][...].size


def read_plainly(location: Location, paths: list[str]) -> None:
    with ThreadPoolExecutor(location.parallel) as pool:
        assert all(pool.map(location.get, paths))


def chunks_of(snapshot: Snapshot, name: str) -> list[str]:
    commits = (snapshot.commit(key) for key in snapshot.keys)
    return [f"{one.folder}/{path}" for one in commits for path in one.objects if path.startswith(f"{name}/c/")]


def compare(url: str, naive: dict[str, Callable[[str], Any]], cohort: Cohort, tmp_path: Path) -> None:
    """Prints the table of one backend."""
    count = len(cohort.keys)
    stores: Iterator[Store] = (create_store(f"{url}/engram-{i}") for i in range(ROUNDS + 1))
    folders = iter(range(10**6))

    def write_ours() -> None:
        store = next(stores)
        publish_all(store, store.put_view(example_view(shape=SHAPE)), cohort)

    ways: dict[str, Callable[[], object]] = {"engram": write_ours}
    for name, open_root in naive.items():
        ways[name] = partial(write_into_new_folder, open_root, cohort, folders)
    show("write", timed(ways))
    store = next(stores)
    view = store.put_view(example_view(shape=SHAPE))
    publish_all(store, view, cohort)
    snapshot = store.snapshot(store.make_snapshot(view))
    for name, open_root in naive.items():
        write_naively(lambda key, n=name, o=open_root: o(f"read-{n[:2]}/{key}"), cohort, count)
    for array in ("mean_map", "memory"):
        paths = chunks_of(snapshot, array)
        reads: dict[str, Callable[[], object]] = {
            "engram": lambda a=array: BulkReader(snapshot, (a,)).stack(a, snapshot.keys)
        }
        for name, open_root in naive.items():
            reads[name] = lambda a=array, n=name, o=open_root: read_naively(
                lambda key: o(f"read-{n[:2]}/{key}"), cohort, a, count
            )
        reads["(c) plain objects"] = lambda p=paths: read_plainly(store.location, p)
        show(f"read {array}, entry by entry", timed(reads))
        make_pack(snapshot, array)
        show(f"read {array}, from the pack", timed({name: reads[name] for name in ("engram", "(c) plain objects")}))
    values = BulkReader(snapshot).stack("memory", snapshot.keys[:5])
    assert all(np.array_equal(values[i], cohort.arrays(i)["memory"]) for i in range(5))


def test_a_cohort_on_s3(s3_url: str, cohort: Cohort, tmp_path: Path) -> None:
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    base = f"{prefix}/naive-{uuid4().hex}"
    files = s3fs.S3FileSystem(asynchronous=True)
    naive: dict[str, Callable[[str], Any]] = {
        "(a) zarr with s3fs": lambda path: FsspecStore(files, path=f"{bucket}/{base}-a/{path}"),
        "(b) zarr with obstore": lambda path: ObjectStore(connect_s3(bucket, f"{base}-b/{path}")),
    }
    print(f"\n{len(cohort.keys)} entries on S3 (radosgw), median of {ROUNDS}")
    compare(s3_url, naive, cohort, tmp_path)


def test_a_cohort_on_a_folder(cohort: Cohort, tmp_path: Path) -> None:
    naive: dict[str, Callable[[str], Any]] = {
        "(a) zarr in a folder": lambda path: LocalStore(tmp_path / "naive" / path)
    }
    print(f"\n{len(cohort.keys)} entries in a folder, median of {ROUNDS}")
    compare(str(tmp_path / "stores"), naive, cohort, tmp_path)


def test_plain_client_is_as_fast_as_the_location(s3_url: str, cohort: Cohort) -> None:
    """The limit (c) goes through Engram's own location: obstore alone is no faster."""
    location = open_location(s3_url)
    data = cohort.arrays(0)["memory"].tobytes()
    paths = [f"x/{i}" for i in range(len(cohort.keys))]
    for path in paths:
        location.put(path, data)
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    client = connect_s3(bucket, prefix)

    def alone() -> None:
        with ThreadPoolExecutor(location.parallel) as pool:
            assert all(pool.map(lambda path: len(obstore.get(client, path).bytes()), paths))

    show("plain objects", timed({"engram": lambda: read_plainly(location, paths), "obstore alone": alone}))
