"""The trainer's pages in a real Chromium that is offline: light and dark, narrow and wide, on paper, checked by axe-core."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = (
    "searched",
    "study",
    "validation",
    "explanation",
    "robustness",
    "robustness-of-folds",
    "quality",
    "trust",
    "controls",
)
LINKING = ("study", "trust")
"""Pages that lead to others beside them."""
SCHEMES, WIDTHS = ("light", "dark"), (320, 1280)
PAPER = {"width": 718, "height": 1047}
"""What A4 leaves between margins of 10 mm, in CSS pixels."""
MARGINS = dict.fromkeys(("top", "bottom", "left", "right"), "10mm")
pytestmark = pytest.mark.timeout(1800)
INK, WHITE = "rgb(27, 31, 36)", "rgb(254, 254, 254)"
OPENED = "document.querySelectorAll('details').forEach(one => one.open = true)"
BEYOND = """() => [...document.querySelectorAll("body *")]
  .filter(one => !one.closest("svg *") && !one.parentElement.closest(".scroll, pre"))
  .filter(one => one.getBoundingClientRect().right > innerWidth + 1)
  .map(one => one.outerHTML.slice(0, 80))"""
"""What lies to the right of the window and in nothing that scrolls by itself."""
SCROLLED = """() => [...document.querySelectorAll("*")]
  .filter(one => one.scrollWidth > one.clientWidth + 1 && ["auto", "scroll"].includes(getComputedStyle(one).overflowX))
  .map(one => [one.tagName, ...[...one.children].map(child => child.tagName)].join(" "))"""
CUT = """height => [...document.querySelectorAll("figure")].map(one => [one, one.getBoundingClientRect()])
  .filter(([one, box]) => box.right > innerWidth + 1 || box.height > height || getComputedStyle(one).breakInside !== "avoid")
  .map(([one]) => one.className)"""
"""Figures that paper would cut: too wide, too high for a page, or free to be broken."""
TELLS = """one => one.getAttribute("aria-labelledby").split(" ").map(id => document.getElementById(id).textContent.trim())"""
COLOURS = """() => [...document.querySelectorAll("svg text, td, th, figcaption, p, li")]
  .map(one => getComputedStyle(one)[one.tagName === "text" ? "fill" : "color"])"""


@pytest.fixture(scope="module")
def pages(load, browser, tmp_path_factory):
    """Addresses of the pages of real runs; none are made where there is no browser to look at them."""
    helpers = load("trainer", "conftest"), load("trainer", "occluded_help"), load("trainer", "trust_help")
    made = load("e2e", "report_runs").make_pages(tmp_path_factory.mktemp("pages") / "runs", *helpers)
    return {name: path.as_uri() for name, path in made.items()}


@contextmanager
def looking(browser, url, *, scheme="light", size=(1280, 900)):
    """A page with everything in it unfolded, in a browser without network; what it asked for or complained of fails the test."""
    viewport = {"width": size[0], "height": size[1]}
    context = browser.new_context(color_scheme=scheme, viewport=viewport, offline=True)
    page, asked, complaints = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        page.goto(url, wait_until="load")
        page.evaluate(OPENED)
        yield page
        assert asked == [url]
        assert complaints == []
    finally:
        context.close()


def alpha_free(colour):
    """Red, green and blue of a computed colour."""
    return tuple(map(float, colour[colour.index("(") + 1 : -1].split(",")[:3]))


def luminance(colour):
    """Relative luminance of WCAG 2.2: 0 is black, 1 white."""
    parts = (value / 255 for value in alpha_free(colour))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_one_file_that_opens_offline_and_asks_for_nothing(browser, pages, name, tmp_path):
    shutil.copy(pages[name].removeprefix("file://"), tmp_path / "alone.html")
    with looking(browser, (tmp_path / "alone.html").as_uri()) as page:
        assert page.locator("figure svg").count() >= (0 if name == "trust" else 5)
        assert page.locator("table").count() >= 4
        assert page.locator("script, link, iframe, img, object, embed").count() == 0
        for link in page.locator("a").all():
            address = link.get_attribute("href")
            if name in LINKING and not address.startswith("#"):
                assert (Path(pages[name].removeprefix("file://")).parent / address).is_file()
            else:
                assert address.startswith("#")
                assert page.locator(address).count() == 1


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_axe_finds_nothing_and_nothing_scrolls_sideways_but_tables_and_figures(
    browser, pages, name, width, scheme, tmp_path
):
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415 - only this test needs it

    with looking(browser, pages[name], scheme=scheme, size=(width, 900)) as page:
        page.screenshot(path=tmp_path / f"{name}-{scheme}-{width}.png", full_page=True)
        found = Axe().run(page).response
        assert found["testEngine"]["name"] == "axe-core"
        assert len(found["passes"]) > 10
        assert not [f"{one['id']}: {one['nodes'][0]['html']}" for one in found["violations"]]
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(BEYOND) == []
        assert set(page.evaluate(SCROLLED)) <= {"DIV TABLE", "DIV svg", "PRE"}


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_a_text_in_its_place(browser, pages, name):
    with looking(browser, pages[name]) as page:
        figures = page.locator("figure svg")
        assert page.get_by_role("img").count() == figures.count() == page.locator("figure").count()
        for figure in figures.all():
            title, description = figure.evaluate(TELLS)
            assert title == figure.locator("xpath=ancestor::figure").locator("figcaption").inner_text().strip()
            assert len(description) > 15
            assert any(letter.isdigit() for letter in description)


@pytest.mark.parametrize("name", NAMES)
def test_schemes_have_colours_of_their_own_also_in_figures(browser, pages, name):
    seen = {}
    for scheme in SCHEMES:
        with looking(browser, pages[name], scheme=scheme) as page:
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            seen[scheme] = (paper, set(page.evaluate(COLOURS)))
    assert luminance(seen["light"][0]) > 0.9
    assert luminance(seen["dark"][0]) < 0.05
    for paper, colours in seen.values():
        for colour in colours:
            low, high = sorted((luminance(colour), luminance(paper)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, colour


@pytest.mark.parametrize("name", NAMES)
def test_a_page_prints_dark_ink_on_white_and_cuts_no_figure(browser, pages, name, tmp_path):
    with looking(browser, pages[name], scheme="dark", size=tuple(PAPER.values())) as page:
        data = page.pdf(path=tmp_path / f"{name}.pdf", format="A4", margin=MARGINS)
        assert data.startswith(b"%PDF")
        page.emulate_media(media="print", color_scheme="dark")
        page.screenshot(path=tmp_path / f"{name}-print.png", full_page=True)
        body = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
        assert body == [INK, WHITE]
        assert all((1.05) / (luminance(colour) + 0.05) >= 4.5 for colour in set(page.evaluate(COLOURS)))
        assert page.evaluate(CUT, PAPER["height"]) == []
        assert page.evaluate("document.documentElement.scrollWidth") == PAPER["width"]
        assert page.evaluate(SCROLLED) == []
        assert not page.locator("nav").is_visible()
