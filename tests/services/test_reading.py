"""What the service serves of a store, held against the store's own files: the same bytes, nothing uncommitted or withdrawn."""

import http.client
import json
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from services import objects, pack_objects
from services.objects import WITHDRAWN_S
from services.operations import make_grant, make_key
from store_schema import EntryKey, open_store
from store_schema.packs import make_pack
from store_schema.records import sha256
from store_schema.testing import digest_of, example_entry, example_view
from store_schema.withdraw import withdraw


@pytest.fixture
def world(service, beside):
    with beside("serving").running(service) as server:
        world = beside("route_world").World(server)
        world.store, world.reader = service.store("owner"), world.keys["owner", "read"]
        world.base = "/v1/projects/owner"
        yield world


def get(world, path, **more):
    return world.server.ask("GET", f"{world.base}/{path}", key=world.reader, **more)


def test_every_committed_object_is_served_as_it_lies_there(world):
    make_pack(world.store.snapshot(world.names["snapshot"]), "mean_map")
    paths = [path for path in world.store.location.paths("") if not path.startswith("snapshots/of/")]
    assert len(paths) > 15
    for path in paths:
        data = world.store.location.get(path)
        for _ in range(2):  # read, and from memory
            answer = get(world, path)
            assert (answer.status, answer.body) == (200, data), path
            assert answer.headers["etag"] == f'"{sha256(data)}"'
            assert answer.headers["cache-control"] == "private, max-age=86400, immutable"
        head = world.server.ask("HEAD", f"{world.base}/{path}", key=world.reader)
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(data)))
        part = get(world, path, headers={"Range": "bytes=-7"})
        assert (part.status, part.body) == (206, data[-7:])


def test_a_listing_names_exactly_the_committed_objects(world):
    world.store.location.put(f"data/{world.names['view']}/P1/CT/spine/{uuid.uuid4().hex}/zarr.json", b"{}")
    committed = {path for path in world.store.location.paths("data") if f"/{world.names['attempt']}/" in path}
    lines = [json.loads(line) for line in get(world, "objects?prefix=data").body.splitlines()]
    assert {line["path"] for line in lines[:-1]} == committed
    assert lines[-1] == {"end": len(committed)}
    sizes = {line["path"]: line["size_bytes"] for line in lines[:-1]}
    assert all(world.store.location.size_bytes(path) == size for path, size in sizes.items())
    names = [json.loads(line) for line in get(world, "objects?prefix=commits&delimiter=true").body.splitlines()]
    assert names == [{"name": world.names["view"]}, {"end": 1}]


def test_an_attempt_that_no_commit_names_is_never_served(world):
    attempt = uuid.uuid4().hex
    folder = f"data/{world.names['view']}/P1/CT/spine/{attempt}"
    world.store.location.put(f"{folder}/memory/c/0/0/0/0", b"uncommitted")
    assert get(world, f"{folder}/memory/c/0/0/0/0").status == 404


def test_a_commit_made_beside_the_service_is_served_at_once(world):
    assert get(world, f"data/{world.names['view']}/{world.key}/{'0' * 32}/zarr.json").status == 404
    made = world.store.publish(world.names["view"], world.key, example_entry(5), input_sha256=digest_of("later")).commit
    answer = get(world, f"{made.folder}/memory/c/0/0/0/0")
    assert (answer.status, sha256(answer.body)) == (200, made.objects["memory/c/0/0/0/0"].sha256)


@pytest.mark.parametrize("damage", ["altered", "cut", "gone"])
def test_what_is_committed_and_cannot_be_read_is_a_failure_and_never_absent(world, damage):
    folder = Path(world.server.service.settings.data, "stores", "owner")
    path = f"data/{world.names['view']}/{world.key}/{world.names['attempt']}/memory/c/0/0/0/0"
    data = (folder / path).read_bytes()
    if damage == "gone":
        (folder / path).unlink()
    else:
        (folder / path).write_bytes(data[:-1] if damage == "cut" else bytes([data[0] ^ 1]) + data[1:])
    zarr_path = f"snapshots/{world.names['snapshot']}/zarr/{world.key}/memory/c/0/0/0/0"
    for place in (path, zarr_path):
        answer = get(world, place)
        assert answer.status == 500
        assert (
            answer.json["error"]["code"]
            == {"altered": "object_altered", "cut": "object_truncated", "gone": "object_missing"}[damage]
        )
        assert str(folder) not in answer.body.decode()


def test_a_withdrawn_entry_is_gone_from_every_route_within_moments(world):
    """Also what was held in memory, and every snapshot that names it; the project keeps its records, as beside the bucket."""
    other = EntryKey("P2", "CT", "spine")
    world.store.publish(world.names["view"], other, example_entry(2), input_sha256=digest_of("2"))
    both, path = world.store.make_snapshot(world.names["view"]), f"{world.key}/memory/c/0/0/0/0"
    places = [
        f"data/{world.names['view']}/{world.key}/{world.names['attempt']}/memory/c/0/0/0/0", f"snapshots/{both}/zarr/{path}",
        f"snapshots/{both}.jsonl.zst", f"commits/{world.names['view']}/{world.key}/000000.json",
    ]  # fmt: skip
    make_grant(world.server.service, "owner", "guest", view=world.names["view"], snapshot=None, expires_days=None)
    guest = world.keys["guest", "read"]
    for key in (world.reader, guest):
        assert [world.server.ask("GET", f"{world.base}/{place}", key=key).status for place in places] == [200] * 4
    withdraw(world.store, patients=["P1"], reason="consent taken back")
    time.sleep(WITHDRAWN_S + 0.2)
    assert [get(world, place).status for place in places] == [410, 410, 200, 200]
    assert [world.server.ask("GET", f"{world.base}/{place}", key=guest).status for place in places] == [410] * 4
    assert get(world, places[0]).json["error"]["code"] == "withdrawn"
    later = world.store.make_snapshot(world.names["view"])
    assert get(world, f"snapshots/{later}/zarr/{other}/memory/c/0/0/0/0").status == 200


def storage(world):
    return {"headers": {"Authorization": f"Bearer {world.reader}"}}


def test_a_snapshot_opens_as_zarr_and_as_an_xarray_tree(world):
    url = f"{world.server.url}{world.base}/snapshots/{world.names['snapshot']}/zarr"
    stored = world.store.read(world.names["view"], world.key)
    group = zarr.open_group(url, mode="r", storage_options=storage(world))
    assert list(group.group_keys()) == ["P1"]
    for name, values in stored.arrays.items():
        np.testing.assert_array_equal(group[f"{world.key}/{name}"][...], values)
    assert dict(group[str(world.key)].attrs) == stored.attributes
    tree = xr.open_datatree(url, engine="zarr", storage_options=storage(world))
    np.testing.assert_array_equal(tree[str(world.key)]["mask"].values, stored.arrays["mask"])
    entry = xr.open_zarr(f"{url}/{world.key}", storage_options=storage(world))
    np.testing.assert_array_equal(entry["mean_map"].values, stored.arrays["mean_map"])


def test_zarr_names_that_the_snapshot_has_not_are_absent(world):
    zarr_url = f"snapshots/{world.names['snapshot']}/zarr"
    for path in (
        "P9/CT/spine/zarr.json",
        "P1/zarr.json/x",
        ".zgroup",
        "P1/CT/spine/.zarray",
        "P1/CT/spine/nothing/zarr.json",
        "x",
    ):
        assert get(world, f"{zarr_url}/{path}").status == 404, path
    assert (
        get(world, f"{zarr_url}/{world.key}/memory/c/9/9/9/9").status == 500
    )  # a chunk of a committed array: never absent
    assert get(world, f"snapshots/{'0' * 64}/zarr/zarr.json").status == 404


def test_two_reads_of_a_folder_store_cannot_be_signed(world):
    answer = world.server.ask(
        "POST",
        f"{world.base}/snapshots/{world.names['snapshot']}/sign",
        key=world.reader,
        body={"paths": [world.names["path"]]},
    )
    assert (answer.status, answer.json["error"]["code"]) == (501, "not_signable")


def test_a_snapshot_is_made_on_the_server(world):
    other = EntryKey("P2", "CT", "spine")
    world.store.publish(world.names["view"], other, example_entry(2), input_sha256=digest_of("2"))
    expected = world.store.make_snapshot(world.names["view"])
    answer = world.server.ask("POST", f"{world.base}/snapshots", key=world.reader, body={"view": world.names["view"]})
    assert (answer.status, answer.json) == (201, {"id": expected, "view": world.names["view"], "rows": 2})
    body = {"view": world.names["view"], "where": ["patient=P2"]}
    some = world.server.ask("POST", f"{world.base}/snapshots", key=world.reader, body=body).json
    assert some["rows"] == 1
    body = {"view": world.names["view"], "keys": [["P1", "CT", "spine", 0]]}
    assert (
        world.server.ask("POST", f"{world.base}/snapshots", key=world.reader, body=body).json["id"]
        == world.names["snapshot"]
    )
    body["keys"][0][3] = 7
    assert world.server.ask("POST", f"{world.base}/snapshots", key=world.reader, body=body).status == 404


def test_logs_metrics_and_audit_name_no_patient_and_no_secret(world, caplog):
    caplog.set_level("INFO", logger="engram.service")
    key = world.reader
    for path in (
        f"commits/{world.names['view']}/{world.key}/000000.json", f"snapshots/{world.names['snapshot']}/zarr/{world.key}/zarr.json",
        "entries?patient=P1", f"commits/{world.names['view']}/P1/CT/spine/000009.json", "objects?prefix=commits/P1",
    ):  # fmt: skip
        get(world, path)
        world.server.ask("GET", f"{world.base}/{path}", key=world.keys["stranger", "read"])
        world.server.ask("GET", f"{world.base}/{path}", key=f"{key}x")
    from services.logs import JsonLines  # noqa: PLC0415

    for path in (
        "snapshots/P1/zarr/zarr.json",
        "snapshots/P1/sign",
        "keys/P1",
        "grants/P1",
        "runs/P1",
        "views/P1/coverage",
        "snapshots/P1",
    ):
        for method in ("GET", "POST", "DELETE"):
            world.server.ask(method, f"{world.base}/{path}", key=world.keys["stranger", "read"], body={"view": "P1"})
            world.server.ask(method, f"{world.base}/{path}", key=world.keys["owner", "admin"], body={"paths": ["P1"]})
    world.server.ask("POST", f"{world.base}/snapshots", key=key, body={"view": "P1"})
    until = time.monotonic() + 20
    # A line is written once its answer has gone out.
    while len(lines := [JsonLines().format(one) for one in caplog.records if one.name == "engram.service"]) < 15:
        assert time.monotonic() < until
        time.sleep(0.05)
    told = "\n".join(lines) + world.server.ask("GET", "/metrics").body.decode()
    world.server.service.audit.flush()
    told += world.server.ask("GET", f"{world.base}/audit?limit=1000", key=world.keys["owner", "admin"]).body.decode()
    for secret in ("P1", key, key.split("_", 2)[2], world.keys["stranger", "read"].split("_", 2)[2]):
        assert secret not in told
    line = json.loads(lines[0])
    assert {
        "at",
        "level",
        "event",
        "request_id",
        "method",
        "route",
        "status",
        "duration_ms",
        "key_id",
        "project",
    } <= set(line)
    assert line["route"].startswith("/v1/projects/{project}/")


def test_reads_signings_and_denials_stand_in_the_audit(world):
    admin = world.keys["owner", "admin"]
    for _ in range(3):
        get(world, f"commits/{world.names['view']}/{world.key}/000000.json")
    world.server.ask("GET", f"{world.base}/views", key=world.keys["stranger", "read"])
    world.server.ask("GET", f"{world.base}/views")
    made = make_key(world.server.service, "owner", label="x", scope="read")
    world.server.service.audit.flush()
    rows = world.server.ask("GET", f"{world.base}/audit", key=admin).json["items"]
    reads = [row for row in rows if (row["action"], row["target"]) == ("read", world.names["view"])]
    assert sum(row["requests"] for row in reads) == 3
    assert reads[0]["key_id"] == world.reader.split("_")[1]
    denied = [row for row in rows if row["outcome"] == "denied"]
    assert {row["key_project"] for row in denied} >= {"stranger"}
    assert any(row["action"] == "key" and row["target"] == f"key {made.row.id}" for row in rows)


def test_a_request_keeps_its_id_if_it_is_one(world):
    given = world.server.ask("GET", "/healthz", headers={"X-Request-Id": "trace-0123456789"})
    assert given.headers["x-request-id"] == "trace-0123456789"
    for odd in ("short", "a b c d e f g h", "x" * 65, "id\twith\ttabs"):
        assert world.server.ask("GET", "/healthz", headers={"X-Request-Id": odd}).headers["x-request-id"] != odd


def test_health_needs_nothing_and_readiness_the_database(world):
    assert world.server.ask("GET", "/healthz").json == {"status": "ok"}
    ready = world.server.ask("GET", "/readyz")
    assert (ready.status, ready.json["database"]) == (200, "ok")


def test_a_damaged_commit_hides_its_own_entry_from_a_listing_and_no_other(world):
    other = EntryKey("P2", "CT", "spine")
    kept = world.store.publish(world.names["view"], other, example_entry(2), input_sha256=digest_of("2")).commit
    record = Path(
        world.server.service.settings.data, "stores", "owner", f"commits/{world.names['view']}/{world.key}/000000.json"
    )
    record.write_bytes(record.read_bytes()[:-1])
    lines = [json.loads(line) for line in get(world, "objects?prefix=data").body.splitlines()]
    assert {line["path"].split("/")[5] for line in lines[:-1]} == {kept.attempt}


def test_a_store_that_is_not_in_its_place_is_a_failure_and_never_an_empty_one(world):
    """As where a disk is not mounted: a reader would take absent chunks for zeros, and a commit would be lost."""
    folder = Path(world.server.service.settings.data, "stores", "owner")
    data = f"data/{world.names['view']}/{world.key}/{world.names['attempt']}/mean_map/c/0/0"
    folder.rename(folder.with_name("elsewhere"))
    folder.mkdir()
    for path in (
        data,
        f"commits/{world.names['view']}/{world.key}/000000.json",
        f"views/{world.names['view']}.json",
        "engram.json",
    ):
        assert get(world, path).status == 503, path
    assert get(world, f"snapshots/{'1' * 64}/zarr/zarr.json").status == 503
    for query in ("prefix=commits", "prefix=data", "prefix=views&delimiter=true"):
        answer = get(world, f"objects?{query}") if "delimiter" in query else None
        assert answer is None or answer.status == 503
    with pytest.raises(http.client.HTTPException):
        get(world, "objects?prefix=commits")  # cut before its last line
    headers = {"If-None-Match": "*"}
    path = f"{world.base}/runs/run-2/start.json"
    assert world.server.ask("PUT", path, key=world.keys["owner", "write"], headers=headers, body=b"{}").status == 503
    assert not list(folder.rglob("*"))


def test_a_pack_that_was_made_again_is_served(world):
    snapshot = world.store.snapshot(world.names["snapshot"])
    for _ in range(2):
        pack = make_pack(snapshot, "mean_map")
        answer = get(world, f"{pack.folder}/zarr.json")
        assert answer.status == 200
        for path in world.store.location.paths(f"packs/{snapshot.id}-mean_map"):
            world.store.location.delete(path)


def test_a_large_object_of_a_pack_is_read_in_parts_and_told_missing(world, monkeypatch):
    monkeypatch.setattr(pack_objects, "LARGE_BYTES", 10)
    pack = make_pack(world.store.snapshot(world.names["snapshot"]), "memory")
    path = f"{pack.folder}/memory/c/0/0/0/0/0"
    data = world.store.location.get(path)
    part = get(world, path, headers={"Range": "bytes=3-9"})
    assert (part.status, part.body, part.headers["content-range"]) == (206, data[3:10], f"bytes 3-9/{len(data)}")
    assert get(world, path).body == data
    world.store.location.delete(path)
    world.server.service._cache.drop(lambda _: True)
    for method in ("GET", "HEAD"):
        assert world.server.ask(method, f"{world.base}/{path}", key=world.reader).status == 500


def test_whoever_may_not_read_a_view_learns_nothing_of_its_entries(world):
    """Neither that one was withdrawn, nor that one is damaged."""
    other = world.store.put_view(example_view(name="other"))
    make_grant(world.server.service, "owner", "guest", view=other, snapshot=None, expires_days=None)
    record = Path(
        world.server.service.settings.data, "stores", "owner", f"commits/{world.names['view']}/{world.key}/000000.json"
    )
    damaged = EntryKey("P3", "CT", "spine")
    world.store.publish(world.names["view"], damaged, example_entry(3), input_sha256=digest_of("3"))
    broken = record.parents[3] / "P3/CT/spine/000000.json"
    broken.write_bytes(broken.read_bytes()[:-1])
    withdraw(world.store, patients=["P1"], reason="consent taken back")
    answers = set()
    for patient in ("P1", "P3", "P9"):
        for kind in ("data", "commits"):
            rest = f"{'0' * 32}/zarr.json" if kind == "data" else "000000.json"
            path = f"{world.base}/{kind}/{world.names['view']}/{patient}/CT/spine/{rest}"
            answer = world.server.ask("GET", path, key=world.keys["guest", "read"])
            answers.add((answer.status, answer.json["error"]["message"]))
    assert len(answers) == 1
    assert answers.pop()[0] == 403


def test_the_end_of_a_series_is_told_to_whoever_was_granted_the_view(world):
    make_grant(world.server.service, "owner", "guest", view=world.names["view"], snapshot=None, expires_days=None)
    withdraw(world.store, patients=["P1"], reason="consent taken back")
    time.sleep(WITHDRAWN_S + 0.1)
    series = f"{world.base}/commits/{world.names['view']}/{world.key}"
    statuses = [
        world.server.ask("GET", f"{series}/{n:06d}.json", key=world.keys["guest", "read"]).status for n in (0, 1)
    ]
    assert statuses == [410, 200]


def test_a_list_of_withdrawn_entries_never_goes_back(world, monkeypatch):
    """A reader that was slow to read an older list comes after one that read a newer one."""
    found = world.server.service.project_store("owner").objects
    lists = iter([{EntryKey("P1", "CT", "spine"): ()}, {}])
    monkeypatch.setattr(objects, "withdrawn", lambda *_: next(lists))
    monkeypatch.setattr(objects, "WITHDRAWN_S", -1)
    assert len(found.withdrawn_of("view")) == 1
    assert len(found.withdrawn_of("view")) == 1


def test_a_key_that_stands_twice_is_not_pinned(world):
    body = {"view": world.names["view"], "keys": [["P1", "CT", "spine", 0], ["P1", "CT", "spine", None]]}
    answer = world.server.ask("POST", f"{world.base}/snapshots", key=world.reader, body=body)
    assert (answer.status, answer.json["error"]["code"]) == (422, "invalid")


def test_a_body_is_read_only_of_whom_is_known_and_only_so_far(world):
    large = {"view": "x", "where": ["patient=" + "a" * 3_000_000]}
    for key, status in ((None, 401), (world.keys["stranger", "admin"], 403), (world.reader, 413)):
        path = f"{world.base}/snapshots/{world.names['snapshot']}/sign"
        assert world.server.ask("POST", path, key=key, body=large).status == status


def test_a_reader_of_a_granted_view_finds_it_by_its_name(world, monkeypatch):
    make_grant(world.server.service, "owner", "guest", view=world.names["view"], snapshot=None, expires_days=None)
    monkeypatch.setenv("ENGRAM_API_KEY", world.keys["guest", "read"])
    store = open_store(f"{world.server.url}{world.base}")
    assert store.resolve_view("example") == world.names["view"]
    assert store.keys(world.names["view"]) == [world.key]


def test_no_answer_tells_where_the_store_lies(world):
    folder = str(world.server.service.settings.data)
    asked = [
        ("POST", f"snapshots/{world.names['snapshot']}/sign", {"paths": [world.names["path"]]}),
        ("POST", "snapshots", {"view": "nothing"}), ("GET", f"commits/{world.names['view']}/P9/CT/spine/000000.json", None),
        ("POST", "snapshots", {"view": world.names["view"], "keys": [["P9", "CT", "spine", None]]}),
    ]  # fmt: skip
    for method, path, body in asked:
        answer = world.server.ask(method, f"{world.base}/{path}", key=world.reader, body=body)
        assert answer.status >= 400
        assert folder not in answer.body.decode(), path
