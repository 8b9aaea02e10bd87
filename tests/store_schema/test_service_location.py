"""A store behind the service is an ordinary store; what it cannot do it refuses, and says where that is done."""

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from store_schema import BulkReader, EntryKey, SnapshotStore, Store, create_store, make_pack, open_store
from store_schema.cli import main
from store_schema.copying import copy_store
from store_schema.errors import (
    AlreadyExistsError,
    BackendError,
    EntryWithdrawnError,
    NotCommittedError,
    ObjectMissingError,
    StoreError,
    UsageError,
)
from store_schema.gc import collect_garbage
from store_schema.location.service import ServiceLocation
from store_schema.remote import ServiceClient
from store_schema.testing import HookedLocation, digest_of, example_entry, example_view
from store_schema.usage import usage
from store_schema.withdraw import withdraw

KEYS = tuple(EntryKey(f"p{i}", modality, "skeleton") for i in range(3) for modality in ("CT", "PET"))
A, B = digest_of("A"), digest_of("B")


@pytest.fixture
def remote(service: Any) -> Store:
    return open_store(service.url)


@pytest.fixture
def view(remote: Store) -> str:
    """A view with the entries `KEYS`, published through the service."""
    view = remote.put_view(example_view())
    for i, key in enumerate(KEYS):
        assert remote.publish(view, key, example_entry(i), input_sha256=A).outcome == "committed"
    return view


# Reading and publishing


def test_what_is_published_through_the_service_is_in_the_store(service: Any, remote: Store, view: str) -> None:
    assert remote.view_ids() == service.store.view_ids() == [view]
    assert remote.keys(view) == list(KEYS)
    assert service.store.verify().findings == ()
    for i, key in enumerate(KEYS):
        read = remote.read(view, key)
        assert all(np.array_equal(read.arrays[name], values) for name, values in example_entry(i).arrays.items())
    assert remote.publish(view, KEYS[0], example_entry(0), input_sha256=A).outcome == "done"
    assert remote.publish(view, KEYS[0], example_entry(9), input_sha256=B).commit.number == 1
    assert [commit.input_sha256 for commit in remote.history(view, KEYS[0])] == [A, B]


def test_publishing_goes_on_through_lost_answers(service: Any, doubles: Any, view: str) -> None:
    """Whatever write loses its answer: the entry is committed once, and the writer knows it."""
    client = ServiceClient(service.url, sleep=lambda _: None)
    quick = dataclasses.replace(open_store(service.url), location=ServiceLocation(client))
    service.only = lambda asked: asked.method == "PUT"
    key = EntryKey("lost", "CT", "skeleton")
    service.spoil(doubles.LOST, times=8)
    service.spoil(503, times=2)
    published = quick.publish(view, key, example_entry(), input_sha256=A)
    assert published.outcome == "committed"
    assert [one.attempt for one in service.store.history(view, key)] == [published.commit.attempt]


def test_attempt_that_no_commit_names_is_not_there(service: Any, remote: Store, view: str) -> None:
    orphan = f"data/{view}/{KEYS[0]}/{'0' * 32}/zarr.json"
    remote.location.put(orphan, b"{}")
    remote.location.put(orphan, b"{}")
    assert service.store.location.get(orphan) == b"{}"
    with pytest.raises(ObjectMissingError):
        remote.location.get(orphan)
    assert orphan not in remote.location.paths("data")
    with pytest.raises(BackendError, match="an object with other bytes has that name"):
        remote.location.put(orphan, b"[]")


def test_parts_of_an_object(service: Any, remote: Store, doubles: Any) -> None:
    remote.put_run("r", "x", b"0123456789")
    part = remote.location.get_part
    assert part("runs/r/x", start=2, end=5) == b"234"
    assert part("runs/r/x", start=7) == part("runs/r/x", start=7, end=99) == b"789"
    assert part("runs/r/x", start=-4) == b"6789"
    assert part("runs/r/x", start=-99) == b"0123456789"
    assert (part("runs/r/x", start=3, end=3), part("runs/r/x", start=-4, end=-2)) == (b"", b"67")
    with pytest.raises(BackendError, match="begins behind the end"):
        part("runs/r/x", start=20)
    # A proxy may leave ranges out; one that gives another part is told.
    service.spoil(doubles.Reply(200, b"0123456789", {"ETag": '"x"'}))
    assert part("runs/r/x", start=2, end=5) == b"234"
    for told, body in (("bytes 3-5/10", b"345"), ("bytes 2-4/10", b"23"), ("bytes 2-3/10", b"23"), ("", b"234")):
        service.spoil(doubles.Reply(206, body, {"ETag": '"x"', "Content-Range": told}))
        with pytest.raises(BackendError, match="another part came"):
            part("runs/r/x", start=2, end=5)


def test_listing_is_that_of_the_store(service: Any, remote: Store, view: str) -> None:
    mine, theirs = remote.location, service.store.location
    for prefix in (
        "",
        "views",
        "commits",
        f"commits/{view}/p1",
        "data",
        f"data/{view}/p0/CT",
        "runs",
        "nothing",
        ".engram-probe",
    ):
        assert mine.children(prefix) == theirs.children(prefix)
        assert mine.paths(prefix) == theirs.paths(prefix)
    sizes = {one.path: one.size_bytes for one in mine.objects("data")}
    assert sizes == {one.path: one.size_bytes for one in theirs.objects("data")}
    assert all(one.modified.tzinfo == UTC for one in mine.objects("commits"))
    assert abs((mine.now() - datetime.now(UTC)).total_seconds()) < 5


def _lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


ROW = {"path": "views/x.json", "size_bytes": 1, "modified": "2026-01-01T00:00:00+00:00"}


@pytest.mark.parametrize(
    "cut", [b"", _lines(ROW), _lines(ROW) + b'{"end": 1', _lines(ROW, {"end": 2}), _lines(ROW, {"end": 1}, ROW)]
)
def test_listing_without_its_end_is_asked_for_again_and_never_taken_for_whole(
    service: Any, doubles: Any, remote: Store, cut: bytes
) -> None:
    service.spoil(doubles.Reply(200, cut))
    assert remote.location.paths("views") == []
    service.spoil(doubles.Reply(200, cut), times=3)
    with pytest.raises(BackendError, match=r"could not list .*/views: the listing was cut 3 times before its end"):
        remote.location.paths("views")


@pytest.mark.parametrize(
    "lines",
    [
        b"<html>\n</html>\n",
        _lines([1], {"end": 1}),
        _lines({"path": "views/x.json"}, {"end": 1}),
        _lines(ROW | {"size_bytes": "many"}, {"end": 1}),
        _lines(ROW | {"modified": "yesterday"}, {"end": 1}),
        _lines(ROW | {"modified": 7}, {"end": 1}),
        _lines(ROW | {"path": "views/../../etc/passwd"}, {"end": 1}),
        _lines(ROW | {"path": "/views/x"}, {"end": 1}),
        _lines(ROW | {"path": "runs/r/x"}, {"end": 1}),
        b"[" * 100_000 + b"\n",
    ],
)
def test_listing_of_another_form_is_refused(service: Any, doubles: Any, remote: Store, lines: bytes) -> None:
    service.spoil(doubles.Reply(200, lines))
    with pytest.raises(BackendError, match="no listing of a feature-store service"):
        remote.location.paths("views")


@pytest.mark.parametrize("name", ["../x", "a/b", "", 7, None])
def test_name_that_is_none_is_refused(service: Any, doubles: Any, remote: Store, name: Any) -> None:
    service.spoil(doubles.Reply(200, _lines({"name": name}, {"end": 1})))
    with pytest.raises(StoreError, match=r"no listing of a feature-store|not a path inside a store"):
        remote.location.children("views")


# Snapshots


def test_snapshot_is_made_by_the_service_and_is_the_same(service: Any, remote: Store, view: str) -> None:
    told: list[tuple[int, int]] = []
    made = remote.make_snapshot(view, KEYS, told=lambda *counts: told.append(counts))
    assert (
        made
        == service.store.make_snapshot(view)
        == remote.make_snapshot("example")
        == remote.make_snapshot(view, iter(KEYS))
    )
    assert told == [(len(KEYS), len(KEYS))]
    asked = [one for one in service.asked if one.method == "POST"]
    assert len(asked) == 3
    assert not [one for one in service.asked if one.method == "PUT" and "/snapshots" in one.path]
    assert len(remote.snapshot(made[:12])) == len(KEYS)


def test_numbers_filters_and_base_travel(service: Any, remote: Store, view: str) -> None:
    remote.publish(view, KEYS[0], example_entry(9), input_sha256=B)
    old = remote.make_snapshot(view, {KEYS[0]: 0, KEYS[1]: None})
    assert [row.number for row in remote.snapshot(old).rows] == [0, 0]
    assert [row.number for row in remote.snapshot(remote.make_snapshot(view, [KEYS[0]])).rows] == [1]
    filtered = remote.make_snapshot(view, where=["modality=PET", "patient!=p2"], base=old[:12])
    assert remote.snapshot(filtered).keys == (KEYS[1], KEYS[3])
    assert json.loads(service.asked[-1 - [one.method for one in service.asked][::-1].index("POST")].body)["base"] == old
    assert len(remote.snapshot(remote.make_snapshot(view, []))) == 0


def test_what_cannot_be_pinned_is_refused_as_by_the_store(service: Any, remote: Store, view: str) -> None:
    unknown = EntryKey("nobody", "CT", "skeleton")
    with pytest.raises(NotCommittedError, match="nobody/CT/skeleton"):
        remote.make_snapshot(view, [unknown])
    with pytest.raises(NotCommittedError, match="passes patient=x"):
        remote.make_snapshot(view, where=["patient=x*"])
    with pytest.raises(UsageError, match="is no filter"):
        remote.make_snapshot(view, where=["age>3"])
    with pytest.raises(NotCommittedError):
        remote.make_snapshot(view, base="nothing")
    other = remote.put_view(example_view(recipe=2))
    with pytest.raises(UsageError, match="is no base for it"):
        remote.make_snapshot(view, base=remote.make_snapshot(other))
    withdraw(service.store, keys=[KEYS[0]], reason="test")
    with pytest.raises(EntryWithdrawnError):
        remote.make_snapshot(view, [KEYS[0]])
    assert KEYS[0] not in remote.snapshot(remote.make_snapshot(view))


def test_cohort_is_read_through_the_service(remote: Store, view: str) -> None:
    """By the bulk reader, as Zarr, and from a pack that the service makes."""
    snapshot = remote.snapshot(remote.make_snapshot(view))
    expected = np.stack([example_entry(i).arrays["memory"] for i in range(len(KEYS))])
    assert np.array_equal(BulkReader(snapshot, ("memory",)).stack("memory", KEYS), expected)
    assert len(list(BulkReader(snapshot).read())) == len(KEYS)
    served = SnapshotStore(snapshot)
    assert served.read(f"{KEYS[0]}/memory/zarr.json")
    assert served.read(f"{KEYS[0]}/nothing") is None
    pack = make_pack(snapshot, "memory")
    assert np.array_equal(pack.load(KEYS[::-1]), expected[::-1])
    assert np.array_equal(BulkReader(snapshot).stack("memory", KEYS), expected)
    with pytest.raises(NotCommittedError, match="holds no entry"):
        make_pack(remote.snapshot(remote.make_snapshot(view, [])), "memory")


# What is done at the bucket


def test_writer_overtaken_by_a_withdrawal_is_told_so(service: Any, remote: Store, view: str) -> None:
    """It may not erase its attempt, which stays unseen until it is collected."""
    turns = iter(["consent withdrawn"])

    def overtake(_path: str, _data: bytes) -> None:
        for reason in turns:
            withdraw(service.store, keys=[KEYS[0]], reason=reason)

    late = dataclasses.replace(remote, location=HookedLocation(remote.location, overtake))
    with pytest.raises(EntryWithdrawnError, match="consent withdrawn"):
        late.publish(view, KEYS[0], example_entry(9), input_sha256=B)
    with pytest.raises(EntryWithdrawnError):
        remote.read(view, KEYS[0])
    assert remote.location.paths(f"data/{view}/{KEYS[0]}") == []


def test_what_is_withheld_after_a_withdrawal_is_nothing_wrong(
    service: Any, doubles: Any, remote: Store, view: str
) -> None:
    """The service may keep back commits of the entry and snapshots that name it; its tombstone is shown."""
    made = remote.make_snapshot(view)
    withdraw(service.store, keys=[KEYS[0]], reason="test")
    withheld = (f"commits/{view}/{KEYS[0]}/000000.json", f"snapshots/{made}")
    service.only = lambda asked: any(name in asked.path for name in withheld)
    service.spoil(doubles.refused(410, "withdrawn"), times=20)
    report = remote.verify()
    assert (report.findings, report.withdrawn) == ((), 1)
    assert len([one for one in service.asked if service.only(one)]) >= 2


def test_commit_refused_since_its_number_was_taken_meanwhile_loses_the_race(
    service: Any, doubles: Any, remote: Store, view: str
) -> None:
    """As where a withdrawal took number and data: what holds the number says why."""
    service.only = lambda asked: asked.method == "PUT" and "/commits/" in asked.path
    service.spoil(doubles.refused(422, "commit_refused", "an object is gone."), times=2)
    with pytest.raises(AlreadyExistsError):
        remote.location.create(f"commits/{view}/{KEYS[0]}/000000.json", b"other")
    with pytest.raises(StoreError, match="an object is gone"):
        remote.location.create(f"commits/{view}/{KEYS[0]}/000001.json", b"other")


def test_deleting_is_refused_with_where_it_is_done(service: Any, remote: Store, view: str, tmp_path: Path) -> None:
    before = service.store.location.paths("")
    with pytest.raises(StoreError, match=r"nothing is deleted through the service.*address of the bucket or folder"):
        remote.location.delete("runs/r/x")
    with pytest.raises(UsageError, match="collect garbage at the address of the bucket or folder"):
        collect_garbage(remote)
    with pytest.raises(UsageError, match="withdraw at the address of the bucket or folder"):
        withdraw(remote, patients=["p0"], reason="test", dry_run=True)
    with pytest.raises(UsageError, match=r"takes no copy.*address of the bucket or folder"):
        copy_store(create_store(tmp_path / "store"), remote.url)
    assert service.store.location.paths("") == before


def test_commands_work_on_a_projects_address(service: Any, remote: Store, view: str, tmp_path: Path) -> None:
    made = remote.make_snapshot(view)
    remote.put_run("run-1", "start.json", b"{}")

    def run(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(main, list(arguments))
        assert result.exit_code == status, result.output
        return result.output

    overview = run("ls", remote.url)
    assert all(name in overview for name in (view, made, "run-1", "6 entries"))
    assert run("ls", remote.url, view).split() == list(map(str, KEYS))
    assert json.loads(run("show", remote.url, "example", str(KEYS[0])))[0]["patient"] == "p0"
    assert run("snapshot", remote.url, view, "--where", "patient=p0", "--pack", "memory").count("pack memory") == 1
    assert "verified: 6 entries" in run("verify", remote.url)
    assert "total" in run("du", remote.url)
    assert service.store.store_id in run("init", remote.url)
    assert "6 rows" in run("export", "embeddings", remote.url, made, str(tmp_path / "x.parquet"))
    assert "copied 6 commits" in run("copy", remote.url, str(tmp_path / "copy"), "--runs")
    assert open_store(tmp_path / "copy").verify().findings == ()
    for command in (["gc"], ["withdraw", "--patient", "p0", "--reason", "test", "--yes"]):
        assert "address of the bucket or folder" in run(command[0], remote.url, *command[1:], status=2)


def test_what_is_counted_is_what_is_there(service: Any, remote: Store, view: str) -> None:
    report, there = usage(remote), usage(service.store)
    assert (report.objects, report.size_bytes) == (there.objects, there.size_bytes)


def test_doctor_says_what_the_key_reaches(service: Any, doubles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = service.store.location.paths("")
    result = CliRunner().invoke(main, ["doctor", service.url])
    assert result.exit_code == 0
    assert "reads and publishes (scope write)" in result.output
    assert all(name in result.output for name in ("absent object", "ranges", "listing", "clock", "fit for a store"))
    assert service.store.location.paths("") == before
    monkeypatch.setenv("ENGRAM_API_KEY", doubles.READ_KEY)
    assert "it reads (scope read)" in CliRunner().invoke(main, ["doctor", service.url]).output
    monkeypatch.setenv("ENGRAM_API_KEY", "engram_0123456789ab_" + "x" * 43)
    result = CliRunner().invoke(main, ["doctor", service.url])
    assert result.exit_code == 1
    assert "unknown, expired or revoked" in result.output
    assert "ranges" not in result.output


def test_doctor_of_another_project_tells_what_was_granted(service: Any, doubles: Any) -> None:
    told = {"id": "myeloma", "own": False, "scope": "read", "granted_views": ["a"], "granted_snapshots": []}
    service.spoil(doubles.Reply(200, json.dumps(told).encode()))
    result = CliRunner().invoke(main, ["doctor", service.url])
    assert "it reads 1 views and 0 snapshots that were granted" in result.output


def test_making_a_store_finds_the_projects(service: Any, doubles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a key that may not write, and without a second store."""
    assert create_store(service.url).store_id == service.store.store_id
    monkeypatch.setenv("ENGRAM_API_KEY", doubles.READ_KEY)
    assert open_store(service.url, create=True).store_id == service.store.store_id
    with pytest.raises(BackendError, match=r"scope 'write'"):
        open_store(service.url).put_view(example_view())


def test_records_of_runs_are_append_only(remote: Store) -> None:
    remote.put_run("run-1", "start.json", b"{}")
    remote.put_run("run-1", "start.json", b"{}")
    with pytest.raises(AlreadyExistsError, match="append-only"):
        remote.put_run("run-1", "start.json", b"[]")
    assert (remote.run_ids(), remote.run_names("run-1")) == (["run-1"], ["start.json"])
