"""From files to commits against the slowest stage alone: real patients, one process, a folder.

Loading (read, resample, compare with the store), embedding and writing are first done one after the other and timed, then
overlapped as a run does it; rounds take turns, each with a store of its own. ENGRAM_BENCH_PATIENTS, ENGRAM_BENCH_MODEL,
ENGRAM_BENCH_STRIDE and ENGRAM_BENCH_DEVICE set the size. What the slowest stage takes alone over the overlapped run's wall time
is the share reached: at 100% the others cost nothing.
"""

import csv
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the usual name

from extractor.config import ExtractConfig, views_of
from extractor.embedding import embed_study
from extractor.loading import load_networks
from extractor.pipeline import work_through
from extractor.table import read_study_table
from extractor.work import StudyTask, Write
from extractor.worker import StudyResult, StudyStage, WorkerSpec, worker
from store_schema import create_store

pytestmark = [pytest.mark.bench, pytest.mark.real, pytest.mark.timeout(7200)]
PATIENTS = int(os.environ.get("ENGRAM_BENCH_PATIENTS", "8"))
ROUNDS = int(os.environ.get("ENGRAM_BENCH_ROUNDS", "3"))
MODEL = os.environ.get("ENGRAM_BENCH_MODEL", "mini")
STRIDE = int(os.environ.get("ENGRAM_BENCH_STRIDE", "2"))
DEVICE = os.environ.get("ENGRAM_BENCH_DEVICE", "cpu")
CONFIG = ExtractConfig.model_validate({"model": MODEL, "weights": "random:0", "stride": STRIDE, "pet_units": "suv"})


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Study table of real patients with the tumour and the tumour grown by a voxel."""
    root = os.environ.get("ENGRAM_REAL_DATA")
    if root is None:
        pytest.skip("ENGRAM_REAL_DATA is not set: no real images to measure on")
    folder = tmp_path_factory.mktemp("overlap")
    rows = [["patient", "ct", "pet", "tumour", "grown"]]
    for case in sorted((Path(root) / "sts").glob("STS_*"))[:PATIENTS]:
        mask = sitk.ReadImage(str(case / "MASK_CT.nii.gz"), sitk.sitkUInt8)
        grown = folder / f"{case.name}_grown.nii.gz"
        sitk.WriteImage(sitk.BinaryDilate(mask != 0, [1, 1, 0]), str(grown))
        rows.append([case.name, *(str(case / f"{name}.nii.gz") for name in ("CT", "PET", "MASK_CT")), str(grown)])
    with (folder / "studies.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "studies.csv"


def prepared(table: Path, folder: Path) -> tuple[list[StudyTask], WorkerSpec]:
    """The tasks of the whole table for a store of their own."""
    store = create_store(str(folder))
    spec, facts, _ = load_networks(CONFIG, store.url, device=DEVICE, looked_at_on=DEVICE)
    views = {name: store.put_view(view) for name, view in views_of(CONFIG, facts).items()}
    return [StudyTask(row, CONFIG, views) for row in read_study_table(table, CONFIG)], spec


def stages_alone(table: Path, folder: Path) -> dict[str, float]:
    """Seconds of each stage, one after the other."""
    tasks, spec = prepared(table, folder)
    load = worker(spec)
    moments = [time.perf_counter()]
    loaded = [load(task) for task in tasks]
    moments.append(time.perf_counter())
    made = [write for study in loaded for write in embed_study(study)]
    moments.append(time.perf_counter())
    assert all(isinstance(write, Write) and write().result == "committed" for write in made)
    moments.append(time.perf_counter())
    return dict(zip(("loading", "embedding", "writing"), np.diff(moments).tolist(), strict=True))


def overlapped(table: Path, folder: Path) -> float:
    """Seconds from the first file to the last commit as a run works."""
    tasks, spec = prepared(table, folder)
    load, results = worker(spec), []

    def tell(event: StudyStage | StudyResult) -> None:
        if isinstance(event, StudyResult):
            results.append(event)

    begun = time.perf_counter()
    work_through([[task] for task in tasks], load, tell)
    seconds = time.perf_counter() - begun
    assert [result.error for result in results] == [None] * len(tasks)
    assert all(outcome.result == "committed" for result in results for outcome in result.outcomes)
    return seconds


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Path]:
    return (tmp_path / str(number) for number in range(1000))


def test_end_to_end_against_the_slowest_stage_alone(table, folders):
    alone, walls = [], []
    for _ in range(ROUNDS):
        alone.append(stages_alone(table, next(folders)))
        walls.append(overlapped(table, next(folders)))
    stages = {name: statistics.median(one[name] for one in alone) for name in alone[0]}
    share = statistics.median(max(one.values()) / wall for one, wall in zip(alone, walls, strict=True))
    in_turn = statistics.median(sum(one.values()) / wall for one, wall in zip(alone, walls, strict=True))
    print(
        f"\n{MODEL}, {DEVICE}, {PATIENTS} patients, stride {STRIDE}, medians of {ROUNDS}: "
        + ", ".join(f"{name} alone {seconds:.2f} s" for name, seconds in stages.items())
        + f"; overlapped {statistics.median(walls):.2f} s = {share:.0%} of the slowest stage's rate, "
        f"{in_turn:.2f} × one after another"
    )
    assert share > 0
