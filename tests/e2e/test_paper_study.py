"""The paper's own study, all its rows, on a store with planted signals: its tables, and the same ones after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from trainer.study_config import paper_study

ROOT = Path(__file__).resolve().parents[2]
PLANTED = Path(__file__).with_name("planted_store.py")
FULL = ROOT / "soak-out" / "paper-study"


def prepare(folder: Path, *, patients: int, fit: str, folds: int) -> list[str]:
    """Store, tables and the bundled study with shorter fits; gives the command's arguments but for the run folder."""
    if not (folder / "truth.csv").exists():
        subprocess.run([sys.executable, str(PLANTED), str(folder), str(patients), "0"], check=True)
    study = paper_study().replace("fit: {epochs: 100, patience: 20}", f"fit: {fit}")
    study = study.replace("splits: {folds: 5,", f"splits: {{folds: {folds},") + "oracle: {columns: [log_hazard]}\n"
    (folder / "study.yaml").write_text(study)
    given = ["--store", str(folder / "store"), "--clinical", str(folder / "clinical.csv")]
    return ["study", str(folder / "study.yaml"), *given, "--oracle", str(folder / "truth.csv")]


def start(arguments: list[str], out: Path) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).parent / "trainer"), *arguments, "--out", str(out), "--workers", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, env=environment
    )


def finished(arguments: list[str], out: Path) -> None:
    process = start(arguments, out)
    said, _ = process.communicate()
    assert process.returncode == 0, said.decode()


def killed_after(arguments: list[str], out: Path, tasks: int) -> None:
    """Kills the command and its workers once so many tasks are done."""
    process = start(arguments, out)
    while process.poll() is None and sum(1 for _ in out.glob("tasks/*.json")) < tasks:
        time.sleep(0.02)
    assert process.poll() is None, "the study ended before it was killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def results_of(out: Path) -> dict:
    """Everything but times, which stand in the tasks alone."""
    return json.loads((out / "results.json").read_text())


def prepare_nested(folder: Path, arguments: list[str], *, fit: str, folds: int) -> list[str]:
    """The study's rows of vectors alone, four settings each, tuned both ways."""
    study = yaml.safe_load(paper_study())
    study["rows"] = [row for row in study["rows"] if row.get("downsampling") == ["vector"]]
    ranges = {"fit.learning_rate": {"log": [1e-4, 1e-2]}, "dropout": {"range": [0.0, 0.6]}}
    study["rows"][0]["settings"] = {"search": ranges}
    changed = {"claim": None, "search": {"mode": "both", "points": 4}, "fit": yaml.safe_load(fit)}
    (folder / "nested.yaml").write_text(yaml.safe_dump({**study, **changed, "splits": {"folds": folds}}))
    return ["study", str(folder / "nested.yaml"), *arguments[2:-2]]


def check_nested(out: Path) -> dict[str, dict]:
    """Six rows both ways, with the optimism between them; gives the nested ones by label."""
    results = results_of(out)
    rows = [row for row in results["rows"] if row["kind"] == "model"]
    assert [row["tuned"] for row in rows].count("nested") == [row["tuned"] for row in rows].count("paper") == 6
    assert {row["tried"] for row in rows} == {4}
    assert len(results["optimism"]) == 6
    return {row["label"]: row for row in rows if row["tuned"] == "nested"}


@pytest.mark.timeout(1800)
def test_rows_of_vectors_are_tuned_inside_the_folds_too(tmp_path):
    fit = "{epochs: 2, min_epochs: 1, min_validation_events: 1}"
    arguments = prepare(tmp_path, patients=40, fit=fit, folds=2)
    finished(prepare_nested(tmp_path, arguments, fit=fit, folds=2), tmp_path / "nested")
    assert all(len(row["chosen"]) == 2 for row in check_nested(tmp_path / "nested").values())


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("patients", "folds", "kills"),
    [
        pytest.param(24, 2, (10,), id="small"),
        pytest.param(227, 5, (10, 60, 110), id="of its size", marks=[pytest.mark.soak, pytest.mark.timeout(0)]),
    ],
)
def test_the_papers_study_fills_its_tables_and_resumes_after_a_kill_to_the_same_ones(tmp_path, patients, folds, kills):
    fit = "{epochs: 1, min_epochs: 1, min_validation_events: 1}"
    arguments = prepare(tmp_path, patients=patients, fit=fit, folds=folds)
    finished(arguments, tmp_path / "whole")
    rows = [len(pd.read_csv(tmp_path / "whole" / "tables" / f"table-{number}.csv")) for number in (1, 2, 3)]
    assert rows == [22, 6, 5]
    for tasks in kills:
        killed_after(arguments, tmp_path / "killed", tasks=tasks)
    finished(arguments, tmp_path / "killed")
    assert results_of(tmp_path / "killed") == results_of(tmp_path / "whole")
    for number in (1, 2, 3):
        one, other = (tmp_path / name / "tables" / f"table-{number}.csv" for name in ("whole", "killed"))
        assert one.read_text() == other.read_text()


@pytest.mark.soak
def test_the_papers_study_on_a_cohort_of_its_size():
    """227 patients, 20 epochs; resumes in soak-out. Prints the tables and how long it took."""
    FULL.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    arguments = prepare(FULL, patients=227, fit="{epochs: 20, patience: 20}", folds=5)
    prepared = time.monotonic()
    finished(arguments, FULL / "run")
    took = (time.monotonic() - prepared) / 60
    print(f"\nstore {(prepared - begun) / 60:.1f} min, study {took:.1f} min")
    for number in (1, 2, 3):
        print(pd.read_csv(FULL / "run" / "tables" / f"table-{number}.csv").to_string(index=False))
    rows = {row["label"]: row["mean"] for row in results_of(FULL / "run")["rows"]}
    assert max(mean for label, mean in rows.items() if "MedSAM2" in label) > 0.6


@pytest.mark.soak
def test_rows_of_vectors_nested_on_a_cohort_of_the_papers_size():
    """227 patients, 20 epochs, four settings a row. Prints c of both ways."""
    FULL.mkdir(parents=True, exist_ok=True)
    fit = "{epochs: 20, patience: 20}"
    arguments = prepare(FULL, patients=227, fit=fit, folds=5)
    begun = time.monotonic()
    finished(prepare_nested(FULL, arguments, fit=fit, folds=5), FULL / "nested")
    check_nested(FULL / "nested")
    print(f"\nnested rows of vectors: {(time.monotonic() - begun) / 60:.1f} min")
    for found in results_of(FULL / "nested")["optimism"]:
        print(f"{found['model']}: nested {found['nested']:.3f}, paper's way {found['paper']:.3f}")
