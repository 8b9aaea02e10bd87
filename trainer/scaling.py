"""Standardises mean maps by what the training part shows; knows nothing of models, folds or stores."""

from typing import Self

import numpy as np
from jaxtyping import Float
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

    Attributes
    ----------
    kind
        Which of the three.
    centre
        What is taken off, row by row: the mean map, or one value (one row, one column).
    scale
        What the rest is divided by, > 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: MapScaling
    centre: tuple[tuple[float, ...], ...]
    scale: float

    @classmethod
    def fit(cls, maps: Float[np.ndarray, "patient row column"], *, kind: MapScaling = "pixel") -> Self:
        """Scaler of a training part; give it no other patient.

        Raises
        ------
        UsageError
            If there is no map.
        TaskError
            If all maps are equal, so that nothing can be learned from them.
        """
        if maps.ndim != 3 or len(maps) == 0:
            raise UsageError(f"expected maps as (patient, row, column), at least one, got shape {maps.shape}")
        if kind == "none":
            return cls(kind=kind, centre=((0.0,),), scale=1.0)
        centre = _centre(maps, kind)
        scale = float(np.sqrt(np.mean(np.square(maps - centre, dtype=np.float64))))
        # a pixel-wise mean of equal float32 maps may miss them by rounding
        if not scale > 1e-12 * max(1.0, float(np.abs(centre).max())):
            raise TaskError(f"the {len(maps)} training maps do not differ: check the view and its intensity rules")
        return cls(kind=kind, centre=tuple(map(tuple, centre.tolist())), scale=scale)

    def transform(self, maps: Float[np.ndarray, "patient row column"]) -> Float[np.ndarray, "patient row column"]:
        """Standardised maps, float32.

        Raises
        ------
        UsageError
            If the maps are not of the size of those of the fit.
        """
        centre = np.asarray(self.centre)
        if centre.shape != (1, 1) and maps.shape[1:] != centre.shape:
            raise UsageError(f"expected maps of {centre.shape} pixels, as in the training part, got {maps.shape[1:]}")
        return np.asarray((maps - centre) / self.scale, dtype=np.float32)


def _centre(maps: Float[np.ndarray, "patient row column"], kind: MapScaling) -> Float[np.ndarray, "row column"]:
    if kind == "scalar":
        return np.full((1, 1), maps.mean(dtype=np.float64))
    return np.asarray(maps.mean(axis=0, dtype=np.float64))
