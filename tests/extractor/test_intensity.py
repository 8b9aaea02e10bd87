"""The fixed intensity rules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractor.intensity import CT_WINDOWS_HU, PET_CLIPS_SUV, SLAB_VOXELS, check_ct_hu, check_pet_suv, to_uint8
from store_schema.errors import IntensityError


def test_presets_are_the_protocols():
    assert CT_WINDOWS_HU == {"bone": (-500.0, 1300.0), "soft_tissue": (-160.0, 240.0)}
    assert PET_CLIPS_SUV == {"suv10": (0.0, 10.0), "suv20": (0.0, 20.0)}


def test_bounds_become_0_and_255_and_beyond_is_clipped():
    values = np.array([-1000, -500, 400, 1300, 3000], np.float32)
    assert to_uint8(values, low=-500, high=1300).tolist() == [0, 0, 128, 255, 255]


@given(st.lists(st.floats(-2000, 4000, width=32), min_size=1, max_size=20), st.floats(-2000, 4000, width=32))
def test_a_grey_value_depends_on_its_own_voxel_alone(values, other):
    """No per-volume statistic: adding a voxel of any value changes no other."""
    alone = to_uint8(np.array(values, np.float32), low=-500, high=1300)
    together = to_uint8(np.array([*values, other], np.float32), low=-500, high=1300)
    np.testing.assert_array_equal(together[:-1], alone)


def test_conversion_in_slabs_gives_the_same_grey_values():
    values = np.random.default_rng(0).normal(0, 700, (5, 1300, 1000)).astype(np.float32)
    assert values.size > SLAB_VOXELS
    whole = np.rint((np.clip(values, -500, 1300) - np.float32(-500)) * np.float32(255 / 1800)).astype(np.uint8)
    np.testing.assert_array_equal(to_uint8(values, low=-500, high=1300), whole)


def test_a_ct_without_negative_values_is_refused():
    with pytest.raises(IntensityError, match="no negative value"):
        check_ct_hu(np.arange(100, dtype=np.float32), path="ct.nii")


@pytest.mark.parametrize("highest", [0.0, 20000.0])
def test_a_pet_that_cannot_be_suv_is_refused(highest):
    with pytest.raises(IntensityError, match="declared as SUV"):
        check_pet_suv(np.array([0, highest], np.float32), path="pet.nii")
