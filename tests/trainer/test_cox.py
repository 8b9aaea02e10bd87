"""Ridge Cox and Breslow's baseline against scikit-survival, statsmodels and scikit-learn's preprocessing."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sksurv.datasets import load_gbsg2, load_whas500
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.linear_model.coxph import BreslowEstimator
from sksurv.metrics import concordance_index_censored
from sksurv.util import Surv
from statsmodels.duration.hazard_regression import PHReg

from store_schema.errors import CohortError, ConfigError, TaskError, UsageError
from trainer.baseline_hazard import BreslowBaseline
from trainer.cohort import Cohort, build_cohort
from trainer.columns import Columns
from trainer.cox import RidgeCox
from trainer.metrics import harrell_c
from trainer.preprocess import ClinicalPreprocessor
from trainer.splits import make_splits

GBSG2 = Columns(
    time="time", time_unit="days", event="cens",
    continuous=("age", "estrec", "pnodes", "progrec", "tsize"), categorical=("horTh", "menostat", "tgrade"),
)  # fmt: skip
WHAS500 = Columns(
    time="lenfol", time_unit="days", event="fstat",
    continuous=("age", "bmi", "diasbp", "hr", "los", "sysbp"),
    categorical=("afb", "av3", "chf", "cvd", "gender", "miord", "mitype", "sho"),
)  # fmt: skip
HN300 = Columns(
    time="death_days", time_unit="days", event="death_event",
    continuous=("age",), categorical=("T", "N", "HPV"), centre="centre",
)  # fmt: skip
SETS = {"gbsg2": GBSG2, "whas500": WHAS500, "hn300": HN300}


def raw_table(name) -> pd.DataFrame:
    """Table as published, with a patient column; 10% of the covariates of the complete sets are emptied."""
    if name == "hn300":
        if "ENGRAM_REAL_DATA" not in os.environ:
            pytest.skip("ENGRAM_REAL_DATA names no folder of real data")
        table = pd.read_csv(Path(os.environ["ENGRAM_REAL_DATA"]) / "hn300" / "hn_study_clinical_survival.csv")
        table.insert(0, "patient", table["centre"] + "-" + table["idx"].astype(str))
        return table
    x, y = {"gbsg2": load_gbsg2, "whas500": load_whas500}[name]()
    x = x.astype(dict.fromkeys(x.select_dtypes("category"), object))
    x = x.mask(np.random.default_rng(0).random(x.shape) < 0.1)
    outcome = {field: y[field].astype(float) for field in y.dtype.names}
    return x.assign(**outcome, patient=[f"{name}-{row:03d}" for row in range(len(x))])


def independent_c(table: pd.DataFrame, columns: Columns, test: set[str]) -> float:
    """Fold's c-index by scikit-learn and scikit-survival alone; shares nothing with the trainer but the split."""
    held_out = table["patient"].isin(test).to_numpy()
    covariates = table[[*columns.continuous, *columns.categorical]].copy()
    labels = list(columns.categorical)
    covariates[labels] = covariates[labels].map(lambda cell: "missing" if pd.isna(cell) else str(cell))
    encode = make_column_transformer(
        (make_pipeline(StandardScaler(), SimpleImputer()), list(columns.continuous)),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), labels),
    )
    outcome = Surv.from_arrays(table[columns.event].astype(bool), table[columns.time].astype(float))
    cox = CoxPHSurvivalAnalysis(alpha=1.0, ties="efron")
    cox.fit(encode.fit_transform(covariates[~held_out]), outcome[~held_out])
    risk = cox.predict(encode.transform(covariates[held_out]))
    return concordance_index_censored(outcome["event"][held_out], outcome["time"][held_out], risk)[0]


def our_c(cohort: Cohort, train, test) -> float:
    preprocess = ClinicalPreprocessor.fit(cohort.frame.loc[list(train)])
    rows, held_out = cohort.rows(train), cohort.rows(test)
    features = preprocess.transform(cohort.frame.loc[list(train)])
    cox = RidgeCox.fit(features, time=cohort.time[rows], event=cohort.event[rows], penalty=1.0)
    risk = cox.predict(preprocess.transform(cohort.frame.loc[list(test)]))
    return harrell_c(risk=risk, time=cohort.time[held_out], event=cohort.event[held_out]).c


@pytest.mark.parametrize("name", ["gbsg2", "whas500", pytest.param("hn300", marks=pytest.mark.real)])
def test_ridge_cox_on_real_patients_gives_the_c_index_of_scikit_survival_fold_for_fold(name, tmp_path):
    table, columns = raw_table(name), SETS[name]
    table.to_csv(tmp_path / "clinical.csv", index=False)
    cohort = build_cohort(tmp_path / "clinical.csv", columns, {})
    assert len(cohort) == len(table)
    splits = make_splits(cohort, folds=5, seed=0, repeats=2)
    ours = [our_c(cohort, fold.train, fold.test) for fold in splits.outer()]
    theirs = [independent_c(table, columns, set(fold.test)) for fold in splits.outer()]
    np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=0)
    # these tables carry signal: a sign or a column gone wrong would show here
    assert 0.62 < np.mean(ours) < 0.82


@pytest.mark.real
def test_ridge_cox_leaving_one_centre_out_gives_the_c_index_of_scikit_survival():
    table = raw_table("hn300")
    cohort = build_cohort(table, HN300, {})
    splits = make_splits(cohort, folds=4, seed=0, by_centre=True)
    assert len({cohort.centre[cohort.rows(fold.test)[0]] for fold in splits.outer()}) == 4
    ours = [our_c(cohort, fold.train, fold.test) for fold in splits.outer()]
    theirs = [independent_c(table, HN300, set(fold.test)) for fold in splits.outer()]
    np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=0)


def simulated(seed=0, n=160, *, months=True):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 4))
    onset = rng.exponential(24 * np.exp(-features @ [0.8, -0.5, 0.0, 0.3]))
    end = rng.uniform(3, 80, n)
    time = np.minimum(onset, end)
    return features, np.ceil(time) if months else time, onset <= end


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_coefficients_maximise_statsmodels_penalised_partial_likelihood(ties):
    features, time, event = simulated()
    likelihood = PHReg(time, features, status=event.astype(int), ties=ties)
    penalty = 3.0
    best = minimize(
        lambda beta: -likelihood.loglike(beta) + penalty / 2 * beta @ beta,
        np.zeros(4),
        jac=lambda beta: -likelihood.score(beta) + penalty * beta,
        tol=1e-10,
    )
    ours = RidgeCox.fit(features, time=time, event=event, penalty=penalty, ties=ties)
    np.testing.assert_allclose(ours.coefficients, best.x, atol=1e-5)
    gradient = likelihood.score(np.array(ours.coefficients)) - penalty * np.array(ours.coefficients)
    assert np.abs(gradient).max() < 1e-5


def test_survival_curves_equal_scikit_survivals():
    features, time, event = simulated()
    ours = RidgeCox.fit(features, time=time, event=event, penalty=2.0)
    theirs = CoxPHSurvivalAnalysis(alpha=2.0, ties="efron").fit(features, Surv.from_arrays(event, time))
    others, _, _ = simulated(1, 20)
    times = np.array([1.0, 2.5, 6.0, 12.0, 24.0, 40.0])
    expected = np.stack([curve(times) for curve in theirs.predict_survival_function(others)])
    np.testing.assert_allclose(ours.predict_survival(others, times), expected, atol=1e-9)


def test_breslow_baseline_equals_scikit_survivals_for_risks_of_any_model():
    _, time, event = simulated(2)
    risk = np.random.default_rng(2).normal(size=len(time))
    ours = BreslowBaseline.fit(risk=risk, time=time, event=event)
    theirs = BreslowEstimator().fit(risk, event, time)
    times = theirs.unique_times_
    expected = np.stack([curve(times) for curve in theirs.get_survival_function(risk[:10])])
    np.testing.assert_allclose(ours.survival(risk[:10], times), expected, atol=1e-9)


def test_survival_depends_on_no_shift_of_risks_however_far():
    _, time, event = simulated(3)
    risk = np.random.default_rng(3).normal(size=len(time))
    times = np.array([6.0, 24.0])
    near, far = (BreslowBaseline.fit(risk=risk + shift, time=time, event=event) for shift in (0.0, 900.0))
    np.testing.assert_allclose(far.survival(risk + 900.0, times), near.survival(risk, times), atol=1e-9)


def test_survival_is_one_before_the_first_event_and_falls_with_time_and_risk():
    features, time, event = simulated(4)
    model = RidgeCox.fit(features, time=time, event=event)
    times = np.linspace(0, 100, 50)
    curves = model.predict_survival(features, times)
    assert (curves[:, 0] == 1).all()
    assert (np.diff(curves, axis=1) <= 0).all()
    order = np.argsort(model.predict(features))
    assert (np.diff(curves[order], axis=0) <= 1e-12).all()


def test_equal_patients_have_equal_risks_wherever_they_stand():
    features, time, event = simulated(5, 301)
    model = RidgeCox.fit(features, time=time, event=event)
    same = np.repeat(features[:1], 301, axis=0)
    assert len(set(model.predict(same).tolist())) == 1
    alone = np.concatenate([model.predict(features[[row]]) for row in range(301)])
    np.testing.assert_array_equal(model.predict(features), alone)
    np.testing.assert_array_equal(model.predict(np.asfortranarray(features)), alone)


def test_model_survives_json_to_the_last_bit():
    features, time, event = simulated(6)
    model = RidgeCox.fit(features, time=time, event=event, feature_names=("a", "b", "c", "d"))
    copy = RidgeCox.from_dict(json.loads(json.dumps(model.to_dict())))
    assert copy == model
    np.testing.assert_array_equal(copy.predict(features), model.predict(features))


def test_changing_test_patients_changes_no_fitted_number_of_a_fold():
    table = pd.DataFrame(
        {
            "patient": [f"P{row:03d}" for row in range(120)],
            "t": simulated(7, 120)[1],
            "e": simulated(7, 120)[2].astype(int),
            "x": simulated(7, 120)[0][:, 0],
            "g": np.where(simulated(7, 120)[0][:, 1] > 0, "a", "b"),
        }
    )
    columns = Columns(time="t", time_unit="months", event="e", continuous=("x",), categorical=("g",))
    fold = make_splits(build_cohort(table, columns, {}), seed=0).fold(0)
    test = table["patient"].isin(fold.test)
    spoiled = table.copy()
    spoiled.loc[test, "x"] = 1e6
    spoiled.loc[test, "g"] = "c"
    spoiled.loc[test, "t"] = 500.0
    fitted = []
    for version in (table, spoiled):
        cohort = build_cohort(version, columns, {})
        frame, rows = cohort.frame.loc[list(fold.train)], cohort.rows(fold.train)
        preprocess = ClinicalPreprocessor.fit(frame)
        model = RidgeCox.fit(preprocess.transform(frame), time=cohort.time[rows], event=cohort.event[rows])
        fitted.append((preprocess.to_dict(), model.to_dict()))
    assert fitted[0] == fitted[1]


def test_what_cannot_be_fitted_is_refused_with_its_reason():
    features, time, event = simulated(8, 30)
    with pytest.raises(CohortError, match="30 patients have none"):
        RidgeCox.fit(features, time=time, event=np.zeros(30, dtype=bool))
    with pytest.raises(CohortError, match="no declared covariate varies"):
        RidgeCox.fit(features[:, :0], time=time, event=event)
    with pytest.raises(ConfigError, match="must be > 0, got 0"):
        RidgeCox.fit(features, time=time, event=event, penalty=0)
    with pytest.raises(UsageError, match="impute missing values first"):
        RidgeCox.fit(np.where(features > 1, np.nan, features), time=time, event=event)
    with pytest.raises(UsageError, match="one name per feature, got 1 for 4"):
        RidgeCox.fit(features, time=time, event=event, feature_names=("a",))
    with pytest.raises(UsageError, match="expected 4 features, got 3"):
        RidgeCox.fit(features, time=time, event=event).predict(features[:, :3])
    with pytest.raises(TaskError, match=r"standardise the features or raise the penalty"):
        RidgeCox.fit(features * 1e200, time=time, event=event, penalty=1e-300)


def test_baseline_without_events_or_with_risks_that_are_not_finite_is_refused():
    with pytest.raises(CohortError, match="2 patients have none"):
        BreslowBaseline.fit(risk=np.zeros(2), time=np.ones(2), event=np.zeros(2, dtype=bool))
    with pytest.raises(TaskError, match="1 of 2 risks are not finite"):
        BreslowBaseline.fit(risk=np.array([0, np.nan]), time=np.ones(2), event=np.ones(2, dtype=bool))
