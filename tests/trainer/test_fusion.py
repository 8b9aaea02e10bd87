"""Fusion: the paper's equations, parameter counts, and the bypass with one modality."""

import numpy as np
import pytest
import torch

from store_schema.errors import ConfigError
from trainer.fusion import ConcatFusion, GateFusion


def vectors(count, width=5, patients=4):
    stream = torch.Generator().manual_seed(0)
    return [torch.randn(patients, width, generator=stream) for _ in range(count)]


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("width", [1, 128])
def test_gate_has_2d_plus_1_parameters(width):
    assert parameters(GateFusion([width, width])) == 2 * width + 1


def test_gate_weighs_the_first_by_alpha_and_the_second_by_the_rest():
    fusion = GateFusion([5, 5])
    first, second = vectors(2)
    fused = fusion([first, second])
    weight, bias = fusion.gate.weight.detach().numpy()[0], fusion.gate.bias.item()
    alpha = 1 / (1 + np.exp(-(first.numpy() @ weight[:5] + second.numpy() @ weight[5:] + bias)))
    expected = alpha[:, None] * first.numpy() + (1 - alpha[:, None]) * second.numpy()
    np.testing.assert_allclose(fused.alpha.detach().numpy(), alpha, rtol=1e-5)
    np.testing.assert_allclose(fused.vector.detach().numpy(), expected, rtol=1e-4, atol=1e-6)


def test_gate_is_bypassed_with_one_modality():
    fusion, (only,) = GateFusion([5]), vectors(1)
    fused = fusion([only])
    assert parameters(fusion) == 0
    assert fused.alpha is None
    assert torch.equal(fused.vector, only)


def test_concatenation_stacks_in_order_without_a_parameter():
    fusion = ConcatFusion([5, 5])
    first, second = vectors(2)
    fused = fusion([first, second])
    assert (fusion.width, parameters(fusion), fused.alpha) == (10, 0, None)
    assert torch.equal(fused.vector[:, :5], first)
    assert torch.equal(fused.vector[:, 5:], second)


@pytest.mark.parametrize("fusion", [ConcatFusion, GateFusion])
@pytest.mark.parametrize("modalities", [1, 2])
def test_fusion_gives_vectors_of_the_width_it_announces(fusion, modalities):
    module = fusion([5] * modalities)
    assert module(vectors(modalities)).vector.shape == (4, module.width)


def test_vectors_of_two_lengths_are_stacked_and_not_mixed():
    first, second = torch.ones(4, 3), torch.zeros(4, 2)
    fused = ConcatFusion([3, 2])([first, second])
    assert torch.equal(fused.vector, torch.cat([first, second], dim=1))
    with pytest.raises(ConfigError, match="one length, got 3, 2"):
        GateFusion([3, 2])
