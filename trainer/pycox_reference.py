"""Fits DeepSurv by pycox and torchtuples as they are, the reference for ours; knows nothing of images, folds or stores."""

import importlib
import math
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from store_schema.errors import CohortError, TaskError
from trainer.batch import Batch
from trainer.epochs import inner_batches, lowest_epoch
from trainer.fit import one_thread
from trainer.minibatch import deal_rows
from trainer.model_config import PycoxModel
from trainer.stopping import FitRecord


@dataclass(frozen=True, eq=False)
class PycoxFit:
    """A fitted network of pycox's."""

    net: nn.Module
    """In evaluation mode, float64."""
    record: FitRecord
    """How the fit went."""

    def predict(self, clinical: Float[np.ndarray, "patient feature"]) -> Float[np.ndarray, " patient"]:
        """Log-risk of each patient, float64; higher is worse."""
        with one_thread(), torch.no_grad():
            risk = self.net(torch.tensor(clinical, dtype=torch.float32).double()).squeeze(1)
        # as our own networks do: equal patients stay tied wherever they stand
        return np.asarray(risk.float().double().numpy())


def fit_pycox(
    model: PycoxModel, *, train: Batch, watch: Batch | None, seed: int, fixed_epochs: int | None = None
) -> PycoxFit:
    """Network of a training part, stopped by the loss of a watched part, or after so many epochs.

    pycox's CoxPH and MLPVanilla, fitted by torchtuples' loop with AdamW and its EarlyStopping, whose object is new in each
    fit. What goes round their faults: mini-batches are dealt as ours are, so that none is without events or has one
    patient; the watched part is one batch; a loss that is not a number is an error. What is left of them: the loss takes
    tied patients in the order of rows, and has no Efron or Breslow correction.

    Torch's global random state, from which MLPVanilla draws weights and dropout, is seeded inside and given back: the same
    arguments give the same bits in any process, on one thread.

    Parameters
    ----------
    model
        Network and fitting.
    train, watch
        Covariates and outcomes; of `watch` the loss alone is used.
    seed
        Of weights, dropout and mini-batches.
    fixed_epochs
        Epochs to fit without stopping, the last weights being kept; None lets `watch` decide.

    Raises
    ------
    CohortError
        If the training part has no event or fewer than two patients, a watched part that is to decide has no event, or no
        covariate varies.
    TaskError
        If the loss stops being finite.

    References
    ----------
    Kvamme et al. 2019 (pycox); Katzman et al. 2018.
    """
    _check(train, watch, decides=fixed_epochs is None)
    with one_thread(), torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        loop = _loop(model, train.inputs.clinical)
        callbacks = [] if fixed_epochs is not None else [_stopping(model, Path(folder) / "best.pt")]
        loop.fit_dataloader(
            _Dealt(train, model.batch_size, seed),
            epochs=fixed_epochs or model.epochs,
            callbacks=callbacks,
            verbose=False,
            val_dataloader=None if watch is None else _Dealt(watch, None, seed),
        )
    return PycoxFit(loop.net.double().eval(), _record(model, loop, fixed_epochs))


def _check(train: Batch, watch: Batch | None, *, decides: bool) -> None:
    if len(train) < 2 or train.events == 0:
        raise CohortError(
            f"pycox needs two patients and an event, got {len(train)} patients with {train.events} events"
        )
    if decides and (watch is None or watch.events == 0):
        raise CohortError("pycox stops by the loss of a watched part, and that part has no event: use fewer folds")
    if train.inputs.clinical is None or train.inputs.clinical.shape[1] == 0:
        raise CohortError("pycox needs a feature: no declared covariate varies in the training fold")


def choose_pycox_epochs(model: PycoxModel, *, train: Batch, part: Int[np.ndarray, " patient"], seed: int) -> int:
    """Epoch at which the watched loss of an inner cross-validation is lowest, as `trainer.epochs.choose_epochs` has it for ours.

    Raises
    ------
    CohortError, TaskError
        As `fit_pycox`; also if no inner part has an event.
    """
    curves = []
    for rest, watch in inner_batches(train, part):
        fitted = fit_pycox(model, train=rest, watch=watch, seed=seed, fixed_epochs=model.epochs)
        curves.append((watch.events, np.array(fitted.record.validation_loss)))
    return lowest_epoch(curves)


class _Dealt:
    """What torchtuples takes for a loader: batches of (covariates, (time, event)), dealt anew in each epoch."""

    dataset = None
    """Torchtuples asks for one, to note shapes that are not used here."""

    def __init__(self, batch: Batch, batch_size: int | None, seed: int) -> None:
        self._batch = batch
        self._batch_size = batch_size
        self._seed = seed
        self._stream = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        # by a stream of its own, so that asking changes nothing
        return len(self._rows(torch.Generator().manual_seed(self._seed)))

    def __iter__(self) -> Iterator[Any]:
        tuplefy = _torchtuples().tuplefy
        for rows in self._rows(self._stream):
            some = self._batch.rows(rows)
            yield tuplefy(some.inputs.clinical), tuplefy(some.time, some.event.float())

    def _rows(self, stream: torch.Generator) -> list[Int[Tensor, " row"]]:
        return deal_rows(self._batch.event, batch_size=self._batch_size, stream=stream)


def _loop(model: PycoxModel, clinical: Tensor | None) -> Any:
    """Model of pycox's, its network drawn from torch's global random state."""
    assert clinical is not None
    net = _torchtuples().practical.MLPVanilla(
        clinical.shape[1], list(model.hidden), 1, model.batch_norm, model.dropout, output_bias=False
    )
    optimiser = torch.optim.AdamW(net.parameters(), lr=model.learning_rate, weight_decay=model.weight_decay)
    return _pycox_models().CoxPH(net, optimiser)


def _stopping(model: PycoxModel, best: Path) -> Any:
    return _torchtuples().callbacks.EarlyStopping(patience=model.patience, file_path=best)


def _record(model: PycoxModel, loop: Any, fixed_epochs: int | None) -> FitRecord:
    train = [float(loss) for loss in loop.train_metrics.scores["loss"]["score"]]
    watched = [float(loss) for loss in loop.val_metrics.scores["loss"]["score"]]
    heard = loop.val_metrics.dataloader is not None
    if not all(map(math.isfinite, [*train, *(watched if heard else [])])):
        raise TaskError(
            f"the loss of pycox's network stopped being finite: lower learning_rate ({model.learning_rate:g})"
        )
    stopped = fixed_epochs is None
    return FitRecord(
        reason="fixed" if not stopped else "epochs" if len(train) == model.epochs else "patience",
        epochs_run=len(train),
        best_epoch=1 + int(np.argmin(watched)) if stopped else len(train),
        train_loss=tuple(train),
        validation_loss=tuple(watched) if heard else (),
    )


def _torchtuples() -> ModuleType:
    return importlib.import_module("torchtuples")


def _pycox_models() -> ModuleType:
    """Imported where it is used: no other model needs it, and it takes seconds."""
    with warnings.catch_warnings():
        # pycox 0.3.0 has "\in" in plain docstrings, a SyntaxWarning on Python 3.12 when it is first compiled
        warnings.simplefilter("ignore", SyntaxWarning)
        return importlib.import_module("pycox.models")
