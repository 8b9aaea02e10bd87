"""What a form of the pages must prove before it changes keys and grants, and what comes back."""

import importlib.util
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from services import operations
from services.database.models import AuditRow, Grant


def sibling(name):
    spec = importlib.util.spec_from_file_location(f"engram_services_{name}", Path(__file__).with_name(f"{name}.py"))
    if spec.name not in sys.modules:
        sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[spec.name]


pages_of = sibling("page_world")
BASE, EVIL, client, csrf = pages_of.BASE, pages_of.EVIL, pages_of.client, pages_of.csrf
make_world, parsed, send = pages_of.make_world, pages_of.parsed, pages_of.send


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


def forms(world):
    """Every form that changes something, with fields that are good."""
    return {
        "/projects/owner/keys": {"label": "new", "scope": "read", "days": ""},
        f"/projects/owner/keys/{world.keys['write'].split('_')[1]}/revoke": {},
        "/projects/owner/grants": {"grantee": "stranger", "view": world.view, "snapshot": "", "days": "3"},
        f"/projects/owner/grants/{world.grants['viewer']}/revoke": {},
        "/logout": {},
    }


def state(world):
    keys = [(row.id, row.revoked_at) for row in operations.keys_of(world.service, "owner")]
    return keys, [(row.id, row.revoked_at) for row in operations.grants_of(world.service, "owner")]


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "https://evil.example",
        "http://testserver.evil.example",
        "http://testserver:81",
        "file://",
        "http://[",
    ],
)
def test_a_form_from_another_site_does_nothing(shared, origin):
    visitor = client(shared, "admin")
    token, before = csrf(visitor), state(shared)
    for path, fields in forms(shared).items():
        assert send(visitor, path, token, origin=origin, **fields).status_code == 403, path
    assert send(client(shared), "/login", origin=origin, key=shared.keys["read"]).status_code == 403
    assert state(shared) == before
    assert visitor.get("/").status_code == 200


@pytest.mark.parametrize("token", [None, "", "0" * 64, "é", "another's"])
def test_a_form_of_another_session_does_nothing(shared, token):
    visitor, before = client(shared, "admin"), state(shared)
    if token == "another's":
        token = csrf(client(shared, "admin"))
    for path, fields in forms(shared).items():
        assert send(visitor, path, token, **fields).status_code == 403, path
    assert state(shared) == before


def test_forms_that_are_none_are_refused(shared):
    visitor = client(shared, "admin")
    own = {"origin": BASE}
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert (
        visitor.post(
            "/projects/owner/keys", content=b"{}", headers=own | {"content-type": "application/json"}
        ).status_code
        == 415
    )
    assert visitor.post("/projects/owner/keys", content=b"a" * 20_000, headers=own | kind).status_code == 413
    assert visitor.post("/projects/owner/keys", content=b"&".join([b"a=1"] * 50), headers=own | kind).status_code == 422
    assert visitor.post("/projects/owner/keys", content=b"\xff=\xfe", headers=own | kind).status_code == 422


def test_admins_alone_change_keys_and_grants(shared):
    for who in ("read", "write", "viewer", "stranger"):
        visitor, before = client(shared, who), state(shared)
        token = csrf(visitor)
        for path, fields in forms(shared).items():
            if path != "/logout":
                assert send(visitor, path, token, **fields).status_code == 403, (who, path)
        assert state(shared) == before


def test_a_new_key_is_shown_once(own):
    visitor = client(own, "admin")
    answer = send(visitor, "/projects/owner/keys", csrf(visitor), label=f"for {EVIL}", scope="write", days="30")
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    (shown,) = [one.text for one in parsed(answer.text) if one.get("class") == "secret"]
    assert own.service.access.principal(shown).scope == "write"
    assert shown not in visitor.get("/projects/owner/keys").text
    row = operations.keys_of(own.service, "owner")[-1]
    assert (row.label, row.created_by) == (f"for {EVIL}", own.keys["admin"].split("_")[1])
    assert abs(row.expires_at - row.created_at - timedelta(days=30)) < timedelta(seconds=1)
    acts = own.service.database.read(
        lambda session: session.scalars(select(AuditRow).where(AuditRow.action == "key")).all()
    )
    assert acts[-1].request_id == answer.headers["x-request-id"]


def test_a_key_is_revoked_by_its_form(own):
    visitor = client(own, "admin")
    key_id = own.keys["write"].split("_")[1]
    answer = send(visitor, f"/projects/owner/keys/{key_id}/revoke", csrf(visitor))
    assert (answer.status_code, answer.headers["location"]) == (303, "/projects/owner/keys")
    assert {row.id: row.revoked_at is not None for row in operations.keys_of(own.service, "owner")}[key_id]
    assert "revoked" in visitor.get("/projects/owner/keys").text


def test_a_grant_is_made_and_revoked_by_its_form(own):
    visitor, guest = client(own, "admin"), client(own, "stranger")
    page = f"/projects/owner/views/{own.view}"
    assert guest.get(page).status_code == 403
    answer = send(
        visitor, "/projects/owner/grants", csrf(visitor), grantee="stranger", view=own.view, snapshot="", days="2"
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/projects/owner/grants")
    assert guest.get(page).status_code == 200
    assert own.view in client(own, "stranger").get("/projects/stranger/grants").text
    (row,) = own.service.database.read(
        lambda session: session.scalars(select(Grant).where(Grant.grantee == "stranger")).all()
    )
    assert send(visitor, f"/projects/owner/grants/{row.id}/revoke", csrf(visitor)).status_code == 303
    assert guest.get(page).status_code == 403


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/projects/owner/keys", {"label": "", "scope": "read"}),
        ("/projects/owner/keys", {"label": EVIL, "scope": "root"}),
        ("/projects/owner/keys", {"label": EVIL, "scope": "read", "days": "many"}),
        ("/projects/owner/keys", {"label": EVIL, "scope": "read", "days": "nan"}),
        ("/projects/owner/keys", {"label": EVIL, "scope": "read", "days": "-1"}),
        ("/projects/owner/keys", {"label": "a\nb", "scope": "read"}),
        ("/projects/owner/grants", {"grantee": EVIL, "view": "x"}),
        ("/projects/owner/grants", {"grantee": "nobody", "view": "VIEW"}),
        ("/projects/owner/grants", {"grantee": "stranger", "view": EVIL}),
        ("/projects/owner/grants", {"grantee": "stranger", "snapshot": EVIL}),
        ("/projects/owner/grants", {"grantee": "stranger", "view": "VIEW", "snapshot": "0" * 64}),
        ("/projects/owner/grants", {"grantee": "stranger"}),
    ],
)
def test_a_wrong_form_comes_back_with_what_was_typed_and_what_is_wrong(shared, path, fields):
    visitor, before = client(shared, "admin"), state(shared)
    fields = {name: value.replace("VIEW", shared.view) for name, value in fields.items()}
    answer = send(visitor, path, csrf(visitor), **fields)
    assert answer.status_code in {404, 422}
    found = parsed(answer.text)
    assert [one for one in found if one.get("role") == "alert"]
    typed = {one.get("name"): one.get("value") for one in found if one.tag == "input" and one.get("type") == "text"}
    assert all(typed[name] == value for name, value in fields.items() if name in {"label", "grantee", "snapshot"})
    assert not [one for one in found if one.tag == "script"]
    assert state(shared) == before
