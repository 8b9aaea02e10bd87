"""Folders of image features: gone after use, kept while a process holds them, removed once their process was killed."""

import fcntl
import os
import time

from extractor import shelf


def aged(folder):
    long_ago = time.time() - 2 * shelf.YOUNG_S
    os.utime(folder, (long_ago, long_ago))


def test_a_folder_lives_as_long_as_its_block_and_is_left_alone_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(shelf.tempfile, "tempdir", str(tmp_path))
    with shelf.shelf_folder() as folder:
        (folder / "3.pt").write_bytes(b"features")
        aged(folder)
        shelf.tidy_shelves()
        assert (folder / "3.pt").exists()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_is_young_or_held_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(shelf.tempfile, "tempdir", str(tmp_path))
    dead, young, held, other = (tmp_path / f"{shelf.PREFIX}{name}" for name in ("dead", "young", "held", "other"))
    for folder in (dead, young, held, other):
        folder.mkdir()
        (folder / "3.pt").write_bytes(b"features")
        if folder != other:
            (folder / shelf.LOCK).touch()
        if folder != young:
            aged(folder)
    with (held / shelf.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        aged(held)
        with shelf.shelf_folder():
            assert not dead.exists()
    assert {place.name for place in tmp_path.iterdir()} == {young.name, held.name, other.name}
