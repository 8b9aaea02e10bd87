"""Signed addresses of a store on S3: for GET alone, for a short while, for who may read, and in the audit."""

import time
import urllib.error
import urllib.request

import pytest

from services import operations
from services.database.migrate import migrate
from services.service import Service
from services.settings import Settings
from store_schema import EntryKey, create_store
from store_schema.testing import digest_of, example_entry, example_view

SIGN_S = 3


@pytest.fixture
def world(tmp_path, s3_url, beside):
    store = create_store(s3_url)
    view = store.put_view(example_view())
    for number in range(2):
        key = EntryKey(f"P{number}", "CT", "spine")
        store.publish(view, key, example_entry(number), input_sha256=digest_of(str(number)))
    service = Service.open(Settings(data=tmp_path, reconcile_s=0, key_cache_s=0, sign_s=SIGN_S))
    migrate(service.database)
    operations.create_project(service, "owner", store.url)
    operations.create_project(service, "guest")
    with beside("serving").running(service) as server:
        yield World(server, store, view)


class World:
    def __init__(self, server, store, view):
        self.server, self.store, self.view = server, store, view
        self.snapshot = store.make_snapshot(view, [EntryKey("P0", "CT", "spine")])
        self.whole = store.make_snapshot(view)
        make = operations.make_key
        self.reader, self.admin = (make(server.service, "owner", label=s, scope=s).text for s in ("read", "admin"))
        self.guest = make(server.service, "guest", label="read", scope="read").text

    def sign(self, snapshot, paths, key):
        path = f"/v1/projects/owner/snapshots/{snapshot}/sign"
        return self.server.ask("POST", path, key=key, body={"paths": paths})

    def told(self, action):
        rows = self.server.ask("GET", "/v1/projects/owner/audit?limit=1000", key=self.admin).json["items"]
        return [row for row in rows if row["action"] == action]


def fetched(url, method="GET", data=None):
    request = urllib.request.Request(url, data=data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""


NAMES = ["P0/CT/spine/memory/c/0/0/0/0", "P0/CT/spine/mean_map/c/0/0"]


def test_a_signed_address_gives_the_object_for_get_alone_and_ends(world):
    answer = world.sign(world.snapshot, NAMES, world.reader)
    assert answer.status == 200
    commit = world.store.commit(world.view, EntryKey("P0", "CT", "spine"))
    for name, url in answer.json["urls"].items():
        place = f"{commit.folder}/{name.removeprefix('P0/CT/spine/')}"
        data = world.store.location.get(place)
        assert fetched(url) == (200, data)
        for method in ("PUT", "DELETE"):
            assert fetched(url, method, b"x" if method == "PUT" else None)[0] == 403
        assert world.store.location.get(place) == data
    time.sleep(SIGN_S + 1.5)
    assert [fetched(url)[0] for url in answer.json["urls"].values()] == [403, 403]


def test_a_batch_is_one_row_of_the_audit_and_has_a_most(world):
    assert world.sign(world.snapshot, NAMES, world.reader).status == 200
    (row,) = world.told("sign")
    assert (row["target"], row["requests"], row["outcome"]) == (f"snapshot {world.snapshot}", 2, "allowed")
    assert row["key_id"] == world.reader.split("_")[1]
    assert world.sign(world.snapshot, NAMES[:1] * 1000, world.reader).status == 200
    for wrong in ([], NAMES[:1] * 1001):
        assert world.sign(world.snapshot, wrong, world.reader).status == 422
    assert len(world.told("sign")) == 2


def test_only_what_the_snapshot_commits_is_signed(world):
    for path in (
        "P1/CT/spine/memory/c/0/0/0/0",
        "P0/CT/spine/nothing",
        "../engram.json",
        "P0/CT/spine/../../../engram.json",
        "x",
    ):
        answer = world.sign(world.snapshot, [*NAMES, path], world.reader)
        assert answer.status == 404, path
        assert b"http" not in answer.body
    assert world.told("sign") == []


def test_whoever_was_granted_a_snapshot_signs_of_it_alone(world):
    assert world.sign(world.snapshot, NAMES, world.guest).status == 403
    operations.make_grant(world.server.service, "owner", "guest", view=None, snapshot=world.snapshot, expires_days=None)
    answer = world.sign(world.snapshot, NAMES, world.guest)
    assert answer.status == 200
    assert fetched(answer.json["urls"][NAMES[0]])[0] == 200
    assert world.sign(world.whole, NAMES, world.guest).status == 403
    assert [row["key_project"] for row in world.told("sign")] == ["guest"]
