"""Verification: a sound store has no findings; each kind of fault has its own."""

import json
from pathlib import Path

import pytest

from store_schema import EntryKey, Snapshot, Store
from store_schema.commits import commit_path
from store_schema.errors import BackendError
from store_schema.records import seal, unseal
from store_schema.testing import WrappedLocation, digest_of, example_entry, example_view


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
