"""Builds the frozen segmentation network from configuration and weights, and prepares what it is fed; knows hydra.

It knows no volume, region, layout or order of prompting: `tracking` decides what is run when.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from hydra.utils import instantiate
from jaxtyping import Bool, Float32, Int, UInt8
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor
from torch.nn import functional

from extractor.architectures import BASE_CONFIG, FLAGS, MODELS, Flag
from extractor.batching import BatchSizes, usual_batches
from extractor.network import Points, SliceNetwork
from extractor.weights import (
    Fetch,
    check_sha256,
    differences,
    random_seed,
    read_checkpoint,
    seeded,
    tensors_sha256,
)
from store_schema.errors import ConfigError, WeightsError

Precision = Literal["float32", "bfloat16"]

INSIDE_LABEL = 1
BOX_LABELS = (2, 3)
"""SAM2's labels of a box's upper left and lower right corner among point prompts."""
OBJECT_PRESENT = 10.0
"""Object score that stands for certainty in SAM2."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Segmenter:
    """A frozen network, ready to run, with what a view records of it."""

    name: str
    image_size: int
    """Edge of the square network input in pixels."""
    weights_sha256: str
    """Of the checkpoint file; for random weights of the tensors (`tensors_sha256`)."""
    trained: bool
    """False for random weights: what is made with them serves tests and demonstrations only."""
    network: SliceNetwork
    device: str = "cpu"
    precision: Precision = "float32"
    flags: Mapping[str, Flag] = FLAGS
    batches: BatchSizes = field(default_factory=BatchSizes)
    """How much is computed at once; one by one on a CPU, so that numbers do not depend on what shares a pass."""

    @property
    def memory_channels(self) -> int:
        """Channels of one memory: 64."""
        return int(self.network.mem_dim)

    @property
    def feature_channels(self) -> int:
        """Channels of the image encoder's top level: 256."""
        return int(self.network.hidden_dim)

    @property
    def grid_px(self) -> int:
        """Rows and columns of one memory."""
        return self.image_size // int(self.network.backbone_stride)

    @property
    def reach(self) -> tuple[int, int]:
        """How many of the previous slices attention can see: by their memories, and by their pointers."""
        return int(self.network.num_maskmem) - 1, int(self.network.max_obj_ptrs_in_encoder) - 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """Everything the network computes belongs into this block: no gradients, and the chosen precision."""
        kind, coarse = torch.device(self.device).type, self.precision == "bfloat16"
        with (
            nullcontext() if coarse else whole_float32(),
            torch.inference_mode(),
            torch.autocast(kind, torch.bfloat16, enabled=coarse),
        ):
            yield

    def network_input(self, slice_yx: UInt8[np.ndarray, "y x"]) -> Float32[Tensor, "1 3 row column"]:
        """A slice as the network takes it: bicubic to a square without keeping the aspect, ImageNet-normalised grey.

        References
        ----------
        MedSAM2's inference script for CT; sam2 1.1.0, `utils/misc.py`, `AsyncVideoFrameLoader` (the same arithmetic).
        """
        size = (self.image_size, self.image_size)
        resized = Image.fromarray(np.ascontiguousarray(slice_yx)).resize(size, Image.Resampling.BICUBIC)
        grey = torch.from_numpy(np.asarray(resized, dtype=np.int64))
        return _NORMALISED_GREYS[:, grey].unsqueeze(0).to(self.device)

    def box_prompt(self, box: Int[np.ndarray, "corners=4"], *, shape_yx: tuple[int, int]) -> Points:
        """A box (x0, y0, x1, y1) in native pixels as two corners in network pixels.

        References
        ----------
        sam2 1.1.0, `add_new_points_or_box` with `normalize_coords`.
        """
        return self._points(np.asarray(box).reshape(2, 2), BOX_LABELS, shape_yx)

    def point_prompt(self, points: Int[np.ndarray, "point 2"], *, shape_yx: tuple[int, int]) -> Points:
        """Points (x, y) inside the object, in native pixels, in network pixels."""
        return self._points(np.asarray(points), (INSIDE_LABEL,) * len(points), shape_yx)

    def _points(
        self, points_xy: Int[np.ndarray, "point 2"], labels: tuple[int, ...], shape_yx: tuple[int, int]
    ) -> Points:
        coordinates = torch.tensor(points_xy.tolist(), dtype=torch.float32).unsqueeze(0)
        height, width = shape_yx
        scaled = coordinates / torch.tensor([width, height]) * self.image_size
        return Points(scaled.to(self.device), torch.tensor([labels], dtype=torch.int32, device=self.device))

    def mask_prompt(self, mask_yx: Bool[np.ndarray, "y x"]) -> Float32[Tensor, "1 1 row column"]:
        """A mask on native pixels as 0 and 1 on network pixels.

        References
        ----------
        sam2 1.1.0, `add_new_mask`.
        """
        mask = torch.from_numpy(np.ascontiguousarray(mask_yx, np.float32))[None, None].to(self.device)
        size = (self.image_size, self.image_size)
        if mask.shape[-2:] == size:
            return mask
        resized = functional.interpolate(mask, size=size, mode="bilinear", align_corners=False, antialias=True)
        return (resized >= 0.5).float()


@contextmanager
def whole_float32() -> Iterator[None]:
    """Keeps a GPU from rounding float32 to TF32 (ten bits of fraction) inside the block; torch lets cuDNN do so by default.

    The switches are the process's own: other threads see them too while the block lasts.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = False
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def load_segmenter(
    model: str,
    weights: str,
    *,
    device: str = "cpu",
    precision: str = "float32",
    expected_sha256: str | None = None,
    fetch: Fetch | None = None,
) -> Segmenter:
    """The network with its weights, frozen and in evaluation mode.

    Parameters
    ----------
    model
        `medsam2`: the published architecture at 512 px; `mini`: the same modules, narrow, at 128 px.
    weights
        Path of a checkpoint, name of a published MedSAM2 checkpoint, or `random:SEED`.
    device
        A torch device such as `cpu`, `cuda` or `cuda:1`.
    precision
        `float32`, or `bfloat16` for automatic mixed precision.
    expected_sha256
        Digest that the weights must have (`Segmenter.weights_sha256`).
    fetch
        Brings a published checkpoint to a local path; by default from the Hugging Face hub.

    Raises
    ------
    ConfigError
        If model, device or precision is unknown here.
    WeightsError
        If the weights do not load strictly or are not those expected.
    """
    _check_options(model, device, precision)
    seed = random_seed(weights)
    if seed is None:
        checkpoint = read_checkpoint(weights, expected_sha256=expected_sha256, fetch=fetch)
        network, sha256, trained = _build(model, seed=0), checkpoint.sha256, checkpoint.trained
        _load_strictly(network, checkpoint.tensors, weights, model)
    else:
        network, trained = _build(model, seed=seed), False
        _assume_object(network)
        sha256 = tensors_sha256(network.state_dict())
        check_sha256(sha256, expected_sha256, what=f"{model} with {weights}")
    network.requires_grad_(requires_grad=False).eval().to(device)
    return Segmenter(
        name=model,
        image_size=int(network.image_size),
        weights_sha256=sha256,
        trained=trained,
        network=network,
        device=device,
        precision="bfloat16" if precision == "bfloat16" else "float32",
        batches=usual_batches(device),
    )


def save_checkpoint(segmenter: Segmenter, path: Path) -> None:
    """Writes the weights as a checkpoint that this module and sam2 itself can load; random ones are marked."""
    tensors = {name: tensor.cpu() for name, tensor in segmenter.network.state_dict().items()}
    torch.save({"model": tensors, "trained": segmenter.trained}, path)


def network_config(model: str) -> DictConfig:
    """The configuration of a model: the one sam2 ships, with the changes of `MODELS` and the flags of `FLAGS`."""
    config = OmegaConf.load(str(files("sam2") / BASE_CONFIG)).model
    for key, value in MODELS[model].items():
        OmegaConf.update(config, key, value, force_add=True)
    config.binarize_mask_from_pts_for_mem_enc = FLAGS["binarize_mask_from_pts_for_mem_enc"]
    config.sam_mask_decoder_extra_args = {
        name: value for name, value in FLAGS.items() if name.startswith("dynamic_multimask")
    }
    return config


def _build(model: str, *, seed: int) -> SliceNetwork:
    """The network with sam2's own initialisation from this seed."""
    config = network_config(model)
    config["_target_"] = f"{SliceNetwork.__module__}.{SliceNetwork.__qualname__}"
    with seeded(seed):
        network = instantiate(config)
    assert isinstance(network, SliceNetwork)
    return network


def _assume_object(network: SliceNetwork) -> None:
    """Lets an untrained network see its object on every slice.

    The sign of an untrained object score is chance. Where it is negative, SAM2 blanks every mask, and neither prompt
    nor history reaches any memory; so 10 is added, the score that sam2's decoder assumes where it predicts none.
    """
    with torch.no_grad():
        network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.add_(OBJECT_PRESENT)


def _check_options(model: str, device: str, precision: str) -> None:
    if model not in MODELS:
        raise ConfigError(f"model {model!r} is unknown: use one of {', '.join(MODELS)}")
    if precision not in {"float32", "bfloat16"}:
        raise ConfigError(f"precision {precision!r} is unknown: use float32 or bfloat16")
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ConfigError(f"device {device!r} is unknown: use cpu, cuda or cuda:N ({error})") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device {device!r} was asked for, and torch sees no CUDA device: check the driver, or use cpu"
        )


def _load_strictly(network: SliceNetwork, tensors: Mapping[str, Tensor], weights: str, model: str) -> None:
    faults = differences(tensors, network.state_dict())
    if faults:
        raise WeightsError(
            f"checkpoint {weights} is not one of {model}: {'; '.join(faults)}. Give a checkpoint of this architecture, "
            f"or choose the model that it belongs to ({', '.join(MODELS)})"
        )
    network.load_state_dict(dict(tensors), strict=True)


def _normalised_greys() -> Float32[Tensor, "3 256"]:
    """Each grey value as the three channels of a normalised frame: in double precision, rounded once at the end."""
    greys = torch.from_numpy(np.arange(256, dtype=np.uint8) / 255.0).expand(3, 256)
    mean = torch.tensor(IMAGENET_MEAN, dtype=torch.float32)[:, None]
    std = torch.tensor(IMAGENET_STD, dtype=torch.float32)[:, None]
    return ((greys - mean) / std).float()


_NORMALISED_GREYS = _normalised_greys()
