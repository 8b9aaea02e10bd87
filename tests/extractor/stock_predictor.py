"""Drives the stock SAM2 video predictor as protocol.md section 2 says; the reference for parity, free of our engine.

It knows the sam2 package and PIL only: the network, the frames and the order of calls are built here a second time.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import sam2.sam2_video_predictor_legacy as legacy
import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from sam2.build_sam import _load_checkpoint

MEDSAM2_CHANGES = {
    "image_size": 512,
    "memory_attention.layer.self_attention.feat_sizes": [32, 32],
    "memory_attention.layer.cross_attention.feat_sizes": [32, 32],
}
PREDICTOR_FLAGS = {
    "_target_": "sam2.sam2_video_predictor_legacy.SAM2VideoPredictor",
    "sam_mask_decoder_extra_args.dynamic_multimask_via_stability": "true",
    "sam_mask_decoder_extra_args.dynamic_multimask_stability_delta": 0.05,
    "sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh": 0.98,
    "binarize_mask_from_pts_for_mem_enc": "true",
    "fill_hole_area": 0,
    "add_all_frames_to_correct_as_cond": "false",
}


Prompts = tuple[str, Any]
"""Kind (box, points or mask) and, by frame, the box, the points (x, y) or the mask in native pixels."""


@dataclass(frozen=True)
class StockFrame:
    """What the predictor's state holds of one frame in the end."""

    memory: torch.Tensor
    logits: torch.Tensor


@dataclass(frozen=True)
class Agreement:
    """How well memories and masks agree with the stock predictor's, over all frames."""

    relative_error: float
    share_equal: float
    share_within_one_step: float
    masks_equal: bool
    memories_equal: bool

    @property
    def holds(self) -> bool:
        """The measure of protocol.md section 2."""
        return self.relative_error <= 1e-3 and self.share_within_one_step >= 0.999 and self.masks_equal


def build_predictor(changes: dict[str, Any], checkpoint: Path) -> legacy.SAM2VideoPredictor:
    """The stock predictor with sam2's own configuration, changed by hydra overrides, and its own checkpoint loader."""
    overrides = [f"++model.{key}={value}" for key, value in {**changes, **PREDICTOR_FLAGS}.items()]
    config = compose("configs/sam2.1/sam2.1_hiera_t.yaml", overrides=overrides)
    OmegaConf.resolve(config)
    predictor = instantiate(config.model)
    _load_checkpoint(predictor, str(checkpoint))
    return predictor.eval()


def frames_of(image_zyx: np.ndarray, slices: tuple[int, ...], image_size: int) -> torch.Tensor:
    """The kept slices as MedSAM2's script prepares them: RGB, resized by PIL, normalised in double precision."""
    mean = torch.tensor((0.485, 0.456, 0.406), dtype=torch.float32)[:, None, None]
    std = torch.tensor((0.229, 0.224, 0.225), dtype=torch.float32)[:, None, None]
    frames = []
    for z in slices:
        resized = Image.fromarray(image_zyx[z]).convert("RGB").resize((image_size, image_size))
        frame = torch.from_numpy(np.array(resized) / 255.0).permute(2, 0, 1)
        frame -= mean
        frame /= std
        frames.append(frame)
    return torch.stack(frames)


def run_stock(
    predictor: legacy.SAM2VideoPredictor,
    image_zyx: np.ndarray,
    slices: tuple[int, ...],
    prompts: Prompts,
    mode: str,
    *,
    key: int = 0,
) -> list[StockFrame]:
    """Memories and mask logits of every frame after the calls of a mode."""
    frames = frames_of(image_zyx, slices, predictor.image_size)
    loaded = (frames, image_zyx.shape[1], image_zyx.shape[2])
    with (
        mock.patch.object(legacy, "load_video_frames", return_value=loaded),
        mock.patch.object(legacy, "tqdm", lambda frames, **_: frames),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "You are adding a box after tracking starts", UserWarning)
        state = predictor.init_state("")
        outputs = MODES[mode](_Driver(predictor, state, prompts, len(slices), key))
    conditioning = {"upfront": len(slices)}.get(mode, 1)
    assert len(state["output_dict"]["cond_frame_outputs"]) == conditioning
    return [StockFrame(outputs[i]["maskmem_features"], outputs[i]["pred_masks"]) for i in range(len(slices))]


class _Driver:
    """One state of the predictor, and the calls that a mode makes of it."""

    def __init__(self, predictor: Any, state: dict[str, Any], prompts: Prompts, count: int, key: int) -> None:
        self.predictor, self.state, self.prompts, self.count, self.key = predictor, state, prompts, count, key

    def prompt(self, frame: int) -> None:
        kind, values = self.prompts
        if kind == "mask":
            self.predictor.add_new_mask(self.state, frame, 1, values[frame])
        elif kind == "points":
            labels = np.ones(len(values[frame]), np.int32)
            self.predictor.add_new_points_or_box(self.state, frame, 1, points=values[frame], labels=labels)
        else:
            self.predictor.add_new_points_or_box(self.state, frame, obj_id=1, box=values[frame])

    def propagate(self, **options: Any) -> None:
        for _ in self.predictor.propagate_in_video(self.state, **options):
            pass

    @property
    def outputs(self) -> dict[int, Any]:
        held = self.state["output_dict"]
        return {**held["non_cond_frame_outputs"], **held["cond_frame_outputs"]}


def _in_sequence(driver: _Driver) -> dict[int, Any]:
    driver.prompt(0)
    for frame in range(1, driver.count):
        driver.propagate(start_frame_idx=frame, max_frame_num_to_track=0)
        driver.prompt(frame)
    driver.predictor.propagate_in_video_preflight(driver.state)
    return driver.outputs


def _in_sequence_directly(driver: _Driver) -> dict[int, Any]:
    driver.prompt(0)
    for frame in range(1, driver.count):
        driver.predictor.propagate_in_video_preflight(driver.state)
        driver.state["frames_already_tracked"][frame] = {"reverse": False}
        driver.prompt(frame)
    driver.predictor.propagate_in_video_preflight(driver.state)
    return driver.outputs


def _upfront(driver: _Driver) -> dict[int, Any]:
    for frame in range(driver.count):
        driver.prompt(frame)
    driver.propagate()
    return driver.outputs


def _first(driver: _Driver) -> dict[int, Any]:
    driver.prompt(0)
    driver.propagate()
    return driver.outputs


def _from_key_slice(driver: _Driver) -> dict[int, Any]:
    driver.prompt(driver.key)
    driver.propagate()
    forward = driver.outputs
    driver.predictor.reset_state(driver.state)
    driver.prompt(driver.key)
    driver.propagate(reverse=True)
    reverse = driver.outputs
    assert set(forward) | set(reverse) == set(range(driver.count))
    return {**reverse, **forward}


MODES = {
    "sequential": _in_sequence,
    "sequential_direct": _in_sequence_directly,
    "upfront": _upfront,
    "first": _first,
    "key_slice": _from_key_slice,
}


def compare(ours: list[StockFrame], stock: list[StockFrame]) -> Agreement:
    """Agreement of two lists of frames, ours against the reference."""
    assert len(ours) == len(stock)
    a, b = torch.cat([frame.memory for frame in ours]), torch.cat([frame.memory for frame in stock])
    assert a.dtype == b.dtype == torch.bfloat16
    assert a.shape == b.shape
    steps = (_rank(a) - _rank(b)).abs()
    error = torch.linalg.vector_norm(a.double() - b.double()) / torch.linalg.vector_norm(b.double())
    return Agreement(
        relative_error=float(error),
        share_equal=float((steps == 0).double().mean()),
        share_within_one_step=float((steps <= 1).double().mean()),
        masks_equal=all(torch.equal(x.logits, y.logits) for x, y in zip(ours, stock, strict=True)),
        memories_equal=torch.equal(a, b),
    )


def _rank(values: torch.Tensor) -> torch.Tensor:
    """Position of each bfloat16 number among all of them, so that neighbours differ by one."""
    bits = values.contiguous().view(torch.int16).to(torch.int32)
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)
