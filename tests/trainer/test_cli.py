"""The `trainer` command: help without torch, exit statuses, results on stdout and the rest on stderr."""

import subprocess
import sys

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from trainer.cli import main


@pytest.fixture
def run(cohort_folder, write_config, tmp_path):
    """Calls `trainer cv` on the small cohort in this process."""

    def call(*more: str, clinical=None, **changes):
        arguments = [
            "cv",
            "--store",
            str(cohort_folder / "store"),
            "--clinical",
            str(clinical or cohort_folder / "clinical.csv"),
        ]
        arguments += ["--config", str(write_config(**changes)), "--out", str(tmp_path / "run"), "--workers", "0"]
        return CliRunner().invoke(main, [*arguments, *more])

    return call


@pytest.mark.parametrize("command", [[], ["cv"], ["report"], ["explain"]])
def test_help_imports_no_torch_dask_pandas_or_matplotlib(command):
    heavy = ("torch", "distributed", "pandas", "zarr", "matplotlib", "pydantic", "sksurv")
    code = (
        "import sys; from click.testing import CliRunner; from trainer.cli import main;"
        f"assert CliRunner().invoke(main, [*{command}, '--help']).exit_code == 0;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", sorted(main.commands))
def test_help_keeps_the_lines_of_its_examples(command):
    told = CliRunner().invoke(main, [command, "--help"]).stdout
    assert "\\b" not in told
    assert any(line.strip().startswith(f"trainer {command} ") for line in told.splitlines())


def test_a_run_prints_its_snapshot_and_table_and_exits_0_and_its_report_follows(run, tmp_path):
    result = run()
    assert result.exit_code == 0, result.output
    assert "snapshot " in result.stdout
    assert "UNTRAINED" in result.stdout
    assert "cohort   40 patients" in result.stdout
    for row in ("cox", "image"):
        assert row in result.stdout
    assert "fits" in result.stderr
    page = CliRunner().invoke(main, ["report", str(tmp_path / "run")])
    assert page.exit_code == 0, page.output
    assert page.stdout.strip() == str(tmp_path / "run" / "report.html")


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a CUDA device")
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_written(run, tmp_path):
    for more, changes in ((("--device", "cuda"), {}), ((), {"device": "cuda"})):
        result = run(*more, **changes)
        assert result.exit_code == 2
        assert "torch sees no CUDA device here: use `device: cpu`, or --scheduler" in result.stderr
        assert not (tmp_path / "run").exists()
    assert run("--device", "cpu", device="cuda").exit_code == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_on_a_gpu_a_run_is_that_of_the_cpu_where_nothing_is_drawn(run, kit, tmp_path):
    """Without dropout only rounding differs."""
    image = {**kit.settings["models"][1], "dropout": 0.0}
    found = {}
    for device in ("cpu", "cuda"):
        result = run("--device", device, models=[image], permuted_control=None)
        assert result.exit_code == 0, result.output
        found[device] = pd.read_csv(tmp_path / "run" / "risks.csv")
        (tmp_path / "run").rename(tmp_path / device)
    pd.testing.assert_frame_equal(found["cpu"], found["cuda"], rtol=1e-2, atol=1e-3)


def test_pseudonyms_need_their_key(run, monkeypatch):
    monkeypatch.delenv("ENGRAM_PSEUDONYM_KEY", raising=False)
    result = run("--pseudonymise")
    assert result.exit_code == 2
    assert "ENGRAM_PSEUDONYM_KEY" in result.stderr
    monkeypatch.setenv("ENGRAM_PSEUDONYM_KEY", "too-short")
    assert run("--pseudonymise").exit_code == 2


def test_a_table_of_plain_ids_meets_no_pseudonym_of_a_store_without_them(run, monkeypatch):
    monkeypatch.setenv("ENGRAM_PSEUDONYM_KEY", "a planted key of many bytes")
    result = run("--pseudonymise")
    assert result.exit_code == 1
    assert "nobody remains of the 40 patients" in result.stderr
    assert "P001" not in result.output


def test_a_failed_task_exits_1_with_its_reason(run, kit):
    hopeless = {**kit.settings["models"][1], "fit": {"learning_rate": 1e30, "clip_norm": None}}
    result = run(models=[kit.settings["models"][0], hopeless])
    assert result.exit_code == 1
    assert "failed: image, fold 0: TaskError" in result.stdout
    assert "tasks    3 of 6 done" in result.stdout


def test_a_leak_is_told(run, cohort_folder, tmp_path):
    frame = pd.read_csv(cohort_folder / "clinical.csv")
    frame["age"] = -frame["months"]
    frame.to_csv(tmp_path / "leak.csv", index=False)
    result = run(clinical=tmp_path / "leak.csv")
    assert result.exit_code == 0, result.output
    assert "LEAK WARNING: cox: c = 0." in result.stdout


@pytest.mark.parametrize(
    ("more", "changes", "status", "reason"),
    [
        ((), {"fits": {}}, 2, "ConfigError: "),
        (("--scheduler", "tcp://a:1"), {}, 2, "give one of them"),
        (("--snapshot", "beef"), {}, 1, "NotCommittedError: "),
        (("--oracle", "nosuch.csv"), {}, 2, "does not exist"),
        ((), {"splits": {"folds": 39}}, 1, "CohortError: "),
        (
            (),
            {"columns": {"time": "t", "time_unit": "months", "event": "event", "continuous": ["age"]}},
            2,
            "TableError: ",
        ),
    ],
)
def test_what_is_refused_ends_in_one_line_and_its_exit_status(run, more, changes, status, reason):
    result = run(*more, **changes)
    assert result.exit_code == status, result.output
    assert reason in result.stderr
    assert "Traceback" not in result.output


def test_a_report_of_no_run_exits_1(tmp_path):
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 1
    assert "holds no finished run" in result.stderr
