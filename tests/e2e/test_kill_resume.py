"""`extractor run` killed at several points resumes to the store that an uninterrupted run makes."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from extractor.phantom import write_cohort
from store_schema import open_store
from store_schema.testing import content_digests

SETTINGS = "model: mini\nweights: random:0\npet_units: suv\nlayouts: [paper, pooled]\n"


def start(studies: Path, store: Path, config: Path) -> subprocess.Popen[bytes]:
    """The command a user runs, in a process group of its own so that its workers die with it."""
    command = [str(Path(sys.executable).parent / "extractor"), "run", str(studies)]
    command += ["--store", str(store), "--config", str(config), "--jobs", "2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def commits(store: Path) -> int:
    return sum(1 for _ in store.glob("commits/*/*/*/*/*.json"))


def kill_after(process: subprocess.Popen[bytes], store: Path, count: int) -> bool:
    """Kills the whole group once `count` commits stand; False where the run ended first."""
    while process.poll() is None:
        if commits(store) >= count:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.005)
    process.communicate()
    return False


def assert_kills_change_nothing(studies: Path, config: Path, folder: Path, points: list[int]) -> None:
    whole = start(studies, folder / "whole", config)
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors.decode()
    assert commits(folder / "whole") > max(points), "a kill point lies behind the end of the run"
    for point in points:
        assert kill_after(start(studies, folder / "killed", config), folder / "killed", point)
        report = open_store(str(folder / "killed")).verify()
        assert report.ok, report
    resumed = start(studies, folder / "killed", config)
    _, errors = resumed.communicate()
    assert resumed.returncode == 0, errors.decode()
    assert open_store(str(folder / "killed")).verify().ok
    assert content_digests(open_store(folder / "killed")) == content_digests(open_store(folder / "whole"))


def test_a_phantom_run_killed_at_several_points_resumes_to_the_same_store(tmp_path):
    write_cohort(tmp_path / "cohort", n=4, seed=3)
    config = tmp_path / "extract.yaml"
    config.write_text(SETTINGS + "stride: 6\nderive: [spine_dilated]\n")
    assert_kills_change_nothing(tmp_path / "cohort" / "studies.csv", config, tmp_path, points=[1, 6, 11])


@pytest.mark.real
@pytest.mark.timeout(1800)
def test_the_24_real_patients_killed_at_several_points_resume_to_the_same_store(tmp_path):
    root = os.environ.get("ENGRAM_REAL_DATA")
    if not root:
        pytest.skip("ENGRAM_REAL_DATA is not set: no real PET/CT to extract")
    patients = sorted(path for path in Path(root, "sts").iterdir() if path.is_dir())
    assert len(patients) == 24
    with (tmp_path / "studies.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["patient", "ct", "pet", "tumour"])
        for path in patients:
            writer.writerow([path.name, path / "CT.nii.gz", path / "PET.nii.gz", path / "MASK_CT.nii.gz"])
    config = tmp_path / "extract.yaml"
    config.write_text(SETTINGS)
    assert_kills_change_nothing(tmp_path / "studies.csv", config, tmp_path, points=[1, 20, 50, 80])
