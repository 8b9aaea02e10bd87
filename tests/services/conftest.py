"""Databases of both kinds, a service over each, and a small world of two projects."""

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest

from services import operations
from services.access import Principal
from services.database.engine import Database
from services.database.migrate import migrate
from services.keys import SCOPES
from services.service import Service
from services.settings import Settings
from store_schema import EntryKey, Store
from store_schema.testing import digest_of, example_entry, example_view


@pytest.fixture(scope="session")
def beside() -> Callable[[str], ModuleType]:
    """Gives a module of this folder by its name; each is loaded once."""

    def module(name: str) -> ModuleType:
        known = f"engram_services_{name}"
        if known not in sys.modules:
            spec = importlib.util.spec_from_file_location(known, Path(__file__).with_name(f"{name}.py"))
            assert spec is not None
            assert spec.loader is not None
            sys.modules[known] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[known])
        return sys.modules[known]

    return module


KINDS = ("sqlite", "postgresql")


def _empty_database(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """Address of an empty database of the kind that the fixture's parameter names."""
    if request.param == "sqlite":
        yield f"sqlite:///{folder / 'service.db'}"
        return
    server: Any = request.getfixturevalue("postgres")
    name = f"engram_{uuid4().hex}"
    yield server.make_database(name)
    server.drop_database(name)


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Address of an empty database."""
    yield from _empty_database(request, tmp_path)


@pytest.fixture(scope="module", params=KINDS)
def module_settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a service that the tests of one file share, over each kind of database."""
    folder = tmp_path_factory.mktemp("service")
    for url in _empty_database(request, folder):
        yield Settings(data=folder / "data", database_url=url, reconcile_s=0, key_cache_s=0)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with the service's tables."""
    found = Database(database_url)
    migrate(found)
    yield found
    found.close()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings of a service over that database, with stores in a folder of their own."""
    return Settings(data=tmp_path / "data", database_url=database_url, reconcile_s=0)


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    """A service without projects."""
    found = Service.open(settings)
    migrate(found.database)
    yield found
    found.close()


@pytest.fixture(scope="module")
def own_folder(postgres_server: Any) -> Iterator[Path]:
    """Folder of a PostgreSQL server that tests of one file may kill."""
    folder = Path(tempfile.gettempdir()) / f"engram-postgres-{uuid4().hex[:8]}"
    postgres_server.start(folder)
    yield folder
    postgres_server.kill(folder)
    shutil.rmtree(folder)


@pytest.fixture
def own_server(own_folder: Path, postgres_server: Any) -> Any:
    """That server, running."""
    if not postgres_server.lives(own_folder):
        postgres_server.restart(own_folder)
    return postgres_server.running(own_folder)


@pytest.fixture
def own_database(own_server: Any) -> Iterator[Database]:
    """A database of that server with the service's tables."""
    name = f"own_{uuid4().hex}"
    database = Database(own_server.make_database(name), patience_s=30)
    migrate(database)
    yield database
    database.close()


@dataclass(frozen=True)
class Planted:
    """A project with a key of each scope, and a store with one view of three entries and their snapshot."""

    id: str
    keys: dict[str, str]
    """Text of a key by its scope."""
    store: Store
    view: str
    entries: tuple[EntryKey, ...]
    snapshot: str


@dataclass(frozen=True)
class World:
    """Two projects that know nothing of each other."""

    service: Service
    alpha: Planted
    beta: Planted

    def principal(self, project: Planted, scope: str = "admin") -> Principal:
        """Whoever has the project's key of a scope."""
        return self.service.access.principal(project.keys[scope])


def plant(service: Service, project: str) -> Planted:
    """A project with data; other projects have other patients."""
    operations.create_project(service, project)
    keys = {scope: operations.make_key(service, project, label=scope, scope=scope).text for scope in SCOPES}
    store = service.store(project)
    view = store.put_view(example_view(name=f"view-{project}"))
    entries = tuple(EntryKey(f"{project}-{number}", "PET", "spine") for number in range(3))
    for seed, key in enumerate(entries):
        store.publish(view, key, example_entry(seed), input_sha256=digest_of(str(key)))
    return Planted(project, keys, store, view, entries, store.make_snapshot(view))


@pytest.fixture
def world(service: Service) -> World:
    """Two planted projects, alpha and beta."""
    return World(service, plant(service, "alpha"), plant(service, "beta"))


# Pages


@pytest.fixture(scope="session")
def parsed(beside: Callable[[str], ModuleType]) -> Any:
    """Gives the elements of a page from its HTML."""
    return beside("page_world").parsed


@pytest.fixture(scope="session")
def open_site(beside: Callable[[str], ModuleType]) -> Callable[..., AbstractContextManager[Any]]:
    """Opens a site of pages over settings, until a block ends."""
    world, runs = beside("page_world"), beside("page_runs")
    return lambda settings: world.opened(settings, runs)


@pytest.fixture(scope="module")
def site(open_site: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A site that the tests of one file share and do not change."""
    with open_site(Settings(data=tmp_path_factory.mktemp("site"), reconcile_s=0, key_cache_s=0)) as found:
        yield found


@pytest.fixture
def own_site(open_site: Any, tmp_path: Path) -> Iterator[Any]:
    """A site that a test may change."""
    with open_site(Settings(data=tmp_path, reconcile_s=0, key_cache_s=0)) as found:
        yield found
