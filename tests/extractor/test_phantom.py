"""The synthetic cohort: repeatable, with the planted signal where it is said to be and nowhere else."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from extractor.phantom import CT_GRID, PET_GRID, lowest_kept_z_mm, paint_patient, write_cohort
from extractor.phantom_anatomy import SPINE_TOP_MM, coordinates_mm
from extractor.phantom_table import (
    CENSORING_MONTHS,
    SIGNAL_MEAN,
    SIGNAL_SD,
    WEIBULL_SCALE_MONTHS,
    WEIBULL_SHAPE,
    clinical_table,
    draw_factors,
)
from extractor.prompts import kept_slices
from extractor.regions import derive_regions
from extractor.study import PrepareRules, StudyFiles, prepare_study
from extractor.volumes import Labels

MANY = 40_000


def test_factors_have_the_protocols_distributions():
    f = draw_factors(MANY, 0)
    assert np.log(f.marrow_suv).mean() == pytest.approx(np.log(1.5), abs=0.01)
    assert np.log(f.marrow_suv).std() == pytest.approx(0.35, abs=0.01)
    assert f.lesion_suv.mean() == pytest.approx(1.2 * 3, abs=0.06)
    assert f.lesion_suv.var() == pytest.approx(1.2 * 9, rel=0.05)
    assert f.lesions.mean() == pytest.approx(4, abs=0.05)
    assert f.lesions.min() == 1
    assert f.z.mean() == pytest.approx(0, abs=0.02)
    assert f.z.std() == pytest.approx(1, abs=0.02)
    raw = 0.7 * np.log1p(f.lesion_suv) + 0.5 * np.log(f.marrow_suv)
    np.testing.assert_allclose(f.z, (raw - SIGNAL_MEAN) / SIGNAL_SD)
    expected = 1.3 * f.z + 0.4 * (f.age - 62) / 10 + 0.5 * (f.riss == "III")
    np.testing.assert_allclose(f.log_hazard, expected)


def test_about_28_percent_are_censored_and_times_are_whole_months_with_ties():
    f = draw_factors(MANY, 1)
    assert 1 - f.event.mean() == pytest.approx(0.28, abs=0.02)
    assert f.time_months.min() >= 1
    assert f.time_months.max() <= CENSORING_MONTHS[1] + 1
    small = draw_factors(120, 1)
    assert len(set(small.time_months)) < 120


def test_uncensored_times_follow_the_weibull_hazard():
    """Cumulative hazards at the event times are standard exponential; here by their mean, before rounding bites."""
    f = draw_factors(MANY, 2, "null")
    hazard = (f.time_months / WEIBULL_SCALE_MONTHS) ** WEIBULL_SHAPE * np.exp(f.log_hazard)
    assert f.event.sum() / hazard.sum() == pytest.approx(1.0, abs=0.03)


def test_missing_values_are_as_many_as_said_and_never_in_the_outcome():
    table = clinical_table(draw_factors(MANY, 3), 3)
    assert table["riss"].isna().mean() == pytest.approx(0.25, abs=0.01)
    assert table["age"].isna().mean() == pytest.approx(0.10, abs=0.01)
    assert not table[["patient", "pfs_months", "pfs_event"]].isna().any().any()


def test_null_outcomes_know_nothing_of_the_images():
    f = draw_factors(MANY, 4, "null")
    assert abs(np.corrcoef(f.z, f.log_hazard)[0, 1]) < 0.02


def test_the_same_seed_gives_the_same_files_whatever_the_processes(tmp_path):
    def digest(folder, **options):
        write_cohort(folder, n=3, **options)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]

    one = digest(tmp_path / "a", seed=5, processes=0)
    assert digest(tmp_path / "b", seed=5, processes=2) == one
    assert digest(tmp_path / "c", seed=6, processes=0) != one


def painted(kind, *, seed=7, index=0, **changes):
    f = draw_factors(20, seed, kind)
    for name, value in changes.items():
        getattr(f, name)[index] = value
    return paint_patient(f, index, seed=seed, kind=kind)


def differing_z_mm(grid, first, second):
    """Heights of the slices in which two paintings differ."""
    _, _, z = coordinates_mm(grid)
    return z[:, 0, 0][(first != second).any(axis=(1, 2))]


def test_a_lesion_lies_in_the_last_two_kept_slices():
    _, low, labels = painted("standard", lesion_suv=0.0)
    _, high, _ = painted("standard", lesion_suv=8.0)
    mask = derive_regions(Labels(labels.astype(np.uint16), CT_GRID, "LPS"))["spine_dilated"].array_zyx
    last = kept_slices(mask.astype(np.uint8), 2)[-2:]
    for z in last:
        height = CT_GRID.origin_xyz_mm[2] + z * CT_GRID.spacing_xyz_mm[2]
        plane = round((height - PET_GRID.origin_xyz_mm[2]) / PET_GRID.spacing_xyz_mm[2])
        assert (high - low)[plane].max() > 4
    assert lowest_kept_z_mm() == np.mean([CT_GRID.origin_xyz_mm[2] + z * 5.0 for z in last])


def test_far_leaves_everything_below_the_upper_third_untouched():
    low = painted("far", lesion_suv=0.0, marrow_suv=0.8)
    high = painted("far", lesion_suv=9.0, marrow_suv=2.5)
    heights = differing_z_mm(PET_GRID, low[1], high[1])
    assert heights.size
    assert heights.min() > SPINE_TOP_MM - 18 * 14.0 / 3 - 50
    assert heights.min() > 100
    np.testing.assert_array_equal(low[0], high[0])


def test_ct_only_leaves_the_pet_untouched():
    low = painted("ct_only", lesion_suv=0.0, marrow_suv=0.8)
    high = painted("ct_only", lesion_suv=9.0, marrow_suv=2.5)
    np.testing.assert_array_equal(low[1], high[1])
    assert (low[0] != high[0]).any()


def test_standard_leaves_the_ct_untouched():
    low, high = painted("standard", lesion_suv=0.0), painted("standard", lesion_suv=9.0)
    np.testing.assert_array_equal(low[0], high[0])


@pytest.mark.parametrize("kind", ["standard", "far", "ct_only", "null"])
def test_every_kind_is_a_study_the_extractor_takes(tmp_path, kind):
    files = write_cohort(tmp_path, n=2, seed=8, kind=kind, processes=0)
    row = pd.read_csv(files.studies).iloc[0]
    study = StudyFiles("P001", str(tmp_path / row.ct), str(tmp_path / row.pet), {}, str(tmp_path / row.label_map))
    prepared = prepare_study(study, PrepareRules(pet_units="suv", derive=("spine_dilated", "skeleton")))
    assert max(prepared.outside_share.values()) < 0.05
    assert 20 < len(kept_slices(prepared.masks_zyx["spine_dilated"], 2)) < 33
    assert prepared.grid == CT_GRID
