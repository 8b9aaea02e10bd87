"""Withdrawal: whom it means, what it erases, what it says, and that it can stop anywhere and be run again."""

import dataclasses
import json
from itertools import count
from threading import Lock
from uuid import uuid4

import pytest

from store_schema import EntryKey, Store, create_store
from store_schema.commits import commit_path, read_record
from store_schema.errors import (
    BackendError,
    EntryWithdrawnError,
    InvalidKeyError,
    NotCommittedError,
    ObjectAlteredError,
    UsageError,
)
from store_schema.records import TombstoneRecord, canonical_json, seal, sha256, unseal
from store_schema.testing import BlindLocation, WrappedLocation, digest_of, example_entry, example_view
from store_schema.withdraw import WithdrawReport, withdraw
from store_schema.withdrawals import read_withdrawn, withdrawn, withdrawn_path

KEY = EntryKey("P1", "PET", "skeleton")
ATTEMPT = "a" * 32


def _store(*keys: EntryKey, views: int = 1) -> tuple[Store, list[str]]:
    store = create_store(f"memory://{uuid4().hex}")
    view_ids = [store.put_view(example_view(recipe=i + 1)) for i in range(views)]
    for view in view_ids:
        for key in keys:
            store.publish(view, key, example_entry(), input_sha256=digest_of(str(key)))
    return store, view_ids


def _pack(store: Store, snapshot_id: str) -> str:
    """A pack as its writer leaves it: data of an attempt, and a sealed record that names it."""
    folder = f"packs/{snapshot_id}-mean_map"
    store.location.put(f"{folder}/{ATTEMPT}/mean_map/c/0", b"stacked")
    objects = {"mean_map/c/0": {"size_bytes": 7, "sha256": sha256(b"stacked")}}
    store.location.create(f"{folder}/000000.json", seal(canonical_json({"attempt": ATTEMPT, "objects": objects})))
    return folder


def _withdraw(store: Store, **options) -> WithdrawReport:
    return withdraw(store, options.pop("views", None), reason="consent withdrawn", **options)


# Whom it means


def test_patient_means_the_patient_and_its_studies_in_all_views() -> None:
    keys = [EntryKey(patient, "PET", "spine") for patient in ("P1", "P1.a", "P1.b-2", "P10", "P1-x", "XP1", "p1")]
    store, views = _store(*keys, views=2)
    report = _withdraw(store, patients=["P1"])
    assert report.patients == ("P1", "P1.a", "P1.b-2")
    assert report.entries == tuple(f"{view}/{key}" for view in sorted(views) for key in sorted(keys[:3]))
    for view in views:
        assert store.keys(view) == sorted(keys[3:])


def test_study_means_that_study_alone() -> None:
    keys = [EntryKey(patient, "PET", "spine") for patient in ("P1", "P1.a", "P1.b")]
    store, (view,) = _store(*keys)
    assert _withdraw(store, patients=["P1.a"]).patients == ("P1.a",)
    assert store.keys(view) == [keys[0], keys[2]]


def test_key_means_one_entry_in_the_views_named() -> None:
    other = dataclasses.replace(KEY, roi="spine")
    store, views = _store(KEY, other, views=2)
    assert _withdraw(store, views=[views[0]], keys=[KEY]).entries == (f"{views[0]}/{KEY}",)
    assert (store.keys(views[0]), store.keys(views[1])) == ([other], [KEY, other])


def test_what_is_not_there_cannot_be_withdrawn() -> None:
    store, _ = _store(KEY)
    with pytest.raises(NotCommittedError, match="holds nothing of P2"):
        _withdraw(store, patients=["P2"])
    with pytest.raises(NotCommittedError, match="P1/CT/skeleton"):
        _withdraw(store, keys=[dataclasses.replace(KEY, modality="CT")])


def test_wrong_calls_change_nothing() -> None:
    store, (view,) = _store(KEY)
    before = store.location.paths("commits")
    with pytest.raises(UsageError, match="nothing was named"):
        _withdraw(store)
    for reason in ("", " ", "two\nlines", "x" * 501):
        with pytest.raises(UsageError, match="reason"):
            withdraw(store, patients=["P1"], reason=reason)
    with pytest.raises(InvalidKeyError):
        _withdraw(store, patients=["../P1"])
    with pytest.raises(InvalidKeyError):
        _withdraw(store, views=["../x"], patients=["P1"])
    blind = dataclasses.replace(store, location=BlindLocation(store.location))
    with pytest.raises(UsageError, match="cannot list"):
        _withdraw(blind, patients=["P1"])
    assert store.location.paths("commits") == before
    assert store.keys(view) == [KEY]


# What it erases and what it says


def test_dry_run_says_what_a_withdrawal_does_and_changes_nothing() -> None:
    store, (view,) = _store(KEY)
    snapshot = store.make_snapshot(view)
    folder = _pack(store, snapshot)
    store.put_run("run-1", "start.json", json.dumps({"patients": ["P1"]}).encode())
    before = {one.path for one in store.location.objects("")}
    dry = _withdraw(store, patients=["P1"], dry_run=True)
    assert {one.path for one in store.location.objects("")} == before
    done = _withdraw(store, patients=["P1"])
    assert dataclasses.replace(dry, dry_run=False) == done
    assert (done.packs, done.snapshots, done.mentions) == ((folder,), (snapshot,), ("runs/run-1/start.json",))
    assert done.objects == 9 + 2
    assert json.loads(json.dumps(done.to_dict()))["ok"] is True
    gone = before - {one.path for one in store.location.objects("")}
    assert {path.split("/")[0] for path in gone} == {"data", "packs"}
    assert len(gone) == done.objects


def test_tombstone_continues_the_series_and_is_sealed() -> None:
    store, (view,) = _store(KEY)
    store.publish(view, KEY, example_entry(1), input_sha256=digest_of("b"))
    _withdraw(store, keys=[KEY])
    tombstone = read_record(store.location, view, KEY, 2)
    assert isinstance(tombstone, TombstoneRecord)
    assert tombstone.earlier_inputs == (digest_of(str(KEY)), digest_of("b"))
    path = commit_path(view, KEY, 2)
    data = bytearray(store.location.get(path))
    for i in range(len(data)):
        changed = bytes(data[:i]) + bytes([data[i] ^ 1]) + bytes(data[i + 1 :])
        store.location.put(path, changed)
        with pytest.raises(ObjectAlteredError):
            store.read(view, KEY)


def test_commit_with_an_attribute_of_that_name_is_no_tombstone() -> None:
    store, (view,) = _store()
    entry = dataclasses.replace(example_entry(), attributes={"withdrawn": True})
    store.publish(view, KEY, entry, input_sha256=digest_of("x"))
    assert store.read(view, KEY).attributes == {"withdrawn": True}


def test_attempts_that_no_commit_names_are_erased_too() -> None:
    store, (view,) = _store(KEY)
    store.location.put(f"data/{view}/{KEY}/{ATTEMPT}/memory/c/0/0/0/0", b"half")
    assert _withdraw(store, patients=["P1"]).objects == 10
    assert store.location.paths("data") == []


def test_packs_of_other_snapshots_stay() -> None:
    other = dataclasses.replace(KEY, patient="P2")
    store, (view,) = _store(KEY, other)
    both, alone = store.make_snapshot(view), store.make_snapshot(view, [other])
    kept, gone = _pack(store, alone), _pack(store, both)
    assert _withdraw(store, patients=["P1"]).packs == (gone,)
    assert store.location.children("packs") == [kept.removeprefix("packs/")]


def test_pack_whose_snapshot_is_gone_is_erased_since_nobody_knows_whom_it_holds() -> None:
    store, _ = _store(KEY)
    gone = _pack(store, "0" * 64)
    store.location.put("packs/README.txt", b"x")
    assert _withdraw(store, patients=["P1"]).packs == (gone,)
    assert store.location.children("packs") == ["README.txt"]


@pytest.mark.parametrize(
    ("text", "names"), [("P1", True), ('["P1.a"]', True), ("P10", False), ("XP1", False), ("p-1", False)]
)
def test_records_of_runs_that_name_the_patient_are_listed_and_stay(text: str, names: bool) -> None:
    store, _ = _store(KEY)
    store.put_run("run-1", "finish.json", text.encode())
    assert _withdraw(store, patients=["P1"]).mentions == (("runs/run-1/finish.json",) if names else ())
    assert store.read_run("run-1", "finish.json") == text.encode()


def test_unfinished_files_of_the_entry_are_erased_too(store: Store, view: str, keys) -> None:
    place = store.location.root / store.current(view, keys[0]).folder / ".engram-tmp-x"
    kept = store.location.root / store.current(view, keys[2]).folder / ".engram-tmp-x"
    for path in (place, kept):
        path.write_bytes(b"half a memory")
    assert _withdraw(store, keys=[keys[0]]).objects == 10
    assert (place.exists(), kept.exists()) == (False, True)


def test_damaged_earlier_commit_does_not_keep_an_entry_from_being_withdrawn() -> None:
    store, (view,) = _store(KEY)
    store.publish(view, KEY, example_entry(1), input_sha256=digest_of("b"))
    store.location.put(commit_path(view, KEY, 0), b"{}")
    report = _withdraw(store, patients=["P1"])
    assert [problem.split(":")[0] for problem in report.problems] == [
        f"{view}/{KEY} is withdrawn, but local caches may keep objects of commit 0, those of them that the store itself had lost"
    ]
    assert store.location.paths("data") == []
    assert set(withdrawn(store.location, view)) == {KEY}


DAMAGES = {
    "emptied": lambda data: b"",
    "cut": lambda data: data[:-9],
    "changed": lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
    "another place's": lambda data: seal(unseal(data, where="").replace(b'"modality":"PET"', b'"modality":"CT"')),
    "sealed and no record": lambda data: seal(b'{"schema":1,"withdrawn":true}'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("damaged", [[1], [0, 1], [0]])
def test_damaged_commits_do_not_keep_an_entry_from_being_withdrawn(damage, damaged: list[int]) -> None:
    """Consent does not wait for a backup: the series ends, the data goes, and what could not be done is said."""
    other = dataclasses.replace(KEY, roi="spine")
    store, (view,) = _store(KEY, other)
    second = store.publish(view, KEY, example_entry(1), input_sha256=digest_of("b")).commit
    whole = {number: store.location.get(commit_path(view, KEY, number)) for number in damaged}
    for number, data in whole.items():
        store.location.put(commit_path(view, KEY, number), damage(data))
    report = _withdraw(store, patients=["P1"])
    assert [problem.split(", those of them")[0] for problem in report.problems] == [
        f"{view}/{KEY} is withdrawn, but local caches may keep objects of commit {number}" for number in damaged
    ]
    assert store.location.paths("data") == []
    assert set(withdrawn(store.location, view)) == {KEY, other}
    assert {one.sha256 for one in second.objects.values()} <= withdrawn(store.location, view)[KEY]
    for _ in range(2):
        with pytest.raises(EntryWithdrawnError):
            store.read(view, KEY)
        with pytest.raises(EntryWithdrawnError):
            store.publish(view, KEY, example_entry(2), input_sha256=digest_of("c"))
        # Restored later, they are a sound series again.
        for number, data in whole.items():
            store.location.put(commit_path(view, KEY, number), data)
    assert store.verify().findings == ()
    assert _withdraw(store, patients=["P1"]).ok


def test_damaged_tombstone_is_followed_by_another_one() -> None:
    store, (view,) = _store(KEY)
    _withdraw(store, patients=["P1"])
    whole = store.location.get(commit_path(view, KEY, 1))
    store.location.put(commit_path(view, KEY, 1), whole[:-1])
    _withdraw(store, patients=["P1"])
    assert isinstance(read_record(store.location, view, KEY, 2), TombstoneRecord)
    store.location.put(commit_path(view, KEY, 1), whole)
    assert store.verify().findings == ()


def test_record_of_a_later_schema_is_left_to_the_version_that_wrote_it() -> None:
    store, (view,) = _store(KEY)
    path = commit_path(view, KEY, 0)
    body = unseal(store.location.get(path), where=path)
    store.location.put(path, seal(body.replace(b'"schema":1', b'"schema":2')))
    report = _withdraw(store, patients=["P1"])
    assert report.problems[0].startswith(f"{view}/{KEY} was NOT withdrawn, do it with the version that wrote")
    assert (report.ok, store.location.children(f"commits/{view}/{KEY}")) == (False, ["000000.json"])
    assert store.location.paths("data") != []


def test_damaged_list_keeps_no_data_from_being_erased() -> None:
    other = dataclasses.replace(KEY, patient="P2")
    store, (view,) = _store(KEY, other)
    snapshot = store.make_snapshot(view)
    _withdraw(store, patients=["P2"])
    whole = store.location.get(withdrawn_path(view, 0))
    store.location.put(withdrawn_path(view, 0), whole[:-1])
    report = _withdraw(store, patients=["P1"])
    assert report.problems[0].startswith(f"{view}: the data is erased, but the list of withdrawn entries is damaged")
    assert store.location.paths("data") == []
    with pytest.raises(EntryWithdrawnError):
        store.read(view, KEY)
    with pytest.raises(ObjectAlteredError):
        store.snapshot(snapshot)
    store.location.put(withdrawn_path(view, 0), whole)
    assert _withdraw(store, patients=["P1"]).ok
    assert set(withdrawn(store.location, view)) == {KEY, other}


def test_records_that_name_the_patient_of_a_study_are_listed() -> None:
    store, _ = _store(EntryKey("P1.a", "PET", "spine"))
    store.put_run("run-1", "finish.json", b'["P1"]')
    assert _withdraw(store, patients=["P1"]).mentions == ("runs/run-1/finish.json",)


# The list


def test_list_grows_by_numbers_and_keeps_what_it_had() -> None:
    keys = [dataclasses.replace(KEY, patient=f"P{i}") for i in range(3)]
    store, (view,) = _store(*keys)
    for i, key in enumerate(keys):
        _withdraw(store, keys=[key])
        assert set(withdrawn(store.location, view)) == set(keys[: i + 1])
    assert store.location.children(f"withdrawn/{view}") == ["000000.json", "000001.json", "000002.json"]


def test_damaged_or_moved_list_is_refused() -> None:
    store, (view,) = _store(KEY)
    _withdraw(store, keys=[KEY])
    data = store.location.get(withdrawn_path(view, 0))
    store.location.put(withdrawn_path(view, 1), data)
    with pytest.raises(Exception, match="holds the list of another place"):
        read_withdrawn(store.location, view)
    store.location.put(withdrawn_path(view, 1), data[:-9])
    with pytest.raises(ObjectAlteredError):
        store.keys(view)


# Stops


class Dying(WrappedLocation):
    """Dies at its k-th request, whatever it is, and stays dead."""

    def __init__(self, inner, *, requests: int) -> None:
        super().__init__(inner)
        self.left = requests
        self.lock = Lock()

    def _ask(self) -> None:
        with self.lock:
            self.left -= 1
            if self.left < 0:
                raise BackendError("could not: died on purpose.")

    def get(self, path):
        self._ask()
        return super().get(path)

    def put(self, path, data):
        self._ask()
        super().put(path, data)

    def create(self, path, data):
        self._ask()
        super().create(path, data)

    def delete(self, path):
        self._ask()
        super().delete(path)

    def objects(self, prefix):
        self._ask()
        return super().objects(prefix)

    def paths(self, prefix):
        self._ask()
        return super().paths(prefix)

    def children(self, prefix):
        self._ask()
        return super().children(prefix)


def _check_between(store: Store, view: str, folder: str) -> None:
    """Whatever was cut short: an entry is whole or refused, and a pack that has its record is whole."""
    for key in (KEY, dataclasses.replace(KEY, roi="spine")):
        try:
            store.read(view, key)
        except EntryWithdrawnError:
            with pytest.raises(EntryWithdrawnError):
                store.publish(view, key, example_entry(), input_sha256=digest_of("again"))
    if store.location.exists(f"{folder}/000000.json"):
        assert store.location.exists(f"{folder}/{ATTEMPT}/mean_map/c/0")


def test_withdrawal_that_dies_at_any_request_is_completed_by_the_next() -> None:
    stops = 0
    for requests in count():
        store, (view,) = _store(KEY, dataclasses.replace(KEY, roi="spine"), dataclasses.replace(KEY, patient="P2"))
        folder = _pack(store, store.make_snapshot(view))
        dying = dataclasses.replace(store, location=Dying(store.location, requests=requests))
        try:
            _withdraw(dying, patients=["P1"])
        except BackendError:
            stops += 1
            _check_between(store, view, folder)
            assert _withdraw(store, patients=["P1"]).ok
        else:
            break
        assert {path.split("/")[2] for path in store.location.paths("data")} == {"P2"}
        assert store.location.paths("packs") == []
        assert len(withdrawn(store.location, view)) == 2
        assert store.verify().findings == ()
    assert stops > 40


def test_withdrawal_cut_short_before_the_list_is_found_and_nothing_is_read_meanwhile() -> None:
    """Between the tombstone and the list: the key is named, refused by whoever reads or asks for it, and pinned by nobody."""

    class NoLists(WrappedLocation):
        def create(self, path, data):
            if path.startswith("withdrawn/"):
                raise BackendError("could not write: died on purpose.")
            super().create(path, data)

    store, (view,) = _store(KEY)
    with pytest.raises(BackendError):
        _withdraw(dataclasses.replace(store, location=NoLists(store.location)), patients=["P1"])
    assert store.keys(view) == [KEY]
    with pytest.raises(EntryWithdrawnError):
        store.read(view, KEY, number=0)
    with pytest.raises(EntryWithdrawnError):
        store.make_snapshot(view, [KEY])
    assert len(store.snapshot(store.make_snapshot(view))) == 0
    kinds = [(finding.kind, finding.path.split("/")[0]) for finding in store.verify().findings]
    assert kinds == [("withdrawn", "commits"), ("withdrawn", "data")]
