"""A PET without units: divided by its 99.5th percentile inside the body, as views of their own."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from pydantic import ValidationError

from extractor.config import EncoderFacts, ExtractConfig, views_of
from extractor.dicom.series import read_plain_pet_series
from extractor.radiomics import measure_table
from extractor.reading import read_pet
from extractor.study import PrepareRules, StudyFiles, prepare_study
from extractor.volumes import Grid, write_image
from store_schema.errors import IntensityError, UsageError

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
CT = Grid((40, 40, 30), (0.0, 0.0, 0.0), (5.0, 5.0, 5.0), IDENTITY)
PET = Grid((34, 34, 26), (-3.0, -2.0, -1.0), (6.0, 6.0, 6.0), IDENTITY)
RULES = PrepareRules(pet_units="relative", pet_clip_suv=(0.0, 1.0))


@pytest.fixture
def arrays():
    """A body of water in air; the PET has a bladder inside it, and something far brighter outside it."""
    rng = np.random.default_rng(0)
    ct = np.full((30, 40, 40), -1000, np.float32)
    ct[:, 8:32, 8:32] = 40
    pet = rng.gamma(4.0, 1000.0, (26, 34, 34)).astype(np.float32)
    pet[:, :4, :4] = 1e8
    mask = np.zeros((30, 40, 40), np.uint8)
    mask[5:25, 15:25, 15:25] = 1
    return {"ct": ct, "pet": pet, "mask": mask}


def written(folder, arrays) -> StudyFiles:
    for name, grid in (("ct", CT), ("pet", PET), ("mask", CT)):
        write_image(arrays[name], grid, folder / f"{name}.nii.gz")
    return StudyFiles("P1", str(folder / "ct.nii.gz"), str(folder / "pet.nii.gz"), {"roi": str(folder / "mask.nii.gz")})


def test_grey_values_are_those_of_the_percentile_in_the_body(tmp_path, arrays):
    """By SimpleITK and NumPy alone: the body is a box here, and the CT is resampled whole, not by way of a coarse one."""
    files = written(tmp_path, arrays)
    found = prepare_study(files, RULES).images_zyx["PET"].astype(float)
    ct, pet = (sitk.ReadImage(path, sitk.sitkFloat32) for path in (files.ct, files.pet))
    body = sitk.GetArrayFromImage(sitk.Resample(ct, pet, sitk.Transform(), sitk.sitkLinear, -1024.0)) > -500
    level = np.percentile(arrays["pet"][body], 99.5)
    there = sitk.GetArrayFromImage(sitk.Resample(pet, ct, sitk.Transform(), sitk.sitkLinear, 0.0))
    expected = np.rint(np.clip(there / level, 0, 1) * 255)
    inside = arrays["ct"] > -500
    assert np.abs(found - expected)[inside].max() <= 2
    assert 1000 < level < 20_000
    assert found[inside].max() == 255


def test_units_do_not_matter_and_brightness_outside_the_body_does_not_either(tmp_path, arrays):
    folders = [tmp_path / name for name in ("bqml", "suv", "dim")]
    for folder in folders:
        folder.mkdir()
    dim = arrays["pet"].copy()
    dim[:, :4, :4] = 0
    pets = (arrays["pet"], arrays["pet"] / np.float32(4096), dim)
    made = [
        prepare_study(written(folder, {**arrays, "pet": pet}), RULES) for folder, pet in zip(folders, pets, strict=True)
    ]
    inside = arrays["ct"] > -500
    for other in made[1:]:
        np.testing.assert_array_equal(made[0].images_zyx["PET"][inside], other.images_zyx["PET"][inside])
    assert len({one.source_sha256["PET"] for one in made}) == 3


def test_the_cts_voxels_count_among_the_pets_inputs(tmp_path, arrays):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    wider = arrays["ct"].copy()
    wider[:, 4:36, 4:36] = 40
    digests = [
        prepare_study(written(tmp_path / name, {**arrays, "ct": ct}), rules).source_sha256["PET"]
        for name, ct, rules in (("a", arrays["ct"], RULES), ("b", wider, RULES))
    ]
    assert digests[0] != digests[1]
    plain = replace(RULES, pet_units="suv", pet_clip_suv=(0.0, 10.0))
    small = {**arrays, "pet": np.minimum(arrays["pet"] / 4000, 50)}
    own = [
        prepare_study(written(tmp_path / name, {**small, "ct": ct}), plain).source_sha256["PET"]
        for name, ct in (("a", arrays["ct"]), ("b", wider))
    ]
    assert own[0] == own[1]


def test_a_pet_with_nothing_in_the_body_is_refused(tmp_path, arrays):
    dark = np.where(arrays["pet"] == 1e8, arrays["pet"], np.float32(0))
    with pytest.raises(IntensityError, match=r"percentile of 0 in the \d+ voxels .* expected above 0"):
        prepare_study(written(tmp_path, {**arrays, "pet": dark}), RULES)


def test_a_dicom_pet_needs_no_dose(dicom, tmp_path):
    stored = np.random.default_rng(1).integers(0, 900, (4, 6, 6)).astype(np.uint16)

    def bare(header, rank):
        del header.RadiopharmaceuticalInformationSequence, header.PatientWeight

    folder = str(dicom.write_series(tmp_path / "pet", stored, role="PET", slope=lambda rank: 2.0, change=bare))
    with pytest.raises(IntensityError, match="PatientWeight"):
        read_pet(folder, declared=None)
    np.testing.assert_array_equal(read_pet(folder, declared="relative").array_zyx, 2.0 * stored)
    np.testing.assert_array_equal(read_plain_pet_series(folder).array_zyx, 2.0 * stored)


def test_views_are_marked_and_the_settings_of_suv_are_refused():
    facts = EncoderFacts(name="mini", image_size=128, weights_sha256="0" * 64, trained=False, flags={})
    relative = views_of(ExtractConfig(pet_units="relative"), facts)["paper"]
    plain = views_of(ExtractConfig(pet_units="suv"), facts)["paper"]
    assert relative.name == f"{plain.name}-relativepet"
    assert relative.intensity["PET"].model_dump() == {"unit": "relative", "low": 0.0, "high": 1.0, "outside": 0.0}
    assert relative.intensity["CT"] == plain.intensity["CT"]
    assert relative.digest != plain.digest
    with pytest.raises(ValidationError, match="pet_clip_suv says nothing"):
        ExtractConfig(pet_units="relative", pet_clip_suv="suv20")


def test_radiomics_in_bins_of_suv_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"bins of 0\.25 SUV mean nothing"):
        measure_table(
            "studies.csv", tmp_path / "out.csv", ExtractConfig(pet_units="relative"), measure=None, console=None
        )
