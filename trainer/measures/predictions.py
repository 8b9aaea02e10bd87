"""Puts out-of-fold predictions of test parts and repeats side by side; knows nothing of measures or of how models were fitted."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from store_schema.errors import UsageError
from trainer.baseline_hazard import BreslowBaseline
from trainer.kaplan_meier import KaplanMeier, kaplan_meier
from trainer.measures.censoring import Censoring, truncated
from trainer.metrics import checked


@dataclass(frozen=True, eq=False)
class JudgedFold:
    """What the model of one outer fold says of its test part, and the outcomes of both parts.

    Raises
    ------
    UsageError, TaskError, CohortError
        As in `trainer.metrics.harrell_c`, of either part.
    """

    repeat: int
    """Which dealing of the patients the fold belongs to."""
    risk: Float[np.ndarray, " test"]
    """Log-risks of the test part by the fold's model; higher is worse."""
    time: Float[np.ndarray, " test"]
    event: Bool[np.ndarray, " test"]
    baseline: BreslowBaseline
    """Of the outer training part and the same model."""
    train_time: Float[np.ndarray, " train"]
    train_event: Bool[np.ndarray, " train"]
    own_censoring: bool = False
    """Whether the test part weighs its own censoring: a centre that was left out may follow its patients for another time."""

    def __post_init__(self) -> None:
        checked(self.risk, self.time, self.event)
        checked(np.zeros(np.shape(self.train_time)), self.train_time, self.train_event)

    @cached_property
    def censoring(self) -> Censoring:
        """Censoring distribution of the training part, or, as far as that is followed, of the test part."""
        if not self.own_censoring:
            return Censoring.fit(time=self.train_time, event=self.train_event)
        time, event = truncated(time=self.time, event=self.event, at=self._end)
        return Censoring.fit(time=time, event=event)

    @property
    def _end(self) -> float:
        """Longest follow-up of the training part."""
        return float(np.max(self.train_time))

    @cached_property
    def train_curve(self) -> KaplanMeier:
        """Kaplan-Meier curve of the training part."""
        return kaplan_meier(self.train_time, self.train_event)

    def survival(self, times: Float[np.ndarray, " time"]) -> Float[np.ndarray, "test time"]:
        """Predicted probability of being free of the event after each time, by the fold's own baseline."""
        return self.baseline.survival(self.risk, times)

    def same_for_all(self, times: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
        """Kaplan-Meier survival of the training part: a prediction that knows no patient."""
        return self.train_curve.survival_at(times)

    @property
    def beyond_training(self) -> int:
        """Test patients followed longer than anybody of the training part."""
        return int((self.time > self._end).sum())

    def own_survival(self) -> tuple[Float[np.ndarray, " test"], Bool[np.ndarray, " test"]]:
        """Predicted survival at each patient's own time, and events; follow-up beyond that of the training part is cut off."""
        time, event = truncated(time=self.time, event=self.event, at=self._end)
        return self.baseline.survival_each(self.risk, time), event


@dataclass(frozen=True, eq=False)
class PooledPatients:
    """Every patient of a run once, in any order, with the out-of-fold risk on one scale.

    Raises
    ------
    UsageError, TaskError, CohortError
        As in `trainer.metrics.harrell_c`, and if persons, covariates or centres are not one per patient.
    """

    risk: Float[np.ndarray, " patient"] | None
    """Standardised log-risk, averaged over repeats; None where a fold's model tells nobody apart."""
    time: Float[np.ndarray, " patient"]
    event: Bool[np.ndarray, " patient"]
    persons: Sequence[str]
    """Whose each row is."""
    covariates: pd.DataFrame | None = None
    """Columns to make subgroups of: numbers with NaN, or text with None, where unknown."""
    centres: Sequence[str] | None = None
    cause: Int[np.ndarray, " patient"] | None = None
    """What ended each follow-up: 0 censoring, 1 the event, 2 … competing ones; None where there are none."""
    causes: tuple[str, ...] = ()
    """Names of the causes 1, 2, …."""
    group: Int[np.ndarray, " patient"] | None = None
    """Risk groups 1 (lowest), 2, … that are fixed beforehand; None for the quartiles of `risk`."""

    def __post_init__(self) -> None:
        checked(np.zeros(np.shape(self.time)) if self.risk is None else self.risk, self.time, self.event)
        each = (self.persons, self.covariates, self.centres, self.cause)
        for what, values in zip(("persons", "covariates", "centres", "causes"), each, strict=True):
            if values is not None and len(values) != len(self.time):
                raise UsageError(f"expected {what} one per patient, got {len(values)} for {len(self.time)}")
        if self.cause is not None and int(np.max(self.cause, initial=1)) > len(self.causes):
            raise UsageError(f"expected a name for each cause, got {len(self.causes)} for code {np.max(self.cause)}")


@dataclass(frozen=True, eq=False)
class Dealing:
    """Test parts of one repeat: together they hold every patient once."""

    folds: tuple[JudgedFold, ...]

    @cached_property
    def time(self) -> Float[np.ndarray, " patient"]:
        """Outcomes' times, fold after fold."""
        return np.concatenate([fold.time for fold in self.folds])

    @cached_property
    def event(self) -> Bool[np.ndarray, " patient"]:
        """Events, in the same order."""
        return np.concatenate([fold.event for fold in self.folds])

    @cached_property
    def risk(self) -> Float[np.ndarray, " patient"]:
        """Log-risks, in the same order; comparable within a fold only."""
        return np.concatenate([fold.risk for fold in self.folds])

    @cached_property
    def fold_of(self) -> Int[np.ndarray, " patient"]:
        """Place of each patient's fold."""
        return np.repeat(np.arange(len(self.folds)), [len(fold.time) for fold in self.folds])

    def survival(self, times: Float[np.ndarray, " time"]) -> Float[np.ndarray, "patient time"]:
        """Predicted survival of each patient by the baseline of the own fold."""
        return np.concatenate([fold.survival(times) for fold in self.folds])

    def own_survival(self) -> tuple[Float[np.ndarray, " patient"], Bool[np.ndarray, " patient"]]:
        """As of each fold."""
        survival, event = zip(*(fold.own_survival() for fold in self.folds), strict=True)
        return np.concatenate(survival), np.concatenate(event)


def dealings(folds: Sequence[JudgedFold], *, patients: int) -> tuple[Dealing, ...]:
    """Repeats of a run, in order.

    Raises
    ------
    UsageError
        If there is no fold, or a repeat does not hold each patient once.
    """
    repeats = sorted({fold.repeat for fold in folds})
    found = tuple(Dealing(tuple(fold for fold in folds if fold.repeat == repeat)) for repeat in repeats)
    wrong = [len(one.time) for one in found if len(one.time) != patients]
    if not found or wrong:
        raise UsageError(f"expected test parts of {patients} patients in each repeat, got {wrong or 'no fold'}")
    return found
