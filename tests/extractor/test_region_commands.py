"""`extractor regions` and `extractor segment`: files, page, resume and exit statuses, on images of a few voxels."""

import csv
import json
import os
import re
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from extractor.cli import main
from extractor.pictures import MASK_RGB
from extractor.regions import derive_regions
from extractor.volumes import Grid, Labels, read_labels, write_image

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
GRID = Grid((20, 22, 52), (3.0, -4.0, 5.0), (4.0, 3.0, 5.0), IDENTITY)
SHAPE = GRID.size_xyz[::-1]
SPINE = range(50, 24, -1)


def spine_labels():
    array = np.zeros(SHAPE, np.uint16)
    for place, label in enumerate(SPINE):
        array[50 - 2 * place : 52 - 2 * place, 8:13, 7:12] = label
    return array


@pytest.fixture
def cohort(tmp_path):
    """Two studies with a label map, a mask of value 7, and settings for both."""
    rng, mask = np.random.default_rng(0), np.zeros(SHAPE, np.uint8)
    mask[20:30, 5:9, 5:9] = 7
    for patient in ("P1", "P2"):
        write_image(rng.normal(0, 200, SHAPE).astype(np.float32), GRID, tmp_path / f"{patient}_ct.nii.gz")
        write_image(spine_labels(), GRID, tmp_path / f"{patient}_labels.nii.gz")
        write_image(mask, GRID, tmp_path / f"{patient}_tumour.nii.gz")
    lines = [f"{p},{p}_ct.nii.gz,{p}_labels.nii.gz,{p}_tumour.nii.gz" for p in ("P1", "P2")]
    (tmp_path / "studies.csv").write_text("\n".join(["patient,ct,label_map,tumour", *lines, ""]))
    (tmp_path / "extract.yaml").write_text("modalities: [CT]\nderive: [spine_dilated, skeleton]\n")
    return tmp_path


def regions(folder, *more, table="studies.csv"):
    arguments = ["regions", str(folder / table), "--out", str(folder / "out"), "--config", str(folder / "extract.yaml")]
    return CliRunner().invoke(main, [*arguments, *more])


def rows(folder):
    with (folder / "out" / "regions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_regions_are_written_as_the_extractor_takes_them(cohort):
    result = regions(cohort)
    assert result.exit_code == 0, result.output
    written = {roi: read_labels(str(cohort / "out" / "P1" / f"{roi}.nii.gz")) for roi in ("spine_dilated", "tumour")}
    assert {labels.grid.sha256() for labels in written.values()} == {GRID.sha256()}
    expected = derive_regions(Labels(spine_labels(), GRID, "LPS"))["spine_dilated"].array_zyx
    np.testing.assert_array_equal(written["spine_dilated"].array_zyx, expected)
    assert set(np.unique(written["tumour"].array_zyx)) == {0, 1}
    assert written["tumour"].array_zyx.sum() == 160


def test_the_table_and_the_page_name_volume_slices_shares_and_warnings(cohort):
    regions(cohort)
    found = {(row["patient"], row["roi"]): row for row in rows(cohort)}
    assert set(found) == {(p, roi) for p in ("P1", "P2") for roi in ("tumour", "spine_dilated", "skeleton")}
    tumour, spine = found["P1", "tumour"], found["P1", "spine_dilated"]
    assert (float(tumour["volume_ml"]), tumour["slices"], tumour["outside_ct"]) == (160 * 60 / 1000, "10", "0.0")
    assert tumour["outside_pet"] == ""
    assert "towards head" in spine["warnings"]
    page = (cohort / "out" / "index.html").read_text()
    assert page.count("<img") == 6
    for text in ("9.6", "P1/tumour.png", "towards head", "no PET in the table"):
        assert text in page


def test_a_picture_shows_the_outline_where_the_mask_is(cohort):
    regions(cohort)
    picture = np.asarray(Image.open(cohort / "out" / "P1" / "tumour.png"))
    scale = min(640 / 260, 420 / 80)
    coronal = picture[: round(260 * scale), : round(80 * scale)]
    drawn_rows, drawn_columns = np.nonzero((coronal == MASK_RGB).all(-1))
    # Slices 20 to 29 of 52 from below, columns 5 to 8 of 20; superior is up.
    assert (drawn_rows.min() / scale, (drawn_rows.max() + 1) / scale) == pytest.approx((110, 160), abs=2)
    assert (drawn_columns.min() / scale, (drawn_columns.max() + 1) / scale) == pytest.approx((20, 36), abs=2)


def test_a_rerun_makes_only_what_changed(cohort):
    regions(cohort)
    before = {path: path.stat().st_mtime_ns for path in (cohort / "out").glob("P*/*")}
    again = regions(cohort)
    assert again.exit_code == 0
    assert "2 kept" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (cohort / "out").glob("P*/*")} == before
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:5, 2:9, 2:9] = 1
    write_image(mask, GRID, cohort / "P2_tumour.nii.gz")
    changed = regions(cohort)
    assert "1 made, 1 kept" in changed.stdout
    assert read_labels(str(cohort / "out" / "P2" / "tumour.nii.gz")).array_zyx.sum() == mask.sum()


def test_other_settings_make_everything_anew_and_leave_no_region_of_before(cohort):
    regions(cohort)
    result = regions(cohort, "--derive", "spine_dilated")
    assert "2 made" in result.stdout
    assert not (cohort / "out" / "P1" / "skeleton.nii.gz").exists()


def test_a_file_that_was_removed_is_made_again(cohort):
    regions(cohort)
    (cohort / "out" / "P1" / "tumour.png").unlink()
    assert "1 made, 1 kept" in regions(cohort).stdout
    assert (cohort / "out" / "P1" / "tumour.png").exists()


def test_a_failed_study_stops_no_other_and_leaves_no_region_of_before(cohort):
    regions(cohort)
    broken = spine_labels()
    broken[0, 0, 0] = 118
    write_image(broken, GRID, cohort / "P1_labels.nii.gz")
    result = regions(cohort)
    assert result.exit_code == 1
    assert "1 kept, 1 failed" in result.stdout
    assert "end at 117" in result.stdout.replace("\n", " ")
    assert not (cohort / "out" / "P1").exists()
    failed = next(row for row in rows(cohort) if row["patient"] == "P1")
    assert (failed["state"], failed["mask"]) == ("failed", "")
    assert "P1_labels.nii.gz" in failed["reason"]
    assert "Failed" in (cohort / "out" / "index.html").read_text()


def test_a_missing_file_is_a_failure_of_its_study_alone(cohort):
    (cohort / "P2_ct.nii.gz").unlink()
    result = regions(cohort)
    assert result.exit_code == 1
    assert "1 made, 1 failed" in result.stdout
    assert "file not found: CT" in result.stdout


def test_a_folder_of_somebody_else_is_left_alone(cohort):
    (cohort / "out" / "P1").mkdir(parents=True)
    (cohort / "out" / "P1" / "notes.txt").write_text("mine")
    result = regions(cohort)
    assert result.exit_code == 1
    assert (cohort / "out" / "P1" / "notes.txt").read_text() == "mine"
    assert "choose another --out" in result.stderr


def test_a_wrong_call_exits_2_and_writes_nothing(cohort):
    result = regions(cohort, "--label-set", "moose_3")
    assert result.exit_code == 2
    assert "label_map_vertebrae" in result.stderr
    assert "these columns fit: totalsegmentator, totalsegmentator_v1, moose_all_bones_v1" in result.stderr
    assert not (cohort / "out").exists()


def test_processes_make_the_same_regions(cohort):
    regions(cohort)
    here = [(row["patient"], row["roi"], row["volume_ml"]) for row in rows(cohort)]
    table = [(p, (cohort / "out" / p / "skeleton.nii.gz").read_bytes()) for p in ("P1", "P2")]
    for path in (cohort / "out").glob("P*/regions.json"):
        path.write_text(path.read_text().replace('"format": 1', '"format": 0'))
    assert "2 made" in regions(cohort, "--jobs", "2").stdout
    assert [(row["patient"], row["roi"], row["volume_ml"]) for row in rows(cohort)] == here
    assert [(p, (cohort / "out" / p / "skeleton.nii.gz").read_bytes()) for p in ("P1", "P2")] == table


STAND_IN = """#!{python}
import json, sys
from pathlib import Path
import numpy as np
import SimpleITK as sitk

Path({seen!r}).write_text(json.dumps(sys.argv[1:]))
main = Path(sys.argv[sys.argv.index("-d") + 1])
models = sys.argv[sys.argv.index("-m") + 1 :]
print("\\x1b[38;5;40m MOOSE \\x1b[0m")
for subject in sorted(path for path in main.iterdir() if path.is_dir()):
    ct = sitk.ReadImage(str(subject / "CT_study.nii.gz"))
    folder = subject / "moosez-2026-01-02-03-04-05" / "segmentations"
    folder.mkdir(parents=True)
    for model in models:
        part = model.removeprefix("clin_ct_")
        array = np.zeros(ct.GetSize()[::-1], np.uint8)
        if part == "vertebrae":
            for place in range(24):
                array[50 - 2 * place : 52 - 2 * place, 8:13, 7:12] = place + 1
        else:
            array[10, 3, 3] = 23
        image = sitk.GetImageFromArray(array)
        image.CopyInformation(ct)
        sitk.WriteImage(image, str(folder / f"clin_CT_{{part}}_segmentation_CT_study.nii.gz"))
        names = json.loads(Path({names!r}).read_text())[part]
        told = {{label: {{"name": name}} for label, name in names.items()}}
        (folder / f"clin_CT_{{part}}_organ_indices.json").write_text(json.dumps({{"organ_indices": told}}))
"""


@pytest.fixture
def moose(tmp_path, monkeypatch):
    """A program called moosez on the PATH that writes what moosez 3.2.2 writes; gives the folder of its notes."""
    from extractor.label_sets import LABEL_SETS  # noqa: PLC0415

    notes = tmp_path / "notes"
    names = {part: {0: "background", **file.bones} for part, file in LABEL_SETS["moose_3"].items()}
    (notes / "bin").mkdir(parents=True)
    (notes / "names.json").write_text(json.dumps(names))
    text = STAND_IN.format(python=sys.executable, seen=str(notes / "seen.json"), names=str(notes / "names.json"))
    program(notes / "bin", text)
    monkeypatch.setenv("PATH", f"{notes / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return notes


def program(folder: Path, text: str) -> Path:
    path = folder / "moosez"
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def segment(folder, *more):
    return CliRunner().invoke(main, ["segment", str(folder / "studies.csv"), "--out", str(folder / "bones"), *more])


def test_moose_is_called_as_its_command_line_wants_it_and_its_label_maps_make_regions(cohort, moose):
    result = segment(cohort)
    assert result.exit_code == 0, result.output
    seen = json.loads((moose / "seen.json").read_text())
    assert seen[0] == "-d"
    assert seen[2:] == ["-m", "clin_ct_vertebrae", "clin_ct_ribs", "clin_ct_peripheral_bones"]
    with (cohort / "bones" / "studies.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert first["label_map_vertebrae"] == "P1/label_map_vertebrae.nii.gz"
    assert first["ct"] == str(cohort / "P1_ct.nii.gz")
    assert "MOOSE" in (cohort / "bones" / "P1" / "moosez.log").read_text()
    made = regions(cohort, "--label-set", "moose_3", table="bones/studies.csv")
    assert made.exit_code == 0, made.output
    skeleton = read_labels(str(cohort / "out" / "P1" / "skeleton.nii.gz")).array_zyx
    assert skeleton[10, 3, 3] == 1
    assert "2 kept" in segment(cohort).stdout


def test_the_spine_alone_asks_for_one_model(cohort, moose):
    assert segment(cohort, "--spine-only").exit_code == 0
    assert json.loads((moose / "seen.json").read_text())[2:] == ["-m", "clin_ct_vertebrae"]
    assert not (cohort / "bones" / "P1" / "label_map_ribs.nii.gz").exists()


def test_a_moose_whose_labels_mean_something_else_is_refused(cohort, moose):
    names = json.loads((moose / "names.json").read_text())
    names["ribs"]["13"] = "rib_right_1"
    (moose / "names.json").write_text(json.dumps(names))
    result = segment(cohort)
    assert result.exit_code == 1
    said = " ".join(result.stdout.split())
    assert "label 13 of clin_ct_ribs 'rib_right_1'" in result.stderr
    assert "2 failed" in said
    with (cohort / "bones" / "studies.csv").open(newline="") as file:
        assert [row["label_map_ribs"] for row in csv.DictReader(file)] == ["", ""]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "#!/bin/sh\necho 'ConnectionError: Max retries exceeded'\nexit 1\n",
            "exit status 1.* -md clin_ct_vertebrae.*retries",
        ),
        (
            "#!/bin/sh\necho 'No moose compliant subject found to continue!'\n",
            "wrote no clin_CT_vertebrae.*No moose compliant",
        ),
        ("#!/bin/sh\nkill -9 $$\n", "was ended by signal 9"),
    ],
)
def test_a_moose_that_fails_is_told_with_the_next_step(cohort, tmp_path, text, said):
    path = program(tmp_path, text)
    result = segment(cohort, "--moosez", str(path))
    assert result.exit_code == 1
    first = next(line for line in result.stderr.splitlines() if line.startswith("P1: "))
    assert re.search(said, first), first


def test_without_moose_the_call_is_wrong_and_says_how_to_get_it(cohort, monkeypatch):
    monkeypatch.setenv("PATH", str(cohort))
    result = segment(cohort)
    assert result.exit_code == 2
    for text in ("moosez is not there", "pip install 'engram[moose]'", "--moosez PATH"):
        assert text in result.stderr
    assert not (cohort / "bones").exists()


@pytest.mark.parametrize("command", ["regions", "segment"])
def test_help_teaches_with_examples(command):
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert f"\n    extractor {command} studies.csv --out" in result.output
    assert "exit status" in " ".join(result.output.split())
