"""The service's pages in a real Chromium: without scripts, by keyboard, light and dark, narrow and wide, checked by axe-core."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from services import operations
from services.catalogue.index import reindex
from services.database.migrate import migrate
from services.service import Service
from services.settings import Settings

TESTS = Path(__file__).parent.parent
SCHEMES, WIDTHS = ("light", "dark"), (320, 1280)
OUTLINED = """() => {
  const style = getComputedStyle(document.activeElement);
  return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
}"""
NAMED = """() => {
  const one = document.activeElement;
  return [one.tagName, one.id, one.textContent.replace(/\\s+/g, " ").trim(), one.getAttribute("href") || ""];
}"""
SANDBOXED = "sandboxed and the 'allow-scripts' permission is not set"
INLINE = "violates the following Content Security Policy"
"""What a published report that holds a script makes a browser complain of."""
STATUS = "the server responded with a status of"
"""What the browser complains of where a page says why there is nothing to show."""
FOCUSABLE = """() => [...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, summary, [tabindex='0']")]
  .filter(one => one.checkVisibility() && (one.type !== "radio" || one.checked)).length"""


def sibling(folder, name):
    """A module of the tests that is no test."""
    spec = importlib.util.spec_from_file_location(f"engram_{folder}_{name}", TESTS / folder / f"{name}.py")
    if spec.name not in sys.modules:
        sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[spec.name]


@dataclass
class Site:
    """A running service over a cohort, and keys to it."""

    url: str
    service: Service
    keys: dict[str, str]
    view: str
    pooled: str
    snapshot: str
    withdrawn: str
    """A snapshot that names patients who were withdrawn later."""

    @property
    def pages(self):
        """Addresses of a page of each kind, by name."""
        project = "/projects/myeloma"
        view = f"{project}/views/{self.view}"
        runs = sibling("services", "page_runs")
        return {
            "projects": "/",
            "project": project,
            "view": view,
            "entry": f"{view}/entries/MM_0001/PET/spine_dilated",
            "entry-ct": f"{view}/entries/MM_0002/CT/skeleton",
            "entry-pooled": f"{project}/views/{self.pooled}/entries/MM_0001/PET/spine_dilated",
            "withdrawn": f"{view}/entries/MM_0012/CT/skeleton",
            "snapshot": f"{project}/snapshots/{self.snapshot}",
            "trainer": f"{project}/runs/{runs.TRAINER_RUN}",
            "extraction": f"{project}/runs/{runs.EXTRACTION}",
            "killed": f"{project}/runs/{runs.KILLED}",
            "keys": f"{project}/keys",
            "grants": f"{project}/grants",
            "forbidden": "/projects/nowhere",
        }


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    """A project with forty patients that granted a view to another one, and got one from it."""
    folder = tmp_path_factory.mktemp("site")
    service = Service.open(Settings(data=folder, reconcile_s=0, key_cache_s=0))
    migrate(service.database)
    cohort = sibling("services", "page_cohort").make_cohort(folder / "cohort", sibling("services", "page_runs"))
    operations.create_project(service, "myeloma", str(folder / "cohort"))
    operations.create_project(service, "lymphoma")
    sibling("e2e", "page_states").publish_report(cohort.store.url, folder / "trained")
    reindex(service, "myeloma")
    # After the catalogue was made: no page leads to it.
    cohort.store.put_run(sibling("e2e", "page_states").BROKEN_RUN, "start.json", b"[]")
    labels = {"admin": "Data office", "write": "extraction on node 3", "read": "dashboard of the ward"}
    keys = {
        scope: operations.make_key(service, "myeloma", label=label, scope=scope, expires_days=90).text
        for scope, label in labels.items()
    }
    lost = operations.make_key(service, "myeloma", label="laptop that was stolen", scope="read").row
    operations.revoke_key(service, "myeloma", lost.id)
    keys["guest"] = operations.make_key(service, "lymphoma", label="guest", scope="read").text
    operations.make_grant(service, "myeloma", "lymphoma", view=cohort.pooled)
    operations.make_grant(service, "myeloma", "lymphoma", snapshot=cohort.snapshot, expires_days=30)
    with sibling("services", "serving").running(service) as server:
        yield Site(server.url, service, keys, cohort.view, cohort.pooled, cohort.snapshot, cohort.withdrawn)


@contextmanager
def looking(browser, site, *, scheme="light", width=1280, scripts=True, key="admin", known=()):
    """A page of a browser that is logged in; whatever it asked of others, or complained of, fails the test."""
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}, "java_script_enabled": scripts}
    context = browser.new_context(**options)
    page, asked, complaints = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in {"error", "warning"} else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        if key is not None:
            page.goto(f"{site.url}/login")
            page.get_by_label("API key").fill(site.keys[key])
            page.get_by_role("button", name="Log in").click()
            page.wait_for_url(f"{site.url}/")
        yield page
        assert not [url for url in asked if not url.startswith((site.url, "data:image/"))]
        assert not [text for text in complaints if not any(one in text for one in (STATUS, *known))]
    finally:
        context.close()


def show(page, site, path):
    """Opens a page with its pictures, and gives its status."""
    return page.goto(f"{site.url}{path}", wait_until="load").status


def tab_to(page, wanted, *, most=400):
    """Presses Tab until something has the focus that fits; gives what has it."""
    for _ in range(most):
        page.keyboard.press("Tab")
        tag, ident, text, address = page.evaluate(NAMED)
        if re.search(wanted, f"{tag}#{ident} {text} {address}"):
            return text
    raise AssertionError(f"{wanted} was not reached by Tab")


@pytest.fixture(scope="module", params=SCHEMES)
def looked(browser, site, request, tmp_path_factory):
    """Every state at every width; the screenshots are for people."""
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415 - only this fixture needs it

    pages, axe, visits = sibling("e2e", "page_states"), Axe(), sibling("e2e", "page_states").Visits()
    states, folder = pages.states(site), tmp_path_factory.mktemp(f"pages-{request.param}")
    looked = pages.Looked([], {}, set())
    assert len({state.name for state in states}) == len(states)
    for key in {state.key: None for state in states}:
        with looking(browser, site, scheme=request.param, key=key, known=(INLINE,)) as page:
            page.on("response", visits.note)
            for state in [state for state in states if state.key == key]:
                visits.seen.clear()
                state.open(page)
                looked.statuses[state.name] = visits.seen[-1][2], state.status
                looked.routes |= pages.routes_of(visits)
                for summary in page.locator("summary").all():
                    summary.click()
                looked.seen += [pages.look(page, axe, state.name, width, folder) for width in WIDTHS]
    return looked


def test_every_state_of_a_page_has_its_status(looked):
    assert {name: was for name, (was, _) in looked.statuses.items()} == {
        name: wanted for name, (_, wanted) in looked.statuses.items()
    }
    assert {401, 403, 404, 405, 409, 410, 422, 500} <= {status for status, _ in looked.statuses.values()}


def test_every_page_of_the_router_is_among_the_states(looked):
    """A new page is looked at, or said to be a file."""
    assert looked.routes == sibling("e2e", "page_states").page_routes()


def test_what_is_said_to_be_a_file_is_none_that_a_browser_shows_as_a_page(browser, site):
    names = {"project": "myeloma", "view": site.view, "patient": "MM_0001", "modality": "PET", "roi": "spine_dilated"}
    names |= {"kind": "csv", "run": sibling("services", "page_runs").TRAINER_RUN, "name": "km.json"}
    with looking(browser, site) as page:
        for pattern, kind in sibling("e2e", "page_states").FILES.items():
            answer = page.request.get(f"{site.url}{pattern.format(**names)}")
            assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, kind), pattern


def test_axe_finds_nothing_in_any_state_of_any_page_at_any_width(looked):
    assert all(one.axe["testEngine"]["name"] == "axe-core" and one.axe["passes"] for one in looked.seen)
    assert {one.width for one in looked.seen} == set(WIDTHS)
    told = {
        (one.name, found["id"]): f"{one.name} at {one.width}: {found['id']}: {found['nodes'][0]['html']}"
        for one in looked.seen
        for found in one.axe["violations"]
    }
    assert not told


def test_pages_fit_their_window(looked):
    """Nothing scrolls sideways but tables and curves."""
    assert not [(one.name, one.width, one.scroll_width) for one in looked.seen if one.scroll_width != one.width]
    assert not [(one.name, one.width) for one in looked.seen if not all(one.pictures)]
    assert sum(len(one.pictures) for one in looked.seen)


def test_schemes_have_colours_of_their_own(browser, site):
    colours = set()
    for scheme in SCHEMES:
        with looking(browser, site, scheme=scheme) as page:
            colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


def test_every_page_is_reached_by_links_without_scripts(browser, site):
    """From the list of projects on; of each kind of page some."""
    seen, waiting, kinds = set(), ["/"], {}
    with looking(browser, site, scripts=False, known=(SANDBOXED,)) as page:
        while waiting:
            path = waiting.pop(0)
            status = show(page, site, path)
            # One snapshot names patients that were withdrawn later.
            assert status == 200 or (status == 410 and "/snapshots/" in path), path
            assert page.locator("h1").count() == 1, path
            for link in page.locator("main a[href], nav a[href]").all():
                address = link.get_attribute("href")
                kind = re.sub(r"MM_\d+|[0-9a-f]{16,64}|cv-[\w-]+|\d{8}T\w+-\w+|=.*", "*", address)
                if address in seen or address.startswith("#") or link.get_attribute("download") is not None:
                    continue
                kinds[kind] = kinds.get(kind, 0) + 1
                if kinds[kind] <= 4:
                    seen.add(address)
                    waiting.append(address)
    missing = [
        name
        for name, path in site.pages.items()
        if path not in seen and name not in {"entry-ct", "withdrawn", "forbidden"}
    ]
    assert not missing


def test_a_reader_without_scripts_filters_and_downloads(browser, site):
    with looking(browser, site, scripts=False, key="read") as page:
        page.goto(f"{site.url}{site.pages['view']}")
        page.get_by_label("Patient", exact=True).fill("MM_000*")
        page.get_by_label("Modality", exact=True).select_option("PET")
        page.get_by_role("button", name="Show").click()
        assert page.locator("tbody tr").count() == 9
        assert page.locator("thead th[scope=colgroup]").all_inner_texts() == ["PET"]
        with page.expect_download() as waiting:
            page.get_by_role("link", name="CSV").click()
        lines = Path(waiting.value.path()).read_text().splitlines()
        assert len(lines) == 1 + sum("MM_000" in line for line in lines)


def test_a_keyboard_is_enough(browser, site):
    """From the login to an entry and out again, by Tab and Enter alone; the focus is always seen."""
    with looking(browser, site, key=None) as page:
        page.goto(f"{site.url}{site.pages['view']}")
        page.keyboard.press("Tab")
        assert page.evaluate(NAMED)[2] == "Skip to the content"
        assert page.locator(".skip").bounding_box()["y"] >= 0
        page.keyboard.press("Enter")
        tab_to(page, "^INPUT#key")
        page.keyboard.type(site.keys["read"])
        page.keyboard.press("Enter")
        page.wait_for_url(f"{site.url}{site.pages['view']}")
        tab_to(page, "^A# commit 0 of MM_0003, PET spine_dilated")
        assert page.evaluate(OUTLINED)
        page.keyboard.press("Enter")
        page.wait_for_url("**/entries/MM_0003/PET/spine_dilated")
        tab_to(page, "^A# CT skeleton .*MM_0003")
        page.keyboard.press("Enter")
        page.wait_for_url("**/entries/MM_0003/CT/skeleton")
        tab_to(page, "^BUTTON# Log out")
        page.keyboard.press("Enter")
        page.wait_for_url(f"{site.url}/login")


def test_all_that_can_be_used_is_reached_by_tab_and_shows_its_focus(browser, site):
    with looking(browser, site) as page:
        for name, path in site.pages.items():
            show(page, site, path)
            page.evaluate("document.activeElement.blur()")
            for place in range(page.evaluate(FOCUSABLE)):
                page.keyboard.press("Tab")
                assert page.evaluate("document.activeElement !== document.body"), (name, place)
                assert page.evaluate(OUTLINED), (name, page.evaluate(NAMED))


def test_an_admin_without_scripts_makes_and_revokes_keys_and_grants(browser, site):
    with looking(browser, site, scripts=False) as page:
        page.goto(f"{site.url}{site.pages['keys']}")
        page.get_by_label("What it is for").fill("<b>dashboard</b> of ward 5")
        page.get_by_label("write").check()
        page.get_by_label("Days until it ends").fill("30")
        page.get_by_role("button", name="Make the key").click()
        shown = page.locator(".secret").inner_text()
        assert site.service.access.principal(shown).scope == "write"
        page.get_by_role("link", name="Back to the keys").click()
        assert shown not in page.content()
        row = page.locator("tr", has_text="<b>dashboard</b> of ward 5")
        row.locator("summary").click()
        row.get_by_role("button", name="Revoke for good").click()
        assert "revoked" in page.locator("tr", has_text="<b>dashboard</b> of ward 5").inner_text()
        page.get_by_role("link", name="Grants", exact=True).click()
        page.get_by_label("Project that may read").fill("lymphoma")
        page.get_by_label("View, as it is and will be").select_option(site.view)
        page.get_by_role("button", name="Grant", exact=True).click()
        row = page.locator("tr", has_text=site.view)
        assert "live" in row.inner_text()
        row.locator("summary").click()
        row.get_by_role("button", name="Revoke for good").click()
        assert "revoked" in page.locator("tr", has_text=site.view).inner_text()


def test_a_guest_sees_what_was_granted(browser, site):
    with looking(browser, site, scripts=False, key="guest") as page:
        page.get_by_role("link", name="myeloma").click()
        assert site.view not in [link.inner_text() for link in page.locator("main a").all()]
        page.get_by_role("link", name=site.snapshot[:12]).click()
        page.get_by_role("link", name="commit 2 of MM_0001, PET spine_dilated").click()
        assert page.locator("h1").inner_text().startswith("MM_0001")
        assert page.locator("img").count() == 3


def test_scripts_run_nowhere(browser, site):
    """Neither one that found its way into a page, nor that of a published report."""
    known = (SANDBOXED, INLINE)
    with looking(browser, site, key="read", known=known) as page:
        show(page, site, site.pages["project"])
        script = "Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'})"
        page.evaluate(f"document.body.append({script})")
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=data:, onerror=window.ran=1>')")
        page.wait_for_timeout(200)
        assert page.evaluate("window.ran") is None
        page.goto(f"{site.url}{site.pages['trainer']}")
        page.get_by_role("link", name="Open the published report").click()
        assert page.title() == "Report"
        assert page.evaluate("window.origin") == "null"


def test_a_page_prints_without_its_controls(browser, site, tmp_path):
    with looking(browser, site, scheme="dark") as page:
        for name in ("view", "entry", "trainer"):
            show(page, site, site.pages[name])
            data = page.pdf(path=tmp_path / f"{name}.pdf", format="A4")
            assert data.startswith(b"%PDF")
            page.emulate_media(media="print", color_scheme="dark")
            assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
            assert not page.get_by_role("button").all()
            page.screenshot(path=tmp_path / f"{name}-print.png", full_page=True)
            page.emulate_media(media="screen", color_scheme="dark")
