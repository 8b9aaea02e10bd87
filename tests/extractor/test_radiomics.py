"""Radiomics through an injected measure, and through mirp itself where it is installed."""

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from extractor.cli import main
from extractor.config import ExtractConfig
from extractor.radiomics import SETTINGS, measure_table, mirp_measure, named
from extractor.volumes import Grid, write_image
from store_schema.errors import StudyError, TableError, UsageError

AXES = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
CT_GRID = Grid((16, 14, 10), (0.0, 0.0, 0.0), (2.0, 2.0, 3.0), AXES)
PET_GRID = Grid((10, 10, 12), (-3.0, -3.0, -2.0), (4.0, 4.0, 3.0), AXES)
CONFIG = ExtractConfig(pet_units="suv")
QUIET = Console(quiet=True)


@pytest.fixture
def table(tmp_path) -> Path:
    """Two studies of one patient; the second has no CT."""
    rng = np.random.default_rng(0)
    write_image(rng.normal(0, 100, (10, 14, 16)).astype(np.float32), CT_GRID, tmp_path / "ct.nii.gz")
    write_image(np.full((12, 10, 10), 2.5, np.float32), PET_GRID, tmp_path / "pet.nii.gz")
    mask = np.zeros((10, 14, 16), np.uint8)
    mask[2:8, 3:10, 4:12] = 1
    write_image(mask, CT_GRID, tmp_path / "a.nii.gz")
    (tmp_path / "s.csv").write_text(
        "patient,study,ct,pet,a\nP1,base,ct.nii.gz,pet.nii.gz,a.nii.gz\nP1,late,gone.nii.gz,pet.nii.gz,a.nii.gz\n"
    )
    return tmp_path / "s.csv"


def units(image, mask, modality):
    """Mean in the image's units, volume in mm³, and a feature that is not defined."""
    x, y, z = image.grid.spacing_xyz_mm
    inside = image.array_zyx[mask != 0]
    return {"mean": float(inside.mean()), "volume": mask.sum() * x * y * z, "flat": np.nan}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_images_are_measured_in_their_units_on_the_ct_grid_and_one_bad_study_stops_none(table, tmp_path):
    out = tmp_path / "f.csv"
    report = measure_table(table, out, CONFIG, measure=units, console=QUIET)
    assert (report.measured, report.held) == (2, 0)
    assert list(report.failed) == ["P1.late"]
    assert "gone.nii.gz" in report.failed["P1.late"]
    pet, ct = rows(out)
    assert [pet[name] for name in ("patient", "study", "modality", "roi")] == ["P1", "base", "PET", "a"]
    assert float(pet["mean"]) == pytest.approx(2.5)
    assert abs(float(ct["mean"])) < 100
    assert float(pet["volume"]) == float(ct["volume"]) == 6 * 7 * 8 * 12.0
    assert pet["flat"] == ""


def test_a_resumed_run_measures_what_is_lacking_and_adds_to_the_table(table, tmp_path):
    out = tmp_path / "f.csv"

    def pet_alone(image, mask, modality):
        if modality == "CT":
            raise StudyError("too small")
        return units(image, mask, modality)

    first = measure_table(table, out, CONFIG, measure=pet_alone, console=QUIET)
    assert first.failed["P1.base/CT/a"] == "StudyError: too small"
    before = rows(out)
    asked = []

    def counted(image, mask, modality):
        asked.append(modality)
        return units(image, mask, modality)

    with pytest.raises(UsageError, match="--resume"):
        measure_table(table, out, CONFIG, measure=counted, console=QUIET)
    second = measure_table(table, out, CONFIG, measure=counted, console=QUIET, resume=True)
    assert (second.measured, second.held, asked) == (1, 1, ["CT"])
    assert rows(out)[0] == before[0]


def test_beside_json_lines_no_study_is_named(table, tmp_path, monkeypatch):
    monkeypatch.setattr("extractor.radiomics.mirp_measure", lambda: units)
    (tmp_path / "units.yaml").write_text("pet_units: suv\n")
    call = ["radiomics", str(table), "--config", str(tmp_path / "units.yaml"), "--log-format", "json"]
    told = CliRunner().invoke(main, [*call, "--out", str(tmp_path / "f.csv")])
    assert told.exit_code == 1
    (failure,) = [json.loads(line) for line in told.stderr.splitlines() if '"failure"' in line]
    assert failure["message"].startswith("ImageError: ")
    assert failure["line"] == 3
    assert not [word for word in ("P1", "gone", "late") if word in told.stderr + told.stdout]


def test_what_a_region_raises_in_the_measuring_is_its_failure(table, tmp_path):
    def fails(image, mask, modality):
        raise ValueError("zero-size array")

    report = measure_table(table, tmp_path / "f.csv", CONFIG, measure=fails, console=QUIET)
    assert report.measured == 0
    assert "ValueError: zero-size array" in report.failed["P1.base/PET/a"]
    assert not (tmp_path / "f.csv").exists()


def test_another_file_is_not_written_over(table, tmp_path):
    (tmp_path / "f.csv").write_text("colour\nred\n")
    with pytest.raises(TableError, match="Give another --out"):
        measure_table(table, tmp_path / "f.csv", CONFIG, measure=units, console=QUIET, resume=True)


def test_the_table_goes_into_a_store_as_it_is(table, tmp_path):
    measure_table(table, tmp_path / "f.csv", CONFIG, measure=units, console=QUIET)
    call = ["import-features", str(tmp_path / "f.csv"), "--store", str(tmp_path / "store"), "--name", "radiomics"]
    settings = [part for key, value in SETTINGS.items() for part in ("--setting", f"{key}={value}")]
    told = CliRunner().invoke(main, [*call, *settings])
    assert told.exit_code == 0, told.output
    assert "P1.base" in " ".join(path.name for path in (tmp_path / "store").rglob("*"))


def test_mirps_names_lose_files_settings_and_widths():
    row = {
        "image_modality": "ct",
        "sample_name": None,
        "morph_volume": 3.0,
        "stat_max": 84,
        "cm_energy_3d_fbs_w0.25": 1.0,
    }
    assert named(row | {"ngt_busyness_3d_fbs_w25.0": None}) == pytest.approx(
        {"morph_volume": 3.0, "stat_max": 84.0, "cm_energy_3d_fbs": 1.0, "ngt_busyness_3d_fbs": np.nan}, nan_ok=True
    )


@pytest.mark.skipif(importlib.util.find_spec("mirp") is not None, reason="mirp is installed")
def test_without_mirp_the_command_says_how_to_have_it(table, tmp_path):
    with pytest.raises(UsageError, match=r"pip install 'engram\[extractor,radiomics\]'"):
        mirp_measure()
    told = CliRunner().invoke(main, ["radiomics", str(table), "--out", str(tmp_path / "f.csv")])
    assert told.exit_code == 2
    assert "import-features" in told.output
