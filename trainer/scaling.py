"""Standardises maps, memories and vectors by what the training part shows; knows nothing of models, folds or stores."""

import math
from typing import Literal, Self

import numpy as np
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict

from store_schema.errors import TaskError, UsageError
from trainer.spec import MapScaling


class MapScaler(BaseModel):
    """What is taken off every map of one modality, and what it is divided by; holds no patient.

    Our decision, the paper states none. A frozen encoder gives all patients nearly the same map: position encoding,
    body outline, the offset of its channels. What differs between patients is small beside it, and a small network
    with global pooling would spend its training on the common part. ``pixel`` therefore takes off the mean map of the
    training part, pixel by pixel, and divides by one number, the standard deviation of what is left over all pixels
    and patients. It does not divide pixel by pixel: pixels that hardly vary would be blown up, and with them whatever
    is unusual there in a new patient. ``scalar`` takes off one mean value, ``none`` does nothing.

    Memories are standardised in the same way, their layers and channels being axes like rows and columns.

    Attributes
    ----------
    kind
        Which of the three.
    shape
        Of one patient's map; empty where any will do.
    centre
        What is taken off: the mean map, row after row, or one value.
    scale
        What the rest is divided by, > 0.
    flat
        Whether a map leaves as one row of numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: MapScaling
    shape: tuple[int, ...]
    centre: tuple[float, ...]
    scale: float
    flat: bool = False

    @classmethod
    def fit(cls, maps: Float[np.ndarray, "patient ..."], *, kind: MapScaling = "pixel", flat: bool = False) -> Self:
        """Scaler of a training part; give it no other patient.

        Raises
        ------
        UsageError
            If there is no map.
        TaskError
            If all maps are equal, so that nothing can be learned from them.
        """
        if maps.ndim < 3 or len(maps) == 0:
            raise UsageError(f"expected maps as (patient, row, column), at least one, got shape {maps.shape}")
        if kind == "none":
            return cls(kind=kind, shape=(), centre=(0.0,), scale=1.0, flat=flat)
        centre = _centre(maps, kind)
        scale = math.sqrt(np.mean(np.square(maps - centre, dtype=np.float64)))
        # a pixel-wise mean of equal float32 maps may miss them by rounding
        if not scale > 1e-12 * max(1.0, float(np.abs(centre).max())):
            raise TaskError(f"the {len(maps)} training maps do not differ: check the view and its intensity rules")
        return cls(kind=kind, shape=centre.shape, centre=tuple(centre.reshape(-1).tolist()), scale=scale, flat=flat)

    def transform(self, maps: Float[np.ndarray, "patient ..."]) -> Float[np.ndarray, "patient ..."]:
        """Standardised maps, float32.

        Raises
        ------
        UsageError
            If the maps are not of the size of those of the fit.
        """
        if self.shape and maps.shape[1:] != self.shape:
            raise UsageError(f"expected maps of {self.shape} pixels, as in the training part, got {maps.shape[1:]}")
        centre = np.asarray(self.centre).reshape(self.shape)
        scaled = np.asarray((maps - centre) / self.scale, dtype=np.float32)
        return scaled.reshape(len(scaled), -1) if self.flat else scaled


class VectorScaler(BaseModel):
    """Median imputation, then a z-score, of each feature of one modality's vectors; holds no patient.

    A feature that is never known in the training part, or does not vary there, becomes 0 for everybody: the vector keeps
    its length, and no patient is judged by what the training part could not show.

    Attributes
    ----------
    fill
        Median of the known training values, for patients whose value is not known.
    mean, sd
        Of the training values after imputation (divisor n); sd is 0 for a feature that is zeroed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["z_score"] = "z_score"
    fill: tuple[float, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]

    @classmethod
    def fit(cls, vectors: Float[np.ndarray, "patient feature"]) -> Self:
        """Scaler of a training part, NaN standing for a value that is not known; give it no other patient.

        Raises
        ------
        UsageError
            If there is no vector.
        TaskError
            If no feature varies, so that nothing can be learned from them.
        """
        if vectors.ndim != 2 or len(vectors) == 0:
            raise UsageError(f"expected vectors as (patient, feature), at least one, got shape {vectors.shape}")
        values = vectors.astype(np.float64)
        fill = medians(values)
        filled = np.where(np.isnan(values), fill, values)
        mean, sd = filled.mean(axis=0), np.where(varies(filled), filled.std(axis=0), 0.0)
        if not sd.any():
            raise TaskError(
                f"none of the {vectors.shape[1]} features varies among the {len(vectors)} training vectors: check the view"
            )
        return cls(fill=tuple(fill.tolist()), mean=tuple(mean.tolist()), sd=tuple(sd.tolist()))

    def transform(self, vectors: Float[np.ndarray, "patient feature"]) -> Float[np.ndarray, "patient feature"]:
        """Z-scores, finite, float32.

        Raises
        ------
        UsageError
            As `scores`.
        """
        return self.scores(vectors).astype(np.float32)

    def scores(self, vectors: Float[np.ndarray, "patient feature"]) -> Float[np.ndarray, "patient feature"]:
        """Z-scores, finite, float64.

        Raises
        ------
        UsageError
            If the vectors are not of the length of those of the fit.
        """
        if vectors.shape[1:] != (len(self.sd),):
            raise UsageError(
                f"expected vectors of {len(self.sd)} features, as in the training part, got {vectors.shape[1:]}"
            )
        sd = np.asarray(self.sd)
        filled = np.where(np.isnan(vectors), np.asarray(self.fill), vectors)
        return np.where(sd > 0, (filled - np.asarray(self.mean)) / np.where(sd > 0, sd, 1.0), 0.0)


def medians(values: Float[np.ndarray, "patient feature"]) -> Float[np.ndarray, " feature"]:
    """Median of the known values of each feature; 0 where none is known."""
    known = ~np.isnan(values)
    found = np.zeros(values.shape[1])
    some = known.any(axis=0)
    found[some] = np.nanmedian(values[:, some], axis=0)
    return found


def varies(values: Float[np.ndarray, "patient feature"]) -> Bool[np.ndarray, " feature"]:
    """Whether the values of a feature differ by more than rounding, and by so much that dividing by it is safe."""
    return np.asarray(values.std(axis=0) > np.maximum(1e-12 * np.abs(values).max(axis=0), 1e-150))


def _centre(maps: Float[np.ndarray, "patient ..."], kind: MapScaling) -> Float[np.ndarray, "..."]:
    return np.asarray(maps.mean(axis=None if kind == "scalar" else 0, dtype=np.float64))
