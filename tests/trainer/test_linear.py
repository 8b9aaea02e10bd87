"""Linear models of a part: the penalty by an independent cross-validation, vectors, covariates, nothing from test patients."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv
from statsmodels.duration.hazard_regression import PHReg

from store_schema.errors import TaskError
from trainer.cox import RidgeCox
from trainer.judging import Asked, judge
from trainer.linear import PENALTY_PARTS, PENALTY_STREAM, choose_penalty, fit_linear
from trainer.metrics import harrell_c
from trainer.model_config import RidgeCoxModel
from trainer.stored_images import StoredImages

IMAGES = {"modalities": ["PET"], "roi": "spine"}
PENALTIES = (0.1, 3.0, 100.0)


def ridge(**settings):
    return RidgeCoxModel.model_validate({"name": "linear", "kind": "ridge_cox", **settings})


def radiomics(**settings):
    return ridge(view="radiomics", images=IMAGES, clinical=False, penalty="inner_cv", penalties=PENALTIES, **settings)


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(3)
    n = 120
    z, age = rng.normal(size=n), rng.normal(60, 10, n).round()
    onset, censored = rng.exponential(36 * np.exp(-z - 0.03 * (age - 60))), rng.uniform(6, 140, n)
    return pd.DataFrame(
        {
            "patient": [f"P{row:03d}" for row in range(n)],
            "age": age,
            "stage": rng.choice(["I", "II"], n),
            "months": np.ceil(np.minimum(onset, censored)),
            "event": (onset <= censored).astype(int),
            "z": z,
        }
    )


@pytest.fixture(scope="module")
def vectors(table):
    """Twelve features on scales of their own, three of which see z; one value in twenty is unknown."""
    rng = np.random.default_rng(4)
    values = rng.normal(size=(len(table), 12))
    values[:, :3] += table["z"].to_numpy()[:, None]
    values[rng.random(values.shape) < 0.05] = np.nan
    return {"PET": (values * 10.0 ** np.arange(-3, 9)).astype(np.float32)}


def prepared(values, rows):
    """Z-scores after median imputation, by pandas; no feature of these goes."""
    frame = pd.DataFrame(values.astype(np.float64))
    fit = frame.loc[rows]
    filled = frame.fillna(fit.median())
    return ((filled - filled.loc[rows].mean()) / filled.loc[rows].std(ddof=0)).to_numpy()


def test_the_penalty_is_that_of_the_largest_cross_validated_partial_likelihood(table, vectors, make_part):
    data = make_part(radiomics(), table, vectors)
    train = data.cohort.rows(data.fold.train)
    part = data.inner_parts(PENALTY_PARTS, purpose=PENALTY_STREAM)
    time, event = data.cohort.time, data.cohort.event
    criterion = np.zeros(len(PENALTIES))
    for number in range(PENALTY_PARTS):
        rest = train[part != number]
        x = prepared(vectors["PET"], rest)
        whole, without = (PHReg(time[r], x[r], status=event[r].astype(int), ties="efron") for r in (train, rest))
        for place, penalty in enumerate(PENALTIES):
            cox = CoxPHSurvivalAnalysis(alpha=penalty, ties="efron", tol=1e-10).fit(
                x[rest], Surv.from_arrays(event[rest], time[rest])
            )
            criterion[place] += whole.loglike(cox.coef_) - without.loglike(cox.coef_)
    assert np.diff(np.sort(criterion)).min() > 1e-3
    assert choose_penalty(radiomics(), data) == PENALTIES[int(np.argmax(criterion))]


def test_the_model_is_scikit_survivals_with_that_penalty_on_pruned_features(table, vectors, make_part):
    data = make_part(radiomics(), table, vectors)
    (judged,) = judge([Asked(radiomics(), 0, data)])
    train, test = (data.cohort.rows(patients) for patients in (data.fold.train, data.fold.test))
    x = prepared(vectors["PET"], train)
    outcome = Surv.from_arrays(data.cohort.event[train], data.cohort.time[train])
    theirs = CoxPHSurvivalAnalysis(alpha=judged.penalty, ties="efron").fit(x[train], outcome)
    np.testing.assert_allclose(judged.test_risk, theirs.predict(x[test]), atol=1e-6)
    assert tuple(judged.coefficients) == tuple(f"PET.{column}" for column in range(12)) == judged.selection.names
    assert judged.penalty in PENALTIES


def test_vectors_beside_covariates_are_named_and_each_is_prepared_in_its_own_way(table, vectors, make_part):
    model = radiomics().model_copy(update={"clinical": True, "penalty": 2.0})
    arrays = {"PET": vectors["PET"], "CT": vectors["PET"][:, ::-1]}
    data = make_part(model, table, {**arrays}, features=tuple("abcdefghijkl"))
    cox, selection = fit_linear(model, data)
    assert cox.feature_names[:3] == ("age", "stage=I", "stage=II")
    assert selection.names == tuple(f"PET.{letter}" for letter in "abcdefghijkl")
    assert [one.name for one in selection.dropped] == [f"CT.{letter}" for letter in "abcdefghijkl"]
    assert all("with PET." in one.reason for one in selection.dropped)


def test_a_clinical_model_is_as_before_and_has_no_selection(table, make_part):
    data = make_part(ridge(), table)
    (judged,) = judge([Asked(ridge(), 0, data)])
    time, event = data.outcome(data.fold.train)
    theirs = CoxPHSurvivalAnalysis(alpha=1.0, ties="efron").fit(
        data.clinical(data.fold.train), Surv.from_arrays(event, time)
    )
    np.testing.assert_allclose(judged.test_risk, theirs.predict(data.clinical(data.fold.test)), atol=1e-6)
    assert (judged.penalty, judged.selection, judged.alpha, judged.curves) == (1.0, None, None, None)


def test_radiomics_find_a_planted_signal_and_are_at_chance_on_permuted_outcomes(table, vectors, make_part):
    def held_out(permuted):
        data = make_part(radiomics(), table, vectors, permuted=permuted)
        (judged,) = judge([Asked(radiomics(), 0, data)])
        time, event = data.outcome(data.fold.test)
        return harrell_c(risk=judged.test_risk, time=time, event=event).c

    assert held_out(None) > 0.65
    assert 0.35 < np.mean([held_out(seed) for seed in range(4)]) < 0.65


def test_changing_test_patients_vectors_leaves_all_that_was_fitted_unchanged(table, vectors, make_part):
    data = make_part(radiomics(), table, vectors)
    spoiled = vectors["PET"].copy()
    spoiled[data.cohort.rows(data.fold.test)] = 1e30
    other = dataclasses.replace(data, images=StoredImages({"PET": spoiled}))
    before, after = judge([Asked(radiomics(), 0, one) for one in (data, other)])
    assert (before.coefficients, before.penalty, before.selection) == (
        after.coefficients,
        after.penalty,
        after.selection,
    )
    np.testing.assert_array_equal(before.train_risk, after.train_risk)


def test_more_features_than_patients_give_the_coefficients_that_a_fit_of_all_of_them_gives():
    rng = np.random.default_rng(6)
    features, time, event = rng.normal(size=(30, 75)), np.ceil(rng.exponential(20, 30)), rng.random(30) < 0.7
    ours = RidgeCox.fit(features, time=time, event=event, penalty=5.0)
    theirs = CoxPHSurvivalAnalysis(alpha=5.0, ties="efron").fit(features, Surv.from_arrays(event, time))
    np.testing.assert_allclose(ours.coefficients, theirs.coef_, atol=1e-6)


def test_a_penalty_that_does_not_converge_is_not_chosen_and_none_that_does_is_an_error(table, vectors, make_part):
    wild = {"PET": vectors["PET"]}
    hopeless = (1e-300, 1e-299)
    rules = {"selection": {"max_correlation": 1.0}}
    model = radiomics(**rules).model_copy(update={"penalties": (*hopeless, 10.0)})
    data = make_part(model, table, wild)
    assert choose_penalty(model, data) == 10.0
    constant = {"PET": np.ones((len(table), 4), dtype=np.float32)}
    (answer,) = judge([Asked(radiomics(), 0, make_part(radiomics(), table, constant))])
    assert isinstance(answer, TaskError)
    assert "none of the 4 features is left" in str(answer)
