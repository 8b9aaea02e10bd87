"""The demo as `make demo` runs it: the planted signal is found, the permuted control is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Protocol section 7; held against the calibration in tests/benchmarks/RESULTS.md.
IMAGE_C = 0.62
ABOVE_PERMUTED = 0.08


def demo(folder: Path, patients: int, seed: int) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = [str(ROOT / "tests/e2e/demo.sh"), str(folder), str(patients), str(seed)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def means(folder: Path) -> dict[str, float]:
    """Mean c of each row of the results, by its label."""
    results = json.loads((folder / "run" / "results.json").read_text())
    return {row["label"]: row["mean"] for row in results["rows"]}


@pytest.mark.timeout(1800)
def test_the_demo_finds_the_planted_signal_and_not_the_permuted_one(tmp_path):
    done = demo(tmp_path / "demo", patients=120, seed=0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Open the report" in done.stdout
    c = means(tmp_path / "demo")
    permuted = next(value for label, value in c.items() if "permuted" in label)
    assert c["image"] >= IMAGE_C, c
    assert c["image"] >= permuted + ABOVE_PERMUTED, c
    assert (tmp_path / "demo/run/report.html").stat().st_size > 50_000
    again = demo(tmp_path / "demo", patients=120, seed=0)
    assert again.returncode == 0, again.stdout + again.stderr
    assert means(tmp_path / "demo") == c
