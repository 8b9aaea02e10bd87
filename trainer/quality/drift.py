"""Tests whether embeddings differ between centres, scanners or other groups of patients; knows no view and no risk."""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from store_schema.errors import CohortError
from trainer.quality.permanova import Grouped, distances_to_centroid, location, spread
from trainer.quality.results import Drift, PermutationTest, Scheme
from trainer.quality.standard import Standardised
from trainer.quality.subjects import Subjects
from trainer.stats import holm

LEAST_GROUP, PERMUTATIONS = 5, 999
PER_TEST = 100
"""Permutations for each test of a family at least: the least p after Holm is then 0.01, and no test is lost by their number."""


@dataclass(frozen=True)
class Rules:
    """How groups are compared."""

    least_group: int = LEAST_GROUP
    permutations: int = PERMUTATIONS
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Comparison:
    """Groups of one column among some patients, ready to be tested, or why they are not."""

    column: str
    scheme: Scheme
    rows: Int[np.ndarray, " patient"]
    """Of the patients in the sequence they were made from: one study each, in groups that are large enough."""
    labels: tuple[str, ...]
    """Their groups."""
    events: tuple[bool, ...] | None
    left_out: int
    reason: str | None

    @property
    def levels(self) -> dict[str, int]:
        """Patients of each group, by name."""
        return dict(sorted(Counter(self.labels).items()))

    @property
    def groups(self) -> Grouped:
        """Groups and strata as numbers."""
        member = np.unique(np.array(self.labels), return_inverse=True)[1]
        strata = [0] * len(self.labels) if self.events is None else self.events
        return Grouped(member, np.unique(np.array(strata), return_inverse=True)[1])


def index_studies(patients: Sequence[str], subjects: Subjects) -> list[int]:
    """Place of the first study of each person: studies of one person are no independent observations."""
    owners = subjects.owners(patients)
    first: dict[str, int] = {}
    for row, patient in enumerate(patients):
        first.setdefault(owners[patient], row)
    return sorted(first.values())


def comparisons(patients: Sequence[str], subjects: Subjects, rules: Rules) -> Iterator[Comparison]:
    """Of every column the groups of these patients, freely and, where outcomes are known, within strata of the event."""
    rows = index_studies(patients, subjects)
    some = {row: patients[row] for row in rows}
    for column, values in subjects.groups.items():
        yield _comparison(column, some, values, None, rules)
        if subjects.event is not None:
            yield _comparison(column, some, values, subjects.event, rules)


def _comparison(
    column: str,
    patients: Mapping[int, str],
    values: Mapping[str, str],
    event: Mapping[str, bool] | None,
    rules: Rules,
) -> Comparison:
    """Groups of a column among patients by their row; within strata of the event where it is given."""
    told = {row: one for row, one in patients.items() if one in values and (event is None or one in event)}
    sizes = Counter(values[one] for one in told.values())
    kept = {row: one for row, one in told.items() if sizes[values[one]] >= rules.least_group}
    labels = tuple(values[one] for one in kept.values())
    events = None if event is None else tuple(event[one] for one in kept.values())
    reason = None
    if len(set(labels)) < 2:
        reason = f"fewer than two groups of {rules.least_group} patients"
    elif events is not None and min(sum(events), len(events) - sum(events)) < rules.least_group:
        reason = f"fewer than {rules.least_group} patients with the event, or without"
    scheme: Scheme = "free" if event is None else "within event"
    rows = np.array(list(kept), dtype=np.int64)
    return Comparison(column, scheme, rows, labels, events, len(patients) - len(kept), reason)


def permutations_for(planned: Iterable[Comparison], rules: Rules) -> int:
    """B: what is asked for, or more where there are so many tests that none could be significant after Holm."""
    tests = Counter(one.scheme for one in planned if one.reason is None)
    # each comparison is tested for location and for spread
    return max(rules.permutations, PER_TEST * 2 * max(tests.values(), default=0) - 1)


def compared(found: Standardised, one: Comparison, permutations: int, seed: int) -> Drift:
    """Location and spread of the groups' embeddings; the draws depend on seed, view, entry, column and kind alone.

    Parameters
    ----------
    one
        Groups of the patients of `found`.
    permutations
        B of `permutations_for`.
    """
    told = {"column": one.column, "scheme": one.scheme, "levels": one.levels, "left_out": one.left_out}
    none = Drift(**told, permutations=0, location=None, spread=None)
    if one.reason is not None:
        return none.model_copy(update={"reason": one.reason})
    values, groups = found.centred[one.rows], one.groups
    label = f"{found.place.view}/{found.place.modality}/{found.place.roi}/{one.column}/{one.scheme}"
    stream = [seed, zlib.crc32(label.encode())]
    try:
        where = location(values, groups, permutations=permutations, seed=[*stream, 0])
        wide = spread(values, groups, permutations=permutations, seed=[*stream, 1])
    except CohortError as error:
        return none.model_copy(update={"reason": str(error)})
    typical = float(np.sqrt((found.centred**2).sum(axis=1).mean()))
    far = distances_to_centroid(values, groups) / typical
    means = {
        level: float(np.nanmean(far[groups.member == number]))
        for number, level in enumerate(one.levels)
        if np.isfinite(far[groups.member == number]).any()
    }
    return Drift(**told, permutations=permutations, location=where, spread=wide, distance=means)


def adjusted(drifts: Sequence[Drift]) -> tuple[Drift, ...]:
    """The same with p-values that hold for all tests of one kind of permutation together (Holm)."""
    found = list(drifts)
    for scheme in ("free", "within event"):
        mine = [number for number, one in enumerate(drifts) if one.scheme == scheme and one.location is not None]
        tests = [test for number in mine for test in _tests(drifts[number])]
        p_holm = iter(holm([test.p for test in tests]) if tests else ())
        for number in mine:
            where, wide = (test.model_copy(update={"p_holm": next(p_holm)}) for test in _tests(drifts[number]))
            found[number] = drifts[number].model_copy(update={"location": where, "spread": wide})
    return tuple(found)


def _tests(one: Drift) -> tuple[PermutationTest, PermutationTest]:
    assert one.location is not None
    assert one.spread is not None
    return one.location, one.spread
