"""Reading and writing a cohort, side by side with the usual ways; `make bench` prints the tables that RESULTS.md holds.

Ways compared: (a) zarr-python over s3fs, or over its own LocalStore on a folder, a group an entry, entry after entry as a script
does it, and with as many entries at once as Engram has; (b) the same over obstore; each through one client. (c) the same bytes as
plain objects, unchecked, as many requests in flight as Engram has: the limit; for entries also with their commits, which a checking
reader needs, for a pack also the pack's own objects. Seconds are of the wall and of this process's CPU; the server runs on the same
cores.
ENGRAM_BENCH_PATIENTS sets the size: two modalities and two regions each, 227 by default, as in the paper.
"""

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
import s3fs
import zarr
from zarr.storage import FsspecStore, LocalStore, ObjectStore

from store_schema import EntryKey, Snapshot, Store, create_store
from store_schema.arrays import Entry
from store_schema.bulk import BulkReader
from store_schema.commits import commit_path
from store_schema.location import Location, open_location
from store_schema.location.clients import connect_s3
from store_schema.packs import make_pack
from store_schema.testing import digest_of, example_view

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
PATIENTS = int(os.environ.get("ENGRAM_BENCH_PATIENTS", "227"))
ROUNDS = int(os.environ.get("ENGRAM_BENCH_ROUNDS", "3"))
SHAPE = (2, 32, 64, 64)
WRITERS = 4
"""Entries that are written at once, as by an extractor's processes."""
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


type Way = Callable[[], object]
type Root = Any
"""A Zarr store that holds all entries of a way, through one client."""


def compared(title: str, ways: dict[str, Way]) -> None:
    """Prints a row for each way: medians of rounds in which the ways take turns, so that a slow moment of the machine meets all."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            begun, cpu = time.perf_counter(), time.process_time()
            way()
            taken[name].append((time.perf_counter() - begun, time.process_time() - cpu))
    wall = {name: statistics.median(seconds for seconds, _ in values) for name, values in taken.items()}
    for name, values in taken.items():
        cpu = statistics.median(seconds for _, seconds in values)
        print(f"| {title} | {name} | {wall[name]:.2f} | {cpu:.2f} | {wall[name] / wall['engram']:.2f} |", flush=True)


def head(what: str) -> None:
    print(
        f"\n{what}, median of {ROUNDS}\n\n| what | way | seconds | CPU | × engram |\n|---|---|---|---|---|", flush=True
    )


def at_once(act: Callable[[int], object], count: int, threads: int) -> None:
    """Does it for every entry; one thread stands for a plain loop."""
    if threads == 1:
        for i in range(count):
            act(i)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(act, range(count)))


def publish_all(store: Store, view: str, cohort: Cohort) -> None:
    def publish(i: int) -> None:
        store.publish(view, cohort.keys[i], cohort.entry(i), input_sha256=digest_of(str(i)))

    at_once(publish, len(cohort.keys), WRITERS)


def write_naively(root: Root, folder: str, cohort: Cohort, threads: int) -> None:
    def write(i: int) -> None:
        group = zarr.create_group(root, path=f"{folder}/{cohort.keys[i]}", zarr_format=3)
        for name, values in cohort.arrays(i).items():
            group.create_array(name, data=values, chunks=values.shape)

    at_once(write, len(cohort.keys), threads)


def read_naively(root: Root, folder: str, cohort: Cohort, name: str, threads: int) -> None:
    def read(i: int) -> None:
        group: Any = zarr.open_group(root, path=f"{folder}/{cohort.keys[i]}", mode="r")
        assert group[name][...].size

    at_once(read, len(cohort.keys), threads)


def read_plainly(location: Location, paths: list[str]) -> None:
    with ThreadPoolExecutor(location.parallel) as pool:
        assert all(pool.map(location.get, paths))


def read_parts(location: Location, sizes: dict[str, int]) -> None:
    """Objects as a plain client reads them fastest: large ones by several requests at once, where the place is read so."""
    part = location.part_bytes or max(sizes.values())
    parts = [(path, start, min(start + part, size)) for path, size in sizes.items() for start in range(0, size, part)]
    with ThreadPoolExecutor(location.parallel) as pool:
        assert all(pool.map(lambda one: location.get_part(one[0], start=one[1], end=one[2]), parts))


def commits_of(snapshot: Snapshot) -> list[str]:
    return [commit_path(snapshot.view_id, row.key, row.number) for row in snapshot.rows]


def chunks_of(snapshot: Snapshot, name: str) -> list[str]:
    commits = (snapshot.commit(key) for key in snapshot.keys)
    return [f"{one.folder}/{path}" for one in commits for path in one.objects if path.startswith(f"{name}/c/")]


class Bench:
    """One backend's table: what is written last is what is read."""

    def __init__(self, url: str, naive: dict[str, Root], cohort: Cohort) -> None:
        self.url, self.naive, self.cohort = url, naive, cohort
        self.folders = map(str, count())

    def write(self) -> tuple[Store, str, dict[str, str]]:
        """Engram's store and view, and the folders of the naive copies."""
        made: list[tuple[Store, str]] = []
        copies: dict[str, str] = {}

        def ours() -> None:
            store = create_store(f"{self.url}/engram-{next(self.folders)}")
            made.append((store, store.put_view(example_view(shape=SHAPE))))
            publish_all(*made[-1], self.cohort)

        def naively(name: str, threads: int) -> None:
            copies[name] = next(self.folders)
            write_naively(self.naive[name], copies[name], self.cohort, threads)

        ways: dict[str, Way] = {"engram": ours}
        for name in self.naive:
            ways[name] = lambda name=name: naively(name, 1)
            ways[f"{name}, {WRITERS} entries at once"] = lambda name=name: naively(name, WRITERS)
        compared("write", ways)
        return *made[-1], copies

    def read(self, snapshot: Snapshot, copies: dict[str, str], array: str) -> None:
        location, keys = snapshot.location, snapshot.keys
        paths = chunks_of(snapshot, array)
        ours: Way = lambda: BulkReader(snapshot, (array,)).stack(array, keys)  # noqa: E731 - one way among others
        plain: Way = lambda: read_plainly(location, paths)  # noqa: E731
        commits = commits_of(snapshot)

        def with_commits() -> None:
            read_plainly(location, commits)
            read_plainly(location, paths)

        ways: dict[str, Way] = {"engram": ours}
        for name, root in self.naive.items():
            ways[name] = lambda n=name, r=root: read_naively(r, copies[n], self.cohort, array, 1)
            ways[f"{name}, {location.parallel} entries at once"] = lambda n=name, r=root: read_naively(
                r, copies[n], self.cohort, array, location.parallel
            )
        compared(f"read {array}", ways | {"(c) plain objects": plain, "(c) with their commits": with_commits})
        pack = make_pack(snapshot, array)
        sizes = {
            f"{pack.folder}/{path}": one.size_bytes
            for path, one in pack.record.objects.items()
            if path.startswith(f"{array}/c/")
        }
        packed: Way = lambda: read_parts(location, sizes)  # noqa: E731
        compared(
            f"read {array}, from the pack",
            {"engram": ours, "(c) plain objects": plain, "(c) the pack's objects": packed},
        )

    def run(self) -> None:
        store, view, copies = self.write()
        snapshot = store.snapshot(store.make_snapshot(view))
        for array in ("mean_map", "memory"):
            self.read(snapshot, copies, array)
        for array, values in self.cohort.arrays(3).items():
            assert np.array_equal(BulkReader(snapshot).stack(array, snapshot.keys[3:4])[0], values)


def test_a_cohort_on_s3(s3_url: str, cohort: Cohort) -> None:
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    files = s3fs.S3FileSystem(asynchronous=True)
    naive: dict[str, Root] = {
        "(a) zarr with s3fs": FsspecStore(files, path=f"{bucket}/{prefix}/a"),
        "(b) zarr with obstore": ObjectStore(connect_s3(bucket, f"{prefix}/b")),
    }
    head(f"{len(cohort.keys)} entries on S3 (radosgw)")
    Bench(s3_url, naive, cohort).run()


def test_a_cohort_in_a_folder(cohort: Cohort, tmp_path: Path) -> None:
    naive: dict[str, Root] = {"(a) zarr in a folder": LocalStore(tmp_path / "naive")}
    head(f"{len(cohort.keys)} entries in a folder")
    Bench(str(tmp_path / "stores"), naive, cohort).run()


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

    head(f"{len(paths)} objects of {len(data)} bytes on S3 (radosgw)")
    compared("read objects", {"engram": lambda: read_plainly(location, paths), "obstore alone": alone})
