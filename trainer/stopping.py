"""Follows a fit epoch by epoch, keeps its curves and says which weights to keep and when to stop; knows nothing of networks."""

import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from store_schema.errors import ConfigError, TaskError
from trainer.spec import FitConfig

StopReason = Literal["patience", "epochs", "fixed"]


class FitRecord(BaseModel):
    """How a fit went; epochs count from 1.

    Attributes
    ----------
    reason
        ``patience`` (the validation loss stopped falling), ``epochs`` (it fell to the last epoch allowed) or ``fixed``
        (too few validation events to listen to: the number of epochs was given).
    epochs_run
        Epochs fitted.
    best_epoch
        Epoch whose weights were kept.
    train_loss
        Loss of each epoch in training, as it was minimised: with dropout and penalty, the mean over batches.
    validation_loss
        Loss of each epoch over the whole validation part as one risk set, in evaluation mode; empty without one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: StopReason
    epochs_run: int
    best_epoch: int
    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]


class Course:
    """Fit under way: its curves, its best epoch so far, and whether it goes on."""

    def __init__(self, config: FitConfig, *, epochs: int, stops: bool) -> None:
        """A fit of so many epochs at most; `stops` says whether the validation loss may end it earlier."""
        self._config = config
        self._epochs = epochs
        self._stops = stops
        self._train: list[float] = []
        self._watched: list[float] = []
        self._best, self._best_loss = epochs, math.inf
        self._least = min(config.min_epochs, epochs)

    @classmethod
    def of(cls, config: FitConfig, *, watched_events: int | None, fixed_epochs: int | None) -> Self:
        """Course of a fit that stops by its validation part if that has enough events, else after a given number of epochs.

        Parameters
        ----------
        watched_events
            Events of the validation part; None where there is none.
        fixed_epochs
            Epochs to fit where the validation part cannot decide; None, without such a part, for all of `config.epochs`.

        Raises
        ------
        ConfigError
            If nothing says how long to fit, or `fixed_epochs` is beyond `config.epochs`.
        """
        if watched_events is not None and watched_events >= config.min_validation_events:
            return cls(config, epochs=config.epochs, stops=True)
        if fixed_epochs is None and watched_events is not None:
            raise ConfigError(
                f"the validation part has {watched_events} events, and early stopping needs "
                f"{config.min_validation_events}: give the number of epochs (fixed_epochs), as choose_epochs finds it by "
                "inner cross-validation"
            )
        epochs = config.epochs if fixed_epochs is None else fixed_epochs
        if not 1 <= epochs <= config.epochs:
            raise ConfigError(f"fixed_epochs must be 1 to {config.epochs} (epochs), got {epochs}")
        return cls(config, epochs=epochs, stops=False)

    @property
    def epoch(self) -> int:
        """Epochs heard of."""
        return len(self._train)

    @property
    def over(self) -> bool:
        """Whether no epoch follows."""
        epoch = len(self._train)
        return epoch == self._epochs or (self._stops and epoch - self._best >= self._config.patience)

    def hear(self, train: float, watched: float | None) -> bool:
        """Note the losses of one more epoch; true if its weights are the ones to keep so far.

        Parameters
        ----------
        train
            Loss in training.
        watched
            Loss of the validation part; None where there is none with an event.
        """
        self._train.append(train)
        if watched is not None:
            self._watched.append(watched)
        epoch = len(self._train)
        if not self._stops:
            return epoch == self._epochs
        assert watched is not None
        if epoch < self._least or not watched < self._best_loss - self._config.tolerance:
            return False
        self._best, self._best_loss = epoch, watched
        return True

    def record(self) -> FitRecord:
        """How the fit went, when it is over."""
        reason: StopReason = "fixed" if not self._stops else "epochs" if self.epoch == self._epochs else "patience"
        return FitRecord(
            reason=reason,
            epochs_run=self.epoch,
            best_epoch=self._best,
            train_loss=tuple(self._train),
            validation_loss=tuple(self._watched),
        )


def divergence(loss: float, norm: float, *, epoch: int, config: FitConfig) -> TaskError | None:
    """Error of a fit whose loss, or the norm of its gradient, is not finite; None while both are."""
    if math.isfinite(loss) and math.isfinite(norm):
        return None
    return TaskError(
        f"epoch {epoch}: the loss is {loss} and the norm of its gradient {norm}: lower learning_rate "
        f"({config.learning_rate:g}), set clip_norm ({config.clip_norm}), or look for outliers among the inputs"
    )
