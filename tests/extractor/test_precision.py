"""A network that a view records as float32 computes in float32: the switches that let a GPU round to TF32 are off meanwhile."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from extractor.memory import embed_volume
from extractor.segmenter import Segmenter, load_segmenter
from extractor.streams import Stream


def switches() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(params=[(True, True), (True, False), (False, False)])
def outside(request) -> Iterator[tuple[bool, bool]]:
    """Switches as somebody else set them."""
    before = switches()
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = request.param
    yield request.param
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(scope="module")
def mini() -> Segmenter:
    return load_segmenter("mini", "random:3")


def test_float32_runs_without_tf32_and_leaves_the_switches_as_they_were(mini, outside):
    with mini.running():
        assert switches() == (False, False)
    assert switches() == outside


def test_the_switches_are_left_as_they_were_after_an_error(mini, outside):
    with pytest.raises(RuntimeError, match="size"), mini.running():
        torch.ones(2) @ torch.ones(3)
    assert switches() == outside


def test_bfloat16_touches_no_switch(mini, outside):
    with replace(mini, precision="bfloat16").running():
        assert switches() == outside


def memories_of(segmenter: Segmenter) -> np.ndarray:
    rng = np.random.default_rng(0)
    image_zyx = rng.integers(40, 120, (12, 12, 15), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    stream = Stream("a", tuple(range(11, -1, -1)), np.tile((20, 16, 35, 27), (12, 1)))
    made: list[np.ndarray] = []
    embed_volume(
        segmenter,
        image_zyx,
        [stream],
        layouts=("paper",),
        observe=lambda name, rank, memory, logits: made.append(memory.float().numpy()),
    )
    return np.stack(made)


def test_bfloat16_comes_near_float32_and_is_not_it():
    exact, coarse = (memories_of(load_segmenter("mini", "random:3", precision=p)) for p in ("float32", "bfloat16"))
    error = np.linalg.norm(coarse - exact) / np.linalg.norm(exact)
    # An untrained network binarises masks near 0 everywhere: bits flip, and memories with them.
    assert 1e-4 < error < 0.3
