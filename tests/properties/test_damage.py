"""Any damage to any object of an entry is found when it is read and when it is verified, and never becomes data."""

import copy
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from store_schema import BulkReader, Entry, EntryKey, Snapshot, SnapshotStore, Store
from store_schema.commits import commit_path
from store_schema.errors import EngramError, ObjectAlteredError, ObjectMissingError, SchemaError
from store_schema.gc import collect_garbage
from store_schema.location import Location
from store_schema.records import CommitRecord, canonical_json, seal, unseal
from store_schema.testing import digest_of, entries, example_entry, example_view
from store_schema.usage import usage

KEY = EntryKey("P1", "CT", "skeleton")
REFUSALS = (ObjectMissingError, ObjectAlteredError)


def _store(place: Any, entry: Entry) -> tuple[Store, CommitRecord, Snapshot]:
    store = place.new()
    view = store.put_view(example_view())
    commit = store.publish(view, KEY, entry, input_sha256=digest_of("x")).commit
    return store, commit, store.snapshot(store.make_snapshot(view))


def _check_found(store: Store, commit: CommitRecord, snapshot: Snapshot, paths: list[str], entry: Entry) -> set[str]:
    """Whoever reads a damaged object gets an error, whoever does not need it what was written; gives what it is called."""
    findings = store.verify().findings
    assert sorted(finding.path for finding in findings) == sorted(f"{commit.folder}/{p}" for p in paths)
    served, bulk = SnapshotStore(snapshot), BulkReader(snapshot, tuple(entry.arrays))
    if any("/c/" in path for path in paths):
        with pytest.raises(REFUSALS):
            list(bulk.read())
    for path in paths:
        with pytest.raises(REFUSALS):
            served.read(f"{KEY}/{path}")
    for name, values in entry.arrays.items():
        if any(path.startswith(f"{name}/c") for path in paths):
            with pytest.raises(REFUSALS):
                store.read(commit.view, KEY, arrays=[name])
            with pytest.raises(REFUSALS):
                snapshot.read(KEY, arrays=[name])
            with pytest.raises(REFUSALS):
                BulkReader(snapshot).stack(name, [KEY])
        else:
            # Metadata is read from the commit: a damaged zarr.json changes no value.
            assert store.read(commit.view, KEY, arrays=[name]).arrays[name].tobytes() == values.tobytes()
    return {finding.kind for finding in findings}


def _flipped(data: bytes, draw: Callable[[st.SearchStrategy[int]], int]) -> bytes:
    position, mask = draw(st.integers(0, len(data) - 1)), draw(st.integers(1, 255))
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


def test_any_changed_byte_of_any_object_is_found(place: Any) -> None:
    def law(entry: Entry, data: st.DataObject) -> None:
        store, commit, snapshot = _store(place, entry)
        path = data.draw(st.sampled_from(sorted(commit.objects)))
        damaged = f"{commit.folder}/{path}"
        store.location.put(damaged, _flipped(store.location.get(damaged), data.draw))
        assert _check_found(store, commit, snapshot, [path], entry) == {"altered"}

    place.hold(law, 150, entry=entries(), data=st.data())


def test_any_truncation_of_any_object_is_found(place: Any) -> None:
    def law(entry: Entry, data: st.DataObject) -> None:
        store, commit, snapshot = _store(place, entry)
        path = data.draw(st.sampled_from(sorted(commit.objects)))
        damaged = f"{commit.folder}/{path}"
        whole = store.location.get(damaged)
        store.location.put(damaged, whole[: data.draw(st.integers(0, len(whole) - 1))])
        assert _check_found(store, commit, snapshot, [path], entry) == {"truncated"}

    place.hold(law, 100, entry=entries(), data=st.data())


def test_any_deletion_of_objects_is_found(place: Any) -> None:
    def law(entry: Entry, data: st.DataObject) -> None:
        store, commit, snapshot = _store(place, entry)
        paths = data.draw(st.lists(st.sampled_from(sorted(commit.objects)), unique=True, min_size=1))
        for path in paths:
            store.location.delete(f"{commit.folder}/{path}")
        assert _check_found(store, commit, snapshot, paths, entry) == {"missing"}

    place.hold(law, 60, entry=entries(), data=st.data())


def test_any_swap_of_two_objects_is_found(place: Any) -> None:
    """Within the entry; two objects of equal bytes are the same object in two places."""

    def law(entry: Entry, data: st.DataObject) -> None:
        store, commit, snapshot = _store(place, entry)
        first, second = data.draw(
            st.lists(st.sampled_from(sorted(commit.objects)), unique=True, min_size=2, max_size=2)
        )
        _swap(store.location, f"{commit.folder}/{first}", f"{commit.folder}/{second}")
        same = commit.objects[first] == commit.objects[second]
        _check_found(store, commit, snapshot, [] if same else [first, second], entry)

    place.hold(law, 100, entry=entries(), data=st.data())


def test_any_swap_with_another_entry_is_found(place: Any) -> None:
    def law(entry: Entry, seed: int, data: st.DataObject) -> None:
        store, commit, _ = _store(place, entry)
        key = EntryKey("P2", "CT", "skeleton")
        rival = store.publish(commit.view, key, example_entry(seed), input_sha256=digest_of("y")).commit
        path = data.draw(st.sampled_from(sorted({*commit.objects} & {*rival.objects})))
        _swap(store.location, f"{commit.folder}/{path}", f"{rival.folder}/{path}")
        found = {finding.path for finding in store.verify().findings}
        differ = commit.objects[path] != rival.objects[path]
        assert found == ({f"{commit.folder}/{path}", f"{rival.folder}/{path}"} if differ else set())

    place.hold(law, 60, entry=entries(), seed=st.integers(0, 9), data=st.data())


def _swap(location: Location, first: str, second: str) -> None:
    one, two = location.get(first), location.get(second)
    location.put(first, two)
    location.put(second, one)


def test_any_swap_between_two_commits_of_an_entry_is_found(place: Any) -> None:
    """Of their objects, and of the commits themselves: an earlier content never passes for the current one."""

    def law(entry: Entry, seed: int, data: st.DataObject) -> None:
        store, old, _ = _store(place, entry)
        new = store.publish(old.view, KEY, example_entry(seed), input_sha256=digest_of("y")).commit
        path = data.draw(st.sampled_from(sorted({*old.objects} & {*new.objects})))
        _swap(store.location, f"{old.folder}/{path}", f"{new.folder}/{path}")
        found = {finding.path for finding in store.verify().findings}
        differ = old.objects[path] != new.objects[path]
        assert found == ({f"{old.folder}/{path}", f"{new.folder}/{path}"} if differ else set())
        _swap(store.location, commit_path(old.view, KEY, 0), commit_path(old.view, KEY, 1))
        with pytest.raises(SchemaError, match="another place"):
            store.read(old.view, KEY)
        assert {commit_path(old.view, KEY, number) for number in (0, 1)} <= {
            one.path for one in store.verify().findings
        }

    place.hold(law, 40, entry=entries(), seed=st.integers(0, 9), data=st.data())


JUNK = (None, True, 0, -1, 3.5, 10**30, "", "x", "../x", "0" * 64, [], {}, [[]], {"a": None}, ["bytes", "zstd"])


def test_sealed_commit_of_any_content_is_read_as_it_says_or_refused(place: Any) -> None:
    """Another program may seal what it likes: no reader and no tool breaks, and no other value is read."""

    def law(data: st.DataObject) -> None:
        entry = example_entry()
        store, commit, _ = _store(place, entry)
        path = commit_path(commit.view, KEY, 0)
        record = json.loads(unseal(store.location.get(path), where=path))
        for _ in range(data.draw(st.integers(1, 2))):
            _change_one(record, data)
        store.location.put(path, seal(canonical_json(record)))
        for act in (store.verify, partial(collect_garbage, store), partial(usage, store)):
            assert act() is not None
        try:
            read = store.read(commit.view, KEY).arrays
        except EngramError:
            assert not store.verify().ok
            return
        if store.verify().ok:
            assert {name: read[name].tobytes() for name in read} == {n: v.tobytes() for n, v in entry.arrays.items()}

    place.hold(law, 150, data=st.data())


def _junk(data: st.DataObject) -> Any:
    """Anything, in a copy that may be changed again."""
    return copy.deepcopy(data.draw(st.sampled_from(JUNK)))


def _change_one(record: dict[str, Any], data: st.DataObject) -> None:
    """Puts anything in one place of a record, or takes that away, or adds to it; its address stays."""
    node: Any = record
    key: Any = data.draw(st.sampled_from(sorted({*record} - {"view", "patient", "modality", "roi", "number"})))
    while isinstance(node[key], dict | list) and node[key] and data.draw(st.integers(0, 3)):
        node = node[key]
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
    match data.draw(st.sampled_from(["put", "put", "take", "add"])):
        case "put":
            node[key] = _junk(data)
        case "take":
            del node[key]
        case _ if isinstance(node, dict):
            node[data.draw(st.sampled_from(["x", "../../y", "memory/c/0", "a//b", ""]))] = data.draw(
                st.sampled_from(JUNK)
            )
        case _:
            node.append(_junk(data))


def test_every_changed_byte_of_a_commit_is_found(place: Any) -> None:
    """Each position, one bit after another; `verify` asked at every eighth."""
    store, commit, snapshot = _store(place, Entry({"memory": example_entry().arrays["memory"]}, {}))
    path = commit_path(commit.view, KEY, 0)
    whole = store.location.get(path)
    for i in place.positions(len(whole)):
        store.location.put(path, whole[:i] + bytes([whole[i] ^ (1 << (i % 8))]) + whole[i + 1 :])
        _check_commit_refused(store, commit, snapshot, verify=i % 8 == 0)
    store.location.put(path, whole)
    assert store.verify().ok


def test_every_truncation_of_a_commit_is_found(place: Any) -> None:
    store, commit, snapshot = _store(place, Entry({"memory": example_entry().arrays["memory"]}, {}))
    path = commit_path(commit.view, KEY, 0)
    whole = store.location.get(path)
    for length in place.positions(len(whole)):
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


def test_deleted_commit_is_found_by_every_later_one_and_by_snapshots(place: Any) -> None:
    store, commit, snapshot = _store(place, example_entry())
    store.location.delete(commit_path(commit.view, KEY, 0))
    with pytest.raises(ObjectMissingError):
        snapshot.read(KEY)
    report = store.verify()
    assert {finding.kind for finding in report.findings} == {"missing"}
    assert report.orphans == (commit.folder,)


def test_arrays_of_zeros_are_legal_and_their_loss_is_found(place: Any) -> None:
    """An absent chunk reads as zeros in plain Zarr: here it must be told from zeros that were written."""
    zeros = Entry({name: np.zeros_like(values) for name, values in example_entry().arrays.items()}, {})
    store, commit, snapshot = _store(place, zeros)
    assert store.verify().ok
    read = store.read(commit.view, KEY)
    assert all(not values.any() and values.shape == zeros.arrays[name].shape for name, values in read.arrays.items())
    for path in sorted(commit.objects):
        whole = store.location.get(f"{commit.folder}/{path}")
        store.location.delete(f"{commit.folder}/{path}")
        _check_found(store, commit, snapshot, [path], zeros)
        store.location.put(f"{commit.folder}/{path}", whole)
    assert store.verify().ok
