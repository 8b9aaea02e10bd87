"""Joins the vectors of a patient's modalities into one; knows nothing of towers, covariates or survival."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from store_schema.errors import ConfigError


class Fused(NamedTuple):
    """One vector per patient, and how it was mixed."""

    vector: Float[Tensor, "patient feature"]
    """The image vector."""
    alpha: Float[Tensor, " patient"] | None
    """Weight of the first modality, in (0, 1); None where nothing was mixed."""


class ConcatFusion(nn.Module):
    """Vectors side by side, in the order of the modalities; has no parameter.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.3.2 (i).
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.width = sum(widths)

    def forward(self, vectors: Sequence[Float[Tensor, "patient feature"]]) -> Fused:
        """Stacked vectors; a single one as it is."""
        return Fused(torch.cat(tuple(vectors), dim=1), None)


class GateFusion(nn.Module):
    """Weighted mean of two vectors, the weight being a logistic regression on both: 2d + 1 parameters.

    alpha = sigmoid(w · [first ‖ second] + b); the vector is alpha · first + (1 - alpha) · second. With one modality
    there is nothing to weigh: the gate is bypassed, holds no parameter, and alpha is None.

    Raises
    ------
    ConfigError
        If the vectors have different lengths.

    References
    ----------
    Guinea-Pérez et al. 2026, section 2.3.2 (ii); protocol section 5.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        if len(set(widths)) != 1:
            raise ConfigError(
                f"the gate mixes vectors of one length, got {', '.join(map(str, widths))}: use fusion: concat"
            )
        self.width = widths[0]
        self.gate = nn.Linear(2 * self.width, 1) if len(widths) == 2 else None

    def forward(self, vectors: Sequence[Float[Tensor, "patient feature"]]) -> Fused:
        """Mixed vectors; a single one as it is."""
        if self.gate is None:
            return Fused(vectors[0], None)
        first, second = vectors
        alpha = torch.sigmoid(self.gate(torch.cat((first, second), dim=1)))
        return Fused(alpha * first + (1 - alpha) * second, alpha.squeeze(1))
