"""Towers of many models as batched products: each as its head alone, forwards, backwards, and in whole fits."""

import numpy as np
import pytest
import torch

from trainer.attention import AttentionHead
from trainer.batch import Batch
from trainer.fit import fit_model
from trainer.heads import AverageHead, VolumeHead
from trainer.spec import FitConfig, ModelSpec
from trainer.stacked_layers import Rows
from trainer.stacked_memory import Layout
from trainer.stacked_towers import TOWERS
from trainer.together import FitJob, fit_together

HEADS = {"average": AverageHead, "attention": lambda: AttentionHead(3), "cnn3d": VolumeHead}
SHAPES = {"average": (1, 9, 12), "attention": (3, 8, 4, 5), "cnn3d": (1, 5, 6, 9)}
"""Of what enters of one patient, odd sizes among them."""
COUNTS, ROWS = (3, 7, 5), 16
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


class Model(torch.nn.Module):
    """A tower where a network has it, and a survival head behind it."""

    def __init__(self, head, seed):
        super().__init__()
        self.towers = torch.nn.ModuleList([HEADS[head]()])
        self.survival = torch.nn.Sequential(torch.nn.Linear(128, 1, bias=False))
        stream = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=stream)


class Numbers:
    """Numbers of a stack, found by name."""

    def __init__(self, models):
        self.layout = Layout.of(models[0])
        self.values = torch.stack([self.layout.read(model.state_dict())[0] for model in models])
        self.slopes = torch.full_like(self.values, torch.nan)

    def value(self, name):
        return self.layout.parameters[name].of(self.values)

    def slope(self, name):
        return self.layout.parameters[name].of(self.slopes)


def stack(head):
    """Three models, images of different numbers of patients, and both in a stack."""
    models = [Model(head, seed).double() for seed in range(3)]
    images = torch.zeros(3, ROWS, *SHAPES[head], dtype=torch.float64)
    stream = torch.Generator().manual_seed(7)
    for one, count in zip(images, COUNTS, strict=True):
        one[:count] = torch.randn(count, *SHAPES[head], generator=stream, dtype=torch.float64)
    # patients with equal pixels: ties of the pooling
    images[:, 0] = 1.5
    numbers = Numbers(models)
    tower = TOWERS[head]("towers.0", numbers, Rows.of(COUNTS, ROWS, like=numbers.values))
    return models, images, numbers, tower


@pytest.mark.parametrize("head", HEADS)
def test_vectors_are_those_of_each_models_head(head):
    models, images, _, tower = stack(head)
    made, judged = tower.forward(images), tower.evaluate(images)
    for model, own, count, vectors, again in zip(models, images, COUNTS, made, judged, strict=True):
        torch.testing.assert_close(vectors[:count], model.towers[0](own[:count]), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(again[:count], vectors[:count], rtol=1e-12, atol=1e-12)
        assert not vectors[count:].any()


@pytest.mark.parametrize("head", HEADS)
def test_slopes_are_those_of_each_models_own_loss(head):
    models, images, numbers, tower = stack(head)
    slope = torch.randn(3, ROWS, 128, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    tower.forward(images)
    tower.backward(slope.clone())
    for number, (model, own, count) in enumerate(zip(models, images, COUNTS, strict=True)):
        model.towers[0](own[:count]).backward(slope[number, :count])
        for name, parameter in model.towers[0].named_parameters():
            found = numbers.slope(f"towers.0.{name}")[number]
            expected = parameter.grad.permute(tuple(reversed(range(parameter.ndim))))
            torch.testing.assert_close(
                found, expected, rtol=1e-9, atol=1e-11, msg=lambda told, at=name: f"{at}: {told}"
            )


def test_every_parameter_of_a_head_is_the_towers():
    for head, tower in TOWERS.items():
        assert set(tower.names) == {name for name, _ in HEADS[head]().named_parameters()}


SPECS = {
    "average": ModelSpec(head="average", hidden=(8,)),
    "average, gated, with covariates": ModelSpec(head="average", fusion="gate", clinical_features=4, hidden=(8,)),
    "average, linear": ModelSpec(head="average", modalities=("CT",), hidden=()),
    "attention": ModelSpec(head="attention", modalities=("PET",), hidden=(8,), clinical_features=4),
    "cnn3d": ModelSpec(head="cnn3d", fusion="gate", hidden=(6,), batch_norm=False),
}


def cohort(seed, n, head):
    """Covariates and images of two modalities, and times that depend on both."""
    rng = np.random.default_rng(seed)
    clinical = rng.normal(size=(n, 4))
    images = {modality: rng.normal(size=(n, *SHAPES[head])) for modality in ("PET", "CT")}
    log_risk = clinical[:, 0] + 4 * images["PET"].reshape(n, -1).mean(1)
    onset, censored = rng.exponential(size=n) * np.exp(-log_risk), rng.uniform(0.2, 4, n)
    return Batch.of(clinical=clinical, maps=images, time=np.minimum(onset, censored), event=onset <= censored)


def jobs_of(spec, *, epochs=8):
    """Jobs that differ in patients, their number, and every setting of fitting; the last chooses its number of epochs."""
    for k in range(4):
        n = 40 + 6 * k
        whole = cohort(k, n + 20, spec.head)
        own = {"dropout": (0.0, 0.3)[k % 2], "norm_momentum": (0.3, 0.1)[k % 2]}
        config = FitConfig(
            epochs=epochs,
            min_epochs=2,
            min_validation_events=3,
            patience=(2, 40)[k % 2],
            learning_rate=(1e-2, 1e-3)[k % 2],
            l2=(0.0, 1e-2)[k % 2],
            clip_norm=(1.0, None, 0.1)[k % 3],
        )
        yield FitJob(spec.model_copy(update=own), config, whole.rows(slice(0, n)), whole.rows(slice(n, None)), seed=k)


def alone(job, **options):
    return fit_model(job.spec, job.config, train=job.train, validation=job.validation, seed=job.seed, **options)


def assert_alike(ours, theirs, *, rtol):
    assert (ours.spec, ours.config, ours.seed, ours.scalers) == (
        theirs.spec,
        theirs.config,
        theirs.seed,
        theirs.scalers,
    )
    assert (ours.record.best_epoch, ours.record.epochs_run) == (theirs.record.best_epoch, theirs.record.epochs_run)
    np.testing.assert_allclose(ours.record.train_loss, theirs.record.train_loss, rtol=rtol)
    np.testing.assert_allclose(ours.record.validation_loss, theirs.record.validation_loss, rtol=rtol)
    assert list(ours.state) == list(theirs.state)
    for name, tensor in theirs.state.items():
        assert ours.state[name].is_contiguous()
        torch.testing.assert_close(ours.state[name], tensor, rtol=100 * rtol, atol=rtol)


@pytest.mark.parametrize("name", SPECS)
def test_in_float64_each_fit_is_that_of_fit_model(name):
    jobs = list(jobs_of(SPECS[name]))
    fits = fit_together(jobs, precision=torch.float64, convolutions=True)
    assert len({fit.record.epochs_run for fit in fits}) > 1
    for job, fit in zip(jobs, fits, strict=True):
        assert_alike(fit, alone(job, precision=torch.float64), rtol=1e-8)


def test_a_fit_in_float32_is_that_of_fit_model_up_to_rounding():
    jobs = list(jobs_of(SPECS["average"], epochs=4))
    for job, fit in zip(jobs, fit_together(jobs, convolutions=True), strict=True):
        np.testing.assert_allclose(fit.record.train_loss, alone(job).record.train_loss, rtol=1e-4)


def test_inner_parts_choose_the_epochs_of_networks_with_convolutions_too():
    spec, config = SPECS["average"], FitConfig(epochs=5, min_epochs=1, min_validation_events=99)
    whole = cohort(1, 40, "average")
    job = FitJob(spec, config, whole, None, seed=3, parts=np.arange(40) % 3)
    (ours,), (theirs,) = (
        fit_together([job], precision=torch.float64, convolutions=several) for several in (True, False)
    )
    assert_alike(ours, theirs, rtol=1e-3)


def test_a_stack_holds_what_fits_in_its_memory(monkeypatch):
    """However few fit at once, the numbers are the same."""
    jobs = list(jobs_of(SPECS["average"], epochs=3))
    whole = fit_together(jobs, precision=torch.float64, convolutions=True)
    monkeypatch.setattr("trainer.stacking.CONVOLVED_BYTES", 1)
    for ours, theirs in zip(fit_together(jobs, precision=torch.float64, convolutions=True), whole, strict=True):
        assert_alike(ours, theirs, rtol=1e-10)


def test_on_a_cpu_networks_with_convolutions_are_fitted_one_by_one(monkeypatch):
    def refuse(*_):
        raise AssertionError("a stack was made")

    monkeypatch.setattr("trainer.stacking.fit_stack", refuse)
    (job, *_) = jobs_of(SPECS["average"], epochs=2)
    assert fit_together([job])[0].record == alone(job).record


@GPU
@pytest.mark.parametrize("name", SPECS)
def test_on_a_gpu_each_fit_is_that_of_the_cpu_up_to_rounding(name):
    jobs = [
        FitJob(**{**vars(job), "spec": job.spec.model_copy(update={"dropout": 0.0})}) for job in jobs_of(SPECS[name])
    ]
    for job, fit in zip(jobs, fit_together(jobs, device="cuda", precision=torch.float64), strict=True):
        assert_alike(fit, alone(job, precision=torch.float64), rtol=1e-6)


@GPU
def test_on_a_gpu_the_same_jobs_give_the_same_bits():
    jobs = list(jobs_of(SPECS["average"]))
    first, again = (fit_together(jobs, device="cuda") for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)
