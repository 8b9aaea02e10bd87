"""Estimates survival curves and compares them between groups; knows nothing of risks, models or folds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special, stats

from store_schema.errors import CohortError, UsageError


@dataclass(frozen=True, eq=False)
class KaplanMeier:
    """Survival curve as steps: `survival[k]` holds from `time[k]` until `time[k + 1]`; before the first it is 1."""

    time: Float[np.ndarray, " step"]
    """Distinct times of events and censorings, rising."""
    survival: Float[np.ndarray, " step"]
    """Probability of being free of the event after each time."""
    low: Float[np.ndarray, " step"]
    """Lower end of the pointwise band."""
    high: Float[np.ndarray, " step"]
    """Upper end of the pointwise band."""
    at_risk: Int[np.ndarray, " step"]
    """Patients under observation just before each time."""
    events: Int[np.ndarray, " step"]
    """Events at each time."""
    censored: Int[np.ndarray, " step"]
    """Censorings at each time."""

    def survival_at(self, times: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
        """Survival at these times; after the last step it keeps the last value."""
        steps = np.searchsorted(self.time, times, side="right")
        return np.concatenate(([1.0], self.survival))[steps]

    def at_risk_at(self, times: Float[np.ndarray, " time"]) -> Int[np.ndarray, " time"]:
        """Patients whose own time is not before each of these times, for the table under a figure."""
        steps = np.searchsorted(self.time, times, side="left")
        return np.concatenate((self.at_risk, [0]))[steps]

    @property
    def median(self) -> float | None:
        """First time at which survival is 0.5 or less; None where the curve stays above."""
        # products of fractions miss 0.5 by rounding where the exact curve reaches it
        reached = np.flatnonzero(self.survival <= 0.5 + 1e-12)
        return float(self.time[reached[0]]) if reached.size else None


@dataclass(frozen=True)
class LogRank:
    """Log-rank test of equal survival in all groups."""

    statistic: float
    """Chi-squared under the null."""
    df: int
    """Groups less one."""
    p: float
    observed: tuple[int, ...]
    """Events of each group, in the order of sorted labels."""
    expected: tuple[float, ...]
    """Events that each would have had under one common hazard."""


def kaplan_meier(
    time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"], *, confidence: float = 0.95
) -> KaplanMeier:
    """Product-limit estimate with a pointwise log-log band, which stays within 0 and 1.

    A patient censored at the time of an event was at risk for it.

    Raises
    ------
    CohortError
        If there is no patient.

    References
    ----------
    Kaplan and Meier 1958; Greenwood's variance on the scale log(-log S), Borgan and Liestøl 1990; protocol section 6.
    """
    times, events, censored, at_risk = _table(time, event)
    return _curve(times, events, censored, at_risk, confidence)


def reverse_kaplan_meier(
    time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"], *, confidence: float = 0.95
) -> KaplanMeier:
    """Curve of still being followed up, for which an event ends what could be observed.

    Events at a time leave before those censored then, so `at_risk` there is without them.

    References
    ----------
    Schemper and Smith 1996; Guinea-Pérez et al. 2026, section 2.1 (median follow-up).
    """
    times, events, censored, at_risk = _table(time, event)
    return _curve(times, censored, events, at_risk - events, confidence)


def median_follow_up(time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"]) -> float | None:
    """Median time of follow-up by the reverse Kaplan-Meier estimate; None where it is not reached."""
    return reverse_kaplan_meier(time, event).median


def log_rank(
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    group: Sequence[object] | Int[np.ndarray, " patient"],
) -> LogRank:
    """Test that every group has the same hazard at every time.

    Between groups made of out-of-fold risks the p-value is nominal: it rejected a true null 11 to 20% of the time.

    Parameters
    ----------
    time, event
        Outcomes.
    group
        Label of each patient; two labels or more.

    Raises
    ------
    CohortError
        If there is one group alone, or no event with two groups at risk.

    References
    ----------
    Mantel 1966; hypergeometric covariance for ties; protocol section 6.
    """
    labels, member = np.unique(np.asarray(group), return_inverse=True)
    if len(labels) < 2:
        raise CohortError(f"a log-rank test needs two groups or more, got {len(labels)}")
    deaths, at_risk = _by_group(np.asarray(time), np.asarray(event), member, len(labels))
    total_deaths, total = deaths.sum(axis=1), at_risk.sum(axis=1)
    expected = (at_risk * (total_deaths / total)[:, np.newaxis]).sum(axis=0)
    observed = deaths.sum(axis=0)
    covariance = _covariance(at_risk, total_deaths, total)
    difference, df = (observed - expected)[:-1], len(labels) - 1
    if np.linalg.matrix_rank(covariance[:-1, :-1]) < df:
        raise CohortError("a log-rank test needs an event in a time when every group is at risk beside another")
    statistic = float(difference @ np.linalg.solve(covariance[:-1, :-1], difference))
    return LogRank(
        statistic=statistic,
        df=df,
        p=float(stats.chi2.sf(statistic, df)),
        observed=tuple(int(count) for count in observed),
        expected=tuple(expected.tolist()),
    )


def _table(
    time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"]
) -> tuple[Float[np.ndarray, " step"], Int[np.ndarray, " step"], Int[np.ndarray, " step"], Int[np.ndarray, " step"]]:
    if len(time) == 0:
        raise CohortError("a survival curve needs a patient, got none")
    if len(time) != len(event):
        raise UsageError(f"expected one event per time, got {len(event)} and {len(time)}")
    times, step = np.unique(np.asarray(time, dtype=np.float64), return_inverse=True)
    died = np.asarray(event, dtype=bool)
    events = np.bincount(step[died], minlength=len(times))
    leaving = np.bincount(step, minlength=len(times))
    at_risk = len(time) - np.concatenate(([0], np.cumsum(leaving)[:-1]))
    return times, events, leaving - events, at_risk


def _curve(
    times: Float[np.ndarray, " step"],
    events: Int[np.ndarray, " step"],
    censored: Int[np.ndarray, " step"],
    at_risk: Int[np.ndarray, " step"],
    confidence: float,
) -> KaplanMeier:
    # at a last time without anybody at risk (reverse estimate) nothing happens
    risk = np.maximum(at_risk, 1)
    survival = np.cumprod(1 - events / risk)
    # where the last at risk have the event, survival is 0 and has no variance on this scale
    left = np.where(events < risk, risk * (risk - events), 1)
    variance = np.cumsum(np.where(events < risk, events / left, 0.0))
    low, high = log_log_band(survival, np.sqrt(variance), confidence)
    return KaplanMeier(times, survival, low, high, at_risk, events, censored)


def log_log_band(
    survival: Float[np.ndarray, " step"], sd_log: Float[np.ndarray, " step"], confidence: float
) -> tuple[Float[np.ndarray, " step"], Float[np.ndarray, " step"]]:
    """Ends of a pointwise band that stays within 0 and 1; the probability itself where it is 0 or 1.

    Parameters
    ----------
    survival
        Probabilities, of survival or of an event.
    sd_log
        Standard error of the logarithm of each.
    confidence
        Share of intervals that hold the true value.
    """
    inside = (survival > 1e-15) & (survival < 1 - 1e-15)
    log_s = np.log(np.where(inside, survival, 0.5))
    reach = float(special.ndtri((1 + confidence) / 2)) * sd_log / log_s
    # log S is negative, so that a positive reach of the exponent widens downwards with the sign turned
    return (
        np.where(inside, np.exp(np.exp(-reach) * log_s), survival),
        np.where(inside, np.exp(np.exp(reach) * log_s), survival),
    )


def _by_group(
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    member: Int[np.ndarray, " patient"],
    groups: int,
) -> tuple[Int[np.ndarray, "step group"], Int[np.ndarray, "step group"]]:
    """Events, and patients at risk, of each group at each time with an event."""
    steps = np.unique(time[event])
    deaths = np.zeros((len(steps), groups), dtype=np.int64)
    np.add.at(deaths, (np.searchsorted(steps, time[event]), member[event]), 1)
    left_before = [np.searchsorted(np.sort(time[member == group]), steps, side="left") for group in range(groups)]
    return deaths, np.bincount(member, minlength=groups) - np.stack(left_before, axis=1)


def _covariance(
    at_risk: Int[np.ndarray, "step group"], deaths: Int[np.ndarray, " step"], total: Int[np.ndarray, " step"]
) -> Float[np.ndarray, "group group"]:
    # the last patient alone: the hypergeometric distribution has no variance
    spread = np.where(total > 1, deaths * (total - deaths) / np.maximum(total - 1, 1), 0.0)
    share = at_risk / total[:, np.newaxis]
    weighted = spread[:, np.newaxis] * share
    return np.asarray(np.diag(weighted.sum(axis=0)) - weighted.T @ share)
