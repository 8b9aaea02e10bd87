"""Every page as markup: nothing hostile is more than text, nothing is asked of others, and every reader finds their way."""

from urllib.parse import urlencode

import pytest

from services.pages.answers import POLICY


def read_all(site):
    """Every page that is HTML, as an admin sees it, with the errors and the forms."""
    visitor = site.browser("admin")
    found = {
        path: visitor.get(path)
        for path in site.pages
        if ".png" not in path and "/report" not in path and ".json" not in path
    }
    more = [
        "/projects/nowhere",
        "/projects/owner/runs/none",
        site.entry.replace("MM_1", "MM_3"),
        "/nowhere",
        "/projects/owner/runs/extraction-2",
        f"/projects/owner/views/{site.view}?" + urlencode({"patient": site.evil, "modality": site.evil}),
        f"/projects/owner/views/{site.view}?patient=,",
        f"{site.entry}?commit=0",
        f"/projects/owner/views/{site.twin}/entries/MM_1/CT/spine",
        f"/projects/owner/views/{site.other}/entries/MM_1/CT/spine",
    ]
    found |= {path: visitor.get(path) for path in more}
    found["login"] = site.browser().get("/login?" + urlencode({"next": f"/projects/{site.evil}"}))
    found["bad login"] = site.browser().log_in(site.evil, going_to=f"/projects/{site.evil}")
    found["new key"] = visitor.submit("/projects/owner/keys", visitor.csrf(), label=site.evil, scope="read")
    return found


@pytest.fixture(scope="module")
def pages(site, parsed):
    return {path: (answer, parsed(answer.text)) for path, answer in read_all(site).items()}


def test_errors_say_what_they_are(pages):
    statuses = {path: answer.status_code for path, (answer, _) in pages.items() if answer.status_code >= 400}
    assert sorted(statuses.values()) == [401, 403, 404, 404, 410, 422, 500]
    for path in statuses:
        answer, found = pages[path]
        if answer.status_code not in {401, 422}:
            assert answer.headers["x-request-id"] in answer.text
            assert [one for one in found if one.tag == "h1"]


def test_hostile_texts_are_text(site, pages):
    shown = 0
    for path, (answer, found) in pages.items():
        assert "<script" not in answer.text.lower(), path
        assert not [one for one in found if one.tag in {"script", "style", "iframe", "object", "embed", "base"}], path
        for one in found:
            names = [name for name, _ in one.attributes]
            assert len(names) == len(set(names)), (path, one)
            assert not [name for name in names if name.startswith("on") or name == "style"], (path, one)
            assert one.tag != "img" or one.get("src").startswith("/projects/owner/views/"), (path, one)
        shown += sum(one.tag == "body" and site.evil in one.text for one in found)
    assert shown >= 6


def test_nothing_is_asked_of_another_host(pages):
    for path, (_, found) in pages.items():
        for one in found:
            for name in ("href", "src", "action", "formaction", "srcset", "data"):
                address = one.get(name)
                own = (
                    address is None
                    or (address.startswith("/") and not address.startswith("//"))
                    or address.startswith(("#", "data:image/"))
                )
                assert own, (path, one)


def test_headers_forbid_all_that_pages_do_not_need(site, pages):
    for path, (answer, _) in pages.items():
        assert answer.headers["content-security-policy"] == POLICY, path
        assert answer.headers["cache-control"] == "no-store", path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    for directive in (
        "default-src 'none'",
        "style-src 'self'",
        "img-src 'self' data:",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ):
        assert directive in POLICY
    assert "unsafe" not in POLICY


def test_pages_are_built_for_readers_of_every_kind(pages):
    for path, (_, found) in pages.items():
        tags = [one.tag for one in found]
        assert next(one for one in found if one.tag == "html").get("lang") == "en"
        assert tags.count("h1") == tags.count("main") == 1, path
        assert sum(one.tag == "title" and "head" in one.parents for one in found) == 1
        assert next(one for one in found if one.tag == "a").get("href") == "#main"
        levels = [int(one.tag[1]) for one in found if one.tag in {"h1", "h2", "h3", "h4"}]
        assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False)), (path, levels)
        ids = [one.get("id") for one in found if one.get("id")]
        assert len(ids) == len(set(ids)), path
        for one in found:
            if one.tag == "img":
                assert len(one.get("alt")) > 20
            if one.tag == "th":
                assert one.get("scope") in {"col", "row", "colgroup"}, (path, one)
            if one.tag in {"input", "select"} and one.get("type") != "hidden":
                assert [label for label in found if label.tag == "label" and label.get("for") == one.get("id")], (
                    path,
                    one,
                )
            for name in ("aria-labelledby", "aria-describedby"):
                assert set((one.get(name) or "").split()) <= set(ids), (path, one)
        assert tags.count("table") == tags.count("caption"), path


def test_links_lead_to_pages(site, pages):
    visitor, seen = site.browser("admin"), set()
    for path, (_, found) in pages.items():
        for one in found:
            address = one.get("href") if one.tag == "a" else None
            if not address or address.startswith("#") or address in seen:
                continue
            seen.add(address)
            known = {410, 500} if address.endswith(("/MM_3/CT/spine", "/runs/extraction-2")) else {200}
            assert visitor.get(address).status_code in known or "script" in address, (path, address)
    assert len(seen) > 20
