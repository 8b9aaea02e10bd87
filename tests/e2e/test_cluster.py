"""All 24 real patients through a Dask cluster of two workers, one of which is killed midway: the store of one process."""

import csv
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import SimpleITK as sitk  # noqa: N813
from distributed import LocalCluster
from rich.console import Console

from extractor.config import ExtractConfig
from extractor.run import RunOptions, RunReport, run
from store_schema import open_store
from store_schema.testing import content_digests

CONFIG = ExtractConfig(model="mini", weights="random:0", pet_units="suv", layouts=("paper", "pooled"))
PATIENTS, ROIS, MODALITIES = 24, 2, 2
ENTRIES = PATIENTS * ROIS * MODALITIES
DILATION_MM = 10.0


def write_table(data: Path, folder: Path) -> Path:
    """Every patient with two regions: the tumour as it is drawn, and the tumour dilated."""
    patients = sorted(path for path in data.iterdir() if path.is_dir())
    assert len(patients) == PATIENTS
    with (folder / "studies.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["patient", "ct", "pet", "tumour", "dilated"])
        for patient in patients:
            tumour, dilated = patient / "MASK_CT.nii.gz", folder / f"{patient.name}_dilated.nii.gz"
            mask = sitk.ReadImage(str(tumour)) > 0
            radius = [max(1, round(DILATION_MM / spacing)) for spacing in mask.GetSpacing()]
            sitk.WriteImage(sitk.BinaryDilate(mask, radius), str(dilated))
            writer.writerow([patient.name, patient / "CT.nii.gz", patient / "PET.nii.gz", tumour, dilated])
    return folder / "studies.csv"


def extract(table: Path, store: Path, **options) -> RunReport:
    return run(CONFIG, RunOptions(table, str(store), **options), console=Console(quiet=True))


def commits(store: Path) -> int:
    return sum(1 for _ in store.glob("commits/*/*/*/*/*.json"))


@contextmanager
def killed_midway(cluster: LocalCluster, store: Path) -> Iterator[list[str]]:
    """Kills a worker that is at work once half of the commits stand; gives the tasks that it had."""
    held: list[str] = []

    def kill() -> None:
        while not held:
            time.sleep(0.02)
            states = list(cluster.scheduler.workers.values())
            busy = next((state for state in states if state.processing), None)
            if busy is None or commits(store) < ENTRIES * len(CONFIG.layouts) / 2:
                continue
            nanny = next(one for one in cluster.workers.values() if one.worker_address == busy.address)
            held.extend(task.key for task in busy.processing)
            os.kill(nanny.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    yield held
    killer.join(timeout=10)


@pytest.mark.soak
@pytest.mark.real
def test_24_real_patients_on_two_workers_one_of_them_killed_give_the_store_of_one_process(tmp_path):
    root = os.environ.get("ENGRAM_REAL_DATA")
    if not root:
        pytest.skip("ENGRAM_REAL_DATA is not set: no real PET/CT to extract")
    table = write_table(Path(root, "sts"), tmp_path)
    began_s = time.perf_counter()
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=40,
        ) as cluster,
        killed_midway(cluster, tmp_path / "cluster") as held,
    ):
        report = extract(table, tmp_path / "cluster", scheduler=cluster.scheduler_address)
    cluster_s = time.perf_counter() - began_s
    assert held, "no worker was killed"
    assert not report.failed
    assert len(report.outcomes) == ENTRIES * len(CONFIG.layouts)
    assert commits(tmp_path / "cluster") == ENTRIES * len(CONFIG.layouts), "an entry was committed twice"
    verified = open_store(str(tmp_path / "cluster")).verify()
    assert verified.ok, verified
    began_s = time.perf_counter()
    assert not extract(table, tmp_path / "whole", jobs=0).failed
    whole_s = time.perf_counter() - began_s
    assert content_digests(open_store(tmp_path / "cluster")) == content_digests(open_store(tmp_path / "whole"))
    print(
        f"\n{PATIENTS} patients, {ENTRIES} entries in {len(CONFIG.layouts)} views: two workers, one killed with {len(held)} "
        f"studies, {cluster_s:.0f} s; one process {whole_s:.0f} s; {verified.commits} commits, "
        f"{len(verified.orphans)} orphaned attempts, {len(verified.findings)} problems; all content digests equal"
    )
