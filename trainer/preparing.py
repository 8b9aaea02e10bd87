"""Fits the standardisation that each head wants, and applies it to any patient; knows nothing of fitting models."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field

from store_schema.errors import UsageError
from trainer.batch import Inputs
from trainer.components import MapComponents
from trainer.scaling import MapScaler, VectorScaler
from trainer.spec import SIZED_HEADS, ModelSpec

Scaler = Annotated[MapScaler | VectorScaler | MapComponents, Field(discriminator="kind")]
"""What the training part says of one modality: frozen, and JSON-able."""


def fit_scalers(spec: ModelSpec, inputs: Inputs) -> dict[str, Scaler]:
    """Standardisation of each of the model's modalities, from these patients alone.

    Raises
    ------
    UsageError
        If a modality is missing, or its tensor is not what the head reads.
    TaskError
        If the tensors of a modality are all equal.
    """
    missing = [modality for modality in spec.modalities if modality not in inputs.maps]
    if missing:
        raise UsageError(f"the model needs maps of {', '.join(missing)}, got {', '.join(inputs.maps) or 'none'}")
    return {modality: _fitted(spec, _array(inputs, modality)) for modality in spec.modalities}


def scaled(inputs: Inputs, scalers: Mapping[str, Scaler]) -> Inputs:
    """Standardise the tensors of the scalers' modalities, as the model takes them, and leave the others out."""
    arrays = {name: one.transform(_array(inputs, name)) for name, one in scalers.items() if name in inputs.maps}
    return Inputs({name: torch.from_numpy(array) for name, array in arrays.items()}, inputs.clinical)


def sized(spec: ModelSpec, prepared: Inputs) -> ModelSpec:
    """The specification, with the size of what enters each modality's head, where its weights depend on it."""
    if spec.head not in SIZED_HEADS:
        return spec
    return spec.model_copy(update={"features": tuple(prepared.maps[name].shape[1] for name in spec.modalities)})


def _array(inputs: Inputs, modality: str) -> Float[np.ndarray, "patient ..."]:
    return inputs.maps[modality].cpu().numpy()


def _fitted(spec: ModelSpec, array: Float[np.ndarray, "patient ..."]) -> Scaler:
    if (array.ndim == 2) != (spec.head == "vector"):
        raise UsageError(
            f"the {spec.head} head takes {'vectors' if spec.head == 'vector' else 'maps'}, got shape {array.shape}"
        )
    if spec.head == "vector":
        return VectorScaler.fit(array)
    if spec.head == "pca":
        return MapComponents.fit(array, components=spec.components)
    return MapScaler.fit(array, kind=spec.map_scaling, flat=spec.head == "flatten")
