"""What a catalogue of many entries costs: made from the store, looked at again, searched, written as Parquet; both databases.

Entries are simulated: a commit each and no data, four entries a patient, in a folder store. Prints seconds, and megabytes of memory
at the peak beyond what the process held before; nothing is asserted of a time. ENGRAM_BENCH_ENTRIES names other sizes.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from services.access import Principal, Reach
from services.catalogue import queries, tables
from services.catalogue.coverage import coverage
from services.catalogue.index import reindex
from services.catalogue.queries import EntryFilter
from services.catalogue.search import search
from services.database.migrate import migrate
from services.database.models import Project
from services.routes.catalogue import PARQUET_PAGE
from services.service import Service
from services.settings import Settings
from store_schema import EntryKey, Store
from store_schema.commits import commit_path
from store_schema.records import CommitRecord, ObjectRecord
from store_schema.testing import digest_of, example_view

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
SIZES = tuple(map(int, os.environ.get("ENGRAM_BENCH_ENTRIES", "20000").split(",")))
PLACES = ("CT/skeleton", "CT/spine", "PET/skeleton", "PET/spine")
OBJECTS = [
    f"{name}/{part}" for name in ("memory", "mean_map", "mask", "preview") for part in ("zarr.json", "c/0/0/0/0")
]
SPEC: dict[str, Any] = {
    "shape": [2, 32, 64, 64],
    "data_type": "float16",
    "zarr_format": 3,
    "codecs": [{"name": "zstd"}] * 3,
}
OWNER = Reach("p", Principal("0" * 12, "p", "read"), own=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    url, server, name = f"sqlite:///{tmp_path / 'service.db'}", None, f"engram_{uuid4().hex}"
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        url = server.make_database(name)
    found = Service.open(Settings(data=tmp_path, database_url=url, reconcile_s=0))
    migrate(found.database)
    store = found.make_store("p", None)
    row = Project(id="p", store_url=store.url, store_id=store.store_id, created_at=datetime.now(UTC))
    found.database.run(lambda session: session.add(row))
    yield found
    found.close()
    if server is not None:
        server.drop_database(name)


def key(i: int) -> EntryKey:
    modality, roi = PLACES[i % len(PLACES)].split("/")
    return EntryKey(f"MM_{i // len(PLACES):06d}", modality, roi)


def commit(store: Store, view: str, at: EntryKey, number: int = 0) -> None:
    """A commit as large as a real one, without a sync."""
    record = CommitRecord(
        view=view, patient=at.patient, modality=at.modality, roi=at.roi, number=number, attempt=uuid4().hex,
        input_sha256=digest_of(f"{at}{number}"), content_sha256=digest_of(str(at)), written_at="2026-01-01T00:00:00+00:00",
        objects={name: ObjectRecord(size_bytes=1000, sha256=digest_of(name)) for name in OBJECTS},
        arrays=dict.fromkeys(("memory", "mean_map", "mask", "preview"), SPEC), earlier_inputs=("0" * 64,) * number,
        attributes={"boxes_xyxy": [[10, 20, 30, 40]] * 100, "kept_slices_z": list(range(100))},
    )  # fmt: skip
    place = Path(store.url) / commit_path(view, at, number)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(record.to_bytes())


def resident_mb() -> float:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measured(name: str, act: Callable[[], Any]) -> Any:
    """Prints what something takes."""
    before = peak = resident_mb()
    done = threading.Event()
    found = SimpleNamespace(value=None)

    def work() -> None:
        try:
            found.value = act()
        finally:
            done.set()

    began = time.perf_counter()
    thread = threading.Thread(target=work)
    thread.start()
    while not done.wait(0.01):
        peak = max(peak, resident_mb())
    thread.join()
    print(f"  {name:42s} {time.perf_counter() - began:8.2f} s  {peak - before:7.0f} MB", flush=True)
    return found.value


@pytest.mark.parametrize("entries", SIZES)
def test_catalogue_of_many_entries(service: Service, entries: int) -> None:
    store = service.store("p")
    view = store.put_view(example_view())
    for i in range(entries):
        commit(store, view, key(i))
    print(f"\n{service.database.engine.dialect.name}, {entries:,} entries")
    made = measured("made", lambda: reindex(service, "p"))
    assert (made.entries, made.written, made.damaged) == (entries, entries + 1, {})
    again = measured("looked at again", lambda: reindex(service, "p"))
    assert (again.written, again.removed) == (0, 0)
    for i in range(0, entries, 100):
        commit(store, view, key(i), 1)
    assert measured("one in a hundred changed", lambda: reindex(service, "p")).written == entries // 100
    _ask(service, view)
    assert measured("made anew (--rebuild)", lambda: reindex(service, "p", rebuild=True)).written == entries + 1


def _ask(service: Service, view: str) -> None:
    """What routes ask."""
    read = service.database.read
    some, rare = EntryFilter.parse(modality="PET"), EntryFilter.parse(patient="*999")
    last = search(service, OWNER, EntryFilter.parse(patient="MM_000*"), limit=900).next
    measured("views with their counts", lambda: read(lambda s: queries.views(s, OWNER, limit=100)))
    measured("coverage, 1,000 patients", lambda: read(lambda s: coverage(s, OWNER, view, limit=1000)))
    measured("entries, a page of 1,000", lambda: search(service, OWNER, some, limit=1000))
    measured("entries, a later page", lambda: search(service, OWNER, some, after=last, limit=1000))
    measured("entries, a filter that few pass", lambda: search(service, OWNER, rare, limit=1000))

    def chunks() -> Iterator[list[dict[str, Any]]]:
        after = None
        while True:
            page = search(service, OWNER, EntryFilter(), after=after, limit=PARQUET_PAGE)
            yield [vars(one) for one in page.items]
            after = page.next
            if after is None:
                return

    table = measured("entries as Parquet, all", lambda: tables.Table(tables.ENTRIES, chunks()))
    print(f"  {'':42s} {table.size_bytes / 2**20:8.1f} MB of file")
    assert sum(map(len, table.parts())) == table.size_bytes
