"""Records of what a run found: of one task, of one row of the table, of a whole run; knows nothing of how it was fitted."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from store_schema.errors import SchemaError
from trainer.baseline_hazard import BreslowBaseline


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> bytes:
        """Text of the record's file."""
        return (self.model_dump_json(indent=1) + "\n").encode()


class Curves(_Record):
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


class InnerScore(_Record):
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


class JobResult(_Record):
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
    preprocessing: dict[str, Any] | None
    seconds: float

    @property
    def z(self) -> tuple[float | None, ...]:
        """Log-risks in standard deviations of the training patients'; None where these were all equal."""
        if self.train_sd == 0:
            return tuple(None for _ in self.log_risk)
        return tuple((risk - self.train_mean) / self.train_sd for risk in self.log_risk)


class JobFault(_Record):
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


class TaskResult(_Record):
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


class FoldScore(_Record):
    """One fold of a row of the table; `c` is None where the task failed."""

    fold: int
    repeat: int
    c: float | None


class RiskGroups(_Record):
    """First against fourth quartile of pooled out-of-fold risks (paper, Fig. 4).

    Attributes
    ----------
    cuts
        Quartile cuts of the standardised risks.
    low_patients, low_events, high_patients, high_events
        Sizes of the first and the fourth quartile.
    low_median, high_median
        Median survival in the unit of the table; None where it is not reached.
    chi_squared, nominal_p
        Log-rank test of the two; nominal, since folds share training patients.
    permutation_p
        (1 + #) / (B + 1) over the run's permutations; None where they are fewer than 19.
    """

    cuts: tuple[float, float, float]
    low_patients: int
    low_events: int
    high_patients: int
    high_events: int
    low_median: float | None
    high_median: float | None
    chi_squared: float
    nominal_p: float
    permutation_p: float | None


class ChosenSetting(_Record):
    """What a tuned row used in one fold.

    Attributes
    ----------
    fold
        Outer fold.
    model, candidate
        Row of that model's search table.
    score
        Mean c by which it was chosen, over inner folds or, tuned the paper's way, over the reported ones.
    settings
        What the row of the table says, by dotted name; empty where that model is not searched.
    """

    fold: int
    model: str
    candidate: int
    score: float | None
    settings: dict[str, Any]


class Optimism(_Record):
    """By how much a mean c gains where settings are chosen on the folds that are reported.

    Attributes
    ----------
    model, tried
        Row, and how many settings it was chosen from.
    paper, nested
        Mean c of either way.
    optimism
        Their difference.
    """

    model: str
    tried: int
    paper: float
    nested: float
    optimism: float


class ContrastResult(_Record):
    """How much higher the first model's c is than the second's on the same folds.

    Attributes
    ----------
    label, first, second
        Models.
    primary
        Whether it is the claim that was declared before the run.
    folds
        Over all repeats.
    mean, se, t, df, p_two_sided, low, high
        Corrected resampled t-test and its 95% interval (Nadeau and Bengio); None where a model is incomplete, and t and p where the
        differences do not vary.
    p_holm
        Of secondary contrasts: adjusted for all of them.
    differences
        Fold by fold.
    note
        What weakens it.
    """

    label: str
    first: str
    second: str
    primary: bool
    folds: int
    mean: float | None = None
    se: float | None = None
    t: float | None = None
    df: int | None = None
    p_two_sided: float | None = None
    low: float | None = None
    high: float | None = None
    p_holm: float | None = None
    differences: tuple[float, ...] = ()
    note: str | None = None


class Row(_Record):
    """One row of the table.

    Attributes
    ----------
    label
        What the row is called.
    kind
        ``model``, ``permuted`` (its outcomes dealt at random) or ``oracle`` (risks known from simulation).
    model
        Label of the model's row; of an oracle, its column.
    tried
        Settings that were tried for it.
    tuned
        How they were chosen: ``nested`` (inside the training folds), ``paper`` (on the reported folds: optimistic), or None.
    chosen
        What each fold used, where there was a choice.
    scores
        c of each fold. Of several permutations, c of each permutation's mean.
    mean, se
        Over the scores, se = sd/√n; with several repeats the corrected standard error; None where a task failed.
    t, df, p_one_sided, p_two_sided
        Plain t-test against 0.5, as in the paper; None with several repeats, whose folds share their patients, and of
        several permutations.
    corrected_p_one_sided
        The same with a variance that allows for shared training patients (Nadeau and Bengio).
    permutation_p
        Of the mean c, over the run's permutations of this model; None where they are fewer than 19.
    pooled_c
        c of all patients by their standardised out-of-fold risk, averaged over repeats; None where not defined.
    risk_groups
        Outer quartiles; None of controls and oracles, and where not defined.
    risk_groups_note
        Why there are no outer quartiles.
    """

    label: str
    kind: Literal["model", "permuted", "oracle"]
    model: str
    tried: int = 1
    tuned: Literal["nested", "paper"] | None = None
    chosen: tuple[ChosenSetting, ...] = ()
    scores: tuple[FoldScore, ...]
    mean: float | None
    se: float | None
    t: float | None
    df: int | None
    p_one_sided: float | None
    p_two_sided: float | None
    corrected_p_one_sided: float | None
    permutation_p: float | None
    pooled_c: float | None
    risk_groups: RiskGroups | None = None
    risk_groups_note: str | None = None


class Failure(_Record):
    """A task that failed, and why."""

    task_id: str
    label: str
    reason: str


class RunResults(_Record):
    """Every figure of a run; derived from the tasks' results alone.

    Attributes
    ----------
    complete
        Whether every task has a result.
    rows
        Models, then permuted controls, then oracles.
    contrasts
        The claim, then the secondary contrasts.
    optimism
        Of rows that were tuned both ways.
    warnings
        What a reader must know before believing a figure: signs of a leak.
    notes
        What else a reader must know, such as covariates that some folds could not use.
    failures
        Tasks without a result.
    task_ids
        Tasks whose results these are, in order.
    """

    layout: Literal["engram-results-2"] = "engram-results-2"
    complete: bool
    rows: tuple[Row, ...]
    contrasts: tuple[ContrastResult, ...] = ()
    optimism: tuple[Optimism, ...] = ()
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    failures: tuple[Failure, ...]
    task_ids: tuple[str, ...]

    def of_kind(self, kind: str) -> tuple[Row, ...]:
        """Rows of one kind."""
        return tuple(row for row in self.rows if row.kind == kind)


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


def parse_results(data: bytes, *, where: str) -> RunResults:
    """Results of a run from their file.

    Raises
    ------
    SchemaError
        If it is anything else.
    """
    try:
        return RunResults.model_validate_json(data)
    except ValidationError as error:
        raise SchemaError(f"{where} is not a run's results: {error}. Run `trainer cv` again") from error


def of_model(results: Iterable[JobResult], model: str, permutation: int = 0) -> tuple[JobResult, ...]:
    """Results of one model on the real outcomes or on one permutation, by fold."""
    mine = (result for result in results if (result.model, result.permutation) == (model, permutation))
    return tuple(sorted(mine, key=lambda result: result.fold))
