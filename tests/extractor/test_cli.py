"""The `extractor` command: help without torch, exit statuses, results on stdout and the rest on stderr."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from extractor.cli import main
from store_schema.location import FolderLocation

SETTINGS = "model: mini\nweights: random:0\npet_units: suv\nstride: 12\nderive: [spine_dilated]\nlayouts: [paper]\n"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "phantom"
    result = CliRunner().invoke(main, ["phantom", "--out", str(folder), "--patients", "4", "--seed", "2"])
    assert result.exit_code == 0, result.output
    (folder / "small.yaml").write_text(SETTINGS)
    return folder


@pytest.fixture
def folder(cohort, tmp_path) -> Path:
    return Path(shutil.copytree(cohort, tmp_path / "phantom"))


def run(folder: Path, *more: str):
    arguments = ["run", str(folder / "studies.csv"), "--store", str(folder / "store")]
    return CliRunner().invoke(main, [*arguments, "--config", str(folder / "small.yaml"), "--jobs", "0", *more])


def test_help_imports_no_torch_zarr_or_simpleitk():
    code = (
        "import sys; from click.testing import CliRunner; from extractor.cli import main;"
        "assert CliRunner().invoke(main, ['run', '--help']).exit_code == 0;"
        "print([name for name in ('torch', 'zarr', 'SimpleITK', 'sam2', 'pandas', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_exits_0_and_prints_its_snapshot(folder):
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert "8 committed" in result.stdout
    assert "snapshot paper" in result.stdout
    assert "UNTRAINED" in result.stderr


def test_a_failed_item_exits_1_and_names_patient_and_reason(folder):
    image = next(folder.glob("**/*ct*.nii.gz"))
    image.write_bytes(image.read_bytes()[:1000])
    result = run(folder)
    assert result.exit_code == 1
    assert "6 committed, 2 failed" in result.stdout
    assert "ImageError" in result.stdout
    assert "next step" in result.stdout


def test_a_disk_that_is_full_at_the_end_exits_1_after_the_summary(folder, monkeypatch):
    fill = FolderLocation._fill

    def fill_no_snapshot(self, file, data: bytes) -> None:
        if "/snapshots/" in file.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fill(self, file, data)

    with monkeypatch.context() as patch:
        patch.setattr(FolderLocation, "_fill", fill_no_snapshot)
        result = run(folder)
    assert result.exit_code == 1
    assert "8 committed" in result.stdout
    assert "could not be written" in result.stderr
    assert "No space left" in result.stderr
    assert run(folder).exit_code == 0


def test_pseudonyms_need_their_key_and_name_no_patient(folder, monkeypatch):
    monkeypatch.delenv("ENGRAM_PSEUDONYM_KEY", raising=False)
    refused = run(folder, "--pseudonymise")
    assert refused.exit_code == 2
    assert "secrets.token_hex" in refused.stderr
    assert not (folder / "store").exists()
    monkeypatch.setenv("ENGRAM_PSEUDONYM_KEY", "a planted key of many bytes")
    image = next(folder.glob("**/*P001_ct*.nii.gz"))
    image.write_bytes(image.read_bytes()[:1000])
    assert "P001" in run(folder, "--store", str(folder / "plain")).output, "plainly, it is named"
    result = run(folder, "--pseudonymise")
    assert result.exit_code == 1
    assert "ImageError" in result.stdout
    assert "P001" not in result.output
    assert b"P001_ct" not in b"".join(path.read_bytes() for path in (folder / "store").rglob("*.json*"))


def test_a_part_says_what_it_waits_for_and_the_last_prints_the_snapshot(folder):
    first = run(folder, "--shard", "1/2")
    assert first.exit_code == 0, first.output
    assert "snapshot" not in first.stdout
    assert "No snapshot yet: 4 entries of other parts are not there" in first.stderr
    assert "snapshot paper" in run(folder, "--shard", "2/2").stdout


def test_packs_are_told_and_can_be_left_out(folder):
    assert "packed in" in run(folder).stdout
    assert "packed in" not in run(folder, "--no-pack").stdout


def test_a_dry_run_prints_the_plan_and_writes_no_store(folder):
    result = run(folder, "--dry-run")
    assert result.exit_code == 0
    assert "no commit holds this entry" in result.stdout
    assert not (folder / "store").exists()


@pytest.mark.parametrize(
    ("settings", "more", "said"),
    [
        ("colour: red\n", (), "ConfigError"),
        ("model: mini\npet_units: suv\nderive: [spine_dilated]\n", (), "random:SEED"),
        ("model: mini\nderive: [spine_dilated]\n", ("--weights", "random:0"), "PET units"),
        (SETTINGS, ("--weights", "random:x"), "random:"),
        (SETTINGS, ("--weights", "absent.pt"), "WeightsError: checkpoint absent.pt cannot be read"),
        (SETTINGS, ("--device", "tpux"), "cpu, cuda"),
        (SETTINGS, ("--scheduler", "tcp://127.0.0.1:9"), "give one of them"),
        (SETTINGS, ("--shard", "0/4"), "--array=1-8"),
        (SETTINGS, ("--at-once", "2"), "use it with --device cuda"),
    ],
)
def test_a_wrong_call_exits_2_and_says_why(folder, settings, more, said):
    (folder / "small.yaml").write_text(settings)
    result = run(folder, *more)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (folder / "store").exists()
