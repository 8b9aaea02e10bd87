"""Holds what a model reads of a cohort's images, as it is stored; knows nothing of stores, outcomes or heads."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class StoredImages:
    """What a model reads of everybody."""

    arrays: Mapping[str, Float[np.ndarray, "patient ..."]]
    """By modality, rows as in the cohort, as they are stored but for pooling."""
    features: tuple[str, ...] = ()
    """Names of the numbers of a vector; empty where the view names none."""
