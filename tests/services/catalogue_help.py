"""What a catalogue must hold, found by reading every record of the store one by one; stores to find it in, and whole lists.

Tests nothing. Test files take the fixtures by assignment: each test's parameter would hide an imported name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select

from services.access import Principal, Reach
from services.catalogue.index import note_commit, reindex
from services.catalogue.queries import Entry, EntryFilter
from services.catalogue.search import search
from services.database.models import EntryRow, Project, RunRow, SnapshotEntry, ViewRow
from services.service import Service
from store_schema import EntryKey, Store
from store_schema.commits import commit_path, current_record, read_record
from store_schema.records import sha256
from store_schema.testing import WrappedLocation, digest_of, example_entry, example_view
from store_schema.withdraw import withdraw
from store_schema.withdrawals import withdrawn

MODELS = (ViewRow, EntryRow, SnapshotEntry, RunRow)
KEYS = [
    EntryKey(f"MM_{n:03d}", modality, roi)
    for n in range(4)
    for modality in ("CT", "PET")
    for roi in ("spine", "skeleton")
]
A, B = KEYS[0], KEYS[1]
PROJECT = "myeloma"
DAY = timedelta(days=1)
NOW = datetime.now(UTC)
EVERYTHING = EntryFilter()


@pytest.fixture
def store(service: Service) -> Store:
    return add_project(service)


@pytest.fixture
def views(service: Service, store: Store) -> tuple[str, str]:
    """Two views, one entry superseded, one patient withdrawn in the first; indexed."""
    first, second = fill(store), fill(store, [*KEYS[:3], EntryKey("P.2", "CT", "spine")], recipe=2)
    publish(store, first, A, "B")
    withdraw(store, [first], patients=[KEYS[-1].patient], reason="consent")
    reindex(service, PROJECT)
    return first, second


def add_project(service: Service, project: str = PROJECT) -> Store:
    """A project with an empty store."""
    store = service.make_store(project, None)
    row = Project(id=project, store_url=store.url, store_id=store.store_id, created_at=datetime.now(UTC))
    service.database.run(lambda session: session.add(row))
    return service.store(project)


def fill(store: Store, keys: Iterable[EntryKey] = KEYS, *, recipe: int = 1, text: str = "A") -> str:
    """A view with entries."""
    view = store.put_view(example_view(recipe=recipe))
    for i, key in enumerate(keys):
        publish(store, view, key, text, seed=i)
    return view


def publish(store: Store, view: str, key: EntryKey, text: str, *, seed: int = 0, make_current: bool = False) -> Any:
    """Commits an input of an entry."""
    return store.publish(view, key, example_entry(seed), input_sha256=digest_of(text), make_current=make_current).commit


def put_run(store: Store, run: str, **records: Any) -> None:
    """Records of a run: names without their ending, and their JSON."""
    for name, value in records.items():
        store.put_run(run, f"{name}.json", json.dumps(value).encode())


def rows_of(service: Service, project: str = PROJECT) -> dict[str, list[dict[str, Any]]]:
    """All rows of a project's catalogue, sorted."""

    def work(session: Any) -> dict[str, list[dict[str, Any]]]:
        return {
            model.__tablename__: sorted(
                (
                    {column.key: getattr(row, column.key) for column in model.__table__.columns}
                    for row in session.scalars(select(model).where(model.project == project))
                ),
                key=lambda row: [str(row[column.key]) for column in model.__table__.primary_key],
            )
            for model in MODELS
        }

    return service.database.read(work)


def entry_rows(service: Service, project: str = PROJECT) -> dict[tuple[str, EntryKey], dict[str, Any]]:
    """Rows of entries by view and key."""
    return {
        (row["view"], EntryKey(row["patient"], row["modality"], row["roi"])): row
        for row in rows_of(service, project)["entries"]
    }


def clear(service: Service, project: str = PROJECT) -> None:
    """Removes all rows of a project's catalogue."""
    service.database.run(
        lambda session: [session.execute(delete(model).where(model.project == project)) for model in MODELS]
    )


def expected_rows(store: Store, project: str = PROJECT) -> dict[str, list[dict[str, Any]]]:
    """The rows that a sound store must give, by its public readers alone; without runs."""
    views = [
        {"project": project, "id": view, "name": store.view(view).name, "spec": json.loads(store.view(view).to_bytes())}
        for view in store.view_ids()
    ]
    entries = [row for view in store.view_ids() for row in _entries(store, project, view)]
    snapshots = [
        {
            "project": project,
            "id": one.path.removeprefix("snapshots/").removesuffix(".jsonl.zst"),
            "written_at": one.modified,
        }
        for one in store.location.objects("snapshots")
        if one.path.endswith(".zst")
    ]
    for row in snapshots:
        header = json.loads(_lines(store, row["id"]).split(b"\n")[0])
        row |= {"view": header["view"], "rows": header["rows"]}
    return {
        "views": views,
        "entries": sorted(entries, key=lambda row: [row[n] for n in ("view", "patient", "modality", "roi")]),
        "snapshots": sorted(snapshots, key=lambda row: row["id"]),
    }


def _lines(store: Store, snapshot_id: str) -> bytes:
    from numcodecs import Zstd  # noqa: PLC0415

    return bytes(Zstd().decode(store.location.get(f"snapshots/{snapshot_id}.jsonl.zst")))


def _entries(store: Store, project: str, view: str) -> Iterable[dict[str, Any]]:
    for key in store.keys(view):
        commit = store.current(view, key)
        history = store.history(view, key)
        assert commit is not None
        assert commit == history[-1]
        assert commit.number == len(history) - 1
        yield _row(store, project, view, key, commit.number) | {
            "withdrawn": False,
            "attempt": commit.attempt,
            "input_sha256": commit.input_sha256,
            "content_sha256": commit.content_sha256,
            "size_bytes": sum(one.size_bytes for one in commit.objects.values()),
        }
    for key in withdrawn(store.location, view):
        numbers = [int(name.removesuffix(".json")) for name in store.location.children(f"commits/{view}/{key}")]
        yield _row(store, project, view, key, max(numbers)) | {
            "withdrawn": True,
            "attempt": None,
            "input_sha256": None,
            "content_sha256": None,
            "size_bytes": 0,
        }


def _row(store: Store, project: str, view: str, key: EntryKey, number: int) -> dict[str, Any]:
    record = read_record(store.location, view, key, number)
    return {
        "project": project,
        "view": view,
        "patient": key.patient,
        "modality": key.modality,
        "roi": key.roi,
        "number": number,
        "commit_sha256": sha256(store.location.get(commit_path(view, key, number))),
        "written_at": datetime.fromisoformat(record.written_at),
    }


def owner(project: str = PROJECT) -> Reach:
    """Reach of a key of the project itself."""
    return Reach(project, Principal("0" * 12, project, "read"), own=True)


def grantee(project: str = PROJECT, *, views: Iterable[str] = (), snapshots: Iterable[str] = ()) -> Reach:
    """Reach of a key of another project, to which something was granted."""
    principal = Principal("1" * 12, "lymphoma", "read")
    return Reach(project, principal, own=False, views=frozenset(views), snapshots=frozenset(snapshots))


# Whole lists


def pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    """All pages of a list."""
    after = None
    while True:
        page = ask(after)
        yield page
        after = page.next
        if after is None:
            return


def all_items(ask: Callable[[str | None], Any]) -> list[Any]:
    """All items of a list."""
    return [one for page in pages(ask) for one in page.items]


def everything(service: Service, reach: Reach, wanted: EntryFilter = EVERYTHING, *, limit: int = 1000) -> list[Entry]:
    return all_items(lambda after: search(service, reach, wanted, after=after, limit=limit))


def asked(service: Service, query: Callable[..., Any], reach: Reach, *args: Any, **options: Any) -> Any:
    return service.database.read(lambda session: query(session, reach, *args, **options))


def names_of(row: Any) -> tuple[str, ...]:
    """View, patient, modality and ROI of an entry or of its row."""
    values = row if isinstance(row, dict) else asdict(row)
    return tuple(values[name] for name in ("view", "patient", "modality", "roi"))


# Stores that are not as they should be


def path_of(store: Store, path: str) -> Path:
    return Path(store.url) / path


def spoil(store: Store, path: str) -> None:
    """Alters one byte of an object."""
    data = bytearray(path_of(store, path).read_bytes())
    data[len(data) // 2] ^= 1
    path_of(store, path).write_bytes(data)


def note(service: Service, store: Store, view: str, key: EntryKey) -> None:
    """Tells the catalogue of an entry's current record."""
    record = current_record(store.location, view, key)
    data = store.location.get(commit_path(view, key, record.number))
    service.database.run(lambda session: note_commit(session, PROJECT, record, sha256(data)))


def indexed_at(service: Service) -> datetime | None:
    return service.database.read(lambda session: session.get(Project, PROJECT).indexed_at)


def through(service: Service, store: Store, location: WrappedLocation) -> None:
    """Has the service see its store through another location."""
    objects = service.project_store(PROJECT).objects
    objects.store = replace(store, location=location)
