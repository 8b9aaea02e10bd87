"""Means, t-tests, contrasts and permutations against scipy and statsmodels."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats as reference
from statsmodels.stats.multitest import multipletests

from store_schema.errors import UsageError
from trainer.stats import (
    corrected_t,
    holm,
    mean_se,
    paired_contrast,
    permutation_p,
    permute_outcomes,
    t_against_half,
)

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared

fold_values = st.lists(st.floats(0.3, 0.9), min_size=2, max_size=50).filter(lambda values: np.ptp(values) > 1e-6)


@given(fold_values)
@UNHURRIED
def test_t_against_half_equals_scipy_on_both_sides(values):
    ours = t_against_half(values)
    two, one = (reference.ttest_1samp(values, 0.5, alternative=side) for side in ("two-sided", "greater"))
    assert ours.t == pytest.approx(two.statistic, rel=1e-9, abs=1e-9)
    assert ours.p_two_sided == pytest.approx(two.pvalue, rel=1e-9, abs=1e-12)
    assert ours.p_one_sided == pytest.approx(one.pvalue, rel=1e-9, abs=1e-12)
    assert ours.df == two.df == len(values) - 1


@given(fold_values)
@UNHURRIED
def test_mean_se_equals_scipys_standard_error(values):
    ours = mean_se(values)
    assert ours.mean == pytest.approx(np.mean(values), rel=1e-12)
    assert ours.se == pytest.approx(reference.sem(values), rel=1e-9)
    assert ours.n == len(values)


@given(st.lists(st.floats(-0.2, 0.2), min_size=5, max_size=5).filter(lambda values: np.ptp(values) > 1e-6))
@UNHURRIED
def test_corrected_t_of_five_folds_is_the_plain_t_over_one_and_a_half(values):
    plain = reference.ttest_1samp(values, 0.0).statistic
    assert corrected_t(values).t == pytest.approx(plain / 1.5, rel=1e-9, abs=1e-12)


def test_corrected_t_of_repeated_folds_follows_the_protocols_formula():
    values = np.random.default_rng(0).normal(0.02, 0.05, 50)
    t = values.mean() / np.sqrt(values.var(ddof=1) * (1 / 50 + 1 / 4))
    ours = corrected_t(values)
    assert (ours.t, ours.df) == (pytest.approx(t, rel=1e-12), 49)
    assert ours.p_two_sided == pytest.approx(2 * reference.t.sf(abs(t), 49), rel=1e-12)


def test_contrast_is_positive_for_the_better_model_and_its_interval_matches_its_p():
    rng = np.random.default_rng(1)
    clinical = rng.normal(0.64, 0.03, 50)
    image = clinical + rng.normal(0.03, 0.04, 50)
    contrast = paired_contrast(image, clinical)
    turned = paired_contrast(clinical, image)
    assert contrast.mean == pytest.approx(np.mean(image - clinical))
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-contrast.mean, -contrast.high, -contrast.low))
    low, high = reference.t.interval(0.95, 49, loc=contrast.mean, scale=contrast.se)
    assert (contrast.low, contrast.high) == pytest.approx((low, high), rel=1e-12)
    assert (contrast.low > 0) == (contrast.p_two_sided < 0.05)
    assert contrast.differences == pytest.approx(tuple(image - clinical))
    edge = paired_contrast(image, clinical, confidence=1 - contrast.p_two_sided)
    assert edge.low == pytest.approx(0, abs=1e-12)


def test_one_fold_has_a_mean_and_nothing_that_needs_a_spread():
    assert (mean_se([0.6]).mean, mean_se([0.6]).se) == (0.6, None)
    test = t_against_half([0.6])
    assert (test.se, test.t, test.p_one_sided, test.p_two_sided, test.df) == (None, None, None, None, 0)
    assert paired_contrast([0.6], [0.5]).low is None


@pytest.mark.parametrize("value", [0.5, 0.7, 0.1 + 0.2])
def test_equal_values_have_no_t_rather_than_one_of_rounding(value):
    test = t_against_half([value] * 5)
    assert (test.se, test.t, test.p_one_sided, test.p_two_sided) == (0.0, None, None, None)
    contrast = paired_contrast([value] * 5, [value - 0.25] * 5)
    assert (contrast.t, contrast.low, contrast.high) == (None, contrast.mean, contrast.mean)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@settings(UNHURRIED, max_examples=20)  # statsmodels collects garbage at every call
def test_holm_equals_statsmodels(p_values):
    expected = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(tuple(expected), abs=1e-9)


def test_holm_keeps_the_order_given_and_ties_equal():
    assert holm([0.04, 0.01, 0.04]) == pytest.approx((0.08, 0.03, 0.08))


@given(st.floats(-1, 1), st.lists(st.floats(-1, 1), min_size=1, max_size=199))
@UNHURRIED
def test_permutation_p_equals_counting_and_is_never_zero(observed, permuted):
    expected = (1 + sum(value >= observed for value in permuted)) / (1 + len(permuted))
    assert permutation_p(observed, permuted) == pytest.approx(expected)
    assert 0 < permutation_p(observed, permuted) <= 1


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
@UNHURRIED
def test_permuted_outcomes_keep_time_and_event_of_a_patient_together(n, seed):
    rng = np.random.default_rng(n)
    time, event = rng.permutation(n) + 1.0, rng.random(n) < 0.6
    known = dict(zip(time.tolist(), event.tolist(), strict=True))
    new_time, new_event = permute_outcomes(time, event, seed=seed)
    assert sorted(new_time) == sorted(time)
    assert all(known[t] == e for t, e in zip(new_time.tolist(), new_event.tolist(), strict=True))
    again = permute_outcomes(time, event, seed=seed)
    np.testing.assert_array_equal(again[0], new_time)


def test_permuted_outcomes_differ_between_seeds_and_leave_the_input_alone():
    time, event = np.arange(1.0, 41.0), np.arange(40) % 3 > 0
    one, two = (permute_outcomes(time, event, seed=seed)[0] for seed in ([0, 1], [0, 2]))
    assert (one != two).any()
    np.testing.assert_array_equal(time, np.arange(1.0, 41.0))


@pytest.mark.parametrize("values", [[], [0.6, float("nan")], [[0.6, 0.7]]])
def test_values_that_are_no_list_of_finite_numbers_are_refused(values):
    with pytest.raises(UsageError, match="finite numbers"):
        mean_se(values)


def test_contrast_of_unequal_folds_and_p_values_out_of_range_are_refused():
    with pytest.raises(UsageError, match="same folds, got 2 and 3"):
        paired_contrast([0.6, 0.7], [0.5, 0.5, 0.5])
    with pytest.raises(UsageError, match="between 0 and 1"):
        holm([0.5, 1.2])
