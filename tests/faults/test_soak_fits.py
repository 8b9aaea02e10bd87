"""Many fits through Dask, by local processes and by a scheduler's workers: nothing grows with their number or is left behind."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from daemons import free_ports
from distributed import Client

from store_schema import EntryKey, create_store
from store_schema.testing import digest_of, example_entry, example_view

from .meter import Beside, check_flat, count, watched

FEW, MANY = 60, int(os.environ.get("ENGRAM_SOAK_FITS", "2000"))
FOLDS, PATIENTS = 5, 40
SHAPE = (1, 4, 64, 64)
"""Of a memory; its mean map takes 16 KiB."""
BIN = Path(sys.executable).parent
CROSS_VALIDATE = """\
columns: {{time: months, time_unit: months, event: event, continuous: [age]}}
splits: {{folds: 5, repeats: {repeats}}}
fit: {{epochs: 2, min_epochs: 1, min_validation_events: 1}}
permuted_control: null
models:
  - {{name: narrow, kind: network, view: {view}, images: {{modalities: [CT], roi: spine}}, hidden: [4]}}
  - {{name: wide, kind: network, view: {view}, images: {{modalities: [CT], roi: spine}}, hidden: [8]}}
"""
LEAK_FEW_KIB, LEAK_MANY_KIB = 1024.0, 40.0
"""What a process may gain with a fit: in the short run, while allocators and caches still settle, less than twice the mean maps of
the cohort, which take 640 KiB as they are stored. In the long one a sixteenth of them: workers keep Dask's profiles of the last
quarter of an hour, and the scheduler, in the first of the local processes, what became of tasks by Dask's own rule."""


LOCKS = {"dask-scratch-space/global.lock", "dask-scratch-space/purge.lock"}
"""Empty files of Dask's own, which every run of this user has in common."""


def cohort(folder: Path, fits: int) -> list[str]:
    """A store with an entry for each patient and what `trainer cv` is told, so that it does so many fits."""
    store, rng = create_store(folder / "store"), np.random.default_rng(0)
    view = store.put_view(example_view(shape=SHAPE))
    lines = ["patient,age,months,event"]
    for number in range(PATIENTS):
        key = EntryKey(f"P{number:03d}", "CT", "spine")
        store.publish(view, key, example_entry(number, shape=SHAPE), input_sha256=digest_of(str(key)))
        lines.append(f"{key.patient},{rng.integers(40, 80)},{number + 1},{number % 3 > 0:d}")
    (folder / "clinical.csv").write_text("\n".join(lines) + "\n")
    (folder / "cv.yaml").write_text(CROSS_VALIDATE.format(view=view, repeats=fits // (2 * FOLDS)))
    words = ["--store", store.url, "--clinical", str(folder / "clinical.csv"), "--config", str(folder / "cv.yaml")]
    return [str(BIN / "trainer"), "cv", *words, "--out", str(folder / "run")]


@pytest.fixture
def place(tmp_path):
    """A folder with one for temporary files in it, and the environment of the programs that use that."""
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "temporary")}
    return tmp_path, environment


def results(folder: Path) -> int:
    """Fits that have a result."""
    tasks = folder / "run" / "tasks"
    return sum(1 for _ in tasks.glob("*.json"))


def check_left(folder: Path, fits: int, watch, log: Path) -> None:
    said = log.read_text()
    assert f"{fits} of {fits} done" in said, said[-3000:]
    assert results(folder) == count(folder / "run" / "tasks") == fits
    left = {str(path.relative_to(folder / "temporary")) for path in (folder / "temporary").rglob("*") if path.is_file()}
    assert left <= LOCKS
    assert watch.left() == []


def soak_locally(place, fits: int, leak_kib: float) -> None:
    folder, environment = place
    command, log = cohort(folder, fits), folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "--workers", "2"], env=environment, stdout=file, stderr=file)
        watch = watched(process, lambda: results(folder), folder / "temporary")
    assert process.returncode == 0, log.read_text()[-3000:]
    check_flat(watch, fits, leak_kib=leak_kib, told=f"{fits} fits by two local processes, {len(watch.samples)} samples")
    check_left(folder, fits, watch, log)


def test_sixty_fits_by_local_processes_leave_nothing_behind(place):
    soak_locally(place, FEW, LEAK_FEW_KIB)


@pytest.mark.soak
def test_two_thousand_fits_by_local_processes_leave_nothing_behind(place):
    soak_locally(place, MANY, LEAK_MANY_KIB)


@pytest.fixture
def cluster(place):
    """A scheduler, and `trainer worker` for the machine's cores: the address, and the ids of the programs' processes."""
    folder, environment = place
    (port,) = free_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--dashboard-address", "127.0.0.1:0"]
    worker = ["worker", address, "--local-directory", str(folder / "workers")]
    with (folder / "dask.log").open("wb") as log:
        to = {"env": environment, "cwd": folder, "stdout": log, "stderr": log}
        programs = ([str(BIN / "dask"), *scheduler], [str(BIN / "trainer"), *worker])
        started = [subprocess.Popen(program, **to) for program in programs]
    try:
        with Client(address, timeout=300, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=300)
        yield address, [one.pid for one in started]
    finally:
        for one in reversed(started):
            one.terminate()
        for one in started:
            one.wait(60)


def soak_on_cluster(place, cluster, fits: int, leak_kib: float) -> None:
    folder, environment = place
    address, pids = cluster
    command, log = cohort(folder, fits), folder / "log"
    with log.open("wb") as file, Beside(pids, lambda: results(folder), folder / "temporary") as watch:
        done = subprocess.run(
            [*command, "--scheduler", address], env=environment, stdout=file, stderr=file, check=False
        )
    assert done.returncode == 0, log.read_text()[-3000:]
    check_flat(watch, fits, leak_kib=leak_kib, told=f"{fits} fits by `trainer worker`, {len(watch.samples)} samples")
    assert f"{fits} of {fits} done" in log.read_text()
    with Client(address, set_as_default=False) as client:
        held, groups = client.run_on_scheduler(
            lambda dask_scheduler: [*map(list, (dask_scheduler.tasks, dask_scheduler.task_prefixes))]
        )
        kept = client.run(lambda dask_worker: (list(dask_worker.state.tasks), list(dask_worker.data)))
    assert held == [], "the scheduler keeps no task of a run that has ended"
    assert groups == ["fit"], "it keeps a record of every group of tasks for good"
    assert set(map(str, kept.values())) == {"([], [])"}


def test_sixty_fits_on_a_cluster_leave_nothing_behind(place, cluster):
    soak_on_cluster(place, cluster, FEW, LEAK_FEW_KIB)


@pytest.mark.soak
def test_five_hundred_fits_on_a_cluster_leave_nothing_behind(place, cluster):
    soak_on_cluster(place, cluster, MANY // 4, LEAK_MANY_KIB)
