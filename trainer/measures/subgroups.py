"""Judges risks within groups of patients; knows nothing of models or of what made the groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from store_schema.errors import CohortError, UsageError
from trainer.measures.bootstrap import bootstrap_c
from trainer.metrics import checked, harrell_c, pair_counts

LEAST_EVENTS = 10
"""With fewer a group's c says next to nothing: its standard error is about 0.1 or more."""
MISSING = "missing"
"""Level of patients whose value is not known."""


@dataclass(frozen=True)
class GroupC:
    """Harrell's c within one group, or why there is none."""

    label: str
    patients: int
    events: int
    c: float | None
    """Of pairs within the group; None with a reason."""
    low: float | None
    """Lower end of its bootstrap interval; None where none was asked for or found."""
    high: float | None
    """Upper end of that interval."""
    reason: str | None
    """Why there is no c."""


@dataclass(frozen=True)
class GroupedC:
    """c within each of several groups, and within all of them together."""

    groups: tuple[GroupC, ...]
    """By label."""
    within: float | None
    """c over all pairs of one and the same group: what is left where groups are not compared; None without a pair."""
    pairs: int
    """Such pairs."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Risks of patients on one scale and their outcomes.

    Raises
    ------
    UsageError, TaskError, CohortError
        As in `trainer.metrics.harrell_c`, and if there is not one person per row.
    """

    risk: Float[np.ndarray, " patient"]
    """Higher is worse."""
    time: Float[np.ndarray, " patient"]
    event: Bool[np.ndarray, " patient"]
    persons: Sequence[object]
    """Whose each row is."""

    def __post_init__(self) -> None:
        checked(self.risk, self.time, self.event)
        if len(self.persons) != len(self.risk):
            raise UsageError(f"expected one person per row, got {len(self.persons)} for {len(self.risk)}")

    def of(self, rows: Int[np.ndarray, " row"]) -> "Judged":
        """These rows alone."""
        persons = [self.persons[row] for row in rows.tolist()]
        return Judged(self.risk[rows], self.time[rows], self.event[rows], persons)


def by_level(
    levels: Sequence[str],
    judged: Judged,
    *,
    least_events: int = LEAST_EVENTS,
    resamples: int = 0,
    seed: int | Sequence[int] = 0,
) -> tuple[GroupC, ...]:
    """Harrell's c within each level of a covariate, by label; only where events and pairs allow it.

    `MISSING` stands last. The c of levels is not to be held against that of all patients: who are alike in a covariate
    that risks use are harder to tell apart.

    Parameters
    ----------
    levels
        Level of each patient, as `levels_of` gives it.
    judged
        The patients.
    least_events
        With fewer a level has a reason in place of c.
    resamples
        Of the bootstrap interval, by persons; 0 asks for none.
    seed
        Of the bootstrap.

    Raises
    ------
    UsageError
        If there is not one level per patient.
    """
    rows = _rows_of(levels, len(judged.risk))
    return tuple(_group(label, judged.of(mine), least_events, resamples, seed) for label, mine in rows.items())


def by_group(
    labels: Sequence[str],
    judged: Judged,
    *,
    least_events: int = LEAST_EVENTS,
    resamples: int = 0,
    seed: int | Sequence[int] = 0,
) -> GroupedC:
    """Harrell's c within each centre, and over all pairs of one centre: of risks that tell only centres apart it is 0.5.

    Parameters and errors as of `by_level`; pairs of groups too small for a c of their own count in `within` too.
    """
    right, pairs = 0.0, 0
    for mine in _rows_of(labels, len(judged.risk)).values():
        counts = pair_counts(risk=judged.risk[mine], time=judged.time[mine], event=judged.event[mine])
        right += float(counts.concordant.sum() + 0.5 * counts.tied_risk.sum())
        pairs += int(counts.comparable.sum())
    groups = by_level(labels, judged, least_events=least_events, resamples=resamples, seed=seed)
    return GroupedC(groups=groups, within=right / pairs if pairs else None, pairs=pairs)


def levels_of(values: Shaped[np.ndarray, " patient"]) -> tuple[str, ...]:
    """Level of each patient: text as it is, numbers by whether they reach the median, `MISSING` where unknown.

    Numbers of two values keep them. Where half or more have the least value, the cut is above it.

    Parameters
    ----------
    values
        A covariate: numbers with NaN, or text with None, where unknown.
    """
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.number):
        return tuple(MISSING if _unknown(value) else str(value) for value in array.tolist())
    known = np.unique(array[~np.isnan(array)])
    if len(known) <= 2:
        return tuple(MISSING if np.isnan(value) else f"{value:g}" for value in array)
    cut = max(float(np.nanmedian(array)), float(known[1]))
    return tuple(MISSING if np.isnan(value) else f"≥ {cut:g}" if value >= cut else f"< {cut:g}" for value in array)


def _unknown(value: object) -> bool:
    return value is None or (isinstance(value, float) and bool(np.isnan(value)))


def _rows_of(labels: Sequence[str], patients: int) -> dict[str, Int[np.ndarray, " row"]]:
    if len(labels) != patients:
        raise UsageError(f"expected one label per patient, got {len(labels)} for {patients}")
    names = sorted(set(labels), key=lambda label: (label == MISSING, label))
    array = np.array(labels, dtype=object)
    return {name: np.flatnonzero(array == name) for name in names}


def _group(label: str, mine: Judged, least_events: int, resamples: int, seed: int | Sequence[int]) -> GroupC:
    patients, events = len(mine.risk), int(mine.event.sum())
    if events < least_events:
        reason = f"{events} events, fewer than {least_events}"
        return GroupC(label, patients, events, None, None, None, reason)
    try:
        c = harrell_c(risk=mine.risk, time=mine.time, event=mine.event).c
    except CohortError:
        return GroupC(label, patients, events, None, None, None, "no comparable pair")
    low, high = _ends(mine, resamples, seed) if resamples else (None, None)
    return GroupC(label, patients, events, c, low, high, None)


def _ends(mine: Judged, resamples: int, seed: int | Sequence[int]) -> tuple[float | None, float | None]:
    try:
        found = bootstrap_c(
            risk=mine.risk,
            time=mine.time,
            event=mine.event,
            persons=mine.persons,
            seed=seed,
            resamples=resamples,
        )
    except CohortError:
        return None, None
    return found.low, found.high
