"""What a form of the pages must prove before it changes keys and grants, and what comes back."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from services import operations
from services.database.models import AuditRow, Grant


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
def test_a_form_from_another_site_does_nothing(site, origin):
    visitor = site.browser("admin")
    token, before = visitor.csrf(), state(site)
    for path, fields in forms(site).items():
        assert visitor.submit(path, token, origin=origin, **fields).status_code == 403, path
    assert site.browser().submit("/login", origin=origin, key=site.keys["read"]).status_code == 403
    assert state(site) == before
    assert visitor.get("/").status_code == 200


@pytest.mark.parametrize("token", [None, "", "0" * 64, "é", "another's"])
def test_a_form_of_another_session_does_nothing(site, token):
    visitor, before = site.browser("admin"), state(site)
    if token == "another's":
        token = site.browser("admin").csrf()
    for path, fields in forms(site).items():
        assert visitor.submit(path, token, **fields).status_code == 403, path
    assert state(site) == before


def test_forms_that_are_none_are_refused(site):
    visitor = site.browser("admin")
    own = {"origin": visitor.origin}
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


def test_admins_alone_change_keys_and_grants(site):
    for who in ("read", "write", "viewer", "stranger"):
        visitor, before = site.browser(who), state(site)
        token = visitor.csrf()
        for path, fields in forms(site).items():
            if path != "/logout":
                assert visitor.submit(path, token, **fields).status_code == 403, (who, path)
        assert state(site) == before


def test_a_new_key_is_shown_once(own_site, parsed):
    visitor = own_site.browser("admin")
    answer = visitor.submit(
        "/projects/owner/keys", visitor.csrf(), label=f"for {own_site.evil}", scope="write", days="30"
    )
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    (shown,) = [one.text for one in parsed(answer.text) if one.get("class") == "secret"]
    assert own_site.service.access.principal(shown).scope == "write"
    assert shown not in visitor.get("/projects/owner/keys").text
    row = operations.keys_of(own_site.service, "owner")[-1]
    assert (row.label, row.created_by) == (f"for {own_site.evil}", own_site.keys["admin"].split("_")[1])
    assert abs(row.expires_at - row.created_at - timedelta(days=30)) < timedelta(seconds=1)
    acts = own_site.service.database.read(
        lambda session: session.scalars(select(AuditRow).where(AuditRow.action == "key")).all()
    )
    assert acts[-1].request_id == answer.headers["x-request-id"]


def test_a_key_is_revoked_by_its_form(own_site):
    visitor = own_site.browser("admin")
    key_id = own_site.keys["write"].split("_")[1]
    answer = visitor.submit(f"/projects/owner/keys/{key_id}/revoke", visitor.csrf())
    assert (answer.status_code, answer.headers["location"]) == (303, "/projects/owner/keys")
    assert {row.id: row.revoked_at is not None for row in operations.keys_of(own_site.service, "owner")}[key_id]
    assert "revoked" in visitor.get("/projects/owner/keys").text


def test_a_grant_is_made_and_revoked_by_its_form(own_site):
    visitor, guest = own_site.browser("admin"), own_site.browser("stranger")
    page = f"/projects/owner/views/{own_site.view}"
    assert guest.get(page).status_code == 403
    fields = {"grantee": "stranger", "view": own_site.view, "snapshot": "", "days": "2"}
    answer = visitor.submit("/projects/owner/grants", visitor.csrf(), **fields)
    assert (answer.status_code, answer.headers["location"]) == (303, "/projects/owner/grants")
    assert guest.get(page).status_code == 200
    assert own_site.view in own_site.browser("stranger").get("/projects/stranger/grants").text
    (row,) = own_site.service.database.read(
        lambda session: session.scalars(select(Grant).where(Grant.grantee == "stranger")).all()
    )
    assert visitor.submit(f"/projects/owner/grants/{row.id}/revoke", visitor.csrf()).status_code == 303
    assert guest.get(page).status_code == 403


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/projects/owner/keys", {"label": "", "scope": "read"}),
        ("/projects/owner/keys", {"label": "EVIL", "scope": "root"}),
        ("/projects/owner/keys", {"label": "EVIL", "scope": "read", "days": "many"}),
        ("/projects/owner/keys", {"label": "EVIL", "scope": "read", "days": "nan"}),
        ("/projects/owner/keys", {"label": "EVIL", "scope": "read", "days": "-1"}),
        ("/projects/owner/keys", {"label": "a\nb", "scope": "read"}),
        ("/projects/owner/grants", {"grantee": "EVIL", "view": "x"}),
        ("/projects/owner/grants", {"grantee": "nobody", "view": "VIEW"}),
        ("/projects/owner/grants", {"grantee": "stranger", "view": "EVIL"}),
        ("/projects/owner/grants", {"grantee": "stranger", "snapshot": "EVIL"}),
        ("/projects/owner/grants", {"grantee": "stranger", "view": "VIEW", "snapshot": "0" * 64}),
        ("/projects/owner/grants", {"grantee": "stranger"}),
    ],
)
def test_a_wrong_form_comes_back_with_what_was_typed_and_what_is_wrong(site, path, fields, parsed):
    visitor, before = site.browser("admin"), state(site)
    fields = {name: value.replace("VIEW", site.view).replace("EVIL", site.evil) for name, value in fields.items()}
    answer = visitor.submit(path, visitor.csrf(), **fields)
    assert answer.status_code in {404, 422}
    found = parsed(answer.text)
    assert [one for one in found if one.get("role") == "alert"]
    typed = {one.get("name"): one.get("value") for one in found if one.tag == "input" and one.get("type") == "text"}
    assert all(typed[name] == value for name, value in fields.items() if name in {"label", "grantee", "snapshot"})
    assert not [one for one in found if one.tag == "script"]
    assert state(site) == before
