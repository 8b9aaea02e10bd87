"""One project's store and the database that its catalogue lies in, for whoever brings them together; compares nothing itself."""

from __future__ import annotations

from dataclasses import dataclass

from services.database.engine import Database
from services.service import Service
from store_schema import Store
from store_schema.errors import StoreNotFoundError, UsageError
from store_schema.location import Location
from store_schema.records import StoreRecord, parse_record
from store_schema.store import ROOT_RECORD


@dataclass(frozen=True)
class Place:
    """Where a project's records lie, and its rows."""

    project: str
    store: Store
    database: Database

    @property
    def location(self) -> Location:
        """Where the store lies."""
        return self.store.location

    def check_there(self) -> None:
        """Passes where the store can be reached: a folder that is not mounted lists nothing, and says so of nothing.

        Raises
        ------
        StoreNotFoundError
            If another store, or none, is there.
        StoreError
            If nobody can tell.
        """
        record = parse_record(StoreRecord, self.location.get(ROOT_RECORD), where=ROOT_RECORD)
        if record.store_id != self.store.store_id:
            raise StoreNotFoundError(
                f"store {record.store_id} lies where {self.store.store_id} was: its rows stay as they are."
            )


def place_of(service: Service, project: str) -> Place:
    """The place of a project.

    Raises
    ------
    Refusal
        404, if there is no such project.
    UsageError
        If its store cannot list names.
    """
    store = service.store(project)
    if not store.location.can_list:
        raise UsageError(f"the store of {project} cannot list names: a catalogue is made at the store's own address.")
    return Place(project, store, service.database)
