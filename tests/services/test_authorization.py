"""Every route × every role × own and other project, from the OpenAPI description itself: a new route cannot be forgotten."""

import pytest

from services import operations
from services.database.migrate import migrate
from services.service import Service
from services.settings import Settings

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
def world(tmp_path_factory, beside):
    service = Service.open(Settings(data=tmp_path_factory.mktemp("data"), reconcile_s=0, key_cache_s=0))
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


def test_every_refusal_has_the_one_shape(world):
    asked = [
        ("GET", "/nowhere", {}), ("DELETE", "/healthz", {}), ("GET", "/v1/projects/owner/entries?limit=0", {}),
        ("GET", "/v1/projects/owner/views/none.json", {}), ("PUT", "/v1/projects/owner/runs/a/b", {}),
        ("GET", f"/v1/projects/owner/views/{world.names['view']}.json", {"Range": "bytes=999999-"}),
        ("POST", "/v1/projects/owner/keys", {}),
    ]  # fmt: skip
    statuses = set()
    for method, path, headers in asked:
        answer = world.server.ask(method, path, key=world.keys["owner", "admin"], headers=headers)
        error = answer.json["error"]
        assert set(error) == {"status", "code", "message", "request_id"}
        assert (error["status"], error["request_id"]) == (answer.status, answer.headers["x-request-id"])
        statuses.add(answer.status)
    assert statuses == {404, 405, 422, 428, 416}
