"""The batch scripts, with programs that stand in for Slurm's and the extractor."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "deploy" / "slurm"
EXTRACT, SUBMIT = SCRIPTS / "extract.sbatch", SCRIPTS / "submit-extract.sh"
STUDY = ["studies.csv", "--store", "./store"]
SAY = 'echo "$@" >"$SEEN/extractor"; exit "${STATUS:-0}"'
SLEEP = 'trap "echo ended >$SEEN/extractor; exit 3" TERM\necho started >"$SEEN/extractor"\nwhile :; do sleep 0.05; done'


def call(script: Path, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", script, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("script", [EXTRACT, SUBMIT], ids=lambda script: script.name)
def test_shellcheck_finds_nothing(script, shellcheck):
    assert shellcheck(script) == ""
    assert os.access(script, os.X_OK)


def array(task: str, least: str, most: str, count: str) -> dict[str, str]:
    """What Slurm tells a task of its array."""
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT")
    return dict(zip(names, (task, least, most, count), strict=True))


def test_a_task_of_an_array_works_on_its_shard(stand_in, seen):
    task = array("3", "1", "8", "8") | {"SLURM_CPUS_PER_TASK": "4"}
    assert call(EXTRACT, STUDY, stand_in(extractor=SAY) | task).returncode == 0
    assert (seen / "extractor").read_text() == "run studies.csv --store ./store --shard 3/8\n"
    assert (seen / "srun").read_text().split() == ["--export=ALL", "--cpus-per-task=4"]


@pytest.mark.parametrize(
    ("task", "least", "most", "count"),
    [("1", "1", "3", "2"), ("3", "1", "15", "8"), ("1", "0", "7", "8"), ("3", "3", "3", "1")],
    ids=["1,3", "1-15:2", "0-7", "3"],
)
def test_an_array_whose_tasks_are_not_all_shards_is_refused(stand_in, seen, task, least, most, count):
    done = call(EXTRACT, STUDY, stand_in(extractor=SAY) | array(task, least, most, count))
    assert done.returncode == 2
    assert "submit the whole array" in done.stderr
    assert not (seen / "extractor").exists()


def test_slurms_controller_is_given_the_names_that_a_submission_gives_and_no_other():
    (named,) = re.findall(r"^#SBATCH --export=(\S+)$", EXTRACT.read_text(), flags=re.MULTILINE)
    always, wanted = re.findall(r'names="(\S+)"|for name in (.+); do', SUBMIT.read_text())
    assert named.split(",") == [*always[0].split(","), *wanted[1].split()]


def test_a_job_of_its_own_works_on_the_whole_table(stand_in, seen):
    assert call(EXTRACT, STUDY, stand_in(extractor=SAY)).returncode == 0
    assert (seen / "extractor").read_text() == "run studies.csv --store ./store\n"


@pytest.mark.parametrize("status", [0, 1, 2])
def test_the_status_is_the_extractors_and_a_failure_is_not_put_back(stand_in, seen, status):
    assert call(EXTRACT, STUDY, stand_in(extractor=SAY) | {"STATUS": str(status)}).returncode == status
    assert not (seen / "scontrol").exists()


def test_without_a_table_the_call_is_wrong(stand_in, seen):
    done = call(EXTRACT, [], stand_in(extractor=SAY))
    assert done.returncode == 2
    assert "expected STUDIES" in done.stderr
    assert not (seen / "extractor").exists()


def warned(environment: dict[str, str], seen: Path) -> tuple[int, str]:
    """Status and words of a job that is told that its time is nearly over."""
    job = subprocess.Popen(["bash", EXTRACT, *STUDY], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (seen / "extractor").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    told = job.communicate(timeout=60)[1]
    return job.returncode, told


def test_before_its_time_limit_the_extractor_ends_and_the_task_goes_back_into_the_queue(stand_in, seen):
    status, told = warned(stand_in(extractor=SLEEP) | {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "19"}, seen)
    assert (seen / "extractor").read_text() == "ended\n"
    assert (seen / "scontrol").read_text() == "requeue 77\n"
    assert status == -signal.SIGTERM
    assert "resumes" in told


def test_a_task_that_never_gets_done_is_not_put_back_for_ever(stand_in, seen):
    status, told = warned(stand_in(extractor=SLEEP) | {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "20"}, seen)
    assert not (seen / "scontrol").exists()
    assert status == 1
    assert "more shards" in told


def test_credentials_come_from_a_file_of_the_owners_alone(stand_in, seen, tmp_path):
    file = tmp_path / "credentials"
    file.write_text("AWS_SECRET_ACCESS_KEY='a key, of this file'\n")
    environment = stand_in(extractor='echo "$AWS_SECRET_ACCESS_KEY" >"$SEEN/extractor"') | {
        "ENGRAM_ENVIRONMENT": str(file)
    }
    file.chmod(0o640)
    refused = call(EXTRACT, STUDY, environment)
    assert refused.returncode == 2
    assert "chmod 600" in refused.stderr
    file.chmod(0o600)
    assert call(EXTRACT, STUDY, environment).returncode == 0
    assert (seen / "extractor").read_text() == "a key, of this file\n"


def test_an_array_is_submitted_and_after_it_the_job_that_completes(stand_in, seen):
    secrets = {"AWS_SECRET_ACCESS_KEY": "planted", "ENGRAM_ENVIRONMENT": "/home/someone/credentials"}
    done = call(SUBMIT, ["8", "--partition=gpu", "--", *STUDY], stand_in() | secrets)
    assert done.stdout == "array 41\ncomplete 42\n"
    array, complete = (seen / "sbatch").read_text().splitlines()
    exported = "--parsable --export=PATH,HOME,USER,ENGRAM_ENVIRONMENT"
    job = f"--partition=gpu {EXTRACT} studies.csv --store ./store"
    assert array == f"{exported} --array=1-8 {job}"
    assert complete == (f"{exported} --job-name=engram-complete --output=%x-%j.log --dependency=afterany:41 {job}")


@pytest.mark.parametrize(
    "arguments", [[], ["0", "--", *STUDY], ["many", "--", *STUDY], ["8"], ["8", *STUDY], ["8", "--"]]
)
def test_a_wrong_submission_submits_nothing(stand_in, seen, arguments):
    done = call(SUBMIT, arguments, stand_in())
    assert done.returncode == 2
    assert "expected SHARDS" in done.stderr
    assert not (seen / "sbatch").exists()
