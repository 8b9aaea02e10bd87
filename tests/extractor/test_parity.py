"""The engine against the stock SAM2 predictor driven the same way, with the mini architecture.

The full architecture on real patients is in tests/benchmarks/test_parity_full.py.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from extractor.architectures import MODELS
from extractor.memory import Stream, embed_volume
from extractor.segmenter import Segmenter, load_segmenter, save_checkpoint

DEEP = 20  # more frames than 16 pointers and 7 memories: what attention no longer sees was really dropped


def load_stock() -> ModuleType:
    """The reference driver beside this file; importlib mode puts no test folder on the path."""
    spec = importlib.util.spec_from_file_location("stock_predictor", Path(__file__).with_name("stock_predictor.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


stock = load_stock()


@pytest.fixture(scope="module", params=["object", "no_object"])
def pair(request, tmp_path_factory):
    """Our engine and the stock predictor on one saved checkpoint; its object score says yes or no on every slice."""
    random = load_segmenter("mini", "random:5")
    if request.param == "no_object":
        random.network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.sub_(20.0)
    checkpoint = tmp_path_factory.mktemp("weights") / "mini.pt"
    save_checkpoint(random, checkpoint)
    return load_segmenter("mini", str(checkpoint)), stock.build_predictor(dict(MODELS["mini"]), checkpoint)


def make_case(frames: int) -> tuple[np.ndarray, Stream]:
    """A textured volume, wider than high, and boxes that wander; kept slices have gaps."""
    rng = np.random.default_rng(7)
    coarse = torch.from_numpy(rng.normal(size=(1, 1, 2 * frames + 2, 12, 15)))
    smooth = torch.nn.functional.interpolate(coarse, size=(2 * frames + 2, 77, 101), mode="trilinear")[0, 0].numpy()
    image_zyx = np.clip(smooth * 60 + 128, 0, 255).astype(np.uint8)
    low = rng.integers(5, 30, size=(frames, 2))
    boxes = np.concatenate([low, low + rng.integers(8, 40, size=(frames, 2))], axis=1)
    return image_zyx, Stream("tumour", tuple(range(2 * frames, 0, -2)), boxes)


def run_ours(segmenter: Segmenter, image_zyx: np.ndarray, stream: Stream, mode: str) -> list:
    frames = []
    embed_volume(
        segmenter,
        image_zyx,
        [stream],
        mode=mode,
        layouts=("paper",),
        observe=lambda roi, frame, memory, logits: frames.append(stock.StockFrame(memory, logits)),
    )
    return frames


@pytest.mark.parametrize("frames", [1, 2, DEEP])
@pytest.mark.parametrize("mode", ["sequential", "upfront"])
def test_engine_memories_and_masks_equal_the_stock_predictors(pair, mode, frames):
    segmenter, predictor = pair
    image_zyx, stream = make_case(frames)
    ours = run_ours(segmenter, image_zyx, stream, mode)
    theirs = stock.run_stock(predictor, image_zyx, stream.slices, stream.boxes, mode)
    agreement = stock.compare(ours, theirs)
    assert agreement.holds, agreement
    assert agreement.memories_equal, agreement


def test_measure_tells_the_modes_apart_unless_there_is_no_object(pair, request):
    segmenter, predictor = pair
    image_zyx, stream = make_case(8)
    ours = run_ours(segmenter, image_zyx, stream, "sequential")
    theirs = stock.run_stock(predictor, image_zyx, stream.slices, stream.boxes, "upfront")
    # Without an object every mask is blank, and history has no way into a memory.
    assert stock.compare(ours, theirs).holds == ("[no_object]" in request.node.name)
