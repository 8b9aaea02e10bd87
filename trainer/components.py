"""Describes maps by their principal components in the training part; knows nothing of models, folds or stores."""

import math
from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict

from store_schema.errors import TaskError, UsageError

NEGLIGIBLE = 1e-9
"""Components with less spread than this share of the first one's are rounding, and become 0."""


class MapComponents(BaseModel):
    """Mean map and principal components of a training part, by which any map is described; holds no patient.

    A map becomes its scores: products of (map - mean map) with each component, in units of the score's standard deviation
    in the training part. Whitening is our decision: the survival head then sees features of one size, as it does of
    covariates. The sign of a component is that which makes its loading of largest size positive (the first of equals).

    Attributes
    ----------
    shape
        Of one patient's map.
    centre
        Mean map, row after row.
    components
        Unit vectors, in falling order of spread; 0 where the training maps have no more.
    sd
        Standard deviation of the training scores (divisor n); 0 where the component is.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.3.1, discarded configuration (iii).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["pca"] = "pca"
    shape: tuple[int, ...]
    centre: tuple[float, ...]
    components: tuple[tuple[float, ...], ...]
    sd: tuple[float, ...]

    @classmethod
    def fit(cls, maps: Float[np.ndarray, "patient ..."], *, components: int) -> Self:
        """Components of a training part; give it no other patient.

        Parameters
        ----------
        maps
            Two at least.
        components
            How many are kept; at most one less than there are patients, and no more than a map has pixels.

        Raises
        ------
        UsageError
            If there are fewer than two maps.
        TaskError
            If all maps are equal.
        """
        if maps.ndim < 2 or len(maps) < 2:
            raise UsageError(f"principal components need two maps at least, got shape {maps.shape}")
        flat = maps.reshape(len(maps), -1).astype(np.float64)
        centre = flat.mean(axis=0)
        number = min(components, len(flat) - 1, flat.shape[1])
        # torch's, since it runs on the thread that a fit is given, and numpy's on as many as the process has
        spread, axes = _decomposed(flat - centre, number)
        if not spread[0] > 1e-12 * max(1.0, float(np.abs(centre).max())) * math.sqrt(flat.size):
            raise TaskError(f"the {len(maps)} training maps do not differ: check the view and its intensity rules")
        real = spread > NEGLIGIBLE * spread[0]
        return cls(
            shape=maps.shape[1:],
            centre=tuple(centre.tolist()),
            components=tuple(map(tuple, np.where(real[:, None], axes, 0.0).tolist())),
            sd=tuple(np.where(real, spread / math.sqrt(len(flat)), 0.0).tolist()),
        )

    def transform(self, maps: Float[np.ndarray, "patient ..."]) -> Float[np.ndarray, "patient component"]:
        """Scores of maps, float32.

        Raises
        ------
        UsageError
            If the maps are not of the size of those of the fit.
        """
        if maps.shape[1:] != self.shape:
            raise UsageError(f"expected maps of {self.shape} pixels, as in the training part, got {maps.shape[1:]}")
        centred = torch.from_numpy(maps.reshape(len(maps), -1) - np.asarray(self.centre))
        sd = np.asarray(self.sd)
        scores = (centred @ torch.tensor(self.components, dtype=torch.float64).T).numpy()
        return np.asarray(scores / np.where(sd > 0, sd, 1.0), dtype=np.float32)


def _decomposed(
    centred: Float[np.ndarray, "patient cell"], number: int
) -> tuple[Float[np.ndarray, " component"], Float[np.ndarray, "component cell"]]:
    """Singular values and right singular vectors, their signs decided."""
    _, spread, axes = torch.linalg.svd(torch.from_numpy(centred), full_matrices=False)
    axes = axes[:number].numpy()
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    return spread[:number].numpy(), np.asarray(axes * np.where(largest < 0, -1.0, 1.0))
