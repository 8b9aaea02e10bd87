"""Finds, checks and digests the weights of the slice encoders; knows tensors by name, not what they compute.

A file is a dictionary of tensors by name as torchvision and timm publish it (`.pth`, or `.safetensors`), bare or under `model`
or `state_dict`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from extractor.weights import UNLOADABLE, Checkpoint, first_line, weights_bytes
from store_schema.errors import WeightsError
from store_schema.files import is_remote, name_of, without_secret

WRAPPERS = ("model", "state_dict")
"""Keys under which a file may hold the tensors, beside other things."""


@dataclass(frozen=True)
class Published:
    """Where the weights of an encoder are published."""

    name: str
    """What the publisher calls them; may be given as weights, and is the default."""
    file: str
    address: str


PUBLISHED: Mapping[str, Published] = {
    "resnet50": Published(
        name="IMAGENET1K_V2",
        file="resnet50-11ad3fa6.pth",
        address="https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
    ),
    "vit": Published(
        name="vit_base_patch16_224.augreg_in21k_ft_in1k",
        file="model.safetensors",
        address="https://huggingface.co/timm/vit_base_patch16_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors",
    ),
}

Fetch = Callable[[Published], str]
"""Gives the local path of a published file."""


def read_weights(
    encoder: str, weights: str, *, expected_sha256: str | None = None, fetch: Fetch | None = None
) -> Checkpoint:
    """The tensors of an encoder's weights, given by path, address or the name they are published under.

    Parameters
    ----------
    expected_sha256
        Digest that the file must have.
    fetch
        Brings a published file to a local path; by default through torch's or the Hugging Face hub's cache.

    Raises
    ------
    WeightsError
        If the file cannot be had, holds anything but tensors by name, or has another digest.
    """
    place = _place(encoder, weights, fetch or fetch_published)
    what = f"weights {place} of {encoder}"
    data, sha256 = weights_bytes(place, expected_sha256=expected_sha256, what=what, remedy=_remedy(encoder))
    payload = _loaded(data, place)
    tensors = next((payload[key] for key in WRAPPERS if isinstance(payload.get(key), dict)), payload)
    strange = sorted(str(name) for name, value in tensors.items() if not isinstance(value, Tensor))
    if strange or not tensors:
        raise WeightsError(
            f"weights {place} of {encoder} hold {', '.join(strange[:3]) or 'nothing'}: expected tensors by name alone, bare or "
            f"under {' or '.join(WRAPPERS)}"
        )
    return Checkpoint(tensors=tensors, sha256=sha256, trained=bool(payload.get("trained", True)))


def fetch_published(published: Published, *, download: Callable[[Published], str] | None = None) -> str:
    """Local path of a published file, fetched from its publisher or found in the usual cache.

    Parameters
    ----------
    download
        Brings a file here; by default by `torch.hub` or `huggingface_hub`, whichever the publisher is.

    Raises
    ------
    WeightsError
        If the publisher does not answer and the cache does not hold the file.
    """
    from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415 - needed for published names alone

    try:
        return (download or _download)(published)
    except (OSError, URLError, EntryNotFoundError, RuntimeError) as error:
        encoder = next(name for name, one in PUBLISHED.items() if one == published)
        raise WeightsError(
            f"{published.file} could not be fetched from {published.address} ({type(error).__name__}: {error}). "
            f"{_remedy(encoder)}"
        ) from error


def _download(published: Published) -> str:
    if "huggingface.co" in published.address:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415

        return str(hf_hub_download(f"timm/{published.name}", published.file))
    path = Path(torch.hub.get_dir()) / "checkpoints" / published.file
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        digits = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(published.address, str(path), hash_prefix=digits, progress=False)
    return str(path)


def _remedy(encoder: str) -> str:
    published = PUBLISHED[encoder]
    return (
        f"Without network, download {published.address} elsewhere and name the file in the settings: "
        f"'baseline_weights: {{{encoder}: PATH}}'; random:SEED serves for tests"
    )


def _place(encoder: str, weights: str, fetch: Fetch) -> str:
    if is_remote(weights):
        return without_secret(weights)
    path = Path(weights).expanduser()
    published = PUBLISHED[encoder]
    return fetch(published) if weights == published.name and not path.exists() else str(path)


def _loaded(data: bytes, place: str) -> dict[str, Any]:
    """The content of a file; code in a pickle is refused, never run."""
    try:
        if name_of(place).endswith(".safetensors"):
            return dict(safetensors.torch.load(data))
        payload = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (*UNLOADABLE, SafetensorError) as error:
        reason = first_line(error)
        raise WeightsError(
            f"weights {place} cannot be loaded as tensors alone ({type(error).__name__}: {reason}): the file is damaged, not of "
            "tensors, or holds code; expected a .pth or .safetensors file of tensors by name"
        ) from error
    if not isinstance(payload, dict):
        raise WeightsError(f"weights {place} hold a {type(payload).__name__}: expected a dictionary of tensors by name")
    return payload
