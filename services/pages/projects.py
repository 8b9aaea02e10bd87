"""The list of projects and the page of one; what is shown is asked of the catalogue, within the key's reach; knows no store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from services import operations
from services.access import Reach
from services.audit import Act
from services.catalogue import queries
from services.catalogue.cursors import Page
from services.pages.answers import page
from services.pages.login import READ
from services.pages.run_words import run_words
from services.pages.sessions import LoggedIn, PageReach
from services.requests import request_id, service_of

router = APIRouter(include_in_schema=False)
MOST_VIEWS, MOST_SNAPSHOTS, MOST_RUNS = 100, 20, 20
"""Of one page."""
MOST_COUNTED = 1000
Cursor = Annotated[str | None, Query(max_length=1000)]


@dataclass(frozen=True)
class ProjectLine:
    """One project as the list shows it."""

    reach: Reach
    views: str
    entries: int
    withdrawn: int
    patients: int
    """Of the view that has most."""
    size_bytes: int
    snapshots: str
    runs: str
    """Of the own project; else none may be read."""


@router.api_route("/", methods=READ)
def start_page(request: Request, who: LoggedIn) -> Response:
    """Projects that the key reaches."""
    service = service_of(request)
    found = operations.reachable(service, who.principal)
    lines = service.database.read(lambda session: [_line(session, reach) for reach in found])
    return page(request, "projects.html.jinja", lines=lines)


@router.api_route("/projects/{project}", methods=READ)
def project_page(
    request: Request, reach: PageReach, views: Cursor = None, snapshots: Cursor = None, runs: Cursor = None
) -> Response:
    """What a project holds, as far as the key reaches."""
    service = service_of(request)

    def work(session: Session) -> dict[str, Any]:
        return {
            "line": _line(session, reach),
            "views": queries.views(session, reach, after=views, limit=MOST_VIEWS),
            "snapshots": queries.snapshots(session, reach, after=snapshots, limit=MOST_SNAPSHOTS),
            "runs": queries.runs(session, reach, after=runs, limit=MOST_RUNS) if reach.own else None,
        }

    found = service.database.read(work)
    act = Act("read", "catalogue", reach.project, reach.principal)
    service.audit.count(act, request_id=request_id(request))
    later = {"views": views, "snapshots": snapshots, "runs": runs}
    return page(request, "project.html.jinja", reach=reach, run_words=run_words, later=later, **found)


def _line(session: Session, reach: Reach) -> ProjectLine:
    views = queries.views(session, reach, limit=MOST_COUNTED)
    snapshots = queries.snapshots(session, reach, limit=MOST_COUNTED)
    runs = queries.runs(session, reach, limit=MOST_COUNTED) if reach.own else None
    return ProjectLine(
        reach=reach,
        views=_count(views),
        entries=sum(one.entries for one in views.items),
        withdrawn=sum(one.withdrawn for one in views.items),
        patients=max((one.patients for one in views.items), default=0),
        size_bytes=sum(one.size_bytes for one in views.items),
        snapshots=_count(snapshots),
        runs="–" if runs is None else _count(runs),
    )


def _count(found: Page[Any]) -> str:
    """How many, or that there are more than are counted."""
    return f"{len(found.items):,}" if found.next is None else f"more than {len(found.items):,}"
