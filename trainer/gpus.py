"""Counts the GPUs that torch sees here and takes one for the process; knows no model, task or cluster."""

import torch

NO_GPU = "torch sees no CUDA device here"


def gpus() -> int:
    """How many there are."""
    return torch.cuda.device_count()


def take_gpu(number: int) -> None:
    """Make `cuda` mean another GPU for each number, as long as there are enough; without any nothing happens."""
    if gpus():
        torch.cuda.set_device(number % gpus())
