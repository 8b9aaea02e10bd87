"""What a store promises when writers race or die and objects are damaged; knows no backend."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Literal

import numpy as np
import pytest

from store_schema.commits import commit_path, current_number
from store_schema.errors import (
    AlreadyExistsError,
    BackendError,
    ObjectAlteredError,
    ObjectMissingError,
    SchemaError,
    StoreError,
)
from store_schema.keys import EntryKey
from store_schema.records import CommitRecord
from store_schema.snapshot import Snapshot, snapshot_path
from store_schema.store import Store
from store_schema.testing.base import KEY, OTHER, WRITERS, A, B, Backend, C, at_once, check_history, is_example, publish
from store_schema.testing.doubles import (
    BlindLocation,
    FailingLocation,
    HookedLocation,
    digest_of,
    example_entry,
)
from store_schema.zarr_store import SnapshotStore

DAMAGE = {"deleted": "missing", "emptied": "truncated", "truncated": "truncated", "extended": "altered"}
"""What `verify` calls each damage to an object."""


class FaultsContract(Backend):
    """Each promise of SPEC.md about races, stops and damage, with the fault put where it hurts most."""

    # Races

    def test_racing_creates_have_one_winner(self, store: Store) -> None:
        """However many try at once."""
        for turn in range(5):
            path = f"runs/race/{turn}"
            results = at_once(lambda i, path=path: store.location.create(path, bytes([i])))  # type: ignore[misc]
            lost = [result for result in results if isinstance(result, StoreError)]
            assert len(lost) == WRITERS - 1
            assert all(isinstance(error, AlreadyExistsError) for error in lost)

    def test_inputs_a_then_b_then_a(self, store: Store, view: str) -> None:
        """An input is new, done, stale or superseded; a superseded one comes back only on request."""
        assert store.state(view, KEY, A) == "new"
        outcomes = [publish(store, view, A).outcome, publish(store, view, A).outcome]
        assert (store.state(view, KEY, A), store.state(view, KEY, B)) == ("done", "stale")
        outcomes += [publish(store, view, B).outcome, publish(store, view, A).outcome]
        assert store.state(view, KEY, A) == "superseded"
        assert outcomes == ["committed", "done", "committed", "superseded"]
        assert publish(store, view, A, make_current=True).outcome == "committed"
        assert (store.state(view, KEY, A), store.state(view, KEY, B)) == ("done", "superseded")
        check_history(store, view, [A, B, A])

    def test_racing_writers_of_one_input_commit_once(self, store: Store, view: str) -> None:
        """One wins, all others find it done."""
        results = at_once(lambda _: publish(store, view, A).outcome)
        assert sorted(map(str, results)) == ["committed", *["done"] * (WRITERS - 1)]
        check_history(store, view, [A])

    def test_racing_writers_of_different_inputs_all_commit(self, store: Store, view: str) -> None:
        """Each gets its own number; nothing is mixed or lost."""
        digests = [digest_of(f"input {i}") for i in range(WRITERS)]
        results = at_once(lambda i: publish(store, view, digests[i], seed=i).outcome)
        assert results == ["committed"] * WRITERS
        inputs = [commit.input_sha256 for commit in store.history(view, KEY)]
        assert sorted(inputs) == sorted(digests)
        check_history(store, view, inputs)
        for number, digest in enumerate(inputs):
            assert is_example(store, view, seed=digests.index(digest), number=number)

    def test_writer_overtaken_by_its_own_input_is_done(self, store: Store, view: str) -> None:
        """A rival commits the same input between the look and the commit."""
        late = _with_rival(store, lambda: publish(store, view, A))
        assert publish(late, view, A).outcome == "done"
        check_history(store, view, [A])

    def test_writer_overtaken_by_another_input_takes_the_next_number(self, store: Store, view: str) -> None:
        """A rival commits another input between the look and the commit."""
        late = _with_rival(store, lambda: publish(store, view, B))
        assert publish(late, view, A).commit.number == 1
        check_history(store, view, [B, A])

    def test_writer_overtaken_twice_is_superseded(self, store: Store, view: str) -> None:
        """Rivals commit the same input and then another one on top of what the writer saw."""
        publish(store, view, C)

        def rivals() -> None:
            publish(store, view, B)
            publish(store, view, A)
            publish(store, view, B, make_current=True)

        assert publish(_with_rival(store, rivals), view, A).outcome == "done"
        assert store.state(view, KEY, A) == "superseded"
        check_history(store, view, [C, B, A, B])

    def test_writer_whose_answer_was_lost_has_won(self, store: Store, view: str) -> None:
        """The create succeeded, its answer was lost, and the client's own retry was refused."""
        late = dataclasses.replace(store, location=HookedLocation(store.location, store.location.create))
        publication = publish(late, view, A)
        assert publication.outcome == "committed"
        assert [commit.attempt for commit in store.history(view, KEY)] == [publication.commit.attempt]

    def test_refused_create_with_nothing_there_is_tried_again(self, store: Store, view: str) -> None:
        """S3 answers 409 to racing creates of which none may have won."""
        refusals = iter([True, True, False])

        def refuse(_path: str, _data: bytes) -> None:
            if next(refusals):
                raise AlreadyExistsError("409 ConditionalRequestConflict")

        late = dataclasses.replace(store, location=HookedLocation(store.location, refuse))
        assert publish(late, view, A).commit.number == 0
        check_history(store, view, [A])

    def test_probing_finds_the_commit_that_listing_finds(self, store: Store, view: str) -> None:
        """For every length of a chain."""
        blind = BlindLocation(store.location)
        assert current_number(blind, view, KEY) is current_number(store.location, view, KEY) is None
        template = publish(store, view, A).commit
        for number in range(1, 20):
            assert current_number(blind, view, KEY) == current_number(store.location, view, KEY) == number - 1
            inputs = tuple(digest_of(str(i)) for i in range(number))
            commit = template.model_copy(update={"number": number, "earlier_inputs": inputs})
            self.at_bucket(store).location.create(commit_path(view, KEY, number), commit.to_bytes())

    # Stops

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_writer_stopped_at_any_write_leaves_nothing_or_all(
        self, store: Store, view: str, when: Literal["before", "after"]
    ) -> None:
        """At every write of an entry: no entry or a whole one, and the next try succeeds."""
        writes = len(publish(store, view, A).commit.objects) + 1
        for k in range(writes):
            key = EntryKey(f"stopped{k}", "CT", "skeleton")
            failing = FailingLocation(store.location, writes=k, when=when)
            whole = when == "after" and k == writes - 1
            with contextlib.nullcontext() if whole else pytest.raises(BackendError, match="on purpose"):
                publish(dataclasses.replace(store, location=failing), view, A, key=key)
            assert len(store.history(view, key)) == whole
            assert not whole or is_example(store, view, key=key)
            assert publish(store, view, A, key=key).outcome == ("done" if whole else "committed")
            assert is_example(store, view, key=key)
        report = self.at_bucket(store).verify()
        assert report.ok
        assert len(report.orphans) == writes - 1

    # Damage

    def test_every_single_byte_change_is_detected(
        self, store: Store, view: str, commit: CommitRecord, url: str
    ) -> None:
        """One bit of every byte of every object that a commit lists, and of the commit itself."""
        served = SnapshotStore(store.snapshot(store.make_snapshot(view)))
        for path in commit.objects:
            for _ in self.each_byte_changed(url, f"{commit.folder}/{path}"):
                with pytest.raises(ObjectAlteredError):
                    served.read(f"{KEY}/{path}")
        for _ in self.each_byte_changed(url, commit_path(view, KEY, 0)):
            with pytest.raises(ObjectAlteredError):
                store.current(view, KEY)
        assert store.verify().ok

    @pytest.mark.parametrize("damage", [*DAMAGE, "swapped"])
    def test_damaged_object_is_never_read_as_data(
        self, store: Store, view: str, commit: CommitRecord, url: str, damage: str
    ) -> None:
        """What reads the object raises; what does not need it gives what was committed; `verify` finds it."""
        other = publish(store, view, B, seed=1).commit
        snapshot = store.snapshot(store.make_snapshot(view, {KEY: 0}))
        for path in commit.objects:
            place, instead = f"{commit.folder}/{path}", self.raw_get(url, f"{other.folder}/{path}")
            whole = self.raw_get(url, place)
            if self._damage(url, place, damage, instead=instead):
                _check_refused(store, snapshot, commit, path, self.kinds_of(damage))
            self.raw_set(url, place, whole)
        assert store.verify().ok

    def kinds_of(self, damage: str) -> AbstractSet[str]:
        """What `verify` may call a damage."""
        return {"altered", "truncated"} if damage == "swapped" else {DAMAGE[damage]}

    def _damage(self, url: str, place: str, damage: str, *, instead: bytes) -> bool:
        """Whether the object is another one now: equal objects of two attempts can be swapped without harm."""
        if damage == "deleted":
            self.raw_delete(url, place)
            return True
        data = self.raw_get(url, place)
        changed = {"emptied": b"", "truncated": data[:-1], "extended": data + b"\0", "swapped": instead}[damage]
        self.raw_set(url, place, changed)
        return changed != data

    def test_commit_in_another_place_is_refused(self, store: Store, view: str, commit: CommitRecord, url: str) -> None:
        """A commit that was copied to another key or number is not that one's."""
        data = self.raw_get(url, commit_path(view, commit.key, 0))
        for key, number in ((OTHER, 0), (KEY, 1)):
            self.raw_set(url, commit_path(view, key, number), data)
            with pytest.raises(SchemaError, match="another place"):
                store.read(view, key)
        assert {finding.kind for finding in self.at_bucket(store).verify().findings} == {"record"}

    def test_altered_view_is_refused(self, store: Store, view: str, url: str) -> None:
        """The id of a view is made from its specification."""
        path = f"views/{view}.json"
        self.raw_set(url, path, self.raw_get(url, path).replace(b'"stride":1', b'"stride":2'))
        with pytest.raises(ObjectAlteredError):
            store.view(view)
        assert [finding.path for finding in store.verify().findings] == [path]

    def test_gap_in_the_chain_is_found(self, store: Store, view: str, url: str) -> None:
        """Commits are never deleted; where one is, `verify` says so."""
        for digest in (A, B, C):
            publish(store, view, digest)
        self.raw_delete(url, commit_path(view, KEY, 1))
        assert [finding.kind for finding in store.verify().findings] == ["chain"]

    def test_altered_snapshot_is_refused(self, store: Store, view: str, commit: CommitRecord, url: str) -> None:
        """Every single byte of it: refused, or one that its compression does not use and the content is the same."""
        snapshot_id = store.make_snapshot(view, [commit.key])
        content = store.snapshot(snapshot_id).content
        unused = 0
        for _ in self.each_byte_changed(url, snapshot_path(snapshot_id)):
            with contextlib.suppress(ObjectAlteredError):
                assert store.snapshot(snapshot_id).content == content
                unused += 1
        assert unused <= 4

    def test_commit_other_than_the_one_pinned_is_refused(
        self, store: Store, view: str, commit: CommitRecord, url: str
    ) -> None:
        """Even one that is sound in itself."""
        snapshot_id = store.make_snapshot(view)
        rewritten = commit.model_copy(update={"versions": {"numpy": "0"}})
        self.raw_set(url, commit_path(view, KEY, 0), rewritten.to_bytes())
        with pytest.raises(ObjectAlteredError, match="not the commit that snapshot"):
            store.snapshot(snapshot_id).read(KEY)
        assert [finding.kind for finding in store.verify().findings] == ["altered"]


def _with_rival(store: Store, rival: Callable[[], object]) -> Store:
    """The store as a writer sees it whose first create is overtaken."""
    turns = iter([rival])

    def overtake(_path: str, _data: bytes) -> None:
        for turn in turns:
            turn()

    return dataclasses.replace(store, location=HookedLocation(store.location, overtake))


def _check_refused(store: Store, snapshot: Snapshot, commit: CommitRecord, path: str, kinds: AbstractSet[str]) -> None:
    """Asserts that the object is refused wherever it is read, and that its loss changes no value that is read."""
    refusals = (ObjectMissingError, ObjectAlteredError)
    with pytest.raises(refusals):
        SnapshotStore(snapshot).read(f"{commit.key}/{path}")
    if "/c/" in path:
        with pytest.raises(refusals):
            snapshot.read(commit.key, arrays=[path.split("/", maxsplit=1)[0]])
        with pytest.raises(refusals):
            store.read(commit.view, commit.key, number=commit.number)
    else:
        read, entry = snapshot.read(commit.key), example_entry()
        assert all(np.array_equal(read.arrays[name], entry.arrays[name]) for name in entry.arrays)
    findings = store.verify(snapshot=snapshot).findings
    assert [finding.path for finding in findings] == [f"{commit.folder}/{path}"]
    assert findings[0].kind in kinds
