"""Chooses how long to fit where one validation part has too few events; knows nothing of outer folds or stores."""

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
    names = np.unique(part)
    if len(part) != len(train) or len(names) < 2:
        raise UsageError(f"expected two inner parts or more of {len(train)} patients, got {len(names)} of {len(part)}")
    total, events = np.zeros(config.epochs), 0
    for name in names:
        watch = train.rows(torch.from_numpy(np.flatnonzero(part == name)))
        if watch.events:
            fit = train.rows(torch.from_numpy(np.flatnonzero(part != name)))
            total += watch.events * _curve(spec, config, fit=fit, watch=watch, seed=seed, device=device)
            events += watch.events
    if not events:
        raise CohortError(f"the number of epochs cannot be chosen: all {len(train)} training patients are censored")
    first = min(config.min_epochs, config.epochs)
    return first + int(np.argmin(total[first - 1 :]))


def _curve(
    spec: ModelSpec, config: FitConfig, *, fit: Batch, watch: Batch, seed: int, device: torch.device | str
) -> Float[np.ndarray, " epoch"]:
    # never stopped, so that the curves of all parts are as long
    deaf = config.model_copy(update={"min_validation_events": len(watch) + 1})
    fitted = fit_model(spec, deaf, train=fit, validation=watch, seed=seed, fixed_epochs=config.epochs, device=device)
    return np.array(fitted.record.validation_loss)
