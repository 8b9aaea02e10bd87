"""The page of one run, its published report and its records; computes no figure.

Runs are for keys of the project itself: their records may name its patients.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from services.access import Reach
from services.audit import Act
from services.errors import not_found
from services.objects import absent, not_yours
from services.pages.answers import HEADERS, SANDBOX, page, saved_as
from services.pages.curves import DrawnGroups, drawn, strip
from services.pages.extractions import STARTED, read_extraction
from services.pages.login import READ
from services.pages.sessions import PageReach
from services.requests import request_id, service_of, target
from store_schema import Store
from store_schema.errors import InvalidKeyError
from store_schema.published import CURVES, SUMMARY, PublishedCurves, PublishedRun
from store_schema.records import check_object

router = APIRouter(prefix="/projects/{project}/runs/{run}", include_in_schema=False)
REPORT = "report.html"
RunId = Annotated[str, Path(max_length=64)]


@router.api_route("", methods=READ)
def run_page(request: Request, reach: PageReach, run: RunId) -> Response:
    """A run of the trainer with its c-indices and curves, or of the extractor with its counts and failures."""
    store, names = _opened(request, reach, run)
    if SUMMARY in names:
        return _trainer(request, reach, store, run, names)
    if STARTED in names:
        found = read_extraction(store, run, names)
        return page(request, "extraction.html.jinja", reach=reach, run=run, names=names, found=found)
    return page(request, "other_run.html.jinja", reach=reach, run=run, names=names)


@router.api_route("/report", methods=READ)
def report(request: Request, reach: PageReach, run: RunId) -> Response:
    """The report as it was published, in a sandbox: what it holds can neither run a script nor act for the reader."""
    store, names = _opened(request, reach, run)
    if REPORT not in names or SUMMARY not in names:
        raise absent()
    data = _record(store, run, _summary(store, run), REPORT)
    headers = {**HEADERS, "Content-Security-Policy": SANDBOX, "Cache-Control": "no-store"}
    return Response(data, 200, headers, "text/html; charset=utf-8")


@router.api_route("/records/{name}", methods=READ)
def record(request: Request, reach: PageReach, run: RunId, name: Annotated[str, Path(max_length=64)]) -> Response:
    """One record as a file."""
    store, names = _opened(request, reach, run)
    if name not in names:
        raise absent()
    return Response(store.read_run(run, name), 200, saved_as(f"{run}-{name}"), "application/octet-stream")


def _opened(request: Request, reach: Reach, run: str) -> tuple[Store, list[str]]:
    """The store and the names of a run's records.

    Raises
    ------
    Refusal
        403 or 404.
    """
    if not reach.own:
        raise not_yours()
    service = service_of(request)
    store = service.store(reach.project)
    try:
        names = store.run_names(run)
    except InvalidKeyError:
        names = []
    if not names:
        raise not_found("no run of this project has that id.")
    target(request, f"run {run}")
    service.audit.count(Act("read", f"run {run}", reach.project, reach.principal), request_id=request_id(request))
    return store, names


def _trainer(request: Request, reach: Reach, store: Store, run: str, names: list[str]) -> Response:
    summary = _summary(store, run)
    curves = _curves(store, run, summary)
    known = set(store.view_ids())
    return page(
        request,
        "trainer_run.html.jinja",
        reach=reach,
        run=run,
        names=names,
        found=summary,
        strips={model.name: strip(model) for model in summary.models},
        figures=_drawn(curves),
        curves=curves,
        here=summary.store_id == store.store_id,
        known=known,
        has_report=REPORT in summary.records,
    )


def _summary(store: Store, run: str) -> PublishedRun:
    return PublishedRun.parse(store.read_run(run, SUMMARY), where=f"{SUMMARY} of run {run}")


def _curves(store: Store, run: str, summary: PublishedRun) -> PublishedCurves | None:
    if CURVES not in summary.records:
        return None
    return PublishedCurves.parse(_record(store, run, summary, CURVES), where=f"{CURVES} of run {run}")


def _drawn(curves: PublishedCurves | None) -> list[DrawnGroups]:
    if curves is None:
        return []
    return [drawn(groups, last_time=curves.last_time, unit=curves.time_unit) for groups in curves.models]


def _record(store: Store, run: str, summary: PublishedRun, name: str) -> bytes:
    """A record that is the one that was published."""
    expected = summary.records.get(name)
    if expected is None:
        raise absent()
    todo = "Publish the run again under another name."
    return check_object(store.read_run(run, name), expected, where=f"{name} of run {run}", listed_by=SUMMARY, todo=todo)
