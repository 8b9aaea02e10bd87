"""What a trainer's run publishes into a store, for whoever writes or reads it; knows no patient, and not how a figure was made."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from store_schema.keys import check_id
from store_schema.records import SCHEMA, ObjectRecord, Record, Sha256, check_view_id, parse_record

SUMMARY, CURVES = "trainer.json", "km.json"
"""Records of a published run: the one that makes it visible, written last, and its survival curves."""


class PublishedModel(Record):
    """One row of a run's table of c-indices."""

    name: str
    """What the row is called; unique."""
    kind: Literal["model", "permuted", "oracle"]
    """Permuted: the outcomes were dealt at random, c must lie near 0.5. Oracle: risks known from simulation."""
    mean: float | None
    """Harrell's c on test patients, mean over `scores`: 0.5 is chance, 1 perfect, higher is better."""
    se: float | None
    """Standard error of `mean`; with repeated folds the corrected one."""
    folds: int = Field(ge=0)
    """How many scores there are: folds over all repeats, or several permutations."""
    scores: tuple[float | None, ...]
    """c of each fold, in their order; of several permutations the mean c of each."""
    t: float | None
    """Of the t-test against 0.5; higher is better."""
    df: int | None
    p_one_sided: float | None
    """Plain t-test over folds, as in the paper; None with repeated folds."""
    p_two_sided: float | None
    corrected_p_one_sided: float | None
    """The same, allowing for the training patients that folds share (Nadeau and Bengio)."""
    permutation_p: float | None
    """Of `mean` among fits on permuted outcomes; None where these were too few."""
    pooled_c: float | None
    """Harrell's c of all patients by standardised out-of-fold risk; 0.5 is chance, higher is better."""
    tried: int = Field(ge=1)
    """Settings that the row was chosen from."""
    tuned: Literal["nested", "paper"] | None
    """How they were chosen: inside the training folds, on the reported folds, or not at all."""
    views: tuple[str, ...]
    """Ids of the views that the model reads; none for covariates alone."""
    untrained: bool
    """Whether one of these views is of random weights: the figures then say nothing about the method."""

    @property
    def optimistic(self) -> bool:
        """Whether the settings were chosen on the folds that are reported."""
        return self.tuned == "paper"


class PublishedContrast(Record):
    """How much higher the first model's c is than the second's on the same folds."""

    label: str
    first: str
    second: str
    primary: bool
    """Whether it is the claim: the one contrast that was declared before the run."""
    folds: int = Field(ge=0)
    """Over all repeats."""
    mean: float | None
    """Mean difference of c; positive favours the first. None where a model misses a fold."""
    se: float | None
    low: float | None
    """Lower end of the 95% interval of `mean`."""
    high: float | None
    """Upper end of it."""
    t: float | None
    df: int | None
    p_two_sided: float | None
    """Corrected resampled t-test (Nadeau and Bengio)."""
    p_holm: float | None
    """Of secondary contrasts: adjusted for all of them."""
    note: str | None
    """What weakens it."""


class PublishedFigure(Record):
    """A drawing among the records, as SVG that needs nothing else."""

    record: str
    """Name of its record."""
    name: str
    """Kind of drawing, and where it is of one model a hyphen and the model's name, such as ``quartiles-image``."""
    caption: str

    @property
    def kind(self) -> str:
        """What is drawn: folds, quartiles, incidence, curves, calibration, decision, study."""
        return self.name.partition("-")[0]


class PublishedRun(Record):
    """The record `trainer.json` of a run: what a list or a page tells of it, without asking any other record."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    kind: Literal["trainer"] = "trainer"
    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    engram: str
    """Version that ran the models."""
    command: Literal["cv", "search", "study"]
    """By what the settings hold: rows of a study, ranges that were searched, or neither."""
    started_at: str
    """When the run began: UTC, ISO 8601, by its own clock."""
    published_at: str
    """When it was published: UTC, ISO 8601, by the publisher's clock; for people, never for order."""
    models: tuple[PublishedModel, ...] = Field(min_length=1)
    """Rows in the order of the run's table: models, permuted controls, oracles."""
    contrasts: tuple[PublishedContrast, ...]
    """The claim, where one was declared, then the secondary contrasts."""
    patients: int = Field(ge=1)
    """Persons in the cohort that every row shares."""
    studies: int = Field(ge=1)
    """Their studies; as many as `patients` unless patients have several."""
    events: int = Field(ge=0)
    """Studies whose event was observed."""
    outcome: str
    """What was predicted: event, time and its unit, as the clinical table calls them."""
    folds: int = Field(ge=2)
    """Test parts of one dealing of the patients."""
    repeats: int = Field(ge=1)
    """Dealings."""
    store_id: str | None
    """Store that was read, which need not be the one published into; None for covariates alone."""
    snapshots: dict[str, str]
    """Id of the snapshot that was read of each view, by the view's id."""
    untrained: tuple[str, ...]
    """Those of the views whose encoder has random weights."""
    settings_sha256: Sha256 = Field(pattern=r"^[0-9a-f]{64}$")
    """Digest of the canonical JSON of `config` in the record `run.json`: equal settings have equal digests."""
    warnings: tuple[str, ...]
    """Signs of a leak: what a reader must know before believing a figure."""
    notes: tuple[str, ...]
    """What else a reader must know."""
    left_out: tuple[str, ...]
    """What of the run was not published, since it tells of single patients."""
    figures: tuple[PublishedFigure, ...]
    records: dict[str, ObjectRecord]
    """Size and digest of every other record of the run, by name."""

    @property
    def optimistic(self) -> tuple[str, ...]:
        """Names of the models whose settings were chosen on the reported folds."""
        return tuple(model.name for model in self.models if model.optimistic)

    @property
    def claim(self) -> PublishedContrast | None:
        """The contrast that was declared before the run, if any."""
        return next((contrast for contrast in self.contrasts if contrast.primary), None)

    @field_validator("snapshots")
    @classmethod
    def _view_ids(cls, snapshots: dict[str, str]) -> dict[str, str]:
        for view in snapshots:
            check_view_id(view)
        return snapshots

    @model_validator(mode="after")
    def _figures_are_records(self) -> Self:
        for name in self.records:
            check_id("record", name)
        unknown = [figure.record for figure in self.figures if figure.record not in self.records]
        if unknown:
            raise ValueError(f"figures that are no records: {', '.join(unknown)}")
        return self

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> Self:
        """The record from its bytes.

        Raises
        ------
        SchemaError
            If they are anything else; names `where`.
        """
        return parse_record(cls, data, where=where)


class PublishedCurve(Record):
    """Kaplan-Meier curve of one risk group as steps: `survival[k]` holds from `time[k]` until `time[k + 1]`.

    Before the first time survival is 1.
    """

    group: Literal["lowest", "highest"]
    """Quartile of out-of-fold risk; the highest is expected to do worst."""
    patients: int = Field(ge=1)
    events: int = Field(ge=0)
    median: float | None
    """First time at which half of the group had the event, in the run's unit; None where it is not reached."""
    time: tuple[float, ...] = Field(min_length=1)
    """Distinct times of events and censorings in the run's unit, rising."""
    survival: tuple[float, ...]
    """Probability of being free of the event after each time, 0 to 1."""
    low: tuple[float, ...]
    """Lower end of the pointwise 95% log-log band of `survival`."""
    high: tuple[float, ...]
    """Upper end of it."""
    at_risk: tuple[int, ...]
    """Patients under observation just before each time."""
    events_at: tuple[int, ...]
    """Events at each time."""
    censored: tuple[int, ...]
    """Censorings at each time."""

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        columns = (self.survival, self.low, self.high, self.at_risk, self.events_at, self.censored)
        if {len(column) for column in columns} != {len(self.time)}:
            raise ValueError(f"a curve of {len(self.time)} times has columns of other lengths")
        if any(later <= earlier for earlier, later in zip(self.time, self.time[1:], strict=False)):
            raise ValueError("the times of a curve must rise")
        return self

    def survival_at(self, time: float) -> float:
        """Probability of being free of the event at a time; after the last step it keeps the last value."""
        return (1.0, *self.survival)[bisect_right(self.time, time)]

    def at_risk_at(self, time: float) -> int:
        """Patients whose own time is not before this one, for the table under a figure."""
        return (*self.at_risk, 0)[bisect_left(self.time, time)]


class PublishedRiskGroups(Record):
    """Survival in the outer quartiles of a model's out-of-fold risks (paper, Fig. 4)."""

    model: str
    """Its row."""
    chi_squared: float
    """Log-rank statistic of the two groups; higher is further apart."""
    nominal_p: float
    """Log-rank p; nominal: between groups made of out-of-fold risks it rejects a true null in 11 to 20% of runs."""
    permutation_p: float | None
    """The same among fits on permuted outcomes; None where these were too few."""
    lowest: PublishedCurve
    highest: PublishedCurve


class PublishedCurves(Record):
    """The record `km.json` of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    time_unit: Literal["days", "months", "years"]
    last_time: float = Field(gt=0)
    """End of the time axis that all models share: the longest follow-up of the cohort."""
    models: tuple[PublishedRiskGroups, ...]
    """In the order of the run's rows."""
    without: dict[str, str]
    """Why the other models have no such groups, by their names."""

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> Self:
        """The record from its bytes.

        Raises
        ------
        SchemaError
            If they are anything else; names `where`.
        """
        return parse_record(cls, data, where=where)

    def of(self, model: str) -> PublishedRiskGroups | None:
        """The groups of one model; None where it has none."""
        return next((groups for groups in self.models if groups.model == model), None)
