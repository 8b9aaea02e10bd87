"""A name is created exactly once: by threads, by processes, and through fsspec only where the file system can promise it."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from click.testing import CliRunner
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from store_schema import create_store
from store_schema.cli import main
from store_schema.doctor import examine
from store_schema.errors import AlreadyExistsError, BackendError
from store_schema.location import FilesystemLocation, FolderLocation, Location, open_location
from store_schema.testing import example_view

WRITERS, TURNS = 8, 25


class Looking(LocalFileSystem):
    """Creates as fsspec's own method does: looks, then writes."""

    protocol = "looking-probe"


class Linking(LocalFileSystem):
    """Creates by a hard link, which fails where the name exists."""

    protocol = "linking-probe"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        place = Path(self._strip_protocol(path))
        temporary = place.parent.parent / f"tmp-{uuid4().hex}"
        temporary.write_bytes(value)
        try:
            (os.link if mode == "create" else os.replace)(temporary, place)
        finally:
            temporary.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def schemes() -> None:
    """Schemes that only fsspec knows, for local folders."""
    for one in (Looking, Linking):
        fsspec.register_implementation(one.protocol, one, clobber=True)


@pytest.fixture(params=["folder", "memory", "fsspec"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    match request.param:
        case "folder":
            return FolderLocation(tmp_path / "store")
        case "memory":
            return open_location(f"memory://{tmp_path}")
        case _:
            return open_location(f"linking-probe://{tmp_path}/store")


def test_of_threads_that_create_a_name_at_once_exactly_one_wins_and_its_bytes_stay(location: Location) -> None:
    barrier = Barrier(WRITERS)

    def won(writer: int) -> list[bool]:
        results = []
        for turn in range(TURNS):
            barrier.wait(60)
            results.append(_created(location, f"a/b/{turn}", writer))
        return results

    with ThreadPoolExecutor(WRITERS) as pool:
        by_writer = list(pool.map(won, range(WRITERS)))
    for turn, results in enumerate(zip(*by_writer, strict=True)):
        assert sum(results) == 1
        assert location.get(f"a/b/{turn}") == bytes([results.index(True)])
    assert len(location.paths("")) == TURNS


def _created(location: Location, path: str, writer: int) -> bool:
    try:
        location.create(path, bytes([writer]))
    except AlreadyExistsError:
        return False
    return True


def test_of_processes_that_create_a_name_at_once_exactly_one_wins_and_its_bytes_stay(tmp_path: Path) -> None:
    location = FolderLocation(tmp_path / "store")
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        asked = [
            [pool.apply_async(location.create, (f"a/{turn}", bytes([writer]))) for writer in range(4)]
            for turn in range(TURNS)
        ]
        for turn, writers in enumerate(asked):
            won = []
            for writer, answer in enumerate(writers):
                try:
                    answer.get(120)
                    won.append(writer)
                except AlreadyExistsError:
                    continue
            assert [location.get(f"a/{turn}")] == [bytes([writer]) for writer in won]
    assert len(location.paths("")) == TURNS
    assert list(location.leftovers()) == []


@pytest.mark.parametrize("wrapped", [False, True])
def test_nothing_is_created_where_a_file_system_looks_first_and_writes_then(tmp_path: Path, *, wrapped: bool) -> None:
    files = DirFileSystem(str(tmp_path), fs=Looking()) if wrapped else Looking()
    location = FilesystemLocation("looking-probe://store", lambda: (files, "store" if wrapped else f"{tmp_path}/store"))
    location.put("a", b"1")
    with pytest.raises(BackendError, match=r"cannot create a name exactly once.*write to s3://"):
        location.create("b", b"1")
    assert location.paths("") == ["a"]


def test_such_a_file_system_is_no_place_for_a_store_every_time(tmp_path: Path) -> None:
    """By luck a race may have one winner all the same: what is known of the file system decides."""
    url = f"looking-probe://{tmp_path}/store"
    wrong = {check.name for check in examine(open_location(url)) if check.verdict == "failed"}
    assert wrong == {"second create refused", "one winner of a race"}
    made = CliRunner().invoke(main, ["init", url])
    assert (made.exit_code, "was not made a store" in made.stderr) == (1, True)
    assert open_location(url).paths("") == []


def test_store_is_made_where_a_file_system_creates_exactly_once(tmp_path: Path) -> None:
    url = f"linking-probe://{tmp_path}/store"
    assert [check for check in examine(open_location(url)) if check.verdict != "ok"] == []
    done = CliRunner().invoke(main, ["init", url])
    assert done.exit_code == 0, done.output
    store = create_store(url)
    assert store.put_view(example_view()) == example_view().view_id
    assert store.verify().ok
