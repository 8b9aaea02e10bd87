"""The p-values that the paper prints, from the means and standard errors beside them (protocol section 6)."""

import re

import numpy as np
import pytest
from scipy import stats as reference

from trainer.stats import mean_se, t_against_half

# Guinea-Pérez et al. 2026, Table 1: image-only configurations
TABLE_1 = """
    0.659 ± 0.015 2.081e-04 | 0.659 ± 0.025 1.587e-03 | 0.659 ± 0.018 4.836e-04 | 0.655 ± 0.022 9.975e-04
    0.654 ± 0.022 1.128e-03 | 0.654 ± 0.008 1.983e-05 | 0.654 ± 0.026 1.919e-03 | 0.651 ± 0.021 9.451e-04
    0.651 ± 0.013 1.382e-04 | 0.650 ± 0.047 1.676e-02 | 0.647 ± 0.008 3.085e-05 | 0.641 ± 0.034 6.770e-03
    0.639 ± 0.013 2.497e-04 | 0.638 ± 0.035 8.203e-03 | 0.638 ± 0.024 2.344e-03 | 0.618 ± 0.012 3.136e-04
    0.604 ± 0.010 2.183e-04 | 0.598 ± 0.007 9.568e-05 | 0.586 ± 0.009 2.990e-04 | 0.571 ± 0.015 4.956e-03
    0.560 ± 0.011 3.039e-03 | 0.548 ± 0.012 8.132e-03
"""
# Table 2: multimodal configurations
TABLE_2 = """
    0.710 ± 0.032 1.308e-03 | 0.710 ± 0.034 1.697e-03 | 0.710 ± 0.040 3.104e-03
    0.709 ± 0.030 1.057e-03 | 0.706 ± 0.031 1.244e-03 | 0.703 ± 0.029 1.144e-03
"""
FOLDS, HALF_DIGIT = 5, 0.0005


def rows_of(table):
    found = re.findall(r"(\S+) ± (\S+) (\S+)", table)
    return [tuple(float(value) for value in row) for row in found]


ROWS = rows_of(TABLE_1) + rows_of(TABLE_2)


def five_folds(mean, se):
    """Five values of exactly this mean and standard error."""
    shape = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    return mean + se * shape * np.sqrt(FOLDS) / shape.std(ddof=1)


def interval(mean, se, *, sides=1, df=FOLDS - 1):
    """p-values of all means and standard errors that are rounded to these."""
    ends = ((mean + sign * HALF_DIGIT - 0.5) / (se - sign * HALF_DIGIT) for sign in (1, -1))
    return tuple(sides * reference.t.sf(t, df) for t in ends)


def test_the_tables_have_22_and_6_rows():
    assert (len(rows_of(TABLE_1)), len(rows_of(TABLE_2))) == (22, 6)


@pytest.mark.parametrize(("mean", "se", "p"), ROWS)
def test_the_papers_p_is_one_sided_with_four_degrees_of_freedom(mean, se, p):
    least, most = interval(mean, se)
    assert least <= p <= most


@pytest.mark.parametrize(("mean", "se", "p"), ROWS)
def test_the_plain_t_test_gives_the_papers_p_from_its_mean_and_standard_error(mean, se, p):
    values = five_folds(mean, se)
    assert (mean_se(values).mean, mean_se(values).se) == pytest.approx((mean, se), rel=1e-9)
    test = t_against_half(values)
    least, most = interval(mean, se)
    assert test.df == 4
    assert least < test.p_one_sided < most
    assert test.p_one_sided == pytest.approx(reference.t.sf((mean - 0.5) / se, 4), rel=1e-9)
    corners = [
        t_against_half(five_folds(mean + sign * HALF_DIGIT, se - sign * HALF_DIGIT)).p_one_sided for sign in (1, -1)
    ]
    assert corners == pytest.approx([least, most], rel=1e-9)
    assert corners[0] <= p <= corners[1]


@pytest.mark.parametrize("other", [{"sides": 2}, {"df": 5}, {"df": 3}], ids=["two-sided", "df 5", "df 3"])
def test_no_other_reading_of_the_test_fits_the_tables(other):
    inside = [least <= p <= most for mean, se, p in ROWS for least, most in [interval(mean, se, **other)]]
    assert not any(inside)
