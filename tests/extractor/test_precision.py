"""A network that a view records as float32 computes in float32: the switches that let a GPU round to TF32 are off meanwhile."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from extractor.segmenter import Segmenter, load_segmenter


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
