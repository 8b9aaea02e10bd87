"""Every state in which somebody may meet a page of the service, and a browser that goes through them all; tests nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi.routing import APIRoute

from services.pages.routes import pages_router

BROKEN_RUN = "20260316T080000Z-broken01"
"""A run whose record no program of ours wrote: its page is an error of the service."""
REPORTED_RUN = "cv-2026-04-clinical"
"""A run that the trainer made and published, with its report."""
SETTINGS = """\
columns: {time: months, time_unit: months, event: event, continuous: [age]}
splits: {folds: 2}
permuted_control: null
models: [{name: clinical, kind: ridge_cox}]
"""
PROJECT = "/projects/{project}"
VIEW, RUN = f"{PROJECT}/views/{{view}}", f"{PROJECT}/runs/{{run}}"
ENTRY = f"{VIEW}/entries/{{patient}}/{{modality}}/{{roi}}"
FILES = {
    "/static/style.css": "text/css",
    f"{VIEW}/entries.{{kind}}": "text/csv",
    f"{ENTRY}/preview.png": "image/png",
    f"{ENTRY}/mask.png": "image/png",
    f"{ENTRY}/map.png": "image/png",
    f"{RUN}/records/{{name}}": "application/octet-stream",
}
"""Routes that give no page, with what they give instead."""
Open = Callable[[Any], object]
"""Leads a browser's page to a state."""


@dataclass(frozen=True)
class State:
    """A page as somebody meets it."""

    name: str
    open: Open
    status: int = 200
    key: str | None = "admin"
    """Of whoever looks; None for nobody."""


@dataclass
class Visits:
    """Documents that a browser's page was shown, by method, path and status."""

    seen: list[tuple[str, str, int]] = field(default_factory=list)

    def note(self, response: Any) -> None:
        """Takes note of an answer, if it is a document and no way to another one."""
        if response.request.is_navigation_request() and not 300 <= response.status < 400:
            self.seen.append((response.request.method, urlsplit(response.url).path, response.status))


def publish_report(store_url: str, folder: Path) -> None:
    """Cross-validates a small clinical model, and publishes its report as `REPORTED_RUN`."""
    folder.mkdir()
    lines = [f"T{row:03d},{40 + row * 7 % 40},{1 + row * 5 % 23},{row % 3 > 0:d}" for row in range(40)]
    (folder / "clinical.csv").write_text("\n".join(["patient,age,months,event", *lines, ""]))
    (folder / "cv.yaml").write_text(SETTINGS)
    run = str(folder / "run")
    options = ["--clinical", str(folder / "clinical.csv"), "--config", str(folder / "cv.yaml"), "--workers", "0"]
    for arguments in (
        ["cv", *options, "--out", run],
        ["report", run],
        ["publish", run, "--store", store_url, "--run-id", REPORTED_RUN],
    ):
        program = str(Path(sys.executable).with_name("trainer"))
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@dataclass
class Seen:
    """A state of a page as a browser showed it at one width."""

    name: str
    width: int
    axe: dict[str, Any]
    scroll_width: int
    """Of the document: more than `width` where the page scrolls sideways."""
    pictures: list[bool]
    """Whether each has been drawn."""


@dataclass
class Looked:
    """All states of all pages in one colour scheme, and what was visited on the way."""

    seen: list[Seen]
    statuses: dict[str, tuple[int, int]]
    """Of each state: as it was answered, and as it should be."""
    routes: set[tuple[str, str]]


def look(page: Any, axe: Any, name: str, width: int, folder: Path) -> Seen:
    """What there is to say of the page that a browser shows."""
    page.set_viewport_size({"width": width, "height": 900})
    page.screenshot(path=folder / f"{re.sub('[^a-z0-9]+', '-', name)}-{width}.png", full_page=True)
    scroll_width = page.evaluate("document.documentElement.scrollWidth")
    pictures = [one.evaluate("one => one.complete && one.naturalWidth > 0") for one in page.locator("img").all()]
    return Seen(name, width, axe.run(page).response, scroll_width, pictures)


def states(site: Any) -> list[State]:
    """All of them, for a site as `page_cohort` fills it."""
    return [*_plain(site), *_filtered(site), *_forms(site), *_errors(site), *_strangers(site)]


def page_routes() -> set[tuple[str, str]]:
    """Method and pattern of every route that may show a page; a new one is among them unless it is said to be a file."""
    assert all(isinstance(route, APIRoute) for route in pages_router.routes)
    named = {(method, route.path) for route in pages_router.routes for method in route.methods - {"HEAD"}}
    return {(method, path) for method, path in named if path not in FILES}


def routes_of(visits: Visits) -> set[tuple[str, str]]:
    """Method and pattern of what was visited; what fits no route is none of the pages."""
    return {
        (method, route.path)
        for method, path, _ in visits.seen
        for route in pages_router.routes
        if method in route.methods and route.path_regex.fullmatch(path)
    }


def _at(site: Any, path: str) -> Open:
    return lambda page: page.goto(f"{site.url}{path}", wait_until="load")


def _plain(site: Any) -> Iterator[State]:
    for name, path in site.pages.items():
        yield State(name, _at(site, path), {"withdrawn": 410, "forbidden": 403}.get(name, 200))
    yield State("entry, earlier commit", _at(site, f"{site.pages['entry']}?commit=0"))
    yield State("snapshot, later part", _at(site, f"{site.pages['snapshot']}?after=MM_0020"))
    yield State("run of the trainer itself", _at(site, f"{site.pages['project']}/runs/{REPORTED_RUN}"))
    yield State("report", _unsandboxed(site, f"{site.pages['project']}/runs/{REPORTED_RUN}/report"))


def _unsandboxed(site: Any, path: str) -> Open:
    """A page without the sandbox in which it is served: in that not even axe-core gets to its end. All else is as served."""
    url, policy = f"{site.url}{path}", "content-security-policy"

    def served(route: Any) -> None:
        answer = route.fetch()
        assert answer.headers[policy].startswith("sandbox; ")
        route.fulfill(
            response=answer, headers=answer.headers | {policy: answer.headers[policy].removeprefix("sandbox; ")}
        )

    def act(page: Any) -> None:
        page.route(url, served)
        page.goto(url)
        page.unroute(url)

    return act


def _filtered(site: Any) -> Iterator[State]:
    for name in ("view", "snapshot"):
        path = site.pages[name]
        yield State(f"{name}, filtered", _at(site, f"{path}?patient=MM_000*&modality=PET"))
        yield State(f"{name}, no patient fits", _at(site, f"{path}?patient=nobody*"))
        yield State(f"{name}, no column fits", _at(site, f"{path}?modality=MR&roi=liver"))
        yield State(f"{name}, bad filter", _at(site, f"{path}?patient=,"), 422)


def _forms(site: Any) -> Iterator[State]:
    yield State("key made", _made(site, "a reader of the ward"), 201)
    yield State("key refused", _made(site, "   "), 422)
    yield State("grant refused", _granted(site, "nowhere"), 404)
    yield State("grant refused as it stands already", _granted(site, "lymphoma", view=site.pooled), 409)


def _made(site: Any, label: str) -> Open:
    def act(page: Any) -> None:
        _at(site, site.pages["keys"])(page)
        page.get_by_label("What it is for").fill(label)
        page.get_by_role("button", name="Make the key").click()

    return act


def _granted(site: Any, grantee: str, *, view: str | None = None) -> Open:
    def act(page: Any) -> None:
        _at(site, site.pages["grants"])(page)
        page.get_by_label("Project that may read").fill(grantee)
        page.get_by_label("View, as it is and will be").select_option(view or site.view)
        page.get_by_role("button", name="Grant", exact=True).click()

    return act


def _errors(site: Any) -> Iterator[State]:
    project = site.pages["project"]
    yield State("unknown address", _at(site, "/nowhere"), 404)
    yield State("unknown run", _at(site, f"{project}/runs/none"), 404)
    yield State("unknown view", _at(site, f"{project}/views/none"), 404)
    yield State("snapshot that names who was withdrawn", _at(site, f"{project}/snapshots/{site.withdrawn}"), 410)
    yield State("address refused", _at(site, f"{project}?views={'x' * 1001}"), 422)
    yield State("method refused", _at(site, "/logout"), 405)
    yield State("service failed", _at(site, f"{project}/runs/{BROKEN_RUN}"), 500)
    for name, path in (("key", f"{project}/keys/none/revoke"), ("grant", f"{project}/grants/none/revoke")):
        yield State(f"{name} to revoke is unknown", _posted(site, path), 404)
    yield State("form forged", _posted(site, "/logout", token="forged"), 403)


def _posted(site: Any, path: str, *, token: str | None = None) -> Open:
    """The log-out form of a page sent elsewhere, as that of a page which is no longer true would be."""

    def act(page: Any) -> None:
        _at(site, site.pages["keys"])(page)
        change = "([form, path, token]) => { form.action = path; if (token) form.elements.csrf.value = token; }"
        form = page.locator("form[action='/logout']").element_handle()
        page.evaluate(change, [form, path, token])
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url(re.compile(re.escape(path) + "$"))

    return act


def _strangers(site: Any) -> Iterator[State]:
    """What others meet: a guest of another project, and who is not logged in."""
    project = site.pages["project"]
    yield State("guest's projects", _at(site, "/"), key="guest")
    yield State("guest's granted project", _at(site, project), key="guest")
    yield State("project that holds nothing", _at(site, "/projects/lymphoma"), key="guest")
    yield State("guest's granted snapshot", _at(site, site.pages["snapshot"]), key="guest")
    yield State("keys for a reader", _at(site, site.pages["keys"]), 403, key="read")
    yield State("login", _at(site, "/login"), key=None)
    yield State("login on the way to a page", _at(site, project), key=None)
    yield State("login refused", _wrong_key(site), 401, key=None)


def _wrong_key(site: Any) -> Open:
    def act(page: Any) -> None:
        _at(site, "/login")(page)
        page.get_by_label("API key").fill("engram_wrong")
        page.get_by_role("button", name="Log in").click()

    return act
