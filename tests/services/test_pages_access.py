"""Who sees which page, and how a session begins and ends."""

from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from sqlalchemy import select, update

from services import operations
from services.database.models import AuditRow, PageSession
from services.keys import digest
from services.pages.answers import safe_next
from services.pages.sessions import COOKIE, SECURE_COOKIE, SESSION_H
from services.settings import Settings


def test_who_is_not_logged_in_is_sent_to_the_login_and_back(site):
    visitor = site.browser()
    for path in site.pages:
        answer = visitor.get(f"{path}?commit=0")
        assert answer.status_code == 303, path
        back = "" if path == "/" else "?" + urlencode({"next": f"{path}?commit=0"})
        assert answer.headers["location"] == f"/login{back}", path
    assert visitor.post("/projects/owner/keys", headers={"origin": visitor.origin}).headers["location"] == "/login"
    assert visitor.get(site.entry, headers={"accept": "image/png"}).status_code == 401


def test_the_login_leads_where_one_wanted_to_go(site, parsed):
    visitor = site.browser()
    form = [
        one.get("value") for one in parsed(visitor.get("/login?next=/projects/owner").text) if one.get("name") == "next"
    ]
    assert form == ["/projects/owner"]
    answer = visitor.log_in(site.keys["read"], going_to="/projects/owner?runs=x")
    assert (answer.status_code, answer.headers["location"]) == (303, "/projects/owner?runs=x")


@pytest.mark.parametrize(
    "address",
    [
        "//evil.example/",
        "https://evil.example/",
        "/\\evil.example",
        "/\t/evil.example",
        "evil",
        "",
        "/login",
        "/logout",
        "/v1/projects",
        "javascript:alert(1)",
        "/projects/\nx",
        "/static/style.css",
        "/projects" + "x" * 2000,
        "///evil.example",
        "/projects\x00",
    ],
)
def test_the_login_leads_nowhere_else(site, address):
    assert safe_next(address) == "/"
    assert site.browser().log_in(site.keys["read"], going_to=address).headers["location"] == "/"


@pytest.mark.parametrize("who", ["read", "write", "admin"])
def test_keys_of_the_project_see_its_pages(site, who):
    visitor = site.browser(who)
    for path, needed in site.pages.items():
        allowed = needed == "read" or who == "admin"
        assert visitor.get(path).status_code == (200 if allowed else 403), path


def test_keys_of_another_project_see_nothing(site):
    visitor = site.browser("stranger")
    for path in site.pages:
        answer = visitor.get(path)
        if path == "/":
            assert "owner" not in answer.text
            continue
        assert answer.status_code == 403, path
        assert visitor.get(path.replace("owner", "nowhere")).status_code == 403, path
        for name in ("MM_1", site.view, site.snapshot[:12]):
            assert name not in answer.text


def test_a_granted_view_shows_that_view_alone(site):
    visitor = site.browser("viewer")
    page = visitor.get("/projects/owner").text
    assert site.twin in page
    for name in (site.view, site.other, "cv-1", site.snapshot[:12], 'href="/projects/owner/keys"'):
        assert name not in page, name
    assert visitor.get(f"/projects/owner/views/{site.twin}").status_code == 200
    assert visitor.get(f"/projects/owner/views/{site.twin}/entries.csv").status_code == 200
    for path in site.pages:
        if path not in {"/", "/projects/owner"}:
            assert visitor.get(path).status_code == 403, path


def test_pictures_of_another_view_are_not_shown_to_whom_it_was_not_granted(site):
    entry = f"/projects/owner/views/{site.twin}/entries/MM_1/CT/spine"
    mine, theirs = site.browser("read").get(entry), site.browser("viewer").get(entry)
    assert f"/views/{site.view}/" in mine.text
    assert "mask.png" in mine.text
    assert theirs.status_code == 200
    assert site.view not in theirs.text
    assert "mask.png" not in theirs.text


def test_a_granted_snapshot_shows_what_it_pins_alone(site):
    visitor = site.browser("pinner")
    page = visitor.get("/projects/owner").text
    assert site.snapshot[:12] in page
    assert f'href="/projects/owner/views/{site.view}"' not in page
    snapshot = visitor.get(f"/projects/owner/snapshots/{site.snapshot}").text
    assert "MM_1" in snapshot
    assert "MM_2" not in snapshot
    assert visitor.get(f"{site.entry}?commit=0").status_code == 200
    assert "Commit 0" in visitor.get(site.entry).text
    assert visitor.get(f"{site.entry}/mask.png").status_code == 200
    assert visitor.get(f"{site.entry}?commit=1").status_code == 404
    for path in (
        f"/projects/owner/views/{site.view}",
        site.entry.replace("MM_1", "MM_2"),
        "/projects/owner/runs/cv-1",
        f"/projects/owner/views/{site.view}/entries.json",
    ):
        assert visitor.get(path).status_code == 403, path


def test_a_revoked_grant_shows_nothing(own_site):
    visitor = own_site.browser("viewer")
    page = f"/projects/owner/views/{own_site.twin}"
    assert visitor.get(page).status_code == 200
    operations.revoke_grant(own_site.service, "owner", own_site.grants["viewer"])
    assert visitor.get(page).status_code == 403


# Sessions


def test_the_cookie_is_for_this_site_and_no_script(site):
    cookie = site.browser().log_in(site.keys["read"]).headers["set-cookie"]
    name, _, rest = cookie.partition("=")
    assert name == COOKIE
    parts = {part.strip().lower() for part in rest.split(";")[1:]}
    assert parts == {"httponly", "samesite=strict", "path=/", f"max-age={SESSION_H * 3600}"}


def test_over_https_the_cookie_is_for_https_alone(open_site, tmp_path):
    public = "https://store.example"
    with open_site(Settings(data=tmp_path, reconcile_s=0, public_url=public)) as site:
        cookie = site.browser(base=public).log_in(site.keys["read"], origin=public).headers["set-cookie"]
        assert cookie.startswith(f"{SECURE_COOKIE}=")
        assert "; Secure" in cookie
        assert site.browser().log_in(site.keys["read"], origin=public).status_code == 303


def test_what_is_kept_of_a_session_opens_nothing(own_site):
    visitor = own_site.browser("read")
    token = visitor.cookies[COOKIE]
    row = own_site.service.database.read(lambda session: session.scalars(select(PageSession)).one())
    assert row.token_sha256 == digest(token)
    assert timedelta(hours=SESSION_H - 1) < row.expires_at - datetime.now(UTC) <= timedelta(hours=SESSION_H)
    visitor.cookies.set(COOKIE, row.token_sha256, domain="testserver.local")
    assert own_site.browser(cookies={COOKIE: row.token_sha256}).get("/").status_code == 303


def test_logging_out_ends_the_session_itself(own_site):
    visitor = own_site.browser("read")
    token = visitor.cookies[COOKIE]
    answer = visitor.submit("/logout", visitor.csrf())
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert 'engram_session=""' in answer.headers["set-cookie"]
    assert "max-age=0" in answer.headers["set-cookie"].lower()
    assert own_site.browser(cookies={COOKIE: token}).get("/").status_code == 303


def test_a_session_ends_with_its_time_and_with_its_key(own_site):
    visitor = own_site.browser("read")
    assert visitor.get("/").status_code == 200
    operations.revoke_key(own_site.service, "owner", own_site.keys["read"].split("_")[1])
    assert visitor.get("/").status_code == 303
    visitor = own_site.browser("write")
    past = datetime.now(UTC) - timedelta(seconds=1)
    own_site.service.database.run(lambda session: session.execute(update(PageSession).values(expires_at=past)))
    assert visitor.get("/").status_code == 303
    own_site.browser("admin")
    assert len(own_site.service.database.read(lambda session: session.scalars(select(PageSession)).all())) == 1


@pytest.mark.parametrize("key", ["", "engram_", "x" * 5000, "engram_000000000000_" + "A" * 43, "EVIL"])
def test_a_bad_key_opens_no_session(own_site, key):
    answer = own_site.browser().log_in(key.replace("EVIL", own_site.evil))
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert 'role="alert"' in answer.text
    own_site.service.audit.flush()
    rows = own_site.service.database.read(lambda session: session.scalars(select(AuditRow)).all())
    assert ("login", "denied") in {(row.action, row.outcome) for row in rows}
