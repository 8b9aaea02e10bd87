"""Survival model: what it is made of, where gradients go, and that its seed alone decides it."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from store_schema.errors import ConfigError, UsageError
from trainer.model import SurvivalHead, build_model, draw_levels, least_level, words_of
from trainer.spec import ModelSpec

SPECS = {
    "image": ModelSpec(modalities=("PET",), hidden=(8,)),
    "gate": ModelSpec(fusion="gate", hidden=(8,)),
    "concat": ModelSpec(fusion="concat", hidden=(8, 4)),
    "multimodal": ModelSpec(fusion="gate", clinical_features=3, hidden=(8,)),
    "clinical": ModelSpec(head=None, modalities=(), clinical_features=3, hidden=(8,)),
    "linear": ModelSpec(head=None, modalities=(), clinical_features=3, hidden=()),
}


def inputs(spec, patients=6):
    stream = torch.Generator().manual_seed(0)
    maps = {modality: torch.randn(patients, 1, 8, 8, generator=stream) for modality in spec.modalities}
    clinical = torch.randn(patients, spec.clinical_features, generator=stream) if spec.clinical_features else None
    return maps, clinical


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", SPECS)
def test_model_gives_one_log_risk_per_patient_and_alpha_only_when_it_mixes(name):
    spec = SPECS[name]
    output = build_model(spec, seed=0)(*inputs(spec))
    assert output.log_risk.shape == (6,)
    if name in ("gate", "multimodal"):
        assert output.alpha.shape == (6,)
        assert bool(((output.alpha > 0) & (output.alpha < 1)).all())
    else:
        assert output.alpha is None


@pytest.mark.parametrize("name", SPECS)
def test_gradients_reach_every_parameter(name):
    spec = SPECS[name]
    model = build_model(spec, seed=0)
    model(*inputs(spec)).log_risk.square().sum().backward()
    unreached = [key for key, value in model.named_parameters() if value.grad is None or not bool(value.grad.any())]
    assert unreached == []


def test_parameter_counts_are_those_of_the_paper():
    concat, gate = (build_model(ModelSpec(fusion=fusion, hidden=(16,)), seed=0) for fusion in ("concat", "gate"))
    assert parameters(concat.towers) == 2 * 92_672
    assert parameters(gate.fusion) == 2 * 128 + 1
    assert parameters(concat.survival) == 256 * 16 + 2 * 16 + 16
    assert parameters(gate.survival) == 128 * 16 + 2 * 16 + 16


def test_clinical_covariates_stand_behind_the_image_vector():
    spec = SPECS["multimodal"].model_copy(update={"hidden": ()})
    model = build_model(spec, seed=0).eval()
    maps, clinical = inputs(spec)
    last = model.survival[-1].weight[0]
    assert last.shape == (128 + 3,)
    difference = model(maps, clinical + 1).log_risk - model(maps, clinical).log_risk
    torch.testing.assert_close(difference, last[128:].sum().expand(6), rtol=1e-4, atol=1e-5)


def test_survival_head_is_linear_norm_relu_dropout_and_a_linear_without_bias():
    head = SurvivalHead(5, ModelSpec(hidden=(8,)), torch.Generator())
    assert [type(layer).__name__ for layer in head] == ["Linear", "BatchNorm1d", "ReLU", "SeededDropout", "Linear"]
    assert head[-1].bias is None
    bare = SurvivalHead(5, ModelSpec(hidden=(8,), batch_norm=False), torch.Generator())
    assert bare[0].bias is not None


def test_weights_and_dropout_depend_on_the_seed_alone_and_leave_the_global_stream_as_it_was():
    spec = SPECS["multimodal"]
    runs = []
    for global_seed, seed in ((1, 7), (2, 7), (2, 8)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        runs.append(build_model(spec, seed=seed)(*inputs(spec)).log_risk)
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[1], runs[2])


def test_dropout_drops_its_share_in_training_only_and_keeps_the_mean():
    dropout = build_model(SPECS["clinical"], seed=0).survival[3]
    ones = torch.ones(400, 50)
    dropped = dropout(ones)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)
    assert torch.equal(dropout.eval()(ones), ones)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999999])
def test_levels_keep_all_but_the_share_and_four_units_share_a_word(share):
    words = torch.empty(words_of(200_003), dtype=torch.int64)
    levels = draw_levels(words, torch.Generator().manual_seed(0))
    assert (len(words), len(levels)) == (50_001, 200_004)
    assert float((levels >= least_level(share)).float().mean()) == pytest.approx(1 - share, abs=0.004)
    # units of one word are as independent as those of different words
    kept = (levels >= least_level(share)).view(-1, 4).double()
    assert float(kept.sum(1).var()) == pytest.approx(4 * share * (1 - share), rel=0.05, abs=1e-3)


def test_a_stream_goes_on_where_the_last_draw_ended():
    whole, parts = (torch.Generator().manual_seed(3) for _ in range(2))
    at_once = draw_levels(torch.empty(5, dtype=torch.int64), whole)
    pieces = [draw_levels(torch.empty(number, dtype=torch.int64), parts) for number in (2, 3)]
    assert torch.equal(at_once, torch.cat(pieces))


def test_gate_starts_even_handed():
    spec = SPECS["gate"]
    assert build_model(spec, seed=0)(*inputs(spec)).alpha.tolist() == [0.5] * 6


def test_batch_statistics_start_at_zero_and_one():
    norm = next(
        module for module in build_model(SPECS["image"], seed=0).modules() if isinstance(module, nn.BatchNorm1d)
    )
    assert (norm.running_mean.tolist(), norm.running_var.tolist()) == ([0.0] * 8, [1.0] * 8)


def test_inputs_that_do_not_fit_the_model_are_refused():
    maps, clinical = inputs(SPECS["multimodal"])
    model = build_model(SPECS["multimodal"], seed=0)
    with pytest.raises(UsageError, match="needs maps of CT, got PET"):
        model({"PET": maps["PET"]}, clinical)
    with pytest.raises(UsageError, match="takes 3 clinical features, got 2"):
        model(maps, clinical[:, :2])
    with pytest.raises(UsageError, match="takes 3 clinical features, got 0"):
        model(maps, None)
    with pytest.raises(ConfigError, match="no input"):
        build_model(ModelSpec(head=None, modalities=()), seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": None}, "head None with modalities"),
        ({"modalities": ()}, "needs a modality"),
        ({"modalities": ("PET", "PET")}, "distinct"),
        ({"modalities": ("PET", "CT", "MR"), "fusion": "gate"}, "mixes two"),
        ({"dropout": 1.0}, "less than 1"),
        ({"depth": 3}, "Extra inputs"),
    ],
)
def test_spec_refuses_what_is_no_model(settings, message):
    with pytest.raises(ValidationError, match=message):
        ModelSpec(**settings)
