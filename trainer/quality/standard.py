"""Standardises a cohort's embeddings as models see them, and finds who is far from the others; knows no group and no outcome."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from store_schema.errors import TaskError
from trainer.quality.reading import Place
from trainer.quality.results import Extent, Outlying
from trainer.scaling import VectorScaler, varies

MOST_UNKNOWN = 0.2
"""Share of patients above which a feature that they lack is left out, as ridge Cox does."""
OUTLIER = 3.5
"""Modified z-score beyond which somebody is far from the others (Iglewicz and Hoaglin 1993)."""
TO_Z = 0.6745
"""Median absolute deviation of a standard normal variable."""
NEGLIGIBLE = 1e-12
"""Share of the variance below which a component is rounding."""

Matrix = Float[np.ndarray, "patient feature"]


@dataclass(frozen=True, eq=False)
class Standardised:
    """Embeddings of those whose numbers are finite."""

    place: Place
    rows: Int[np.ndarray, " patient"]
    """Of them in `place`."""
    centred: Matrix
    """What all distances are of: maps less the cohort's mean map, divided by one number; z-scores of vectors."""
    sparse: int
    """Features of vectors that too many patients lack: left out."""
    constant: int
    """Features that are one number for all patients; 0 of a single one."""

    @property
    def patients(self) -> tuple[str, ...]:
        """Keys of those patients."""
        return tuple(self.place.patients[row] for row in self.rows.tolist())

    @property
    def stored(self) -> Matrix:
        """As stored, float64; of vectors the z-scores, since their features may have units of their own."""
        return self.centred if self.place.is_vector else self.place.values[self.rows].astype(np.float64)

    @property
    def varies(self) -> bool:
        """Whether any two embeddings differ."""
        return bool(self.centred.any())


def standardised(place: Place) -> Standardised:
    """Standardised as the trainer's heads do it (`trainer.scaling`), by the whole cohort, since nothing is fitted on it.

    Maps are not divided pixel by pixel: pixels that hardly vary would be blown up. Of vectors, an unknown value is the median.
    """
    rows = np.flatnonzero(place.usable)
    values = place.values[rows].astype(np.float64)
    if not place.is_vector:
        return _of_maps(place, rows, values)
    known = np.isfinite(values)
    kept = known.mean(axis=0) >= 1 - MOST_UNKNOWN if len(rows) else np.zeros(values.shape[1], dtype=bool)
    vectors = values[:, kept]
    try:
        scores = VectorScaler.fit(vectors).scores(vectors) if len(rows) else vectors
    except TaskError:
        # no feature varies, which is told as such
        scores = np.zeros_like(vectors)
    flat = int((~scores.any(axis=0)).sum()) if len(rows) > 1 else 0
    return Standardised(place, rows, scores, int((~kept).sum()), flat)


def _of_maps(place: Place, rows: Int[np.ndarray, " patient"], values: Matrix) -> Standardised:
    if not len(rows):
        return Standardised(place, rows, values, 0, 0)
    moving: Bool[np.ndarray, " feature"] = varies(values)
    # a mean of equal numbers may miss them by rounding
    centred = np.where(moving, values - values.mean(axis=0), 0.0)
    scale = float(np.sqrt(np.mean(centred**2)))
    flat = int((~moving).sum()) if len(rows) > 1 else 0
    return Standardised(place, rows, centred / scale if scale > 0 else centred, 0, flat)


def extent(values: Float[np.ndarray, " value"]) -> Extent | None:
    """Extremes, quartiles and median of the finite numbers; None where there is none."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    told = [float(one) for one in np.quantile(finite, [0, 0.25, 0.5, 0.75, 1])]
    return Extent(least=told[0], lower=told[1], median=told[2], upper=told[3], largest=told[4], n=len(finite))


def modified_z(values: Float[np.ndarray, " value"]) -> Float[np.ndarray, " value"]:
    """0.6745 (x − median)/MAD of each number; NaN where the MAD is 0.

    References
    ----------
    Iglewicz and Hoaglin 1993, How to detect and handle outliers, section 3.3.
    """
    if not len(values):
        return values
    median = np.median(values)
    deviation = np.median(np.abs(values - median))
    if not deviation > 0:
        return np.full(len(values), np.nan)
    return np.asarray(TO_Z * (values - median) / deviation)


def outlying(values: Float[np.ndarray, " value"], limit: float) -> Outlying:
    """How these sizes lie, and how many are far from the others."""
    if not np.isfinite(values).any():
        why = "features have units of their own" if len(values) else "no embedding has finite numbers"
        return Outlying(extent=None, outliers=None, reason=why)
    z = modified_z(values)
    if np.isnan(z).any():
        return Outlying(extent=extent(values), outliers=None, reason="more than half have one size: the MAD is 0")
    return Outlying(extent=extent(values), outliers=int((np.abs(z) > limit).sum()))


def norms(found: Standardised) -> Float[np.ndarray, " patient"]:
    """L2 norm of each embedding as it is stored, over the features that are known; NaN where features have names.

    Features with names, such as radiomics, have units of their own, which no norm can add up.
    """
    if found.place.layout.features is not None:
        return np.full(len(found.rows), np.nan)
    return np.asarray(np.sqrt(np.nansum(found.place.values[found.rows].astype(np.float64) ** 2, axis=1)))


def from_centre(found: Standardised) -> Float[np.ndarray, " patient"]:
    """Distance from the cohort's mean in root mean squares of that distance; 0 where nothing varies."""
    far = np.linalg.norm(found.centred, axis=1)
    typical = float(np.sqrt(np.mean(far**2))) if len(far) else 0.0
    return np.asarray(far / typical) if typical > 0 else far


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of a cohort's embeddings."""

    scores: Float[np.ndarray, "patient component"]
    """In falling order of variance; of each the entry of largest size is positive, the first of equals."""
    shares: Float[np.ndarray, " component"]
    """Of the variance; rounding is left out."""

    @property
    def effective_rank(self) -> float | None:
        """Exponential of the entropy of the shares (Roy and Vetterli 2007); None where nothing varies."""
        return float(np.exp(-(self.shares * np.log(self.shares)).sum())) if len(self.shares) else None

    @property
    def participation(self) -> float | None:
        """(Σλ)² / Σλ²; None where nothing varies."""
        return float(1 / (self.shares**2).sum()) if len(self.shares) else None


def components(found: Standardised) -> Components:
    """Principal components of all that varies."""
    if not found.varies:
        return Components(np.zeros((len(found.rows), 0)), np.zeros(0))
    vectors, values, _ = np.linalg.svd(found.centred, full_matrices=False)
    shares = values**2 / float((values**2).sum())
    real = shares > NEGLIGIBLE
    scores = vectors[:, real] * values[real]
    largest = np.take_along_axis(scores, np.abs(scores).argmax(axis=0)[np.newaxis], axis=0)
    return Components(scores * np.where(largest < 0, -1.0, 1.0), shares[real])
