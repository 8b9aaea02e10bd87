"""Runs the published image encoders that memories are compared with, slice by slice; knows torchvision and timm.

It knows no study, region, layout or store: which slices are looked at, and how they are packed, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Float32, Int, UInt8
from PIL import Image
from torch import Tensor, nn

from extractor.baseline_weights import PUBLISHED, Fetch, read_weights
from extractor.batching import Batcher, usual_batches
from extractor.segmenter import IMAGENET_MEAN, IMAGENET_STD, Precision, whole_float32
from extractor.spent import count_slices
from extractor.weights import check_sha256, differences, random_seed, seeded, tensors_sha256
from store_schema.errors import ConfigError, WeightsError

INPUT_PX = 224
"""Edge of the square input of every encoder here."""
HALF = (0.5, 0.5, 0.5)
"""Mean and standard deviation that the ViT was trained with, on grey values 0–1."""
UNUSED = ".num_batches_tracked"
"""Counters of batch normalisation: no number depends on them in evaluation mode, and old files lack them."""

Flag = bool | int | float | str


@dataclass(frozen=True)
class _Kind:
    """How one encoder is built, fed and read."""

    build: Callable[[], nn.Module]
    read: Callable[[nn.Module, Tensor], Tensor]
    """Features of a batch of inputs."""
    features: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def _class_token(network: nn.Module, images: Tensor) -> Tensor:
    """The class token after the last normalisation, as the published head takes it."""
    tokens: Tensor = cast("Callable[[Tensor], Tensor]", network.forward_features)(images)
    return tokens[:, 0]


def _resnet50() -> nn.Module:
    import torchvision  # noqa: PLC0415 - whoever makes no such baseline need not wait for it

    return cast("nn.Module", torchvision.models.resnet50(weights=None))


def _vit() -> nn.Module:
    import timm  # noqa: PLC0415 - see above

    return cast("nn.Module", timm.create_model(PUBLISHED["vit"].name, pretrained=False))


KINDS: Mapping[str, _Kind] = {
    "resnet50": _Kind(
        _resnet50,
        lambda network, images: cast("Tensor", network(images)),
        2048,
        IMAGENET_MEAN,
        IMAGENET_STD,
    ),
    "vit": _Kind(_vit, _class_token, 768, HALF, HALF),
}


@dataclass(frozen=True)
class SliceEncoder:
    """A frozen encoder of single slices, ready to run, with what a view records of it."""

    name: str
    weights_sha256: str
    """Of the file; for random weights of the tensors (`tensors_sha256`)."""
    trained: bool
    """False for random weights: what is made with them serves tests and demonstrations only."""
    network: nn.Module
    device: str = "cpu"
    precision: Precision = "float32"
    image_size: int = INPUT_PX

    @property
    def features(self) -> int:
        """Length of the vector of a slice."""
        return KINDS[self.name].features

    @property
    def flags(self) -> dict[str, Flag]:
        """What a view records of the way a slice is fed."""
        kind = KINDS[self.name]
        return {
            "resampling": "bicubic",
            "mean": " ".join(map(str, kind.mean)),
            "std": " ".join(map(str, kind.std)),
            "read": "class token" if self.name == "vit" else "global average pooling",
        }

    @property
    def alone(self) -> bool:
        """Whether slices are computed one by one, so that no number depends on what else is computed."""
        return usual_batches(self.device).alone

    def vectors(self, slices: Sequence[UInt8[np.ndarray, "y x"]]) -> list[Float32[np.ndarray, " feature"]]:
        """The features of each slice; one by one on a CPU, so that numbers do not depend on what shares a pass."""
        kind = KINDS[self.name]

        def encode(part: Sequence[UInt8[np.ndarray, "y x"]]) -> list[Float32[np.ndarray, " feature"]]:
            images = torch.stack([network_input(one, kind.mean, kind.std) for one in part]).to(self.device)
            return list(kind.read(self.network, images).float().cpu().numpy())

        with self._running():
            made = Batcher(usual_batches(self.device).slices).run(slices, encode)
        count_slices(len(made))
        return made

    @contextmanager
    def _running(self) -> Iterator[None]:
        kind, coarse = torch.device(self.device).type, self.precision == "bfloat16"
        with (
            nullcontext() if coarse else whole_float32(),
            torch.inference_mode(),
            torch.autocast(kind, torch.bfloat16, enabled=coarse),
        ):
            yield


def network_input(
    slice_yx: UInt8[np.ndarray, "y x"], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float32[Tensor, "3 row column"]:
    """A slice as an encoder takes it: bicubic to a square without keeping the aspect, grey in three channels, normalised."""
    resized = Image.fromarray(np.ascontiguousarray(slice_yx)).resize((INPUT_PX, INPUT_PX), Image.Resampling.BICUBIC)
    grey = torch.from_numpy(np.asarray(resized, dtype=np.float32) / np.float32(255.0))
    centre, spread = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return (grey.expand(3, -1, -1) - centre) / spread


def cut(slice_yx: UInt8[np.ndarray, "y x"], box: Int[np.ndarray, "corners=4"]) -> UInt8[np.ndarray, "y x"]:
    """What lies in a box (x0, y0, x1, y1, all inclusive) of a slice."""
    x0, y0, x1, y1 = (int(value) for value in box)
    return slice_yx[y0 : y1 + 1, x0 : x1 + 1]


def load_encoder(
    name: str,
    weights: str | None,
    *,
    device: str = "cpu",
    precision: str = "float32",
    expected_sha256: str | None = None,
    fetch: Fetch | None = None,
) -> SliceEncoder:
    """The encoder with its weights, frozen and in evaluation mode.

    Parameters
    ----------
    weights
        Path or address of a file, the name they are published under (the default), or `random:SEED`.
    expected_sha256
        Digest that the weights must have (`SliceEncoder.weights_sha256`).
    fetch
        Brings published weights to a local path.

    Raises
    ------
    ConfigError
        If there is no such encoder.
    WeightsError
        If the weights do not load strictly or are not those expected.
    """
    if name not in KINDS:
        raise ConfigError(f"encoder {name!r} is unknown: use one of {', '.join(KINDS)}")
    weights = weights or PUBLISHED[name].name
    seed = random_seed(weights)
    with seeded(seed or 0):
        network = KINDS[name].build()
    if seed is None:
        checkpoint = read_weights(name, weights, expected_sha256=expected_sha256, fetch=fetch)
        sha256, trained = checkpoint.sha256, checkpoint.trained
        _load_strictly(network, checkpoint.tensors, f"weights {weights} are not those of {name}")
    else:
        sha256, trained = tensors_sha256(network.state_dict()), False
        check_sha256(sha256, expected_sha256, what=f"{name} with {weights}")
    if name == "resnet50":
        network.fc = nn.Identity()
    network.requires_grad_(requires_grad=False).eval().to(device)
    exact: Precision = "bfloat16" if precision == "bfloat16" else "float32"
    return SliceEncoder(name, sha256, trained, network, device, exact)


def _load_strictly(network: nn.Module, tensors: Mapping[str, Tensor], refusal: str) -> None:
    expected = {key: value for key, value in network.state_dict().items() if not key.endswith(UNUSED)}
    found = {key: value for key, value in tensors.items() if not key.endswith(UNUSED)}
    faults = differences(found, expected)
    if faults:
        raise WeightsError(f"{refusal}: {'; '.join(faults)}. Give the published file, classifier included")
    network.load_state_dict(found, strict=False)
