"""Keeps a project's catalogue in step with its store: as a whole, and record by record as they are published; answers no question.

A row is never the only place that something is known from: whatever is here can be deleted and made again from the store.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import delete
from sqlalchemy.orm import Session

from services.catalogue.entries import index_entries
from services.catalogue.lists import index_runs, index_snapshots, index_views, refresh_run
from services.catalogue.notes import note_commit, note_snapshot, note_view
from services.catalogue.place import place_of
from services.catalogue.tally import IndexReport, Tally
from services.database.models import EntryRow, Project, RunRow, SnapshotEntry, ViewRow
from services.logs import log
from services.service import Service
from store_schema.keys import check_id
from store_schema.pinning import Told

__all__ = ["IndexReport", "note_commit", "note_run", "note_snapshot", "note_view", "reindex"]


def reindex(service: Service, project: str, *, rebuild: bool = False, told: Told | None = None) -> IndexReport:
    """Makes a project's catalogue agree with its store, while others go on writing; what has not changed is not read again.

    Parameters
    ----------
    rebuild
        Remove all rows first, and read everything.
    told
        Told how many of the records listed so far were looked at; what it raises ends the work, and what was written stays.

    Raises
    ------
    Refusal
        404, if there is no such project; 503, if the database stays away.
    StoreError
        If the store cannot be listed, or is not the project's any more.
    UsageError
        If the store cannot list names.
    """
    place, tally, began = place_of(service, project), Tally(told), datetime.now(UTC)
    place.check_there()
    if rebuild:
        place.database.run(lambda session: _clear(session, project))
    for view in index_views(place, tally):
        index_entries(place, view, tally)
    index_snapshots(place, tally)
    index_runs(place, tally)
    report = tally.report(project)
    if report.complete:
        place.database.run(lambda session: _mark(session, project, began))
    if report.damaged or report.unread:
        # Counts alone: the names of damaged objects are those of patients. `store-schema verify` tells them to who may know.
        problems = {"damaged": dict(report.damaged), "unread": dict(report.unread)}
        log().warning("catalogue incomplete", extra={"project": project, "problems": problems})
    return report


def note_run(service: Service, project: str, run_id: str) -> None:
    """Tells the catalogue that a run has a new record; all that lists show of it is read again.

    Raises
    ------
    InvalidKeyError
        If it is no run's id.
    StoreError
        If a record cannot be read.
    """
    refresh_run(place_of(service, project), check_id("run", run_id), Tally())


def _clear(session: Session, project: str) -> None:
    for model in (EntryRow, SnapshotEntry, RunRow, ViewRow):
        session.execute(delete(model).where(model.project == project))


def _mark(session: Session, project: str, at: datetime) -> None:
    row = session.get(Project, project)
    if row is not None:
        row.indexed_at = at
