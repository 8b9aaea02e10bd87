"""Permutation tests of groups: against literal formulas, classical statistics, and cohorts whose truth is known."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from scipy.spatial.distance import pdist, squareform

from store_schema.errors import CohortError, UsageError
from trainer.quality.permanova import Grouped, distances_to_centroid, location, spread


def grouped(member, stratum=None):
    return Grouped(np.asarray(member), np.zeros(len(member), dtype=int) if stratum is None else np.asarray(stratum))


def anderson(values, member):
    """Pseudo-F of Anderson 2001, equations 1 to 4, from squared distances of pairs alone."""
    squared = squareform(pdist(values)) ** 2
    n, groups = len(values), np.unique(member)
    total = squared[np.triu_indices(n, 1)].sum() / n
    within = sum(squared[np.ix_(member == g, member == g)].sum() / 2 / (member == g).sum() for g in groups)
    a = len(groups)
    return ((total - within) / (a - 1)) / (within / (n - a)), (total - within) / total


def to_centroids(values, member):
    """Distances from each group's centroid, corrected for its size."""
    parts = [values[member == group] for group in np.unique(member)]
    return [np.linalg.norm(one - one.mean(axis=0), axis=1) * np.sqrt(len(one) / (len(one) - 1)) for one in parts]


def regression(values, member, stratum):
    """F of groups beside strata: sums of squares of two regressions of every feature."""
    strata = (stratum[:, None] == np.unique(stratum)).astype(float)
    both = np.column_stack([strata, member[:, None] == np.unique(member)[1:]]).astype(float)
    rest = [sum((sm.OLS(column, design).fit().resid ** 2).sum() for column in values.T) for design in (strata, both)]
    ranks = [np.linalg.matrix_rank(design) for design in (strata, both)]
    explained = (rest[0] - rest[1]) / (ranks[1] - ranks[0])
    return explained / (rest[1] / (len(values) - ranks[1])), (rest[0] - rest[1]) / rest[0]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_pseudo_f_is_that_of_anderson_and_its_p_that_of_a_literal_loop(rng):
    member = rng.permutation(np.repeat([0, 1, 2], [5, 8, 11]))
    values = rng.normal(size=(24, 7)) + 0.4 * member[:, None]
    groups = grouped(member)
    found = location(values, groups, permutations=199, seed=[3])
    f, r2 = anderson(values, member)
    assert found.f == pytest.approx(f)
    assert found.r2 == pytest.approx(r2)
    labels = np.concatenate(list(groups.permuted(199, [3])))
    assert all(np.bincount(one).tolist() == [5, 8, 11] for one in labels)
    reached = sum(anderson(values, one)[0] >= f for one in labels)
    assert found.p == (1 + reached) / 200


def test_of_one_feature_it_is_the_analysis_of_variance(rng):
    member, values = np.repeat([0, 1, 2], [6, 7, 9]), rng.normal(size=(22, 1))
    parts = [values[member == group, 0] for group in range(3)]
    found = location(values, grouped(member), permutations=4999, seed=[1])
    told = stats.f_oneway(*parts)
    assert found.f == pytest.approx(told.statistic)
    assert found.p == pytest.approx(told.pvalue, abs=0.03)
    error = sum(((one - one.mean()) ** 2).sum() for one in parts) / 19
    total = ((values - values.mean()) ** 2).sum()
    assert found.omega2 == pytest.approx((total - 19 * error - 2 * error) / (total + error))


def test_within_strata_f_is_the_partial_one_and_labels_stay_in_their_stratum(rng):
    stratum = np.repeat([0, 1], [12, 14])
    member = rng.integers(3, size=26)
    values = rng.normal(size=(26, 4)) + 2.0 * stratum[:, None] + 0.5 * member[:, None]
    groups = grouped(member, stratum)
    found = location(values, groups, permutations=199, seed=[2])
    f, r2 = regression(values, member, stratum)
    assert (found.f, found.r2) == (pytest.approx(f), pytest.approx(r2))
    labels = np.concatenate(list(groups.permuted(199, [2])))
    for one in (0, 1):
        want = np.bincount(member[stratum == one], minlength=3).tolist()
        assert all(np.bincount(row[stratum == one], minlength=3).tolist() == want for row in labels)
    reached = sum(regression(values, row, stratum)[0] >= f * (1 - 1e-9) for row in labels)
    assert found.p == (1 + reached) / 200


def test_a_drift_that_is_all_case_mix_is_found_freely_and_not_within_strata():
    free, within = [], []
    for seed in range(12):
        rng = np.random.default_rng([7, seed])
        event = rng.random(60) < 0.5
        member = (rng.random(60) < np.where(event, 0.8, 0.2)).astype(int)
        values = rng.normal(size=(60, 5)) + 1.5 * event[:, None]
        free.append(location(values, grouped(member), permutations=99, seed=[seed]).p)
        within.append(location(values, grouped(member, event.astype(int)), permutations=99, seed=[seed]).p)
    assert max(free) <= 0.05
    assert sum(p <= 0.05 for p in within) <= 2
    assert np.mean(within) > 0.3


def test_without_a_difference_p_is_uniform_and_with_one_it_is_found():
    null = {"location": [], "spread": []}
    for seed in range(200):
        rng = np.random.default_rng([11, seed])
        values, groups = rng.normal(size=(24, 6)), grouped(np.repeat([0, 1], [8, 16]))
        null["location"].append(location(values, groups, permutations=99, seed=[seed]).p)
        null["spread"].append(spread(values, groups, permutations=99, seed=[seed]).p)
    # four standard errors about the nominal 5% of 200 tests, and of the mean of uniform numbers
    for p in map(np.array, null.values()):
        assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.062)
        assert p.mean() == pytest.approx(0.5, abs=0.082)
        assert stats.kstest(p, "uniform").pvalue > 0.001
    rng = np.random.default_rng(1)
    values = rng.normal(size=(40, 6))
    member = np.repeat([0, 1], 20)
    assert location(values + 0.9 * member[:, None], grouped(member), permutations=199, seed=[0]).p == 1 / 200
    wide = values * np.where(member[:, None], 3, 1)
    assert spread(wide, grouped(member), permutations=199, seed=[0]).p == 1 / 200
    assert spread(values + 9 * member[:, None], grouped(member), permutations=199, seed=[0]).p > 0.05


def test_spread_is_the_analysis_of_variance_of_distances_to_centroids(rng):
    member = np.repeat([0, 1, 2], [5, 9, 8])
    values = rng.normal(size=(22, 5)) * (1 + member[:, None])
    far = np.concatenate(to_centroids(values, member))
    np.testing.assert_allclose(distances_to_centroid(values, grouped(member)), far)
    found = spread(values, grouped(member), permutations=499, seed=[4])
    parts = [far[member == group] for group in range(3)]
    assert found.f == pytest.approx(stats.f_oneway(*parts).statistic)
    rest = np.concatenate(
        [
            (mine - mine.mean(axis=0)) * np.sqrt(len(mine) / (len(mine) - 1))
            for mine in (values[member == g] for g in range(3))
        ]
    )
    labels = np.concatenate(list(grouped(member).permuted(499, [4])))
    reached = sum(stats.f_oneway(*to_centroids(rest, one)).statistic >= found.f for one in labels)
    assert found.p == (1 + reached) / 500


def test_one_patient_far_out_does_not_make_a_group_look_wide():
    p = []
    for seed in range(60):
        rng = np.random.default_rng([3, seed])
        values = rng.normal(size=(40, 6)) * np.where(np.arange(40) == rng.integers(40), 7, 1)[:, None]
        p.append(spread(values, grouped(np.repeat([0, 1], [14, 26])), permutations=99, seed=[seed]).p)
    assert np.mean(np.array(p) <= 0.05) <= 0.15


def test_leverage_is_that_of_the_regression(rng):
    stratum, member = np.repeat([0, 1], 8), rng.permutation(np.repeat([0, 1, 2, 3], 4))
    design = np.column_stack([stratum == 0, stratum == 1, member[:, None] == [1, 2, 3]]).astype(float)
    hat = design @ np.linalg.pinv(design)
    np.testing.assert_allclose(grouped(member, stratum).leverage(), np.diag(hat))


def test_whoever_makes_a_centroid_alone_has_no_distance_and_is_left_out(rng):
    stratum = np.array([0] * 6 + [1] * 6)
    member = np.array([0] * 6 + [1] * 5 + [0])
    values = rng.normal(size=(12, 3))
    far = distances_to_centroid(values, grouped(member, stratum))
    # the last one alone ties both strata together
    assert np.isnan(far).tolist() == [False] * 11 + [True]
    with pytest.raises(CohortError, match="nothing can be tested"):
        spread(values, grouped(member, stratum), permutations=99, seed=[0])


def test_what_cannot_be_tested_is_refused(rng):
    values = rng.normal(size=(8, 2))
    with pytest.raises(CohortError, match="nothing can be tested"):
        location(values, grouped([0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1]), permutations=99, seed=[0])
    with pytest.raises(CohortError, match="nothing varies"):
        location(np.ones((8, 2)), grouped([0, 0, 0, 0, 1, 1, 1, 1]), permutations=99, seed=[0])
    with pytest.raises(UsageError, match="finite"):
        location(np.full((8, 2), np.nan), grouped([0, 0, 0, 0, 1, 1, 1, 1]), permutations=99, seed=[0])
