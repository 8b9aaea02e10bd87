"""GPUs of the machine: counted, taken in turn, and exact only inside the block that asks for it."""

import pytest
import torch

from trainer import gpus
from trainer.gpus import exact, take_gpu


def flags():
    cudnn = torch.backends.cudnn
    return cudnn.allow_tf32, cudnn.deterministic, torch.backends.cuda.matmul.allow_tf32


def fail(inside):
    with exact():
        inside.append(flags())
        raise KeyError


def test_computing_is_exact_inside_the_block_and_as_before_after_it_whatever_ends_it():
    before, inside = flags(), []
    with pytest.raises(KeyError):
        fail(inside)
    assert inside == [(False, True, False)]
    assert flags() == before


@pytest.mark.parametrize(("here", "taken"), [(0, []), (1, [0, 0, 0]), (2, [0, 1, 0])])
def test_processes_take_gpus_in_turn(monkeypatch, here, taken):
    found = []
    monkeypatch.setattr(gpus, "gpus", lambda: here)
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    for number in range(3):
        take_gpu(number)
    assert found == taken
