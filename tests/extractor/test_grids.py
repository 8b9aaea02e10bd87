"""The PET's grid: against SimpleITK, and what decides an entry's numbers and its state there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from rich.console import Console

from extractor.config import EncoderFacts, ExtractConfig, views_of
from extractor.phantom import write_cohort
from extractor.plan import sources_of
from extractor.run import RunOptions, run
from extractor.study import PrepareRules, StudyFiles, prepare_study
from extractor.table import read_study_table
from extractor.volumes import Grid, write_image
from extractor.work import input_sha256
from store_schema import open_store
from store_schema.errors import GeometryError, MaskError, StudyError

AXES = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
CT = Grid((30, 28, 12), (0.0, 0.0, 0.0), (2.0, 2.0, 3.0), AXES)
PET = Grid((16, 16, 9), (-3.0, -2.5, -1.2), (4.3, 4.3, 4.5), AXES)
MASK = Grid((28, 26, 12), (1.0, 1.5, 0.2), (2.0, 2.0, 3.0), AXES)
"""A third grid: a mask must go to the PET's straight from its own."""
RULES = PrepareRules(pet_units="suv", grid="pet")
FACTS = EncoderFacts(name="mini", image_size=128, weights_sha256="0" * 64, trained=True, flags={})


@pytest.fixture
def files(tmp_path) -> StudyFiles:
    rng = np.random.default_rng(0)
    mask = np.zeros((12, 26, 28), np.uint8)
    mask[3:9, 6:18, 7:20] = 1
    arrays = {
        "ct": (rng.normal(0, 300, (12, 28, 30)).astype(np.float32), CT),
        "pet": (rng.gamma(1.0, 2.0, (9, 16, 16)).astype(np.float32), PET),
        "mask": (mask, MASK),
    }
    for name, (array, grid) in arrays.items():
        write_image(array, grid, tmp_path / f"{name}.nii.gz")
    return StudyFiles(
        "P1", str(tmp_path / "ct.nii.gz"), str(tmp_path / "pet.nii.gz"), {"roi": str(tmp_path / "mask.nii.gz")}
    )


def moved(place: str, axis: int, by_mm: float) -> None:
    image = sitk.ReadImage(place)
    origin = list(image.GetOrigin())
    origin[axis] += by_mm
    image.SetOrigin(origin)
    sitk.WriteImage(image, place)


def test_ct_and_masks_on_the_pets_grid_are_as_simpleitk_resamples_them(files):
    prepared = prepare_study(files, RULES)
    pet = sitk.ReadImage(files.pet)
    ct = sitk.Resample(sitk.ReadImage(files.ct, sitk.sitkFloat32), pet, sitk.Transform(), sitk.sitkLinear, -1024.0)
    mask = sitk.Resample(sitk.ReadImage(files.masks["roi"]), pet, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    grey = np.rint((np.clip(sitk.GetArrayFromImage(ct), -500, 1300) + 500) * np.float32(255 / 1800))
    np.testing.assert_array_equal(prepared.images_zyx["CT"], grey.astype(np.uint8))
    assert (grey[:, 0] == 0).all(), "the PET's first row lies outside the CT: air"
    np.testing.assert_array_equal(prepared.masks_zyx["roi"], sitk.GetArrayFromImage(mask))
    own = np.rint(np.clip(sitk.GetArrayFromImage(pet), 0, 10) * np.float32(25.5))
    np.testing.assert_array_equal(prepared.images_zyx["PET"], own.astype(np.uint8))
    assert prepared.grid.size_xyz == (16, 16, 9)


def test_alignment_and_outside_share_do_not_depend_on_the_grid_chosen(files):
    moved(files.pet, 2, 16.0)
    rules = replace(RULES, max_outside_share=0.9)
    on_pet, on_ct = prepare_study(files, rules), prepare_study(files, replace(rules, grid="ct"))
    assert on_pet.outside_share == on_ct.outside_share
    assert on_pet.outside_share["roi"] > 0.05
    assert on_pet.alignment == on_ct.alignment
    with pytest.raises(GeometryError, match=r"outside the field of view of .*pet\.nii\.gz"):
        prepare_study(files, RULES)


def test_the_pets_geometry_decides_the_ct_entry_on_its_grid_alone(files):
    def digest(grid: str) -> str:
        prepared = prepare_study(files, replace(RULES, grid=grid))
        return input_sha256(prepared, modality="CT", roi="roi", view_id="v")

    before = {grid: digest(grid) for grid in ("ct", "pet")}
    moved(files.pet, 0, 1.0)
    assert digest("ct") == before["ct"]
    assert digest("pet") != before["pet"]


def test_a_ct_alone_on_the_pets_grid_needs_the_pet_and_no_pet_image_comes_of_it(files):
    prepared = prepare_study(files, replace(RULES, modalities=("CT",)))
    assert set(prepared.images_zyx) == {"CT"}
    assert prepared.images_zyx["CT"].shape == (9, 16, 16)
    with pytest.raises(StudyError, match="lie on the PET's grid"):
        prepare_study(replace(files, pet=None), replace(RULES, modalities=("CT",)))


def test_a_region_that_vanishes_on_the_pets_grid_is_refused_with_the_remedy(files, tmp_path):
    tiny = np.zeros((12, 28, 30), np.uint8)
    tiny[5, 10, 10] = 1
    write_image(tiny, CT, tmp_path / "tiny.nii.gz")
    with pytest.raises(MaskError, match=r"too small for the PET's grid.*4\.3 x 4\.3 x 4\.5 mm.*grid: ct"):
        prepare_study(replace(files, masks={"roi": str(tmp_path / "tiny.nii.gz")}), RULES)


def test_a_grid_is_another_view_and_the_default_views_stay_what_they_were():
    usual = views_of(ExtractConfig(), FACTS.model_copy(update={"name": "m", "image_size": 512}))
    assert usual["paper"].view_id == "m-sequential-paper-d3993f8a7cce488e"
    on_pet = views_of(ExtractConfig(grid="pet"), FACTS)["paper"]
    assert (on_pet.grid, on_pet.name) == ("pet", "mini-sequential-paper-petgrid")
    assert on_pet.digest != views_of(ExtractConfig(), FACTS)["paper"].digest


def test_a_run_on_the_pets_grid_records_it_and_sees_a_changed_pet(tmp_path):
    cohort: Path = write_cohort(tmp_path, n=4, seed=3, processes=0).studies
    lines = cohort.read_text().splitlines()
    cohort.write_text("\n".join(lines[:2]) + "\n")
    config = ExtractConfig(
        model="mini",
        weights="random:0",
        pet_units="suv",
        stride=16,
        derive=("spine_dilated",),
        layouts=("paper",),
        grid="pet",
    )
    options = RunOptions(str(cohort), str(tmp_path / "store"), jobs=0)
    report = run(config, options, console=Console(quiet=True))
    assert not report.failed
    store = open_store(tmp_path / "store")
    for key in store.keys(report.views["paper"]):
        entry = store.read(report.views["paper"], key)
        assert entry.attributes["grid"]["size_xyz"] == [88, 88, 62]
        assert entry.arrays["mask"].shape == (62, 88, 88)
        assert entry.attributes["alignment"]["body_dice"] > 0.95
        assert entry.attributes["warnings"] == []
    row = read_study_table(str(cohort), config)[0]
    roles = {source.role for source in sources_of(row, "CT", "spine_dilated", grid="pet")}
    assert roles == {"CT", "PET", "label_map"}
    moved(row.files.pet, 1, 80.0)
    again = run(config, options, console=Console(quiet=True))
    assert {(item.modality, item.state) for item in again.plan} == {("PET", "changed"), ("CT", "changed")}
    assert {outcome.result for outcome in again.outcomes} == {"committed"}
    warned = store.commit(report.views["paper"], store.keys(report.views["paper"])[0]).attributes["warnings"]
    assert "overlap with Dice" in warned[0]
