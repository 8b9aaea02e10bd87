"""Records of what a task found: of each fit on an outer fold, on an inner part; knows nothing of rows or of how it was fitted."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from store_schema.errors import SchemaError
from trainer.baseline_hazard import BreslowBaseline


class Record(BaseModel):
    """What every record shares: unknown names are refused, nothing changes after it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> bytes:
        """Text of the record's file."""
        return (self.model_dump_json(indent=1) + "\n").encode()


class Curves(Record):
    """How a network's fit went; epochs count from 1.

    Attributes
    ----------
    reason
        Why it ended: ``patience``, ``epochs`` or ``fixed``.
    epochs_run, best_epoch
        Epochs fitted, and the one whose weights were kept.
    train_loss, validation_loss
        Loss of each epoch; the validation part is inside the outer training fold.
    """

    reason: str
    epochs_run: int
    best_epoch: int
    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]


class InnerScore(Record):
    """What came of one model on one inner part: only what a choice of settings needs.

    Attributes
    ----------
    model, candidate, permutation, fold, inner
        Which row of which search table, and on whom; see `trainer.task.Part`.
    c, comparable
        Harrell's c of the inner part, and the pairs by which it was judged; None where the fit failed.
    fault
        Why it failed: such a setting is not chosen.
    best_epoch
        Epoch that a network kept.
    seconds
        Wall time.
    """

    model: str
    candidate: int
    permutation: int
    fold: int
    inner: int
    c: float | None
    comparable: int | None
    fault: str | None = None
    best_epoch: int | None
    seconds: float


class JobResult(Record):
    """What came of one outer fold of one model.

    Attributes
    ----------
    model, candidate, permutation, fold, repeat
        Which row of which search table, and which fold; permutation 0 is the real outcomes.
    c
        Harrell's c of the test part.
    concordant, discordant, tied_risk, comparable
        Pairs by which c was judged.
    patients, log_risk
        Test patients and their log-risks; higher is worse.
    alpha
        Gate's weight of the first modality of each test patient; None where nothing was mixed.
    train_mean, train_sd
        Mean and standard deviation (divisor n) of the log-risks of all outer-training patients, in evaluation mode.
    train_c
        Harrell's c of the outer training part: how far the model fits what it has seen.
    train_patients, train_events, test_events
        Sizes.
    baseline
        Breslow's baseline hazard of the outer training part: with it a log-risk becomes a survival curve.
    curves
        Of a network.
    coefficients
        Log hazard ratios of a linear model, by feature.
    penalty
        Of a linear model, given or chosen inside the training part.
    selection
        What a linear model left out of its vectors, each with the reason, and how it prepares the rest.
    preprocessing
        Statistics of the fold's training part by which covariates became features.
    seconds
        Wall time; the only thing that differs between machines. Of what is fitted together, an equal share.
    """

    model: str
    candidate: int = 0
    permutation: int
    fold: int
    repeat: int
    c: float
    concordant: int
    discordant: int
    tied_risk: int
    comparable: int
    patients: tuple[str, ...]
    log_risk: tuple[float, ...]
    alpha: tuple[float, ...] | None
    train_mean: float
    train_sd: float
    train_c: float
    train_patients: int
    train_events: int
    test_events: int
    baseline: BreslowBaseline
    curves: Curves | None
    coefficients: dict[str, float] | None
    penalty: float | None = None
    selection: dict[str, Any] | None = None
    preprocessing: dict[str, Any] | None
    seconds: float

    @property
    def z(self) -> tuple[float | None, ...]:
        """Log-risks in standard deviations of the training patients'; None where these were all equal."""
        if self.train_sd == 0:
            return tuple(None for _ in self.log_risk)
        return tuple((risk - self.train_mean) / self.train_sd for risk in self.log_risk)


class JobFault(Record):
    """A job on an outer fold that no fit can do, and why; another try would end the same way.

    Attributes
    ----------
    model, candidate, permutation, fold
        Which row of which search table, and which fold.
    reason
        What was wrong.
    """

    model: str
    candidate: int
    permutation: int
    fold: int
    reason: str


class TaskResult(Record):
    """What came of a task: of each of its jobs, in their order.

    Attributes
    ----------
    task_id
        Identity of the task.
    outer, inner, faults
        Jobs that judged an outer test part, those that judged an inner part, and outer ones that cannot be fitted.
    """

    layout: Literal["engram-result-2"] = "engram-result-2"
    task_id: str
    outer: tuple[JobResult, ...]
    inner: tuple[InnerScore, ...] = ()
    faults: tuple[JobFault, ...] = ()


def parse_result(data: bytes, *, where: str, task_id: str) -> TaskResult:
    """Result of a task from its file.

    Raises
    ------
    SchemaError
        If it is anything else, or the result of another task.
    """
    try:
        result = TaskResult.model_validate_json(data)
    except ValidationError as error:
        raise SchemaError(f"{where} is not a task's result: {error}. Remove it, and the task runs again") from error
    if result.task_id != task_id:
        raise SchemaError(f"{where} holds the result of task {result.task_id[:16]}. Remove it, and the task runs again")
    return result


def of_model(results: Iterable[JobResult], model: str, permutation: int = 0) -> tuple[JobResult, ...]:
    """Results of one model on the real outcomes or on one permutation, by fold."""
    mine = (result for result in results if (result.model, result.permutation) == (model, permutation))
    return tuple(sorted(mine, key=lambda result: result.fold))
