"""Memory of a stack: states go in and come out unchanged, and everything of a model begins where vector units like it."""

import pytest
import torch

from trainer.model import build_model
from trainer.spec import ModelSpec
from trainer.stacked_memory import LANES, Layout, aligned, padded

SPECS = [
    ModelSpec(head=None, modalities=(), clinical_features=3, hidden=(7, 5)),
    ModelSpec(head=None, modalities=(), clinical_features=3, hidden=(7,), batch_norm=False),
    ModelSpec(head=None, modalities=(), clinical_features=3, hidden=()),
    ModelSpec(head="vector", features=(9, 4), fusion="gate", clinical_features=2, hidden=(5,)),
]


def altered(spec):
    """Network with different numbers everywhere, and 4 steps behind its running statistics."""
    model, stream = build_model(spec, seed=0), torch.Generator().manual_seed(1)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=stream) if tensor.is_floating_point() else torch.tensor(4))
    return model


@pytest.mark.parametrize("spec", SPECS)
def test_a_state_comes_out_as_it_went_in(spec):
    model = altered(spec)
    layout, state = Layout.of(model), model.state_dict()
    back = layout.state(*layout.read(state), steps=4)
    assert list(back) == list(state)
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


@pytest.mark.parametrize("spec", SPECS)
def test_what_decays_is_the_weights_and_the_survival_head_comes_last(spec):
    model = altered(spec)
    layout = Layout.of(model)
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1)
    assert int(layout.decayed.sum()) == weights
    values, _ = layout.read(model.state_dict())
    head = sum(float(parameter.detach().square().sum()) for parameter in model.survival.parameters())
    assert float(values[layout.survival :].square().sum()) == pytest.approx(head, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_tensor_of_every_model_begins_at_64_bytes(dtype):
    layout = Layout.of(altered(SPECS[3]))
    values = torch.stack([layout.read(altered(SPECS[3]).state_dict())[0]] * 3).to(dtype)
    tensors = [place.of(values) for place in layout.parameters.values()]
    tensors += [aligned(3, 5, 7, like=values), padded([torch.ones(2, 3, dtype=dtype)] * 3, LANES)]
    assert {one.data_ptr() % 64 for tensor in tensors for one in tensor} == {0}


def test_padding_is_zero_and_patients_keep_their_rows():
    parts = [torch.randn(n, 3) for n in (2, 5)]
    whole = padded(parts, 16)
    for one, part in zip(whole, parts, strict=True):
        assert torch.equal(one[: len(part)], part)
        assert not one[len(part) :].any()
