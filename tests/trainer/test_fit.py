"""Fitting: determinism, early stopping, no leak, the planted signal, and pycox as the reference DeepSurv."""

import math
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from store_schema.errors import CohortError, ConfigError, TaskError, UsageError
from trainer.batch import Batch, Inputs
from trainer.fit import fit_model, learning_rate, one_thread
from trainer.loss import cox_loss
from trainer.metrics import harrell_c
from trainer.model import build_model
from trainer.scaling import MapScaler
from trainer.spec import FitConfig, ModelSpec

with warnings.catch_warnings():
    # pycox 0.3.0 has "\in" in plain docstrings, a SyntaxWarning on Python 3.12 when it is first compiled
    warnings.simplefilter("ignore", SyntaxWarning)
    from pycox.models import CoxPH

CLINICAL = ModelSpec(head=None, modalities=(), clinical_features=3, hidden=(8,), dropout=0.2)
IMAGE = ModelSpec(modalities=("PET",), hidden=(16,))
GATE = ModelSpec(fusion="gate", clinical_features=3, hidden=(8,))
SHORT = FitConfig(epochs=4, min_epochs=1)

ELSEWHERE = """
import sys
import numpy as np
from trainer.batch import Batch
from trainer.fit import fit_model
from trainer.spec import FitConfig, ModelSpec
a = np.load(sys.argv[1])
maps = {modality: a[modality] for modality in ("PET", "CT")}
train = Batch.of(maps=maps, clinical=a["clinical"], time=a["time"], event=a["event"])
spec, config = ModelSpec.model_validate_json(sys.argv[2]), FitConfig.model_validate_json(sys.argv[3])
print(fit_model(spec, config, train=train, seed=5).predict(train.inputs).log_risk.tobytes().hex())
"""


def cohort(seed, n, *, image=1.3, clinical=0.5, side=16):
    """Maps with a common image, noise, and a blob at a random place; its amplitude drives the hazard."""
    rng = np.random.default_rng(seed)
    z, covariates = rng.normal(size=n), rng.normal(size=(n, 3))
    log_risk = image * z + clinical * covariates[:, 0]
    onset = 36 * (rng.exponential(size=n) * np.exp(-log_risk)) ** (1 / 1.2)
    censored = rng.uniform(6, 140, n)
    maps = {modality: blobs(rng, z * share, side) for modality, share in (("PET", 1.0), ("CT", 0.3))}
    time, event = np.ceil(np.minimum(onset, censored)), onset <= censored
    return Batch.of(maps=maps, clinical=covariates, time=time, event=event)


def blobs(rng, amplitude, side):
    row, column = np.mgrid[:side, :side]
    common = np.random.default_rng(0).normal(size=(side, side))
    centre = rng.uniform(3, side - 3, (2, len(amplitude), 1, 1))
    blob = np.exp(-((row - centre[0]) ** 2 + (column - centre[1]) ** 2) / 8)
    noise = 0.05 * rng.normal(size=(len(amplitude), side, side))
    return common + noise + 0.2 * amplitude[:, None, None] * blob


def rows(batch, start, stop):
    return batch.rows(slice(start, stop))


def same(first, second):
    states = first.state, second.state
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


@pytest.fixture(scope="module")
def patients():
    return cohort(1, 220)


@pytest.fixture(scope="module")
def stopped(patients):
    """Clinical model that early stopping ended."""
    config = FitConfig(learning_rate=0.03, patience=5, min_epochs=3)
    return fit_model(CLINICAL, config, train=rows(patients, 0, 60), validation=rows(patients, 60, 120), seed=3)


def test_average_head_finds_a_planted_blob_and_is_at_chance_on_permuted_outcomes(patients):
    shuffled = torch.randperm(220, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, order in (("planted", torch.arange(220)), ("permuted", shuffled)):
        known = Batch(patients.inputs, patients.time[order], patients.event[order])
        test = rows(known, 120, 220)
        fitted = fit_model(
            IMAGE, FitConfig(epochs=40), train=rows(known, 0, 96), validation=rows(known, 96, 120), seed=0
        )
        risk = fitted.predict(test.inputs).log_risk
        found[name] = harrell_c(risk=risk, time=test.time.numpy(), event=test.event.numpy()).c
    assert found["planted"] > 0.65
    assert 0.4 < found["permuted"] < 0.6


def test_gate_learns_a_weight_for_each_patient(patients):
    fitted = fit_model(
        GATE.model_copy(update={"clinical_features": 0}),
        FitConfig(epochs=40),
        train=rows(patients, 0, 96),
        validation=rows(patients, 96, 120),
        seed=0,
    )
    prediction = fitted.predict(rows(patients, 120, 220).inputs)
    assert prediction.alpha.shape == prediction.log_risk.shape == (100,)
    assert 0 < prediction.alpha.min() < prediction.alpha.max() < 1


def test_same_arguments_give_the_same_bits_whatever_the_global_seed_and_threads_are(patients):
    runs = []
    for global_seed, threads in ((1, 1), (2, 2)):
        torch.manual_seed(global_seed)
        before_threads, before_state = torch.get_num_threads(), torch.get_rng_state()
        torch.set_num_threads(threads)
        runs.append(fit_model(GATE, SHORT, train=rows(patients, 0, 40), seed=5))
        assert torch.get_num_threads() == threads
        assert torch.equal(torch.get_rng_state(), before_state)
        torch.set_num_threads(before_threads)
    other = fit_model(GATE, SHORT, train=rows(patients, 0, 40), seed=6)
    assert same(runs[0], runs[1])
    assert runs[0].record == runs[1].record
    assert not same(runs[0], other)


def test_another_process_gives_the_same_bits(patients, tmp_path):
    train = rows(patients, 0, 40)
    here = fit_model(GATE, SHORT, train=train, seed=5).predict(train.inputs)
    arrays = {modality: maps.squeeze(1).numpy() for modality, maps in train.inputs.maps.items()}
    outcome = {"clinical": train.inputs.clinical.numpy(), "time": train.time.numpy(), "event": train.event.numpy()}
    np.savez(tmp_path / "train.npz", **arrays, **outcome)
    command = [
        sys.executable,
        "-c",
        ELSEWHERE,
        str(tmp_path / "train.npz"),
        GATE.model_dump_json(),
        SHORT.model_dump_json(),
    ]
    there = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"}
    )
    assert there.stdout.strip() == here.log_risk.tobytes().hex()


def test_held_out_patients_change_neither_scalers_nor_weights(patients):
    altered = cohort(99, 220)
    fits = []
    for test in (patients, altered):
        whole = Batch(
            Inputs(
                {m: torch.cat([patients.inputs.maps[m][:60], test.inputs.maps[m][60:]]) for m in patients.inputs.maps},
                torch.cat([patients.inputs.clinical[:60], test.inputs.clinical[60:]]),
            ),
            torch.cat([patients.time[:60], test.time[60:]]),
            torch.cat([patients.event[:60], test.event[60:]]),
        )
        fits.append(fit_model(GATE, SHORT, train=rows(whole, 0, 40), validation=rows(whole, 40, 60), seed=0))
        fits[-1].predict(rows(whole, 60, 220).inputs)
    assert same(*fits)
    assert fits[0].scalers == fits[1].scalers


def test_validation_patients_move_no_scaler_and_no_weight_but_only_choose_the_epoch(patients):
    train, config = rows(patients, 0, 40), FitConfig(epochs=6, min_epochs=6)
    fits = [
        fit_model(GATE, config, train=train, validation=watch, seed=0)
        for watch in (rows(patients, 40, 80), rows(patients, 80, 120))
    ]
    assert fits[0].record.best_epoch == fits[1].record.best_epoch == 6
    assert same(*fits)
    assert fits[0].scalers["PET"] == MapScaler.fit(train.inputs.maps["PET"].numpy())


def test_early_stopping_restores_the_weights_of_the_best_epoch(patients, stopped):
    record = stopped.record
    assert record.reason == "patience"
    assert record.epochs_run == len(record.train_loss) == record.best_epoch + 5
    watch = rows(patients, 60, 120)
    risk = torch.tensor(stopped.predict(watch.inputs).log_risk)
    kept = float(cox_loss(risk=risk, time=watch.time, event=watch.event))
    assert kept == pytest.approx(record.validation_loss[record.best_epoch - 1], rel=1e-6)
    assert kept <= min(record.validation_loss[2:]) + 1e-4


def test_early_stopping_keeps_no_epoch_before_the_least_one(patients):
    config = FitConfig(learning_rate=0.3, patience=4, min_epochs=12)
    fitted = fit_model(CLINICAL, config, train=rows(patients, 0, 40), validation=rows(patients, 60, 120), seed=5)
    assert fitted.record.best_epoch >= 12
    assert int(np.argmin(fitted.record.validation_loss)) + 1 < 12


def test_weights_of_a_stopped_fit_equal_those_of_a_fixed_fit_of_as_many_epochs(patients, stopped):
    best = stopped.record.best_epoch
    fixed = fit_model(CLINICAL, stopped.config, train=rows(patients, 0, 60), seed=3, fixed_epochs=best)
    assert (fixed.record.reason, fixed.record.epochs_run) == ("fixed", best)
    assert same(fixed, stopped)


def test_too_few_validation_events_decide_nothing(patients):
    few = rows(patients, 60, 120)
    few = Batch(few.inputs, few.time, few.event & (torch.cumsum(few.event, 0) <= 9))
    with pytest.raises(ConfigError, match="has 9 events, and early stopping needs 10"):
        fit_model(CLINICAL, SHORT, train=rows(patients, 0, 60), validation=few, seed=0)
    fitted = fit_model(CLINICAL, SHORT, train=rows(patients, 0, 60), validation=few, seed=0, fixed_epochs=3)
    assert (fitted.record.reason, fitted.record.best_epoch, len(fitted.record.validation_loss)) == ("fixed", 3, 3)
    with pytest.raises(ConfigError, match="1 to 4"):
        fit_model(CLINICAL, SHORT, train=rows(patients, 0, 60), seed=0, fixed_epochs=5)


def test_one_step_from_the_same_weights_equals_pycox(patients):
    """pycox's CoxPH minimises the same loss, with the same gradient, for the same network and untied times."""
    train = rows(patients, 0, 50)
    time = torch.argsort(torch.argsort(train.time, stable=True)).double() + 1
    network = build_model(CLINICAL.model_copy(update={"dropout": 0.0}), seed=0).survival
    reference = CoxPH(network, torch.optim.SGD(network.parameters(), lr=0.1))
    reference.optimizer.zero_grad()
    target = (time.float(), train.event.float())
    theirs = reference.compute_metrics((train.inputs.clinical, target), {"loss": reference.loss})["loss"]
    theirs.backward()
    expected = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    ours = cox_loss(risk=network(train.inputs.clinical).squeeze(1), time=time, event=train.event)
    ours.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_first_epoch_equals_a_plain_adamw_step_with_penalty_and_clipping(patients):
    train, spec = rows(patients, 0, 50), CLINICAL.model_copy(update={"dropout": 0.0})
    config = FitConfig(epochs=1, l2=0.1, clip_norm=0.05, weight_decay=0.2, learning_rate=0.01)
    fitted = fit_model(spec, config, train=train, seed=0)
    model = build_model(spec, seed=0)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    penalty = 0.1 * sum(parameter.square().sum() for parameter in model.survival.parameters())
    loss = cox_loss(risk=model({}, train.inputs.clinical).log_risk, time=train.time, event=train.event) + penalty
    loss.backward()
    assert fitted.record.train_loss == pytest.approx([loss.item()], rel=1e-6)
    norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in model.parameters()))
    assert norm > 0.05
    for name, parameter in model.named_parameters():
        gradient = parameter.grad * 0.05 / norm
        decay = 0.01 * 0.2 if parameter.ndim > 1 else 0.0
        # at AdamW's first step the moments' ratio is the sign of the gradient, but for its epsilon of 1e-8
        expected = before[name] * (1 - decay) - 0.01 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(fitted.state[name], expected, rtol=1e-4, atol=1e-5)


def test_mini_batches_learn_too_and_are_seeded():
    large = cohort(4, 300, image=0.0, clinical=1.3)
    config = FitConfig(epochs=8, batch_size=64, learning_rate=0.02, ties="breslow")
    fits = [fit_model(CLINICAL, config, train=rows(large, 0, 200), seed=seed) for seed in (0, 0, 1)]
    assert same(fits[0], fits[1])
    assert not same(fits[0], fits[2])
    test = rows(large, 200, 300)
    risk = fits[0].predict(test.inputs).log_risk
    assert harrell_c(risk=risk, time=test.time.numpy(), event=test.event.numpy()).c > 0.65


def test_a_prediction_does_not_depend_on_who_else_is_predicted(patients, stopped):
    whole = stopped.predict(patients.inputs).log_risk
    alone = [stopped.predict(patients.inputs.rows(slice(row, row + 1))).log_risk[0] for row in range(5)]
    np.testing.assert_allclose(alone, whole[:5], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [23, 29, 45])
def test_equal_patients_have_equal_risks_wherever_they_stand(n):
    rng = np.random.default_rng(n)
    patterns = rng.integers(0, 2, (8, 6)).astype(np.float32) + np.arange(8, dtype=np.float32)[:, None] / 8
    of = rng.integers(0, 8, n)
    train = Batch.of(clinical=rng.normal(size=(60, 6)), time=rng.integers(1, 50, 60), event=rng.random(60) < 0.7)
    spec = ModelSpec(head=None, modalities=(), clinical_features=6, hidden=(16,))
    fitted = fit_model(spec, FitConfig(epochs=3), train=train, seed=n, fixed_epochs=3)
    for order in (rng.permutation(n) for _ in range(5)):
        risk = fitted.predict(Inputs.of(clinical=patterns[of[order]])).log_risk
        assert len(np.unique(risk)) == len(np.unique(of))
        assert all(len(np.unique(risk[of[order] == pattern])) == 1 for pattern in np.unique(of))


def test_prediction_in_blocks_equals_prediction_at_once(stopped):
    many = cohort(5, 600, side=8).inputs
    model = stopped.model()
    with one_thread(), torch.no_grad():
        at_once = model({}, many.clinical).log_risk.double().numpy()
    np.testing.assert_allclose(stopped.predict(many).log_risk, at_once, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("cosine", (1.0, 0.75, 0.25)), ("step", (1.0, 0.1, 0.01)), ("constant", (1.0, 1.0, 1.0))],
)
def test_schedules_fall_as_named(schedule, rates):
    config = FitConfig(epochs=3, learning_rate=1.0, schedule=schedule)
    assert [learning_rate(config, epoch) for epoch in (1, 2, 3)] == pytest.approx(rates)


def test_a_loss_that_is_not_finite_is_an_error_with_its_epoch(patients):
    config = FitConfig(epochs=9, learning_rate=1e30, clip_norm=None)
    spec = CLINICAL.model_copy(update={"batch_norm": False, "hidden": (8, 8)})
    with pytest.raises(TaskError, match=r"epoch \d+: the loss is .*lower learning_rate"):
        fit_model(spec, config, train=rows(patients, 0, 40), seed=0)


def test_an_all_censored_or_single_patient_training_part_is_refused(patients):
    some = rows(patients, 0, 20)
    with pytest.raises(CohortError, match="all 20 patients are censored"):
        fit_model(CLINICAL, SHORT, train=Batch(some.inputs, some.time, torch.zeros(20).bool()), seed=0)
    with pytest.raises(CohortError, match="two patients"):
        fit_model(CLINICAL, SHORT, train=rows(patients, 0, 1), seed=0)


def test_maps_that_miss_or_are_not_finite_are_refused(patients):
    with pytest.raises(UsageError, match="needs maps of MR, got PET, CT"):
        fit_model(ModelSpec(modalities=("MR",)), SHORT, train=rows(patients, 0, 20), seed=0)
    with pytest.raises(UsageError, match="PET holds values that are not finite"):
        Batch.of(maps={"PET": np.full((2, 4, 4), np.nan)}, time=np.ones(2), event=np.ones(2, dtype=bool))
    with pytest.raises(UsageError, match="one row per patient"):
        Inputs.of(maps={"PET": np.zeros((2, 4, 4))}, clinical=np.zeros((3, 1)))
    with pytest.raises(UsageError, match="got no tensor"):
        Inputs.of()
    with pytest.raises(UsageError, match="each of 2 patients"):
        Batch.of(clinical=np.zeros((2, 1)), time=np.ones(3), event=np.ones(3, dtype=bool))


def test_config_refuses_mini_batches_below_64():
    with pytest.raises(ValidationError, match="greater than or equal to 64"):
        FitConfig(batch_size=32)
