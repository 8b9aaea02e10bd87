"""`trainer search` killed in the middle: a rerun does what is missing, nothing twice, and ends with the same tables."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from extractor.phantom_table import clinical_table, draw_factors

PATIENTS, FOLDS, POINTS, INNER = 48, 3, 8, 2
INNER_FITS, OUTER_FITS = FOLDS * INNER * POINTS, FOLDS * POINTS
"""Of each model, tuned both ways; small networks are fitted together, four at a time, Cox models alone."""
TASKS = (INNER_FITS + OUTER_FITS) * (1 + 1 / 4)
SETTINGS = {
    "columns": {
        "time": "pfs_months",
        "time_unit": "months",
        "event": "pfs_event",
        "continuous": ["age"],
        "categorical": ["riss"],
    },
    "splits": {"folds": FOLDS},
    "fit": {"epochs": 5, "min_epochs": 1, "min_validation_events": 2},
    "fit_together": 4,
    "search": {"points": POINTS, "inner_folds": INNER},
    "models": [
        {"name": "cox", "kind": "ridge_cox", "search": {"penalty": {"log": [0.01, 1e4]}}},
        {
            "name": "deep",
            "kind": "network",
            "clinical": True,
            "hidden": [4],
            "search": {"dropout": {"range": [0, 0.6]}},
        },
    ],
}


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """Arguments of a search of covariates alone, but for its run folder."""
    folder = tmp_path_factory.mktemp("search")
    clinical_table(draw_factors(PATIENTS, 3), 3).to_csv(folder / "clinical.csv", index=False)
    (folder / "search.yaml").write_text(yaml.safe_dump(SETTINGS))
    given = ["--config", str(folder / "search.yaml"), "--clinical", str(folder / "clinical.csv")]
    return ["search", *given, "--mode", "both", "--workers", "1"]


def start(arguments, out):
    """In a process group of its own, so that its worker dies with it."""
    command = [str(Path(sys.executable).parent / "trainer"), *arguments, "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )


def finished(arguments, out):
    process = start(arguments, out)
    said, errors = process.communicate()
    assert process.returncode == 0, said + errors
    return said, errors


def done(out):
    """Digest and time of each task's result."""
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in out.glob("tasks/*.json")
    }


def killed_after(arguments, out, tasks):
    process = start(arguments, out)
    while process.poll() is None and len(done(out)) < tasks:
        time.sleep(0.01)
    assert process.poll() is None, "the search ended before it was killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return done(out)


def fits_of(out, names):
    """Fits whose results are in these files."""
    records = (json.loads((out / "tasks" / name).read_text()) for name in names)
    return sum(len(record["outer"]) + len(record["inner"]) for record in records)


def test_a_killed_search_goes_on_where_it_was_and_ends_with_the_same_tables(search, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finished(search, whole)
    every = done(whole)
    assert len(every) == TASKS
    before = {}
    for tasks in (5, TASKS // 2):
        kept = killed_after(search, killed, tasks)
        assert before.items() <= kept.items(), "a second call wrote over what the first had done"
        before = kept
    assert not (killed / "results.json").exists()
    said, shown = finished(search, killed)
    after = done(killed)
    assert set(after) == set(every)
    assert before.items() <= after.items()
    assert f"{len(after)} of {len(after)} done, {len(before)} of them before" in said
    bars = re.findall(r"^(?:fits|chosen fits) .*? (\d+)/(\d+) ", shown, re.MULTILINE)
    assert sum(int(total) for _, total in bars) == fits_of(killed, set(after) - set(before))
    for name in (
        "results.json",
        "summary.csv",
        "search.csv",
        "risks.csv",
        "measures.json",
        "measures.csv",
        "splits.json",
    ):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    again, nothing = finished(search, killed)
    assert f"{len(after)} of {len(after)} done, {len(after)} of them before" in again
    assert nothing == ""
    assert done(killed) == after
