"""Map scaler: what it takes off, that it is fitted on the training part alone, and that it travels as JSON."""

import numpy as np
import pytest

from store_schema.errors import TaskError, UsageError
from trainer.scaling import MapScaler

KINDS = ("pixel", "scalar", "none")


def maps(patients=6, seed=0):
    return np.random.default_rng(seed).normal(3, 0.1, (patients, 8, 4)).astype(np.float32)


def test_pixel_scaling_leaves_a_mean_of_zero_in_each_pixel_and_one_unit_of_spread_overall():
    scaled = MapScaler.fit(maps(), kind="pixel").transform(maps()).astype(np.float64)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-5)
    assert np.sqrt((scaled**2).mean()) == pytest.approx(1, rel=1e-5)


def test_pixel_scaling_keeps_the_ratio_between_pixels_that_vary_much_and_little():
    array = maps()
    array[:, 0, 0] = 3 + 10 * (array[:, 0, 0] - 3)
    scaled = MapScaler.fit(array, kind="pixel").transform(array)
    assert scaled[:, 0, 0].std() / scaled[:, 1, 1].std() == pytest.approx(
        array[:, 0, 0].std() / array[:, 1, 1].std(), rel=1e-4
    )


def test_pixel_scaling_removes_an_image_common_to_all():
    common = np.random.default_rng(1).normal(0, 5, (8, 4)).astype(np.float32)
    with_common = MapScaler.fit(maps() + common).transform(maps() + common)
    np.testing.assert_allclose(with_common, MapScaler.fit(maps()).transform(maps()), atol=1e-4)


def test_scalar_scaling_is_one_z_score_of_all_pixels():
    scaled = MapScaler.fit(maps(), kind="scalar").transform(maps(seed=1))
    array = maps().astype(np.float64)
    np.testing.assert_allclose(scaled, (maps(seed=1) - array.mean()) / array.std(), rtol=1e-4, atol=1e-5)


def test_no_scaling_changes_nothing():
    assert np.array_equal(MapScaler.fit(maps(), kind="none").transform(maps(seed=1)), maps(seed=1))


@pytest.mark.parametrize("kind", KINDS)
def test_scaler_comes_back_from_json_bit_for_bit(kind):
    scaler = MapScaler.fit(maps(), kind=kind)
    again = MapScaler.model_validate_json(scaler.model_dump_json())
    assert again == scaler
    assert np.array_equal(again.transform(maps(seed=1)), scaler.transform(maps(seed=1)))


@pytest.mark.parametrize("kind", ["pixel", "scalar"])
def test_equal_maps_are_refused_since_nothing_can_be_learned(kind):
    with pytest.raises(TaskError, match="do not differ"):
        MapScaler.fit(np.full((5, 8, 8), 0.1, dtype=np.float32), kind=kind)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="at least one"):
        MapScaler.fit(np.zeros((0, 4, 4), dtype=np.float32))
    with pytest.raises(UsageError, match="maps of"):
        MapScaler.fit(maps()).transform(np.zeros((1, 4, 4), dtype=np.float32))
