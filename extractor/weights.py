"""Finds, checks and digests the weights of a segmentation network; knows tensors by name, not what they compute.

`random:SEED` is drawn by the network's own initialisation, a checkpoint is a file `{"model": tensors by name}` as SAM2
and MedSAM2 publish it.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from store_schema.errors import UsageError, WeightsError
from store_schema.files import is_remote, local_file, without_secret

HUB_REPOSITORY = "wanglab/MedSAM2"
PUBLISHED = (
    "MedSAM2_latest.pt",
    "MedSAM2_2411.pt",
    "MedSAM2_CTLesion.pt",
    "MedSAM2_MRI_LiverLesion.pt",
    "MedSAM2_US_Heart.pt",
)
"""Checkpoint files of `wanglab/MedSAM2` on the Hugging Face hub; the first is the one recommended there."""

UNLOADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
)
"""What torch raises of a file that is damaged, of another kind, or holds code."""

Fetch = Callable[[str], str]
"""Gives the local path of a published checkpoint file."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors read from a checkpoint file."""

    tensors: Mapping[str, Tensor]
    sha256: str
    """Of the file's bytes."""
    trained: bool
    """False where the file says that its weights are random (as `save_checkpoint` writes them)."""


def random_seed(weights: str) -> int | None:
    """The seed in `random:SEED`; None where the weights are a file.

    Raises
    ------
    WeightsError
        If the text starts with `random` but holds no seed.
    """
    if not re.match(r"random(:|$)", weights):
        return None
    seed = weights.removeprefix("random:")
    if not re.fullmatch(r"\d{1,18}", seed):
        raise WeightsError(f"weights {weights!r}: expected random:SEED with a whole number from 0, such as random:0")
    return int(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Lets torch draw from this seed inside the block; the state outside is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def read_checkpoint(weights: str, *, expected_sha256: str | None = None, fetch: Fetch | None = None) -> Checkpoint:
    """The tensors of a checkpoint, given by path, address or the name of a published MedSAM2 file.

    Parameters
    ----------
    weights
        A path or address, or one of `PUBLISHED`, which is fetched where no such file is here.
    expected_sha256
        Digest that the file must have.
    fetch
        Brings a published file to a local path; by default through the Hugging Face hub and its cache.

    Raises
    ------
    WeightsError
        If the file cannot be had, is not a checkpoint of tensors alone, or has another digest.
    """
    place = without_secret(weights) if is_remote(weights) else str(_local_path(weights, fetch or fetch_published))
    data, sha256 = weights_bytes(place, expected_sha256=expected_sha256, what=f"checkpoint {place}")
    payload = _unpickled(data, place)
    return Checkpoint(tensors=_tensors(payload, place), sha256=sha256, trained=bool(payload.get("trained", True)))


def weights_bytes(
    place: str, *, expected_sha256: str | None, what: str, remedy: str | None = None
) -> tuple[bytes, str]:
    """The bytes of a weights file, here or at an address, and their sha256.

    Parameters
    ----------
    what
        What the file is called in an error.
    remedy
        What to do where it cannot be read.

    Raises
    ------
    WeightsError
        If it cannot be read, or has another digest than the one expected.
    """
    try:
        with local_file(place) as path:
            data = path.read_bytes()
    except (OSError, UsageError) as error:
        said = f"{what} cannot be read: {error}"
        raise WeightsError(said if remedy is None else f"{said}. {remedy}") from error
    sha256 = hashlib.sha256(data).hexdigest()
    check_sha256(sha256, expected_sha256, what=what)
    return data, sha256


def check_sha256(sha256: str, expected_sha256: str | None, *, what: str) -> None:
    """Refuses weights that are not the ones expected.

    Raises
    ------
    WeightsError
        If a digest is expected and this is another.
    """
    if expected_sha256 is not None and sha256 != expected_sha256.lower():
        raise WeightsError(
            f"{what} has sha256 {sha256}, expected {expected_sha256}: fetch it again, or expect the digest of the file "
            f"you mean"
        )


def fetch_published(name: str, *, download: Callable[[str, str], str] | None = None) -> str:
    """Local path of a published checkpoint, fetched from the Hugging Face hub or found in its cache.

    Parameters
    ----------
    name
        One of `PUBLISHED`.
    download
        Takes repository and file name; by default `huggingface_hub.hf_hub_download`.

    Raises
    ------
    WeightsError
        If the hub does not answer and the cache does not hold the file.
    """
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - needed for published names alone
    from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415

    try:
        return str((download or hf_hub_download)(HUB_REPOSITORY, name))
    except (OSError, EntryNotFoundError) as error:
        raise WeightsError(
            f"{name} could not be fetched from {HUB_REPOSITORY} on the Hugging Face hub "
            f"({type(error).__name__}: {error}). "
            f"Without network, download the file elsewhere and give its path as --weights; random:SEED serves for tests"
        ) from error


def first_line(error: Exception) -> str:
    """What torch says of a file that does not load, without the pages that follow."""
    return str(error).splitlines()[0] if str(error) else "the file ends early"


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Digest of tensors whatever file holds them: for each by sorted name its name, dtype, shape and bytes.

    The header of a tensor is the line `name dtype (shape)`, for example `no_mem_embed torch.float32 (1, 1, 256)`; its
    values follow in row-major, little-endian order.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What keeps `found` from loading strictly, one sentence a kind of fault; empty where it loads."""
    shared = sorted(found.keys() & expected.keys())
    shapes = [
        f"{name} {tuple(found[name].shape)} for {tuple(expected[name].shape)}"
        for name in shared
        if found[name].shape != expected[name].shape
    ]
    dtypes = [
        f"{name} {found[name].dtype} for {expected[name].dtype}"
        for name in shared
        if found[name].dtype != expected[name].dtype
    ]
    unfit = [name for name in shared if not torch.isfinite(found[name]).all()]
    faults = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": shapes,
        "of another dtype": dtypes,
        "with values that are not finite": unfit,
    }
    return [f"{len(names)} tensors {fault}: {_first(names)}" for fault, names in faults.items() if names]


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def _local_path(weights: str, fetch: Fetch) -> Path:
    path = Path(weights).expanduser()
    if path.exists() or weights not in PUBLISHED:
        return path
    return Path(fetch(weights))


def _unpickled(data: bytes, path: str) -> dict[str, Any]:
    """The payload of a checkpoint; code in a pickle is refused, never run."""
    try:
        payload = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except UNLOADABLE as error:
        reason = first_line(error)
        raise WeightsError(
            f"checkpoint {path} cannot be loaded as tensors alone ({type(error).__name__}: {reason}): it is damaged, "
            f"not a torch file, or holds code; expected a MedSAM2 or SAM2.1 file such as {PUBLISHED[0]}"
        ) from error
    if not isinstance(payload, dict) or not isinstance(payload.get("model"), dict):
        found = f"keys {_first(sorted(map(str, payload)))}" if isinstance(payload, dict) else type(payload).__name__
        raise WeightsError(f"checkpoint {path} holds {found}: expected a dictionary with tensors by name under 'model'")
    return payload


def _tensors(payload: Mapping[str, Any], path: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = payload["model"]
    strange = sorted(str(name) for name, value in tensors.items() if not isinstance(value, Tensor))
    if strange:
        raise WeightsError(f"checkpoint {path} holds values under 'model' that are not tensors: {_first(strange)}")
    return tensors
