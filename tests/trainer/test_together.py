"""Many fits at once: each as fit_model, or choose_epochs and fit_model, would do it alone, whatever stands beside it."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store_schema.errors import CohortError, ConfigError, TaskError, UsageError
from trainer.batch import Batch
from trainer.epochs import choose_epochs
from trainer.fit import Fitted, fit_model
from trainer.model import build_model
from trainer.preparing import scaled
from trainer.spec import FitConfig, ModelSpec
from trainer.together import FitJob, fit_together

CLINICAL = ModelSpec(head=None, modalities=(), clinical_features=5, hidden=(16,))
FLAT = ModelSpec(head="flatten", clinical_features=5, hidden=(8,))
SPECS = {
    "clinical": CLINICAL,
    "deep": CLINICAL.model_copy(update={"hidden": (7, 9)}),
    "linear": CLINICAL.model_copy(update={"hidden": ()}),
    "without norm": CLINICAL.model_copy(update={"hidden": (7, 9), "batch_norm": False}),
    "flat": FLAT,
    "flat and gated": FLAT.model_copy(update={"fusion": "gate", "clinical_features": 0}),
    "components": ModelSpec(head="pca", components=4, clinical_features=5, hidden=(8,), fusion="gate"),
    "vectors": ModelSpec(head="vector", clinical_features=5, hidden=(8,)),
    "vectors and gate": ModelSpec(head="vector", fusion="gate", hidden=(8,)),
}
ELSEWHERE = """
import sys
import numpy as np
from trainer.batch import Batch
from trainer.spec import FitConfig, ModelSpec
from trainer.together import FitJob, fit_together
a = np.load(sys.argv[1])
whole = Batch.of(clinical=a["clinical"], time=a["time"], event=a["event"])
spec, config = ModelSpec.model_validate_json(sys.argv[2]), FitConfig.model_validate_json(sys.argv[3])
jobs = [FitJob(spec, config, whole.rows(slice(0, 50 + 5 * k)), whole.rows(slice(70, None)), seed=k) for k in range(3)]
for fitted in fit_together(jobs):
    print(fitted.predict(whole.inputs).log_risk.tobytes().hex())
"""


def cohort(seed, n, *, vectors=False, distinct=40):
    """Covariates, maps or vectors of two modalities, and whole-numbered times that depend on both."""
    rng = np.random.default_rng(seed)
    clinical = rng.normal(size=(n, 5))
    images = {modality: rng.normal(size=(n, 12) if vectors else (n, 4, 3)) for modality in ("PET", "CT")}
    log_risk = clinical[:, 0] + images["PET"].reshape(n, -1)[:, 0]
    onset, censored = rng.exponential(size=n) * np.exp(-log_risk), rng.uniform(0.2, 4, n)
    time = np.ceil(np.minimum(onset, censored) * distinct / 4)
    return Batch.of(clinical=clinical, maps=images, time=time, event=onset <= censored)


def rows(batch, start, stop):
    return batch.rows(slice(start, stop))


def mixed_jobs(spec, number=8, *, epochs=30):
    """Jobs of one architecture that differ in patients, their number, ties, and every setting of fitting."""
    for k in range(number):
        n = 60 + 7 * (k % 4)
        whole = cohort(k, n + 30, vectors=spec.head == "vector", distinct=(40, 6)[k % 2])
        own = {"dropout": (0.0, 0.2, 0.5)[k % 3], "norm_momentum": (0.3, 0.1)[k % 2]}
        config = FitConfig(
            epochs=epochs - k % 2,
            min_epochs=3,
            min_validation_events=3,
            patience=(5, 40)[k % 2],
            learning_rate=(1e-2, 1e-3, 3e-2)[k % 3],
            weight_decay=(0.0, 0.1)[k % 2],
            l2=(0.0, 1e-3, 1e-2)[k % 3],
            schedule=("cosine", "step", "constant")[k % 3],
            clip_norm=(1.0, None, 0.1)[k % 3],
            ties=("efron", "breslow")[k // 2 % 2],
        )
        yield FitJob(spec.model_copy(update=own), config, rows(whole, 0, n), rows(whole, n, n + 30), seed=k)


def alone(job, *, precision=torch.float32):
    spec, config, parts = job.spec, job.config, {"train": job.train, "validation": job.validation}
    return fit_model(spec, config, **parts, seed=job.seed, fixed_epochs=job.fixed_epochs, precision=precision)


def log_risk(fitted, inputs):
    """Log-risks in the precision of the weights, where `predict` rounds."""
    model = build_model(fitted.spec, seed=0).double()
    model.load_state_dict(dict(fitted.state))
    prepared = scaled(inputs, fitted.scalers).double()
    with torch.no_grad():
        return model.eval()(prepared.maps, prepared.clinical).log_risk.numpy()


def assert_alike(job, ours, theirs, *, rtol):
    assert ours.record.best_epoch == theirs.record.best_epoch
    assert (ours.record.reason, ours.record.epochs_run) == (theirs.record.reason, theirs.record.epochs_run)
    np.testing.assert_allclose(ours.record.train_loss, theirs.record.train_loss, rtol=rtol)
    np.testing.assert_allclose(ours.record.validation_loss, theirs.record.validation_loss, rtol=rtol)
    assert list(ours.state) == list(theirs.state)
    risks = [log_risk(fitted, job.train.inputs) for fitted in (ours, theirs)]
    np.testing.assert_allclose(*risks, rtol=rtol, atol=rtol * np.abs(risks[1]).max())


def same(first, second):
    return first.record == second.record and all(
        torch.equal(first.state[key], second.state[key]) for key in first.state
    )


@pytest.mark.parametrize("name", SPECS)
def test_each_fit_is_that_of_fit_model(name):
    jobs = list(mixed_jobs(SPECS[name]))
    fits = fit_together(jobs)
    assert len({fit.record.epochs_run for fit in fits}) > 2
    for job, fit in zip(jobs, fits, strict=True):
        expected = alone(job)
        assert_alike(job, fit, expected, rtol=1e-4)
        assert (fit.spec, fit.config, fit.seed, fit.scalers) == (expected.spec, job.config, job.seed, expected.scalers)


@pytest.mark.parametrize("name", SPECS)
def test_in_float64_nothing_but_the_last_digits_differs(name):
    jobs = list(mixed_jobs(SPECS[name], 5, epochs=30))
    for job, fit in zip(jobs, fit_together(jobs, precision=torch.float64), strict=True):
        assert_alike(job, fit, alone(job, precision=torch.float64), rtol=1e-9)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_settings_on_any_patients_fit_as_alone(data):
    def drawn(choices):
        return data.draw(st.sampled_from(choices))

    jobs = []
    batch_norm, hidden = drawn([True, False]), drawn([(), (3,), (5, 4)])
    for seed in range(data.draw(st.integers(1, 4))):
        whole = cohort(seed, drawn([4, 17, 40]) + 20, distinct=drawn([1, 3, 30]))
        whole = Batch(whole.inputs, whole.time, whole.event.index_fill(0, torch.tensor([0, len(whole) - 1]), True))
        spec = CLINICAL.model_copy(update={"batch_norm": batch_norm, "hidden": hidden, "dropout": drawn([0.0, 0.3])})
        config = FitConfig(
            epochs=drawn([1, 4, 6]),
            min_epochs=drawn([1, 3]),
            patience=drawn([1, 2]),
            min_validation_events=1,
            learning_rate=drawn([1e-3, 1e-1]),
            weight_decay=drawn([0.0, 1.0]),
            l2=drawn([0.0, 0.1]),
            schedule=drawn(["cosine", "step", "constant"]),
            clip_norm=drawn([None, 0.01, 1.0]),
            ties=drawn(["efron", "breslow"]),
        )
        watch = rows(whole, len(whole) - 20, None) if data.draw(st.booleans()) else None
        jobs.append(FitJob(spec, config, rows(whole, 0, len(whole) - 20), watch, seed=seed))
    for job, fit in zip(jobs, fit_together(jobs, precision=torch.float64), strict=True):
        assert_alike(job, fit, alone(job, precision=torch.float64), rtol=1e-7)


def test_neighbours_that_stop_or_go_on_change_no_bit():
    jobs = list(mixed_jobs(SPECS["deep"], 12))
    longest = max(jobs, key=lambda job: len(job.train))
    fits = fit_together(jobs)
    assert sum(fit.record.reason == "patience" for fit in fits) > 3
    for job, fit in zip(jobs, fits, strict=True):
        assert same(fit_together([job, longest])[0], fit)


def test_a_longer_neighbour_changes_nothing_but_rounding():
    jobs = list(mixed_jobs(CLINICAL, 6))
    whole = cohort(99, 300)
    longer = FitJob(CLINICAL, FitConfig(epochs=9), rows(whole, 0, 250), rows(whole, 250, 300), seed=0)
    before, after = fit_together(jobs), fit_together([longer, *jobs])[1:]
    for job, one, other in zip(jobs, before, after, strict=True):
        assert_alike(job, other, one, rtol=1e-4)


def test_jobs_of_many_architectures_are_answered_in_their_order():
    jobs = [
        job for pair in zip(*(mixed_jobs(spec, 2, epochs=5) for spec in SPECS.values()), strict=True) for job in pair
    ]
    for job, fit in zip(jobs, fit_together(jobs), strict=True):
        assert_alike(job, fit, alone(job), rtol=1e-4)


def test_one_batch_of_several_jobs_is_the_same_as_copies_of_it():
    whole = cohort(5, 90)
    shared = [
        FitJob(spec, FitConfig(epochs=6, min_validation_events=3), rows(whole, 0, 60), rows(whole, 60, 90), seed=k)
        for k, spec in enumerate((FLAT, FLAT.model_copy(update={"map_scaling": "scalar"}), CLINICAL))
    ]
    train, watch = shared[0].train, shared[0].validation
    jobs = [FitJob(job.spec, job.config, train, watch, seed=job.seed) for job in shared]
    assert all(same(*pair) for pair in zip(fit_together(jobs), fit_together(shared), strict=True))


def few_events(batch, number):
    return Batch(batch.inputs, batch.time, batch.event & (torch.cumsum(batch.event, 0) <= number))


@pytest.mark.parametrize("watches", [True, False])
def test_inner_parts_choose_the_epochs_where_the_validation_part_cannot(watches):
    config = FitConfig(epochs=12, min_epochs=2, learning_rate=0.1)
    jobs = []
    for seed in range(3):
        whole = cohort(seed, 75)
        watch = few_events(rows(whole, 45, 75), 9) if watches else None
        parts = np.random.default_rng(seed).permutation(np.arange(45) % 3)
        jobs.append(FitJob(CLINICAL, config, rows(whole, 0, 45), watch, seed=seed, parts=parts))
    fits = fit_together(jobs)
    assert len({fit.record.best_epoch for fit in fits}) > 1
    for job, fit in zip(jobs, fits, strict=True):
        epochs = choose_epochs(job.spec, config, train=job.train, part=job.parts, seed=job.seed)
        expected = fit_model(job.spec, config, train=job.train, seed=job.seed, fixed_epochs=epochs)
        assert fit.record.reason == "fixed"
        assert_alike(job, fit, expected, rtol=1e-4)


def test_inner_parts_are_not_asked_where_the_validation_part_decides():
    job = next(mixed_jobs(CLINICAL))
    asked = FitJob(job.spec, job.config, job.train, job.validation, seed=0, parts=np.arange(len(job.train)) % 3)
    assert same(*fit_together([job]), *fit_together([asked]))


def test_a_diverging_fit_is_an_error_of_its_own_and_the_others_go_on():
    spec = CLINICAL.model_copy(update={"batch_norm": False, "hidden": (8, 8)})
    wild = FitConfig(epochs=9, learning_rate=1e30, clip_norm=None)
    jobs = list(mixed_jobs(spec, 4))
    longest = len(max(jobs, key=lambda job: len(job.train)).train)
    diverging = FitJob(spec, wild, rows(cohort(9, 90), 0, longest), None, seed=0)
    with pytest.raises(TaskError) as expected:
        alone(diverging)
    first, error, *others = fit_together([jobs[0], diverging, *jobs[1:]])
    assert isinstance(error, TaskError)
    assert str(error).partition(":")[0] == str(expected.value).partition(":")[0]
    assert "lower learning_rate (1e+30)" in str(error)
    assert all(same(*pair) for pair in zip((first, *others), fit_together(jobs), strict=True))


def test_a_part_that_allows_no_fit_is_an_error_of_its_job_alone():
    jobs = list(mixed_jobs(FLAT, 2, epochs=3))
    some = jobs[0].train
    censored = Batch(some.inputs, some.time, torch.zeros(len(some)).bool())
    flat = Batch.of(
        clinical=some.inputs.clinical.numpy(),
        maps={modality: np.ones((len(some), 4, 3)) for modality in ("PET", "CT")},
        time=some.time.numpy(),
        event=some.event.numpy(),
    )
    bad = [FitJob(FLAT, FitConfig(), part, None, seed=0) for part in (censored, rows(some, 0, 1), flat)]
    bad.append(FitJob(FLAT, FitConfig(), censored, None, seed=0, parts=np.arange(len(some)) % 2))
    first, *errors, last = fit_together([jobs[0], *bad, jobs[1]])
    assert [type(error) for error in errors] == [CohortError, CohortError, TaskError, CohortError]
    messages = ("patients are censored", "two patients", "do not differ", "cannot be chosen")
    assert all(message in str(error) for message, error in zip(messages, errors, strict=True))
    assert isinstance(first, Fitted)
    assert isinstance(last, Fitted)


def test_an_inner_part_that_holds_all_events_is_a_cohort_error():
    train = few_events(cohort(0, 60), 20)
    job = FitJob(CLINICAL, FitConfig(epochs=2), train, None, seed=0, parts=(~train.event).long().numpy())
    with pytest.raises(CohortError) as expected:
        choose_epochs(job.spec, job.config, train=train, part=job.parts, seed=0)
    assert str(*fit_together([job])) == str(expected.value)


@pytest.mark.parametrize("changes", [{"batch_size": 64}, {"head": "average"}])
def test_mini_batches_and_convolutions_are_fitted_one_by_one(changes):
    settings_of = {key: value for key, value in changes.items() if key == "batch_size"}
    config = FitConfig(epochs=2, min_validation_events=3, **settings_of)
    spec = ModelSpec(hidden=(4,)) if "head" in changes else CLINICAL
    whole = cohort(0, 190)
    images = {modality: torch.nn.functional.pad(maps, (0, 1)) for modality, maps in whole.inputs.maps.items()}
    whole = Batch.of(
        clinical=whole.inputs.clinical.numpy(),
        maps={modality: maps.squeeze(1).numpy() for modality, maps in images.items()},
        time=whole.time.numpy(),
        event=whole.event.numpy(),
    )
    job = FitJob(spec, config, rows(whole, 0, 160), rows(whole, 160, 190), seed=1)
    chooses = FitJob(spec, config, job.train, None, seed=1, parts=np.arange(160) % 2)
    fit, chosen = fit_together([job, chooses])
    assert same(fit, alone(job))
    epochs = choose_epochs(spec, config, train=job.train, part=chooses.parts, seed=1)
    assert same(chosen, fit_model(spec, config, train=job.train, seed=1, fixed_epochs=epochs))


def test_what_is_no_fit_is_refused():
    whole = cohort(0, 60)
    few = few_events(rows(whole, 40, 60), 2)
    with pytest.raises(ConfigError, match="has 2 events, and early stopping needs 10"):
        fit_together([FitJob(CLINICAL, FitConfig(), rows(whole, 0, 40), few, seed=0)])
    with pytest.raises(ConfigError, match="1 to 4"):
        fit_together([FitJob(CLINICAL, FitConfig(epochs=4), whole, None, seed=0, fixed_epochs=5)])
    with pytest.raises(UsageError, match="takes 4 clinical features, got 5"):
        fit_together([FitJob(CLINICAL.model_copy(update={"clinical_features": 4}), FitConfig(), whole, None, seed=0)])
    with pytest.raises(UsageError, match="needs maps of MR"):
        fit_together([FitJob(FLAT.model_copy(update={"modalities": ("MR",)}), FitConfig(), whole, None, seed=0)])
    with pytest.raises(UsageError, match="two inner parts"):
        fit_together([FitJob(CLINICAL, FitConfig(), whole, None, seed=0, parts=np.zeros(60, dtype=int))])
    with pytest.raises(UsageError, match="got both"):
        FitJob(CLINICAL, FitConfig(), whole, None, seed=0, fixed_epochs=3, parts=np.arange(60) % 2)
    assert fit_together([]) == []


def test_another_process_gives_the_same_bits_and_threads_and_global_seeds_do_not_matter(tmp_path):
    whole, spec, config = cohort(0, 100), CLINICAL, FitConfig(epochs=6, min_validation_events=3)
    jobs = [FitJob(spec, config, rows(whole, 0, 50 + 5 * k), rows(whole, 70, None), seed=k) for k in range(3)]
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    here = fit_together(jobs)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before)
    outcome = {"time": whole.time.numpy(), "event": whole.event.numpy()}
    np.savez(tmp_path / "whole.npz", clinical=whole.inputs.clinical.numpy(), **outcome)
    command = [
        sys.executable,
        "-c",
        ELSEWHERE,
        tmp_path / "whole.npz",
        spec.model_dump_json(),
        config.model_dump_json(),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    there = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert there.stdout.split() == [fit.predict(whole.inputs).log_risk.tobytes().hex() for fit in here]
