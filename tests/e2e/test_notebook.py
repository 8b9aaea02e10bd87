"""The example notebook runs as it stands there, and its numbers are those of scikit-learn and scikit-survival alone.

Run as a script it executes the notebook's cells in one namespace and writes what they left: `python test_notebook.py OUT`.
"""

import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import concordance_index_censored, concordance_index_ipcw, integrated_brier_score
from sksurv.nonparametric import kaplan_meier_estimator

from store_schema import EntryKey, open_store
from trainer.estimators import NetworkEstimator, RidgeCoxEstimator
from trainer.final import fit_final
from trainer.predicting import Newcomers, predict

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "estimators.ipynb"
KEPT = (
    *("X", "y", "X_train", "X_test", "y_train", "y_test", "models", "scores"),
    *("fold_c", "contrast", "best_c", "nested_c"),
    *("uptake", "clinical", "outcome", "folder", "view", "maps", "embedding_c", "permuted_c", "band"),
    *("tau", "times", "measured", "calibrated", "ratios"),
)
"""Names of the notebook whose values are looked at."""


def cells(kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == kind]


def execute(out: str) -> None:
    """Every code cell in order, as a kernel does it."""
    namespace, start = {"__name__": "__main__"}, time.process_time()
    for number, source in enumerate(cells("code")):
        exec(compile(source, f"<code cell {number}>", "exec"), namespace)
    left = {name: namespace[name] for name in KEPT} | {"cpu_s": time.process_time() - start, "figures": figures()}
    Path(out).write_bytes(pickle.dumps(left))


def figures() -> list[list[str]]:
    """Labels of the lines of each figure that is open."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - only the script draws

    drawn = [plt.figure(number) for number in plt.get_fignums()]
    return [[text.get_text() for text in one.axes[0].get_legend().get_texts()] for one in drawn]


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> SimpleNamespace:
    """What the notebook left, run in a process of its own in an empty folder."""
    place, beside = tmp_path_factory.mktemp("notebook"), tmp_path_factory.mktemp("beside")
    environment = os.environ | {"MPLBACKEND": "Agg", "TMPDIR": str(beside), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", __file__, str(beside / "left.pickle")]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    left = SimpleNamespace(**pickle.loads((beside / "left.pickle").read_bytes()))
    assert not list(place.iterdir()), "it writes beside itself"
    return left


def reference(alpha: float):
    """Ridge Cox of scikit-survival, prepared by scikit-learn."""
    prepared = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include=np.number)),
        (
            OneHotEncoder(sparse_output=False, handle_unknown="ignore"),
            make_column_selector(dtype_exclude=np.number),
        ),
        verbose_feature_names_out=False,
    )
    return make_pipeline(prepared, CoxPHSurvivalAnalysis(alpha=alpha, ties="efron"))


def c_of(risk, y) -> float:
    event, months = (y[name] for name in y.dtype.names)
    return concordance_index_censored(event, months, risk, tied_tol=0)[0]


def test_the_notebook_is_small_neutral_and_without_outputs():
    text = NOTEBOOK.read_text()
    held = json.loads(text)
    assert (held["nbformat"], held["metadata"]) == (4, {"language_info": {"name": "python"}})
    assert len(held["cells"]) <= 25
    assert len(text) < 30_000
    assert len({cell["id"] for cell in held["cells"]}) == len(held["cells"])
    for cell in held["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    if importlib.util.find_spec("nbformat"):
        importlib.import_module("nbformat").validate(held)


def test_the_notebook_names_no_absolute_path_and_the_readme_names_it():
    for source in (*cells("code"), *cells("markdown")):
        assert not re.search(r"""(^|[\s"'(`])(/\w|~/|[A-Za-z]:\\)""", source), source
    assert NOTEBOOK.relative_to(ROOT).as_posix() in (ROOT / "README.md").read_text()


def test_it_is_short_and_draws_two_figures(ran):
    # about half a minute of a core that is its own; one that others crowd counts waiting for memory too
    assert ran.cpu_s < 90
    curves = [f"{percent}th percentile of risk" for percent in (10, 50, 90)]
    assert ran.figures == [curves, ["ridge Cox", "DeepSurv"]]


def test_ridge_cox_is_scikit_survivals(ran):
    theirs = reference(10).fit(ran.X_train, ran.y_train)
    prepared, cox = theirs[0], theirs[-1]
    ours = ran.models["ridge Cox"].trained_.coefficients
    names = [name if name in ran.X else name.replace("_", "=", 1) for name in prepared.get_feature_names_out()]
    assert set(names) == set(ours)
    np.testing.assert_allclose([ours[name] for name in names], cox.coef_, atol=1e-6)
    for part, x, y in (("apparent", ran.X_train, ran.y_train), ("test", ran.X_test, ran.y_test)):
        assert ran.scores.loc["ridge Cox", part] == pytest.approx(c_of(theirs.predict(x), y), abs=1e-6)
    curves = ran.models["ridge Cox"].predict_survival_function(ran.X_test, return_array=True)
    expected = theirs.predict_survival_function(ran.X_test, return_array=True)
    # Breslow's baseline of Efron's coefficients, as theirs
    np.testing.assert_allclose(curves, expected, atol=1e-6)


def test_deepsurv_learned_and_its_score_is_scikit_survivals_concordance(ran):
    risk = ran.models["DeepSurv"].predict(ran.X_test)
    assert ran.scores.loc["DeepSurv", "test"] == pytest.approx(c_of(risk, ran.y_test), abs=1e-12)
    assert ran.scores.loc["DeepSurv", "apparent"] > ran.scores.loc["DeepSurv", "test"] > 0.6


def test_cross_validation_nested_and_not_is_scikit_learns_of_scikit_survivals_model(ran):
    folds = KFold(5, shuffle=True, random_state=0)
    np.testing.assert_allclose(
        ran.fold_c["ridge Cox"], cross_val_score(reference(10), ran.X, ran.y, cv=folds), atol=1e-6
    )
    grid = {"coxphsurvivalanalysis__alpha": [1, 10, 100, 1000]}
    search = GridSearchCV(reference(1), grid, cv=KFold(3, shuffle=True, random_state=1))
    np.testing.assert_allclose(ran.nested_c, cross_val_score(search, ran.X, ran.y, cv=folds), atol=1e-6)
    best = GridSearchCV(reference(1), grid, cv=folds).fit(ran.X, ran.y).best_score_
    assert ran.best_c == pytest.approx(best, abs=1e-6)
    assert ran.best_c > ran.nested_c.mean()
    differences = ran.fold_c["DeepSurv"] - ran.fold_c["ridge Cox"]
    assert ran.contrast.mean == pytest.approx(differences.mean())
    # t of 4 degrees of freedom, the variance by Nadeau and Bengio
    half = 2.776445 * np.sqrt(differences.var(ddof=1) * (1 / 5 + 1 / 4))
    assert ran.contrast.high == pytest.approx(differences.mean() + half, abs=1e-6)


def test_measures_are_scikit_survivals(ran):
    for name, model in ran.models.items():
        risk = model.predict(ran.X_test)
        survival = np.stack([curve(ran.times) for curve in model.predict_survival_function(ran.X_test)])
        found = ran.measured[name]
        assert found["Harrell's c"] == pytest.approx(c_of(risk, ran.y_test), abs=1e-12)
        assert found["low"] < found["Harrell's c"] < found["high"]
        uno = concordance_index_ipcw(ran.y_train, ran.y_test, risk, tau=ran.tau, tied_tol=0)[0]
        assert found["Uno's c"] == pytest.approx(uno, abs=1e-9)
        brier = integrated_brier_score(ran.y_train, ran.y_test, survival, ran.times)
        assert found["IBS"] == pytest.approx(brier, abs=1e-9)
        months, curve = kaplan_meier_estimator(ran.y_train["event"], ran.y_train["months"])
        everybody = np.tile(curve[np.searchsorted(months, ran.times, side="right") - 1], (len(risk), 1))
        same = integrated_brier_score(ran.y_train, ran.y_test, everybody, ran.times)
        assert found["IBS Kaplan–Meier"] == pytest.approx(same, abs=1e-9)
        assert 0 < found["scaled"] == pytest.approx(1 - brier / same)
        slope = CoxPHSurvivalAnalysis(ties="efron").fit(risk[:, np.newaxis], ran.y_test).coef_[0]
        assert found["slope"] == pytest.approx(slope, abs=1e-5)


def test_calibration_is_kaplan_meiers_of_groups_of_predicted_risk(ran):
    for name, model in ran.models.items():
        died = 1 - np.array([curve(36) for curve in model.predict_survival_function(ran.X_test)])
        member = pd.qcut(died, 4, labels=False)
        observed = []
        for group in range(4):
            judged = ran.y_test[member == group]
            months, curve = kaplan_meier_estimator(judged["event"], judged["months"])
            observed.append(1 - curve[months <= 36][-1])
        assert [group.observed for group in ran.calibrated[name]] == pytest.approx(observed)
        assert [group.predicted for group in ran.calibrated[name]] == pytest.approx(
            [died[member == group].mean() for group in range(4)]
        )
        months, curve = kaplan_meier_estimator(ran.y_test["event"], ran.y_test["months"])
        assert ran.ratios[name] == pytest.approx((1 - curve[months <= 36][-1]) / died.mean())


def test_maps_are_the_stores_in_the_order_of_the_table(ran):
    store = open_store(str(ran.folder / "store"))
    for row in (0, 77, 199):
        key = EntryKey(ran.clinical.index[row], "PET", "spine")
        np.testing.assert_array_equal(store.read(ran.view, key).arrays["mean_map"], ran.maps[row])
    bright = ran.maps[:, 2:5, 3:6].mean(axis=(1, 2)) - ran.maps.mean(axis=(1, 2))
    assert np.corrcoef(bright, ran.uptake)[0, 1] > 0.95


def test_the_image_network_finds_the_planted_signal_and_nothing_in_permuted_outcomes(ran):
    folds = KFold(5, shuffle=True, random_state=0)
    expected = cross_val_score(reference(1), ran.clinical, ran.outcome, cv=folds)
    np.testing.assert_allclose(ran.embedding_c["covariates, ridge Cox"], expected, atol=1e-6)
    means = {name: float(values.mean()) for name, values in ran.embedding_c.items()}
    # what is known of the hazard, seen without noise, is the most that can be reached
    age = (ran.clinical["age"] - 62) / 9
    ceiling = c_of(1.2 * ran.uptake + 0.6 * age.to_numpy(), ran.outcome)
    for name, most in (("PET", c_of(ran.uptake, ran.outcome)), ("PET and covariates", ceiling)):
        assert 0.65 < means[name] < most
        assert means["covariates, ridge Cox"] < means[name]
    assert abs(np.mean(ran.permuted_c) - 0.5) < ran.band < 0.15


def test_the_network_of_both_reads_age_as_it_was_planted(ran):
    """Beside the map; the order of the two mean c-indices is noise at 200 patients, and another CPU's rounding turns it round."""
    network = NetworkEstimator(hidden=(16,), epochs=20, learning_rate=0.01, seed=0)
    network.fit({"PET": ran.maps, "clinical": ran.clinical}, ran.outcome)
    older = ran.clinical.assign(age=ran.clinical["age"] + 18)
    risks = [network.predict({"PET": ran.maps, "clinical": table}) for table in (ran.clinical, older)]
    assert (risks[1] > risks[0]).mean() > 0.95
    assert np.corrcoef(risks[0], ran.uptake)[0, 1] > 0.5


@pytest.mark.timeout(1800)
def test_the_command_line_does_the_same_and_its_cox_is_the_estimators(ran):
    (commands,) = re.findall(r"```bash\n(.*?)```", cells("markdown")[-1], flags=re.DOTALL)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    for line in commands.strip().splitlines():
        done = subprocess.run(
            ["bash", "-c", line], cwd=ran.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (ran.folder / "run" / "report.html").stat().st_size > 10_000
    scores = pd.read_csv(ran.folder / "scores.csv", index_col="patient")
    assert c_of(scores["log_risk"].loc[ran.clinical.index].to_numpy(), ran.outcome) > 0.65

    kept = fit_final(str(ran.folder / "run"), "clinical", out=str(ran.folder / "cox"))
    newcomers = Newcomers(clinical=str(ran.folder / "clinical.csv"))
    by_command = predict(kept.card, kept.trained, newcomers, times=(12, 24))
    fitted = RidgeCoxEstimator().fit(ran.clinical, ran.outcome)
    assert by_command.patients == tuple(ran.clinical.index)
    np.testing.assert_allclose(by_command.log_risk, fitted.predict(ran.clinical), atol=1e-9)
    at = [[curve(12), curve(24)] for curve in fitted.predict_survival_function(ran.clinical)]
    np.testing.assert_allclose(by_command.survival, at, atol=1e-9)


if __name__ == "__main__":
    execute(sys.argv[1])
