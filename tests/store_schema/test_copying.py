"""A copy is the same store byte for byte; it resumes after any stop, checks what it copies, and carries withdrawals first."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import pytest

from store_schema import EntryKey, Store, create_store, make_pack, open_store
from store_schema.commits import append_tombstone, commit_path
from store_schema.copying import copy_store
from store_schema.errors import BackendError, EntryWithdrawnError, UsageError
from store_schema.location import FolderLocation, Location, MemoryLocation, ObjectInfo, open_location
from store_schema.records import TombstoneRecord
from store_schema.replica_report import MOST_FAILURES
from store_schema.testing import BlindLocation, WrappedLocation, digest_of, example_entry, example_view
from store_schema.withdraw import withdraw
from store_schema.withdrawals import add_withdrawn

ENTRIES = 3
COMMITS = ENTRIES + 1
"""Of one view: one entry has two."""


def key(i: int) -> EntryKey:
    return EntryKey(f"P{i}", "PET", "spine")


def filled(store: Store, *views: str) -> Store:
    """Views of three entries, one with two commits; a snapshot of each with its pack; a run."""
    for name in views:
        view = store.put_view(example_view(name=name))
        for i in range(ENTRIES):
            store.publish(view, key(i), example_entry(i), input_sha256=digest_of(str(i)))
        store.publish(view, key(1), example_entry(9), input_sha256=digest_of("later"))
        make_pack(store.snapshot(store.make_snapshot(view)), "mean_map")
    store.put_run("run-1", "record.json", b"{}")
    return store


def in_memory() -> Location:
    return open_location(f"memory://{uuid4().hex}")


@pytest.fixture
def source(tmp_path: Path) -> Store:
    return filled(create_store(tmp_path / "source"), "one", "two")


@pytest.fixture
def small() -> Store:
    """A store in memory with one view."""
    return filled(create_store(in_memory().url), "one")


def tree(place: Path | Location) -> dict[str, bytes]:
    """Every object of a place; of a folder every file, whatever it is."""
    if isinstance(place, Location):
        return {path: place.get(path) for path in place.paths("")}
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def replica_of(store: Store, place: Location | None = None) -> Location:
    """A place that is a copy already and has nothing but the root record, so that no look at the backend is needed."""
    place = place or in_memory()
    place.create("engram.json", store.location.get("engram.json"))
    return place


class KilledError(BaseException):
    """What nothing catches, as nothing catches a kill."""


class KilledLocation(WrappedLocation):
    """Ends the process, as it were, at its `left`-th request: before the request is done, or after it."""

    def __init__(self, inner: Location, left: int, when: Literal["before", "after"] = "before") -> None:
        super().__init__(inner)
        self.left, self.when = left, when

    def _ask[T](self, request: Callable[[], T]) -> T:
        self.left -= 1
        if self.left < 0 and self.when == "before":
            raise KilledError
        answer = request()
        if self.left < 0:
            raise KilledError
        return answer

    def get(self, path: str) -> bytes:
        return self._ask(lambda: self.inner.get(path))

    def put(self, path: str, data: bytes) -> None:
        self._ask(lambda: self.inner.put(path, data))

    def create(self, path: str, data: bytes) -> None:
        self._ask(lambda: self.inner.create(path, data))

    def delete(self, path: str) -> None:
        self._ask(lambda: self.inner.delete(path))

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._ask(lambda: self.inner.objects(prefix))

    def paths(self, prefix: str) -> list[str]:
        return self._ask(lambda: self.inner.paths(prefix))

    def children(self, prefix: str) -> list[str]:
        return self._ask(lambda: self.inner.children(prefix))

    def size_bytes(self, path: str) -> int | None:
        return self._ask(lambda: self.inner.size_bytes(path))


class HookedSource(WrappedLocation):
    """Lets something happen at the source right before one object is read, once."""

    def __init__(self, inner: Location, path: str, act: Callable[[], object]) -> None:
        super().__init__(inner)
        self._path, self._acts = path, iter([act])

    def get(self, path: str) -> bytes:
        if path == self._path:
            for act in self._acts:
                act()
        return self.inner.get(path)


# The same store


def test_copy_there_and_back_is_the_same_byte_for_byte(source: Store, tmp_path: Path) -> None:
    memory = in_memory()
    report = copy_store(source, memory.url, runs=True)
    assert (report.ok, report.entries, report.commits, report.runs) == (True, 2 * ENTRIES, 2 * COMMITS, 1)
    assert report.size_bytes == sum(
        len(data) for path, data in tree(memory).items() if "/c/" in path or "zarr.json" in path
    )
    copied = open_store(memory.url)
    assert copied.verify().findings == ()
    assert copied.snapshot_ids() == source.snapshot_ids()
    assert copy_store(copied, str(tmp_path / "back"), runs=True).ok
    assert tree(tmp_path / "back") == tree(tmp_path / "source")


def test_copy_between_folder_and_s3_is_the_same_byte_for_byte(source: Store, s3_url: str, tmp_path: Path) -> None:
    assert copy_store(source, s3_url, runs=True).ok
    there = open_store(s3_url)
    assert there.verify().findings == ()
    again = copy_store(source, s3_url, runs=True)
    assert (again.ok, again.commits, again.objects, again.entries) == (True, 0, 0, 2 * ENTRIES)
    assert copy_store(there, str(tmp_path / "back"), runs=True).ok
    assert tree(tmp_path / "back") == tree(tmp_path / "source")


def test_nothing_is_written_where_nothing_is_new(source: Store, tmp_path: Path) -> None:
    class ReadOnly(WrappedLocation):
        def put(self, path: str, _data: bytes) -> None:
            pytest.fail(f"wrote {path}")

        def create(self, path: str, _data: bytes) -> None:
            pytest.fail(f"created {path}")

        def delete(self, path: str) -> None:
            pytest.fail(f"deleted {path}")

    withdraw(source, patients=["P0"], reason="consent")
    copy_store(source, str(tmp_path / "copy"), runs=True)
    again = copy_store(source, ReadOnly(FolderLocation(tmp_path / "copy")), runs=True, verify_existing=True)
    assert (again.ok, again.entries, again.commits, again.objects, again.erased) == (True, 2 * ENTRIES, 0, 0, 0)


def test_new_commits_and_snapshots_follow(small: Store) -> None:
    target = in_memory()
    copy_store(small, target)
    view = small.view_ids()[0]
    small.publish(view, key(2), example_entry(7), input_sha256=digest_of("new"))
    later = small.make_snapshot(view)
    report = copy_store(small, target)
    assert (report.commits, report.objects) == (1, len(small.commit(view, key(2)).objects))
    assert later in report.snapshots
    assert tree(target) == {path: data for path, data in tree(small.location).items() if not path.startswith("runs/")}


@pytest.mark.parametrize("when", ["before", "after"])
def test_copy_killed_at_any_request_resumes_to_the_same_store(small: Store, when: Literal["before", "after"]) -> None:
    for left in itertools.count():
        target = replica_of(small)
        try:
            copy_store(small, KilledLocation(target, left, when), runs=True)
        except KilledError:
            # What is visible of a copy that was cut off is whole.
            assert open_store(target.url).verify().findings == ()
            assert copy_store(small, target, runs=True).ok
            assert tree(target) == tree(small.location)
        else:
            break
    assert left > len(tree(small.location))


# Damage


@pytest.mark.parametrize("damage", ["altered", "truncated", "deleted"])
@pytest.mark.parametrize("what", ["object", "commit"])
def test_what_is_damaged_is_left_out_and_named_and_the_rest_is_copied(
    source: Store, tmp_path: Path, damage: str, what: str
) -> None:
    view = source.view_ids()[0]
    commit = source.commit(view, key(1), number=0)
    path = f"{commit.folder}/memory/c/0/0/0/0" if what == "object" else commit_path(view, key(1), 0)
    data = (tmp_path / "source" / path).read_bytes()
    if damage == "deleted":
        (tmp_path / "source" / path).unlink()
    else:
        (tmp_path / "source" / path).write_bytes(data[:-9] if damage == "truncated" else data[:-1] + b"?")
    report = copy_store(source, str(tmp_path / "copy"))
    errors = {"deleted": "ObjectMissingError", "truncated": "ObjectTruncatedError"}
    # A record says in itself that it was cut, not how long it was.
    error = (
        "ObjectAlteredError" if (what, damage) == ("commit", "truncated") else errors.get(damage, "ObjectAlteredError")
    )
    assert [problem for problem in report.problems if problem.startswith(f"{view}/{key(1)}: not copied, {error}: ")]
    # The snapshot pins the entry's second commit, which its first one keeps away.
    assert [problem for problem in report.problems if "were not copied, the first: P1/PET/spine" in problem]
    assert (len(report.problems), report.entries, len(report.snapshots)) == (2, 2 * ENTRIES - 1, 1)
    copied = open_store(tmp_path / "copy")
    assert copied.keys(view) == [key(0), key(2)]
    assert not copied.location.exists(commit_path(view, key(1), 0))
    assert copied.verify().findings == ()
    (tmp_path / "source" / path).write_bytes(data)
    assert copy_store(source, str(tmp_path / "copy"), runs=True).ok
    assert tree(tmp_path / "copy") == tree(tmp_path / "source")


def test_damaged_view_snapshot_or_pack_is_named_and_the_rest_is_copied(source: Store, tmp_path: Path) -> None:
    one, two = source.view_ids()
    (tmp_path / "source" / f"views/{one}.json").write_bytes(b"{}")
    of_two = next(i for i in source.snapshot_ids() if (tmp_path / "source" / f"snapshots/of/{two}/{i}").exists())
    (tmp_path / "source" / f"packs/{of_two}-mean_map/000000.json").write_bytes(b"{}")
    report = copy_store(source, str(tmp_path / "copy"))
    assert [problem.split(":")[0] for problem in report.problems] == [f"view {one}", f"snapshot {of_two}"]
    assert (report.entries, report.snapshots) == (ENTRIES, [of_two])
    (tmp_path / "source" / f"snapshots/{of_two}.jsonl.zst").write_bytes(b"")
    assert any("ObjectAlteredError" in text for text in copy_store(source, str(tmp_path / "other")).problems)


def test_stray_among_the_commits_is_named(small: Store) -> None:
    view = small.view_ids()[0]
    small.location.put(f"commits/{view}/P1/PET/spine/notes.txt", b"")
    small.location.put(f"commits/{view}/not..a..key/000000.json", b"")
    problems = copy_store(small, in_memory()).problems
    assert sorted(problems) == [
        f"commits/{view}/P1/PET/spine/notes.txt: not copied, it belongs to no entry",
        f"commits/{view}/not..a..key/000000.json: not copied, it belongs to no entry",
    ]


def test_what_the_target_lost_is_mended(small: Store) -> None:
    target = in_memory()
    copy_store(small, target, runs=True)
    commit = small.commit(small.view_ids()[0], key(0))
    lost, cut, changed = (f"{commit.folder}/{name}/zarr.json" for name in ("memory", "mask", "preview"))
    packed = next(path for path in target.paths("packs") if "/mean_map/c/" in path)
    target.delete(lost)
    target.delete(packed)
    target.put(cut, target.get(cut)[:-1])
    target.put(changed, target.get(changed)[:-1] + b" ")
    report = copy_store(small, target)
    assert (report.ok, report.repaired, report.objects) == (True, 2, 3)
    assert target.get(changed) != small.location.get(changed)
    assert copy_store(small, target, verify_existing=True).repaired == 1
    assert tree(target) == tree(small.location)


def test_backend_that_is_gone_stops_the_copy() -> None:
    store = create_store(in_memory().url)
    view = store.put_view(example_view())
    for i in range(MOST_FAILURES + 5):
        store.publish(view, key(i), example_entry(), input_sha256=digest_of("a"))

    class Full(WrappedLocation):
        def put(self, path: str, _data: bytes) -> None:
            raise BackendError(f"could not write {path}: the disk is full.")

    with pytest.raises(BackendError, match=r"20 entries in a row failed.*the disk is full.*goes on where it stopped"):
        copy_store(store, Full(replica_of(store)))


# Parts


def test_chosen_views_and_snapshots_alone_are_copied(source: Store, tmp_path: Path) -> None:
    one, two = source.view_ids()
    assert copy_store(source, str(tmp_path / "view"), views=[two]).entries == ENTRIES
    assert open_store(tmp_path / "view").view_ids() == [two]
    pinned = source.make_snapshot(one, [key(1)])
    report = copy_store(source, str(tmp_path / "snapshot"), snapshots=[pinned[:12]])
    assert (report.entries, report.commits, report.snapshots) == (1, 2, [pinned])
    copied = open_store(tmp_path / "snapshot")
    assert (
        copied.snapshot(pinned).read(key(1)).arrays["memory"].tobytes() == example_entry(9).arrays["memory"].tobytes()
    )
    assert copied.verify().findings == ()
    assert not [path for path in copied.location.paths("") if "/P0/" in path or "/P2/" in path]
    with pytest.raises(UsageError, match="exclude each other"):
        copy_store(source, str(tmp_path / "both"), views=[one], snapshots=[pinned])
    for part in ("view", "snapshot"):
        copy_store(source, str(tmp_path / part), runs=True)
        assert tree(tmp_path / part) == tree(tmp_path / "source")


def test_snapshot_is_copied_from_a_place_that_cannot_list(small: Store) -> None:
    blind = dataclasses.replace(small, location=BlindLocation(small.location))
    pinned = small.snapshot_ids()[0]
    target = in_memory()
    assert copy_store(blind, target, snapshots=[pinned]).ok
    assert tree(target) == {path: data for path, data in tree(small.location).items() if not path.startswith("runs/")}
    with pytest.raises(UsageError, match="cannot list names"):
        copy_store(blind, target)


def test_dry_run_tells_and_writes_nothing(source: Store, tmp_path: Path) -> None:
    dry = copy_store(source, str(tmp_path / "copy"), runs=True, dry_run=True)
    assert not (tmp_path / "copy").exists()
    wet = copy_store(source, str(tmp_path / "copy"), runs=True)
    assert dry.to_dict() | {"dry_run": False} == wet.to_dict()


# Withdrawals


def names(place: Location, patient: str) -> list[str]:
    """Data and packs that may hold something of a patient."""
    return [path for path in place.paths("") if path.startswith(("data/", "packs/")) and f"/{patient}/" in path]


def test_withdrawn_entry_is_not_copied_and_is_erased_where_it_was(source: Store, tmp_path: Path) -> None:
    copy_store(source, str(tmp_path / "early"), runs=True)
    withdraw(source, patients=["P1"], reason="consent")
    withdraw(source, patients=["P2"], reason="consent")
    for name in ("early", "late"):
        report = copy_store(source, str(tmp_path / name), runs=True)
        assert (report.ok, report.withdrawn, report.erased > 0) == (True, 4, name == "early")
        copied = open_store(tmp_path / name)
        assert all(copied.keys(view) == [key(0)] for view in copied.view_ids())
        assert copied.verify().findings == ()
        assert tree(tmp_path / name) == tree(tmp_path / "source")
        with pytest.raises(EntryWithdrawnError):
            copied.snapshot(copied.snapshot_ids()[0])


@pytest.mark.parametrize("when", ["before", "after"])
def test_withdrawing_at_a_copy_may_be_cut_off_at_any_request(small: Store, when: Literal["before", "after"]) -> None:
    early = tree(copied_to(small))
    withdraw(small, patients=["P1"], reason="consent")
    for left in itertools.count():
        target = MemoryLocation(f"memory://{left}")
        for path, data in early.items():
            target.put(path, data)
        try:
            copy_store(small, KilledLocation(target, left, when), runs=True)
        except KilledError:
            assert copy_store(small, target, runs=True).ok
        else:
            break
        assert tree(target) == tree(small.location)
    assert left > 30


def copied_to(store: Store) -> Location:
    target = in_memory()
    assert copy_store(store, target, runs=True).ok
    return target


def test_who_wants_a_snapshot_is_not_given_the_records_of_others_who_withdrew(small: Store) -> None:
    view = small.view_ids()[0]
    pinned = small.make_snapshot(view, [key(0)])
    withdraw(small, patients=["P1"], reason="consent")
    target = in_memory()
    report = copy_store(small, target, snapshots=[pinned])
    assert (report.ok, report.entries, report.withdrawn) == (True, 1, 0)
    assert not [path for path in target.paths("") if "P1" in path or path.startswith("withdrawn/")]
    withdraw(small, patients=["P0"], reason="consent")
    report = copy_store(small, target, snapshots=[pinned])
    assert (report.ok, report.withdrawn, names(target, "P0")) == (True, 1, [])
    assert open_store(target.url).verify().findings == ()


def test_data_that_a_cut_off_copy_brought_without_a_record_is_erased_too(small: Store) -> None:
    view = small.view_ids()[0]
    pinned = small.make_snapshot(view, [key(0)])
    target = replica_of(small)
    commit = small.commit(view, key(1))
    target.put(f"{commit.folder}/zarr.json", b"x")
    withdraw(small, patients=["P1"], reason="consent")
    report = copy_store(small, target, snapshots=[pinned])
    assert (report.ok, report.erased, names(target, "P1")) == (True, 1, [])


@pytest.mark.parametrize("moment", ["commit", "data", "pack"])
def test_entry_that_is_withdrawn_while_it_is_copied_leaves_no_data(small: Store, moment: str) -> None:
    view = small.view_ids()[0]
    path = {
        "commit": commit_path(view, key(1), 1),
        "data": f"{small.commit(view, key(1)).folder}/memory/zarr.json",
        "pack": next(path for path in small.location.paths("packs") if path.endswith("000000.json")),
    }[moment]
    hooked = HookedSource(small.location, path, lambda: withdraw(small, patients=["P1"], reason="consent"))
    target = in_memory()
    copy_store(dataclasses.replace(small, location=hooked), target)
    assert names(target, "P1") == target.paths("packs") == []
    assert open_store(target.url).verify().findings == ()
    assert copy_store(small, target, runs=True).problems == []
    assert tree(target) == tree(small.location)


def test_entry_whose_withdrawal_was_cut_off_at_the_source_is_not_copied(small: Store) -> None:
    view = small.view_ids()[0]
    early = copied_to(small)
    draft = TombstoneRecord(
        view=view, patient="P1", modality="PET", roi="spine", number=0, reason="consent", written_at="now"
    )
    append_tombstone(small.location, draft)
    for target in (early, in_memory()):
        report = copy_store(small, target)
        assert (report.ok, report.withdrawn, names(target, "P1")) == (True, 1, [])
        assert open_store(target.url).keys(view) == [key(0), key(2)]
        assert open_store(target.url).verify().findings == ()


def test_entry_that_the_list_names_without_a_tombstone_brings_no_data(small: Store) -> None:
    add_withdrawn(small.location, small.view_ids()[0], {key(1): [digest_of("erased")]})
    target = in_memory()
    report = copy_store(small, target)
    assert (report.ok, report.withdrawn, names(target, "P1")) == (True, 1, [])


def test_entry_that_was_withdrawn_at_the_copy_is_never_brought_back(small: Store) -> None:
    target = copied_to(small)
    withdraw(open_store(target.url), patients=["P1"], reason="asked here")
    report = copy_store(small, target)
    assert any("was withdrawn in" in text and "Withdraw it at the source too" in text for text in report.problems)
    assert names(target, "P1") == []
    withdraw(small, patients=["P1"], reason="asked there")
    report = copy_store(small, target)
    assert (report.ok, report.withdrawn, names(target, "P1")) == (True, 1, [])
    assert open_store(target.url).verify().findings == ()


def test_entry_that_was_published_into_the_copy_is_ended_with_the_sources(small: Store) -> None:
    target = copied_to(small)
    view = small.view_ids()[0]
    open_store(target.url).publish(view, key(1), example_entry(5), input_sha256=digest_of("theirs"))
    withdraw(small, patients=["P1"], reason="consent")
    report = copy_store(small, target)
    assert any("somebody has published into the copy" in text for text in report.problems)
    assert names(target, "P1") == []
    assert open_store(target.url).verify().findings == ()


# Refusals


def test_entry_that_was_published_into_the_copy_is_named_and_left(small: Store) -> None:
    target = copied_to(small)
    view = small.view_ids()[0]
    theirs = open_store(target.url).publish(view, key(0), example_entry(5), input_sha256=digest_of("theirs")).commit
    for _ in range(2):
        report = copy_store(small, target)
        found = [text for text in report.problems if text.startswith(f"{view}/{key(0)}: not copied, SchemaError: ")]
        assert len(found) == 1
        assert "somebody has published into the copy" in found[0]
        assert report.entries == ENTRIES - 1
        assert open_store(target.url).commit(view, key(0)) == theirs
        # Behind, level, ahead: it is told whichever place has more.
        small.publish(view, key(0), example_entry(6), input_sha256=digest_of("mine"))


def test_record_that_is_created_while_it_is_copied_is_left(small: Store) -> None:
    view = small.view_ids()[0]
    target = replica_of(small)

    class Rival(WrappedLocation):
        def create(self, path: str, data: bytes) -> None:
            if path == commit_path(view, key(0), 0):
                self.inner.put(path, b"theirs")
            self.inner.create(path, data)

    report = copy_store(small, Rival(target))
    assert any("was created by somebody else meanwhile" in text for text in report.problems)
    assert target.get(commit_path(view, key(0), 0)) == b"theirs"


def test_place_that_is_no_replica_is_refused(source: Store, tmp_path: Path) -> None:
    create_store(tmp_path / "other")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    before = tree(tmp_path)
    for place, why in (
        ("other", "is another store"),
        ("full", "is not empty"),
        ("source", "is the source itself"),
        ("source/inside", "one lies in the other"),
        (".", "one lies in the other"),
    ):
        with pytest.raises(UsageError, match=why):
            copy_store(source, str((tmp_path / place).resolve()))
    with pytest.raises(UsageError, match="can only be read"):
        copy_store(source, "https://localhost:1/store")
    assert tree(tmp_path) == before


def test_place_that_cannot_hold_a_store_is_refused(small: Store) -> None:
    class Overwriting(WrappedLocation):
        def create(self, path: str, data: bytes) -> None:
            self.inner.put(path, data)

    target = in_memory()
    with pytest.raises(UsageError, match=r"cannot hold a store: the second create of a name succeeded"):
        copy_store(small, Overwriting(target))
    assert target.paths("") == []


def test_many_threads_copy_the_same(small: Store) -> None:
    class Wide(WrappedLocation):
        def __init__(self, inner: Location) -> None:
            super().__init__(inner)
            self.parallel = 32

    target = in_memory()
    seen: list[tuple[int, int, int]] = []

    def told(*where: Any) -> None:
        seen.append(where)

    report = copy_store(small, Wide(target), runs=True, told=told)
    assert tree(target) == tree(small.location)
    assert [where[:2] for where in seen] == [(i, ENTRIES) for i in range(1, ENTRIES + 1)]
    assert 0 < seen[-1][2] < report.size_bytes


@pytest.mark.parametrize("first", [False, True])
def test_entry_that_is_withdrawn_at_the_target_while_data_is_written_there_leaves_none(first: bool) -> None:
    """Before its first record is there, and where lost data of a record that is there is put back."""
    store = create_store(in_memory().url)
    view = store.put_view(example_view())
    commit = store.publish(view, key(0), example_entry(), input_sha256=digest_of("a")).commit
    target = replica_of(store)
    if not first:
        copy_store(store, target)
        target.delete(f"{commit.folder}/preview/zarr.json")

    class Meanwhile(WrappedLocation):
        """Somebody withdraws the entry right before its last object is put: what they found by then is erased."""

        acts = iter([lambda: withdraw(open_store(target.url), keys=[key(0)], reason="consent")])

        def put(self, path: str, data: bytes) -> None:
            if path.endswith("preview/zarr.json"):
                for act in self.acts:
                    act()
            self.inner.put(path, data)

    copy_store(store, Meanwhile(target))
    assert target.paths("data") == []
    assert open_store(target.url).verify().findings == ()
    assert store.read(view, key(0)).commit == commit


def test_changed_object_of_a_pack_is_mended_where_what_is_there_is_read(small: Store) -> None:
    target = in_memory()
    copy_store(small, target, runs=True)
    packed = next(path for path in target.paths("packs") if "/mean_map/c/" in path)
    data = target.get(packed)
    target.put(packed, data[:-1] + bytes([data[-1] ^ 1]))
    assert copy_store(small, target).objects == 0
    assert copy_store(small, target, verify_existing=True).objects == 1
    assert tree(target) == tree(small.location)


def test_copies_at_once_beside_a_writer_and_a_withdrawal_are_one_whole_replica(tmp_path: Path) -> None:
    store = create_store(in_memory().url)
    view = store.put_view(example_view())
    for i in range(6):
        store.publish(view, key(i), example_entry(i), input_sha256=digest_of(str(i)))
    store.make_snapshot(view)

    def write() -> None:
        for i in range(4, 9):
            store.publish(view, key(i), example_entry(i + 1), input_sha256=digest_of(f"later {i}"))
        store.make_snapshot(view)

    acts = [*[partial(copy_store, store, str(tmp_path / "copy"))] * 3, write]
    acts.append(partial(withdraw, store, patients=["P1", "P3"], reason="consent"))
    with ThreadPoolExecutor(len(acts)) as pool:
        done = [future.result() for future in [pool.submit(act) for act in acts]]
    assert all(report.ok for report in done[:3])
    assert open_store(tmp_path / "copy").verify().findings == ()
    assert copy_store(store, str(tmp_path / "copy")).ok
    assert tree(tmp_path / "copy") == tree(store.location)
