"""`extractor occlude` killed in the midst of a long entry goes on within it, to the store that an uninterrupted run makes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from extractor.phantom import write_cohort
from store_schema import open_store
from store_schema.testing import content_digests

SETTINGS = """
model: mini
weights: "random:0"
pet_units: suv
modalities: [PET]
stride: 4
derive: [spine_dilated]
layouts: [paper]
"""
PART = 8


def command(folder: Path, store: str) -> list[str]:
    told = ["occlude", str(folder / "studies.csv"), "--store", str(folder / store), "--config", str(folder / "e.yaml")]
    told += ["--size-mm", "30", "--stride-mm", "28", "--patient", "P001", "--scratch", str(folder / f"scratch-{store}")]
    return [str(Path(sys.executable).parent / "extractor"), *told]


def started(folder: Path, store: str) -> subprocess.Popen[str]:
    """One thread: the numbers of a network depend on it, and a resumed run takes nothing that was made otherwise."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command(folder, store), env=environment, text=True, start_new_session=True, **pipes)


def finished(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate()
    assert process.returncode == 0, out + errors
    return errors


def killed_at(folder: Path, store: str, parts: int) -> None:
    """A run that is killed as soon as so many parts are kept."""
    process = started(folder, store)
    while len(list((folder / f"scratch-{store}").rglob("*.part"))) < parts:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def assert_kills_change_nothing(folder: Path, points: list[int]) -> None:
    write_cohort(folder, n=1, seed=3, processes=0)
    (folder / "e.yaml").write_text(SETTINGS)
    errors = finished(started(folder, "whole"))
    patches = int(re.search(r"of (\d+) patches", errors)[1])
    assert patches > PART * (max(points) + 1), "a kill point lies behind the end of the entry"
    assert "made before" not in errors
    for point in points:
        killed_at(folder, "killed", point)
        assert not list((folder / "killed").glob("commits/**/*.json")), "the entry was committed before the kill"
    errors = finished(started(folder, "killed"))
    before = int(re.search(r"\((\d+) made before\)", errors)[1])
    assert PART * max(points) <= before < patches
    store = open_store(str(folder / "killed"))
    assert store.verify().ok
    assert content_digests(store) == content_digests(open_store(str(folder / "whole")))
    assert not list((folder / "scratch-killed").rglob("*.part"))


def test_an_entry_killed_twice_ends_as_one_that_was_not(tmp_path):
    assert_kills_change_nothing(tmp_path, [1, 4])


@pytest.mark.soak
def test_an_entry_killed_after_every_part_ends_as_one_that_was_not(tmp_path):
    assert_kills_change_nothing(tmp_path, [1, 2, 3, 4, 5, 6])
