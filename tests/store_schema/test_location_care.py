"""What looking after a place needs of it: deleting, listing with times, and what killed writers left."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from store_schema.errors import ObjectMissingError, StoreError
from store_schema.location import TEMPORARY, FolderLocation, Location, open_location


@pytest.fixture(params=["memory", "folder", "fsspec"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "fsspec":
        return open_location(f"local-probe://{tmp_path}")
    return open_location(f"memory://{tmp_path}" if request.param == "memory" else tmp_path)


@pytest.fixture(autouse=True)
def local_scheme() -> None:
    """A scheme that only fsspec knows, for the same folder."""
    import fsspec  # noqa: PLC0415
    from fsspec.implementations.local import LocalFileSystem  # noqa: PLC0415

    class Probe(LocalFileSystem):
        protocol = "local-probe"

    fsspec.register_implementation("local-probe", Probe, clobber=True)


def test_deleting_what_is_there_and_what_is_not(location: Location) -> None:
    location.put("a/b/x", b"1")
    location.put("a/y", b"2")
    location.delete("a/b/x")
    location.delete("a/b/x")
    assert location.paths("") == ["a/y"]
    with pytest.raises(ObjectMissingError):
        location.get("a/b/x")
    location.put("a/b/x", b"again")
    assert location.get("a/b/x") == b"again"


def test_objects_tell_size_and_time(location: Location) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    location.put("a/x", b"123")
    location.put("ab/x", b"")
    (found,) = location.objects("a")
    assert (found.path, found.size_bytes) == ("a/x", 3)
    assert before <= found.modified <= datetime.now(UTC) + timedelta(seconds=2)
    assert list(location.objects("absent")) == []


def test_parts_of_an_object(location: Location) -> None:
    location.put("x", b"0123456789")
    assert location.get_part("x", start=2, end=5) == b"234"
    assert location.get_part("x", start=-4) == b"6789"
    assert location.get_part("x") == b"0123456789"


def test_clock_is_near_this_ones_and_leaves_nothing(location: Location) -> None:
    assert abs((location.now() - datetime.now(UTC)).total_seconds()) < 60
    assert location.paths("") == []


def test_folder_removes_what_it_empties_and_keeps_what_it_does_not(tmp_path: Path) -> None:
    location = FolderLocation(tmp_path / "store")
    location.put("a/b/c/x", b"1")
    location.put("a/y", b"1")
    location.delete("a/b/c/x")
    assert [path.name for path in (tmp_path / "store/a").iterdir()] == ["y"]
    location.delete("a/y")
    assert list((tmp_path / "store").iterdir()) == []


def test_writers_lose_nothing_to_a_deleter_beside_them(tmp_path: Path) -> None:
    location, other = FolderLocation(tmp_path / "store"), FolderLocation(tmp_path / "store")
    stop = threading.Event()

    def delete_always() -> None:
        while not stop.is_set():
            other.put("a/b/z", b"")
            other.delete("a/b/z")

    thread = threading.Thread(target=delete_always)
    thread.start()
    try:
        for i in range(200):
            location.put(f"a/b/{i}", b"kept")
            assert location.get(f"a/b/{i}") == b"kept"
            location.delete(f"a/b/{i}")
    finally:
        stop.set()
        thread.join()


def test_leftovers_are_the_unfinished_files_and_nothing_else(tmp_path: Path) -> None:
    location = FolderLocation(tmp_path)
    location.put("data/x", b"whole")
    (tmp_path / "data" / f"{TEMPORARY}1").write_bytes(b"half")
    (found,) = location.leftovers()
    assert (found.path, found.size_bytes) == (f"data/{TEMPORARY}1", 4)
    with pytest.raises(StoreError, match="no unfinished file"):
        location.delete_leftover("data/x")
    location.delete_leftover(found.path)
    assert list(location.leftovers()) == []
    assert location.paths("") == ["data/x"]
