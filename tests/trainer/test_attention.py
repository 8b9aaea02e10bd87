"""Attention head: equal to the figure's layers in values and gradients, its weights, its parameters, its memory."""

import pytest
import torch
from torch import nn

from store_schema.errors import UsageError
from trainer import attention
from trainer.attention import AttentionHead
from trainer.model import build_model
from trainer.spec import ModelSpec

LAYOUTS = [(2, 32, 8, 8), (7, 64, 8, 8), (3, 64, 8, 8), (1, 64, 8, 8), (2, 5, 3, 7)]


class PlainHead(nn.Module):
    """Fig. 3(b) layer by layer, with the weights of a head of ours."""

    def __init__(self, head, side):
        super().__init__()
        self.head, self.resize = head, nn.AdaptiveAvgPool2d(side)

    def forward(self, memory):
        x = nn.functional.gelu(self.head.norm(self.head.mix(memory)))
        squeezed = nn.AdaptiveAvgPool3d((memory.shape[2], 1, 1))(x).flatten(2)
        logits = self.head.excite(squeezed.transpose(1, 2)).squeeze(2)
        self.weights = torch.softmax(logits, dim=1)
        collapsed = torch.einsum("pd,pbdhw->pbhw", self.weights, x)
        return self.head.project(self.resize(collapsed).mean(dim=(2, 3)))


def made(layers, seed=0):
    """A head whose weights all differ from their start."""
    head = AttentionHead(layers)
    stream = torch.Generator().manual_seed(seed)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.5, generator=stream)
    return head


def drawn(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", [2**12, 2**26])
def test_values_and_gradients_equal_those_of_the_figures_layers(layout, block, monkeypatch):
    monkeypatch.setitem(attention.ACTIVATIONS, "cpu", block)
    head, memory = made(layout[0]).double(), drawn(3, *layout)
    found = []
    for network in (head, PlainHead(head, 1 if layout[2] == 3 else 4)):
        head.zero_grad()
        output = network(memory)
        (output * drawn(3, 128, seed=2)).sum().backward()
        found.append([output.detach(), *(parameter.grad.clone() for parameter in head.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_single_precision_is_as_near_to_double_as_the_plain_layers_are():
    head, memory = made(2), drawn(4, 2, 32, 16, 16) * 3
    exact = PlainHead(made(2).double(), 4)(memory)
    error = {
        name: (net(memory.float()) - exact).abs().max() for name, net in (("ours", head), ("plain", PlainHead(head, 4)))
    }
    assert error["ours"] < 3 * error["plain"] + 1e-5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_those_of_the_figure_sum_to_one_and_differ_between_patients(layout):
    head, memory = made(layout[0]).double(), drawn(3, *layout)
    weights = head.weights(memory)
    plain = PlainHead(head, 1)
    plain(memory)
    torch.testing.assert_close(weights, plain.weights, rtol=1e-10, atol=1e-10)
    assert weights.shape == (3, layout[1])
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3, dtype=torch.float64))
    assert bool((weights > 0).all())
    assert not torch.equal(weights[0], weights[1])


def test_a_new_model_attends_to_every_channel_alike():
    model = build_model(ModelSpec(head="attention", modalities=("PET",), features=(2,)), seed=0)
    weights = model.towers[0].weights(drawn(2, 2, 8, 4, 4).float())
    torch.testing.assert_close(weights, torch.full((2, 8), 1 / 8))


@pytest.mark.parametrize(("layers", "count"), [(1, 4896), (2, 4928), (7, 5088)])
def test_parameters_are_mix_norm_excitation_and_projection(layers, count):
    mix, norm, excite, project = 32 * layers + 32, 2 * 32, 32 * 16 + 16 + 16, 32 * 128 + 128
    assert sum(p.numel() for p in AttentionHead(layers).parameters()) == mix + norm + excite + project == count


def test_each_patient_is_treated_alone():
    head, memory = made(2), drawn(5, 2, 8, 6, 6).float()
    torch.testing.assert_close(head(memory)[2:3], head(memory[2:3]), rtol=1e-5, atol=1e-6)


def test_no_activation_is_kept_for_the_backward_pass():
    head, memory = made(2), drawn(16, 2, 32, 16, 16).float()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        head(memory)
    distinct = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    activations = 16 * 32 * 32 * 16 * 16 * 4
    assert sum(distinct.values()) < activations / 4


def test_an_invalid_layer_enters_as_zeros():
    head, memory = made(2).double(), drawn(2, 2, 8, 6, 6)
    memory[:, 0] = 0
    torch.testing.assert_close(head(memory), PlainHead(head, 2)(memory), rtol=1e-10, atol=1e-10)
    assert bool(torch.isfinite(head(torch.zeros(2, 2, 8, 6, 6, dtype=torch.float64))).all())


@pytest.mark.parametrize("shape", [(2, 3, 8, 4, 4), (2, 8, 4, 4)])
def test_other_memories_are_refused(shape):
    with pytest.raises(UsageError, match=r"\(patient, 2, channel, row, column\)"):
        made(2)(torch.zeros(shape))
    with pytest.raises(UsageError, match="no gradient"):
        made(2)(torch.zeros(2, 2, 8, 4, 4, requires_grad=True))
