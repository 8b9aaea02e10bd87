"""Principal components of maps: an independent decomposition, whitening, signs, and what a training part can give."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from store_schema.errors import TaskError, UsageError
from trainer.components import MapComponents


def maps(patients=30, seed=0, side=6):
    """Maps whose spread falls from one direction to the next, so that components are well apart."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(np.random.default_rng(9).normal(size=(side * side, side * side)))[0]
    spread = 2.0 ** -np.arange(side * side)
    return (
        (3 + rng.normal(size=(patients, side * side)) * spread @ directions)
        .reshape(patients, 1, side, side)
        .astype(np.float32)
    )


def test_components_are_those_of_scikit_learn_with_the_largest_loading_positive():
    ours = MapComponents.fit(maps(), components=5)
    theirs = PCA(5, svd_solver="full").fit(maps().reshape(30, 36).astype(np.float64))
    largest = np.abs(theirs.components_).argmax(axis=1)
    signs = np.sign(theirs.components_[np.arange(5), largest])
    np.testing.assert_allclose(np.array(ours.components), theirs.components_ * signs[:, None], atol=1e-8)
    new = maps(seed=1)
    expected = theirs.transform(new.reshape(30, 36).astype(np.float64)) * signs
    sd = theirs.transform(maps().reshape(30, 36).astype(np.float64)).std(axis=0)
    np.testing.assert_allclose(ours.transform(new), expected / sd, rtol=1e-4, atol=1e-4)


def test_training_scores_are_white():
    scores = MapComponents.fit(maps(), components=6).transform(maps()).astype(np.float64)
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(scores.T @ scores / 30, np.eye(6), atol=1e-4)


@pytest.mark.parametrize(("patients", "asked", "given"), [(30, 32, 29), (30, 8, 8), (50, 40, 36), (2, 32, 1)])
def test_a_training_part_gives_one_component_less_than_patients_and_no_more_than_pixels(patients, asked, given):
    assert MapComponents.fit(maps(patients), components=asked).transform(maps(3)).shape == (3, given)


def test_directions_without_spread_are_zero_for_everybody():
    rng = np.random.default_rng(3)
    flat = rng.normal(size=(20, 1)) * rng.normal(size=(1, 16))
    fitted = MapComponents.fit(flat.reshape(20, 1, 4, 4), components=4)
    scores = fitted.transform(rng.normal(size=(5, 1, 4, 4)))
    assert (scores[:, 1:] == 0).all()
    assert np.abs(scores[:, 0]).max() > 0


def test_components_come_back_from_json_bit_for_bit():
    fitted = MapComponents.fit(maps(), components=4)
    again = MapComponents.model_validate_json(fitted.model_dump_json())
    assert again == fitted
    assert np.array_equal(again.transform(maps(seed=1)), fitted.transform(maps(seed=1)))


def test_maps_that_cannot_be_decomposed_are_refused():
    with pytest.raises(UsageError, match="two maps at least"):
        MapComponents.fit(maps(1), components=4)
    with pytest.raises(TaskError, match="do not differ"):
        MapComponents.fit(np.full((5, 1, 4, 4), 0.1, dtype=np.float32), components=4)
    with pytest.raises(UsageError, match="maps of"):
        MapComponents.fit(maps(), components=4).transform(np.zeros((1, 1, 4, 4), dtype=np.float32))
