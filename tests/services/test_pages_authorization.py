"""Every route of the pages × every role × own and other projects, from their router itself: a new page cannot be forgotten."""

from itertools import product
from typing import NamedTuple
from urllib.parse import quote

import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from sqlalchemy import select

from services import operations
from services.app import create_app
from services.database.models import PageSession
from services.keys import SCOPES
from services.pages.answers import safe_next
from services.pages.routes import pages_router

PROJECT = "/projects/{project}"
VIEW, RUN = f"{PROJECT}/views/{{view}}", f"{PROJECT}/runs/{{run}}"
ENTRY = f"{VIEW}/entries/{{patient}}/{{modality}}/{{roi}}"
COLUMNS = (
    "nobody", "read", "write", "admin", "no grant", "granted view", "granted snapshot", "beside the grant", "no project",
)  # fmt: skip
"""Who asks: nobody; keys of the own project by their scope; keys of any scope of another project: without a grant, with one for
what they ask, with one for something else; and keys of any scope for a project that does not exist."""
TABLE = {
    # One of the service, whoever asks:
    "GET /login":                          (200, 200, 200, 200, 200, 200, 200, 200, 200),
    "POST /login":                         (303, 303, 303, 303, 303, 303, 303, 303, 303),
    "POST /login, forged":                 (403, 403, 403, 403, 403, 403, 403, 403, 403),
    "POST /logout":                        (401, 303, 303, 303, 303, 303, 303, 303, 303),
    "POST /logout, forged":                (401, 403, 403, 403, 403, 403, 403, 403, 403),
    "GET /static/style.css":               (200, 200, 200, 200, 200, 200, 200, 200, 200),
    "GET /":                               (401, 200, 200, 200, 200, 200, 200, 200, 200),
    # Of a project: read what is one's own or was granted.
    f"GET {PROJECT}":                      (401, 200, 200, 200, 403, 200, 200, 200, 403),
    f"GET {VIEW}":                         (401, 200, 200, 200, 403, 200, 403, 403, 403),
    f"GET {VIEW}/entries.{{kind}}":        (401, 200, 200, 200, 403, 200, 403, 403, 403),
    f"GET {PROJECT}/snapshots/{{snapshot}}": (401, 200, 200, 200, 403, 200, 200, 403, 403),
    f"GET {ENTRY}":                        (401, 200, 200, 200, 403, 200, 200, 403, 403),
    f"GET {ENTRY}/preview.png":            (401, 200, 200, 200, 403, 200, 200, 403, 403),
    f"GET {ENTRY}/mask.png":               (401, 200, 200, 200, 403, 200, 200, 403, 403),
    f"GET {ENTRY}/map.png":                (401, 200, 200, 200, 403, 200, 200, 403, 403),
    # Runs are never granted.
    f"GET {RUN}":                          (401, 200, 200, 200, 403, 403, 403, 403, 403),
    f"GET {RUN}/report":                   (401, 200, 200, 200, 403, 403, 403, 403, 403),
    f"GET {RUN}/records/{{name}}":         (401, 200, 200, 200, 403, 403, 403, 403, 403),
    # Keys and grants are for the project's admins.
    f"GET {PROJECT}/keys":                 (401, 403, 403, 200, 403, 403, 403, 403, 403),
    f"POST {PROJECT}/keys":                (401, 403, 403, 201, 403, 403, 403, 403, 403),
    f"POST {PROJECT}/keys, forged":        (401, 403, 403, 403, 403, 403, 403, 403, 403),
    f"POST {PROJECT}/keys/{{key_id}}/revoke": (401, 403, 403, 303, 403, 403, 403, 403, 403),
    f"POST {PROJECT}/keys/{{key_id}}/revoke, forged": (401, 403, 403, 403, 403, 403, 403, 403, 403),
    f"GET {PROJECT}/grants":               (401, 403, 403, 200, 403, 403, 403, 403, 403),
    f"POST {PROJECT}/grants":              (401, 403, 403, 303, 403, 403, 403, 403, 403),
    f"POST {PROJECT}/grants, forged":      (401, 403, 403, 403, 403, 403, 403, 403, 403),
    f"POST {PROJECT}/grants/{{grant_id}}/revoke": (401, 403, 403, 303, 403, 403, 403, 403, 403),
    f"POST {PROJECT}/grants/{{grant_id}}/revoke, forged": (401, 403, 403, 403, 403, 403, 403, 403, 403),
}  # fmt: skip
"""Status of each route by who asks; HEAD as GET. 401 stands for the way to the login that a browser gets instead. A forged form is
good but for the token, which is that of another session; the login, which takes no token, is then sent from another site."""


class Role(NamedTuple):
    """Somebody who asks for something."""

    column: str
    key: str | None
    """Project whose key opened the session; None for nobody."""
    scope: str | None
    project: str = "owner"
    """The one that is asked for."""

    def __str__(self) -> str:
        return " ".join(part for part in (self.column, self.key, self.scope, self.project) if part)


NOBODY, ADMIN = Role("nobody", None, None), Role("admin", "owner", "admin")
ROLES = [
    NOBODY,
    NOBODY._replace(project="nowhere"),
    *(Role(scope, "owner", scope) for scope in SCOPES),
    *(
        Role(column, key, scope, project)
        for (column, key, project), scope in product(
            [
                ("no grant", "stranger", "owner"),
                ("granted view", "viewer", "owner"),
                ("granted snapshot", "pinner", "owner"),
                ("beside the grant", "viewer", "owner"),
                ("beside the grant", "pinner", "owner"),
                ("no project", "owner", "nowhere"),
                ("no project", "stranger", "nowhere"),
            ],
            SCOPES,
        )
    ),
]
FORGED = ", forged"


def routes():
    """Method and pattern of every route of the pages."""
    assert all(isinstance(route, APIRoute) for route in pages_router.routes)
    return [(method, route.path) for route in pages_router.routes for method in sorted(route.methods)]


def cases():
    """The same with what the table calls them: a form twice, good and forged."""
    for method, pattern in routes():
        yield method, pattern, f"{'GET' if method == 'HEAD' else method} {pattern}"
        if method == "POST":
            yield method, pattern, f"POST {pattern}{FORGED}"


class Matrix:
    """A site whose projects have a key of each scope, and the names that stand in addresses."""

    def __init__(self, site):
        self.site = site
        operations.create_project(site.service, "other")
        operations.make_grant(site.service, "owner", "viewer", view=site.view)
        self.keys = {
            (project, scope): operations.make_key(site.service, project, label=scope, scope=scope).text
            for project, scope in product(("owner", "viewer", "pinner", "stranger"), SCOPES)
        }
        self.names = {
            "view": site.view, "snapshot": site.snapshot, "patient": "MM_1", "modality": "CT", "roi": "spine", "kind": "csv",
            "run": "cv-1", "name": "km.json",
        }  # fmt: skip
        store = site.service.store("owner")
        self.beside = {"view": site.other, "snapshot": store.make_snapshot(site.other)}
        self.another = self.browser(ADMIN).token

    def browser(self, role):
        """A browser with the role's session, and the token of its forms; nobody's is that of another session."""
        found = self.site.browser()
        if role.key is not None:
            assert found.log_in(self.keys[role.key, role.scope]).status_code == 303
        found.token = self.another if role.key is None else found.csrf()
        return found

    def names_for(self, role):
        """What stands in addresses that the role asks for."""
        return self.names | (self.beside if role.column == "beside the grant" else {}) | {"project": role.project}

    def spares(self):
        """A key and a grant that may be revoked; the grant that a form made is none that stands in the next one's way."""
        service = self.site.service
        for row in operations.grants_of(service, "other"):
            if row.revoked_at is None:
                operations.revoke_grant(service, "owner", row.id)
        return {
            "key_id": operations.make_key(service, "owner", label="spare", scope="read").row.id,
            "grant_id": operations.make_grant(service, "owner", "other", snapshot=self.site.snapshot).id,
        }

    def fields(self, pattern):
        """What a good form of a route holds."""
        return {
            "/login": {"key": self.keys["owner", "read"]},
            f"{PROJECT}/keys": {"label": "new", "scope": "read", "days": "3"},
            f"{PROJECT}/grants": {"grantee": "other", "view": self.site.view, "snapshot": "", "days": ""},
        }.get(pattern, {})

    def state(self):
        """All that forms change."""
        service = self.site.service
        rows = operations.keys_of(service, "owner") + operations.grants_of(service, "owner")
        sessions = service.database.read(lambda session: session.scalars(select(PageSession.token_sha256)).all())
        return {(row.id, row.revoked_at) for row in rows}, set(sessions)


@pytest.fixture(scope="module")
def matrix(open_site, module_settings):
    with open_site(module_settings) as site:
        yield Matrix(site)


def ask(matrix, browser, method, pattern, names, *, forged):
    """One request of a route, as the pages of this browser's session would send it, or forged."""
    address = pattern.format(**names)
    if method != "POST":
        return browser.request(method, address)
    if pattern == "/login":
        origin = "https://evil.example" if forged else browser.origin
        return browser.submit(address, origin=origin, **matrix.fields(pattern))
    return browser.submit(address, matrix.another if forged else browser.token, **matrix.fields(pattern))


def led_to_the_login(answer, method, address):
    """Whether an answer is the way to the login, and from there back to what was asked for."""
    back = "/" if method == "POST" else safe_next(address)
    login = "/login" if back == "/" else f"/login?next={quote(back, safe='')}"
    return answer.status_code == 303 and answer.headers["location"] == login and "set-cookie" not in answer.headers


def test_the_table_names_every_route_of_the_pages_and_no_other():
    assert {case for _, _, case in cases()} == set(TABLE)
    assert {len(row) for row in TABLE.values()} == {len(COLUMNS)}
    assert {method for method, _ in routes()} == {"GET", "HEAD", "POST"}
    assert {role.column for role in ROLES} == set(COLUMNS)


def test_what_the_api_does_not_describe_is_a_page(matrix):
    app = create_app(matrix.site.service)
    described = {(method.upper(), path) for path, found in app.openapi()["paths"].items() for method in found}
    served = {
        (method, one.path.replace(":path}", "}")) for one in iter_route_contexts(app.routes) for method in one.methods
    }
    assert described <= served
    assert served - described - {("GET", "/openapi.json"), ("HEAD", "/openapi.json")} == set(routes())


@pytest.mark.parametrize("role", ROLES, ids=str)
def test_a_page_shows_and_a_form_does_what_the_role_allows(matrix, role):
    browser = matrix.browser(role)
    for method, pattern, case in cases():
        # Who logs in or out ends the session.
        asking = matrix.browser(role) if pattern in {"/login", "/logout"} else browser
        names = matrix.names_for(role)
        if method == "POST":
            names, before = names | matrix.spares(), matrix.state()
        answer = ask(matrix, asking, method, pattern, names, forged=case.endswith(FORGED))
        status = 401 if led_to_the_login(answer, method, pattern.format(**names)) else answer.status_code
        assert status == TABLE[case][COLUMNS.index(role.column)], (str(role), method, case, answer.text[:2000])
        if method == "POST":
            assert (matrix.state() != before) == (status < 400), (str(role), case)


@pytest.mark.parametrize("key", [None, "read", "admin"])
def test_a_key_in_a_header_opens_no_page(matrix, key):
    """Whoever wants no HTML is refused, not sent to the login."""
    browser, names = matrix.site.browser(), matrix.names_for(NOBODY) | matrix.spares()
    browser.headers["accept"], browser.token = "application/json", matrix.another
    if key is not None:
        browser.headers["authorization"] = f"Bearer {matrix.keys['owner', key]}"
    for method, pattern, case in cases():
        if TABLE[case][0] == 401:
            answer = ask(matrix, browser, method, pattern, names, forged=False)
            assert (answer.status_code, answer.headers["content-type"]) == (401, "application/json"), (method, case)


def test_a_session_opens_nothing_of_the_api(matrix):
    browser, project = matrix.browser(ADMIN), "/v1/projects/owner"
    for path in ("/v1/projects", project, f"{project}/keys", f"{project}/views/{matrix.site.view}.json"):
        assert browser.get(path).status_code == 401, path


@pytest.mark.parametrize("scope", SCOPES)
def test_a_foreign_project_is_answered_like_one_that_is_not_there(matrix, scope):
    role = Role("no grant", "stranger", scope)
    browser, names = matrix.browser(role), matrix.names_for(role) | matrix.spares()
    browser.headers["x-request-id"] = "0" * 32
    for method, pattern, case in cases():
        if PROJECT not in pattern:
            continue
        answers = []
        for project in ("owner", "nowhere"):
            now, forged = names | {"project": project}, case.endswith(FORGED)
            answer = ask(matrix, browser, method, pattern, now, forged=forged)
            headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
            answers.append((answer.status_code, headers, answer.text.replace(project, "PROJECT")))
        assert answers[0] == answers[1], (method, case)


def test_a_method_that_a_page_lacks_is_refused_with_those_that_it_has(matrix):
    browser, names = matrix.browser(ADMIN), matrix.names_for(ADMIN) | matrix.spares()
    for pattern in {pattern for _, pattern in routes()}:
        has = {one for one, path in routes() if path == pattern}
        for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} - has:
            answer = browser.request(method, pattern.format(**names))
            assert answer.status_code == 405, (method, pattern)
            assert set(answer.headers["allow"].split(", ")) == has, (method, pattern)
