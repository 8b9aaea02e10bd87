"""Judges c-indices over folds: means, t-tests, contrasts, permutations; knows nothing of models, risks or curves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from store_schema.errors import UsageError

CHANCE = 0.5


@dataclass(frozen=True)
class MeanSE:
    """Mean over folds and how uncertain the paper's formula calls it."""

    mean: float
    se: float | None
    """sd/√n with the sd of n - 1; None for a single fold."""
    n: int


@dataclass(frozen=True)
class TTest:
    """One-sample t-test of fold values; t and p are None where the values have no variance or there is only one."""

    mean: float
    """Mean of the values, before the null value is taken off."""
    se: float | None
    """Standard error in the denominator of t."""
    t: float | None
    df: int
    p_one_sided: float | None
    """Probability of a larger t under the null."""
    p_two_sided: float | None


@dataclass(frozen=True)
class Contrast:
    """Difference between two models on the same folds, by the corrected resampled t; positive favours the first."""

    mean: float
    se: float | None
    """√(s²(1/J + test/train)): the uncertainty that overlapping training parts leave."""
    t: float | None
    df: int
    p_one_sided: float | None
    p_two_sided: float | None
    low: float | None
    """Lower end of the 95% interval."""
    high: float | None
    """Upper end of the 95% interval."""
    differences: tuple[float, ...]
    """First minus second, fold by fold."""


def mean_se(values: Sequence[float] | Float[np.ndarray, " fold"]) -> MeanSE:
    """Mean and standard error sd/√n over folds, as the paper gives c-indices.

    Raises
    ------
    UsageError
        If there is no value, or one is not finite.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.4.3.
    """
    array = _finite(values)
    se = float(array.std(ddof=1) / np.sqrt(array.size)) if array.size > 1 else None
    return MeanSE(mean=float(array.mean()), se=se, n=array.size)


def t_against_half(values: Sequence[float] | Float[np.ndarray, " fold"]) -> TTest:
    """Plain t-test of fold c-indices against chance, as the paper does it (its p-values are one-sided).

    Over 5 folds the one-sided test rejects a true null in about 10% of runs at 0.05, since folds share training
    patients; `corrected_t` does in about 3%.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.4.3; protocol section 6.
    """
    return _t_test(_finite(values), null=CHANCE, test_to_train=0.0)


def corrected_t(
    values: Sequence[float] | Float[np.ndarray, " fold"], *, null: float = 0.0, test_to_train: float = 0.25
) -> TTest:
    """t-test of fold values whose variance allows for the training patients that folds share.

    t = (mean - null) / √(s²(1/J + test/train)), J - 1 degrees of freedom, J folds over all repeats.

    Parameters
    ----------
    values
        One value per fold: differences between models, or c-indices.
    null
        Value under the null.
    test_to_train
        Patients tested over patients trained on: 1/(k - 1) for k folds, 0.25 for five.

    References
    ----------
    Nadeau and Bengio 2003; Bouckaert and Frank 2004 (repeated folds); protocol section 6.
    """
    return _t_test(_finite(values), null=null, test_to_train=test_to_train)


def paired_contrast(
    first: Sequence[float] | Float[np.ndarray, " fold"],
    second: Sequence[float] | Float[np.ndarray, " fold"],
    *,
    test_to_train: float = 0.25,
    confidence: float = 0.95,
) -> Contrast:
    """By how much the first model's c exceeds the second's on the same folds, with a corrected interval.

    Raises
    ------
    UsageError
        If the two do not have the same number of folds.
    """
    one, two = _finite(first), _finite(second)
    if one.size != two.size:
        raise UsageError(f"a paired contrast needs the same folds, got {one.size} and {two.size} values")
    test = _t_test(one - two, null=0.0, test_to_train=test_to_train)
    # se 0 (equal differences in every fold) leaves t undefined, but the interval is then the point itself
    half = None if test.se is None else float(stats.t.ppf((1 + confidence) / 2, test.df)) * test.se
    return Contrast(
        mean=test.mean,
        se=test.se,
        t=test.t,
        df=test.df,
        p_one_sided=test.p_one_sided,
        p_two_sided=test.p_two_sided,
        low=None if half is None else test.mean - half,
        high=None if half is None else test.mean + half,
        differences=tuple((one - two).tolist()),
    )


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p-values adjusted so that rejecting those <= alpha errs in the whole family at most alpha; in the order given.

    References
    ----------
    Holm 1979.
    """
    p = _probabilities(p_values)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return tuple(adjusted.tolist())


def permutation_p(observed: float, permuted: Sequence[float] | Float[np.ndarray, " permutation"]) -> float:
    """Share of permuted values, the observed one among them, that are at least as large: (1 + #) / (B + 1).

    References
    ----------
    Phipson and Smyth 2010; protocol section 6.
    """
    array = _finite(permuted)
    reached = int((array >= observed).sum())
    return (1 + reached) / (array.size + 1)


def permute_outcomes(
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    *,
    seed: int | Sequence[int],
    persons: Sequence[str] | None = None,
    within: Sequence[str] | None = None,
) -> tuple[Float[np.ndarray, " patient"], Bool[np.ndarray, " patient"]]:
    """Outcomes dealt to other patients at random, time and event of one patient staying together.

    The distribution of outcomes, and so the censoring, is kept; what ties it to covariates and images is broken. Rows of
    one person stay together as well: they go to another person with as many rows, else the null would be too narrow.

    Parameters
    ----------
    persons
        Whose each row is; by default every row is a person of its own.
    within
        Group of each row, such as its centre: outcomes stay in it, so that groups keep theirs. By default there is one group.
    """
    rng = np.random.default_rng(seed)
    groups = np.zeros(len(time), dtype=np.int64) if within is None else np.unique(list(within), return_inverse=True)[1]
    order = np.empty(len(time), dtype=np.int64)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        mine = None if persons is None else [persons[row] for row in rows.tolist()]
        alone = mine is None or len(set(mine)) == len(mine)
        order[rows] = rows[rng.permutation(len(rows)) if mine is None or alone else _permuted_persons(mine, rng)]
    return time[order], event[order]


def _permuted_persons(persons: Sequence[str], rng: np.random.Generator) -> Int[np.ndarray, " patient"]:
    """For each row the row whose outcome it gets: persons change places with persons of as many rows."""
    rows_of: dict[str, list[int]] = {}
    for row, person in enumerate(persons):
        rows_of.setdefault(person, []).append(row)
    order = np.empty(len(persons), dtype=np.int64)
    for size in sorted({len(rows) for rows in rows_of.values()}):
        alike = [rows for rows in rows_of.values() if len(rows) == size]
        for taker, giver in zip(alike, rng.permutation(len(alike)), strict=True):
            order[taker] = alike[giver]
    return order


def _t_test(values: Float[np.ndarray, " fold"], *, null: float, test_to_train: float) -> TTest:
    mean, df = float(values.mean()), values.size - 1
    if df == 0:
        return TTest(mean=mean, se=None, t=None, df=0, p_one_sided=None, p_two_sided=None)
    # values that are all equal keep a variance of rounding alone, which would be divided by
    variance = 0.0 if np.ptp(values) == 0 else float(values.var(ddof=1))
    se = float(np.sqrt(variance * (1 / values.size + test_to_train)))
    if se == 0:
        return TTest(mean=mean, se=0.0, t=None, df=df, p_one_sided=None, p_two_sided=None)
    t = (mean - null) / se
    two_sided = 2 * float(stats.t.sf(abs(t), df))
    return TTest(mean=mean, se=se, t=t, df=df, p_one_sided=float(stats.t.sf(t, df)), p_two_sided=two_sided)


def _finite(values: Sequence[float] | Float[np.ndarray, " value"]) -> Float[np.ndarray, " value"]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise UsageError(f"expected a list of finite numbers, at least one, got {values!r}")
    return array


def _probabilities(p_values: Sequence[float]) -> Float[np.ndarray, " value"]:
    array = np.asarray(p_values, dtype=np.float64)
    if array.ndim != 1 or not ((array >= 0) & (array <= 1)).all():
        raise UsageError(f"expected p-values between 0 and 1, got {p_values!r}")
    return array
