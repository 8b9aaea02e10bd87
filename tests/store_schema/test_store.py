"""The store's own duties beyond what every backend promises: what it injects, refuses, and gives an address for."""

import dataclasses

import numpy as np
import pytest
import zarr

from store_schema import EntryKey, Source, Store, create_store, open_store, url
from store_schema.errors import AlreadyExistsError, InvalidKeyError, NotCommittedError, SchemaError, UsageError
from store_schema.testing import BlindLocation, HookedLocation, digest_of, example_entry, example_view

KEY = EntryKey("new", "PET", "skeleton")


def test_clock_and_attempt_come_from_outside(store: Store, view: str) -> None:
    fixed = dataclasses.replace(store, clock=lambda: "2026-01-02T03:04:05+00:00", new_attempt=lambda: "0" * 32)
    commit = fixed.publish(view, KEY, example_entry(), input_sha256=digest_of("x")).commit
    assert (commit.written_at, commit.attempt) == ("2026-01-02T03:04:05+00:00", "0" * 32)
    assert commit.folder == f"data/{view}/new/PET/skeleton/{'0' * 32}"


def test_order_of_commits_does_not_follow_the_clock(store: Store, view: str) -> None:
    clocks = iter(["2026-01-02T00:00:00+00:00", "1999-01-01T00:00:00+00:00"])
    odd = dataclasses.replace(store, clock=lambda: next(clocks))
    for text in "ab":
        odd.publish(view, KEY, example_entry(), input_sha256=digest_of(text))
    assert store.current(view, KEY).input_sha256 == digest_of("b")


def test_provenance_is_in_the_commit_and_not_in_the_data(store: Store, view: str) -> None:
    source = Source(role="CT", path="/hospital/patient/ct.nii.gz", size_bytes=5, mtime_ns=7)
    commit = store.publish(
        view,
        KEY,
        example_entry(),
        input_sha256=digest_of("x"),
        sources=[source],
        versions={"numpy": "2"},
        timings_s={"a": 0.5},
    ).commit
    assert (commit.sources, commit.versions, commit.timings_s) == ((source,), {"numpy": "2"}, {"a": 0.5})
    assert store.current(view, KEY) == commit
    for path in store.location.paths(commit.folder):
        assert b"hospital" not in store.location.get(path)


@pytest.mark.parametrize("digest", ["", "abc", "A" * 64, "0" * 65])
def test_input_that_is_no_digest_is_wrong_use(store: Store, view: str, digest: str) -> None:
    with pytest.raises(UsageError, match=r"new/PET/skeleton was not written: input_sha256"):
        store.publish(view, KEY, example_entry(), input_sha256=digest)
    assert store.history(view, KEY) == []


@pytest.mark.parametrize("view_id", ["../../etc", "a/b", "", "x" * 100])
def test_view_id_cannot_leave_the_store(store: Store, view_id: str) -> None:
    for act in (store.keys, lambda v: store.current(v, KEY), lambda v: store.read(v, KEY, number=0)):
        with pytest.raises(InvalidKeyError):
            act(view_id)
    with pytest.raises(NotCommittedError):
        store.resolve_view(view_id)


def test_view_that_two_writers_create_at_once_is_there_for_both(store: Store) -> None:
    """S3 may answer 409 to both, when neither has created it yet."""
    clashes = []

    def clash(path: str, _data: bytes) -> None:
        if not clashes:
            clashes.append(path)
            raise AlreadyExistsError("409")

    view = dataclasses.replace(store, location=HookedLocation(store.location, clash)).put_view(example_view())
    assert clashes == [f"views/{view}.json"]
    assert store.view(view) == example_view()


def test_record_where_no_entry_can_be_is_told_with_its_place(store: Store, view: str) -> None:
    store.location.put(f"commits/{view}/a copy/CT/skeleton/000000.json", b"{}")
    with pytest.raises(SchemaError, match=f"commits/{view}/a copy/CT/skeleton/000000.json lies where no entry can"):
        store.keys(view)


@pytest.mark.parametrize("name", ["../engram.json", "a/b", "", ".hidden"])
def test_run_records_cannot_leave_the_store(store: Store, name: str) -> None:
    for run_id, record in ((name, "x"), ("x", name)):
        with pytest.raises(InvalidKeyError):
            store.put_run(run_id, record, b"")
        with pytest.raises(InvalidKeyError):
            store.read_run(run_id, record)


def test_store_works_by_keys_where_listing_is_absent(store: Store, view: str, keys) -> None:
    """As over HTTP: whole ids are enough for reading, publishing and pinning."""
    blind = dataclasses.replace(store, location=BlindLocation(store.location))
    assert np.array_equal(blind.read(view, keys[0]).arrays["memory"], example_entry(0).arrays["memory"])
    assert blind.publish(view, KEY, example_entry(), input_sha256=digest_of("x")).commit.number == 0
    assert blind.snapshot(blind.make_snapshot(view, [*keys, KEY])).keys == (*keys, KEY)


def test_earlier_commits_stay_readable(store: Store, view: str, keys) -> None:
    store.publish(view, keys[0], example_entry(9), input_sha256=digest_of("x"))
    for number, seed in ((0, 0), (1, 9), (None, 9)):
        read = store.read(view, keys[0], number=number)
        assert np.array_equal(read.arrays["mask"], example_entry(seed).arrays["mask"])


def test_only_arrays_asked_for_are_read(store: Store, view: str, keys) -> None:
    commit = store.current(view, keys[0])
    store.location._place(f"{commit.folder}/memory/c/0/0/0/0").unlink()
    assert set(store.read(view, keys[0], arrays=["mean_map", "preview"]).arrays) == {"mean_map", "preview"}


def test_url_gives_the_zarr_group_of_the_current_commit(store: Store, view: str, keys) -> None:
    address = url(store.url, "example", str(keys[0]))
    assert address == url(store, view, keys[0]) == f"{store.url}/{store.current(view, keys[0]).folder}"
    store.publish(view, keys[0], example_entry(9), input_sha256=digest_of("x"))
    for found, seed in ((address, 0), (url(store, view, keys[0]), 9), (url(store, view, keys[0], number=0), 0)):
        group = zarr.open_group(found, mode="r")
        assert set(group.array_keys()) == {"memory", "mean_map", "mask", "preview"}
        assert np.array_equal(group["memory"][...], example_entry(seed).arrays["memory"])
    with pytest.raises(NotCommittedError):
        url(store, view, "nobody/CT/skeleton")


def test_url_of_a_store_in_memory_is_wrong_use() -> None:
    memory = create_store("memory://test-url")
    view = memory.put_view(example_view())
    memory.publish(view, KEY, example_entry(), input_sha256=digest_of("x"))
    with pytest.raises(UsageError, match="lives in this process"):
        url(memory, view, KEY)


def test_stores_of_one_folder_see_each_other(store: Store, view: str) -> None:
    other = open_store(f"file://{store.url}")
    other.publish(view, KEY, example_entry(), input_sha256=digest_of("x"))
    assert store.state(view, KEY, digest_of("x")) == "done"
    assert other.store_id == store.store_id
