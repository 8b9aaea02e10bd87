"""`extractor perturb` on a synthetic cohort: a view for each size, made by the ordinary run, resumed, and digested."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from extractor.alignment import BODY_HU
from extractor.cli import main
from extractor.config import ExtractConfig, parse_config
from extractor.perturbation import Perturbation
from extractor.perturbed_boxes import padded
from extractor.phantom import write_cohort
from extractor.plan import sources_of
from extractor.prompting import frames_of
from extractor.reading import read_ct, read_pet
from extractor.run import RunOptions, run
from extractor.study import prepare_study
from extractor.table import read_study_table
from extractor.volumes import resample_linear
from extractor.work import input_sha256
from store_schema import EntryKey, open_store

SETTINGS = {
    "model": "mini",
    "weights": "random:0",
    "pet_units": "suv",
    "stride": 12,
    "derive": ["spine_dilated"],
    "layouts": ["paper"],
}
SPINE = EntryKey("P001", "PET", "spine_dilated")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, n=2, seed=5)
    lines = (f"{name}: {value}\n" for name, value in SETTINGS.items())
    (folder / "extract.yaml").write_text("".join(lines).replace("'", ""))
    return folder


def perturb(cohort: Path, store: Path, *more: str):
    where = [str(cohort / "studies.csv"), "--store", str(store), "--config", str(cohort / "extract.yaml")]
    return CliRunner().invoke(main, ["perturb", *where, "--jobs", "0", *more])


def config_of(perturb: Perturbation | None) -> ExtractConfig:
    return parse_config({**SETTINGS, "perturb": None if perturb is None else perturb.model_dump()}, origin="test")


def prepared_with(cohort: Path, perturb: Perturbation | None):
    config = config_of(perturb)
    row = next(row for row in read_study_table(cohort / "studies.csv", config) if row.patient == "P001")
    return prepare_study(row.files, config.rules())


@pytest.fixture(scope="module")
def made(cohort, tmp_path_factory):
    """A store with the base view and two paddings, and what the command said the first and the second time."""
    store = tmp_path_factory.mktemp("perturbed") / "store"
    base = run(config_of(None), RunOptions(cohort / "studies.csv", str(store), jobs=0), console=Console(quiet=True))
    sizes = ("--kind", "padding", "--size", "8", "--size", "-6")
    return store, base, perturb(cohort, store, *sizes), perturb(cohort, store, *sizes)


def test_each_size_is_a_view_with_a_snapshot_of_the_table(made):
    store, base, first, _ = made
    assert first.exit_code == 0, first.output
    opened = open_store(str(store))
    assert len(opened.view_ids()) == 3
    views = {opened.view(view).flags.get("perturbation_size_mm"): view for view in opened.view_ids()}
    assert set(views) == {None, 8.0, -6.0}
    assert views[None] == base.views["paper"]
    assert views[8.0].startswith("mini-untrained-sequential-paper-padding-8mm-")
    assert views[-6.0].startswith("mini-untrained-sequential-paper-padding-minus6mm-")
    for view in (views[8.0], views[-6.0]):
        assert f"view {view}" in first.stdout
        assert len(opened.current_numbers(view)) == 4
    snapshots = [line.split()[2] for line in first.stdout.splitlines() if line.startswith("snapshot ")]
    assert sorted(opened.snapshot(one).view_id for one in snapshots) == sorted([views[8.0], views[-6.0]])
    assert opened.verify().ok


def test_an_entry_holds_the_padded_boxes_and_what_the_network_makes_of_them(made):
    store, base, _, _ = made
    opened = open_store(str(store))
    whole = opened.read(base.views["paper"], SPINE)
    (view,) = (view for view in opened.view_ids() if "padding-8mm" in view)
    entry = opened.read(view, SPINE)
    x_mm, y_mm, _ = whole.attributes["grid"]["spacing_xyz_mm"]
    size_xy = whole.attributes["grid"]["size_xyz"][:2]
    expected = padded(np.array(whole.attributes["boxes_xyxy"]), 8.0, (x_mm, y_mm), size_xy)
    assert entry.attributes["boxes_xyxy"] == expected.tolist()
    assert entry.attributes["kept_slices_z"] == whole.attributes["kept_slices_z"]
    assert entry.attributes["perturbation"] == {"kind": "padding", "size": 8.0, "seed": 0}
    assert "perturbation" not in whole.attributes
    np.testing.assert_array_equal(entry.arrays["mask"], whole.arrays["mask"])
    assert (entry.arrays["memory"] != whole.arrays["memory"]).any()


def test_a_second_call_makes_nothing_again(made):
    store, _, first, again = made
    assert again.exit_code == 0
    assert "committed from these very files" in again.stdout
    opened = open_store(str(store))
    assert all(set(opened.current_numbers(view).values()) == {0} for view in opened.view_ids())
    told = [
        [line.split()[2] for line in one.stdout.splitlines() if line.startswith("snapshot ")] for one in (first, again)
    ]
    assert told[0] == told[1]


def test_the_setting_makes_the_same_view_as_the_command(cohort, made, tmp_path):
    store, _, _, _ = made
    config = config_of(Perturbation(kind="padding", size=8))
    report = run(config, RunOptions(cohort / "studies.csv", str(store), jobs=0), console=Console(quiet=True))
    assert {item.state for item in report.plan} == {"done"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--kind", "jitter", "--size", "6", "--seed", "1"),
        ("--kind", "dilate", "--size", "8"),
        ("--kind", "erode", "--size", "4"),
        ("--kind", "drop", "--size", "0.5"),
        ("--kind", "stride", "--size", "20"),
        ("--kind", "shift_z", "--size", "10"),
        ("--kind", "random_boxes"),
        ("--kind", "elsewhere"),
        ("--kind", "constant"),
    ],
)
def test_every_kind_changes_what_a_run_makes(cohort, made, arguments):
    store, base, _, _ = made
    result = perturb(cohort, store, *arguments)
    assert result.exit_code == 0, result.output
    opened = open_store(str(store))
    (view,) = {line.rsplit("view ")[1].split()[0] for line in result.stdout.splitlines() if line.startswith("snapshot")}
    assert f"-{arguments[1]}" in view
    one, other = opened.read(view, SPINE), opened.read(base.views["paper"], SPINE)
    assert one.arrays["memory"].shape == other.arrays["memory"].shape
    assert (one.arrays["memory"] != other.arrays["memory"]).any()
    assert one.attributes["perturbation"]["kind"] == arguments[1]


def test_a_call_on_more_studies_makes_those_that_are_missing(cohort, tmp_path):
    whole = (cohort / "studies.csv").read_text().splitlines()
    (cohort / "first.csv").write_text("\n".join(whole[:2]) + "\n")
    where = ["--store", str(tmp_path / "s"), "--config", str(cohort / "extract.yaml"), "--jobs", "0"]
    kind = ["--kind", "random_boxes", "--seed", "2"]
    for table in ("first.csv", "studies.csv"):
        result = CliRunner().invoke(main, ["perturb", str(cohort / table), *where, *kind])
        assert result.exit_code == 0, result.output
    assert "2 committed" in result.stdout
    opened = open_store(str(tmp_path / "s"))
    (view,) = opened.view_ids()
    assert set(opened.current_numbers(view).values()) == {0}
    assert sorted(len(opened.snapshot(one)) for one in opened.snapshot_ids()) == [2, 4]


def test_processes_make_what_one_process_makes(cohort, tmp_path):
    where = [str(cohort / "studies.csv"), "--config", str(cohort / "extract.yaml"), "--kind", "jitter", "--size", "6"]
    contents = []
    for jobs in ("0", "2"):
        result = CliRunner().invoke(main, ["perturb", *where, "--store", str(tmp_path / jobs), "--jobs", jobs])
        assert result.exit_code == 0, result.output
        opened = open_store(str(tmp_path / jobs))
        (view,) = opened.view_ids()
        contents.append({key: opened.commit(view, key).content_sha256 for key in opened.keys(view)})
    assert len(contents[0]) == 4
    assert contents[0] == contents[1]


# What a study becomes


def test_a_dilated_region_is_what_slices_and_boxes_are_taken_from(cohort):
    before, after = (prepared_with(cohort, one) for one in (None, Perturbation(kind="dilate", size=8)))
    assert after.masks_zyx["spine_dilated"].sum() > before.masks_zyx["spine_dilated"].sum()
    assert frames_of(after, SPINE, 12)[1].tolist() != frames_of(before, SPINE, 12)[1].tolist()


@pytest.mark.parametrize(("kind", "axis", "size"), [("shift_x", 0, 8), ("shift_y", 1, 8), ("shift_z", 2, 10)])
def test_a_shift_moves_the_pet_by_mm_and_not_the_ct(cohort, kind, axis, size):
    before, after = (prepared_with(cohort, one) for one in (None, Perturbation(kind=kind, size=size)))
    np.testing.assert_array_equal(after.images_zyx["CT"], before.images_zyx["CT"])
    config = config_of(None)
    row = next(row for row in read_study_table(cohort / "studies.csv", config) if row.patient == "P001")
    ct, pet = read_ct(row.files.ct), read_pet(row.files.pet, declared="suv")
    moved = list(pet.grid.origin_xyz_mm)
    moved[axis] += size
    expected = resample_linear(replace(pet, grid=replace(pet.grid, origin_xyz_mm=tuple(moved))), ct.grid, outside=0.0)
    grey = np.clip(expected.array_zyx / 10, 0, 1) * 255
    assert np.abs(after.images_zyx["PET"] - grey).max() <= 0.51
    # by whole voxels, towards left, posterior, superior
    voxels = round(size / ct.grid.spacing_xyz_mm[axis])
    assert voxels * ct.grid.spacing_xyz_mm[axis] == size
    old, new = (np.moveaxis(one.images_zyx["PET"].astype(int), 2 - axis, 0) for one in (before, after))
    assert np.abs(new[voxels:] - old[:-voxels]).max() <= 1
    assert np.abs(new - old).max() > 10


def test_elsewhere_avoids_the_bones_of_a_label_map_and_leaves_the_body_never_needlessly(cohort):
    prepared = prepared_with(cohort, Perturbation(kind="elsewhere"))
    ct = read_ct(str(cohort / "images" / "P001_ct.nii.gz"))
    around = prepared.surroundings
    soft = ct.array_zyx > BODY_HU
    assert (around.body_zyx & soft).sum() / (around.body_zyx | soft).sum() > 0.8
    assert around.bones_zyx is not None
    slices, boxes = frames_of(prepared, SPINE, 12)
    for z, (x0, y0, x1, y1) in zip(slices, boxes, strict=True):
        under = np.s_[z, y0 : y1 + 1, x0 : x1 + 1]
        assert around.body_zyx[under].all()
        assert not around.bones_zyx[under].any()
        assert not prepared.masks_zyx["spine_dilated"][under].any()


def test_digests_follow_region_shift_surroundings_and_name(cohort):
    def digest(prepared, **more) -> str:
        return input_sha256(prepared, modality="PET", roi="spine_dilated", view_id="v", **more)

    base = prepared_with(cohort, None)
    others = [
        prepared_with(cohort, Perturbation(kind="dilate", size=8)),
        prepared_with(cohort, Perturbation(kind="shift_x", size=12)),
        prepared_with(cohort, Perturbation(kind="elsewhere")),
        prepared_with(cohort, Perturbation(kind="random_boxes")),
    ]
    bare = replace(others[2], surroundings=replace(others[2].surroundings, sha256="0"))
    digests = {digest(one) for one in (base, *others, bare)} | {digest(base, points_of="P1/PET/spine_dilated")}
    assert len(digests) == 7


def test_elsewhere_reads_label_maps_beside_masks_and_plans_by_them(cohort, tmp_path):
    table = (cohort / "studies.csv").read_text()
    header = table.splitlines()[0].split(",")
    assert "label_map" in header
    made = cohort / "masks.csv"
    rows = [dict(zip(header, line.split(","), strict=True)) for line in table.splitlines()[1:]]
    made.write_text(
        "patient,ct,pet,tumour,label_map\n"
        + "".join(f"{row['patient']},{row['ct']},{row['pet']},{row['label_map']},{row['label_map']}\n" for row in rows)
    )
    settings = {name: value for name, value in SETTINGS.items() if name != "derive"}
    plain = parse_config(settings, origin="test")
    asked = parse_config({**settings, "perturb": {"kind": "elsewhere"}}, origin="test")
    assert read_study_table(made, plain)[0].files.label_maps == {}
    row = read_study_table(made, asked)[0]
    assert set(row.files.label_maps) == {""}
    roles = {source.role for source in sources_of(row, "PET", "tumour", bones=asked.asks_bones)}
    assert roles == {"PET", "CT", "mask:tumour", "label_map"}


# Wrong calls


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--kind", "padding"), "padding needs a size"),
        (("--kind", "constant", "--size", "3"), "constant has no size"),
        (("--kind", "drop", "--size", "2"), "a share between 0 and 1"),
        (("--kind", "padding", "--size", "2", "--seed", "4"), "draws nothing"),
        (("--kind", "wobble"), "is not one of"),
    ],
)
def test_a_wrong_call_exits_2_and_says_why(cohort, tmp_path, more, said):
    result = perturb(cohort, tmp_path / "s", *more)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "s").exists()


def test_a_size_that_changes_nothing_fails_with_a_reason(cohort, tmp_path):
    result = perturb(cohort, tmp_path / "s", "--kind", "erode", "--size", "1")
    assert result.exit_code == 1
    assert "stays as it is with erode by 1 mm" in result.stdout.replace("\n", " ")


@pytest.mark.parametrize("command", ["inspect", "regions", "radiomics"])
def test_commands_that_show_or_measure_what_is_there_refuse_a_perturbation(cohort, tmp_path, command):
    settings = tmp_path / "perturbed.yaml"
    settings.write_text((cohort / "extract.yaml").read_text() + "perturb: {kind: dilate, size: 8}\n")
    out = ["--out", str(tmp_path / "out")] if command != "inspect" else []
    result = CliRunner().invoke(main, [command, str(cohort / "studies.csv"), "--config", str(settings), *out])
    assert result.exit_code == 2
    assert f"extractor {command} knows no perturbation" in result.stderr
