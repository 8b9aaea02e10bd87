"""A copy is the same store byte for byte; it resumes, checks what it copies, and carries withdrawals first."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from store_schema import EntryKey, Store, create_store, make_pack, open_store
from store_schema.cli import main
from store_schema.copying import copy_store
from store_schema.errors import BackendError, UsageError
from store_schema.location import FolderLocation, Location, MemoryLocation
from store_schema.testing import FailingLocation, digest_of, example_entry, example_view
from store_schema.withdraw import withdraw


def key(i: int) -> EntryKey:
    return EntryKey(f"P{i}", "PET", "spine")


@pytest.fixture
def source(tmp_path: Path) -> Store:
    """Two views, an entry with two commits, a snapshot with its pack, a run."""
    store = create_store(tmp_path / "source")
    for name in ("one", "two"):
        view = store.put_view(example_view(name=name))
        for i in range(3):
            store.publish(view, key(i), example_entry(i), input_sha256=digest_of(str(i)))
        store.publish(view, key(1), example_entry(9), input_sha256=digest_of("later"))
        make_pack(store.snapshot(store.make_snapshot(view)), "mean_map")
    store.put_run("run-1", "record.json", b"{}")
    return store


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_copy_there_and_back_is_the_same_byte_for_byte(source: Store, tmp_path: Path) -> None:
    report = copy_store(source, str(tmp_path / "copy"), runs=True)
    assert (report.ok, report.entries, report.commits) == (True, 6, 8)
    assert tree(tmp_path / "copy") == tree(tmp_path / "source")
    again = copy_store(source, str(tmp_path / "copy"), runs=True)
    assert (again.commits, again.objects, again.entries, len(again.snapshots)) == (0, 0, 6, 2)
    copied = open_store(tmp_path / "copy")
    assert copied.verify().ok
    assert copied.snapshot_ids() == source.snapshot_ids()


def test_copy_stopped_at_any_write_resumes_to_the_same_store(
    source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = len(tree(tmp_path / "source"))
    for writes in range(0, total, 7):
        target = tmp_path / f"stopped-{writes}"
        _through(monkeypatch, lambda inner, left=writes: FailingLocation(inner, writes=left, when="before"))  # type: ignore[misc]
        try:
            assert not copy_store(source, str(target), runs=True).ok
        except BackendError:
            assert writes < total
        monkeypatch.undo()
        if (target / "engram.json").exists():
            assert open_store(target).verify().findings == ()
        assert copy_store(source, str(target), runs=True).ok
        assert tree(target) == tree(tmp_path / "source")


def _through(monkeypatch: pytest.MonkeyPatch, wrap: object) -> None:
    """Wraps the target that is opened; the doctor, which would be stopped too, says that all is well."""
    monkeypatch.setattr("store_schema.copying.open_location", lambda url: wrap(FolderLocation(Path(url))))  # type: ignore[operator]
    monkeypatch.setattr("store_schema.copying.examine", lambda _: [])


def test_damaged_entry_is_left_out_and_named_and_the_rest_is_copied(source: Store, tmp_path: Path) -> None:
    view = source.view_ids()[0]
    commit = source.commit(view, key(2))
    (tmp_path / "source" / commit.folder / "memory/c/0/0/0/0").write_bytes(b"altered")
    report = copy_store(source, str(tmp_path / "copy"))
    assert not report.ok
    assert any(f"{view}/{key(2)}: ObjectAlteredError" in problem for problem in report.problems)
    assert len(report.snapshots) == 1
    copied = open_store(tmp_path / "copy")
    assert copied.keys(view) == [key(0), key(1)]
    assert copied.verify().ok


def test_chosen_views_and_snapshots_alone_are_copied(source: Store, tmp_path: Path) -> None:
    one, two = source.view_ids()
    assert copy_store(source, str(tmp_path / "view"), views=[two]).entries == 3
    assert open_store(tmp_path / "view").view_ids() == [two]
    small = source.make_snapshot(one, [key(1)])
    report = copy_store(source, str(tmp_path / "snapshot"), snapshots=[small[:12]])
    assert (report.entries, report.commits, report.snapshots) == (1, 2, [small])
    copied = open_store(tmp_path / "snapshot")
    assert copied.snapshot(small).read(key(1)).arrays["memory"].tobytes() == example_entry(9).arrays["memory"].tobytes()
    assert copied.verify().ok
    with pytest.raises(UsageError, match="exclude each other"):
        copy_store(source, str(tmp_path / "both"), views=[one], snapshots=[small])


def test_withdrawn_entry_is_not_copied_and_is_erased_where_it_was(source: Store, tmp_path: Path) -> None:
    copy_store(source, str(tmp_path / "early"))
    withdraw(source, patients=["P1"], reason="consent")
    for name in ("early", "late"):
        assert copy_store(source, str(tmp_path / name)).ok
        copied = open_store(tmp_path / name)
        assert not [path for path in copied.location.paths("data") if "/P1/" in path]
        assert all(copied.keys(view) == [key(0), key(2)] for view in copied.view_ids())
        assert copied.location.paths("packs") == []
        assert copied.verify().findings == ()


def test_copy_that_went_another_way_is_refused(source: Store, tmp_path: Path) -> None:
    copy_store(source, str(tmp_path / "copy"))
    view = source.view_ids()[0]
    open_store(tmp_path / "copy").publish(view, key(0), example_entry(5), input_sha256=digest_of("theirs"))
    report = copy_store(source, str(tmp_path / "copy"))
    assert [problem.split(":")[0] for problem in report.problems if "another way" in problem] == [f"{view}/{key(0)}"]
    source.publish(view, key(0), example_entry(6), input_sha256=digest_of("mine"))
    assert any("another record" in problem for problem in copy_store(source, str(tmp_path / "copy")).problems)


def test_place_that_is_no_replica_is_refused(source: Store, tmp_path: Path) -> None:
    create_store(tmp_path / "other")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    for place, why in (("other", "another store"), ("full", "is not empty"), ("source", "the source itself")):
        with pytest.raises(UsageError, match=why):
            copy_store(source, str(tmp_path / place))
    assert tree(tmp_path / "full") == {"letter.txt": b"mine"}


def test_dry_run_writes_nothing(source: Store, tmp_path: Path) -> None:
    report = copy_store(source, str(tmp_path / "copy"), dry_run=True)
    assert (report.commits, report.entries) == (8, 6)
    assert not (tmp_path / "copy").exists()


def test_copy_to_memory_and_onwards(source: Store, tmp_path: Path) -> None:
    copy_store(source, "memory://copying", runs=True)
    middle = open_store("memory://copying")
    assert isinstance(middle.location, MemoryLocation)
    copy_store(middle, str(tmp_path / "back"), runs=True)
    assert tree(tmp_path / "back") == tree(tmp_path / "source")


def test_copy_between_folder_and_s3(source: Store, s3_url: str, tmp_path: Path) -> None:
    assert copy_store(source, s3_url, runs=True).ok
    there = open_store(s3_url)
    assert there.verify().ok
    assert copy_store(there, str(tmp_path / "back"), runs=True).ok
    assert tree(tmp_path / "back") == tree(tmp_path / "source")


def test_command_copies_and_reports(source: Store, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["copy", source.url, str(tmp_path / "copy"), "--view", "one", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["entries"] == 3
    done = CliRunner().invoke(main, ["copy", source.url, str(tmp_path / "copy")])
    assert done.stdout.startswith("copied 4 commits")


def test_locations_are_asked_for_little_when_nothing_is_new(
    source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_store(source, str(tmp_path / "copy"))
    written: list[str] = []

    class Watching(FolderLocation):
        def put(self, path: str, data: bytes) -> None:
            written.append(path)
            super().put(path, data)

    def watch(url: str) -> Location:
        return Watching(Path(url))

    monkeypatch.setattr("store_schema.copying.open_location", watch)
    copy_store(source, str(tmp_path / "copy"))
    assert written == []
