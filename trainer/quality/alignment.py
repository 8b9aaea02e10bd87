"""Describes how the embeddings of two modalities go together, patient by patient and over a cohort; validates nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from store_schema.errors import CohortError
from trainer.measures.bootstrap import bootstrap
from trainer.quality.results import AlignedPoint, Alignment, Correlation
from trainer.quality.standard import Standardised, extent
from trainer.stats import permutation_p

LEAST = 8
"""Patients below which nothing of a cohort is told."""
POOR_OVERLAP = 0.80
"""Dice of body outlines below which the extractor warns."""

Matrix = Float[np.ndarray, "patient feature"]
Square = Float[np.ndarray, "patient patient"]


@dataclass(frozen=True, eq=False)
class Aligned:
    """Two modalities of the same patients, one study each."""

    view: str
    roi: str
    first: str
    second: str
    patients: tuple[str, ...]
    cosines: Square
    """Of each patient's first embedding (row) with each patient's second (column), both centred; 0 for one without a length."""
    body_dice: Float[np.ndarray, " patient"]
    """NaN where it was not recorded."""
    products: tuple[Square, Square]
    """Inner products of the patients' first embeddings, and of their second."""

    @property
    def own(self) -> Float[np.ndarray, " patient"]:
        """Cosine of each patient's own two."""
        return np.diagonal(self.cosines)

    @property
    def ranks(self) -> Float[np.ndarray, " patient"]:
        """Of a patient's own second embedding among all, by falling cosine: 1 is the nearest, ties share their mean rank."""
        return np.diagonal(stats.rankdata(-self.cosines, axis=1))


def aligned(first: Standardised, second: Standardised, patients: tuple[str, ...]) -> Aligned:
    """Two modalities of these patients, each centred and scaled over the whole cohort that has it.

    No map between them is fitted: both lie in the space of one frozen encoder, and cosines are taken as they are.
    """
    rows = [[one.patients.index(patient) for patient in patients] for one in (first, second)]
    embeddings = first.centred[rows[0]], second.centred[rows[1]]
    lengths = [np.linalg.norm(one, axis=1) for one in embeddings]
    size = lengths[0][:, np.newaxis] * lengths[1]
    products = embeddings[0] @ embeddings[1].T
    cosines = np.clip(np.divide(products, size, out=np.zeros_like(products), where=size > 0), -1, 1)
    dice = [first.place.facts[int(first.rows[row])].body_dice for row in rows[0]]
    return Aligned(
        view=first.place.view,
        roi=first.place.roi,
        first=first.place.modality,
        second=second.place.modality,
        patients=patients,
        cosines=cosines,
        body_dice=np.array([np.nan if one is None else one for one in dice], dtype=np.float64),
        products=(embeddings[0] @ embeddings[0].T, embeddings[1] @ embeddings[1].T),
    )


def linear_cka(first: Matrix, second: Matrix) -> float:
    """Linear centred kernel alignment, 0–1; with more features than patients it is near 1 whatever the embeddings.

    Raises
    ------
    CohortError
        If one of the two does not vary.

    References
    ----------
    Kornblith et al. 2019, section 3.
    """
    return _cka(_centred(first @ first.T), _centred(second @ second.T))


def debiased_cka(first: Matrix, second: Matrix) -> float:
    """Linear CKA of unbiased HSICs: about 0 for unrelated embeddings, and below it by chance.

    Raises
    ------
    CohortError
        If there are fewer than four patients, or one of the two does not vary.

    References
    ----------
    Song et al. 2012 (unbiased HSIC); Székely and Rizzo 2014 (U-centring); Nguyen et al. 2021 (in CKA).
    """
    return _cka(u_centred(first @ first.T), u_centred(second @ second.T))


def u_centred(products: Square) -> Square:
    """Inner products, U-centred, with a diagonal of 0: the sum of products of two such is n (n − 3) unbiased HSIC."""
    n = len(products)
    if n < 4:
        raise CohortError(f"{n} patients: a debiased alignment needs 4")
    kept = products - np.diag(np.diagonal(products))
    sums = kept.sum(axis=0)
    made = kept - (sums[:, np.newaxis] + sums) / (n - 2) + kept.sum() / ((n - 1) * (n - 2))
    return np.asarray(made - np.diag(np.diagonal(made)))


def alignment(
    found: Aligned, log_risk: Mapping[str, float], *, permutations: int, resamples: int, seed: list[int]
) -> Alignment:
    """How the two modalities go together, and with the risk.

    The null of both p-values: the second embeddings are dealt to the patients at random.
    """
    n = len(found.patients)
    risk = np.array([log_risk.get(patient, np.nan) for patient in found.patients])
    told = {"roi": found.roi, "first": found.first, "second": found.second, "patients": n}
    dice = found.body_dice
    told |= {"body_dice": extent(dice), "poor_overlap": int((dice < POOR_OVERLAP).sum()), "permutations": permutations}
    told |= {
        name: correlation(values, risk, resamples=resamples, seed=[*seed, place])
        for place, (name, values) in enumerate((("risk_cosine", found.own), ("risk_dice", dice)))
    }
    told |= {"cosine": extent(found.own), "points": _points(found.own, risk)}
    none = dict.fromkeys(("cka", "cka_debiased", "cka_p", "rank", "first_share", "rank_p"))
    if n < LEAST:
        return Alignment(**(told | none), reason=f"{n} patients have both: {LEAST} are needed")
    try:
        cka, debiased = (_cka(*map(centred, found.products)) for centred in (_centred, u_centred))
    except CohortError as error:
        return Alignment(**(told | none), reason=str(error))
    cka_p, rank_p = _permuted(found, permutations, [*seed, 2])
    ranks = found.ranks
    told |= {"cka": cka, "cka_debiased": debiased, "cka_p": cka_p, "rank_p": rank_p}
    return Alignment(**told, rank=extent(ranks), first_share=float((ranks == 1).mean()))


def correlation(
    values: Float[np.ndarray, " patient"], risk: Float[np.ndarray, " patient"], *, resamples: int, seed: list[int]
) -> Correlation:
    """Spearman's of those who have both numbers."""
    both = np.isfinite(values) & np.isfinite(risk)
    one, other = values[both], risk[both]
    n = len(one)
    if n < LEAST:
        return Correlation(spearman=None, n=n, reason=f"{n} patients have both numbers: {LEAST} are needed")
    try:
        value = _spearman(one, other)
        interval = bootstrap(
            lambda rows: _spearman(one[rows], other[rows]), persons=range(n), seed=seed, resamples=resamples
        )
        return Correlation(spearman=value, low=interval.low, high=interval.high, n=n)
    except CohortError as error:
        return Correlation(spearman=None, n=n, reason=str(error))


def _spearman(one: Float[np.ndarray, " patient"], other: Float[np.ndarray, " patient"]) -> float:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        raise CohortError("one of the two numbers is the same for all patients")
    return float(np.corrcoef(stats.rankdata(one), stats.rankdata(other))[0, 1])


def _permuted(found: Aligned, permutations: int, seed: list[int]) -> tuple[float, float]:
    """Both p-values: of the debiased CKA and of the mean rank."""
    rng = np.random.default_rng(seed)
    one, two = map(u_centred, found.products)
    ranks = stats.rankdata(-found.cosines, axis=1)
    orders: list[Int[np.ndarray, " patient"]] = [rng.permutation(len(one)) for _ in range(permutations)]
    shared = np.array([(one * two[np.ix_(order, order)]).sum() for order in orders])
    means = np.array([ranks[np.arange(len(order)), order].mean() for order in orders])
    # the statistic of the order as it is, and of orders that equal it by rounding
    own, size = float((one * two).sum()), float(np.sqrt((one**2).sum() * (two**2).sum()))
    return permutation_p(own - 1e-12 * size, shared), permutation_p(-float(found.ranks.mean()) - 1e-9, -means)


def _centred(products: Square) -> Square:
    means = products.mean(axis=0)
    return np.asarray(products - means - means[:, np.newaxis] + products.mean())


def _cka(first: Square, second: Square) -> float:
    """Cosine of two matrices of centred inner products."""
    lengths = float(np.linalg.norm(first)), float(np.linalg.norm(second))
    if not min(lengths) > 0:
        raise CohortError("the embeddings of one modality do not vary: no alignment is defined")
    return float((first * second).sum()) / (lengths[0] * lengths[1])


def _points(own: Float[np.ndarray, " patient"], risk: Float[np.ndarray, " patient"]) -> tuple[AlignedPoint, ...]:
    """Sorted by value, so that their order tells nobody."""
    pairs = sorted(zip(own.tolist(), risk.tolist(), strict=True))
    return tuple(AlignedPoint(cosine=one, log_risk=other if np.isfinite(other) else None) for one, other in pairs)
