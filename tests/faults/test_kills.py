"""Writers and servers that are killed: what was acknowledged is there, and what is visible is whole."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
import s3fs

from store_schema import EntryKey, Store, create_store
from store_schema.testing import example_entry, example_view

WRITER = Path(__file__).with_name("writer.py")
FEW, MANY = 5, int(os.environ.get("ENGRAM_KILLS", "200"))
SERVER_KILLS = int(os.environ.get("ENGRAM_SERVER_KILLS", "10"))


def start(url: str, view: str, prefix: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(WRITER), "loop", url, view, prefix]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert json.loads(writer.stdout.readline()) == {"ready": True}
    return writer


def acknowledged(text: str) -> dict[EntryKey, int]:
    """Seed by key of what a writer said it had published; a last line that was cut says nothing."""
    lines = [line for line in text.split("\n")[:-1] if line]
    return {EntryKey.parse(said["key"]): said["seed"] for said in map(json.loads, lines)}


def check(store: Store, view: str, told: dict[EntryKey, int]) -> None:
    """Every acknowledged entry reads back as it was; no visible entry fails to verify."""
    for key, seed in told.items():
        read = store.read(view, key).arrays
        assert all((read[name] == values).all() for name, values in example_entry(seed).arrays.items()), key
    report = store.verify()
    assert report.findings == ()
    assert report.entries >= len(told)


def kill_writers(url: str, times: int, seed: int) -> tuple[int, int]:
    """How many entries were acknowledged, and how many orphans were left, after so many kills at random moments."""
    store = create_store(url)
    view = store.put_view(example_view())
    moments = random.Random(seed)
    told: dict[EntryKey, int] = {}
    for turn in range(times):
        writer = start(url, view, f"K{turn:03d}x")
        time.sleep(moments.uniform(0.0, 0.25))
        writer.kill()
        told |= acknowledged(writer.communicate()[0])
        assert writer.returncode == -9
    check(store, view, told)
    return len(told), len(store.verify().orphans)


def test_writer_killed_at_random_in_a_folder(tmp_path: Path) -> None:
    entries, _ = kill_writers(str(tmp_path / "store"), FEW, seed=1)
    assert entries > 0


def test_writer_killed_at_random_on_s3(s3_url: str) -> None:
    entries, _ = kill_writers(s3_url, FEW, seed=2)
    assert entries > 0


@pytest.mark.soak
def test_writers_killed_many_times(tmp_path: Path, s3_url: str) -> None:
    for name, url in (("folder", str(tmp_path / "store")), ("S3", s3_url)):
        entries, orphans = kill_writers(url, MANY, seed=7)
        print(
            f"{name}: {MANY} kills, {entries} entries acknowledged, all there; {orphans} orphaned attempts; verify clean",
            flush=True,
        )


# The server


@pytest.fixture
def own_server(radosgw: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A server of this test's own, which it may kill: its folder, and the address of an empty prefix there."""
    folder = Path(f"{os.environ['ENGRAM_TEST_S3_FOLDER']}-{uuid4().hex[:6]}")
    radosgw.apart("start", folder)
    for name, value in radosgw.running(folder).environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("engram-killed")
    yield folder, "s3://engram-killed/store"
    radosgw.kill(folder)
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def kill_server(radosgw: Any, folder: Path, url: str, times: int) -> int:
    """How many entries were acknowledged while the server was killed so often under load."""
    store = create_store(url)
    view = store.put_view(example_view())
    moments = random.Random(3)
    told: dict[EntryKey, int] = {}
    for turn in range(times):
        writers = [start(url, view, f"S{turn:03d}w{i}x") for i in range(2)]
        time.sleep(moments.uniform(0.5, 2.0))
        radosgw.kill(folder)
        time.sleep(0.5)
        radosgw.apart("restart", folder)
        time.sleep(moments.uniform(0.5, 2.0))
        for writer in writers:
            running = writer.poll() is None
            writer.kill()
            text, errors = writer.communicate()
            told |= acknowledged(text)
            assert running or "BackendError" in errors, errors[-2000:]
    check(store, view, told)
    return len(told)


@pytest.mark.timeout(900)
def test_server_killed_under_load_loses_nothing_acknowledged(radosgw: ModuleType, own_server: tuple[Path, str]) -> None:
    assert kill_server(radosgw, *own_server, times=1) > 0


@pytest.mark.soak
def test_server_killed_many_times_under_load(radosgw: ModuleType, own_server: tuple[Path, str]) -> None:
    entries = kill_server(radosgw, *own_server, times=SERVER_KILLS)
    print(
        f"S3 server: {SERVER_KILLS} kills of every daemon under load, {entries} entries acknowledged, all there; verify clean"
    )
