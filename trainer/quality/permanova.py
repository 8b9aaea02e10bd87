"""Tests whether groups differ in location or in spread, by permutations within strata; knows no embedding and no patient."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from store_schema.errors import CohortError, UsageError
from trainer.quality.results import PermutationTest
from trainer.stats import permutation_p

Matrix = Float[np.ndarray, "patient feature"]
Labels = Int[np.ndarray, " patient"]
Assignments = Int[np.ndarray, "permutation patient"]
Squares = Float[np.ndarray, " permutation"]
BLOCK = 64
"""Permutations at once."""
SMALLEST = 1e-300
TIED = 1e-9
"""Share of the observed statistic by which a permuted one may miss it by rounding and still reach it."""
ALONE = 1e-9
"""1 − leverage below which a patient decides a centroid alone, and has no distance from it."""


@dataclass(frozen=True, eq=False)
class Grouped:
    """Patients in groups, and in strata within which labels are exchanged."""

    member: Labels
    """Group, 0 …, every one taken."""
    stratum: Labels
    """Stratum, 0 …, every one taken; all 0 where labels go to anybody."""

    @property
    def dummies(self) -> Float[np.ndarray, "patient group"]:
        """1 where a patient is of the group."""
        return np.asarray(self.member[:, np.newaxis] == np.arange(self.member.max() + 1), dtype=np.float64)

    def within(self, values: Matrix) -> Matrix:
        """Values less their stratum's mean."""
        counts = np.bincount(self.stratum)[:, np.newaxis]
        sums = np.zeros((len(counts), values.shape[1]))
        np.add.at(sums, self.stratum, values)
        return np.asarray(values - (sums / counts)[self.stratum])

    @property
    def inverse(self) -> Float[np.ndarray, "group group"]:
        """Inverse of the dummies' products within strata: the same after every permutation within strata."""
        centred = self.within(self.dummies)
        return np.asarray(np.linalg.pinv(centred.T @ centred, hermitian=True))

    @property
    def freedom(self) -> tuple[int, int]:
        """Degrees of freedom between groups and of what is left.

        Raises
        ------
        CohortError
            If groups and strata are one, or nothing is left.
        """
        between = int(np.linalg.matrix_rank(self.within(self.dummies)))
        left = len(self.member) - int(self.stratum.max()) - 1 - between
        if between == 0 or left < 1:
            raise CohortError(f"{between} degrees of freedom between groups and {left} within: nothing can be tested")
        return between, left

    def leverage(self) -> Float[np.ndarray, " patient"]:
        """How much each patient decides the mean that it is held against, 0–1."""
        centred = self.within(self.dummies)
        own = np.einsum("pg,gh,ph->p", centred, self.inverse, centred)
        return np.asarray(own + 1 / np.bincount(self.stratum)[self.stratum])

    def residuals(self, values: Matrix) -> Matrix:
        """Values less what strata and groups explain of them."""
        centred, rest = self.within(self.dummies), self.within(values)
        return np.asarray(rest - centred @ (self.inverse @ (centred.T @ rest)))

    def of(self, rows: Labels) -> "Grouped":
        """The same of some patients, groups and strata numbered anew."""
        return Grouped(*(np.unique(labels[rows], return_inverse=True)[1] for labels in (self.member, self.stratum)))

    def permuted(self, permutations: int, seed: list[int]) -> Iterator[Assignments]:
        """Groups exchanged at random within strata, block by block."""
        rng = np.random.default_rng(seed)
        strata = [np.flatnonzero(self.stratum == one) for one in range(int(self.stratum.max()) + 1)]
        for start in range(0, permutations, BLOCK):
            block = np.tile(self.member, (min(BLOCK, permutations - start), 1))
            for rows in strata:
                block[:, rows] = rng.permuted(block[:, rows], axis=1)
            yield block


def location(values: Matrix, groups: Grouped, *, permutations: int, seed: list[int]) -> PermutationTest:
    """PERMANOVA on Euclidean distances.

    Null: within a stratum every assignment of the embeddings to the groups is as likely as any other, so that the embeddings have
    one distribution in all groups. Under it p is exact. It is rejected where centroids differ, and also where spreads alone do,
    above all with groups of unequal size: `spread` tells the two apart.

    The statistic is F = (A/a)/(W/w), A being the variation between groups beyond that between strata, W what is left of it. Without
    strata it is the pseudo-F of the reference, which sums squared distances between patients.

    Parameters
    ----------
    values
        Embeddings, one row for each person.
    groups
        Groups and strata of the rows.
    permutations, seed
        B, and of the draws.

    Raises
    ------
    CohortError
        If no permutation can tell anything: see `Grouped.freedom`, or the embeddings do not differ.

    References
    ----------
    Anderson 2001, Austral Ecology 26, 32–46; permutation within strata: Anderson and ter Braak 2003. p: Phipson and Smyth 2010.
    """
    _check(values, groups, permutations)
    between, left = groups.freedom
    products = _products(values, groups)
    total = float(np.trace(products))
    if not total > TIED * TIED * max(SMALLEST, float((values**2).sum())):
        raise CohortError("nothing varies within strata: groups cannot be told apart")
    inverse = groups.inverse

    def explained(members: Assignments) -> Squares:
        dummies = _dummies(members, len(inverse))
        within = dummies.transpose(0, 2, 1) @ (products @ dummies)
        return np.asarray((within * inverse).sum(axis=(1, 2)))

    own = float(explained(groups.member[np.newaxis])[0])
    drawn = np.concatenate([explained(block) for block in groups.permuted(permutations, seed)])
    return _told(own, total, (between, left), drawn, np.full(len(drawn), total))


def distances_to_centroid(values: Matrix, groups: Grouped) -> Float[np.ndarray, " patient"]:
    """Distance of each patient from its group's centroid, beside its stratum's; NaN where it makes that centroid alone.

    Distances are divided by √(1 − leverage), without strata √(1 − 1/n): else those of small groups would be too short.

    References
    ----------
    Anderson 2006, Biometrics 62, 245–253; the correction: O'Neill and Mathews 2000.
    """
    left = 1 - groups.leverage()
    far = np.linalg.norm(groups.residuals(values), axis=1)
    return np.where(left > ALONE, far / np.sqrt(np.maximum(left, ALONE)), np.nan)


def spread(values: Matrix, groups: Grouped, *, permutations: int, seed: list[int]) -> PermutationTest:
    """PERMDISP: analysis of variance of the distances to centroids.

    Null: but for their centroids, the groups' embeddings have one distribution. Each embedding less its centroid is dealt to the
    groups, within strata, and distances to the new centroids are taken: p is exact for large groups. Where the distances themselves
    are dealt instead, one patient far out draws its centroid along and makes its whole group look wide: of cohorts with such a
    patient and no difference that test rejected a quarter in simulations (groups of 8 and 16), this one an eighth.

    Raises
    ------
    CohortError
        As `location`.

    References
    ----------
    Anderson 2006, Biometrics 62, 245–253 (the statistic, and residuals that are permuted).
    """
    _check(values, groups, permutations)
    rows = np.flatnonzero(1 - groups.leverage() > ALONE)
    some, kept = groups.of(rows), values[rows]
    freedom = some.freedom
    rest = some.residuals(kept) / np.sqrt(1 - some.leverage())[:, np.newaxis]
    if not float((rest**2).sum()) > TIED * TIED * max(SMALLEST, float((kept**2).sum())):
        raise CohortError("nothing varies within groups: they have no spread")
    own, total = (float(one[0]) for one in _of_distances(_products(kept, some), some.member[np.newaxis], some))
    products = _products(rest, some)
    drawn = [_of_distances(products, block, some) for block in some.permuted(permutations, seed)]
    return _told(own, total, freedom, *(np.concatenate(one) for one in zip(*drawn, strict=True)))


def _of_distances(
    products: Float[np.ndarray, "patient patient"], members: Assignments, groups: Grouped
) -> tuple[Squares, Squares]:
    """Sums of squares of the distances to centroids, between groups and in all, for each assignment.

    Parameters
    ----------
    products
        Inner products of the embeddings less their strata's means.
    """
    inverse, sizes = groups.inverse, np.bincount(groups.stratum)
    means = (groups.stratum == np.arange(len(sizes))[:, np.newaxis]) / sizes[:, np.newaxis]
    dummies = _dummies(members, len(inverse))
    centred = dummies - (means @ dummies)[:, groups.stratum]
    weights = centred @ inverse
    towards = products @ dummies
    lengths = ((weights @ (dummies.transpose(0, 2, 1) @ towards)) * weights).sum(axis=2)
    squares = np.diagonal(products) - 2 * (weights * towards).sum(axis=2) + lengths
    left = 1 - 1 / sizes[groups.stratum] - (weights * centred).sum(axis=2)
    far = np.sqrt(np.maximum(squares, 0) / np.maximum(left, ALONE))
    far -= (far @ means.T)[:, groups.stratum]
    sums = (dummies.transpose(0, 2, 1) @ far[:, :, np.newaxis])[:, :, 0]
    return ((sums @ inverse) * sums).sum(axis=1), (far**2).sum(axis=1)


def _told(own: float, total: float, freedom: tuple[int, int], drawn: Squares, totals: Squares) -> PermutationTest:
    """The test of a sum of squares between groups and in all, and those of permutations."""
    between, left = freedom
    error = (total - own) / left
    f = _f(np.array([own]), np.array([total]), freedom)[0]
    return PermutationTest(
        f=float(f),
        r2=own / total if total > 0 else 0.0,
        omega2=(own - between * error) / (total + error) if total > 0 else 0.0,
        p=permutation_p(float(f) * (1 - TIED), _f(drawn, totals, freedom)),
    )


def _f(explained: Squares, total: Squares, freedom: tuple[int, int]) -> Squares:
    """Pseudo-F; where groups explain all but rounding, that of the rounding, and 0 where nothing varies."""
    rest = np.maximum(total - explained, TIED * TIED * total)
    ratio = np.divide(explained, rest, out=np.zeros_like(rest), where=rest > 0)
    return np.asarray(ratio * freedom[1] / freedom[0])


def _products(values: Matrix, groups: Grouped) -> Float[np.ndarray, "patient patient"]:
    """Inner products of values less their strata's means."""
    rest = groups.within(values)
    return np.asarray(rest @ rest.T)


def _dummies(members: Assignments, groups: int) -> Float[np.ndarray, "permutation patient group"]:
    return np.asarray(members[:, :, np.newaxis] == np.arange(groups), dtype=np.float64)


def _check(values: Matrix, groups: Grouped, permutations: int) -> None:
    if permutations < 1 or len(values) != len(groups.member) or not np.isfinite(values).all():
        raise UsageError(
            f"expected finite values of {len(groups.member)} patients and a permutation, got {values.shape}"
        )
