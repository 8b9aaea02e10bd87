"""Scalers of maps and vectors: what they take off, what they fill, and that they travel as JSON."""

import numpy as np
import pandas as pd
import pytest

from store_schema.errors import TaskError, UsageError
from trainer.scaling import MapScaler, VectorScaler

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


def test_memories_are_scaled_as_maps_are_cell_by_cell():
    memories = np.random.default_rng(2).normal(1, 0.5, (5, 2, 3, 4, 4)).astype(np.float32)
    scaled = MapScaler.fit(memories).transform(memories)
    np.testing.assert_array_equal(
        scaled.reshape(5, 6, 16), MapScaler.fit(memories.reshape(5, 6, 16)).transform(memories.reshape(5, 6, 16))
    )


def test_flat_scaling_lays_the_same_numbers_in_a_row():
    scaled = MapScaler.fit(maps()).transform(maps(seed=1))
    flat = MapScaler.fit(maps()[:, None], flat=True).transform(maps(seed=1)[:, None])
    np.testing.assert_array_equal(flat, scaled.reshape(6, 32))


def vectors(patients=9, seed=0):
    """Features of very different size; the second is never known, the third never varies, some values are unknown."""
    rng = np.random.default_rng(seed)
    values = rng.normal([5, 0, 7, 1e6], [1e-3, 1, 0, 1e5], (patients, 4)).astype(np.float32)
    values[:, 1] = np.nan
    values[[0, 3], 3] = np.nan
    return values


def test_vectors_are_z_scored_after_median_imputation_as_pandas_does_it():
    table = pd.DataFrame(vectors().astype(np.float64))
    filled = table.fillna(table.median())
    expected = ((filled - filled.mean()) / filled.std(ddof=0)).to_numpy()
    scores = VectorScaler.fit(vectors()).transform(vectors())
    np.testing.assert_allclose(scores[:, [0, 3]], expected[:, [0, 3]], rtol=1e-5, atol=1e-5)
    assert scores.dtype == np.float32


def test_a_feature_that_is_never_known_or_never_varies_in_training_is_zero_for_everybody():
    scaler = VectorScaler.fit(vectors())
    others = np.array([[5, 3, 9, np.nan], [np.nan, np.nan, -7, 1e6]], dtype=np.float32)
    scores = scaler.transform(others)
    assert (scores[:, 1:3] == 0).all()
    assert np.isfinite(scores).all()
    medians = [scaler.fill[0], 0, 0, scaler.fill[3]]
    np.testing.assert_allclose(scores[1, 0], scaler.transform(np.array([medians], dtype=np.float32))[0, 0], atol=1e-4)


def test_vector_scaler_comes_back_from_json_bit_for_bit():
    scaler = VectorScaler.fit(vectors())
    again = VectorScaler.model_validate_json(scaler.model_dump_json())
    assert again == scaler
    assert np.array_equal(again.transform(vectors(seed=1)), scaler.transform(vectors(seed=1)))


def test_vectors_that_cannot_be_scaled_are_refused():
    with pytest.raises(TaskError, match="none of the 2 features varies among the 9"):
        VectorScaler.fit(vectors()[:, 1:3])
    with pytest.raises(UsageError, match="at least one"):
        VectorScaler.fit(np.zeros((0, 4), dtype=np.float32))
    with pytest.raises(UsageError, match="vectors of 4 features"):
        VectorScaler.fit(vectors()).transform(vectors()[:, :3])
