"""Who sees which page, and how a session begins and ends."""

import importlib.util
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from services import operations
from services.database.models import AuditRow, PageSession
from services.keys import digest
from services.pages.answers import safe_next
from services.pages.sessions import COOKIE, SECURE_COOKIE, SESSION_H


def sibling(name):
    spec = importlib.util.spec_from_file_location(f"engram_services_{name}", Path(__file__).with_name(f"{name}.py"))
    if spec.name not in sys.modules:
        sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[spec.name]


pages_of = sibling("page_world")
BASE, EVIL, HTML, client = pages_of.BASE, pages_of.EVIL, pages_of.HTML, pages_of.client
csrf, log_in, make_world, parsed = pages_of.csrf, pages_of.log_in, pages_of.make_world, pages_of.parsed
send = pages_of.send


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    world = make_world(tmp_path_factory.mktemp("pages"))
    yield world
    world.service.close()


@pytest.fixture
def own(tmp_path):
    """A world that a test may change."""
    world = make_world(tmp_path)
    yield world
    world.service.close()


def test_who_is_not_logged_in_is_sent_to_the_login_and_back(shared):
    visitor = client(shared)
    for path in shared.pages:
        answer = visitor.get(f"{path}?commit=0")
        assert answer.status_code == 303, path
        back = "" if path == "/" else "?" + urlencode({"next": f"{path}?commit=0"})
        assert answer.headers["location"] == f"/login{back}", path
    assert visitor.post("/projects/owner/keys", headers={"origin": BASE}).headers["location"] == "/login"
    assert visitor.get(shared.entry, headers={"accept": "image/png"}).status_code == 401


def test_the_login_leads_where_one_wanted_to_go(shared):
    visitor = client(shared)
    form = [
        one.get("value") for one in parsed(visitor.get("/login?next=/projects/owner").text) if one.get("name") == "next"
    ]
    assert form == ["/projects/owner"]
    answer = log_in(visitor, shared.keys["read"], going_to="/projects/owner?runs=x")
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
def test_the_login_leads_nowhere_else(shared, address):
    assert safe_next(address) == "/"
    assert log_in(client(shared), shared.keys["read"], going_to=address).headers["location"] == "/"


@pytest.mark.parametrize("who", ["read", "write", "admin"])
def test_keys_of_the_project_see_its_pages(shared, who):
    visitor = client(shared, who)
    for path, needed in shared.pages.items():
        allowed = needed == "read" or who == "admin"
        assert visitor.get(path).status_code == (200 if allowed else 403), path


def test_keys_of_another_project_see_nothing(shared):
    visitor = client(shared, "stranger")
    for path in shared.pages:
        answer = visitor.get(path)
        if path == "/":
            assert "owner" not in answer.text
            continue
        assert answer.status_code == 403, path
        assert visitor.get(path.replace("owner", "nowhere")).status_code == 403, path
        for name in ("MM_1", shared.view, shared.snapshot[:12]):
            assert name not in answer.text


def test_a_granted_view_shows_that_view_alone(shared):
    visitor = client(shared, "viewer")
    page = visitor.get("/projects/owner").text
    assert shared.twin in page
    for name in (shared.view, shared.other, "cv-1", shared.snapshot[:12], 'href="/projects/owner/keys"'):
        assert name not in page, name
    assert visitor.get(f"/projects/owner/views/{shared.twin}").status_code == 200
    assert visitor.get(f"/projects/owner/views/{shared.twin}/entries.csv").status_code == 200
    for path in shared.pages:
        if path not in {"/", "/projects/owner"}:
            assert visitor.get(path).status_code == 403, path


def test_pictures_of_another_view_are_not_shown_to_whom_it_was_not_granted(shared):
    entry = f"/projects/owner/views/{shared.twin}/entries/MM_1/CT/spine"
    mine, theirs = client(shared, "read").get(entry), client(shared, "viewer").get(entry)
    assert f"/views/{shared.view}/" in mine.text
    assert "mask.png" in mine.text
    assert theirs.status_code == 200
    assert shared.view not in theirs.text
    assert "mask.png" not in theirs.text


def test_a_granted_snapshot_shows_what_it_pins_alone(shared):
    visitor = client(shared, "pinner")
    page = visitor.get("/projects/owner").text
    assert shared.snapshot[:12] in page
    assert f'href="/projects/owner/views/{shared.view}"' not in page
    snapshot = visitor.get(f"/projects/owner/snapshots/{shared.snapshot}").text
    assert "MM_1" in snapshot
    assert "MM_2" not in snapshot
    assert visitor.get(f"{shared.entry}?commit=0").status_code == 200
    assert "Commit 0" in visitor.get(shared.entry).text
    assert visitor.get(f"{shared.entry}/mask.png").status_code == 200
    assert visitor.get(f"{shared.entry}?commit=1").status_code == 404
    for path in (
        f"/projects/owner/views/{shared.view}",
        shared.entry.replace("MM_1", "MM_2"),
        "/projects/owner/runs/cv-1",
        f"/projects/owner/views/{shared.view}/entries.json",
    ):
        assert visitor.get(path).status_code == 403, path


def test_a_revoked_grant_shows_nothing(own):
    visitor = client(own, "viewer")
    page = f"/projects/owner/views/{own.twin}"
    assert visitor.get(page).status_code == 200
    operations.revoke_grant(own.service, "owner", own.grants["viewer"])
    assert visitor.get(page).status_code == 403


# Sessions


def test_the_cookie_is_for_this_site_and_no_script(shared):
    cookie = log_in(client(shared), shared.keys["read"]).headers["set-cookie"]
    name, _, rest = cookie.partition("=")
    assert name == COOKIE
    parts = {part.strip().lower() for part in rest.split(";")[1:]}
    assert parts == {"httponly", "samesite=strict", "path=/", f"max-age={SESSION_H * 3600}"}


def test_over_https_the_cookie_is_for_https_alone(tmp_path):
    world = make_world(tmp_path, public_url="https://store.example")
    cookie = log_in(
        client(world, base="https://store.example"), world.keys["read"], base="https://store.example"
    ).headers["set-cookie"]
    assert cookie.startswith(f"{SECURE_COOKIE}=")
    assert "; Secure" in cookie
    assert log_in(client(world), world.keys["read"], base="https://store.example").status_code == 303


def test_what_is_kept_of_a_session_opens_nothing(own):
    visitor = client(own, "read")
    token = visitor.cookies[COOKIE]
    row = own.service.database.read(lambda session: session.scalars(select(PageSession)).one())
    assert row.token_sha256 == digest(token)
    assert timedelta(hours=SESSION_H - 1) < row.expires_at - datetime.now(UTC) <= timedelta(hours=SESSION_H)
    visitor.cookies.set(COOKIE, row.token_sha256, domain="testserver.local")
    assert (
        TestClient(visitor.app, base_url=BASE, headers=HTML, cookies={COOKIE: row.token_sha256})
        .get("/", follow_redirects=False)
        .status_code
        == 303
    )


def test_logging_out_ends_the_session_itself(own):
    visitor = client(own, "read")
    token = visitor.cookies[COOKIE]
    answer = send(visitor, "/logout", csrf(visitor))
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert 'engram_session=""' in answer.headers["set-cookie"]
    assert "max-age=0" in answer.headers["set-cookie"].lower()
    assert (
        TestClient(visitor.app, base_url=BASE, headers=HTML, cookies={COOKIE: token})
        .get("/", follow_redirects=False)
        .status_code
        == 303
    )


def test_a_session_ends_with_its_time_and_with_its_key(own):
    visitor = client(own, "read")
    assert visitor.get("/").status_code == 200
    operations.revoke_key(own.service, "owner", own.keys["read"].split("_")[1])
    assert visitor.get("/").status_code == 303
    visitor = client(own, "write")
    past = datetime.now(UTC) - timedelta(seconds=1)
    own.service.database.run(lambda session: session.execute(update(PageSession).values(expires_at=past)))
    assert visitor.get("/").status_code == 303
    client(own, "admin")
    assert len(own.service.database.read(lambda session: session.scalars(select(PageSession)).all())) == 1


@pytest.mark.parametrize("key", ["", "engram_", "x" * 5000, "engram_000000000000_" + "A" * 43, EVIL])
def test_a_bad_key_opens_no_session(own, key):
    answer = log_in(client(own), key)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert 'role="alert"' in answer.text
    own.service.audit.flush()
    rows = own.service.database.read(lambda session: session.scalars(select(AuditRow)).all())
    assert ("login", "denied") in {(row.action, row.outcome) for row in rows}
