"""Record of how a kept model does on another cohort; derived from its predictions alone."""

from typing import Literal

from pydantic import ValidationError

from store_schema.errors import SchemaError
from trainer.columns import TimeUnit
from trainer.measures.row_measures import RowMeasures
from trainer.task_results import Record

VALIDATION, PREDICTIONS = "validation.json", "predictions.csv"
"""Files of a validation."""
AS_IT_IS, BY_FIFTHS = "as it is", "as it is, by fifths"
IN_THE_LARGE, SLOPE_TOO = "recalibrated in the large", "recalibrated, slope too"


class ValidatedGroup(Record):
    """Patients of one of the model's own risk groups.

    Attributes
    ----------
    group
        1 (lowest) to 4: quartiles of the patients that the model was fitted on.
    patients, events
        Of this cohort.
    median
        Median survival by Kaplan-Meier; None where it is not reached, or the group is empty.
    """

    group: int
    patients: int
    events: int
    median: float | None


class Recalibration(Record):
    """What would bring the model's survival curves in line with this cohort; estimated on all of its patients.

    Attributes
    ----------
    observed_over_expected, low, high
        Events over those expected from the whole follow-up, with its 95% interval; in the large the baseline hazard is multiplied
        by it.
    slope, slope_low, slope_high
        What log-risks are multiplied by beside a new baseline; below 1 they spread too far. None with a reason.
    reason
        Why there is no slope.
    """

    observed_over_expected: float
    low: float
    high: float
    slope: float | None = None
    slope_low: float | None = None
    slope_high: float | None = None
    reason: str | None = None


class Validation(Record):
    """Every figure of a model on another cohort, with the model frozen.

    Attributes
    ----------
    model, card_sha256
        Name and digest of the model's card.
    view, snapshot, store_id
        What was read; None without images.
    time_unit
        Of every time: the model's.
    flow
        Steps from the table to the cohort: reason, patients excluded, patients remaining.
    patients, persons, events
        Of the cohort.
    median_follow_up
        By reverse Kaplan-Meier; None where it is not reached.
    cut_at, cut
        End of the model's own follow-up, and how many patients were followed longer: they are censored there, since the model says
        nothing beyond.
    missing
        Patients without a value, by covariate; filled as in training.
    risk_mean, risk_sd
        Of this cohort's log-risks in standard deviations of the training patients', whose mean is 0: how alike the cohorts are.
    developed_patients, developed_events, developed_c, developed_tried, developed_optimistic
        Of the cohort that the model was fitted on, its c in cross-validation there, from how many settings it was chosen, and
        whether on the folds that gave it.
    measures
        By how the model was taken: as it is, or fifth by fifth, as it is or recalibrated by the other four. Only those of fifths
        are to be compared with each other: their Kaplan-Meier curves and weights for censoring are of the other four, too.
    without
        Why one of them is missing.
    notes
        What a reader must know before the figures.
    overlap_checked
        Whether it was looked for patients whom the model was fitted on.
    recalibration
        What was estimated for it.
    groups, log_rank_p
        By the model's own risk groups, and the log-rank test between them; groups were fixed before this cohort was seen.
    versions
        Of the code that judged.
    """

    layout: Literal["engram-validation-1"] = "engram-validation-1"
    model: str
    card_sha256: str
    view: str | None
    snapshot: str | None
    store_id: str | None
    time_unit: TimeUnit
    flow: tuple[tuple[str, int, int], ...]
    patients: int
    persons: int
    events: int
    median_follow_up: float | None
    cut_at: float
    cut: int
    missing: dict[str, int]
    risk_mean: float
    risk_sd: float
    developed_patients: int
    developed_events: int
    developed_c: float | None
    developed_tried: int = 1
    developed_optimistic: bool
    measures: dict[str, RowMeasures]
    without: dict[str, str]
    notes: tuple[str, ...]
    overlap_checked: bool
    recalibration: Recalibration
    groups: tuple[ValidatedGroup, ...]
    log_rank_p: float | None
    versions: dict[str, str]

    @property
    def developed_tuned(self) -> Literal["nested", "paper"] | None:
        """How the model's settings were chosen."""
        if self.developed_optimistic:
            return "paper"
        return "nested" if self.developed_tried > 1 else None


def parse_validation(data: bytes, *, where: str) -> Validation:
    """A validation from its file.

    Raises
    ------
    SchemaError
        If it is anything else.
    """
    try:
        return Validation.model_validate_json(data)
    except ValidationError as error:
        raise SchemaError(f"{where} is not a validation of layout engram-validation-1: {error}") from error
