"""Chooses how long to fit where one validation part has too few events; knows nothing of outer folds or stores."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from store_schema.errors import CohortError, UsageError
from trainer.batch import Batch
from trainer.fit import fit_model
from trainer.spec import FitConfig, ModelSpec


def choose_epochs(
    spec: ModelSpec,
    config: FitConfig,
    *,
    train: Batch,
    part: Int[np.ndarray, " patient"],
    seed: int,
    device: torch.device | str = "cpu",
) -> int:
    """Epoch at which the validation loss of an inner cross-validation is lowest, for `fit_model`'s `fixed_epochs`.

    Each inner part is watched once while the others are fitted over all of `config.epochs`; the curves are averaged by
    events, so that parts too small to decide alone decide together.

    Parameters
    ----------
    spec, config, seed, device
        As for `fit_model`.
    train
        The outer training part; no other patient is looked at.
    part
        Inner part of each of its patients, such as `trainer.dealing.deal` gives it; two parts at least.

    Returns
    -------
    Between `config.min_epochs` (or the last epoch, if that is earlier) and `config.epochs`.

    Raises
    ------
    UsageError
        If the parts are fewer than two, or not of these patients.
    CohortError
        If no part has an event to watch, or what is left beside one has none to fit.
    TaskError
        As `fit_model`.

    References
    ----------
    Protocol section 5 (below 10 validation events).
    """
    curves = [
        (inner.watch.events, _curve(spec, config, inner, seed=seed, device=device))
        for inner in inner_fits(train, part, config)
    ]
    return lowest_epoch(curves, least=config.min_epochs)


class InnerFit(NamedTuple):
    """One fit of the inner cross-validation, over all epochs."""

    fit: Batch
    """Patients of the other parts."""
    watch: Batch
    """Patients of the part that is watched, an event among them."""
    config: FitConfig
    """Settings with which the watched part never ends the fit, so that the curves of all parts are as long."""


def inner_fits(train: Batch, part: Int[np.ndarray, " patient"], config: FitConfig) -> Iterator[InnerFit]:
    """Fits whose curves choose the number of epochs, one for each inner part with an event.

    Raises
    ------
    UsageError
        If the parts are fewer than two, or not of these patients.
    CohortError
        If no part has an event.
    """
    for fit, watch in inner_batches(train, part):
        yield InnerFit(fit, watch, _deaf(config, watch))


def inner_batches(train: Batch, part: Int[np.ndarray, " patient"]) -> Iterator[tuple[Batch, Batch]]:
    """Patients to fit and to watch, for each inner part with an event.

    Raises
    ------
    UsageError, CohortError
        As `inner_fits`.
    """
    names = np.unique(part)
    if len(part) != len(train) or len(names) < 2:
        raise UsageError(f"expected two inner parts or more of {len(train)} patients, got {len(names)} of {len(part)}")
    if not train.events:
        raise CohortError(f"the number of epochs cannot be chosen: all {len(train)} training patients are censored")
    for name in names:
        watch, fit = (train.rows(torch.from_numpy(np.flatnonzero(rows))) for rows in (part == name, part != name))
        if watch.events:
            yield fit, watch


def lowest_epoch(curves: Sequence[tuple[int, Float[np.ndarray, " epoch"]]], *, least: int = 1) -> int:
    """Epoch, not before the least one, at which the mean of the curves, each weighted by the events behind it, is lowest."""
    total = np.sum([events * curve for events, curve in curves], axis=0)
    first = min(least, len(total))
    return first + int(np.argmin(total[first - 1 :]))


def _deaf(config: FitConfig, watch: Batch) -> FitConfig:
    return config.model_copy(update={"min_validation_events": len(watch) + 1})


def _curve(
    spec: ModelSpec, config: FitConfig, inner: InnerFit, *, seed: int, device: torch.device | str
) -> Float[np.ndarray, " epoch"]:
    fitted = fit_model(
        spec,
        inner.config,
        train=inner.fit,
        validation=inner.watch,
        seed=seed,
        fixed_epochs=config.epochs,
        device=device,
    )
    return np.array(fitted.record.validation_loss)
