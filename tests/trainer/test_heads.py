"""Averaging and volume heads: shapes and parameter counts, and the plain order of their layers."""

import pytest
import torch
from torch import nn

from store_schema.errors import UsageError
from trainer.heads import BLOCK, AverageHead, VolumeHead


def plain_head(head):
    """Fig. 3(a) word for word: Conv-ReLU-MaxPool twice, Conv-ReLU, AdaptiveAvgPool(1), flatten."""
    pool = nn.MaxPool2d(2)
    rest = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(head.first, nn.ReLU(), pool, head.second, nn.ReLU(), pool, head.third, *rest)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_average_head_has_92672_parameters_all_in_convolutions():
    head = AverageHead()
    assert sum(parameter.numel() for parameter in head.parameters()) == 92_672
    assert {type(module) for module in head.children()} == {nn.Conv2d}


@pytest.mark.parametrize("side", [4, 16, 64])
def test_average_head_gives_128_numbers_for_maps_that_two_poolings_fit(side):
    assert AverageHead()(drawn(3, 1, side, side)).shape == (3, 128)


def test_average_head_equals_the_papers_order_of_layers_with_its_gradients():
    head = AverageHead()
    maps = drawn(BLOCK + 5, 1, 16, 16)
    gradients = []
    outputs = []
    for network in (head, plain_head(head)):
        head.zero_grad()
        output = network(maps)
        (output * drawn(BLOCK + 5, 128, seed=1)).sum().backward()
        outputs.append(output)
        gradients.append([parameter.grad.clone() for parameter in head.parameters()])
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_average_head_treats_each_patient_alone():
    head, maps = AverageHead(), drawn(4, 1, 16, 16)
    torch.testing.assert_close(head(maps)[2:3], head(maps[2:3]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 16, 16), (2, 1, 3, 16)])
def test_average_head_refuses_other_shapes(shape):
    with pytest.raises(UsageError, match="at least 4x4"):
        AverageHead()(torch.zeros(shape))


def plain_volume_head(head):
    """Conv-ReLU-MaxPool twice, Conv-ReLU, AdaptiveAvgPool(1), flatten, linear."""
    pool = nn.MaxPool3d(2, ceil_mode=True)
    rest = (nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), head.project)
    return nn.Sequential(head.first, nn.ReLU(), pool, head.second, nn.ReLU(), pool, head.third, *rest)


@pytest.mark.parametrize("size", [(16, 8, 8), (1, 4, 4), (5, 6, 7)])
def test_volume_head_equals_the_plain_order_of_layers_with_its_gradients(size):
    head, found = VolumeHead(), []
    volumes = drawn(BLOCK + 3, 1, *size)
    for network in (head, plain_volume_head(head)):
        head.zero_grad()
        output = network(volumes)
        (output * drawn(BLOCK + 3, 128, seed=1)).sum().backward()
        found.append([output.detach(), *(parameter.grad.clone() for parameter in head.parameters())])
    assert found[0][0].shape == (BLOCK + 3, 128)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_volume_head_has_21776_parameters():
    assert sum(parameter.numel() for parameter in VolumeHead().parameters()) == 21_776


@pytest.mark.parametrize("shape", [(2, 3, 4, 16, 16), (2, 1, 16, 16)])
def test_volume_head_refuses_other_shapes(shape):
    with pytest.raises(UsageError, match="volumes as"):
        VolumeHead()(torch.zeros(shape))
