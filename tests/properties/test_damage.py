"""Any damage to any object of an entry is found when it is read and when it is verified, and never becomes data."""

from collections.abc import Callable
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_schema import Entry, EntryKey, Snapshot, SnapshotStore, Store, create_store
from store_schema.commits import commit_path
from store_schema.errors import ObjectAlteredError, ObjectMissingError
from store_schema.location import Location
from store_schema.records import CommitRecord
from store_schema.testing import digest_of, entries, example_entry, example_view

KEY = EntryKey("P1", "CT", "skeleton")
REFUSALS = (ObjectMissingError, ObjectAlteredError)


def _store(entry: Entry) -> tuple[Store, CommitRecord, Snapshot]:
    store = create_store(f"memory://{uuid4().hex}")
    view = store.put_view(example_view())
    commit = store.publish(view, KEY, entry, input_sha256=digest_of("x")).commit
    return store, commit, store.snapshot(store.make_snapshot(view))


def _check_found(store: Store, commit: CommitRecord, snapshot: Snapshot, paths: list[str], entry: Entry) -> None:
    """Whoever reads a damaged object gets an error, whoever does not need it the values that were written."""
    assert sorted(finding.path for finding in store.verify().findings) == sorted(f"{commit.folder}/{p}" for p in paths)
    served = SnapshotStore(snapshot)
    for path in paths:
        with pytest.raises(REFUSALS):
            served.read(f"{KEY}/{path}")
    for name, values in entry.arrays.items():
        if any(path.startswith(f"{name}/c") for path in paths):
            with pytest.raises(REFUSALS):
                store.read(commit.view, KEY, arrays=[name])
            with pytest.raises(REFUSALS):
                snapshot.read(KEY, arrays=[name])
        else:
            # Metadata is read from the commit: a damaged zarr.json changes no value.
            assert store.read(commit.view, KEY, arrays=[name]).arrays[name].tobytes() == values.tobytes()


def _flipped(data: bytes, draw: Callable[[st.SearchStrategy[int]], int]) -> bytes:
    position, mask = draw(st.integers(0, len(data) - 1)), draw(st.integers(1, 255))
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


@settings(max_examples=150, deadline=None)
@given(entry=entries(), data=st.data())
def test_any_changed_byte_of_any_object_is_found(entry: Entry, data: st.DataObject) -> None:
    store, commit, snapshot = _store(entry)
    path = data.draw(st.sampled_from(sorted(commit.objects)))
    place = f"{commit.folder}/{path}"
    store.location.put(place, _flipped(store.location.get(place), data.draw))
    _check_found(store, commit, snapshot, [path], entry)


@settings(max_examples=100, deadline=None)
@given(entry=entries(), data=st.data())
def test_any_truncation_of_any_object_is_found(entry: Entry, data: st.DataObject) -> None:
    store, commit, snapshot = _store(entry)
    path = data.draw(st.sampled_from(sorted(commit.objects)))
    place = f"{commit.folder}/{path}"
    whole = store.location.get(place)
    store.location.put(place, whole[: data.draw(st.integers(0, len(whole) - 1))])
    _check_found(store, commit, snapshot, [path], entry)


@settings(max_examples=60, deadline=None)
@given(entry=entries(), data=st.data())
def test_any_deletion_of_objects_is_found(entry: Entry, data: st.DataObject) -> None:
    store, commit, snapshot = _store(entry)
    paths = data.draw(st.lists(st.sampled_from(sorted(commit.objects)), unique=True, min_size=1))
    for path in paths:
        store.location.delete(f"{commit.folder}/{path}")
    _check_found(store, commit, snapshot, paths, entry)


@settings(max_examples=100, deadline=None)
@given(entry=entries(), data=st.data())
def test_any_swap_of_two_objects_is_found(entry: Entry, data: st.DataObject) -> None:
    """Within the entry; two objects of equal bytes are the same object in two places."""
    store, commit, snapshot = _store(entry)
    first, second = data.draw(st.lists(st.sampled_from(sorted(commit.objects)), unique=True, min_size=2, max_size=2))
    _swap(store.location, f"{commit.folder}/{first}", f"{commit.folder}/{second}")
    same = commit.objects[first] == commit.objects[second]
    _check_found(store, commit, snapshot, [] if same else [first, second], entry)


@settings(max_examples=60, deadline=None)
@given(entry=entries(), seed=st.integers(0, 9), data=st.data())
def test_any_swap_with_another_entry_is_found(entry: Entry, seed: int, data: st.DataObject) -> None:
    store, commit, _ = _store(entry)
    key = EntryKey("P2", "CT", "skeleton")
    rival = store.publish(commit.view, key, example_entry(seed), input_sha256=digest_of("y")).commit
    path = data.draw(st.sampled_from(sorted({*commit.objects} & {*rival.objects})))
    _swap(store.location, f"{commit.folder}/{path}", f"{rival.folder}/{path}")
    found = {finding.path for finding in store.verify().findings}
    differ = commit.objects[path] != rival.objects[path]
    assert found == ({f"{commit.folder}/{path}", f"{rival.folder}/{path}"} if differ else set())


def _swap(location: Location, first: str, second: str) -> None:
    one, two = location.get(first), location.get(second)
    location.put(first, two)
    location.put(second, one)


def test_every_changed_byte_of_a_commit_is_found() -> None:
    """Each position, one bit after another; `verify` asked at every eighth."""
    store, commit, snapshot = _store(Entry({"memory": example_entry().arrays["memory"]}, {}))
    path = commit_path(commit.view, KEY, 0)
    whole = store.location.get(path)
    for i in range(len(whole)):
        store.location.put(path, whole[:i] + bytes([whole[i] ^ (1 << (i % 8))]) + whole[i + 1 :])
        _check_commit_refused(store, commit, snapshot, verify=i % 8 == 0)
    store.location.put(path, whole)
    assert store.verify().ok


def test_every_truncation_of_a_commit_is_found() -> None:
    store, commit, snapshot = _store(Entry({"memory": example_entry().arrays["memory"]}, {}))
    path = commit_path(commit.view, KEY, 0)
    whole = store.location.get(path)
    for length in range(len(whole)):
        store.location.put(path, whole[:length])
        _check_commit_refused(store, commit, snapshot, verify=length % 8 == 0)


def _check_commit_refused(store: Store, commit: CommitRecord, snapshot: Snapshot, *, verify: bool) -> None:
    with pytest.raises(ObjectAlteredError):
        store.read(commit.view, KEY)
    with pytest.raises(ObjectAlteredError):
        snapshot.read(KEY)
    if verify:
        kinds = {(finding.kind, finding.path.split(": ", 1)[0]) for finding in store.verify().findings}
        assert ("altered", commit_path(commit.view, KEY, 0)) in kinds
        assert ("altered", f"snapshots/{snapshot.id}.jsonl.zst") in kinds


def test_deleted_commit_is_found_by_every_later_one_and_by_snapshots() -> None:
    store, commit, snapshot = _store(example_entry())
    store.location.delete(commit_path(commit.view, KEY, 0))
    with pytest.raises(ObjectMissingError):
        snapshot.read(KEY)
    report = store.verify()
    assert {finding.kind for finding in report.findings} == {"missing"}
    assert report.orphans == (commit.folder,)


def test_arrays_of_zeros_are_legal_and_their_loss_is_found() -> None:
    """An absent chunk reads as zeros in plain Zarr: here it must be told from zeros that were written."""
    zeros = Entry({name: np.zeros_like(values) for name, values in example_entry().arrays.items()}, {})
    store, commit, snapshot = _store(zeros)
    assert store.verify().ok
    read = store.read(commit.view, KEY)
    assert all(not values.any() and values.shape == zeros.arrays[name].shape for name, values in read.arrays.items())
    for path in sorted(commit.objects):
        whole = store.location.get(f"{commit.folder}/{path}")
        store.location.delete(f"{commit.folder}/{path}")
        _check_found(store, commit, snapshot, [path], zeros)
        store.location.put(f"{commit.folder}/{path}", whole)
    assert store.verify().ok
