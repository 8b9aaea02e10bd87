"""Many small studies through one extraction: memory, descriptors, threads and temporary files stay where they were."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from extractor.volumes import Grid, write_image
from store_schema import open_store

from .meter import check_flat, count, watched

FEW, MANY = 60, int(os.environ.get("ENGRAM_SOAK_STUDIES", "2000"))
DISTINCT = 6
"""Studies with images of their own; the others read the same files again."""
AXES = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
CT_GRID = Grid((24, 24, 4), (0.0, 0.0, 0.0), (4.0, 4.0, 5.0), AXES)
PET_GRID = Grid((20, 20, 4), (1.0, 2.0, 0.5), (4.5, 4.5, 5.0), AXES)
EXTRACT = "model: mini\nweights: random:0\npet_units: suv\nlayouts: [paper, pooled]\n"
VIEWS, MODALITIES = 2, 2
LEAK_FEW_KIB, LEAK_MANY_KIB = 256.0, 16.0
"""What a process may gain with a study. An embedding of the paper's layout takes 512 KiB: half of one, kept of each study, shows
in the short run. In the long one the smallest array of a study does, its mean map of 16 KiB. What plan and outcomes say of a study
is below 4 KiB."""


def write_studies(folder: Path, number: int) -> Path:
    """A table of studies of four slices, with the mask of a ball in the middle."""
    folder.mkdir()
    draw = np.random.default_rng(3)
    for one in range(DISTINCT):
        ct = draw.normal(0, 80, CT_GRID.size_xyz[::-1]).astype(np.int16)
        pet = draw.gamma(2.0, 1.0, PET_GRID.size_xyz[::-1]).astype(np.float32)
        mask = np.zeros(CT_GRID.size_xyz[::-1], np.uint8)
        mask[:, 8 - one : 14, 9:15] = 1
        for name, values, grid in (("ct", ct, CT_GRID), ("pet", pet, PET_GRID), ("lesion", mask, CT_GRID)):
            write_image(values, grid, folder / f"{one}_{name}.nii.gz")
    with (folder / "studies.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["patient", "ct", "pet", "lesion"])
        for patient in range(number):
            files = [f"{patient % DISTINCT}_{name}.nii.gz" for name in ("ct", "pet", "lesion")]
            writer.writerow([f"P{patient:05d}", *files])
    return folder / "studies.csv"


def soak(tmp_path: Path, number: int, leak_kib: float) -> None:
    table, store, temporary = write_studies(tmp_path / "images", number), tmp_path / "store", tmp_path / "temporary"
    temporary.mkdir()
    (tmp_path / "extract.yaml").write_text(EXTRACT)
    command = [str(Path(sys.executable).with_name("extractor")), "run", str(table), "--store", str(store)]
    command += ["--config", str(tmp_path / "extract.yaml"), "--jobs", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}

    def done() -> int:
        """Patients of whom something is committed."""
        return max((count(view) for view in (store / "commits").glob("*")), default=0)

    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        watch = watched(process, done, temporary)
    said = (tmp_path / "log").read_text()
    assert process.returncode == 0, said[-3000:]
    assert f"{number * VIEWS * MODALITIES} committed" in said
    check_flat(watch, number, leak_kib=leak_kib, told=f"{number} studies, {len(watch.samples)} samples")
    assert list(temporary.iterdir()) == []
    assert watch.left() == []
    verified = open_store(store).verify()
    assert verified.findings == ()
    assert verified.orphans == ()
    assert verified.entries == number * VIEWS * MODALITIES
    assert list(open_store(store).location.leftovers()) == []


def test_sixty_studies_leave_nothing_behind_in_memory_or_files(tmp_path):
    soak(tmp_path, FEW, LEAK_FEW_KIB)


@pytest.mark.soak
def test_two_thousand_studies_leave_nothing_behind_in_memory_or_files(tmp_path):
    soak(tmp_path, MANY, LEAK_MANY_KIB)
