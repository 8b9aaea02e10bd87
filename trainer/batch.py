"""Holds the tensors of a set of patients in one row order; knows nothing of stores, tables or models."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from store_schema.errors import UsageError


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a model sees of its patients."""

    maps: Mapping[str, Float[Tensor, "patient ..."]]
    """What the head reads of each modality, float32, as stored: standardising is part of fitting. Empty without images.

    Mean maps are (patient, 1, row, column), memories (patient, layer, channel, row, column), vectors (patient, feature).
    NaN is a feature of a vector that is not known; nothing else may hold it.
    """
    clinical: Float[Tensor, "patient feature"] | None
    """Covariates after the fold's preprocessing, float32."""

    def __post_init__(self) -> None:
        lengths = {name: len(tensor) for name, tensor in self._tensors().items()}
        if len(set(lengths.values())) != 1:
            raise UsageError(f"expected one row per patient in every tensor, got {lengths or 'no tensor'}")
        for name, tensor in self._tensors().items():
            vector = tensor.ndim == 2 and name in self.maps
            if bool(tensor.isinf().any()) or (not vector and bool(tensor.isnan().any())):
                raise UsageError(f"{name} holds values that are not finite: impute covariates, verify the store's maps")

    @classmethod
    def of(
        cls,
        *,
        maps: Mapping[str, Float[np.ndarray, "patient ..."]] | None = None,
        clinical: Float[np.ndarray, "patient feature"] | None = None,
    ) -> "Inputs":
        """Take arrays whose rows are the same patients; maps as (patient, row, column), the rest as in `maps`.

        Raises
        ------
        UsageError
            If the numbers of rows differ, a value is not finite, or there is nothing at all.
        """
        tensors = {modality: _with_channel(_float32(array)) for modality, array in (maps or {}).items()}
        return cls(maps=tensors, clinical=None if clinical is None else _float32(clinical))

    def __len__(self) -> int:
        return len(next(iter(self._tensors().values())))

    def rows(self, index: Int[Tensor, " row"] | slice) -> "Inputs":
        """Select patients, in this order."""
        return self._changed(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> "Inputs":
        """Copy to a device."""
        return self._changed(lambda tensor: tensor.to(device))

    def double(self) -> "Inputs":
        """Copy in float64."""
        return self._changed(lambda tensor: tensor.double())

    def _tensors(self) -> dict[str, Tensor]:
        return {**self.maps, **({} if self.clinical is None else {"clinical": self.clinical})}

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        maps = {modality: change(tensor) for modality, tensor in self.maps.items()}
        return Inputs(maps=maps, clinical=None if self.clinical is None else change(self.clinical))


@dataclass(frozen=True, eq=False)
class Batch:
    """Patients with their outcomes."""

    inputs: Inputs
    """What the model sees."""
    time: Float[Tensor, " patient"]
    """Time to event or censoring, > 0, in one unit; float64, so that ties stay as the table has them."""
    event: Bool[Tensor, " patient"]
    """True where the event was observed."""

    def __post_init__(self) -> None:
        if not self.time.shape == self.event.shape == (len(self.inputs),):
            raise UsageError(
                f"expected one time and one event for each of {len(self.inputs)} patients, "
                f"got shapes {tuple(self.time.shape)} and {tuple(self.event.shape)}"
            )

    @classmethod
    def of(
        cls,
        *,
        time: Float[np.ndarray, " patient"],
        event: Bool[np.ndarray, " patient"],
        maps: Mapping[str, Float[np.ndarray, "patient ..."]] | None = None,
        clinical: Float[np.ndarray, "patient feature"] | None = None,
    ) -> "Batch":
        """Take arrays whose rows are the same patients; maps as (patient, row, column), the rest as in `Inputs.maps`.

        Raises
        ------
        UsageError
            If the numbers of rows differ, a value is not finite, or there is no input.
        """
        outcome = torch.tensor(np.asarray(time, dtype=np.float64)), torch.tensor(np.asarray(event, dtype=bool))
        return cls(Inputs.of(maps=maps, clinical=clinical), *outcome)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def events(self) -> int:
        """Patients who had the event."""
        return int(self.event.sum())

    def rows(self, index: Int[Tensor, " row"] | slice) -> "Batch":
        """Select patients, in this order."""
        return Batch(self.inputs.rows(index), self.time[index], self.event[index])

    def to(self, device: torch.device | str) -> "Batch":
        """Copy to a device."""
        return Batch(self.inputs.to(device), self.time.to(device), self.event.to(device))

    def with_inputs(self, inputs: Inputs) -> "Batch":
        """Replace what the model sees of the same patients, as after standardising."""
        return replace(self, inputs=inputs)


def _float32(array: Float[np.ndarray, "*axis"]) -> Float[Tensor, "*axis"]:
    # a copy: what the caller does to the array later must not reach a model
    return torch.tensor(np.ascontiguousarray(array, dtype=np.float32))


def _with_channel(array: Float[Tensor, "patient ..."]) -> Float[Tensor, "patient ..."]:
    return array.unsqueeze(1) if array.ndim == 3 else array
