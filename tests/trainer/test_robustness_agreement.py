"""Agreement, rank stability and change of c, each against a published example, another implementation or brute force."""

import itertools

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.anova import anova_lm

from store_schema.errors import CohortError, UsageError
from trainer.metrics import harrell_c
from trainer.robustness.agreement import icc, icc_of_each, rank_stability
from trainer.robustness.c_change import c_change
from trainer.robustness.embeddings import agreement, distances, embedding_robustness

SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float
)
"""Table 2 of Shrout and Fleiss 1979: 6 targets, 4 judges."""


def by_anova(ratings: np.ndarray) -> tuple[float, float, float]:
    """ICC(2,1) and its interval from statsmodels' table of variance, in McGraw and Wong's letters."""
    n, k = ratings.shape
    long = pd.DataFrame(
        [(i, j, ratings[i, j]) for i, j in itertools.product(range(n), range(k))], columns=["subject", "judge", "value"]
    )
    table = anova_lm(smf.ols("value ~ C(subject) + C(judge)", data=long).fit(), typ=2)
    squares = table["sum_sq"] / table["df"]
    msr, msc, mse = squares["C(subject)"], squares["C(judge)"], squares["Residual"]
    rho = (msr - mse) / (msr + (k - 1) * mse + (k / n) * (msc - mse))
    a = (k * rho) / (n * (1 - rho))
    b = 1 + (k * rho * (n - 1)) / (n * (1 - rho))
    v = (a * msc + b * mse) ** 2 / ((a * msc) ** 2 / (k - 1) + (b * mse) ** 2 / ((n - 1) * (k - 1)))
    f1, f2 = stats.f.isf(0.025, n - 1, v), stats.f.isf(0.025, v, n - 1)
    low = n * (msr - f1 * mse) / (f1 * (k * msc + (k * n - k - n) * mse) + n * msr)
    return rho, low, n * (f2 * msr - mse) / (k * msc + (k * n - k - n) * mse + n * f2 * msr)


def test_icc_is_that_of_shrout_and_fleiss_with_the_interval_of_other_programs():
    found = icc(SHROUT_FLEISS)
    assert round(found.value, 2) == 0.29
    # R's psych::ICC and SPSS give 0.019 to 0.761 for these ratings
    assert (round(found.low, 3), round(found.high, 3)) == (0.019, 0.761)


@pytest.mark.parametrize(("n", "k", "seed"), [(3, 2, 0), (12, 2, 1), (40, 3, 2), (8, 5, 3)])
def test_icc_and_interval_are_those_of_a_table_of_variance(n, k, seed):
    rng = np.random.default_rng(seed)
    ratings = rng.normal(size=(n, 1)) + 0.4 * rng.normal(size=(1, k)) + 0.7 * rng.normal(size=(n, k))
    found = icc(ratings)
    assert (found.value, found.low, found.high) == pytest.approx(by_anova(ratings), abs=1e-10)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, held = 1 / (1 + 0.25 + 0.5), 0
    for _ in range(600):
        judges = np.sqrt(0.25) * rng.normal(size=(1, 4))
        found = icc(rng.normal(size=(25, 1)) + judges + np.sqrt(0.5) * rng.normal(size=(25, 4)))
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 600 <= 0.985


def test_icc_is_that_of_the_mean_squares_which_shrout_and_fleiss_print():
    # between targets 11.24, within 6.26, between judges 32.49, residual 1.02; ICC(2,1) = 0.29 (table 4)
    rows, columns, error = 11.24, 32.49, 1.02
    by_hand = (rows - error) / (rows + 3 * error + 4 * (columns - error) / 6)
    assert icc(SHROUT_FLEISS).value == pytest.approx(by_hand, abs=5e-4)
    assert round(by_hand, 2) == 0.29


@given(st.integers(3, 40), st.integers(0, 2**32 - 1))
def test_of_two_judges_icc_is_the_closed_form_of_covariances(n, seed):
    """As a perturbed view stands against its base; without the last term it is Lin's concordance correlation."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=n)
    second = 0.7 * first + rng.normal(size=n) + rng.normal()
    (xx, xy), (_, yy) = np.cov(first, second)
    apart = (first.mean() - second.mean()) ** 2
    expected = 2 * xy / (xx + yy + apart - (xx + yy - 2 * xy) / n)
    assert icc(np.stack([first, second], axis=1)).value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_icc_is_the_ratio_of_variances_that_restricted_likelihood_finds(seed):
    """Subjects and judges as crossed random effects of statsmodels' mixed model: another road, without sums of squares."""
    rng = np.random.default_rng(seed)
    n, k = 15, 4
    ratings = rng.normal(size=(n, 1)) + 0.6 * rng.normal(size=(1, k)) + 0.7 * rng.normal(size=(n, k))
    long = pd.DataFrame(
        {"value": ratings.ravel(), "subject": np.repeat(np.arange(n), k), "judge": np.tile(np.arange(k), n)}
    )
    parts = {"subject": "0 + C(subject)", "judge": "0 + C(judge)"}
    model = smf.mixedlm("value ~ 1", long, groups=np.ones(n * k), vc_formula=parts, re_formula="0")
    fitted = model.fit(reml=True, method="lbfgs")
    variances = dict(zip(model.exog_vc.names, fitted.vcomp, strict=True)) | {"error": fitted.scale}
    assert icc(ratings).value == pytest.approx(variances["subject"] / sum(variances.values()), abs=2e-3)


@pytest.mark.parametrize(("n", "k", "judges"), [(24, 5, 0.0), (60, 8, 0.0), (60, 40, 0.5)])
def test_the_interval_is_near_one_by_drawing_mean_squares(n, k, judges):
    """A generalised interval: mean squares over drawn chi-squares give the variances (Weerahandi 1993).

    With few judges that differ the two part: the drawn one is wider.
    """
    rng = np.random.default_rng(n + k)
    ratings = rng.normal(size=(n, 1)) + judges * rng.normal(size=(1, k)) + 0.6 * rng.normal(size=(n, k))
    row, column = ratings.mean(axis=1, keepdims=True), ratings.mean(axis=0, keepdims=True)
    rest = ratings - row - column + ratings.mean()
    draws = [rng.chisquare(df, 40_000) for df in (n - 1, k - 1, (n - 1) * (k - 1))]
    squares = k * (row - row.mean()) ** 2, n * (column - column.mean()) ** 2, rest**2
    rows, columns, error = (one.sum() / drawn for one, drawn in zip(squares, draws, strict=True))
    subject, judge = (rows - error) / k, np.maximum(0, (columns - error) / n)
    low, high = np.quantile(subject / (subject + judge + error), [0.025, 0.975])
    found = icc(ratings)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05)


@pytest.mark.parametrize(("n", "truth"), [(24, 0.5), (24, 0.9), (60, 0.9)])
def test_against_one_base_the_interval_holds_the_truth_as_often_as_it_says(n, truth):
    """Two judges without a bias of their own: how a perturbation without one stands against its base."""
    rng, held = np.random.default_rng(n), 0
    for _ in range(500):
        found = icc(np.sqrt(truth) * rng.normal(size=(n, 1)) + np.sqrt(1 - truth) * rng.normal(size=(n, 2)))
        held += found.low <= truth <= found.high
    assert 0.925 <= held / 500 <= 0.985


@given(st.integers(3, 8), st.integers(2, 4), st.floats(-3, 3), st.integers(0, 2**32 - 1))
@example(n=3, k=2, bias=0.0, seed=989)
def test_the_interval_of_mere_noise_holds_its_value(n, k, bias, seed):
    """Below chance, degrees of freedom by Satterthwaite would fall to 0: published formulae then divide by 0 or give a point."""
    ratings = np.random.default_rng(seed).normal(size=(n, k))
    ratings[:, -1] += bias
    found = icc(ratings)
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    assert np.isfinite([found.low, found.high]).all()


@given(st.integers(3, 12), st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_icc_does_not_depend_on_unit_sign_and_order(n, k, seed):
    rng = np.random.default_rng(seed)
    ratings = rng.normal(size=(n, k))
    found, other = icc(ratings), icc(-3.5 * ratings[::-1, ::-1] + 7)
    assert (found.value, found.low, found.high) == pytest.approx((other.value, other.low, other.high), abs=1e-7)


def test_icc_is_1_for_the_same_numbers_and_falls_with_a_shift():
    values = np.random.default_rng(0).normal(size=20)
    same = icc(np.stack([values, values], axis=1))
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)
    shifted = icc(np.stack([values, values + 2], axis=1))
    assert shifted.value < 0.5


def test_each_feature_is_judged_alone_and_one_without_variance_is_nan():
    rng = np.random.default_rng(1)
    ratings = rng.normal(size=(9, 2, 5))
    ratings[:, :, 3] = 2.0
    ratings[:, 0, 4], ratings[:, 1, 4] = 1.0, 3.0
    found = icc_of_each(ratings)
    assert np.isnan(found[3:]).all()
    assert found[:3] == pytest.approx([icc(ratings[:, :, place]).value for place in range(3)], abs=1e-12)


@pytest.mark.parametrize(
    ("ratings", "error", "said"),
    [
        (np.ones((2, 2)), UsageError, "3 subjects and 2 judges"),
        (np.ones((4, 1)), UsageError, "3 subjects and 2 judges"),
        (np.full((4, 2), np.nan), UsageError, "finite ratings: 8 are not"),
        (np.tile([1.0, 2.0], (5, 1)), CohortError, "subjects do not differ"),
    ],
)
def test_what_has_no_agreement_is_refused(ratings, error, said):
    with pytest.raises(error, match=said):
        icc(ratings)


def test_a_constant_series_has_no_agreement_and_says_why():
    assert "do not differ" in agreement(np.ones(5), np.ones(5)).reason


# Ranks


def brute_tau_b(x: np.ndarray, y: np.ndarray) -> float:
    pairs = list(itertools.combinations(range(len(x)), 2))
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in pairs]
    total = sum(a * b for a, b in signs)
    return total / np.sqrt(sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs))


@pytest.mark.parametrize("seed", range(4))
def test_rank_correlations_are_those_of_scipy_and_of_all_pairs_with_ties(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 6, 15).astype(float), rng.integers(0, 6, 15).astype(float)
    found = rank_stability(x, y)
    assert found.kendall == pytest.approx(brute_tau_b(x, y), abs=1e-12)
    assert found.kendall == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    ranks = [pd.Series(values).rank().to_numpy() for values in (x, y)]
    assert found.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)
    assert found.mean_change == pytest.approx(np.abs(ranks[0] - ranks[1]).mean())


def test_constant_risks_have_no_rank_correlation():
    found = rank_stability(np.arange(4.0), np.zeros(4))
    assert (found.spearman, found.kendall) == (None, None)
    assert found.mean_change == 1.0


# Change of c


def planted(n: int = 60, noise: float = 1.0):
    rng = np.random.default_rng(5)
    base = rng.normal(size=n)
    time = np.ceil(20 * rng.exponential(size=n) * np.exp(-base))
    return base, base + noise * rng.normal(size=n), time, rng.random(n) < 0.7


def test_the_change_of_c_is_that_of_brute_force_over_the_same_resamples():
    base, perturbed, time, event = planted()
    found = c_change(base, perturbed, time=time, event=event, persons=range(60), seed=3, resamples=200)

    def c(risk, rows):
        good = comparable = 0.0
        for i, j in itertools.permutations(rows, 2):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                comparable += 1
                good += 1.0 if risk[i] > risk[j] else 0.5 * (risk[i] == risk[j])
        return good / comparable

    everybody = list(range(60))
    assert found.base == pytest.approx(c(base, everybody))
    assert found.perturbed == pytest.approx(c(perturbed, everybody))
    assert found.change == pytest.approx(c(perturbed, everybody) - c(base, everybody))
    rng = np.random.default_rng(3)
    changes = []
    for number in range(200):
        rows = rng.integers(60, size=60)
        judged = [harrell_c(risk=risk[rows], time=time[rows], event=event[rows]).c for risk in (base, perturbed)]
        if number < 3:
            assert judged == pytest.approx([c(base, rows.tolist()), c(perturbed, rows.tolist())])
        changes.append(judged[1] - judged[0])
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(changes, [0.025, 0.975])))
    side = min(sum(change <= 0 for change in changes), sum(change >= 0 for change in changes))
    assert found.p == pytest.approx(min(1.0, 2 * (1 + side) / 201))
    assert found.resamples == 200


def test_equal_risks_change_no_c_and_noise_lowers_it():
    base, perturbed, time, event = planted(n=120, noise=2.0)
    same = c_change(base, base, time=time, event=event, persons=range(120), seed=0, resamples=200)
    assert (same.change, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    worse = c_change(base, perturbed, time=time, event=event, persons=range(120), seed=0, resamples=200)
    assert worse.high < 0
    assert worse.p < 0.02
    again = c_change(base, perturbed, time=time, event=event, persons=range(120), seed=0, resamples=200)
    assert again == worse


def test_rows_of_a_person_are_drawn_together():
    base, perturbed, time, event = planted(n=40)
    twice = [np.repeat(one, 2) for one in (base, perturbed, time, event)]
    whole = c_change(*twice[:2], time=twice[2], event=twice[3], persons=np.repeat(range(40), 2), seed=1, resamples=300)
    apart = c_change(*twice[:2], time=twice[2], event=twice[3], persons=range(80), seed=1, resamples=300)
    assert whole.high - whole.low > 1.15 * (apart.high - apart.low)


def test_a_cohort_without_comparable_pairs_is_refused():
    with pytest.raises(CohortError, match="no comparable pair"):
        c_change(np.arange(4.0), np.arange(4.0), time=np.ones(4), event=np.zeros(4, bool), persons=range(4), seed=0)


# Embeddings


def test_distances_are_those_of_each_patient():
    base = np.array([[3.0, 4.0, 0.0], [1.0, 0.0, np.nan], [0.0, 0.0, 0.0]])
    perturbed = np.array([[3.0, 4.0, 5.0], [0.0, 1.0, 9.0], [1.0, 0.0, 0.0]])
    found = distances(base, perturbed)
    np.testing.assert_allclose(found.relative_l2, [1.0, np.sqrt(2), np.nan])
    np.testing.assert_allclose(found.cosine, [25 / (5 * np.sqrt(50)), 0.0, np.nan])


def test_embeddings_are_told_by_feature_and_by_component():
    rng = np.random.default_rng(2)
    axes = np.linalg.qr(rng.normal(size=(6, 2)))[0].T
    scores = rng.normal(size=(30, 2)) * [5.0, 1.0]
    base = 3 + scores @ axes
    perturbed = 3 + (scores + np.stack([np.zeros(30), 2 * rng.normal(size=30)], axis=1)) @ axes
    base, perturbed = (np.column_stack([one, np.full(30, 7.0)]) for one in (base, perturbed))
    found = embedding_robustness(base, perturbed, modality="PET", roi="roi", components=4)
    assert (found.features, found.constant, found.patients) == (7, 1, 30)
    each = [icc(np.stack([base[:, place], perturbed[:, place]], axis=1)).value for place in range(6)]
    assert found.icc.median == pytest.approx(np.median(each))
    assert (found.icc.lower, found.icc.upper) == pytest.approx(tuple(np.quantile(each, [0.25, 0.75])))
    assert len(found.components) == 2
    assert found.components[0].icc.value > 0.97 > found.components[1].icc.value
    assert sum(one.explained for one in found.components) == pytest.approx(1.0)


def test_embeddings_without_variance_say_so():
    found = embedding_robustness(np.ones((4, 3)), np.ones((4, 3)), modality="PET", roi="roi", components=2)
    assert found.icc is None
    assert "no feature varies" in found.reason
    assert (found.constant, found.components) == (3, ())
    assert (found.relative_l2.median, found.cosine.median) == (0.0, pytest.approx(1.0))
