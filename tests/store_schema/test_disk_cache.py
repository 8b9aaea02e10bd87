"""The cache on a local disk: shared, bounded, private, never trusted, and never a reason to fail."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_schema.disk_cache import LIMIT_BYTES, TEMPORARY, DiskCache, cache_from_environment
from store_schema.errors import BackendError, ConfigError
from store_schema.records import sha256


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache", limit_bytes=10_000)


def put(cache: DiskCache, data: bytes, *, read_at: float | None = None) -> str:
    cache.put(digest := sha256(data), data)
    if read_at is not None:
        os.utime(cache.folder / digest[:2] / digest, (read_at, read_at))
    return digest


def sizes(cache: DiskCache) -> int:
    return sum(path.stat().st_size for path in cache.folder.glob("??/*"))


def test_what_was_put_is_got_by_every_process_that_names_the_folder(cache: DiskCache) -> None:
    digest = put(cache, b"bytes")
    assert cache.get(digest) == DiskCache(cache.folder).get(digest) == b"bytes"
    assert cache.get(sha256(b"other")) is None


def test_only_the_owner_can_read_it(cache: DiskCache) -> None:
    """Also where the folder was there before, and open to all."""
    cache.folder.mkdir(mode=0o755)
    digest = put(cache, b"of a patient")
    assert (cache.folder / digest[:2]).stat().st_mode & 0o077 == 0
    assert (cache.folder / digest[:2] / digest).stat().st_mode & 0o077 == 0
    private = DiskCache(cache.folder / "new")
    put(private, b"x")
    assert private.folder.stat().st_mode & 0o077 == 0


@settings(max_examples=30, deadline=None)
@given(data=st.binary(min_size=1, max_size=50), cut=st.integers(0, 49), flip=st.integers(0, 255))
def test_file_that_is_not_its_digest_is_removed_and_not_given(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cut: int, flip: int
) -> None:
    cache = DiskCache(tmp_path_factory.getbasetemp() / "altered")
    digest = put(cache, data)
    place = cache.folder / digest[:2] / digest
    at = cut % len(data)
    damaged = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :] if flip else data[:at]
    place.write_bytes(damaged)
    assert cache.get(digest) is None
    assert not place.exists()


def test_it_stays_near_its_limit_and_keeps_what_was_read_last(cache: DiskCache) -> None:
    kept = put(cache, b"k" * 1000)
    first = put(cache, b"first" * 200, read_at=0)
    for i in range(40):
        put(cache, bytes([i]) * 1000, read_at=i + 1)
        assert cache.get(kept) == b"k" * 1000
        assert sizes(cache) <= 11_000
    assert cache.get(first) is None


def test_many_short_processes_keep_the_limit_too(cache: DiskCache) -> None:
    """Each adds less than would make it look at the size of the whole."""
    for i in range(60):
        put(DiskCache(cache.folder, cache.limit_bytes), bytes([i]) * 1000, read_at=i)
    assert sizes(cache) <= 12_000


def test_what_others_keep_in_the_folder_is_left_alone(cache: DiskCache) -> None:
    theirs = cache.folder / "ab" / "thesis.tex"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"t" * 20_000)
    os.utime(theirs, (0, 0))
    unfinished = cache.folder / "cd" / f"{TEMPORARY}of-a-killed-process"
    unfinished.parent.mkdir()
    unfinished.write_bytes(b"u" * 1000)
    os.utime(unfinished, (0, 0))
    for i in range(20):
        put(cache, bytes([i]) * 1000)
    assert theirs.exists()
    assert not unfinished.exists()


def test_file_that_another_process_writes_now_is_left_to_it(cache: DiskCache) -> None:
    """Also where it is the only one that could make room."""
    writing = cache.folder / "cd" / f"{TEMPORARY}of-a-process-at-work"
    writing.parent.mkdir(parents=True)
    writing.write_bytes(b"w" * 20_000)
    put(cache, b"x" * 9000)
    put(cache, b"y" * 9000)
    cache.trim()
    assert writing.exists()


def test_purged_objects_are_gone(cache: DiskCache) -> None:
    gone, kept = put(cache, b"gone"), put(cache, b"kept")
    cache.purge([gone, sha256(b"never there")])
    assert (cache.get(gone), cache.get(kept)) == (None, b"kept")
    DiskCache(cache.folder / "absent").purge([gone])


def test_object_that_cannot_be_purged_is_told(cache: DiskCache) -> None:
    digest = sha256(b"x")
    (cache.folder / digest[:2] / digest).mkdir(parents=True)
    with pytest.raises(BackendError, match="data of a withdrawn entry and cannot be removed"):
        cache.purge([digest])


def test_cache_that_cannot_be_looked_into_does_not_stop_a_purge(cache: DiskCache) -> None:
    """It gives nothing either; what can be removed is removed all the same."""
    blocked, gone = "ab" + "0" * 62, put(cache, b"gone")
    (cache.folder / "ab").symlink_to("ab")
    cache.purge([blocked, gone])
    assert cache.get(blocked) is None
    assert cache.get(gone) is None
    cache.folder.joinpath("cd").write_text("a file where a folder should be")
    gone = put(cache, b"also gone")
    cache.purge(["cd" + "0" * 62, gone])
    assert cache.get(gone) is None


def test_name_that_is_no_digest_is_refused(cache: DiskCache) -> None:
    for name in ("../../etc/passwd", "", "A" * 64):
        with pytest.raises(ValueError, match="no sha256"):
            cache.get(name)


def test_it_is_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGRAM_CACHE_BYTES", raising=False)
    monkeypatch.delenv("ENGRAM_CACHE", raising=False)
    assert cache_from_environment() is None
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path))
    assert cache_from_environment() == DiskCache(tmp_path, LIMIT_BYTES)
    monkeypatch.setenv("ENGRAM_CACHE_BYTES", "1000")
    assert cache_from_environment() == DiskCache(tmp_path, 1000)


@pytest.mark.parametrize("text", ["20GB", "-1", "0", "1e9", "٣"])
def test_limit_that_is_no_number_of_bytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path))
    monkeypatch.setenv("ENGRAM_CACHE_BYTES", text)
    with pytest.raises(ConfigError, match="no number of bytes"):
        cache_from_environment()
