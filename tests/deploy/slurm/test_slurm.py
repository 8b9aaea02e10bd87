"""The batch scripts on a real Slurm of one node."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from extractor.config import parse_config
from extractor.phantom import write_cohort
from extractor.phantom_table import clinical_table, draw_factors
from extractor.run import RunOptions, run
from store_schema import open_store
from store_schema.testing import content_digests

SCRIPTS = Path(__file__).resolve().parents[3] / "deploy" / "slurm"
SETTINGS = "stride: 16\nmodel: mini\npet_units: suv\nderive: [spine_dilated]\n"
OPTIONS = ["--store", "./store", "--config", "extract.yaml", "--weights", "random:0", "--jobs", "0"]
PLANTED = "planted-key-of-the-shell"
PATIENCE_S = 600


def wait(ready, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.2)


def state(slurm, job: str) -> dict[str, str]:
    """What Slurm tells of a job, of an array's last task."""
    return dict(re.findall(r"(\w+)=(\S*)", slurm.tell("scontrol", "show", "job", job)))


def ended(slurm, job: str) -> bool:
    return state(slurm, job)["JobState"] not in {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"}


@pytest.fixture
def folder(tmp_path) -> Path:
    write_cohort(tmp_path, n=4, seed=3)
    (tmp_path / "extract.yaml").write_text(SETTINGS)
    return tmp_path


@pytest.mark.timeout(900)
def test_an_array_of_shards_and_the_job_after_it_make_the_store_of_one_run(slurm, programs, folder):
    credentials = folder / "credentials"
    credentials.touch(mode=0o600)
    credentials.write_text("ENGRAM_PLANTED=of-the-file\n")
    environment = os.environ | slurm.environment | {
        "PATH": f"{programs}:{os.environ['PATH']}", "USER": "someone", "AWS_SECRET_ACCESS_KEY": PLANTED,
        "ENGRAM_ENVIRONMENT": str(credentials),
    }  # fmt: skip
    told = subprocess.run(
        [SCRIPTS / "submit-extract.sh", "3", "--", "studies.csv", *OPTIONS],
        cwd=folder, env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    complete = told.split()[-1]
    wait(lambda: ended(slurm, complete), "the job that completes")
    logs = {log.name: log.read_text() for log in folder.glob("*.log")}
    assert state(slurm, complete)["JobState"] == "COMPLETED", logs
    assert len(logs) == 4
    assert "snapshot paper" in logs[f"engram-complete-{complete}.log"]
    options = RunOptions(folder / "studies.csv", str(folder / "whole"), jobs=0)
    config = parse_config({"weights": "random:0", **_settings()}, origin="the settings")
    assert not run(config, options, console=Console(quiet=True)).failed
    assert content_digests(open_store(folder / "store")) == content_digests(open_store(folder / "whole"))
    kept = [file for file in Path(slurm.folder).rglob("*") if file.is_file()]
    assert not any(PLANTED.encode() in file.read_bytes() for file in kept), "Slurm keeps a secret of the shell"


def _settings() -> dict[str, object]:
    return {"stride": 16, "model": "mini", "pet_units": "suv", "derive": ["spine_dilated"]}


def test_a_task_that_is_warned_of_its_time_limit_is_queued_again_and_then_ends_well(slurm, tmp_path):
    program = tmp_path / "extractor"
    program.write_text(
        '#!/bin/sh\necho "start ${SLURM_RESTART_COUNT:-0}" >>starts\n[ -z "${SLURM_RESTART_COUNT:-}" ] || exit 0\n'
        'trap "exit 143" TERM\nwhile :; do sleep 0.1; done\n'
    )
    program.chmod(0o755)
    environment = os.environ | slurm.environment | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    job = subprocess.run(
        ["sbatch", "--parsable", "--cpus-per-task=1", "--mem=1G", SCRIPTS / "extract.sbatch", "studies.csv"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    wait((tmp_path / "starts").exists, "the job to start")
    slurm.tell("scancel", "--batch", "--signal=USR1", job)
    wait(lambda: state(slurm, job)["Restarts"] == "1", "the job to be queued again")
    # Slurm lets a job that was queued again rest for two minutes; within the second in which it ended its credential is refused.
    wait(lambda: state(slurm, job)["JobState"] == "PENDING", "the job to rest")
    slurm.tell("scontrol", "update", f"JobId={job}", "StartTime=now+3")
    wait(lambda: ended(slurm, job), "the job to end")
    logs = "".join(log.read_text() for log in tmp_path.glob("*.log"))
    assert state(slurm, job)["JobState"] == "COMPLETED", logs + Path(slurm.folder, "slurmctld.own.log").read_text()
    assert (tmp_path / "starts").read_text() == "start 0\nstart 1\n"


CROSS_VALIDATE = """\
columns: {time: pfs_months, time_unit: months, event: pfs_event, continuous: [age], categorical: [riss]}
splits: {folds: 3}
models: [{name: cox, kind: ridge_cox, penalty: 10}]
permuted_control: null
"""


@pytest.mark.timeout(900)
def test_the_trainer_runs_on_jobs_of_slurm_over_tls_and_they_end_with_it(slurm, tmp_path):
    clinical_table(draw_factors(60, 5), 5).to_csv(tmp_path / "clinical.csv", index=False)
    (tmp_path / "cv.yaml").write_text(CROSS_VALIDATE)
    words = ["--jobs", "1", "--cores", "2", "--memory", "4GiB", "--walltime", "00:20:00", "--host", "127.0.0.1"]
    command = ["cv", "--clinical", "clinical.csv", "--config", "cv.yaml", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, SCRIPTS / "train.py", *words, "--", *command],
        cwd=tmp_path, env=os.environ | slurm.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    logs = "".join(log.read_text() for log in (tmp_path / "engram-logs").glob("*"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert "the scheduler is tls://127.0.0.1:" in done.stderr
    assert "tls://" in logs
    assert (tmp_path / "run" / "results.json").is_file()
    wait(lambda: not slurm.tell("squeue", "--noheader", "--name=engram-worker"), "the workers' jobs to end")
    assert not list(tmp_path.glob(".engram-tls-*")), "certificates are left behind"
