"""Verification: a sound store has no findings; each kind of fault has its own."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from store_schema import EntryKey, Snapshot, Store
from store_schema.arrays import content_sha256
from store_schema.commits import commit_path
from store_schema.errors import BackendError
from store_schema.location import PROBES
from store_schema.packs import make_pack, pack_folder, record_path
from store_schema.records import CommitRecord, ObjectRecord, seal, sha256, unseal
from store_schema.snapshot import snapshot_path
from store_schema.testing import WrappedLocation, digest_of, example_entry, example_view
from store_schema.withdraw import withdraw
from store_schema.withdrawals import withdrawn_path


def _found(store: Store, **options) -> list[tuple[str, str]]:
    return [(finding.kind, finding.path) for finding in store.verify(**options).findings]


def _rewrite(store: Store, view: str, key: EntryKey, **changes) -> str:
    """Changes members of a commit and seals it again, as no writer would."""
    path = commit_path(view, key, 0)
    record = json.loads(unseal(store.location.get(path), where=path))
    store.location.put(path, seal(json.dumps({**record, **changes}, sort_keys=True, separators=(",", ":")).encode()))
    return path


def test_sound_store_is_counted_and_has_no_findings(store: Store, view: str, snapshot: Snapshot, keys) -> None:
    report = store.verify()
    commits = [store.current(view, key) for key in keys]
    sizes = [record.size_bytes for commit in commits for record in commit.objects.values()]
    assert report.ok
    assert (report.views, report.entries, report.commits, report.snapshots) == (1, 3, 3, 1)
    assert (report.objects, report.size_bytes) == (len(sizes), sum(sizes))
    assert (report.findings, report.orphans) == ((), ())
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


def test_empty_store_is_sound(store: Store) -> None:
    assert store.verify().ok


def test_progress_counts_to_the_number_of_entries(store: Store, view: str) -> None:
    seen = []
    store.verify(on_entry=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_content_that_is_not_the_one_named_is_altered(store: Store, view: str, keys) -> None:
    _rewrite(store, view, keys[0], content_sha256=digest_of("other"))
    assert _found(store) == [("altered", store.current(view, keys[0]).folder)]


def test_copies_of_metadata_must_be_those_of_the_objects(store: Store, view: str, keys) -> None:
    _rewrite(store, view, keys[0], attributes={"boxes_xyxy": []})
    assert _found(store) == [("record", store.current(view, keys[0]).folder)]


def _commit_by_hand(store: Store, view: str, arrays: dict[str, np.ndarray]) -> CommitRecord:
    """Commits any arrays with every digest right, past all that a writer checks."""
    held: dict[str, object] = {}
    group = zarr.create_group(MemoryStore(held), zarr_format=3)
    for name, values in arrays.items():
        axes = ("memory_layer", "channel", "row", "column")[-values.ndim :]
        group.create_array(
            name, data=values, chunks=values.shape, dimension_names=axes, config={"write_empty_chunks": True}
        )
    data = {path: buffer.to_bytes() for path, buffer in held.items()}
    commit = CommitRecord(
        view=view,
        patient="hand",
        modality="CT",
        roi="made",
        number=0,
        attempt="0" * 32,
        input_sha256=digest_of("hand"),
        content_sha256=content_sha256(arrays),
        objects={path: ObjectRecord(size_bytes=len(d), sha256=sha256(d)) for path, d in data.items()},
        arrays={name: json.loads(data[f"{name}/zarr.json"]) for name in arrays},
        attributes={},
        sources=(),
        versions={},
        timings_s={},
        written_at="2026-01-01T00:00:00+00:00",
    )
    for path, content in data.items():
        store.location.put(f"{commit.folder}/{path}", content)
    store.location.create(commit_path(view, commit.key, 0), commit.to_bytes())
    return commit


GOOD = example_entry().arrays["memory"]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (
            {"memory": np.zeros((2, 5, 4, 4), np.float16)},
            r"memory has shape \(2, 5, 4, 4\), the view declares \(2, 3, 4, 4\)",
        ),
        ({"memory": np.where(np.arange(4) == 1, np.float16(np.nan), GOOD)}, "'memory' has NaN or infinite values"),
        ({"memory": GOOD.astype(np.float32)}, "'memory' must be float16"),
        (
            {"memory": GOOD, "mean_map": np.zeros((4, 5), np.float32)},
            "axis 'column' has 4 cells in 'memory' and 5 in 'mean_map'",
        ),
        ({"memory": GOOD, "extra": np.zeros((4, 4), np.float32)}, "'extra' is not an array of an entry"),
        ({"mean_map": np.zeros((4, 4), np.float32)}, "an entry needs a 'memory' array"),
    ],
)
def test_entry_that_no_writer_may_store_is_found_though_its_digests_are_right(
    store: Store, view: str, arrays: dict[str, np.ndarray], said: str
) -> None:
    commit = _commit_by_hand(store, view, arrays)
    findings = store.verify().findings
    assert [(finding.kind, finding.path) for finding in findings] == [("record", commit.folder)]
    assert re.search(said, findings[0].detail)


def test_entry_made_by_hand_as_a_writer_would_is_sound(store: Store, view: str) -> None:
    _commit_by_hand(store, view, {"memory": GOOD})
    assert store.verify().ok


def test_earlier_inputs_must_be_those_of_the_chain(store: Store, view: str, keys) -> None:
    store.publish(view, keys[0], example_entry(), input_sha256=digest_of("x"))
    _rewrite(store, view, keys[0], input_sha256=digest_of("forged"))
    assert _found(store) == [("chain", f"commits/{view}/{keys[0]}")]


def test_object_among_the_commits_that_is_none_is_found(store: Store, view: str, keys) -> None:
    store.location.put(f"commits/{view}/{keys[0]}/notes.txt", b"x")
    store.location.put(f"commits/{view}/a/stray.json", b"{}")
    assert sorted(_found(store)) == [
        ("record", f"commits/{view}/a"),
        ("record", f"commits/{view}/a"),
        ("record", f"commits/{view}/{keys[0]}"),
    ]


def test_ids_that_differ_by_case_alone_are_found(store: Store, view: str) -> None:
    store.publish(view, EntryKey("B.2", "CT", "skeleton"), example_entry(), input_sha256=digest_of("x"))
    assert _found(store) == [("twin", "B.2, b.2")]


def test_commits_of_a_view_without_specification_are_found(store: Store, view: str) -> None:
    Path(store.url, "views", f"{view}.json").unlink()
    assert _found(store) == [("record", f"views/{view}.json")]


def test_orphaned_attempts_are_listed_and_are_no_fault(store: Store, view: str) -> None:
    attempt = f"data/{view}/nobody/CT/skeleton/{'0' * 32}"
    store.location.put(f"{attempt}/memory/c/0/0/0/0", b"half")
    report = store.verify()
    assert report.ok
    assert report.orphans == (attempt,)
    assert report.orphan_bytes == 4


def test_attempts_beside_a_commit_that_cannot_be_read_are_not_called_orphans(store: Store, view: str, keys) -> None:
    store.location.put(commit_path(view, keys[0], 0), b"{}")
    report = store.verify()
    assert [finding.kind for finding in report.findings] == ["altered"]
    assert report.orphans == ()


def test_truncated_object_is_named_with_both_sizes(store: Store, view: str, keys) -> None:
    path = f"{store.current(view, keys[0]).folder}/memory/c/0/0/0/0"
    data = store.location.get(path)
    store.location.put(path, data[:10])
    (finding,) = store.verify().findings
    assert (finding.kind, finding.path) == ("truncated", path)
    assert re.search(rf"has 10 bytes .*, it was cut: commit 0 lists {len(data)} bytes", finding.detail)
    store.location.put(path, b"")
    assert _found(store) == [("truncated", path)]
    for changed in (data + b"\0", data[:-1] + bytes([data[-1] ^ 1])):
        store.location.put(path, changed)
        assert _found(store) == [("altered", path)]


# Withdrawn entries


def test_data_that_a_withdrawal_left_is_found_until_it_is_run_again(store: Store, view: str, keys) -> None:
    before = {path: store.location.get(path) for path in store.location.paths(f"data/{view}/{keys[0]}")}
    withdraw(store, keys=[keys[0]], reason="test")
    assert _found(store) == []
    for path, data in before.items():
        store.location.put(path, data)
    (finding,) = store.verify().findings
    assert (finding.kind, finding.path) == ("withdrawn", "/".join(next(iter(before)).split("/")[:6]))
    assert "run `store-schema withdraw` again" in finding.detail
    withdraw(store, keys=[keys[0]], reason="test")
    report = store.verify()
    assert (report.ok, report.entries, report.withdrawn) == (True, 3, 1)


def test_tombstone_that_the_list_lacks_and_list_without_tombstone_are_found(store: Store, view: str, keys) -> None:
    withdraw(store, keys=[keys[0]], reason="test")
    listed = store.location.get(withdrawn_path(view, 0))
    store.location.delete(withdrawn_path(view, 0))
    assert _found(store) == [("withdrawn", f"commits/{view}/{keys[0]}")]
    store.location.create(withdrawn_path(view, 0), listed)
    store.location.delete(commit_path(view, keys[0], 1))
    assert ("withdrawn", f"withdrawn/{view}") in _found(store)


def test_damaged_list_is_found(store: Store, view: str, keys) -> None:
    withdraw(store, keys=[keys[0]], reason="test")
    store.location.put(withdrawn_path(view, 1), b"{}")
    assert ("altered", f"withdrawn/{view}") in _found(store)
    store.location.delete(withdrawn_path(view, 1))
    store.location.put(f"withdrawn/{view}/notes.txt", b"x")
    assert _found(store) == [("record", f"withdrawn/{view}/notes.txt")]


def test_commit_after_a_tombstone_is_found(store: Store, view: str, keys) -> None:
    commit = store.current(view, keys[0])
    withdraw(store, keys=[keys[0]], reason="test")
    inputs = (commit.input_sha256, digest_of("forged"))
    later = commit.model_copy(update={"number": 2, "earlier_inputs": inputs})
    store.location.create(commit_path(view, keys[0], 2), later.to_bytes())
    assert ("chain", f"commits/{view}/{keys[0]}") in _found(store)


def test_snapshot_that_names_a_withdrawn_entry_is_no_fault(store: Store, view: str, snapshot: Snapshot, keys) -> None:
    withdraw(store, keys=[keys[0]], reason="test")
    assert _found(store) == []
    store.location.put(commit_path(view, keys[0], 0), b"{}")
    assert ("altered", f"{snapshot_path(snapshot.id)}: {keys[0]}") in _found(store)


# Names, markers


@pytest.mark.parametrize("path", ["notes.txt", "backup/x", ".hidden/x"])
def test_name_at_the_root_that_no_store_has_is_found(store: Store, view: str, path: str) -> None:
    store.location.put(path, b"x")
    assert _found(store) == [("unknown", path.split("/", maxsplit=1)[0])]


def test_probes_are_no_strays(store: Store, view: str) -> None:
    store.location.put(f"{PROBES}/x", b"")
    assert _found(store) == []


@pytest.mark.parametrize("path", ["views/notes.txt", "snapshots/notes.txt", "packs/notes.txt"])
def test_name_that_does_not_belong_in_its_folder_is_found(store: Store, view: str, path: str) -> None:
    store.location.put(path, b"x")
    assert _found(store) == [("record", path)]


def test_object_where_a_patients_folder_belongs_is_found(store: Store, view: str) -> None:
    store.location.put(f"commits/{view}/stray", b"x")
    store.location.put(f"data/{view}/other", b"x")
    assert sorted(_found(store)) == [("record", f"commits/{view}/stray"), ("record", f"data/{view}/other")]


def test_data_under_a_name_that_is_no_key_is_found(store: Store, view: str) -> None:
    store.location.put(f"data/{view}/a/CT/..skeleton/{'0' * 32}/zarr.json", b"x")
    assert _found(store) == [("unknown", f"data/{view}/a/CT/..skeleton/{'0' * 32}")]


def test_marker_of_a_snapshot_that_is_not_there_or_of_another_view_is_found(
    store: Store, view: str, snapshot: Snapshot
) -> None:
    other = store.put_view(example_view(recipe=2))
    store.location.put(f"snapshots/of/{other}/{snapshot.id}", b"")
    store.location.put(f"snapshots/of/{view}/{'0' * 64}", b"")
    assert sorted(_found(store)) == [
        ("missing", f"snapshots/of/{view}/{'0' * 64}"),
        ("record", f"snapshots/of/{other}/{snapshot.id}"),
    ]


def test_rows_that_two_snapshots_share_are_read_once(store: Store, view: str, snapshot: Snapshot, keys) -> None:
    store.publish(view, keys[0], example_entry(9), input_sha256=digest_of("x"))
    store.make_snapshot(view)
    asked = []

    class Counting(WrappedLocation):
        def get(self, path: str) -> bytes:
            asked.append(path)
            return super().get(path)

    counting = Store(Counting(store.location), store.record)
    assert _found(counting) == []
    # Once as an entry's commit, once as a row of the first snapshot.
    assert asked.count(commit_path(view, keys[1], 0)) == 2


# Packs


def test_sound_pack_is_counted(store: Store, snapshot: Snapshot) -> None:
    for kind in ("mean_map", "memory"):
        make_pack(snapshot, kind)
    report = store.verify()
    assert (report.findings, report.packs, report.orphans) == ((), 2, ())


def test_damaged_missing_and_truncated_objects_of_a_pack_are_found(store: Store, snapshot: Snapshot) -> None:
    pack = make_pack(snapshot, "mean_map")
    for path in sorted(pack.record.objects):
        place = f"{pack.folder}/{path}"
        whole = store.location.get(place)
        for kind, damaged in (("truncated", whole[:-1]), ("altered", bytes([whole[0] ^ 1]) + whole[1:])):
            store.location.put(place, damaged)
            assert _found(store) == [(kind, place)]
        store.location.delete(place)
        assert _found(store) == [("missing", place)]
        store.location.put(place, whole)
    assert _found(store) == []


def test_damaged_or_moved_record_of_a_pack_is_found(store: Store, snapshot: Snapshot) -> None:
    make_pack(snapshot, "mean_map")
    path = record_path(snapshot.id, "mean_map")
    data = store.location.get(path)
    other = record_path(snapshot.id, "memory")
    store.location.create(other, data)
    assert _found(store) == [("record", other)]
    store.location.delete(other)
    store.location.put(path, data[:-3])
    report = store.verify()
    assert ([(f.kind, f.path) for f in report.findings], report.orphans) == ([("altered", path)], ())


def test_pack_of_other_rows_than_its_snapshot_is_found(store: Store, view: str, snapshot: Snapshot, keys) -> None:
    """Sound in itself, and named by another snapshot's id."""
    other = store.snapshot(store.make_snapshot(view, keys[:2]))
    pack = make_pack(other, "mean_map")
    claimed = pack.record.model_copy(update={"snapshot": snapshot.id})
    folder = pack_folder(snapshot.id, "mean_map")
    for path in pack.record.objects:
        store.location.put(f"{folder}/{claimed.attempt}/{path}", store.location.get(f"{pack.folder}/{path}"))
    store.location.create(record_path(snapshot.id, "mean_map"), claimed.to_bytes())
    (finding,) = store.verify().findings
    assert (finding.kind, finding.path) == ("record", f"{folder}/{claimed.attempt}")
    assert "patient coordinates are not the rows of snapshot" in finding.detail


def test_attempts_at_a_pack_that_no_record_names_are_orphans(store: Store, snapshot: Snapshot) -> None:
    orphan = f"{pack_folder(snapshot.id, 'mean_map')}/{'a' * 32}"
    store.location.put(f"{orphan}/mean_map/c/0/0/0", b"half")
    report = store.verify()
    assert (report.ok, report.orphans, report.orphan_bytes) == (True, (orphan,), 4)


def test_pack_that_a_withdrawal_left_is_found(store: Store, snapshot: Snapshot, keys) -> None:
    make_pack(snapshot, "mean_map")
    folder = pack_folder(snapshot.id, "mean_map")
    held = {path: store.location.get(path) for path in store.location.paths(folder)}
    assert withdraw(store, keys=[keys[0]], reason="test").packs == (folder,)
    for path, data in held.items():
        store.location.put(path, data)
    assert _found(store) == [("withdrawn", folder)]
    assert withdraw(store, keys=[keys[0]], reason="test").packs == (folder,)
    assert _found(store) == []


def test_one_view_or_snapshot_can_be_checked_alone(store: Store, view: str, keys) -> None:
    other = store.put_view(example_view(recipe=2))
    store.publish(other, keys[0], example_entry(), input_sha256=digest_of("x"))
    broken = Path(store.url, store.current(view, keys[1]).folder, "mask/c/0/0/0")
    broken.unlink()
    place = str(broken.relative_to(store.url))
    assert _found(store) == _found(store, views=[view]) == [("missing", place)]
    assert _found(store, views=[other]) == []
    assert _found(store, snapshot=store.snapshot(store.make_snapshot(view, [keys[0], keys[2]]))) == []
    assert _found(store, snapshot=store.snapshot(store.make_snapshot(view, [keys[1]]))) == [("missing", place)]


def test_object_that_the_backend_cannot_give_does_not_stop_the_rest(store: Store, view: str, keys) -> None:
    class Flaky(WrappedLocation):
        def get(self, path: str) -> bytes:
            if path.endswith("preview/c/0/0/0"):
                raise BackendError("could not read: timed out")
            return super().get(path)

    broken = Store(Flaky(store.location), store.record)
    assert [kind for kind, _ in _found(broken)] == ["unreadable"] * 3


@pytest.mark.parametrize("name", ["views", "commits", "snapshots", "runs", "data"])
def test_stray_file_beside_the_records_does_not_break_verification(store: Store, view: str, name: str) -> None:
    store.location.put(f"{name}/README.txt", b"x")
    assert all(kind == "record" for kind, _ in _found(store))


def test_unfinished_file_of_a_killed_writer_is_no_damage_and_a_stray_object_is(store: Store, view: str) -> None:
    folder = Path(store.url) / "data" / view / "killed" / "CT" / "spine"
    folder.mkdir(parents=True)
    (folder / ".engram-tmp-1").write_bytes(b"half")
    assert store.verify().findings == ()
    (Path(store.url) / "data" / view / "stray").write_bytes(b"x")
    assert [finding.path for finding in store.verify().findings] == [f"data/{view}/stray"]
