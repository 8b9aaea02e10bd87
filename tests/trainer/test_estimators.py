"""Estimators for notebooks: scikit-learn's conventions, scikit-survival's numbers."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sksurv.datasets import load_veterans_lung_cancer
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import (
    as_concordance_index_ipcw_scorer,
    as_integrated_brier_score_scorer,
    concordance_index_censored,
    concordance_index_ipcw,
)
from sksurv.util import Surv

from store_schema.errors import CohortError, ConfigError, UsageError
from trainer.estimators import NetworkEstimator, RidgeCoxEstimator


@pytest.fixture(scope="module")
def veteran():
    x, y = load_veterans_lung_cancer()
    return x, y


def planted(n=160, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    maps = rng.normal(size=(n, 1, 8, 8)).astype(np.float32)
    maps[:, :, 2:5, 3:6] += z[:, None, None, None].astype(np.float32)
    time = rng.exponential(size=n) * np.exp(-1.5 * z) + 0.01
    return maps, Surv.from_arrays(rng.random(n) < 0.8, time)


def test_ridge_cox_is_scikit_survivals_on_standardised_covariates(veteran):
    x, y = veteran
    numbers = x[["Age_in_years", "Karnofsky_score", "Months_from_Diagnosis"]].astype(float)
    ours = RidgeCoxEstimator(penalty=2.0).fit(numbers, y)
    standard = (numbers - numbers.mean()) / numbers.std(ddof=0)
    theirs = CoxPHSurvivalAnalysis(alpha=2.0, ties="efron").fit(standard, y)
    np.testing.assert_allclose(ours.trained_.fitted.coefficients, theirs.coef_, atol=1e-6)
    expected = concordance_index_censored(y["Status"], y["Survival_in_days"], theirs.predict(standard))[0]
    assert ours.score(numbers, y) == pytest.approx(expected, abs=1e-9)


def test_curves_are_scikit_survivals_with_breslows_ties(veteran):
    x, y = veteran
    numbers = x[["Age_in_years", "Karnofsky_score"]].astype(float)
    ours = RidgeCoxEstimator(penalty=1.0, ties="breslow").fit(numbers, y)
    standard = (numbers - numbers.mean()) / numbers.std(ddof=0)
    theirs = CoxPHSurvivalAnalysis(alpha=1.0, ties="breslow").fit(standard, y)
    np.testing.assert_array_equal(ours.unique_times_, theirs.unique_times_)
    for name in ("predict_survival_function", "predict_cumulative_hazard_function"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        expected = other(standard, return_array=True)
        np.testing.assert_allclose(mine(numbers, return_array=True), expected, atol=1e-6)
        for curve, values in zip(mine(numbers), expected, strict=True):
            np.testing.assert_allclose(curve(ours.unique_times_), values, atol=1e-6)


def test_curves_start_at_time_0_and_reach_to_the_end_of_follow_up():
    x, time, event = np.arange(6.0)[:, np.newaxis], np.array([5.0, 4, 3, 2, 8, 9]), np.array([1, 1, 1, 1, 0, 0], bool)
    fitted = RidgeCoxEstimator().fit(x, Surv.from_arrays(event, time))
    survival, hazard = fitted.predict_survival_function(x)[0], fitted.predict_cumulative_hazard_function(x)[0]
    assert survival.domain == hazard.domain == (0, 9)
    np.testing.assert_array_equal((survival([0, 1.9]), hazard([0, 1.9])), ([1, 1], [0, 0]))
    assert 1 > survival(2) > survival(5) == survival(9) > 0
    assert survival(9) == pytest.approx(np.exp(-hazard(9)))
    with pytest.raises(ValueError, match="within"):
        survival(9.1)


def test_categories_and_missing_values_are_taken_as_they_come(veteran):
    x, y = veteran
    gaps = x.copy()
    gaps.loc[:10, "Age_in_years"] = np.nan
    assert 0.65 < RidgeCoxEstimator().fit(gaps, y).score(gaps, y) < 0.78


def test_scikit_learn_clones_searches_and_cross_validates(veteran):
    x, y = veteran
    assert clone(RidgeCoxEstimator(penalty=3.0)).get_params() == {"penalty": 3.0, "ties": "efron"}
    search = GridSearchCV(RidgeCoxEstimator(), {"penalty": [1.0, 100.0]}, cv=3).fit(x, y)
    assert search.best_params_["penalty"] in (1.0, 100.0)
    assert 0.6 < cross_val_score(RidgeCoxEstimator(penalty=10.0), x, y, cv=3).mean() < 0.8


def test_scikit_survivals_scorers_and_a_pipeline_take_it(veteran):
    x, y = veteran
    numbers, times = x[["Age_in_years", "Karnofsky_score"]].astype(float), np.arange(10, 500, 10)
    # unscaled, and scaled before: the model scales by itself, so that nothing may change
    piped = make_pipeline(StandardScaler(), RidgeCoxEstimator()).fit(numbers, y)
    alone = RidgeCoxEstimator().fit(numbers, y)
    np.testing.assert_allclose(piped.predict(numbers), alone.predict(numbers), atol=1e-9)
    curves = (one.predict_survival_function(numbers, return_array=True) for one in (piped, alone))
    np.testing.assert_allclose(*curves, atol=1e-9)
    uno = as_concordance_index_ipcw_scorer(RidgeCoxEstimator(), tau=300).fit(numbers, y).score(numbers, y)
    assert uno == pytest.approx(concordance_index_ipcw(y, y, alone.predict(numbers), tau=300)[0])
    brier = as_integrated_brier_score_scorer(RidgeCoxEstimator(), times=times).fit(numbers, y)
    assert -0.2 < brier.score(numbers, y) < -0.05


def test_permutation_importance_finds_the_covariate_that_matters(veteran):
    x, y = veteran
    numbers = x[["Months_from_Diagnosis", "Karnofsky_score"]].astype(float)
    found = permutation_importance(RidgeCoxEstimator().fit(numbers, y), numbers, y, n_repeats=3, random_state=0)
    assert found.importances_mean[1] > 0.1 > found.importances_mean[0]


def test_a_penalty_chosen_inside_the_training_part_gives_the_model_of_that_penalty(veteran):
    x, y = veteran
    chosen = RidgeCoxEstimator(penalty="inner_cv").fit(x, y)
    again = RidgeCoxEstimator(penalty=chosen.trained_.fitted.penalty).fit(x, y)
    np.testing.assert_array_equal(chosen.predict(x), again.predict(x))


def test_parameters_are_set_after_cloning_and_a_fitted_model_is_pickled(veteran):
    x, y = veteran
    first = RidgeCoxEstimator().fit(x, y)
    other = clone(first).set_params(penalty=50.0)
    with pytest.raises(NotFittedError):
        other.predict_survival_function(x)
    with pytest.raises(ValueError, match="Invalid parameter 'alpha'"):
        other.set_params(alpha=1.0)
    np.testing.assert_array_equal(other.fit(x, y).predict(x), RidgeCoxEstimator(penalty=50.0).fit(x, y).predict(x))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(first)).predict(x), first.predict(x))


def test_features_are_counted_and_those_of_a_frame_named(veteran):
    x, y = veteran
    fitted = RidgeCoxEstimator().fit(x, y)
    assert fitted.n_features_in_ == 6
    assert fitted.feature_names_in_.tolist() == x.columns.tolist()
    fitted.fit(x[["Age_in_years"]].to_numpy(), y)
    assert fitted.n_features_in_ == 1
    assert not hasattr(fitted, "feature_names_in_")


def test_reordered_columns_and_columns_named_by_numbers_give_the_same_risks(veteran):
    x, y = veteran
    fitted = RidgeCoxEstimator().fit(x, y)
    np.testing.assert_array_equal(fitted.predict(x[x.columns[::-1]]), fitted.predict(x))
    numbered = x.set_axis(range(x.shape[1]), axis=1)
    np.testing.assert_array_equal(RidgeCoxEstimator().fit(numbered, y).predict(numbered), fitted.predict(x))


def test_an_array_gives_the_risks_of_a_frame_of_its_numbers(veteran):
    x, y = veteran
    numbers = x[["Age_in_years", "Karnofsky_score"]].astype(float)
    array = RidgeCoxEstimator().fit(numbers.to_numpy(), y).predict(numbers.to_numpy())
    np.testing.assert_array_equal(array, RidgeCoxEstimator().fit(numbers, y).predict(numbers))


def test_one_patient_whose_value_is_not_known_is_predicted(veteran):
    x, y = veteran
    fitted = RidgeCoxEstimator().fit(x, y)
    alone = pd.DataFrame([x.iloc[0].to_dict() | {"Age_in_years": None}])
    alone = alone.astype({"Karnofsky_score": float, "Months_from_Diagnosis": float})
    typical = alone.assign(Age_in_years=x.Age_in_years.mean())
    assert fitted.predict(alone) == pytest.approx(fitted.predict(typical))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x.drop(columns="Celltype"), "missing: Celltype"),
        (lambda x: x.assign(more=1.0), "new: more"),
        (lambda x: x.rename(columns={"Celltype": "celltype"}), "missing: Celltype; new: celltype"),
        (lambda x: x.assign(old=x.old.astype(int)), "old: numbers in the fit and categories here, or the reverse"),
        (lambda x: x.assign(Age_in_years=x.Age_in_years.astype(str)), "Age_in_years: numbers in the fit"),
        (lambda x: x.assign(Age_in_years=np.inf), "Age_in_years holds infinite numbers"),
        (lambda x: x.assign(Age_in_years=x.Age_in_years.astype(object)), r"astype\(float\)"),
        (lambda x: x[["Age_in_years"]].to_numpy(), "as a frame, as in the fit, got an array"),
        (
            lambda x: {"clinical": x, "PET": np.zeros((len(x), 1, 8, 8))},
            r"images of the fit, in any order \(new: PET\)",
        ),
        (lambda x: x.iloc[:0], "at least one"),
    ],
)
def test_other_covariates_than_those_of_the_fit_are_refused(veteran, change, told):
    x, y = veteran
    x = x.assign(old=x.Age_in_years > 60)
    fitted = RidgeCoxEstimator().fit(x, y)
    with pytest.raises(UsageError, match=told):
        fitted.predict(change(x))


@pytest.mark.parametrize("columns", [[0], [0, 1, 2]])
def test_an_array_of_another_width_is_refused(veteran, columns):
    x, y = veteran
    numbers = x[["Age_in_years", "Karnofsky_score", "Months_from_Diagnosis"]].to_numpy(dtype=float)
    fitted = RidgeCoxEstimator().fit(numbers[:, :2], y)
    with pytest.raises(UsageError, match=r"missing: x1|new: x2"):
        fitted.predict(numbers[:, columns])


def test_other_images_than_those_of_the_fit_are_refused():
    maps, y = planted(80)
    clinical = pd.DataFrame({"age": np.linspace(40, 80, len(y))})
    fitted = NetworkEstimator(hidden=(4,), epochs=2).fit({"PET": maps, "clinical": clinical}, y)
    both = {"CT": maps, "PET": maps, "clinical": clinical}
    for given, told in (
        (both, "new: CT"),
        ({"PET": maps}, "missing: age"),
        (clinical, "missing: PET"),
        ({"PET": maps[:, :, :4], "clinical": clinical}, "pixels"),
    ):
        with pytest.raises(UsageError, match=told):
            fitted.predict(given)


def test_no_covariates_may_be_given_as_none_and_modalities_in_any_order():
    maps, y = planted(80)
    noise = np.random.default_rng(1).normal(size=maps.shape)
    settings = {"hidden": (4,), "epochs": 2}
    fitted = NetworkEstimator(**settings).fit({"PET": maps, "CT": noise, "clinical": None}, y)
    swapped = fitted.predict({"CT": noise, "PET": maps})
    np.testing.assert_array_equal(swapped, fitted.predict({"PET": maps, "CT": noise}))


@pytest.mark.parametrize(
    ("estimator", "told"),
    [
        (RidgeCoxEstimator(penalty=0), r"RidgeCoxEstimator: penalty: .*greater than 0, got 0"),
        (RidgeCoxEstimator(ties="exact"), "ties: .*'efron' or 'breslow'"),
        (NetworkEstimator(hidden=8), "hidden: .*got 8"),
        (NetworkEstimator(epochs=0), "epochs: .*greater than or equal to 1"),
        (NetworkEstimator(seed=None), "seed: expected a whole number from 0, got None"),
    ],
)
def test_parameters_out_of_range_are_told_by_name(veteran, estimator, told):
    x, y = veteran
    with pytest.raises(ConfigError, match=told):
        estimator.fit(x, y)


def test_a_modality_that_cannot_be_a_name_is_told():
    maps, y = planted(60)
    with pytest.raises(ConfigError, match="'P/T' is not a modality"):
        NetworkEstimator().fit({"P/T": maps}, y)


def test_scikit_learns_tools_report_a_wrong_parameter_of_a_grid(veteran):
    x, y = veteran
    search = GridSearchCV(RidgeCoxEstimator(), {"penalty": [-1.0]}, cv=KFold(2), error_score="raise")
    with pytest.raises(ConfigError, match="penalty"):
        search.fit(x, y)


def test_outcomes_of_any_names_and_number_types_are_scored_alike(veteran):
    x, y = veteran
    fitted = RidgeCoxEstimator().fit(x, y)
    rows = list(zip(y["Status"], y["Survival_in_days"], strict=True))
    for kind in ("f4", "i8", "u2"):
        other = np.array(rows, dtype=[("progressed", bool), ("months", kind)])
        assert fitted.score(x, other) == pytest.approx(fitted.score(x, y), abs=1e-12)


@pytest.mark.parametrize(
    ("dtype", "change"),
    [
        ([("time", float), ("event", bool)], lambda event, time: (time, event)),
        ([("event", int), ("time", float)], lambda event, time: (event, time)),
        ([("event", bool), ("time", bool)], lambda event, time: (event, time > 100)),
        ([("event", bool), ("time", "U8")], lambda event, time: (event, time)),
    ],
)
def test_an_outcome_whose_fields_are_not_event_and_time_is_refused_by_its_fields(veteran, dtype, change):
    x, y = veteran
    columns = change(y["Status"], y["Survival_in_days"])
    wrong = np.array(list(zip(*columns, strict=True)), dtype=dtype)
    with pytest.raises(UsageError, match=f"got {dtype[0][0]}: "):
        RidgeCoxEstimator().fit(x, wrong)


@pytest.mark.parametrize("time", [np.nan, np.inf, 0.0, -3.0])
def test_a_time_that_is_not_above_0_is_told_by_its_row(veteran, time):
    x, y = veteran
    y = y.copy()
    y["Survival_in_days"][7] = time
    with pytest.raises(CohortError, match="1 of 137 times are not above 0, the first in row 7"):
        RidgeCoxEstimator().fit(x, y)


def test_a_network_finds_a_planted_image_and_the_same_seed_gives_the_same_model():
    maps, y = planted()
    settings = {"hidden": (8,), "epochs": 30, "learning_rate": 0.01, "seed": 3}
    first, again = (NetworkEstimator(**settings).fit({"PET": maps[:110]}, y[:110]) for _ in range(2))
    np.testing.assert_array_equal(first.predict({"PET": maps}), again.predict({"PET": maps}))
    assert first.score({"PET": maps[110:]}, y[110:]) > 0.7
    assert len(first.predict_survival_function({"PET": maps[:4]})) == 4


def test_images_and_covariates_together():
    maps, y = planted()
    clinical = pd.DataFrame({"age": np.linspace(40, 80, len(y)), "sex": ["f", "m"] * (len(y) // 2)})
    fitted = NetworkEstimator(hidden=(4,), epochs=3).fit({"PET": maps, "clinical": clinical}, y)
    assert fitted.predict({"PET": maps, "clinical": clinical}).shape == (len(y),)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x, y: (x, y["Survival_in_days"]), "structured array"),
        (lambda x, y: (x[:-1], y), "one row of X per patient"),
        (lambda x, y: ({"PET": np.zeros((3, 1, 8, 8)), "clinical": x}, y), "as many rows"),
        (lambda x, y: ({"PET": np.zeros((len(x), 1, 8, 8))}, y), "reads covariates alone"),
        (lambda x, y: (np.zeros(len(x)), y), r"\(patient, feature\)"),
        (lambda x, y: (OneHotEncoder().fit_transform(x[["Celltype"]]), y), "sparse"),
        (lambda x, y: (x.to_numpy(), y), "give categories in a pandas frame"),
        (lambda x, y: (pd.concat([x, x["Celltype"]], axis=1), y), "Celltype: expected every column once"),
        (lambda x, y: (x.assign(Age_in_years=x.Age_in_years.astype(object)), y), "holds cells of kind floating"),
        (
            lambda x, y: (x.assign(seen=pd.date_range("2020-01-01", periods=len(x))), y),
            "holds cells of kind datetime64",
        ),
        (lambda x, y: (x.replace(60, np.inf), y), "infinite"),
    ],
)
def test_what_does_not_fit_together_is_refused(veteran, change, told):
    x, y = change(*veteran)
    with pytest.raises(UsageError, match=told):
        RidgeCoxEstimator().fit(x, y)
