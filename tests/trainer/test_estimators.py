"""Estimators for notebooks: scikit-learn's conventions, scikit-survival's numbers."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sksurv.datasets import load_veterans_lung_cancer
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import concordance_index_censored
from sksurv.util import Surv

from store_schema.errors import UsageError
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
    ],
)
def test_what_does_not_fit_together_is_refused(veteran, change, told):
    x, y = change(*veteran)
    with pytest.raises(UsageError, match=told):
        RidgeCoxEstimator().fit(x, y)
