"""Pruning of measured features: which go and why, as pandas would find them, and that it travels as JSON."""

import numpy as np
import pandas as pd
import pytest

from store_schema.errors import TaskError, UsageError
from trainer.vector_selection import SelectionRules, VectorSelection

NAMES = tuple(f"f{number}" for number in range(8))


def features(n=60, seed=0):
    """Unknown (1), constant (3), like an earlier one (2, 5), like a dropped one alone (6), some values unknown (4)."""
    rng = np.random.default_rng(seed)
    values = rng.normal([0, 0, 0, 4, 1e5, 0, 0, -3], [1, 1, 1, 0, 1e3, 1, 1, 1e-3], (n, 8))
    values[:, 2] = -2 * values[:, 0] + 0.1 * rng.normal(size=n)
    values[:, 5] = values[:, 0] + 0.45 * rng.normal(size=n)
    values[:, 6] = values[:, 5] + 0.4 * rng.normal(size=n)
    values[: n // 4, 1] = np.nan
    values[1 : 1 + n // 5, 4] = np.nan
    return values


def test_features_go_for_missing_values_then_variance_then_likeness_to_an_earlier_one_that_stays():
    selection = VectorSelection.fit(features(), names=NAMES)
    correlation = pd.DataFrame(features()).corr()
    assert abs(correlation.loc[5, 0]) > 0.9
    assert correlation.loc[6, 5] > 0.9 > correlation.loc[6, 0]
    assert {one.name: one.reason for one in selection.dropped} == {
        "f1": "unknown for 25%",
        "f2": "correlation -1.00 with f0",
        "f3": "no variance",
        "f5": f"correlation {correlation.loc[5, 0]:.2f} with f0",
    }
    assert selection.names == ("f0", "f4", "f6", "f7")


def test_what_is_kept_is_filled_with_the_training_median_and_z_scored():
    selection = VectorSelection.fit(features(), names=NAMES)
    table = pd.DataFrame(features())[[0, 4, 6, 7]]
    filled = table.fillna(table.median())
    new = pd.DataFrame(features(20, seed=1))[[0, 4, 6, 7]].fillna(table.median())
    expected = (new - filled.mean()) / filled.std(ddof=0)
    np.testing.assert_allclose(selection.transform(features(20, seed=1)), expected, rtol=1e-9, atol=1e-9)


def test_rules_are_limits_that_may_be_reached():
    values = features()
    loose = VectorSelection.fit(values, names=NAMES, rules=SelectionRules(max_missing=0.25, max_correlation=1.0))
    assert [one.name for one in loose.dropped] == ["f3"]
    strict = VectorSelection.fit(values, names=NAMES, rules=SelectionRules(max_missing=0.0))
    assert "f4" in {one.name for one in strict.dropped}


def test_selection_comes_back_from_json_bit_for_bit():
    selection = VectorSelection.fit(features(), names=NAMES)
    again = VectorSelection.model_validate_json(selection.model_dump_json())
    assert again == selection
    np.testing.assert_array_equal(again.transform(features(seed=1)), selection.transform(features(seed=1)))


def test_vectors_that_leave_nothing_or_do_not_fit_are_refused():
    with pytest.raises(TaskError, match="none of the 2 features is left for the 60"):
        VectorSelection.fit(features()[:, [1, 3]], names=("a", "b"))
    with pytest.raises(UsageError, match="one name per feature"):
        VectorSelection.fit(features(), names=("a", "b"))
    with pytest.raises(UsageError, match="vectors of 8 features"):
        VectorSelection.fit(features(), names=NAMES).transform(features()[:, :7])
