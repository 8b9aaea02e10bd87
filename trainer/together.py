"""Fits many small survival networks as batched models, each as `trainer.fit` would alone; knows nothing of stores or tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int

from store_schema.errors import CohortError, TaskError, UsageError
from trainer.batch import Batch
from trainer.epochs import InnerFit, choose_epochs, inner_fits, lowest_epoch
from trainer.fit import Fitted, fit_model, one_thread
from trainer.gpus import exact
from trainer.spec import FLAT_HEADS, FitConfig, ModelSpec
from trainer.stacking import Fault, Fit, Stacker


@dataclass(frozen=True, eq=False)
class FitJob:
    """A model to fit, and on whom."""

    spec: ModelSpec
    """What the model is."""
    config: FitConfig
    """How it is fitted."""
    train: Batch
    """Patients whose gradients move the weights; images as stored."""
    validation: Batch | None
    """Other patients of the outer training fold: their loss decides when to stop, if they have enough events."""
    seed: int
    """Of weights, dropout and mini-batches."""
    fixed_epochs: int | None = None
    """Epochs to fit where the validation part cannot decide."""
    parts: Int[np.ndarray, " patient"] | None = None
    """Inner part of each patient of `train`: where the validation part cannot decide, they choose the number of epochs, as
    `trainer.epochs.choose_epochs` says, and nobody is watched in the fit itself."""

    def __post_init__(self) -> None:
        if self.fixed_epochs is not None and self.parts is not None:
            raise UsageError("a fit takes a number of epochs (fixed_epochs) or the parts that choose it, got both")

    @property
    def small(self) -> bool:
        """Whether it is a network without a convolution."""
        return self.spec.head is None or self.spec.head in FLAT_HEADS

    @property
    def chooses(self) -> bool:
        """Whether the inner parts choose the number of epochs."""
        heard = self.validation is not None and self.validation.events >= self.config.min_validation_events
        return self.parts is not None and not heard


def fit_together(
    jobs: Sequence[FitJob],
    *,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    convolutions: bool | None = None,
) -> list[Fitted | Fault]:
    """Fit every job as `trainer.fit.fit_model` would fit it alone, many at once; answers stand in the order of the jobs.

    Weights, dropout, schedules, clipping, running statistics, risk sets and early stopping are each job's own; only rounding
    differs from a fit alone. Jobs of one architecture make batched models, whatever their patients and settings; jobs with
    mini-batches are fitted one by one, and on a CPU those with convolutions too. On the CPU everything runs on one thread, and the
    same list gives the same bits in any process on machines alike. A batch that several jobs share as one object is prepared once.

    Parameters
    ----------
    jobs
        In any order.
    device
        Where to fit; the results lie on the CPU.
    precision
        Of weights and activations. float64 tells an error of method from one of rounding.
    convolutions
        Whether networks with convolutions stand in batched models too; None for everywhere but on a CPU, which they would slow.

    Returns
    -------
    Models; a CohortError where a job's patients do not allow the fit, a TaskError where its images do not differ or its fit
    diverged.

    Raises
    ------
    ConfigError
        If nothing says how long to fit a job, or its `fixed_epochs` is beyond its `config.epochs`.
    UsageError
        If a job's patients do not have what its model takes, or its parts are not of its patients.

    References
    ----------
    Guinea-Pérez et al. 2026, sections 2.3.3 and 2.4.1; protocol section 5.
    """
    if convolutions is None:
        convolutions = torch.device(device).type != "cpu"
    stacked = {n: job for n, job in enumerate(jobs) if job.config.batch_size is None and (job.small or convolutions)}
    with one_thread(), exact():
        answers = {n: _alone(job, device, precision) for n, job in enumerate(jobs) if n not in stacked}
        stacker = Stacker(device, precision)
        chosen = _chosen({n: job for n, job in stacked.items() if job.chooses}, stacker)
        answers |= {n: epochs for n, epochs in chosen.items() if not isinstance(epochs, int)}
        left = {n: _last_fit(job, chosen.get(n)) for n, job in enumerate(jobs) if n not in answers}
        answers |= dict(zip(left, stacker.fit(list(left.values())), strict=True))
    return [answers[n] for n in range(len(jobs))]


def _alone(job: FitJob, device: torch.device | str, precision: torch.dtype) -> Fitted | Fault:
    """Answer of a job that no batched model holds."""
    watched, epochs = job.validation, job.fixed_epochs
    try:
        if job.chooses:
            assert job.parts is not None
            chosen = choose_epochs(job.spec, job.config, train=job.train, part=job.parts, seed=job.seed, device=device)
            watched, epochs = None, chosen
        return fit_model(
            job.spec,
            job.config,
            train=job.train,
            validation=watched,
            seed=job.seed,
            fixed_epochs=epochs,
            device=device,
            precision=precision,
        )
    except (CohortError, TaskError) as error:
        return error


def _chosen(jobs: Mapping[int, FitJob], stacker: Stacker) -> dict[int, int | Fault]:
    """Number of epochs of each job whose inner parts choose it, all the inner fits together."""
    inner: dict[int, list[InnerFit]] = {}
    answers: dict[int, int | Fault] = {}
    for number, job in jobs.items():
        assert job.parts is not None
        try:
            inner[number] = list(inner_fits(job.train, job.parts, job.config))
        except CohortError as error:
            answers[number] = error
    fits = [_inner_fit(jobs[number], one) for number, ones in inner.items() for one in ones]
    fitted = iter(stacker.fit(fits))
    for number, ones in inner.items():
        answers[number] = _lowest(jobs[number].config, ones, [next(fitted) for _ in ones])
    return answers


def _lowest(config: FitConfig, inner: Sequence[InnerFit], fitted: Sequence[Fitted | Fault]) -> int | Fault:
    curves = []
    for one, model in zip(inner, fitted, strict=True):
        if not isinstance(model, Fitted):
            return model
        curves.append((one.watch.events, np.array(model.record.validation_loss)))
    return lowest_epoch(curves, least=config.min_epochs)


def _inner_fit(job: FitJob, inner: InnerFit) -> Fit:
    epochs = job.config.epochs
    return Fit(job.spec, inner.config, inner.fit, validation=inner.watch, seed=job.seed, fixed_epochs=epochs)


def _last_fit(job: FitJob, epochs: int | Fault | None) -> Fit:
    """Fit of a job whose number of epochs was chosen, or whose validation part decides it, or which was given it."""
    if isinstance(epochs, int):
        return Fit(job.spec, job.config, job.train, validation=None, seed=job.seed, fixed_epochs=epochs)
    return Fit(job.spec, job.config, job.train, validation=job.validation, seed=job.seed, fixed_epochs=job.fixed_epochs)
