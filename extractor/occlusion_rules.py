"""Says how patches of an image are hidden, and what a view of such embeddings is called; knows no study and no network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from store_schema import ViewSpec
from store_schema.errors import ConfigError
from store_schema.keys import MAX_ID_LENGTH

SUFFIX = "-occluded"
"""What the name of an occlusion view ends in."""


@dataclass(frozen=True)
class OcclusionRules:
    """What hides a patch; decides the numbers of an occlusion view."""

    size_mm: float = 20.0
    stride_mm: float = 20.0
    fill: str | int = "mean"
    """`mean` of the volume's grey values, or a grey value of 0 to 255."""

    def flags(self) -> dict[str, float | str]:
        """How a view says it."""
        return {
            "occlusion_size_mm": self.size_mm,
            "occlusion_stride_mm": self.stride_mm,
            "occlusion_fill": str(self.fill),
        }

    def grey(self, image_zyx: UInt8[np.ndarray, "z y x"]) -> int:
        """The grey value that hides a patch of an image.

        Raises
        ------
        ConfigError
            If it is none.
        """
        if self.fill == "mean":
            return round(float(image_zyx.mean()))
        if isinstance(self.fill, int) and 0 <= self.fill <= 255:
            return self.fill
        raise ConfigError(f"fill is 'mean' or a grey value of 0 to 255, got {self.fill!r}.")


def occlusion_view(base: ViewSpec, rules: OcclusionRules) -> ViewSpec:
    """The view of what a base view's entries become with patches hidden.

    A base name that leaves no room for the suffix is cut before it: the digest that follows a view's name tells views apart.
    """
    name = base.name[: MAX_ID_LENGTH - len(SUFFIX)].rstrip("._-") + SUFFIX
    return base.model_copy(update={"name": name, "flags": {**base.flags, **rules.flags()}})
