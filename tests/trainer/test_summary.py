"""Rows of the table against scipy and scikit-survival, from task results made by hand."""

import numpy as np
import pytest
from scipy import stats
from sksurv.compare import compare_survival
from sksurv.metrics import concordance_index_censored
from sksurv.util import Surv

from trainer.baseline_hazard import BreslowBaseline
from trainer.cohort import build_cohort
from trainer.config import Columns
from trainer.metrics import harrell_c
from trainer.results import Failure
from trainer.selection import lines_of
from trainer.splits import make_splits
from trainer.summary import Judgement, _test_parts, pooled_risks, summarise
from trainer.task_results import JobResult

FLAT = BreslowBaseline(time=(1.0,), cumulative_hazard=(0.1,), centre=0.0)
COLUMNS = Columns(time="months", time_unit="months", event="event", continuous=("age",))


def made(judgement: Judgement, fold, *, model="image", permutation=0, noise=1.0, scale=1.0, flat=False) -> JobResult:
    """A model that sees the truth through noise; each fold has a zero and a scale of its own."""
    cohort = judgement.permuted_cohort(permutation)
    rows = cohort.rows(fold.test)
    rng = np.random.default_rng([fold.index, permutation, 5])
    risk = scale * (fold.index + 1) * (noise * rng.normal(size=len(rows)) - 0.05 * judgement.cohort.time[rows]) + 10
    pairs = harrell_c(risk=risk, time=cohort.time[rows], event=cohort.event[rows])
    return JobResult(
        model=model, permutation=permutation, fold=fold.index,
        repeat=fold.repeat, c=pairs.c, concordant=pairs.concordant, discordant=pairs.discordant,
        tied_risk=pairs.tied_risk, comparable=pairs.comparable, patients=fold.test, log_risk=tuple(risk.tolist()),
        alpha=None, train_mean=10.0, train_sd=0.0 if flat else float(fold.index + 1), train_c=0.6, train_patients=1,
        train_events=1, test_events=1, baseline=FLAT, curves=None, coefficients=None, preprocessing=None, seconds=1.0,
    )  # fmt: skip


@pytest.fixture
def judge(config, kit):
    """Judges results made by hand over the small cohort."""

    def make(repeats=1, permutations=0, oracle=None, results=None, flat=False) -> Judgement:
        cohort = build_cohort(kit.draw(60), COLUMNS, {})
        control = {"models": ["image"], "repeats": permutations} if permutations else None
        settings = config(models=kit.settings["models"][1:], permuted_control=control)
        empty = Judgement(settings, cohort, make_splits(cohort, folds=3, seed=1, repeats=repeats), [], [], oracle or {})
        done = []
        for number in range(1 + permutations):
            permuted = empty.permuted_cohort(number)
            splits = make_splits(permuted, folds=3, seed=1, repeats=repeats)
            done += [made(empty, fold, permutation=number, flat=flat) for fold in splits.outer()]
        outer = done if results is None else results(done)
        lines = lines_of(settings, outer, [], permutations=range(1 + permutations), folds=len(empty.splits))
        return Judgement(settings, cohort, empty.splits, lines, outer, oracle or {})

    return make


def rows_of(judgement, failures=()):
    return summarise(judgement, task_ids=[], failures=failures).rows


def test_a_models_row_is_scipys_t_test_of_its_folds(judge):
    judgement = judge()
    (row,) = rows_of(judgement)
    values = [result.c for result in judgement.results]
    assert [score.c for score in row.scores] == values
    assert row.mean == pytest.approx(np.mean(values))
    assert row.se == pytest.approx(stats.sem(values))
    for side, p in (("greater", row.p_one_sided), ("two-sided", row.p_two_sided)):
        assert p == pytest.approx(stats.ttest_1samp(values, 0.5, alternative=side).pvalue)
    corrected = (np.mean(values) - 0.5) / np.sqrt(np.var(values, ddof=1) * (1 / 3 + 1 / 2))
    assert row.corrected_p_one_sided == pytest.approx(stats.t.sf(corrected, 2))
    assert row.permutation_p is None


def test_pooled_c_is_scikit_survivals_of_the_standardised_risks(judge):
    judgement = judge()
    (row,) = rows_of(judgement)
    z = {p: value for result in judgement.results for p, value in zip(result.patients, result.z, strict=True)}
    risk = np.array([z[patient] for patient in judgement.cohort.patients])
    expected = concordance_index_censored(judgement.cohort.event, judgement.cohort.time, risk)[0]
    assert row.pooled_c == pytest.approx(expected, abs=1e-12)


def test_risk_groups_are_scikit_survivals_log_rank_of_the_outer_quartiles(judge):
    judgement = judge()
    groups = rows_of(judgement)[0].risk_groups
    pooled = pooled_risks(judgement.results)
    z = np.array([pooled[patient] for patient in judgement.cohort.patients])
    cuts = np.quantile(z, (0.25, 0.5, 0.75))
    outer = (z <= cuts[0]) | (z > cuts[2])
    outcome = Surv.from_arrays(judgement.cohort.event[outer], judgement.cohort.time[outer])
    chi_squared, p = compare_survival(outcome, z[outer] > cuts[2])
    assert groups.chi_squared == pytest.approx(chi_squared)
    assert groups.nominal_p == pytest.approx(p)
    assert groups.permutation_p is None
    assert (groups.low_patients, groups.high_patients) == (15, 15)


def test_folds_of_repeats_get_the_corrected_test_alone(judge):
    judgement = judge(repeats=4)
    (row,) = rows_of(judgement)
    values = [result.c for result in judgement.results]
    assert (row.t, row.p_one_sided, row.p_two_sided) == (None, None, None)
    se = np.sqrt(np.var(values, ddof=1) * (1 / 12 + 1 / 2))
    assert row.se == pytest.approx(se)
    assert row.corrected_p_one_sided == pytest.approx(stats.t.sf((np.mean(values) - 0.5) / se, 11))


def test_the_band_of_a_control_does_not_narrow_with_repeats(judge):
    once, often = (judge(repeats=repeats, permutations=1) for repeats in (1, 6))
    parts = _test_parts(often)
    assert len(parts) == 3
    assert [len(time) for time, _ in parts] == [len(time) for time, _ in _test_parts(once)]


def test_covariates_that_folds_could_not_use_are_named(judge):
    flat = {"dropped": ["stage=III"]}
    judgement = judge(results=lambda done: [done[0].model_copy(update={"preprocessing": flat}), *done[1:]])
    (note,) = summarise(judgement, task_ids=[], failures=()).notes
    assert note.startswith("stage=III has one value in the training part of 1 of 3 folds")


def test_a_missing_fold_makes_the_results_incomplete(judge):
    judgement = judge(results=lambda done: done[1:])
    assert not summarise(judgement, task_ids=[], failures=()).complete


def test_risks_of_repeats_are_averaged_by_patient(judge):
    judgement = judge(repeats=2)
    pooled = pooled_risks(judgement.results)
    patient = judgement.cohort.patients[0]
    seen = [dict(zip(r.patients, r.z, strict=True)).get(patient) for r in judgement.results]
    values = [z for z in seen if z is not None]
    assert len(values) == 2
    assert pooled[patient] == pytest.approx(np.mean(values))
    (row,) = rows_of(judgement)
    assert [(score.repeat, score.fold) for score in row.scores] == [(f // 3, f) for f in range(6)]


def test_models_that_tell_nobody_apart_have_a_c_but_no_risk_groups(judge):
    (row,) = rows_of(judge(flat=True))
    assert row.mean is not None
    assert row.risk_groups is None
    assert row.pooled_c is None
    assert "one risk" in row.risk_groups_note


def test_a_row_that_misses_a_fold_has_no_mean_and_no_test(judge):
    failure = Failure(task_id="x", label="image, fold 1", reason="TaskError: diverged")
    judgement = judge(results=lambda done: [r for r in done if r.fold != 1], oracle={})
    results = summarise(judgement, task_ids=[], failures=[failure])
    (row,) = results.rows
    assert not results.complete
    assert [score.c is None for score in row.scores] == [False, True, False]
    assert (row.mean, row.se, row.p_one_sided, row.pooled_c, row.risk_groups) == (None,) * 5


def test_one_permutation_shows_its_folds_and_several_their_means(judge):
    one = rows_of(judge(permutations=1))[1]
    judgement = judge(permutations=2)
    two = rows_of(judgement)[1]
    assert (one.label, one.kind, len(one.scores)) == ("image (permuted)", "permuted", 3)
    assert one.corrected_p_one_sided is not None
    means = [np.mean([r.c for r in judgement.results if r.permutation == number]) for number in (1, 2)]
    assert [score.c for score in two.scores] == pytest.approx(means)
    assert two.corrected_p_one_sided is None


def test_permutation_p_counts_the_permutations_that_reach_the_figure(judge):
    judgement = judge(permutations=19)
    model, _ = rows_of(judgement)
    means = [np.mean([r.c for r in judgement.results if r.permutation == n]) for n in range(20)]
    assert model.permutation_p == pytest.approx((1 + sum(m >= means[0] for m in means[1:])) / 20)
    assert 0.05 <= model.risk_groups.permutation_p <= 1
    assert rows_of(judge(permutations=18))[0].permutation_p is None


def test_an_oracle_is_judged_on_the_same_folds(judge, kit):
    judgement = judge(oracle={"lp": kit.draw(60)["log_hazard"].to_numpy()})
    oracle = rows_of(judgement)[1]
    cohort = judgement.cohort
    for score, fold in zip(oracle.scores, judgement.splits.outer(), strict=True):
        rows = cohort.rows(fold.test)
        reference = concordance_index_censored(cohort.event[rows], cohort.time[rows], judgement.oracle["lp"][rows])
        assert score.c == pytest.approx(reference[0])
    assert (oracle.label, oracle.kind) == ("oracle lp", "oracle")
