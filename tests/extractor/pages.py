"""Reads pages as a browser would, for tests: pictures, headings, controls, and what they fetch."""

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "input", "br", "link", "hr"}


class Page(HTMLParser):
    """What a page holds."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.images: list[dict[str, str]] = []
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.labelled: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(given)
        if tag in {"h1", "h2", "h3"}:
            self.headings.append(int(tag[1]))
        self.ids += [given["id"]] if "id" in given else []
        self.labelled += given.get("aria-labelledby", "").split()
        self.fetched += [given[name] for name in ("src", "href", "srcset") if name in given]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def check_alone_and_accessible(page: Page) -> None:
    """Nothing comes from elsewhere; every picture is described; headings and labels lead somewhere."""
    assert [one[:60] for one in page.fetched if not one.startswith(("data:image/", "#", "page"))] == []
    assert all("alt" in image for image in page.images)
    assert all(image["width"] and image["height"] for image in page.images)
    assert page.headings[0] == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert len(set(page.ids)) == len(page.ids)
    assert set(page.labelled) <= set(page.ids)
