"""All that a request may need, in one place: settings, database, access, audit, stores; knows no route."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime

from services.access import Access, known_project
from services.audit import Audit
from services.database.engine import Database
from services.database.models import Project
from services.held import Held
from services.objects import Objects
from services.publishing import Publishing
from services.settings import Settings
from services.zarr_paths import ZarrPaths
from store_schema import Store, create_store, open_store
from store_schema.errors import SchemaError


@dataclass(frozen=True)
class ProjectStore:
    """The ways into one project's store."""

    objects: Objects
    zarr: ZarrPaths
    publishing: Publishing


@dataclass
class Service:
    """One running service."""

    settings: Settings
    database: Database
    access: Access
    audit: Audit
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _stores: dict[str, ProjectStore] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    _cache: Held[tuple[str, str], bytes] = field(init=False)
    """Checked objects of all stores."""

    def __post_init__(self) -> None:
        self._cache = Held(self.settings.cache_bytes, len)

    @classmethod
    def open(cls, settings: Settings) -> Service:
        """A service over a database whose tables are there; see `services.database.migrate`."""
        database = Database(settings.database)
        return cls(settings, database, Access(database, remember_s=settings.key_cache_s), Audit(database))

    def store(self, project: str) -> Store:
        """The store of a project; see `project_store`."""
        return self.project_store(project).objects.store

    def held_store(self, project: str) -> ProjectStore | None:
        """What `project_store` gave before; asks nobody and so never waits."""
        return self._stores.get(project)

    def project_store(self, project: str) -> ProjectStore:
        """What a project's store serves.

        Raises
        ------
        Refusal
            404, if there is no such project.
        StoreError
            If its store cannot be opened, or is another than the one that was registered.
        """
        held = self._stores.get(project)
        if held is not None:
            return held
        row: Project = self.database.read(lambda session: known_project(session, project))
        store = open_store(row.store_url)
        if store.store_id != row.store_id:
            raise SchemaError(
                f"the store of project {project} is {store.store_id}, {row.store_id} was registered: it was put in its place."
            )
        objects = Objects(store, self._cache)
        with self._lock:
            return self._stores.setdefault(project, ProjectStore(objects, ZarrPaths(objects), Publishing(objects)))

    def told(self, text: str) -> str:
        """A message for clients: a store is called by its project, since its own address is the operator's affair."""
        for project, stores in tuple(self._stores.items()):
            text = text.replace(stores.objects.store.url, f"project {project}")
        return text

    def make_store(self, project: str, url: str | None) -> Store:
        """The store for a new project: at an address, or in the data folder; one that is there is taken as it is."""
        return create_store(url or self.settings.store_url(project))

    def close(self) -> None:
        """Writes what is still counted and gives back all connections."""
        try:
            self.audit.flush()
        finally:
            self.database.close()
