"""Networks side by side: forwards, backwards and in evaluation as torch takes each alone, and dropout from its own stream."""

import pytest
import torch

from trainer.model import SeededDropout, build_model, dropout_stream
from trainer.spec import ModelSpec
from trainer.stacked_layers import Masks
from trainer.stacked_memory import Layout
from trainer.stacked_network import FEW, Individual, StackedNetwork, Vectors

CLINICAL = ModelSpec(head=None, modalities=(), clinical_features=5, hidden=(8,))
SPECS = {
    "clinical": CLINICAL,
    "deep": CLINICAL.model_copy(update={"hidden": (7, 9, 3)}),
    "linear": CLINICAL.model_copy(update={"hidden": ()}),
    "without norm": CLINICAL.model_copy(update={"hidden": (7, 9), "batch_norm": False}),
    "many inputs": CLINICAL.model_copy(update={"clinical_features": FEW + 1}),
    "flat": ModelSpec(head="flatten", features=(6, 4), hidden=(8,)),
    "flat and gated": ModelSpec(head="pca", features=(6, 6), fusion="gate", clinical_features=2, hidden=(8,)),
    "gate without hidden layers": ModelSpec(head="pca", features=(6, 6), fusion="gate", hidden=()),
    "vectors": ModelSpec(head="vector", features=(6, 60), clinical_features=2, hidden=(8,)),
    "vectors and gate": ModelSpec(head="vector", features=(6, 9), fusion="gate", hidden=(8,), batch_norm=False),
    "one vector": ModelSpec(head="vector", modalities=("PET",), features=(6,), fusion="gate", hidden=(4,)),
}
COUNTS, WATCHED, ROWS = (9, 16, 21), (4, 11, 7), (32, 16)


class Numbers:
    """Numbers of a stack, found by name."""

    def __init__(self, models):
        self.layout = Layout.of(models[0])
        read = [self.layout.read(model.state_dict()) for model in models]
        self.values, self.statistics = (torch.stack(numbers) for numbers in zip(*read, strict=True))
        self.slopes = torch.zeros_like(self.values)

    def value(self, name):
        place = self.layout.parameters.get(name)
        return place.of(self.values) if place else self.layout.statistics[name].of(self.statistics)

    def slope(self, name):
        return self.layout.parameters[name].of(self.slopes)


def networks(spec):
    """Three networks of one architecture, in float64, each with its own numbers, dropout and momentum."""
    for seed, (share, momentum) in enumerate(((0.0, 0.3), (0.4, 0.1), (0.2, 1.0))):
        model = build_model(spec.model_copy(update={"dropout": share, "norm_momentum": momentum}), seed=seed).double()
        stream = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=stream)
        yield model


def patients(spec, counts, seed):
    """Vectors of each network's patients: of its modalities, then covariates."""
    stream = torch.Generator().manual_seed(seed)
    widths = [*spec.features, *([spec.clinical_features] if spec.clinical_features else [])]
    return [[torch.randn(n, width, generator=stream).double() + 1 for width in widths] for n in counts]


def called(model, vectors):
    spec = model.spec
    maps = dict(zip(spec.modalities, vectors, strict=False))
    return model(maps, vectors[-1] if spec.clinical_features else None).log_risk


def stack(spec):
    models = list(networks(spec))
    train, watch = patients(spec, COUNTS, 1), patients(spec, WATCHED, 2)
    numbers = Numbers(models)
    individual = Individual(
        shares=[model.spec.dropout for model in models],
        momenta=[model.spec.norm_momentum for model in models],
        streams=[dropout_stream(seed) for seed in range(3)],
        counts=COUNTS,
    )
    sides = (Vectors.of(part, n, modalities=len(spec.modalities)) for part, n in zip((train, watch), ROWS, strict=True))
    return (
        models,
        train,
        watch,
        numbers,
        StackedNetwork(spec, numbers, individual, train=next(sides), watch=next(sides)),
    )


@pytest.mark.parametrize("name", SPECS)
def test_two_steps_of_each_network_are_those_of_the_network_alone(name):
    models, train, watch, numbers, network = stack(SPECS[name])
    for step in range(2):
        risk = network.forward()
        slope = torch.cos(torch.arange(risk.numel()).double()).view(risk.shape)
        for row, count in zip(slope, COUNTS, strict=True):
            row[count:] = 0
        network.backward(slope)
        watched = network.watch()
        for place, model in enumerate(models):
            count, model_watch = COUNTS[place], WATCHED[place]
            expected = called(model.train(), train[place])
            torch.testing.assert_close(risk[place, :count], expected, rtol=1e-10, atol=1e-10)
            assert not risk[place, count:].any()
            model.zero_grad()
            expected.backward(slope[place, :count])
            for key, parameter in model.named_parameters():
                own = numbers.slope(key)[place]
                own = own.mT if parameter.ndim > 1 else own
                torch.testing.assert_close(own, parameter.grad, rtol=1e-9, atol=1e-10, msg=f"{key} in step {step}")
            state = numbers.layout.state(numbers.values[place], numbers.statistics[place], steps=step + 1)
            for key, tensor in model.state_dict().items():
                torch.testing.assert_close(state[key], tensor, rtol=1e-10, atol=1e-10, msg=key)
            evaluated = called(model.eval(), watch[place])
            torch.testing.assert_close(watched[place, :model_watch], evaluated, rtol=1e-10, atol=1e-10)


def test_one_hot_inputs_that_add_up_to_a_constant_lose_nothing_in_float32():
    """What their weights have in common adds nothing to the variance W'CW, but would add its rounding if it were float32."""
    spec = CLINICAL.model_copy(update={"clinical_features": 3, "dropout": 0.0})
    model = build_model(spec, seed=0)
    model.survival[0].weight.data = 100 + 0.03 * torch.arange(24.0).view(8, 3).sin()
    one_hot = torch.nn.functional.one_hot(torch.arange(32) % 3, 3).float()
    individual = Individual(shares=[0.0], momenta=[0.3], streams=[dropout_stream(0)], counts=[32])
    train = Vectors.of([[one_hot]], 32, modalities=0)
    risk = StackedNetwork(spec, Numbers([model]), individual, train=train, watch=None).forward()[0]
    exact = model.double()({}, one_hot.double()).log_risk.detach()
    assert float((risk - exact).norm() / exact.norm()) < 2e-3


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_masks_are_those_of_each_models_own_dropout_and_who_drops_nothing_draws_nothing(precision):
    shares, counts, units = (0.5, 0.0, 0.1), (3, 7, 16), 5
    streams = [dropout_stream(seed) for seed in range(3)]
    masks = Masks(shares, streams, counts, kept=torch.empty(3, 16, units, dtype=precision))
    alone = [SeededDropout(share, dropout_stream(seed)) for seed, share in enumerate(shares)]
    for _ in range(3):
        kept = masks.draw()
        for own, dropout, share, count in zip(kept, alone, shares, counts, strict=True):
            expected = dropout(torch.ones(count, units, dtype=precision))
            torch.testing.assert_close(own[:count] / (1 - share), expected, rtol=1e-6, atol=0)
    assert torch.equal(streams[1].get_state(), dropout_stream(1).get_state())
