"""JSON lines of `trainer cv`: all of stderr, with local processes, failing tasks and wrong calls; no patient is named."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from trainer.cli import main

TRAINER = str(Path(sys.executable).parent / "trainer")
PATIENT = re.compile(r"\bP0\d\d\b")


@pytest.fixture
def arguments(cohort_folder, write_config, tmp_path):
    """Of `trainer cv` on the small cohort."""

    def make(*more: str, clinical=None, **changes) -> list[str]:
        where = ["--store", str(cohort_folder / "store"), "--out", str(tmp_path / "run")]
        table = ["--clinical", str(clinical or cohort_folder / "clinical.csv")]
        return ["cv", *where, *table, "--config", str(write_config(**changes)), "--log-format", "json", *more]

    return make


def events_of(stderr: str) -> list[dict]:
    assert not PATIENT.search(stderr)
    return [json.loads(line) for line in stderr.splitlines()]


def test_fits_of_local_processes_and_one_that_fails_are_events(arguments, kit):
    hopeless = {**kit.settings["models"][1], "fit": {"learning_rate": 1e30, "clip_norm": None}}
    given = arguments("--workers", "2", models=[kit.settings["models"][0], hopeless])
    done = subprocess.run([TRAINER, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    events = events_of(done.stderr)
    failures = [event for event in events if event["event"] == "failure"]
    assert [event["task"] for event in failures] == [f"image, fold {fold}" for fold in range(3)]
    assert all("TaskError" in event["message"] for event in failures)
    (fits,) = [event for event in events if event["event"] == "progress" and event["done"] == event["total"]]
    assert (fits["what"], fits["total"]) == ("fits", 6)
    (summary,) = [event for event in events if event["event"] == "summary"]
    assert (summary["tasks"], summary["failures"], summary["complete"], summary["level"]) == (6, 3, False, "error")
    assert (events[0]["event"], events[0]["command"]) == ("started", "cv")
    assert (events[-1]["event"], events[-1]["exit_status"]) == ("ended", 1)
    assert "tasks    3 of 6 done" in done.stdout, "results are told as ever"


@pytest.mark.parametrize("pseudonymise", [False, True])
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda frame: frame.__setitem__("patient", [frame["patient"][1], *frame["patient"][1:]]), "TableError"),
        (lambda frame: frame.__setitem__("months", ["P007", *frame["months"][1:]]), "TableError"),
        (lambda frame: frame.__setitem__("months", 0), "CohortError"),
    ],
)
def test_a_refused_table_is_an_event_that_names_no_patient(
    arguments, cohort_folder, tmp_path, monkeypatch, pseudonymise, change, kind
):
    monkeypatch.setenv("ENGRAM_PSEUDONYM_KEY", "a planted key of many bytes")
    frame = pd.read_csv(cohort_folder / "clinical.csv")
    change(frame)
    frame.to_csv(tmp_path / "bad.csv", index=False)
    more = ["--pseudonymise"] if pseudonymise else []
    result = CliRunner().invoke(main, arguments("--workers", "0", *more, clinical=tmp_path / "bad.csv"))
    _, error, ended = events_of(result.stderr)
    assert (error["event"], error["kind"]) == ("error", kind)
    assert ended["exit_status"] == result.exit_code == (1 if kind == "CohortError" else 2)


def test_a_wrong_setting_is_an_event(arguments):
    result = CliRunner().invoke(main, arguments("--workers", "0", colour="red"))
    assert [event["event"] for event in events_of(result.stderr)] == ["started", "error", "ended"]
    assert result.exit_code == 2
