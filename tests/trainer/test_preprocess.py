"""Clinical preprocessing against scikit-learn, and the law that it learns from the training fold alone."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from store_schema.errors import TableError
from trainer.preprocess import ClinicalPreprocessor, PreprocessRules

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared

MODE = PreprocessRules(categorical_missing="mode")


def patients(seed, n, levels=("I", "II", "III")):
    """Two labs and a stage, 15% of each missing."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"age": rng.normal(62, 10, n), "crea": rng.lognormal(0, 0.5, n)})
    frame["stage"] = pd.Series(rng.choice(np.array(levels, dtype=object), n), dtype=object)
    return frame.mask(rng.random(frame.shape) < 0.15)


def test_z_scores_equal_scikit_learns_scaler_and_mean_imputer():
    train, test = patients(0, 150)[["age", "crea"]], patients(1, 50)[["age", "crea"]]
    reference = make_pipeline(StandardScaler(), SimpleImputer()).fit(train)
    ours = ClinicalPreprocessor.fit(train)
    np.testing.assert_allclose(ours.transform(test), reference.transform(test), atol=1e-12)


def test_median_imputation_equals_scikit_learns():
    train, test = patients(0, 150)[["age", "crea"]], patients(1, 50)[["age", "crea"]]
    reference = make_pipeline(StandardScaler(), SimpleImputer(strategy="median")).fit(train)
    ours = ClinicalPreprocessor.fit(train, PreprocessRules(continuous_missing="median"))
    np.testing.assert_allclose(ours.transform(test), reference.transform(test), atol=1e-12)


@pytest.mark.parametrize(
    ("rules", "imputer"),
    [
        (PreprocessRules(), SimpleImputer(strategy="constant", fill_value="missing")),
        (MODE, SimpleImputer(strategy="most_frequent")),
    ],
    ids=["level", "mode"],
)
def test_one_hot_features_equal_scikit_learns(rules, imputer):
    train = patients(0, 150)[["stage"]].astype(object).where(lambda frame: frame.notna(), np.nan)
    test = patients(1, 50, levels=("I", "III", "IV"))[["stage"]].astype(object).where(lambda f: f.notna(), np.nan)
    reference = make_pipeline(imputer, OneHotEncoder(handle_unknown="ignore", sparse_output=False)).fit(train)
    ours = ClinicalPreprocessor.fit(train, rules)
    np.testing.assert_array_equal(ours.transform(test), reference.transform(test))


def test_feature_names_say_covariate_and_level_in_the_order_of_the_columns():
    ours = ClinicalPreprocessor.fit(patients(0, 150))
    assert ours.feature_names == ("age", "crea", "stage=I", "stage=II", "stage=III", "stage=missing")
    assert ours.transform(patients(1, 20)).shape == (20, 6)


def test_training_z_scores_have_mean_zero_and_missing_values_sit_there():
    train = patients(0, 150)
    features = ClinicalPreprocessor.fit(train).transform(train)
    np.testing.assert_allclose(features[:, :2].mean(axis=0), 0, atol=1e-12)
    assert (features[train["age"].isna(), 0] == 0).all()


def test_level_that_training_never_saw_is_zero_in_every_feature():
    train = pd.DataFrame({"stage": ["I", "II", "I"]})
    ours = ClinicalPreprocessor.fit(train)
    np.testing.assert_array_equal(
        ours.transform(pd.DataFrame({"stage": ["III", None, "II"]})), [[0, 0], [0, 0], [0, 1]]
    )


def test_columns_and_levels_without_variance_are_dropped_and_named():
    train = pd.DataFrame(
        {
            "flat": [3.0, 3.0, np.nan],
            "empty": [np.nan] * 3,
            "age": [50.0, 60.0, 70.0],
            "same": ["x", "x", "x"],
            "none": pd.Series([None] * 3, dtype=object),
        }
    )
    ours = ClinicalPreprocessor.fit(train)
    assert ours.feature_names == ("age",)
    assert ours.dropped == ("flat", "empty", "same=x", "none=missing")


def test_two_levels_of_which_one_is_missing_are_both_kept():
    ours = ClinicalPreprocessor.fit(pd.DataFrame({"hpv": ["1", None, "1"]}))
    assert ours.feature_names == ("hpv=1", "hpv=missing")


def test_mode_of_equally_frequent_levels_is_the_first_by_name():
    ours = ClinicalPreprocessor.fit(pd.DataFrame({"s": ["b", "a", "b", "a", None]}), MODE)
    assert ours.categorical[0].fill == "a"


def test_booleans_are_categories_and_integers_are_continuous():
    ours = ClinicalPreprocessor.fit(pd.DataFrame({"smoker": [True, False, True], "n": [1, 2, 3]}))
    assert ours.feature_names == ("n", "smoker=False", "smoker=True")


def test_no_covariates_give_no_features():
    frame = pd.DataFrame(index=["a", "b"])
    ours = ClinicalPreprocessor.fit(frame)
    assert ours.transform(frame).shape == (2, 0)
    assert ours.feature_names == ()


def test_preprocessing_survives_json_to_the_last_bit():
    ours = ClinicalPreprocessor.fit(patients(0, 150))
    copy = ClinicalPreprocessor.from_dict(json.loads(json.dumps(ours.to_dict())))
    assert copy == ours
    np.testing.assert_array_equal(copy.transform(patients(2, 30)), ours.transform(patients(2, 30)))


def test_frame_without_a_fitted_covariate_is_refused():
    ours = ClinicalPreprocessor.fit(patients(0, 50))
    with pytest.raises(TableError, match="crea is not among age, stage"):
        ours.transform(patients(1, 5)[["age", "stage"]])


def test_unknown_rules_are_refused():
    with pytest.raises(ValidationError):
        PreprocessRules(continuous_missing="zero")


cells = st.tuples(
    st.one_of(st.none(), st.floats(-1e6, 1e6)), st.one_of(st.none(), st.sampled_from(["I", "II", "III", "IV"]))
)
tables = st.lists(cells, min_size=12, max_size=12)


def frame_of(rows):
    age, stage = zip(*rows, strict=True)
    return pd.DataFrame({"age": pd.Series(age, dtype=float), "stage": pd.Series(stage, dtype=object)})


@given(tables, st.lists(cells, min_size=4, max_size=4), st.sampled_from([PreprocessRules(), MODE]))
@UNHURRIED
def test_changing_test_patients_leaves_every_fitted_statistic_and_training_feature_unchanged(rows, others, rules):
    train, test = np.arange(8), np.arange(8, 12)
    before, after = frame_of(rows), frame_of(rows[:8] + others)
    one, two = (ClinicalPreprocessor.fit(frame.iloc[train], rules) for frame in (before, after))
    assert one.to_dict() == two.to_dict()
    np.testing.assert_array_equal(one.transform(before.iloc[train]), two.transform(after.iloc[train]))
    alone = np.concatenate([one.transform(after.iloc[[row]]) for row in test])
    np.testing.assert_array_equal(one.transform(after.iloc[test]), alone)
    assert np.isfinite(alone).all()
