"""Heads without a convolution: what enters them, what they are made of, and that each learns a signal of its kind."""

import numpy as np
import pytest
import torch

from store_schema.errors import ConfigError, UsageError
from trainer.batch import Batch, Inputs
from trainer.components import MapComponents
from trainer.fit import fit_model
from trainer.metrics import harrell_c
from trainer.model import build_model
from trainer.preparing import fit_scalers, scaled, sized
from trainer.scaling import MapScaler, VectorScaler
from trainer.spec import FLAT_HEADS, FitConfig, ModelSpec

SIDE, FEATURES = 6, 12
FIT = FitConfig(epochs=25, learning_rate=1e-2)


def spec(head, **settings):
    return ModelSpec(head=head, modalities=("PET", "CT"), hidden=(8,), components=5, **settings)


def cohort(head, n=240, seed=0):
    """Noise, and in PET alone one direction whose amplitude drives the hazard: a corner of the map, or two features."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    shape = (FEATURES,) if head == "vector" else (SIDE, SIDE)
    maps = {modality: rng.normal(size=(n, *shape)) for modality in ("PET", "CT")}
    place = (slice(None), slice(2, 4)) if head == "vector" else (slice(None), slice(0, 3), slice(0, 3))
    maps["PET"][place] += 2 * z.reshape(n, *[1] * len(shape))
    if head == "vector":
        maps["PET"] = 100 + maps["PET"] * 10.0 ** np.arange(-6, 6)
        maps["PET"][rng.random(maps["PET"].shape) < 0.05] = np.nan
    onset, censored = 36 * rng.exponential(size=n) * np.exp(-1.5 * z), rng.uniform(6, 140, n)
    return Batch.of(maps=maps, time=np.ceil(np.minimum(onset, censored)), event=onset <= censored)


def rows(batch, start, stop):
    return batch.rows(slice(start, stop))


def held_out_c(head, batch, **settings):
    fitted = fit_model(spec(head, **settings), FIT, train=rows(batch, 0, 100), validation=rows(batch, 100, 140), seed=1)
    test = rows(batch, 140, 240)
    risk = fitted.predict(test.inputs).log_risk
    return harrell_c(risk=risk, time=test.time.numpy(), event=test.event.numpy()).c


@pytest.mark.parametrize("head", FLAT_HEADS)
def test_a_flat_head_learns_a_planted_direction_and_is_at_chance_on_permuted_outcomes(head):
    planted = cohort(head)
    assert held_out_c(head, planted) > 0.65
    by_chance = []
    for seed in range(3):
        order = torch.randperm(240, generator=torch.Generator().manual_seed(seed))
        by_chance.append(held_out_c(head, Batch(planted.inputs, planted.time[order], planted.event[order])))
    assert 0.4 < np.mean(by_chance) < 0.6


@pytest.mark.parametrize(("head", "width"), [("vector", 128), ("flatten", SIDE * SIDE), ("pca", 5)])
def test_what_enters_a_flat_head_is_a_row_of_numbers_for_each_patient(head, width):
    inputs = cohort(head, 30).inputs
    scalers = fit_scalers(spec(head), inputs)
    prepared = scaled(inputs, scalers)
    full = sized(spec(head), prepared)
    assert {name: tuple(tensor.shape) for name, tensor in prepared.maps.items()} == dict.fromkeys(
        ("PET", "CT"), (30, full.features[0])
    )
    model = build_model(full, seed=0)
    assert model.fusion.width == 2 * width
    assert model(prepared.maps).log_risk.shape == (30,)


def test_vector_head_is_linear_norm_relu_dropout_and_the_others_have_no_weight():
    sizes = {head: build_model(spec(head, features=(12, 12)), seed=0) for head in FLAT_HEADS}
    layers = [type(layer).__name__ for layer in sizes["vector"].towers[0]]
    assert layers == ["Linear", "BatchNorm1d", "ReLU", "SeededDropout"]
    counts = {head: sum(p.numel() for p in model.towers.parameters()) for head, model in sizes.items()}
    assert counts == {"vector": 2 * (12 * 128 + 2 * 128), "flatten": 0, "pca": 0}


@pytest.mark.parametrize("head", FLAT_HEADS)
@pytest.mark.parametrize("fusion", ["concat", "gate"])
def test_the_same_seed_gives_the_same_bits_and_a_copy_predicts_the_same(head, fusion):
    batch = rows(cohort(head), 0, 60)
    short = FitConfig(epochs=3, min_epochs=1)
    first, second = (fit_model(spec(head, fusion=fusion), short, train=batch, seed=4) for _ in range(2))
    assert all(torch.equal(first.state[name], second.state[name]) for name in first.state)
    np.testing.assert_array_equal(first.predict(batch.inputs).log_risk, second.predict(batch.inputs).log_risk)
    assert (first.predict(batch.inputs).alpha is None) == (fusion == "concat")
    assert first.spec.features == sized(spec(head), scaled(batch.inputs, first.scalers)).features


@pytest.mark.parametrize("head", FLAT_HEADS)
def test_held_out_patients_change_no_scaler_and_no_weight(head):
    batch, other = cohort(head), cohort(head, seed=7)
    mixed = {m: torch.cat([batch.inputs.maps[m][:60], other.inputs.maps[m][60:]]) for m in ("PET", "CT")}
    changed = Batch(Inputs(mixed, None), batch.time, batch.event)
    short = FitConfig(epochs=3, min_epochs=1)
    fits = [fit_model(spec(head), short, train=rows(one, 0, 60), seed=0) for one in (batch, changed)]
    assert fits[0].scalers == fits[1].scalers
    assert all(torch.equal(fits[0].state[name], fits[1].state[name]) for name in fits[0].state)


@pytest.mark.parametrize("head", FLAT_HEADS)
def test_equal_patients_have_equal_risks_wherever_they_stand(head):
    batch, rng = rows(cohort(head), 0, 60), np.random.default_rng(0)
    fitted = fit_model(spec(head), FitConfig(epochs=3, min_epochs=1), train=batch, seed=0)
    of = rng.integers(0, 8, 29)
    risk = fitted.predict(batch.inputs.rows(torch.from_numpy(of))).log_risk
    assert len(np.unique(risk)) == len(np.unique(of))
    assert all(len(np.unique(risk[of == one])) == 1 for one in np.unique(of))


def test_each_head_has_the_scaler_of_its_kind():
    kinds = {head: type(fit_scalers(spec(head), cohort(head, 30).inputs)["PET"]) for head in FLAT_HEADS}
    assert kinds == {"vector": VectorScaler, "flatten": MapScaler, "pca": MapComponents}


def test_tensors_that_a_head_does_not_read_are_refused():
    with pytest.raises(UsageError, match="vector head takes vectors, got shape"):
        fit_scalers(spec("vector"), cohort("pca", 30).inputs)
    with pytest.raises(UsageError, match="average head takes maps, got shape"):
        fit_scalers(spec("average"), cohort("vector", 30).inputs)
    with pytest.raises(UsageError, match="takes"):
        build_model(spec("pca", features=(5, 5)), seed=0)({"PET": torch.zeros(2, 5), "CT": torch.zeros(2, 4)})
    with pytest.raises(UsageError, match="needs the size of what enters it"):
        build_model(spec("flatten"), seed=0)
    with pytest.raises(ConfigError, match="one length"):
        build_model(spec("vector", fusion="gate", features=(5, 4)).model_copy(update={"head": "flatten"}), seed=0)


def test_only_a_vector_may_hold_an_unknown_value():
    vector = np.array([[1.0, np.nan], [2.0, 3.0]])
    assert len(Inputs.of(maps={"PET": vector})) == 2
    with pytest.raises(UsageError, match="not finite"):
        Inputs.of(maps={"PET": np.where(np.isnan(vector), np.inf, vector)})
    with pytest.raises(UsageError, match="not finite"):
        Inputs.of(maps={"PET": np.full((2, 4, 4), np.nan)})
    with pytest.raises(UsageError, match="not finite"):
        Inputs.of(clinical=vector)
