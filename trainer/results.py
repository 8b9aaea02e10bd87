"""Records of what a run found: of one row of the table, of a contrast, of a whole run; knows nothing of how it was fitted."""

from typing import Any, Literal

from pydantic import ValidationError

from store_schema.errors import SchemaError
from trainer.task_results import Record


class CovariateSummary(Record):
    """One covariate of the cohort.

    Attributes
    ----------
    name
        Column of the clinical table.
    known, missing
        Studies with a value, and without one.
    missing_share
        Of all studies.
    lower_quartile, median, upper_quartile
        Of the known values of a continuous covariate; None of a categorical one, and where no value is known.
    levels
        How many studies have each level of a categorical covariate; None of a continuous one.
    """

    name: str
    known: int
    missing: int
    missing_share: float
    lower_quartile: float | None = None
    median: float | None = None
    upper_quartile: float | None = None
    levels: dict[str, int] | None = None


class TableOne(Record):
    """Who was analysed.

    Attributes
    ----------
    patients, studies, events
        Persons, their studies, and studies with the event.
    time_unit, median_follow_up
        By reverse Kaplan-Meier; None where it is not reached.
    causes
        First events by their names, where some compete with the one that is modelled; else empty.
    covariates
        In their order.
    parameters
        Coefficients of a linear model of the covariates as it is fitted: one for each level of a categorical covariate.
    events_per_parameter
        The fewer, the less a figure can be trusted; None without covariates.
    """

    patients: int
    studies: int
    events: int
    time_unit: str
    median_follow_up: float | None
    causes: dict[str, int]
    covariates: tuple[CovariateSummary, ...]
    parameters: int
    events_per_parameter: float | None


class FoldScore(Record):
    """One fold of a row of the table; `c` is None where the task failed, `centre` where folds are not centres left out."""

    fold: int
    repeat: int
    c: float | None
    centre: str | None = None


class RiskGroups(Record):
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


class ChosenSetting(Record):
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


class Optimism(Record):
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


class ContrastResult(Record):
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
        What weakens it, and from how many settings its tuned rows were chosen.
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


class Row(Record):
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


class Failure(Record):
    """A task that failed, and why."""

    task_id: str
    label: str
    reason: str


class RunResults(Record):
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
    table_one
        Who was analysed; None of runs of engram 0.1.
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
    table_one: TableOne | None = None

    def of_kind(self, kind: str) -> tuple[Row, ...]:
        """Rows of one kind."""
        return tuple(row for row in self.rows if row.kind == kind)


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
