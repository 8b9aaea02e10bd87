"""JSON lines of `extractor` commands, and what stdout says beside them; a whole run is in test_metrics."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from extractor.cli import main
from extractor.outcome import ItemOutcome
from extractor.patch_progress import patch_progress
from extractor.phantom import write_cohort
from store_schema.console import error_console
from store_schema.events import json_lines

SETTINGS = "model: mini\nweights: random:0\npet_units: suv\nstride: 16\nderive: [spine_dilated]\nlayouts: [pooled]\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    write_cohort(tmp_path, n=2, seed=1, processes=0)
    (tmp_path / "small.yaml").write_text(SETTINGS)
    return tmp_path


def call(folder: Path, command: str, *more: str) -> tuple[int, list[dict], str]:
    """Exit status, events, and all of stderr."""
    usual = [str(folder / "studies.csv"), "--config", str(folder / "small.yaml"), "--log-format", "json"]
    result = CliRunner().invoke(main, [command, *usual, *more])
    assert not [word for word in ("P00", str(folder / "images")) if word in result.stdout], "stdout names a patient"
    return result.exit_code, [json.loads(line) for line in result.stderr.splitlines()], result.stderr


def run(folder: Path, *more: str) -> tuple[int, list[dict], str]:
    return call(folder, "run", "--store", str(folder / "store"), "--jobs", "0", *more)


def damage(folder: Path) -> None:
    bad = next(folder.glob("**/*P001_ct*.nii.gz"))
    bad.write_bytes(bad.read_bytes()[:1000])


@pytest.mark.parametrize("pseudonymise", [(), ("--pseudonymise",)])
@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("\nP002,", "\nP001,", "TableError"),
        ("\nP002,", "\np001,", "InvalidKeyError"),
        ("\nP002,", "\nKOWALSKA/2,", "InvalidKeyError"),
        ("\nP002,images/P002_ct.nii.gz", "\nP002,", "TableError"),
    ],
)
def test_a_refused_table_names_no_patient(folder, monkeypatch, pseudonymise, old, new, kind):
    monkeypatch.setenv("ENGRAM_PSEUDONYM_KEY", "a planted key of many bytes")
    table = folder / "studies.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new))
    status, events, text = run(folder, *pseudonymise, "--dry-run")
    if pseudonymise and "KOWALSKA" in new:
        assert (status, events[-1]["event"]) == (0, "ended"), "a pseudonym stands for any text"
    else:
        assert status == 2
        assert [(event["event"], event.get("kind")) for event in events[1:]] == [("error", kind), ("ended", None)]
    assert not [name for name in ("P00", "p001", "KOWALSKA", "images/") if name in text]


def test_a_failing_study_behind_pseudonyms_is_its_line_of_the_table(folder, monkeypatch):
    monkeypatch.setenv("ENGRAM_PSEUDONYM_KEY", "a planted key of many bytes")
    damage(folder)
    status, events, text = run(folder, "--pseudonymise")
    assert status == 1
    assert [event["line"] for event in events if event["event"] == "failure"] == [2]
    assert {event["line"] for event in events if event["event"] == "study"} == {2, 3}
    assert "P00" not in text
    assert str(folder) not in text


def test_a_plan_on_stdout_names_a_refused_study_by_its_line(folder):
    next(folder.glob("**/*P001_ct*.nii.gz")).unlink()
    asked = [
        "run",
        str(folder / "studies.csv"),
        "--config",
        str(folder / "small.yaml"),
        "--store",
        str(folder / "store"),
    ]
    plain, told = (
        CliRunner().invoke(main, [*asked, "--dry-run", "--log-format", form]).stdout for form in ("plain", "json")
    )
    assert "P001: file not found" in " ".join(plain.split())
    assert "line 2: file not found" in " ".join(told.split())
    assert not [word for word in ("P00", str(folder)) if word in told]


def test_a_folder_of_regions_is_told_by_line_and_a_failure_with_its_reason(folder):
    damage(folder)
    (folder / "small.yaml").write_text("pet_units: suv\nderive: [spine_dilated]\n")
    status, events, text = call(folder, "regions", "--out", str(folder / "regions"))
    assert status == 1
    assert [event["line"] for event in events if event["event"] == "study"] == [2, 3]
    (failure,) = [event for event in events if event["event"] == "failure"]
    assert failure["message"].startswith("ImageError")
    assert "P00" not in text


def test_occluded_entries_are_told_on_stdout_without_their_patients(folder, monkeypatch):
    assert run(folder)[0] == 0
    damage(folder)
    usual = [str(folder / "studies.csv"), "--config", str(folder / "small.yaml"), "--store", str(folder / "store")]
    asked = ["occlude", *usual, "--size-mm", "200", "--stride-mm", "200", "--modality", "PET"]
    for more in ([], ["--dry-run"]):
        said = [CliRunner().invoke(main, [*asked, *more, "--log-format", form]) for form in ("plain", "json")]
        plain, told = (one.stdout for one in said)
        assert "P001 PET spine_dilated: failed: " in plain
        assert "line 2 PET spine_dilated: failed: " in told
        assert not [word for word in ("P00", str(folder)) if word in told + said[1].stderr]
        assert [one.exit_code for one in said] == [1, 1]


def test_rows_of_measured_features_are_told_on_stdout_without_their_patients(folder):
    table = folder / "radiomics.csv"
    table.write_text("patient,modality,roi,energy\nP002,PET,spine,1\nP001,PET,spine,of Kowalska\n")
    asked = ["import-features", str(table), "--store", str(folder / "store"), "--name", "radiomics"]
    for more in (["--dry-run"], []):
        said = [CliRunner().invoke(main, [*asked, *more, "--log-format", form]) for form in ("plain", "json")]
        plain, told = (one.stdout for one in said)
        assert "P001" in plain
        assert not [word for word in ("P00", "Kowalska", str(folder)) if word in told + said[1].stderr]
        assert said[0].exit_code == said[1].exit_code
    assert said[1].exit_code == 1
    assert "patient 2" in told


def test_patches_are_told_by_line_without_their_patient(capsys):
    with json_lines(), patch_progress(error_console(), 1) as progress:
        progress.line = 7
        progress.begin("P001/PET/spine", [1.0, 1.0])
        progress.made()
        progress.made()
        progress.study([ItemOutcome("P001", "PET", "spine", "paper", "failed", "StoreError: no P001/PET/spine")])
    text = capsys.readouterr().err
    events = [json.loads(line) for line in text.splitlines()]
    assert [(event["event"], event["line"]) for event in events] == [("patches", 7)] * 2 + [
        ("failure", 7),
        ("study", 7),
    ]
    assert [event["done"] for event in events[:2]] == [0, 2]
    assert "P001" not in text


def test_metrics_and_a_taken_place_are_refused_before_anything_is_done(folder):
    status, events, _ = run(folder, "--metrics-file", str(folder / "absent" / "m.prom"))
    assert status == 2
    assert events[1]["kind"] == "UsageError"
    assert not (folder / "store").exists()
