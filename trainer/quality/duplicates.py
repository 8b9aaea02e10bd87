"""Finds patients whose embeddings are the same or nearly so; knows no outcome and does not say which of the two is wrong."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import pdist

from trainer.quality.results import Pairs
from trainer.quality.standard import Standardised, extent

NEAR = 0.01
"""Relative L2. Two computations of one study must agree within 1e-3 (protocol section 2, parity); ten times that leaves room for a
study that was stored, rounded or cropped again."""
SHARE = 0.1
"""Of the median distance of all pairs: without it, everybody would be a duplicate of everybody in a view that hardly varies."""
BIN, MOST_BINS = 0.05, 200
"""Width of a bin of log10 distance, and how many there are at most."""
KINDS = ("same_input", "same_content", "equal")
"""In which two studies may be the same, the strongest first."""


@dataclass(frozen=True)
class Pair:
    """Two studies that are too much alike; each kind includes no other."""

    patient: str
    other: str
    same_person: bool
    same_input: bool
    """The extractor's digest of voxels, geometry, mask and view."""
    same_content: bool
    """The digest of all stored arrays."""
    equal: bool
    """Mean maps or vectors number by number."""
    relative_l2: float
    """NaN where one of the two has numbers that are not finite."""
    share_of_median: float

    @property
    def kind(self) -> str:
        """The strongest of what holds."""
        return next((name for name in KINDS if getattr(self, name)), "near")


@dataclass(frozen=True, eq=False)
class Distances:
    """Distances of all pairs of usable embeddings, in the order of `scipy.spatial.distance.pdist`."""

    found: Standardised
    far: Float[np.ndarray, " pair"]
    """Of standardised embeddings."""
    relative: Float[np.ndarray, " pair"]
    """‖a − b‖ / √((‖a‖² + ‖b‖²)/2) of embeddings as stored; 0 where both are all zero."""

    @property
    def median(self) -> float:
        """Of the standardised distances; NaN without a pair."""
        return float(np.median(self.far)) if len(self.far) else float("nan")

    def place(self, row: int, other: int) -> int:
        """Of a pair of rows, the lower first."""
        n = len(self.found.rows)
        return n * row - row * (row + 1) // 2 + other - row - 1


def pair_distances(found: Standardised) -> Distances:
    """Distances of every pair; exact, so that equal embeddings lie at 0."""
    if len(found.rows) < 2:
        return Distances(found, np.zeros(0), np.zeros(0))
    stored = found.stored
    squares = (stored**2).sum(axis=1)
    first, second = np.triu_indices(len(found.rows), k=1)
    size = np.sqrt((squares[first] + squares[second]) / 2)
    apart = pdist(stored)
    relative = np.divide(apart, size, out=np.zeros_like(apart), where=size > 0)
    return Distances(found, pdist(found.centred), relative)


def alike(distances: Distances, persons: Mapping[str, str], *, near: float, share: float) -> tuple[Pair, ...]:
    """Pairs of patients that cannot be two, or are suspiciously near; of one person's studies those that are the same alone.

    Parameters
    ----------
    persons
        Whose study each patient of the store is.
    near, share
        Relative L2 distance, and share of the median distance; a pair is near that is below both.
    """
    place = distances.found.place
    row_of = {int(row): number for number, row in enumerate(distances.found.rows)}
    inputs, contents = ([getattr(one, name) for one in place.facts] for name in ("input_sha256", "content_sha256"))
    values = [row.tobytes() for row in place.values]
    same: dict[tuple[int, int], list[bool]] = {}
    for kind, digests in enumerate((inputs, contents, values)):
        for pair in _equal(digests):
            if kind < 2 or all(row in row_of for row in pair):
                same.setdefault(pair, [False] * 3)[kind] = True
    for pair in _near(distances, near, share):
        same.setdefault(pair, [False] * 3)
    made = []
    for (row, other), holds in sorted(same.items()):
        one, two = place.patients[row], place.patients[other]
        kin = persons.get(one, one) == persons.get(two, two)
        if kin and not any(holds):
            continue
        at = distances.place(row_of[row], row_of[other]) if row in row_of and other in row_of else None
        relative = float("nan") if at is None else float(distances.relative[at])
        far = float("nan") if at is None or not distances.median > 0 else float(distances.far[at]) / distances.median
        kinds = dict(zip(KINDS, holds, strict=True))
        made.append(Pair(one, two, kin, **kinds, relative_l2=relative, share_of_median=far))
    return tuple(made)


def pairs_told(distances: Distances, flagged: Sequence[Pair], persons: Mapping[str, str]) -> Pairs:
    """How near pairs of different persons come, and how many are too much alike."""
    patients = distances.found.patients
    owner = np.array([persons.get(one, one) for one in patients])
    first, second = np.triu_indices(len(patients), k=1)
    others = owner[first] != owner[second] if len(patients) else np.zeros(0, dtype=bool)
    relative, far = distances.relative[others], distances.far[others]
    counted = dict.fromkeys((*KINDS, "near"), 0)
    for pair in flagged:
        counted[pair.kind] += not pair.same_person
    counts, edges = _histogram(np.log10(relative[relative > 0]))
    return Pairs(
        pairs=int(others.sum()),
        relative_l2=extent(relative),
        nearest_share=float(far.min()) / distances.median if len(far) and distances.median > 0 else None,
        same_person=sum(pair.same_person for pair in flagged),
        edges=tuple(edges.tolist()),
        counts=tuple(int(one) for one in counts),
        **counted,
    )


def _histogram(
    logs: Float[np.ndarray, " pair"],
) -> tuple[Float[np.ndarray, " bin"], Float[np.ndarray, " edge"]]:
    """Counts and edges; none without a number."""
    if not len(logs):
        return np.zeros(0), np.zeros(0)
    return np.histogram(logs, bins=min(MOST_BINS, 1 + int(np.ptp(logs) / BIN)))


def _equal(digests: Sequence[object]) -> Iterator[tuple[int, int]]:
    """Pairs of rows whose digests are one."""
    rows_of: dict[object, list[int]] = {}
    for row, digest in enumerate(digests):
        rows_of.setdefault(digest, []).append(row)
    return (pair for rows in rows_of.values() for pair in combinations(rows, 2))


def _near(distances: Distances, near: float, share: float) -> Iterator[tuple[int, int]]:
    """Pairs of rows of the place that are below both limits."""
    rows = distances.found.rows
    first, second = np.triu_indices(len(rows), k=1)
    if not distances.median > 0:
        return iter(())
    close = (distances.relative <= near) & (distances.far <= share * distances.median)
    return ((int(rows[first[at]]), int(rows[second[at]])) for at in np.flatnonzero(close))
