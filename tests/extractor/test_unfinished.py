"""Parts of unfinished entries on a local disk: whole or not there, never of something else, gone once they are not needed."""

import os
import stat
import time

import numpy as np
import pytest

from extractor import unfinished
from extractor.unfinished import OLD_S, Unfinished, usual_folder

ENTRY, FROM, OTHER = "a" * 64, "b" * 64, "c" * 64
ARRAYS = {"memory": np.arange(24, dtype=np.float16).reshape(2, 3, 4), "made": np.array([True, False, True])}


@pytest.fixture
def kept(tmp_path) -> Unfinished:
    unfinished = Unfinished(tmp_path / "scratch")
    assert unfinished.of(ENTRY, FROM).put(8, ARRAYS)
    return unfinished


def part(kept: Unfinished):
    (file,) = kept.folder.rglob("*.part")
    return file


def test_a_part_is_read_as_it_was_written(kept):
    read = kept.of(ENTRY, FROM).get(8)
    assert read.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype


def test_what_was_made_from_something_else_is_not_read(kept):
    assert kept.of(ENTRY, OTHER).get(8) is None
    assert kept.of(OTHER, FROM).get(8) is None
    assert kept.of(ENTRY, FROM).get(0) is None


@pytest.mark.parametrize("place", [0, 31, 32, 40, -1])
def test_a_part_with_any_byte_changed_is_not_read(kept, place):
    data = bytearray(part(kept).read_bytes())
    data[place] ^= 1
    part(kept).write_bytes(data)
    assert kept.of(ENTRY, FROM).get(8) is None


@pytest.mark.parametrize("size", [0, 10, 32, 100])
def test_a_part_that_was_cut_short_is_not_read_and_is_replaced(kept, size):
    part(kept).write_bytes(part(kept).read_bytes()[:size])
    assert kept.of(ENTRY, FROM).get(8) is None
    assert kept.of(ENTRY, FROM).put(8, ARRAYS)
    np.testing.assert_array_equal(kept.of(ENTRY, FROM).get(8)["memory"], ARRAYS["memory"])


def test_parts_are_their_owners_alone(kept):
    assert stat.S_IMODE(part(kept).stat().st_mode) == 0o600
    assert stat.S_IMODE(part(kept).parent.stat().st_mode) == 0o700


def test_an_entry_is_forgotten_whole_and_alone(kept):
    kept.of(ENTRY, OTHER).put(0, ARRAYS)
    kept.of(OTHER, FROM).put(0, ARRAYS)
    kept.forget(ENTRY)
    kept.forget(ENTRY)
    assert [file.parent.parent.name for file in kept.folder.rglob("*.part")] == [OTHER]


def test_a_month_after_the_last_part_an_entry_is_removed_and_what_is_no_entry_stays(kept):
    kept.of(OTHER, FROM).put(0, ARRAYS)
    (kept.folder / "notes").mkdir()
    long_ago = time.time() - OLD_S - 60
    for place in [*(kept.folder / ENTRY).rglob("*"), kept.folder / ENTRY, kept.folder / OTHER, kept.folder / "notes"]:
        os.utime(place, (long_ago, long_ago))
    kept.tidy()
    assert sorted(place.name for place in kept.folder.iterdir()) == sorted([OTHER, "notes"])
    Unfinished(kept.folder / "absent").tidy()


def test_a_disk_that_takes_nothing_is_told_and_costs_nothing_else(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    parts = Unfinished(tmp_path / "file").of(ENTRY, FROM)
    assert not parts.put(0, ARRAYS)
    assert "takes no more parts" in caplog.text
    assert parts.get(0) is None


def test_names_are_digests(tmp_path):
    for wrong in ("../x", "A" * 64, "a" * 63):
        with pytest.raises(ValueError, match="no sha256"):
            Unfinished(tmp_path).forget(wrong)


def test_the_usual_folder_lies_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert usual_folder() == tmp_path / "engram" / "unfinished"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert usual_folder() == tmp_path / "home" / ".cache" / "engram" / "unfinished"


def test_a_place_that_vanishes_does_not_keep_the_others(tmp_path, monkeypatch):
    names = sorted(digit * 64 for digit in "abcd")
    for name in names:
        (tmp_path / name).mkdir()
    look = unfinished._newest

    def vanishing(place):
        if place.name != names[-1]:
            place.rmdir()
        return look(place) - 2 * unfinished.OLD_S

    monkeypatch.setattr(unfinished, "_newest", vanishing)
    unfinished.Unfinished(tmp_path).tidy()
    assert list(tmp_path.iterdir()) == []
