"""The script that waits for a Job, with a kubectl that stands in for the real one."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "deploy" / "k8s" / "wait-for-job.sh"


def waited(folder: Path, told: list[str], status: int = 0) -> subprocess.CompletedProcess[str]:
    """What the script does where kubectl tells these conditions, a line a call."""
    (folder / "told").write_text("".join(f"{line}\n" for line in told))
    program = folder / "kubectl"
    program.write_text(
        f'#!/bin/sh\ncd {folder}\nprintf "%s\\n" "$*" >>asked\nsed -n "$(wc -l <asked)p" told | tr -d "\\n"\nexit {status}\n'
    )
    program.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "ENGRAM_LOOK_S": "0"}
    return subprocess.run([SCRIPT, "extract"], env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("last", "status"),
    [("SuccessCriteriaMet Complete", 0), ("Complete", 0), ("FailureTarget Failed", 1), ("Failed", 1)],
)
def test_it_waits_until_the_job_has_ended_well_or_not(tmp_path, last, status):
    done = waited(tmp_path, ["", "Suspended", "FailureTarget", last])
    assert done.returncode == status
    assert ("extract failed" in done.stderr) is bool(status)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == 4
    assert asked[0].startswith("-n engram get job/extract --output=jsonpath=")


def test_a_job_that_cannot_be_asked_for_is_not_waited_for(tmp_path):
    assert waited(tmp_path, ["", ""], status=1).returncode == 1
    assert len((tmp_path / "asked").read_text().splitlines()) == 1
