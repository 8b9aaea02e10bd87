"""Measures how far numbers of the same subjects agree, absolutely and in rank; knows no model and no embedding."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from store_schema.errors import CohortError, UsageError

LEAST_SUBJECTS = 3


@dataclass(frozen=True)
class Icc:
    """ICC(2,1): two-way random effects, absolute agreement, a single measure; 1 is full agreement, 0 none beyond chance."""

    value: float
    low: float
    """Lower end of its interval."""
    high: float


@dataclass(frozen=True)
class RankStability:
    """How far two series of risks order the same patients alike."""

    spearman: float | None
    """None where one of the two series is constant."""
    kendall: float | None
    """Kendall's tau-b; None as for Spearman's."""
    mean_change: float
    """Mean absolute change of a patient's rank, in ranks; ties share their mean rank."""


def icc(ratings: Float[np.ndarray, "subject judge"], *, confidence: float = 0.95) -> Icc:
    """Agreement of judges on the same subjects, ICC(2,1) with its interval.

    (MSR − MSE) / (MSR + (k − 1) MSE + k (MSC − MSE)/n), of n subjects (rows) and k judges (columns); it is below 0 where judges
    differ more within a subject than subjects do. The interval's degrees of freedom are k − 1 at least: the published formula can
    fall to 0 there, and the interval onto a point.

    Raises
    ------
    UsageError
        If there are fewer than 3 subjects or 2 judges, or a rating is not finite.
    CohortError
        If every judge rates all subjects alike: there is nothing to agree on.

    References
    ----------
    Shrout and Fleiss 1979 (ICC(2,1)); McGraw and Wong 1996, table 7 (interval of ICC(A,1)).
    """
    array = _checked(ratings)
    if not _varies(array):
        raise CohortError("every judge rates all subjects alike: agreement is not defined where subjects do not differ")
    squares = _Squares.of(array)
    value = float(squares.icc)
    return Icc(value, *squares.interval(value, confidence))


def icc_of_each(
    ratings: Float[np.ndarray, "subject judge feature"],
) -> Float[np.ndarray, " feature"]:
    """ICC(2,1) of each feature; NaN where every judge rates all subjects alike. Errors as of `icc`."""
    array = _checked(ratings)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(_varies(array), _Squares.of(array).icc, np.nan)


def rank_stability(first: Float[np.ndarray, " patient"], second: Float[np.ndarray, " patient"]) -> RankStability:
    """How far two series of numbers order the same patients alike."""
    ranks = stats.rankdata(first), stats.rankdata(second)
    change = float(np.abs(ranks[1] - ranks[0]).mean())
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return RankStability(None, None, change)
    spearman = float(stats.spearmanr(first, second).statistic)
    return RankStability(spearman, float(stats.kendalltau(first, second, variant="b").statistic), change)


def _varies(array: Float[np.ndarray, "subject judge ..."]) -> Bool[np.ndarray, "..."]:
    """Whether any judge tells subjects apart, by feature."""
    return np.asarray((np.ptp(array, axis=0) > 0).any(axis=0))


def _checked(ratings: Float[np.ndarray, "subject judge ..."]) -> Float[np.ndarray, "subject judge ..."]:
    array = np.asarray(ratings, dtype=np.float64)
    if array.ndim < 2 or array.shape[0] < LEAST_SUBJECTS or array.shape[1] < 2:
        raise UsageError(f"agreement needs {LEAST_SUBJECTS} subjects and 2 judges at least, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise UsageError(f"agreement needs finite ratings: {int((~np.isfinite(array)).sum())} are not")
    return array


@dataclass(frozen=True, eq=False)
class _Squares:
    """Mean squares of a two-way table without replication, of one feature or of many."""

    rows: Float[np.ndarray, "..."]
    """Between subjects."""
    columns: Float[np.ndarray, "..."]
    """Between judges."""
    error: Float[np.ndarray, "..."]
    n: int
    k: int

    @classmethod
    def of(cls, array: Float[np.ndarray, "subject judge ..."]) -> "_Squares":
        """Those of ratings."""
        n, k = array.shape[:2]
        grand = array.mean(axis=(0, 1))
        by_row, by_column = array.mean(axis=1), array.mean(axis=0)
        rest = array - by_row[:, np.newaxis] - by_column[np.newaxis] + grand
        rows = k * ((by_row - grand) ** 2).sum(axis=0) / (n - 1)
        columns = n * ((by_column - grand) ** 2).sum(axis=0) / (k - 1)
        return cls(rows, columns, (rest**2).sum(axis=(0, 1)) / ((n - 1) * (k - 1)), n, k)

    @property
    def icc(self) -> Float[np.ndarray, "..."]:
        """ICC(2,1)."""
        rows, columns, error, n, k = self.rows, self.columns, self.error, self.n, self.k
        return np.asarray((rows - error) / (rows + (k - 1) * error + k * (columns - error) / n))

    def interval(self, value: float, confidence: float) -> tuple[float, float]:
        """Ends of the interval of ICC(A,1) of one feature, with Satterthwaite's degrees of freedom."""
        if value == 1:
            return 1.0, 1.0
        n, k, rows, columns, error = self.n, self.k, float(self.rows), float(self.columns), float(self.error)
        a = k * value / (n * (1 - value))
        judges, left = a * columns, (1 + a * (n - 1)) * error
        df = (judges + left) ** 2 / (judges**2 / (k - 1) + left**2 / ((n - 1) * (k - 1)))
        # those of a sum lie between its parts' own; of a difference, as agreement below chance makes it, they would fall to 0, and
        # the interval onto a point beside the value
        df = max(df, k - 1)
        both = (1 + confidence) / 2
        low_f, high_f = 1 / float(stats.f.ppf(both, n - 1, df)), float(stats.f.ppf(both, df, n - 1))
        within = k * columns + (k * n - k - n) * error
        low = n * (rows * low_f - error) / (within + n * rows * low_f)
        return low, n * (rows * high_f - error) / (within + n * rows * high_f)
