"""What a store of 400,000 entries costs: enumerate, snapshot, build on one, filter, open, find; in memory and in a folder.

Entries are simulated: a commit each and no data, since none of these reads any. Prints a table of seconds and of megabytes of
memory beyond what the process held before; nothing is asserted of a time. ENGRAM_BENCH_ENTRIES names other sizes, and
ENGRAM_BENCH_FOLDER where the folder is made.
"""

import ctypes
import gc
import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from store_schema import EntryKey, Store, create_store
from store_schema.commits import commit_path
from store_schema.location import FolderLocation, Location
from store_schema.records import CommitRecord, ObjectRecord, seal, unseal
from store_schema.snapshot import snapshot_path
from store_schema.testing import digest_of, example_view

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
SIZES = tuple(map(int, os.environ.get("ENGRAM_BENCH_ENTRIES", "50000,100000,200000,400000").split(",")))
PLACES = ("CT/skeleton", "CT/spine", "PET/skeleton", "PET/spine")
CHANGED = 100
"""Every so manyth entry has a second commit when the second snapshot is made."""


class Simulated:
    """A store that grows to the sizes asked for, four entries a patient; its commits lie where they would."""

    def __init__(self, url: str) -> None:
        self.store: Store = create_store(url)
        self.view = self.store.put_view(example_view())
        self.entries = 0
        draft = CommitRecord(
            view=self.view, patient="PATIENT", modality="MODALITY", roi="ROI", number=0, attempt="0" * 32,
            input_sha256=digest_of("input"), content_sha256=digest_of("content"), arrays={}, attributes={},
            objects={f"{name}/c/0/0": ObjectRecord(size_bytes=1, sha256=digest_of(name)) for name in ("memory", "mean_map")},
            written_at="2026-01-01T00:00:00+00:00",
        )  # fmt: skip
        self._body = unseal(draft.to_bytes(), where="draft").decode()

    def grow(self, entries: int) -> None:
        for i in range(self.entries, entries):
            self._commit(self.key(i), 0)
        self.entries = entries

    def change(self) -> None:
        """Gives some entries a second commit."""
        for i in range(0, self.entries, CHANGED):
            self._commit(self.key(i), 1)

    def key(self, i: int) -> EntryKey:
        modality, roi = PLACES[i % len(PLACES)].split("/")
        return EntryKey(f"MM_{i // len(PLACES):06d}", modality, roi)

    def _commit(self, key: EntryKey, number: int) -> None:
        names = {"PATIENT": key.patient, "MODALITY": key.modality, "ROI": key.roi, "0" * 32: uuid4().hex}
        body = re.sub("|".join(names), lambda match: names[match[0]], self._body)
        if number:
            body = body.replace('"number":0', f'"number":{number}')
            body = body.replace('"earlier_inputs":[]', f'"earlier_inputs":["{digest_of("first")}"]')
        _put(self.store.location, commit_path(self.view, key, number), seal(body.encode()))


def _put(location: Location, path: str, data: bytes) -> None:
    """Into a folder without a sync: 400,000 of them would take an hour and are not what is measured."""
    if isinstance(location, FolderLocation):
        place = location.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    else:
        location.put(path, data)


def measured[T](act: Callable[[], T]) -> tuple[T, str]:
    """What it gives, and its seconds and peak of memory as text. Linux alone tells the peak since a moment."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    start = time.perf_counter()
    result = act()
    seconds = time.perf_counter() - start
    return result, f"{seconds:8.2f} s {(_status('VmHWM') - before) / 1024:6.0f} MB"


def _status(name: str) -> int:
    """Kilobytes, as the kernel counts them."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.fixture(params=["memory", "folder"])
def simulated(request: pytest.FixtureRequest, tmp_path: Path) -> Simulated:
    folder = os.environ.get("ENGRAM_BENCH_FOLDER") or tmp_path
    return Simulated(f"memory://{uuid4().hex}" if request.param == "memory" else f"{folder}/{uuid4().hex}")


def test_growth_with_the_number_of_entries(simulated: Simulated) -> None:
    """Each size is measured in one process, the store growing from one to the next."""
    location = simulated.store.location
    print(f"\n{location.url}")
    for entries in SIZES:
        simulated.grow(entries)
        for path in location.paths("snapshots"):
            location.delete(path)
        print("\n".join(rows(simulated)), flush=True)
        for i in range(0, entries, CHANGED):
            location.delete(commit_path(simulated.view, simulated.key(i), 1))


def rows(simulated: Simulated) -> list[str]:
    """A line for each thing that is done with the store as it is; gives some entries a second commit."""
    store, view, entries = simulated.store, simulated.view, simulated.entries
    keys, enumerated = measured(partial(store.keys, view))
    assert len(keys) == entries
    del keys
    first, made = measured(partial(store.make_snapshot, view))
    again, unchanged = measured(partial(store.make_snapshot, view))
    assert again == first
    simulated.change()
    second, changed = measured(partial(store.make_snapshot, view))
    _, filtered = measured(partial(store.make_snapshot, view, where=["patient=MM_0000*"]))
    snapshot, opened = measured(partial(store.snapshot, second))
    commit, found = measured(partial(snapshot.commit, simulated.key(entries // 2)))
    assert commit.key == simulated.key(entries // 2)
    difference, compared = measured(partial(store.diff, first, second))
    assert len(difference.changed) == -(-entries // CHANGED)
    size = store.location.size_bytes(snapshot_path(second)) or 0
    return [
        f"{entries:,} entries; a snapshot of all: {size / 1e6:.2f} MB, {len(snapshot.content.lines) / entries:.0f} bytes a row",
        f"  enumerate the keys        {enumerated}",
        f"  snapshot, the first       {made}",
        f"  snapshot, nothing new     {unchanged}",
        f"  snapshot, 1% new          {changed}",
        f"  snapshot, filtered        {filtered}",
        f"  open the snapshot         {opened}",
        f"  find one entry in it      {found}",
        f"  compare two               {compared}",
    ]
