"""What a store promises when entries are withdrawn and rubbish is removed; knows no backend."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta

import pytest

from store_schema.commits import commit_path
from store_schema.errors import EntryWithdrawnError
from store_schema.gc import collect_garbage
from store_schema.keys import EntryKey
from store_schema.records import CommitRecord
from store_schema.store import Store
from store_schema.testing.base import KEY, OTHER, A, B, Backend, C, at_once, is_example, publish
from store_schema.testing.doubles import HookedLocation, WrappedLocation
from store_schema.usage import usage
from store_schema.withdraw import withdraw
from store_schema.withdrawals import withdrawn


class LaterLocation(WrappedLocation):
    """A location whose clock is some days ahead."""

    days = 8.0

    def now(self) -> datetime:
        """The other location's time, later."""
        return self.inner.now() + timedelta(days=self.days)


class CareContract(Backend):
    """Each promise of SPEC.md about withdrawing and removing."""

    # Withdrawing

    def test_withdrawn_entry_is_refused_in_every_way_and_its_data_is_gone(
        self, store: Store, view: str, commit: CommitRecord, url: str
    ) -> None:
        """Read, pinned, listed, written, made current again; another entry is untouched."""
        publish(store, view, B, seed=1)
        publish(store, view, A, key=OTHER)
        report = withdraw(self.at_bucket(store), patients=[KEY.patient], reason="consent withdrawn")
        assert (report.ok, report.entries, report.patients) == (True, (f"{view}/{KEY}",), (KEY.patient,))
        for number in (None, 0, 1, 2):
            with pytest.raises(EntryWithdrawnError, match="consent withdrawn"):
                store.read(view, KEY, number=number)
        for make_current in (False, True):
            with pytest.raises(EntryWithdrawnError):
                publish(store, view, C, make_current=make_current)
        with pytest.raises(EntryWithdrawnError):
            store.history(view, KEY)
        assert store.state(view, KEY, A) == store.state(view, KEY, C) == "withdrawn"
        assert (store.keys(view), is_example(store, view, key=OTHER)) == ([OTHER], True)
        assert not [path for path in self.raw_paths(url) if path.startswith(f"data/{view}/{KEY}/")]
        assert {one.sha256 for one in commit.objects.values()} <= withdrawn(store.location, view)[KEY]
        verified = store.verify()
        assert (verified.findings, verified.withdrawn, verified.orphans) == ((), 1, ())

    def test_withdrawing_again_changes_nothing(self, store: Store, view: str, commit: CommitRecord, url: str) -> None:
        """Neither by the same call nor by one that names the key."""
        withdraw(self.at_bucket(store), patients=[commit.patient], reason="first")
        before = {path: self.raw_get(url, path) for path in self.raw_paths(url)}
        again = withdraw(self.at_bucket(store), keys=[KEY], reason="second")
        assert (again.ok, again.objects) == (True, 0)
        assert {path: self.raw_get(url, path) for path in self.raw_paths(url)} == before

    def test_writer_overtaken_by_a_withdrawal_erases_its_own_data(self, store: Store, view: str, url: str) -> None:
        """The tombstone takes the number that the writer wanted."""
        publish(store, view, A)
        turns = iter(["consent withdrawn"])

        def overtake(_path: str, _data: bytes) -> None:
            for reason in turns:
                withdraw(self.at_bucket(store), keys=[KEY], reason=reason)

        late = dataclasses.replace(store, location=HookedLocation(store.location, overtake))
        with pytest.raises(EntryWithdrawnError):
            publish(late, view, B)
        assert not [path for path in self.raw_paths(url) if path.startswith(f"data/{view}/")]
        assert store.verify().findings == ()

    def test_withdrawals_at_once_end_an_entry_once(self, store: Store, view: str, commit: CommitRecord) -> None:
        """Each says that it is done; there is one tombstone and all keys are in the list."""
        keys = [KEY, *(EntryKey(f"p{i}", "CT", "skeleton") for i in range(5))]
        for key in keys[1:]:
            publish(store, view, A, key=key)
        results = at_once(lambda i: withdraw(self.at_bucket(store), keys=[KEY, keys[i]], reason=f"by {i}").ok)
        assert results == [True] * len(results)
        assert set(withdrawn(store.location, view)) == set(keys)
        assert store.location.exists(commit_path(view, KEY, 1))
        assert not store.location.exists(commit_path(view, KEY, 2))
        assert store.verify().findings == ()

    def test_racing_writers_and_a_withdrawal_leave_no_data(self, store: Store, view: str, url: str) -> None:
        """Whoever commits before the tombstone is erased, whoever comes after is refused."""
        publish(store, view, A)

        def act(i: int) -> str:
            if i == 0:
                return str(withdraw(self.at_bucket(store), keys=[KEY], reason="consent withdrawn").ok)
            return publish(store, view, C if i % 2 else B, seed=i).outcome

        results = at_once(act)
        assert "True" in results
        assert all(isinstance(result, str | EntryWithdrawnError) for result in results)
        assert not [path for path in self.raw_paths(url) if path.startswith(f"data/{view}/")]
        assert store.verify().findings == ()

    # Removing

    def test_only_old_attempts_that_no_commit_names_are_removed(
        self, store: Store, view: str, commit: CommitRecord, url: str
    ) -> None:
        """A superseded commit's data stays; what is younger than the grace time stays; a dry run removes nothing."""
        publish(store, view, B, seed=1)
        orphan = f"data/{view}/{KEY}/{'0' * 32}"
        store.location.put(f"{orphan}/memory/c/0/0/0/0", b"half")
        before = sorted(self.raw_paths(url))
        assert collect_garbage(self.at_bucket(store), dry_run=False).attempts == ()
        owned = self.at_bucket(store)
        later = dataclasses.replace(owned, location=LaterLocation(owned.location))
        assert collect_garbage(later).attempts == (orphan,)
        assert sorted(self.raw_paths(url)) == before
        report = collect_garbage(later, dry_run=False)
        assert (report.attempts, report.objects, report.size_bytes, report.problems) == ((orphan,), 1, 4, ())
        assert sorted(self.raw_paths(url)) == [path for path in before if not path.startswith(orphan)]
        assert is_example(store, view, number=0)
        assert is_example(store, view, seed=1)

    def test_everything_in_the_store_is_counted_once(
        self, store: Store, view: str, commit: CommitRecord, url: str
    ) -> None:
        """The sums are those of all objects that are there."""
        publish(store, view, B, seed=1)
        publish(store, view, A, key=OTHER)
        store.make_snapshot(view)
        store.put_run("run-1", "start.json", b"{}")
        store.location.put(f"data/{view}/nobody/CT/skeleton/{'0' * 32}/zarr.json", b"orphan")
        report = usage(self.at_bucket(store))
        paths = self.raw_paths(url)
        assert (report.objects, report.size_bytes) == (len(paths), sum(len(self.raw_get(url, path)) for path in paths))
        states = {row.state: row.objects for row in report.rows if row.kind == "data"}
        count = len(commit.objects)
        assert states == {"live": 2 * count, "superseded": count, "orphaned": 1}
