"""A second project's data stays out of reach by every id, path, range, encoding and token trick.

Everything planted in `theirs` carries a mark; what is asked with keys of `mine` must not bring a mark back, nor change `theirs`.
"""

import json
import re
from itertools import product
from urllib.parse import unquote

import numpy as np
import pytest

from services import operations
from services.catalogue.index import reindex
from services.database.models import AuditRow
from services.service import Service
from store_schema import Entry, EntryKey
from store_schema.records import sha256
from store_schema.testing import digest_of, example_entry, example_view

MARK = "PLANTED"


@pytest.fixture(scope="module")
def world(module_settings, beside):
    from services.database.migrate import migrate  # noqa: PLC0415

    service = Service.open(module_settings)
    migrate(service.database)
    for project in ("mine", "theirs"):
        operations.create_project(service, project)
    keys = {
        (project, scope): operations.make_key(service, project, label=scope, scope=scope, expires_days=None).text
        for project, scope in product(("mine", "theirs"), ("read", "write", "admin"))
    }
    with beside("serving").running(service) as server:
        yield Planted(server, keys)


class Planted:
    """Both projects, filled; what must not be seen; and the places where it lies."""

    def __init__(self, server, keys):
        self.server, self.keys = server, keys
        mine, theirs = (server.service.store(project) for project in ("mine", "theirs"))
        self.shared = example_view()
        self.view = theirs.put_view(example_view().model_copy(update={"name": MARK}))
        for store, view, mark in ((mine, mine.put_view(self.shared), "own"), (theirs, self.view, MARK)):
            for i in range(3):
                entry = example_entry(i)
                arrays = dict(entry.arrays)
                arrays["preview"] = np.frombuffer(mark.encode().ljust(60, b"."), np.uint8).reshape(4, 5, 3).copy()
                key = EntryKey(f"{mark}-{i}", "CT", "spine")
                store.publish(view, key, Entry(arrays, {"mark": mark}), input_sha256=digest_of(str(key)))
            store.put_run(f"{mark}-run", "start.json", json.dumps({"mark": mark}).encode())
        self.own_view = self.shared.view_id
        self.snapshot, self.own_snapshot = theirs.make_snapshot(self.view), mine.make_snapshot(self.own_view)
        for project in ("mine", "theirs"):
            reindex(server.service, project)
        commit = theirs.commit(self.view, EntryKey(f"{MARK}-0", "CT", "spine"))
        self.store, self.commit = theirs, commit
        self.objects = sorted(theirs.location.paths(""))
        self.digest = {path: sha256(theirs.location.get(path)) for path in self.objects}
        self.secrets = [MARK.encode(), self.snapshot.encode(), commit.attempt.encode()]
        self.secrets += [keys["theirs", scope].encode() for scope in ("read", "write", "admin")]

    def check(self, answer, told):
        """Nothing of theirs in an answer; what it repeats of the request itself is taken out first, as it was sent and decoded."""
        text = answer.body + json.dumps(answer.headers).encode()
        assert answer.status not in range(300, 400), told
        for asked in sorted({*self._words(told), *self._words(unquote(told))}, key=len, reverse=True):
            text = text.replace(asked.encode("utf-8", "surrogateescape"), b"")
        for secret in self.secrets:
            assert secret not in text, (told, answer.status, answer.body[:300])
        return answer

    def _words(self, told):
        """The parts of a request that hold a secret, since whoever asks named it."""
        parts = re.split(r"[\s/?&=\"',\[\]{}:]+", told)
        return [
            part for part in parts if any(secret in part.encode("utf-8", "surrogateescape") for secret in self.secrets)
        ]


def spellings(path):
    """Ways to write a path that climbs from one's own project into theirs, or pretends to."""
    rest = path.removeprefix("/v1/projects/theirs/")
    dots = (
        "..",
        "%2e%2e",
        "%2E%2e",
        ".%2e",
        "%252e%252e",
        "%c0%ae%c0%ae",
        "．．",
        "..%00",
        "..;",
        "....",
        "%uff0e%uff0e",
    )
    slashes = ("/", "%2f", "%5c", "\\", "//", "%252f", "／", "%c0%af", "/./")
    for dot, slash in product(dots, slashes):
        yield f"/v1/projects/mine{slash}{dot}{slash}theirs{slash}{rest}"
    for dot, slash in product(dots[:4], slashes[:4]):
        yield f"/v1/projects/mine/data{slash}{dot}{slash}{dot}{slash}theirs/{rest}"
        yield f"/v1/projects/mine/data/{dot}{slash}{dot}{slash}{dot}{slash}theirs{slash}{rest}"
    for project in (
        "Theirs", "THEIRS", "theirs%00", "theirs%20", "theirs.", "%74heirs", "theirs%2f", "theirs;mine", "mine%00theirs", "ｔheirs",
        "theirs%0a",
    ):  # fmt: skip
        yield f"/v1/projects/{project}/{rest}"
    yield path
    yield f"http://127.0.0.1{path}"
    yield f"//127.0.0.1{path}"
    yield f"/v1/projects/mine/{path}"
    yield f"/v1/projects/mine/?project=theirs&path={rest}"
    yield f"/v1//projects//theirs/{rest}"
    yield f"/V1/projects/theirs/{rest}"


def test_no_spelling_of_a_path_reaches_the_other_project(world):
    base = "/v1/projects/theirs"
    places = [
        f"{base}/data/{world.view}/{world.commit.key}/{world.commit.attempt}/preview/c/0/0/0",
        f"{base}/commits/{world.view}/{world.commit.key}/000000.json",
        f"{base}/snapshots/{world.snapshot}/zarr/{world.commit.key}/preview/c/0/0/0",
        f"{base}/runs/{MARK}-run/start.json",
    ]
    assert sum(len(list(spellings(place))) for place in places) >= 500
    for place in places:
        good = world.server.ask("GET", place, key=world.keys["theirs", "read"])
        assert good.status == 200, place  # the place is right: only the key is wrong below
        for path in spellings(place):
            answer = world.server.ask("GET", path, key=world.keys["mine", "admin"])
            world.check(answer, f"GET {path}")
            assert answer.status in {400, 403, 404, 405, 422}, (path, answer.status)


def test_no_object_of_theirs_is_read_by_its_name_in_either_project(world):
    for path, project, scope in product(world.objects, ("theirs", "mine"), ("read", "admin")):
        if path == "engram.json" and project == "mine":
            continue
        answer = world.server.ask("GET", f"/v1/projects/{project}/{path}", key=world.keys["mine", scope])
        world.check(answer, f"GET {project} {path}")
        assert answer.status in {403, 404}, path


@pytest.mark.parametrize("method", ["HEAD", "GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"])
def test_no_method_tells_whether_an_object_of_theirs_is_there(world, method):
    there = f"/v1/projects/theirs/commits/{world.view}/{world.commit.key}/000000.json"
    absent = there.replace("-0/", "-9/")
    etag = f'"{world.digest[there.removeprefix("/v1/projects/theirs/")]}"'
    for headers in (
        {}, {"Range": "bytes=0-0"}, {"Range": "bytes=-1"}, {"If-None-Match": etag}, {"If-None-Match": "*"}, {"If-Match": etag},
        {"If-Range": etag, "Range": "bytes=0-9"}, {"X-HTTP-Method-Override": "GET"}, {"X-Original-URL": there},
        {"X-Forwarded-Host": "theirs"},
    ):  # fmt: skip
        answers = [
            world.server.ask(method, path, key=world.keys["mine", "admin"], headers=headers) for path in (there, absent)
        ]
        for answer in answers:
            world.check(answer, f"{method} {headers} {there}")
        assert len({(one.status, one.headers.get("content-length")) for one in answers}) == 1


def token_tricks(world):
    """Authorization headers that are not a key of theirs, though made of what one may know."""
    mine, theirs = world.keys["mine", "read"], world.keys["theirs", "read"]
    their_id, my_secret = theirs.split("_")[1], mine.split("_", 2)[2]
    their_secret = theirs.split("_", 2)[2]
    yield from (
        f"Bearer engram_{their_id}_{my_secret}", f"Bearer engram_{their_id}_", f"Bearer engram_{their_id}",
        f"Bearer engram_{their_id}_{'A' * 43}", f"Bearer engram_{their_id}_{sha256(their_secret.encode())[:43]}",
        f"Bearer {theirs[:-1]}", f"Bearer {theirs}A", f"Bearer {theirs.upper()}", f"Bearer {theirs.swapcase()}", f"Basic {theirs}",
        f"Token {theirs}", theirs, "Bearer", "Bearer ", "Bearer null", "Bearer undefined", "Bearer *", "Bearer %",
        "Bearer ' OR 1=1 --", f"Bearer engram_{their_id}_' OR '1'='1", f"Bearer engram_%_{my_secret}", f"Bearer {mine} {theirs}",
        f"Bearer {mine},{theirs}",
        f"Bearer {theirs}%00", f"Bearer engram_{their_id}_{their_secret[::-1]}", "Bearer " + "A" * 5000,
        "Bearer eyJhbGciOiJub25lIn0.eyJwcm9qZWN0IjoidGhlaXJzIn0.", f"bearer\t{mine}", "Bearer ｅngram",
        f"Digest username={their_id}",
    )  # fmt: skip


def test_no_token_trick_opens_the_other_project(world):
    path = f"/v1/projects/theirs/commits/{world.view}/{world.commit.key}/000000.json"
    for header in token_tricks(world):
        answer = world.server.ask("GET", path, headers={"Authorization": header})
        world.check(answer, f"{header} {world.keys['theirs', 'read']} {path}")
        assert answer.status in {400, 401, 403}, header
    for carried in (
        f"{path}?key={world.keys['theirs', 'read']}", f"{path}?access_token={world.keys['theirs', 'read']}",
        f"{path}?authorization=Bearer%20{world.keys['theirs', 'read']}",
    ):  # fmt: skip
        assert world.check(world.server.ask("GET", carried), carried).status == 401
    for cookie in (
        "session=theirs",
        "session=" + world.keys["theirs", "read"],
        "engram=admin",
        "session=../../theirs",
        "a=b; session=",
    ):
        answer = world.server.ask("GET", path, headers={"Cookie": cookie})
        assert world.check(answer, f"{cookie} {path}").status == 401
    for first, second in ((("mine", "read"), ("theirs", "read")), (("theirs", "read"), ("mine", "read"))):
        pair = [("Authorization", f"Bearer {world.keys[one]}") for one in (first, second)]
        answer = world.server.ask("GET", path, headers=pair)
        # Two headers: the first counts, or none; never a mixture that lets the first one's owner in.
        assert answer.status in ({400, 401, 403} if first[0] == "mine" else {200, 400, 401, 403})


def test_ids_of_theirs_bring_nothing_in_ones_own_project(world):
    base, key = "/v1/projects/mine", world.keys["mine", "admin"]
    asked = [
        ("GET", f"{base}/views/{world.view}/coverage", None), ("GET", f"{base}/entries?view={world.view}", None),
        ("GET", f"{base}/entries?patient={MARK}*", None), ("GET", f"{base}/entries?patient=*", None),
        ("GET", f"{base}/snapshots/{world.snapshot}", None), ("GET", f"{base}/runs/{MARK}-run", None),
        ("GET", f"{base}/runs/{MARK}-run/start.json", None), ("GET", f"{base}/snapshots", None), ("GET", f"{base}/views", None),
        ("GET", f"{base}/runs", None), ("GET", f"{base}/audit", None), ("GET", f"{base}/keys", None),
        ("GET", f"{base}/grants", None),
        ("GET", "/v1/projects", None), ("GET", "/metrics", None), ("GET", "/readyz", None), ("GET", "/openapi.json", None),
        ("POST", f"{base}/snapshots", {"view": world.view}),
        ("POST", f"{base}/snapshots", {"view": world.own_view, "base": world.snapshot}),
        ("POST", f"{base}/snapshots", {"view": world.own_view, "keys": [[f"{MARK}-0", "CT", "spine", 0]]}),
        ("POST", f"{base}/snapshots/{world.snapshot}/sign", {"paths": [f"{world.commit.key}/preview/c/0/0/0"]}),
        ("POST", f"{base}/snapshots/{world.own_snapshot}/sign", {"paths": [f"../{world.snapshot}/{world.commit.key}/zarr.json"]}),
        ("POST", f"{base}/snapshots/{world.snapshot}/packs", {"kind": "memory"}),
        ("POST", f"{base}/grants", {"grantee": "mine", "view": world.view}),
        ("POST", f"{base}/grants", {"grantee": "theirs", "view": world.view}),
        ("POST", "/v1/projects/theirs/grants", {"grantee": "mine", "view": world.view}),
        ("POST", "/v1/projects/theirs/keys", {"label": "x", "scope": "read"}),
    ]  # fmt: skip
    for kind in ("views", "commits", "data", "snapshots", "packs", "withdrawn", "runs"):
        for climb in (
            "",
            "/../../theirs",
            "/%2e%2e/%2e%2e/theirs",
            f"/{world.view}",
            "/..",
            "%00",
            f"/{world.view}/{MARK}-0",
        ):
            asked += [
                ("GET", f"{base}/objects?prefix={kind}{climb}&delimiter={flag}", None) for flag in ("true", "false")
            ]
    for method, path, body in asked:
        answer = world.server.ask(method, path, key=key, body=body)
        world.check(answer, f"{method} {path} {json.dumps(body)}")
        named = any(secret.decode() in f"{path} {json.dumps(body)}" for secret in world.secrets)
        # Whoever names something of theirs is told that it is not there, or an empty list where that is what a filter gives.
        empty = answer.status == 200 and (b'"items":[]' in answer.body or answer.body.strip() == b'{"end": 0}')
        assert answer.status in {200, 403, 404, 422} or (answer.status == 501 and not named), (
            path,
            answer.status,
            answer.body,
        )
        assert not named or empty or answer.status in {403, 404, 422}, (path, answer.status, answer.body)


def test_cursors_of_theirs_bring_nothing(world):
    first = world.server.ask("GET", "/v1/projects/theirs/entries?limit=1", key=world.keys["theirs", "read"])
    cursor = first.json["next"]
    for path in ("entries", "snapshots", "runs", "views", "audit"):
        for text in (cursor or "x", "AAAA", "e30", "bnVsbA", "../theirs", "%00", "W10", "eyJwcm9qZWN0IjoidGhlaXJzIn0"):
            answer = world.server.ask("GET", f"/v1/projects/mine/{path}?cursor={text}", key=world.keys["mine", "admin"])
            world.check(answer, f"{path} cursor {text}")
            assert answer.status in {200, 404}


def test_writing_to_theirs_is_refused_everywhere(world):
    create = {"If-None-Match": "*"}
    for path, scope in product(world.objects, ("read", "write", "admin")):
        answer = world.server.ask(
            "PUT", f"/v1/projects/theirs/{path}", key=world.keys["mine", scope], headers=create, body=b"x"
        )
        world.check(answer, f"PUT {path}")
        assert answer.status in {403, 404, 405}
    for key_id in (world.keys["theirs", "read"].split("_")[1], "0" * 12):
        for project in ("theirs", "mine"):
            answer = world.server.ask(
                "DELETE", f"/v1/projects/{project}/keys/{key_id}", key=world.keys["mine", "admin"]
            )
            assert world.check(answer, f"DELETE {project} key {key_id}").status in {403, 404}
    again = {path: sha256(world.store.location.get(path)) for path in sorted(world.store.location.paths(""))}
    assert again == world.digest
    assert world.server.ask("GET", "/v1/projects/theirs", key=world.keys["theirs", "read"]).status == 200


def test_theirs_would_have_been_seen_by_its_own_key(world):
    """The marks are what the attempts look for: the right key does bring them back."""
    answer = world.server.ask("GET", f"/v1/projects/theirs/entries?view={world.view}", key=world.keys["theirs", "read"])
    assert answer.status == 200
    assert MARK.encode() in answer.body


def test_denials_are_in_the_audit_and_name_no_patient(world):
    for path in (
        "entries",
        f"commits/{world.view}/{world.commit.key}/000000.json",
        f"snapshots/{world.snapshot}/zarr/zarr.json",
    ):
        for scope in ("read", "write", "admin"):
            assert world.server.ask("GET", f"/v1/projects/theirs/{path}", key=world.keys["mine", scope]).status == 403
    world.server.service.audit.flush()
    rows = world.server.service.database.read(lambda session: session.query(AuditRow).all())
    denied = [row for row in rows if row.outcome == "denied" and row.key_project == "mine" and row.project == "theirs"]
    assert sum(row.requests for row in denied) >= 9
    assert {row.key_id for row in denied} >= {
        world.keys["mine", scope].split("_")[1] for scope in ("read", "write", "admin")
    }
    patients = {f"{MARK}-{i}" for i in range(3)} | {f"own-{i}" for i in range(3)}
    told = [f"{row.target} {row.action}".replace(world.view, "") for row in rows]
    assert not [text for text in told if any(patient in text for patient in patients)]
