"""What a store promises when nothing goes wrong: places, views, entries, snapshots, runs; knows no backend."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from store_schema.commits import commit_path
from store_schema.errors import (
    AlreadyExistsError,
    NotCommittedError,
    ObjectMissingError,
    SchemaError,
    StoreError,
    StoreNotFoundError,
)
from store_schema.records import CommitRecord
from store_schema.store import Store, create_store, open_store
from store_schema.testing.base import KEY, OTHER, A, B, Backend, is_example
from store_schema.testing.doubles import example_entry, example_view
from store_schema.zarr_store import SnapshotStore


class PromisesContract(Backend):
    """Each promise of SPEC.md, asked through the public interface."""

    # Places

    def test_absent_object_is_missing_and_listed_nowhere(self, store: Store) -> None:
        """An absent name is absent in every operation."""
        with pytest.raises(ObjectMissingError):
            store.location.get("data/nothing")
        assert store.location.size_bytes("data/nothing") is None
        assert not store.location.exists("data/nothing")
        assert store.location.paths("data") == []
        assert store.location.children("data") == []

    def test_written_object_is_what_was_written(self, store: Store, url: str) -> None:
        """Bytes, size and names are those that were given; a folder is no object."""
        store.location.put("data/b/2", b"two")
        store.location.create("data/b/1", b"")
        assert self.raw_get(url, "data/b/2") == store.location.get("data/b/2") == b"two"
        assert (store.location.size_bytes("data/b/2"), store.location.size_bytes("data/b/1")) == (3, 0)
        assert store.location.paths("data") == ["data/b/1", "data/b/2"]
        assert store.location.children("data") == ["b"]
        assert store.location.size_bytes("data/b") is None
        with pytest.raises(ObjectMissingError):
            store.location.get("data/b")

    def test_create_refuses_a_name_that_is_taken(self, store: Store) -> None:
        """The first bytes stay."""
        store.location.create("runs/r/x", b"first")
        with pytest.raises(AlreadyExistsError):
            store.location.create("runs/r/x", b"second")
        assert store.location.get("runs/r/x") == b"first"

    @pytest.mark.parametrize("path", ["", "/etc/x", "../x", "a/../../x", "a//b", "a/./b", "a/", "a\\b", "a\nb", "a\0b"])
    def test_no_path_leads_out_of_the_store(self, store: Store, path: str) -> None:
        """Neither to read nor to write."""
        readers = [store.location.get, store.location.get_part, store.location.size_bytes]
        listers = [store.location.paths, store.location.children] if path else []
        for act in (*readers, *listers, store.location.delete):
            with pytest.raises(StoreError, match="not a path inside a store"):
                act(path)
        for write in (store.location.put, store.location.create):
            with pytest.raises(StoreError, match="not a path inside a store"):
                write(path, b"x")

    # Stores and views

    def test_store_is_created_once(self, store: Store, url: str) -> None:
        """Making it again finds the one that is there."""
        assert create_store(url).store_id == open_store(url, create=True).store_id == store.store_id

    def test_place_without_a_store_is_refused(self, url: str) -> None:
        """And nothing is written by looking."""
        with pytest.raises(StoreNotFoundError, match="store-schema init"):
            open_store(url)
        assert self.raw_paths(url) == []

    def test_store_of_another_schema_is_refused(self, store: Store, url: str) -> None:
        """A reader of schema 1 does not guess at schema 2."""
        self.raw_set(url, "engram.json", store.record.to_bytes().replace(b'"schema":1', b'"schema":2'))
        with pytest.raises(SchemaError, match="schema"):
            open_store(url)

    def test_view_is_written_once(self, store: Store, view: str) -> None:
        """The same specification is fine again and read back equal; it is found by id, name and beginning."""
        assert store.put_view(example_view()) == view
        assert store.view(view) == store.view("example") == store.view(view[:12]) == example_view()
        assert store.view_ids() == [view]

    def test_ambiguous_view_name_is_refused(self, store: Store, view: str) -> None:
        """Two views of one name are told apart by their ids only."""
        second = store.put_view(example_view(recipe=2))
        assert store.resolve_view(second) == second != view
        with pytest.raises(NotCommittedError, match="means 2 views"):
            store.resolve_view("example")

    # Entries

    def test_entry_is_read_as_it_was_written(self, store: Store, view: str, commit: CommitRecord) -> None:
        """Arrays bit by bit, attributes, and the commit."""
        assert is_example(store, view)
        assert store.current(view, KEY) == store.read(view, KEY).commit == commit
        assert store.keys(view) == [KEY]

    def test_all_zero_arrays_are_legal(self, store: Store, view: str) -> None:
        """An all-zero array has its chunk like any other."""
        arrays = {name: np.zeros_like(values) for name, values in example_entry().arrays.items()}
        zeros = dataclasses.replace(example_entry(), arrays=arrays)
        commit = store.publish(view, KEY, zeros, input_sha256=A).commit
        assert {path.split("/")[0] for path in commit.objects if "/c/" in path} == set(arrays)
        assert not any(values.any() for values in store.read(view, KEY).arrays.values())
        assert store.verify().ok

    def test_unknown_entry_is_not_committed(self, store: Store, view: str, commit: CommitRecord) -> None:
        """Nor is an array or a commit number that the entry does not have."""
        with pytest.raises(NotCommittedError, match="no commit of"):
            store.read(view, OTHER)
        with pytest.raises(NotCommittedError, match="no array"):
            store.read(view, KEY, arrays=["masks"])
        with pytest.raises(NotCommittedError, match="no commit 7"):
            store.read(view, KEY, number=commit.number + 7)

    def test_view_must_be_there_before_its_entries(self, store: Store, url: str) -> None:
        """An entry without a specification could not be understood; nothing of it is written."""
        with pytest.raises(NotCommittedError, match=r"no view|means 0 views"):
            store.publish(example_view().view_id, KEY, example_entry(), input_sha256=A)
        assert self.raw_paths(url) == ["engram.json"]

    def test_attempt_without_a_commit_is_invisible(
        self, store: Store, view: str, commit: CommitRecord, url: str
    ) -> None:
        """A whole data folder that no commit names is an orphan and nothing more."""
        self.raw_delete(url, commit_path(view, KEY, 0))
        assert store.keys(view) == []
        assert store.history(view, KEY) == []
        with pytest.raises(NotCommittedError):
            store.read(view, KEY)
        report = self.at_bucket(store).verify()
        assert report.ok
        assert report.orphans == (commit.folder,)

    # Snapshots

    def test_snapshot_pins_what_was_current(self, store: Store, view: str, commit: CommitRecord) -> None:
        """A later commit changes the entry and not the snapshot."""
        snapshot = store.snapshot(store.make_snapshot(view)[:12])
        store.publish(view, KEY, example_entry(1), input_sha256=B)
        assert (snapshot.view_id, snapshot.keys, len(snapshot), KEY in snapshot) == (view, (KEY,), 1, True)
        assert OTHER not in snapshot
        assert snapshot.view == example_view()
        assert snapshot.read(KEY).commit == commit
        assert is_example(store, view, seed=1)
        assert np.array_equal(snapshot.read(KEY).arrays["memory"], example_entry().arrays["memory"])

    def test_same_pins_give_the_same_snapshot(self, store: Store, view: str, commit: CommitRecord) -> None:
        """Whoever makes it, in whatever order, however often; other pins give another."""
        store.publish(view, OTHER, example_entry(), input_sha256=A)
        first = store.make_snapshot(view)
        assert store.make_snapshot(view, [OTHER, commit.key, OTHER]) == first
        store.publish(view, KEY, example_entry(1), input_sha256=B)
        second = store.make_snapshot(view)
        assert store.make_snapshot(view, {OTHER: None, KEY: 0}) == first != second
        assert store.snapshot_ids() == sorted([first, second])

    def test_key_without_a_commit_cannot_be_pinned(self, store: Store, view: str, commit: CommitRecord) -> None:
        """The error names it; a snapshot that does not hold a key refuses it."""
        with pytest.raises(NotCommittedError, match=str(OTHER)):
            store.make_snapshot(view, [commit.key, OTHER])
        assert store.snapshot_ids() == []
        with pytest.raises(NotCommittedError, match=str(OTHER)):
            store.snapshot(store.make_snapshot(view)).read(OTHER)

    def test_unknown_or_ambiguous_snapshot_is_refused(self, store: Store, view: str, commit: CommitRecord) -> None:
        """By whole id and by beginning."""
        assert store.make_snapshot(view, [commit.key])
        for text in ("0" * 64, "zz", ""):
            with pytest.raises(NotCommittedError):
                store.snapshot(text)

    def test_pickles_open_the_same_place_again(self, store: Store, view: str, commit: CommitRecord) -> None:
        """A pickle carries an address, and what is opened by it reads the same."""
        snapshot = store.snapshot(store.make_snapshot(view))
        served = pickle.loads(pickle.dumps(SnapshotStore(snapshot)))  # noqa: S301 - our own bytes
        assert pickle.loads(pickle.dumps(store)).store_id == store.store_id  # noqa: S301
        assert served == SnapshotStore(snapshot)
        assert served.snapshot.read(KEY).commit == commit

    # Runs

    def test_run_records_are_append_only(self, store: Store) -> None:
        """What a run has recorded stays as it is."""
        store.put_run("run-1", "start.json", b"{}")
        with pytest.raises(AlreadyExistsError, match="append-only"):
            store.put_run("run-1", "start.json", b"[]")
        assert (store.run_ids(), store.run_names("run-1")) == (["run-1"], ["start.json"])
        assert store.read_run("run-1", "start.json") == b"{}"
        with pytest.raises(NotCommittedError, match="no record"):
            store.read_run("run-1", "finish.json")
