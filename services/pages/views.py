"""The page of a view and of a snapshot: what they are, and a table of patients against modality and region; knows no array."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError
from sqlalchemy.orm import Session

from services import targets
from services.audit import Act
from services.catalogue import queries
from services.catalogue.coverage import Coverage, coverage
from services.catalogue.globs import Globs
from services.errors import Refusal
from services.pages.answers import page
from services.pages.coverage_tables import MOST_PATIENTS, Wanted, of_snapshot, of_view
from services.pages.downloads import KINDS
from services.pages.login import READ
from services.pages.sessions import PageReach
from services.pages.view_words import view_words
from services.requests import request_id, service_of, target
from store_schema.records import ViewSpec
from store_schema.snapshot import SNAPSHOT_ID

router = APIRouter(prefix="/projects/{project}", include_in_schema=False)
ViewId = Annotated[str, Path(max_length=100)]
SnapshotId = Annotated[str, Path(max_length=64)]
Asked = Annotated[Wanted, Query()]


@router.api_route("/views/{view}", methods=READ)
def view_page(request: Request, reach: PageReach, view: ViewId, wanted: Asked) -> Response:
    """A view's specification and coverage."""
    service = service_of(request)
    target(request, targets.of_view(view))
    globs, problem = _globs(wanted.patient)

    def work(session: Session) -> tuple[queries.View, Coverage]:
        found = coverage(session, reach, view, patient=globs, after=wanted.after, limit=MOST_PATIENTS)
        return queries.view(session, reach, view), found

    found, covered = service.database.read(work)
    service.audit.count(Act("read", view, reach.project, reach.principal), request_id=request_id(request))
    return page(
        request,
        "view.html.jinja",
        status=200 if problem is None else 422,
        reach=reach,
        view=found,
        words=_words(found),
        spec=json.dumps(found.spec, indent=2, ensure_ascii=False),
        covered=covered,
        missing=covered.patients * len(covered.columns) - sum(one.entries + one.withdrawn for one in covered.columns),
        table=of_view(reach.project, covered, wanted),
        downloads=tuple(KINDS),
        problem=problem,
    )


@router.api_route("/snapshots/{snapshot}", methods=READ)
def snapshot_page(request: Request, reach: PageReach, snapshot: SnapshotId, wanted: Asked) -> Response:
    """What a snapshot pins."""
    service = service_of(request)
    target(request, f"snapshot {snapshot}" if SNAPSHOT_ID.fullmatch(snapshot) else "snapshot")
    found = service.project_store(reach.project).objects.snapshot(reach, snapshot)
    globs, problem = _globs(wanted.patient)
    act = Act("read", f"snapshot {found.id}", reach.project, reach.principal)
    service.audit.count(act, request_id=request_id(request))
    return page(
        request,
        "snapshot.html.jinja",
        status=200 if problem is None else 422,
        reach=reach,
        snapshot=found,
        reads_view=reach.reads_view(found.view_id),
        patients=len({key.patient for key in found.keys}),
        words=view_words(found.view),
        public_url=(service.settings.public_url or str(request.base_url)).rstrip("/"),
        table=of_snapshot(reach.project, found, wanted, globs),
        problem=problem,
    )


def _globs(text: str) -> tuple[Globs | None, str | None]:
    """The filter of patients; or what is wrong with it, and then everything is shown."""
    if not text.strip():
        return None, None
    try:
        return Globs.parse(text.strip(), field="patient"), None
    except Refusal as refusal:
        return None, refusal.message


def _words(found: queries.View) -> list[tuple[str, str]]:
    try:
        return view_words(ViewSpec.model_validate(found.spec))
    except ValidationError:
        return [("Specification", "of another version of the store's schema: see the JSON")]
