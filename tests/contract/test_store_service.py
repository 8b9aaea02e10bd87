"""The store's promises through the feature-store service: a real server on a socket, over a store in a folder.

What deletes or looks for what no commit names is done at the folder, where the service has it done too.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import zarr
from aiohttp import ClientResponseError

from store_schema import BulkReader, Store, make_pack, open_store
from store_schema.copying import copy_store
from store_schema.errors import BackendError, ObjectMissingError, StoreError
from store_schema.gc import collect_garbage
from store_schema.location import Location, open_location
from store_schema.testing import StoreContract, WrappedLocation, example_entry, example_view
from store_schema.testing.base import KEY, OTHER, A, B

STRIDE = 41
"""Every so manyth byte is changed here; memory and folder change every one."""


def _serving() -> ModuleType:
    """tests/services/serving.py as a module."""
    name = "engram_test_serving"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "services" / "serving.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running service that holds no object in memory, so that damage behind its back is met at once."""
    from services.database.migrate import migrate  # noqa: PLC0415 - only these tests need the service
    from services.service import Service  # noqa: PLC0415
    from services.settings import Settings  # noqa: PLC0415

    service = Service.open(Settings(data=tmp_path_factory.mktemp("service"), reconcile_s=0, cache_bytes=0))
    migrate(service.database)
    with _serving().running(service) as running:
        yield running


@dataclass(frozen=True)
class Place:
    """A project's address, and the folder that its store lies in."""

    url: str
    folder: Path


@pytest.fixture
def project(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A new project, with the key of a writer in the environment."""
    from services.operations import create_project, make_key  # noqa: PLC0415

    name = f"p{uuid4().hex[:12]}"
    create_project(server.service, name, str(tmp_path / name))
    monkeypatch.setenv("ENGRAM_API_KEY", make_key(server.service, name, label="contract", scope="write").text)
    return Place(f"{server.url}/v1/projects/{name}", tmp_path / name)


class TestServiceStore(StoreContract):
    @pytest.fixture
    def url(self, project: Place) -> str:
        self.folder = project.folder
        return project.url

    def at_bucket(self, store: Store) -> Store:
        return open_store(self.folder)

    def raw_get(self, url: str, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def raw_set(self, url: str, path: str, data: bytes) -> None:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)

    def raw_delete(self, url: str, path: str) -> None:
        (self.folder / path).unlink()

    def raw_paths(self, url: str) -> list[str]:
        return [str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()]

    def each_byte_changed(self, url: str, path: str) -> Iterator[None]:
        data = self.raw_get(url, path)
        for i in range(0, len(data), STRIDE):
            self.raw_set(url, path, data[:i] + bytes([data[i] ^ (1 << (i % 8))]) + data[i + 1 :])
            yield
        self.raw_set(url, path, data)

    # What is another promise through the service

    def test_place_without_a_store_is_refused(self, url: str) -> None:
        """A project has a store from its beginning; one that is not there is not told from one that may not be read."""
        with pytest.raises(BackendError, match="may not"):
            open_store(url.replace("/v1/projects/p", "/v1/projects/q"))

    def test_written_object_is_what_was_written(self, store: Store, url: str) -> None:
        """Records of runs are read as soon as they are written, and written once; a folder is no object."""
        store.location.put("runs/b/2", b"two")
        store.location.create("runs/b/1", b"1")
        assert self.raw_get(url, "runs/b/2") == store.location.get("runs/b/2") == b"two"
        assert (store.location.size_bytes("runs/b/2"), store.location.size_bytes("runs/b/1")) == (3, 1)
        assert store.location.paths("runs") == ["runs/b/1", "runs/b/2"]
        assert store.location.children("runs") == ["b"]
        assert store.location.size_bytes("runs/b") is None
        with pytest.raises(ObjectMissingError):
            store.location.get("runs/b")
        with pytest.raises(StoreError, match="other bytes"):
            store.location.put("runs/b/2", b"three")

    def test_racing_writers_and_a_withdrawal_leave_no_data(self, store: Store, view: str, url: str) -> None:
        """None that is served; who was refused may not erase what it had written, which the next collection does at any age."""
        try:
            super().test_racing_writers_and_a_withdrawal_leave_no_data(store, view, url)
        except AssertionError:
            collect_garbage(self.at_bucket(store), dry_run=False)
        assert not [path for path in self.raw_paths(url) if path.startswith("data/")]
        assert self.at_bucket(store).verify().findings == ()


@pytest.fixture
def filled(project: Place) -> Store:
    """A project with an entry of two commits, another entry, a snapshot, a pack and a record of a run."""
    store = open_store(project.url)
    view = store.put_view(example_view())
    for seed, (key, digest) in enumerate(((KEY, A), (KEY, B), (OTHER, A))):
        store.publish(view, key, example_entry(seed), input_sha256=digest)
    make_pack(store.snapshot(store.make_snapshot(view)), "memory")
    store.put_run("run-1", "start.json", b"{}")
    return store


def test_copy_through_the_service_is_a_replica(project: Place, filled: Store, tmp_path: Path) -> None:
    report = copy_store(filled, str(tmp_path / "copy"), runs=True)
    assert (report.ok, report.entries, report.commits, len(report.packs)) == (True, 2, 3, 1)
    paths = sorted(open_location(project.folder).paths(""))
    assert paths == open_location(tmp_path / "copy").paths("")
    assert all((tmp_path / "copy" / path).read_bytes() == (project.folder / path).read_bytes() for path in paths)


def test_any_zarr_reader_reads_a_snapshot_with_the_key_in_a_header(project: Place, filled: Store) -> None:
    """And is given an error for a chunk that is gone, never zeros."""
    address = f"{project.url}/snapshots/{filled.snapshot_ids()[0]}/zarr"
    options = {"headers": {"Authorization": f"Bearer {os.environ['ENGRAM_API_KEY']}"}}
    group = zarr.open_group(address, mode="r", storage_options=options)
    assert np.array_equal(group[f"{KEY}/memory"][...], example_entry(1).arrays["memory"])
    commit = filled.commit(filled.view_ids()[0], OTHER)
    (project.folder / commit.folder / "memory/c/0/0/0/0").unlink()
    with pytest.raises(ClientResponseError, match="500"):
        group[f"{OTHER}/memory"][...]


class Counting(WrappedLocation):
    """Remembers what is read through the service."""

    def __init__(self, inner: Location) -> None:
        super().__init__(inner)
        self.read: list[str] = []

    def get(self, path: str) -> bytes:
        self.read.append(path)
        return super().get(path)


def test_bulk_reader_reads_from_s3_itself_by_signed_addresses(
    server: Any, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the bucket's credentials; only commits come through the service."""
    from services.operations import create_project, make_key  # noqa: PLC0415

    name = f"p{uuid4().hex[:12]}"
    create_project(server.service, name, s3_url)
    monkeypatch.setenv("ENGRAM_API_KEY", make_key(server.service, name, label="contract", scope="write").text)
    store = open_store(f"{server.url}/v1/projects/{name}")
    view = store.put_view(example_view())
    for seed, key in enumerate((KEY, OTHER)):
        store.publish(view, key, example_entry(seed), input_sha256=A)
    location = Counting(store.location)
    snapshot = replace(store.snapshot(store.make_snapshot(view)), location=location)
    values = BulkReader(snapshot, ("memory",), direct_bytes=0).stack("memory", (KEY, OTHER))
    assert all(np.array_equal(values[seed], example_entry(seed).arrays["memory"]) for seed in (0, 1))
    assert [path for path in location.read if path.startswith("data/")] == []
    assert len([path for path in location.read if path.startswith("commits/")]) == 2
