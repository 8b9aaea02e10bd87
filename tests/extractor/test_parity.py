"""The engine against the stock SAM2 predictor driven the same way, with the mini architecture.

The full architecture on real patients is in tests/benchmarks/test_parity_full.py.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from extractor.architectures import MODELS
from extractor.batching import BatchSizes
from extractor.memory import Volume, embed_volume, embed_volumes
from extractor.prompts import seeded_points
from extractor.segmenter import Segmenter, load_segmenter, save_checkpoint
from extractor.streams import MODES, Stream

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


def make_case(frames: int, mode: str = "sequential", prompt: str = "box") -> tuple[np.ndarray, Stream]:
    """A textured volume, wider than high, and regions that wander; kept slices have gaps."""
    rng = np.random.default_rng(7)
    coarse = torch.from_numpy(rng.normal(size=(1, 1, 2 * frames + 2, 12, 15)))
    smooth = torch.nn.functional.interpolate(coarse, size=(2 * frames + 2, 77, 101), mode="trilinear")[0, 0].numpy()
    image_zyx = np.clip(smooth * 60 + 128, 0, 255).astype(np.uint8)
    low = rng.integers(5, 30, size=(frames, 2))
    boxes = np.concatenate([low, low + rng.integers(8, 40, size=(frames, 2))], axis=1)
    slices = tuple(range(2 * frames, 0, -2))
    mask_zyx = np.zeros(image_zyx.shape, np.uint8)
    for z, (x0, y0, x1, y1) in zip(slices, boxes, strict=True):
        mask_zyx[z, y0 : y1 + 1, x0 : x1 + 1] = rng.random((y1 - y0 + 1, x1 - x0 + 1)) < 0.9
    points = seeded_points(mask_zyx, slices, entry="P1/PET/tumour")
    key = frames // 3
    return image_zyx, Stream("tumour", slices, boxes, mode, prompt, points, mask_zyx, key)


def prompts_of(stream: Stream) -> tuple[str, object]:
    """What the reference is given: the same prompts, from the stream's own arrays."""
    masks = [stream.mask_zyx[z].astype(bool) for z in stream.slices]
    return stream.prompt, {"box": stream.boxes, "points": stream.points, "mask": masks}[stream.prompt]


def run_ours(segmenter: Segmenter, image_zyx: np.ndarray, *streams: Stream) -> dict[str, list]:
    """Frames by stream, each by its rank."""
    made: dict[str, dict[int, object]] = {stream.name: {} for stream in streams}

    def observe(name, rank, memory, logits):
        assert rank not in made[name], "a slice has one memory"
        made[name][rank] = stock.StockFrame(memory, logits)

    embed_volume(segmenter, image_zyx, streams, layouts=("paper",), observe=observe)
    return {name: [frames[rank] for rank in range(len(frames))] for name, frames in made.items()}


def run_stock(predictor, image_zyx: np.ndarray, stream: Stream) -> list:
    return stock.run_stock(predictor, image_zyx, stream.slices, prompts_of(stream), stream.mode, key=stream.key)


@pytest.mark.parametrize("frames", [1, 2, DEEP])
@pytest.mark.parametrize("prompt", ["box", "points", "mask"])
@pytest.mark.parametrize("mode", MODES)
def test_engine_memories_and_masks_equal_the_stock_predictors(pair, mode, prompt, frames):
    segmenter, predictor = pair
    image_zyx, stream = make_case(frames, mode, prompt)
    agreement = stock.compare(run_ours(segmenter, image_zyx, stream)["tumour"], run_stock(predictor, image_zyx, stream))
    assert agreement.holds, agreement
    assert agreement.memories_equal, agreement


@pytest.mark.parametrize("key", [0, 1, 4, 5])
def test_key_slice_anywhere_equals_the_stock_predictor(pair, key):
    segmenter, predictor = pair
    image_zyx, stream = make_case(6, "key_slice")
    stream = replace(stream, key=key)
    agreement = stock.compare(run_ours(segmenter, image_zyx, stream)["tumour"], run_stock(predictor, image_zyx, stream))
    assert agreement.memories_equal, agreement


def test_all_modes_and_prompts_of_one_pass_equal_the_stock_predictors(pair):
    segmenter, predictor = pair
    streams = []
    for mode, prompt in itertools.product(MODES, ("box", "points", "mask")):
        image_zyx, stream = make_case(5, mode, prompt)
        streams.append(replace(stream, name=f"{mode}-{prompt}"))
    ours = run_ours(segmenter, image_zyx, *streams)
    for stream in streams:
        assert stock.compare(ours[stream.name], run_stock(predictor, image_zyx, stream)).memories_equal, stream.name


@pytest.mark.parametrize("mode", MODES)
def test_streams_in_one_batch_agree_with_the_stock_predictor(pair, mode):
    segmenter, predictor = pair
    together = replace(segmenter, batches=BatchSizes(slices=3, streams=8))
    image_zyx, stream = make_case(DEEP, mode)
    shifted = replace(stream, name="other", boxes=stream.boxes[::-1])
    later = replace(stream, name="later", slices=stream.slices[4:], boxes=stream.boxes[4:], points=stream.points[4:])
    streams = [stream, shifted, replace(later, key=2)]
    ours = run_ours(together, image_zyx, *streams)
    for stream in streams:
        agreement = stock.compare(ours[stream.name], run_stock(predictor, image_zyx, stream))
        assert agreement.relative_error < 1e-3, (stream.name, agreement)
        assert agreement.share_within_one_step > 0.999, (stream.name, agreement)


@pytest.mark.parametrize("mode", MODES)
def test_streams_of_several_volumes_in_one_batch_agree_with_the_stock_predictor(pair, mode):
    """Several studies, or the modalities of one, in the same batches."""
    segmenter, predictor = pair
    together = replace(segmenter, batches=BatchSizes(slices=3, streams=8))
    image_zyx, stream = make_case(DEEP, mode)
    # an image without a mask logit so near 0 (2e-7) that rounding turns it
    other_zyx, other = image_zyx[:, :, ::-1].copy(), replace(stream, slices=stream.slices[2:], boxes=stream.boxes[2:])
    cases = [(image_zyx, stream), (other_zyx, replace(other, points=None, mask_zyx=None, key=1))]
    made: dict[int, dict[int, object]] = {0: {}, 1: {}}

    def watching(place):
        return lambda _name, rank, memory, logits: made[place].update({rank: stock.StockFrame(memory, logits)})

    volumes = [Volume(image, [one], observe=watching(place)) for place, (image, one) in enumerate(cases)]
    assert all(isinstance(found, dict) for found in embed_volumes(together, volumes, layouts=("paper",)))
    for place, (image, one) in enumerate(cases):
        ours = [made[place][rank] for rank in range(len(one.slices))]
        theirs = stock.run_stock(predictor, image, one.slices, ("box", one.boxes), mode, key=one.key)
        agreement = stock.compare(ours, theirs)
        assert agreement.relative_error < 1e-3, (place, agreement)
        assert agreement.share_within_one_step > 0.999, (place, agreement)


def test_measure_tells_the_modes_apart_unless_there_is_no_object(pair, request):
    segmenter, predictor = pair
    image_zyx, stream = make_case(8)
    ours = run_ours(segmenter, image_zyx, stream)["tumour"]
    theirs = run_stock(predictor, image_zyx, replace(stream, mode="upfront"))
    # Without an object every mask is blank, and history has no way into a memory.
    assert stock.compare(ours, theirs).holds == ("[no_object]" in request.node.name)
