"""What the service takes of a writer who has no credentials of the bucket: create-only, in order, and only what is what it says."""

import json
import os
import time
from pathlib import Path

import pytest

from services.database.migrate import migrate
from services.database.models import EntryRow, ViewRow
from services.objects import WITHDRAWN_S
from services.service import Service
from store_schema import EntryKey, ViewSpec, create_store
from store_schema.arrays import content_sha256
from store_schema.commits import FRESH_S, commit_path
from store_schema.records import ObjectRecord, TombstoneRecord, sha256
from store_schema.testing import digest_of, example_entry, example_view
from store_schema.views import view_path
from store_schema.withdraw import withdraw

KEY = EntryKey("P7", "PET", "skeleton")
CREATE = {"If-None-Match": "*"}


class Drafts:
    """Entries as another store holds them, to be published object by object."""

    def __init__(self, folder):
        self.store = create_store(folder)
        self.view = self.store.put_view(example_view())

    def entry(self, seed, key=KEY):
        """Objects by path, and the commit."""
        commit = self.store.publish(self.view, key, example_entry(seed), input_sha256=digest_of(str(seed))).commit
        objects = {
            f"{commit.folder}/{path}": self.store.location.get(f"{commit.folder}/{path}") for path in commit.objects
        }
        return objects, commit


@pytest.fixture
def drafts(tmp_path):
    return Drafts(tmp_path / "drafts")


@pytest.fixture
def world(settings, beside):
    service = Service.open(settings.model_copy(update={"max_object_bytes": 2**20}))
    migrate(service.database)
    with beside("serving").running(service) as server:
        world = beside("route_world").World(server)
        world.store = service.store("owner")
        yield world


def put(world, path, data, *, scope="write", headers=CREATE):
    return world.server.ask(
        "PUT", f"/v1/projects/owner/{path}", key=world.keys["owner", scope], headers=headers, body=data
    )


def put_all(world, objects):
    for path, data in objects.items():
        assert put(world, path, data).status == 201, path


def put_commit(world, commit):
    return put(world, commit_path(commit.view, commit.key, commit.number), commit.to_bytes())


def test_an_entry_published_object_by_object_is_the_same_entry(world, drafts):
    objects, commit = drafts.entry(7)
    put_all(world, objects)
    assert world.store.current(commit.view, KEY) is None
    assert put_commit(world, commit).status == 201
    assert world.store.current(commit.view, KEY) == commit
    assert world.store.verify().ok
    again = world.server.ask(
        "GET", f"/v1/projects/owner/entries?patient={KEY.patient}", key=world.keys["owner", "read"]
    )
    assert [one["content_sha256"] for one in again.json["items"]] == [commit.content_sha256]


def test_the_same_bytes_again_are_fine_and_others_are_refused(world, drafts):
    objects, commit = drafts.entry(7)
    put_all(world, objects)
    path, data = next(iter(objects.items()))
    assert put(world, path, data).status == 200
    assert put(world, path, data + b"x").status == 412
    assert world.store.location.get(path) == data
    assert [put_commit(world, commit).status for _ in range(2)] == [201, 200]
    other = commit.model_copy(update={"input_sha256": digest_of("other")})
    assert put_commit(world, other).status == 412
    assert world.store.current(commit.view, KEY) == commit


def test_without_if_none_match_nothing_is_written(world, drafts):
    path, data = next(iter(drafts.entry(7)[0].items()))
    for headers in ({}, {"If-None-Match": '"etag"'}, {"If-Match": "*"}):
        answer = put(world, path, data, headers=headers)
        assert (answer.status, answer.json["error"]["code"]) == (428, "precondition_required")
    assert not world.store.location.exists(path)


def broken(objects, commit, arrays):
    """Commits that are not what they say, by what is wrong with them."""
    change = commit.model_copy
    path = "memory/c/0/0/0/0"
    size, digest = commit.objects[path].size_bytes, commit.objects[path].sha256
    less = {name: record for name, record in commit.objects.items() if name != path}
    yield (
        "another size",
        change(update={"objects": commit.objects | {path: ObjectRecord(size_bytes=size + 1, sha256=digest)}}),
    )
    yield (
        "another digest",
        change(update={"objects": commit.objects | {path: ObjectRecord(size_bytes=size, sha256="0" * 64)}}),
    )
    yield "a chunk left out", change(update={"objects": less})
    yield "an object too many", change(update={"objects": commit.objects | {"memory/c/9/9/9/9": commit.objects[path]}})
    yield "another content", change(update={"content_sha256": "0" * 64})
    yield "other attributes", change(update={"attributes": {"kept_slices_z": [1]}})
    array = {n: m for n, m in commit.arrays.items() if n != "mask"}
    yield (
        "an array whose objects no digest covers",
        change(
            update={"arrays": array, "content_sha256": content_sha256({n: a for n, a in arrays.items() if n != "mask"})}
        ),
    )
    yield "no memory", change(update={"arrays": {n: m for n, m in commit.arrays.items() if n != "memory"}})
    yield "a path that climbs", change(update={"objects": commit.objects | {"../x": commit.objects[path]}})
    yield "another attempt", change(update={"attempt": "0" * 32})
    swapped = {**commit.arrays, "memory": {**commit.arrays["memory"], "shape": [1, 1, 1, 1]}}
    yield "other metadata", change(update={"arrays": swapped})


def test_a_commit_that_is_not_what_it_says_is_refused_and_stays_invisible(world, drafts):
    objects, commit = drafts.entry(7)
    put_all(world, objects)
    arrays = drafts.store.read(commit.view, KEY).arrays
    for what, wrong in broken(objects, commit, arrays):
        answer = put_commit(world, wrong)
        assert answer.status == 422, (what, answer.status, answer.body)
        assert world.store.current(commit.view, KEY) is None, what
    assert put_commit(world, commit).status == 201


def test_a_commit_before_its_objects_is_refused(world, drafts):
    objects, commit = drafts.entry(7)
    answer = put_commit(world, commit)
    assert (answer.status, answer.json["error"]["code"]) == (422, "commit_refused")
    put_all(world, objects)
    assert put_commit(world, commit).status == 201


def test_commits_follow_each_other_without_gaps(world, drafts):
    first, second, third = (drafts.entry(seed) for seed in (7, 8, 9))
    for objects, _ in (first, second, third):
        put_all(world, objects)
    skipped = put_commit(world, second[1])
    assert (skipped.status, skipped.json["error"]["code"]) == (409, "not_next")
    assert put_commit(world, first[1]).status == 201
    forged = second[1].model_copy(update={"earlier_inputs": (digest_of("forged"),)})
    assert put_commit(world, forged).status == 409
    assert put_commit(world, second[1]).status == 201
    assert put_commit(world, third[1]).status == 201
    assert [one.number for one in world.store.history(first[1].view, KEY)] == [0, 1, 2]
    assert world.store.verify().ok


def test_an_entry_of_another_layout_than_its_view_is_refused(world, drafts):
    view = example_view()
    narrow = view.model_copy(update={"layout": view.layout.model_copy(update={"shape": (2, 3, 4, 5)})})
    assert put(world, view_path(narrow.view_id), narrow.to_bytes()).status == 201
    objects, commit = drafts.entry(7)
    moved = commit.model_copy(update={"view": narrow.view_id})
    put_all(world, {path.replace(commit.view, narrow.view_id): data for path, data in objects.items()})
    answer = put_commit(world, moved)
    assert (answer.status, answer.json["error"]["code"]) == (422, "commit_refused")
    assert "declares" in answer.json["error"]["message"]


def test_a_view_must_give_its_own_id_and_be_there_before_its_entries(world, drafts):
    view = example_view(name="other")
    assert put(world, view_path(example_view().view_id), view.to_bytes()).status == 422
    assert put(world, view_path(view.view_id), json.dumps(json.loads(view.to_bytes()), indent=1).encode()).status == 422
    objects, _ = drafts.entry(7)
    path, data = next(iter(objects.items()))
    absent = path.replace(drafts.view, view.view_id)
    refused = put(world, absent, data)
    assert (refused.status, refused.json["error"]["code"]) == (409, "no_view")
    assert [put(world, view_path(view.view_id), view.to_bytes()).status for _ in range(2)] == [201, 200]
    assert put(world, absent, data).status == 201
    assert ViewSpec.model_validate_json(world.store.location.get(view_path(view.view_id))) == view


def test_a_withdrawn_entry_takes_nothing_any_more(world, drafts):
    objects, commit = drafts.entry(7)
    put_all(world, objects)
    assert put_commit(world, commit).status == 201
    later, after = drafts.entry(8)
    withdraw(world.store, patients=["P7"], reason="consent taken back")
    time.sleep(WITHDRAWN_S + 0.1)
    answers = [put(world, *next(iter(later.items()))), put_commit(world, after)]
    assert [answer.status for answer in answers] == [410, 410]


def test_what_is_made_beside_the_bucket_is_not_written_here(world):
    view, tombstone = world.names["view"], "commits/{}/P1/CT/spine/000001.json".format(world.names["view"])
    record = TombstoneRecord(
        view=view,
        patient="P1",
        modality="CT",
        roi="spine",
        number=1,
        earlier_inputs=(digest_of("0"),),
        written_at="x",
        reason="r",
    )
    for path, data in (
        (tombstone, record.to_bytes()), (f"withdrawn/{view}/000000.json", b"{}"), ("engram.json", b"{}"),
        (f"snapshots/{'0' * 64}.jsonl.zst", b"x"), (f"packs/{'0' * 64}-memory/000000.json", b"{}"),
    ):  # fmt: skip
        assert put(world, path, data).status in {403, 405}, path
    assert world.store.current(view, world.key) is not None


@pytest.mark.parametrize(
    "path",
    [
        "data/VIEW/P7/PET/skeleton/not-an-attempt/zarr.json", "data/VIEW/P7/PET/skeleton/ATTEMPT/../zarr.json",
        "data/VIEW/P7/PET/skeleton/ATTEMPT/other/c/0", "data/VIEW/P7/PET/skeleton/ATTEMPT/memory/c/x",
        "data/VIEW/P%207/PET/skeleton/ATTEMPT/zarr.json",
        "data/VIEW/../PET/skeleton/ATTEMPT/zarr.json", "data/VIEW/zarr.json/PET/skeleton/ATTEMPT/zarr.json", "runs/a..b/x",
        "runs/a/b%20c",
        "data/VIEW/P7/PET/skeleton/ATTEMPT/memory/c/0%00", "commits/VIEW/P7/PET/skeleton/1.json",
        "commits/VIEW/P7/PET/skeleton/0000000.json",
    ],
)  # fmt: skip
def test_names_that_no_store_has_are_refused(world, path):
    place = path.replace("VIEW", world.names["view"]).replace("ATTEMPT", "ab" * 16)
    before = world.store.location.paths("")
    assert put(world, place, b"x").status in {404, 422}
    assert world.store.location.paths("") == before


def test_a_body_too_large_is_refused_before_it_is_read_whole(world, beside):
    path = f"data/{world.names['view']}/P7/PET/skeleton/{'ab' * 16}/memory/c/0/0/0/0"
    assert put(world, path, bytes(2**20 + 1)).status == 413
    # Without a length: refused as soon as it is too much.
    chunks = b"".join(b"10000\r\n" + bytes(0x10000) + b"\r\n" for _ in range(17)) + b"0\r\n\r\n"
    headers = CREATE | {"Transfer-Encoding": "chunked"}
    send = beside("serving").chunked
    assert send(world.server, f"/v1/projects/owner/{path}", world.keys["owner", "write"], headers, chunks) == 413
    assert not world.store.location.exists(path)
    assert put(world, path, b"").status == 422


def test_publishing_tells_the_catalogue_and_the_audit(world, drafts):
    objects, commit = drafts.entry(7)
    put_all(world, objects)
    put_commit(world, commit)
    put(world, "runs/run-9/start.json", b"{}")
    service = world.server.service
    row = service.database.run(lambda session: session.get(EntryRow, ("owner", commit.view, "P7", "PET", "skeleton")))
    assert (row.number, row.commit_sha256, row.attempt) == (0, sha256(commit.to_bytes()), commit.attempt)
    assert service.database.run(lambda session: session.get(ViewRow, ("owner", commit.view))) is not None
    service.audit.flush()
    rows = world.server.ask("GET", "/v1/projects/owner/audit?limit=1000", key=world.keys["owner", "admin"]).json[
        "items"
    ]
    published = {(row["target"], row["key_id"]) for row in rows if row["action"] == "publish"}
    writer = world.keys["owner", "write"].split("_")[1]
    assert published == {(commit.view, writer), ("run run-9", writer)}


def test_a_path_names_a_view_by_its_whole_id(world, drafts):
    """A name or a beginning would make entries that no reader of the view finds."""
    objects, commit = drafts.entry(7)
    for name in ("example", commit.view[:-3]):
        path, data = next(iter(objects.items()))
        assert put(world, path.replace(commit.view, name), data).status == 422
        wrong = commit.model_copy(update={"view": name})
        assert put_commit(world, wrong).status == 422
    assert world.store.verify().ok


def test_an_attempt_is_one_commits_own(world, drafts):
    first, second = drafts.entry(7), drafts.entry(8)
    put_all(world, first[0])
    assert put_commit(world, first[1]).status == 201
    again = second[1].model_copy(
        update={
            name: getattr(first[1], name) for name in ("attempt", "objects", "arrays", "attributes", "content_sha256")
        }
    )
    assert put_commit(world, again).status == 422
    assert put_commit(world, first[1]).status == 200


def test_an_attempt_that_gc_may_be_erasing_is_not_committed(world, drafts):
    objects, commit = drafts.entry(7)
    put_all(world, objects)
    root = Path(world.server.service.settings.data, "stores", "owner")
    old = time.time() - FRESH_S - 60
    for path in objects:
        os.utime(root / path, (old, old))
    answer = put_commit(world, commit)
    assert (answer.status, answer.json["error"]["code"]) == (409, "stale_attempt")
