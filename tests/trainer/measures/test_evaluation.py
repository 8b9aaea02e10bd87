"""Measures of a row against scikit-survival, statsmodels and the measures taken one by one."""

import numpy as np
import pandas as pd
import pytest
from sksurv.linear_model.coxph import BreslowEstimator
from sksurv.metrics import brier_score, concordance_index_censored, concordance_index_ipcw, cumulative_dynamic_auc
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv
from statsmodels.duration.hazard_regression import PHReg

from store_schema.errors import TaskError, UsageError
from trainer.baseline_hazard import BreslowBaseline
from trainer.measures.bootstrap import bootstrap_c
from trainer.measures.d_calibration import d_calibration
from trainer.measures.decision_curve import decision_curve
from trainer.measures.evaluation import MeasureSettings, evaluate
from trainer.measures.predictions import JudgedFold, PooledPatients
from trainer.measures.row_measures import Estimate, RowMeasures
from trainer.measures.subgroups import Judged, by_group, by_level

HORIZONS = [12, 24, 36, 60]
QUICK = MeasureSettings(resamples=40, group_resamples=0)


class Run:
    """Folds of a model that sees the truth through noise, each with a zero and a scale of its own."""

    def __init__(self, *, seed=0, n=152, folds=5, repeats=1, noise=1.0):
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=n)
        onset, end = 36 * rng.exponential(size=n) * np.exp(-truth), rng.uniform(6, 140, n)
        self.time, self.event = np.ceil(np.minimum(onset, end)), onset <= end
        self.folds, self.parts, self.pooled = [], [], np.zeros(n)
        for repeat in range(repeats):
            dealt = rng.permutation(n) % folds
            for fold in range(folds):
                scale = 0.5 + 0.2 * fold
                risk = scale * (truth + noise * rng.normal(size=n)) + 3 * fold
                self.add(repeat, risk, dealt == fold)
        self.pooled /= repeats

    def add(self, repeat, risk, test):
        train = ~test
        baseline = BreslowBaseline.fit(risk=risk[train], time=self.time[train], event=self.event[train])
        outcomes = (self.time[test], self.event[test]), (self.time[train], self.event[train])
        (time, event), (train_time, train_event) = outcomes
        self.folds.append(JudgedFold(repeat, risk[test], time, event, baseline, train_time, train_event))
        self.parts.append((risk, train, test))
        self.pooled[test] += (risk[test] - risk[train].mean()) / risk[train].std()

    def patients(self, **others):
        persons = [f"P{row}" for row in range(len(self.time))]
        return PooledPatients(
            **{"risk": self.pooled, "time": self.time, "event": self.event, "persons": persons, **others}
        )

    def y(self, rows):
        return Surv.from_arrays(self.event[rows], self.time[rows])

    def survival(self, part, times):
        """By scikit-survival's baseline."""
        risk, train, test = part
        baseline = BreslowEstimator().fit(risk[train] - risk[train].mean(), self.event[train], self.time[train])
        curves = baseline.get_survival_function(risk[test] - risk[train].mean())
        return np.stack([np.atleast_1d(curve(times)) for curve in curves])


@pytest.fixture(scope="module")
def run():
    return Run()


@pytest.fixture(scope="module")
def measures(run):
    return evaluate(run.folds, run.patients(), horizons=HORIZONS, seed=3, settings=QUICK)


def test_uno_c_is_the_mean_of_scikit_survivals_over_folds_up_to_a_tau_with_ten_at_risk(run, measures):
    tau = measures.tau
    assert (run.time >= tau).sum() >= 10 > (run.time > tau).sum()
    expected = [
        concordance_index_ipcw(run.y(train), run.y(test), risk[test], tau=tau, tied_tol=0.0)[0]
        for risk, train, test in run.parts
    ]
    assert measures.uno_c_of_folds == pytest.approx(expected, abs=1e-9)
    assert measures.uno_c.value == pytest.approx(np.mean(expected), abs=1e-9)
    assert measures.beyond_tau == (run.time >= tau).sum()


def test_pooled_c_and_its_interval_are_those_of_the_pooled_risk(run, measures):
    c = concordance_index_censored(run.event, run.time, run.pooled, tied_tol=0.0)[0]
    assert measures.pooled_c.value == pytest.approx(c, abs=1e-12)
    persons = [f"P{row}" for row in range(152)]
    found = bootstrap_c(risk=run.pooled, time=run.time, event=run.event, persons=persons, seed=[3, 0], resamples=40)
    assert (measures.pooled_c.low, measures.pooled_c.high) == (found.low, found.high)
    assert (measures.resamples, measures.redrawn) == (40, 0)


def test_auc_counts_scikit_survivals_pairs_of_every_test_part(run, measures):
    for horizon in measures.horizons:
        at = horizon.horizon
        right = total = 0.0
        for risk, train, test in run.parts:
            # scikit-survival refuses patients with an event beyond the training part: here they are controls
            time, last = run.time[test], run.time[train].max()
            y = Surv.from_arrays(run.event[test] & (time < last), np.minimum(time, last))
            auc = cumulative_dynamic_auc(run.y(train), y, risk[test], at, tied_tol=0.0)[0][0]
            times, following = kaplan_meier_estimator(run.event[train], run.time[train], reverse=True)
            place = np.searchsorted(times, time[run.event[test] & (time <= at)], side="right")
            pairs = (1 / np.append(1, following)[place]).sum() * (time > at).sum()
            right, total = right + auc * pairs, total + pairs
        assert horizon.auc.value == pytest.approx(right / total, abs=1e-9)


def test_mean_auc_weighs_horizons_by_the_fall_of_scikit_survivals_curve(run, measures):
    times, survival = kaplan_meier_estimator(run.event, run.time)
    kept = [horizon.horizon for horizon in measures.horizons]
    fall = -np.diff(survival[np.searchsorted(times, kept, side="right") - 1], prepend=1)
    expected = np.average([horizon.auc.value for horizon in measures.horizons], weights=fall)
    assert measures.mean_auc.value == pytest.approx(expected, abs=1e-9)


def everybody(run, train, test, times):
    steps, survival = kaplan_meier_estimator(run.event[train], run.time[train])
    return np.tile(np.append(1, survival)[np.searchsorted(steps, times, side="right")], (test.sum(), 1))


def briers(run, times):
    """Of the model and of Kaplan-Meier, averaged over patients.

    scikit-survival refuses times outside a test part: a patient censored before all of them, and one followed beyond them
    and predicted to be, add nothing to the sum of squares.
    """
    found = np.zeros((2, len(times)))
    for part in run.parts:
        _, train, test = part
        for row, predicted in enumerate((run.survival(part, times), everybody(run, train, test, times))):
            time = np.concatenate((run.time[test], [times[0] / 2, times[-1] + 1]))
            y = Surv.from_arrays(np.append(run.event[test], [False, False]), time)
            score = brier_score(run.y(train), y, np.vstack((predicted, np.ones((2, len(times))))), times)[1]
            found[row] += score * len(time)
    return found / len(run.time)


def test_brier_scores_at_horizons_are_scikit_survivals_over_patients(run, measures):
    model, reference = briers(run, np.array([horizon.horizon for horizon in measures.horizons]))
    assert [horizon.brier.value for horizon in measures.horizons] == pytest.approx(model, abs=1e-9)
    assert [horizon.brier_km.value for horizon in measures.horizons] == pytest.approx(reference, abs=1e-9)


def test_integrated_brier_is_scikit_survivals_over_own_times_up_to_tau(run, measures):
    times = np.unique(run.time[run.time <= measures.tau])
    model, reference = (np.trapezoid(row, times) / (times[-1] - times[0]) for row in briers(run, times))
    assert (measures.ibs.value, measures.ibs_km.value) == pytest.approx((model, reference), abs=1e-9)
    assert measures.ibs_scaled.value == pytest.approx(1 - model / reference, abs=1e-9)
    assert (measures.ibs_start, measures.ibs_end) == (times[0], measures.tau)


def test_calibration_takes_each_patients_survival_from_the_own_folds_baseline(run, measures):
    times, survival, (low, high) = kaplan_meier_estimator(run.event, run.time, conf_type="log-log")
    for horizon in measures.horizons:
        at = np.array([horizon.horizon])
        expected = np.concatenate([1 - run.survival(part, at)[:, 0] for part in run.parts]).mean()
        step = np.searchsorted(times, horizon.horizon, side="right") - 1
        assert horizon.expected == pytest.approx(expected, abs=1e-9)
        assert horizon.observed.value == pytest.approx(1 - survival[step], abs=1e-12)
        ratio = horizon.observed_over_expected
        ends = (1 - survival[step]) / expected, (1 - high[step]) / expected, (1 - low[step]) / expected
        assert (ratio.value, ratio.low, ratio.high) == pytest.approx(ends, abs=1e-9)
        assert sum(point.patients for point in horizon.calibration) == 152
        mean = sum(point.predicted * point.patients for point in horizon.calibration) / 152
        assert mean == pytest.approx(expected, abs=1e-9)
        assert (horizon.at_risk, horizon.events) == (
            (run.time >= horizon.horizon).sum(),
            (run.event & (run.time <= horizon.horizon)).sum(),
        )


def test_the_slope_is_statsmodels_within_folds(run, measures):
    risk, time, event = (
        np.concatenate([getattr(fold, what) for fold in run.folds]) for what in ("risk", "time", "event")
    )
    strata = np.repeat(range(5), [len(fold.time) for fold in run.folds])
    model = PHReg(time, risk[:, np.newaxis], status=event.astype(int), ties="efron", strata=strata)
    found = model.fit(disp=False, method="newton", tol=1e-12)
    slope = measures.calibration_slope
    assert slope.value == pytest.approx(found.params[0], abs=1e-6)
    assert (slope.low, slope.high) == pytest.approx(tuple(found.conf_int()[0]), abs=1e-6)


def test_d_calibration_censors_at_the_end_of_the_training_part(run, measures):
    survival, event = [], []
    for part in run.parts:
        _, train, test = part
        last = run.time[train].max()
        own = np.minimum(run.time[test], last)
        survival.append(np.diag(run.survival(part, own)))
        event.append(run.event[test] & (run.time[test] <= last))
    expected = d_calibration(survival_at_own_time=np.concatenate(survival), event=np.concatenate(event))
    assert measures.d_calibration.bins == pytest.approx(expected.bins, abs=1e-9)
    assert measures.d_calibration.p == pytest.approx(expected.p, abs=1e-9)
    beyond = sum((run.time[test] > run.time[train].max()).sum() for _, train, test in run.parts)
    assert measures.beyond_training == beyond


def test_decision_curves_are_those_of_all_test_parts(run, measures):
    for horizon in measures.horizons:
        at = np.array([horizon.horizon])
        curve = decision_curve(
            survival=np.concatenate([run.survival(part, at)[:, 0] for part in run.parts]),
            time=np.concatenate([fold.time for fold in run.folds]),
            event=np.concatenate([fold.event for fold in run.folds]),
            horizon=horizon.horizon,
            thresholds=QUICK.thresholds,
        )
        ours = [np.nan if value is None else value for value in horizon.decision.net_benefit]
        np.testing.assert_allclose(ours, curve.net_benefit, atol=1e-9)
        np.testing.assert_allclose(horizon.decision.treat_all, curve.treat_all, atol=1e-9)


def test_horizons_with_fewer_than_ten_at_risk_are_left_out(run):
    asked = [12, 24, 500]
    found = evaluate(run.folds, run.patients(), horizons=asked, seed=0, settings=QUICK)
    assert [horizon.horizon for horizon in found.horizons] == [12, 24]
    assert [(one.time, one.reason) for one in found.horizons_left_out] == [(500, "0 patients at risk, fewer than 10")]


def test_subgroups_and_centres_are_those_of_the_pooled_risk(run):
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"age": rng.normal(60, 10, 152), "stage": rng.choice(["I", "II", None], 152)})
    centres = rng.choice(["A", "B"], 152).tolist()
    found = evaluate(
        run.folds, run.patients(covariates=frame, centres=centres), horizons=HORIZONS, seed=3, settings=QUICK
    )
    judged = Judged(run.pooled, run.time, run.event, range(152))
    stages = frame["stage"].fillna("missing").tolist()
    assert found.subgroups["stage"] == by_level(stages, judged)
    assert [group.patients for group in found.subgroups["age"]] == [76, 76]
    assert found.centres == by_group(centres, judged)
    assert found.groups_reason is None


def mean_of(values):
    return pytest.approx(np.mean(list(values)), abs=1e-9)


def test_repeats_are_judged_one_by_one_and_averaged():
    run = Run(repeats=3, n=120, folds=4)
    settings = MeasureSettings(resamples=20, group_resamples=0, groups=4)
    found = evaluate(run.folds, run.patients(), horizons=[12, 30], seed=0, settings=settings)
    apart = [
        evaluate(
            [fold for fold in run.folds if fold.repeat == one],
            run.patients(),
            horizons=[12, 30],
            seed=0,
            settings=settings,
        )
        for one in range(3)
    ]
    assert (found.folds, found.repeats, found.patients) == (12, 3, 120)
    for name in ("uno_c", "ibs", "ibs_km", "calibration_slope"):
        assert getattr(found, name).value == mean_of(getattr(one, name).value for one in apart)
    assert found.calibration_slope.low == mean_of(one.calibration_slope.low for one in apart)
    assert found.d_calibration.statistic == mean_of(one.d_calibration.statistic for one in apart)
    for place in range(2):
        same = [one.horizons[place] for one in apart]
        assert found.horizons[place].brier.value == mean_of(one.brier.value for one in same)
        assert found.horizons[place].expected == mean_of(one.expected for one in same)
        ratios = [one.observed_over_expected for one in same]
        assert found.horizons[place].observed_over_expected.high == mean_of(one.high for one in ratios)
        for rank, point in enumerate(found.horizons[place].calibration):
            assert point.predicted == mean_of(one.calibration[rank].predicted for one in same)
            assert point.observed == mean_of(one.calibration[rank].observed for one in same)
        benefits = [one.decision.net_benefit[30] for one in same]
        assert found.horizons[place].decision.net_benefit[30] == mean_of(benefits)


def test_the_record_survives_json(run):
    frame = pd.DataFrame({"age": np.arange(152.0)})
    patients = run.patients(covariates=frame, centres=["A", "B"] * 76)
    found = evaluate(run.folds, patients, horizons=[12, 900], seed=0, settings=QUICK)
    assert RowMeasures.model_validate_json(found.model_dump_json()) == found


def test_what_cannot_be_given_has_its_reason():
    run = Run(n=40, folds=4)
    patients = run.patients(risk=None, covariates=pd.DataFrame({"age": np.arange(40.0)}))
    found = evaluate(run.folds, patients, horizons=[900], seed=0, settings=MeasureSettings(least_at_risk=41))
    assert "gives all its training patients one risk" in found.pooled_c.reason
    assert (found.resamples, found.subgroups, found.groups_reason) == (None, {}, found.pooled_c.reason)
    assert found.uno_c.reason == found.ibs.reason
    assert "no time has 41 of 40 patients at risk" in found.ibs.reason
    assert (found.tau, found.beyond_tau, found.uno_c_of_folds) == (None, None, (None,) * 4)
    assert (found.mean_auc.reason, found.horizons) == ("no horizon can be judged", ())
    assert RowMeasures.model_validate_json(found.model_dump_json()) == found


def test_a_fold_without_a_pair_before_tau_leaves_no_uno_c_and_a_flat_model_no_slope():
    run = Run(n=40, folds=4)
    run.folds, run.parts = [], []
    flat = np.zeros(40)
    lone = np.arange(40) == np.flatnonzero(run.event)[0]
    for test in (lone, ~lone):
        train = ~lone
        baseline = BreslowBaseline.fit(risk=flat[train], time=run.time[train], event=run.event[train])
        fold = JudgedFold(0, flat[test], run.time[test], run.event[test], baseline, run.time[train], run.event[train])
        run.folds.append(fold)
    found = evaluate(run.folds, run.patients(), horizons=[12], seed=0, settings=QUICK)
    assert found.uno_c.reason.startswith("test part 1: no comparable pair")
    assert found.uno_c_of_folds == (None, 0.5)
    assert found.calibration_slope.reason == "all predicted risks are equal: there is no calibration slope"
    assert found.horizons[0].auc.value == 0.5
    assert len(found.horizons[0].calibration) == 1


def test_right_predictions_are_found_right_and_overfitted_ones_not():
    honest, overfitted = (
        evaluate(run.folds, run.patients(), horizons=HORIZONS, seed=0, settings=QUICK)
        for run in (Right(spread=1.0), Right(spread=2.5))
    )
    assert honest.calibration_slope.low < 1 < honest.calibration_slope.high
    assert honest.d_calibration.p > 0.05
    assert honest.ibs_scaled.value > 0.1
    assert overfitted.calibration_slope.high < 0.6
    assert overfitted.d_calibration.p < 0.01
    assert overfitted.ibs.value > honest.ibs.value
    assert overfitted.pooled_c.value == pytest.approx(honest.pooled_c.value, abs=1e-12)


class Right(Run):
    """Log-risks that are the truth, times a spread."""

    def __init__(self, *, spread, seed=0, n=600):
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=n)
        onset, end = 36 * rng.exponential(size=n) * np.exp(-truth), rng.uniform(6, 140, n)
        self.time, self.event = np.minimum(onset, end), onset <= end
        self.folds, self.parts, self.pooled = [], [], np.zeros(n)
        for fold in range(5):
            self.add(0, spread * truth, np.arange(n) % 5 == fold)


def test_folds_that_do_not_fit_together_are_refused(run):
    with pytest.raises(UsageError, match=r"152 patients in each repeat, got \[121\]"):
        evaluate(run.folds[1:], run.patients(), horizons=HORIZONS, seed=0)
    with pytest.raises(UsageError, match="got no fold"):
        evaluate([], run.patients(), horizons=HORIZONS, seed=0)
    with pytest.raises(UsageError, match="rising times"):
        evaluate(run.folds, run.patients(), horizons=[24, 12], seed=0)
    with pytest.raises(UsageError, match="persons one per patient, got 3 for 152"):
        run.patients(persons=["a", "b", "c"])
    with pytest.raises(UsageError, match="booleans"):
        run.patients(event=run.time)
    fold = run.folds[0]
    with pytest.raises(TaskError, match="not finite"):
        JudgedFold(0, fold.risk * np.nan, fold.time, fold.event, fold.baseline, fold.train_time, fold.train_event)
    with pytest.raises(UsageError, match="one length"):
        JudgedFold(0, fold.risk, fold.time, fold.event, fold.baseline, fold.train_time[1:], fold.train_event)


def test_an_estimate_is_a_value_or_a_reason():
    for wrong in ({}, {"value": 0.5, "reason": "none"}, {"value": float("nan")}):
        with pytest.raises(ValueError, match="value"):
            Estimate(**wrong)
