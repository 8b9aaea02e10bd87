"""Every route × every role × own and other project, from the OpenAPI description itself: a new route cannot be forgotten."""

import pytest

from services import operations
from services.database.migrate import migrate
from services.service import Service

SCOPES = ("read", "write", "admin")
OPEN = {"/healthz", "/readyz", "/metrics"}
NEEDED = {
    ("get", "/keys"): "admin", ("post", "/keys"): "admin", ("delete", "/keys/{key_id}"): "admin",
    ("get", "/grants"): "admin", ("post", "/grants"): "admin", ("delete", "/grants/{grant_id}"): "admin",
    ("get", "/audit"): "admin", ("post", "/snapshots/{snapshot}/packs"): "write",
}  # fmt: skip
"""Scope that a route needs; all others: write for PUT, read for the rest."""
GRANTED = (
    "/engram.json", "/views/{view}.json", "/commits/{view}/{patient}/{modality}/{roi}/{number}.json",
    "/data/{view}/{patient}/{modality}/{roi}/{attempt}/{object}", "/snapshots/{snapshot}.jsonl.zst",
    "/snapshots/{snapshot}/zarr/{path}", "/snapshots/{snapshot}/sign", "/objects", "/views", "/views/{view}/coverage", "/entries",
    "/snapshots", "/snapshots/{snapshot}", "",
)  # fmt: skip
"""What reads for another project once the view or the snapshot is granted to it."""


@pytest.fixture(scope="module")
def world(module_settings, beside):
    service = Service.open(module_settings)
    migrate(service.database)
    with beside("serving").running(service) as server:
        yield beside("route_world").World(server)


def needed(method, pattern):
    below = pattern.removeprefix("/v1/projects/{project}")
    return NEEDED.get((method, below), "write" if method == "put" else "read")


def test_the_description_has_every_kind_of_route(world):
    routes = world.routes()
    assert len(routes) > 35
    assert {method for method, _ in routes} >= {"get", "head", "put", "post", "delete"}


def test_without_a_key_only_operation_is_open(world):
    for method, pattern in world.routes():
        answer = world.ask(method, pattern)
        if pattern in OPEN:
            assert answer.status == 200, pattern
            continue
        assert answer.status == 401, (method, pattern, answer.status)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        if method != "head":
            assert answer.json["error"]["code"] == "unauthenticated"


@pytest.mark.parametrize("scope", SCOPES)
def test_in_ones_own_project_a_scope_allows_what_it_says(world, scope):
    for method, pattern in world.routes():
        answer = world.ask(method, pattern, world.keys["owner", scope])
        allowed = SCOPES.index(scope) >= SCOPES.index(needed(method, pattern))
        assert (answer.status not in {401, 403}) == (allowed or pattern in OPEN), (
            method,
            pattern,
            scope,
            answer.status,
            answer.body,
        )
        assert answer.status < 500 or answer.status == 501, (method, pattern, answer.body)


@pytest.mark.parametrize("scope", SCOPES)
def test_in_another_project_every_route_is_forbidden_there_or_not(world, scope):
    for method, pattern in world.routes():
        if "{project}" not in pattern:
            continue
        for project in ("owner", "nowhere"):
            answer = world.ask(method, pattern, world.keys["stranger", scope], project=project)
            assert answer.status == 403, (method, pattern, scope, project, answer.status)


@pytest.mark.parametrize("kind", ["view", "snapshot"])
@pytest.mark.parametrize("scope", SCOPES)
def test_a_grant_opens_reading_of_what_was_granted_and_nothing_else(world, kind, scope):
    service = world.server.service
    grant = operations.make_grant(
        service, "owner", "guest", view=world.names["view"] if kind == "view" else None,
        snapshot=world.names["snapshot"] if kind == "snapshot" else None, expires_days=None,
    )  # fmt: skip
    try:
        for method, pattern in world.routes():
            if "{project}" not in pattern:
                continue
            below = pattern.removeprefix("/v1/projects/{project}")
            answer = world.ask(method, pattern, world.keys["guest", scope])
            reads = below in GRANTED and (method in {"get", "head"} or below.endswith("/sign"))
            if reads and below.endswith("/coverage") and kind == "snapshot":
                assert answer.status == 403  # it tells of all of the view
            elif reads:
                assert answer.status in {200, 501}, (method, pattern, answer.status, answer.body)
            elif below.startswith(("/packs", "/withdrawn")) and method in {"get", "head"}:
                assert answer.status in {403, 404}, (method, pattern, answer.status)
            else:
                assert answer.status == 403, (method, pattern, answer.status)
    finally:
        operations.revoke_grant(service, "owner", grant.id)
    assert world.ask("get", "/v1/projects/{project}", world.keys["guest", scope]).status == 403


def test_every_refusal_has_the_one_shape(world, beside, monkeypatch):
    """Each status that the service answers with, and what is no HTTP at all."""
    owner, view = "/v1/projects/owner", world.names["view"]
    commit = f"{owner}/commits/{view}/P1/CT/spine"
    create = {"If-None-Match": "*"}
    admin = world.keys["owner", "admin"]
    asked = [
        (401, "GET", f"{owner}/views", None, {}, None), (403, "GET", "/v1/projects/nowhere", admin, {}, None),
        (404, "GET", "/nowhere", admin, {}, None), (404, "GET", f"{owner}/views/none.json", admin, {}, None),
        (405, "DELETE", "/healthz", admin, {}, None), (409, "PUT", f"{commit}/000007.json", admin, create, "next"),
        (412, "PUT", f"{owner}/runs/run-1/start.json", admin, create, b"other"),
        (413, "POST", f"{owner}/keys", admin, {}, b" " * (2**20 + 1)),
        (416, "GET", f"{owner}/views/{view}.json", admin, {"Range": "bytes=999999-"}, None),
        (422, "GET", f"{owner}/entries?limit=0", admin, {}, None), (422, "POST", f"{owner}/keys", admin, {}, b"{"),
        (428, "PUT", f"{owner}/runs/a/b", admin, {}, b"x"),
        (501, "POST", f"{owner}/snapshots/{world.names['snapshot']}/sign", admin, {}, {"paths": [world.names["path"]]}),
    ]  # fmt: skip
    for status, method, path, key, headers, body in asked:
        data = world.next_commit() if body == "next" else body
        answer = world.server.ask(method, path, key=key, headers=headers, body=data)
        assert answer.status == status, (method, path, answer.status, answer.body)
        check_shape(answer)
    for data in (
        b"NONSENSE\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nno colon here\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    ):
        answer = beside("serving").raw(world.server, data)
        assert answer.status == 400
        check_shape(answer)


def check_shape(answer):
    error = answer.json["error"]
    assert set(answer.json) == {"error"}
    assert set(error) == {"status", "code", "message", "request_id"}
    assert (error["status"], error["request_id"]) == (answer.status, answer.headers["x-request-id"])
    assert error["code"].replace("_", "").isalpha()
    assert error["message"]
