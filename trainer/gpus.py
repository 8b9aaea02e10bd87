"""Counts the GPUs that torch sees here, takes one, and has it compute exactly; knows no model, task or cluster."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

NO_GPU = "torch sees no CUDA device here"


def gpus() -> int:
    """How many there are."""
    return torch.cuda.device_count()


def take_gpu(number: int) -> None:
    """Make `cuda` mean another GPU for each number, as long as there are enough; without any nothing happens."""
    if gpus():
        torch.cuda.set_device(number % gpus())


@contextmanager
def exact() -> Iterator[None]:
    """Products and convolutions of a GPU in whole float32, not TensorFloat-32, and in one order, inside the block."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.deterministic, matmul.allow_tf32
    cudnn.allow_tf32, cudnn.deterministic, matmul.allow_tf32 = False, True, False
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.deterministic, matmul.allow_tf32 = before
