"""Declares which column of a clinical table means what; knows nothing of the table's values or of any model."""

from collections import Counter
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

TimeUnit = Literal["days", "months", "years"]
MONTHS_PER_UNIT: dict[TimeUnit, float] = {"days": 12 / 365.25, "months": 1.0, "years": 12.0}


HORIZONS_MONTHS = (12.0, 24.0, 36.0, 60.0)
"""At which survival is judged and told unless others are asked for (protocol section 5)."""


def usual_horizons(unit: TimeUnit) -> tuple[float, ...]:
    """The same in another unit."""
    return tuple(months / MONTHS_PER_UNIT[unit] for months in HORIZONS_MONTHS)


class Columns(BaseModel):
    """Roles of the columns of a clinical table with one row per patient.

    Attributes
    ----------
    patient
        Column of the patient's id, as the feature store spells it.
    study
        Column of a study's id where patients have several; the store's key is then ``patient.study``, and splits keep
        a patient's studies together.
    time
        Column of the time to event or censoring, > 0.
    time_unit
        Unit of `time` and `censor_at`.
    event
        Column that says how the follow-up ended.
    event_value
        Value of `event` that counts as the event; true and false read as 1 and 0.
    censored_values
        Values of `event` that count as censored. Any further value is an error.
    competing_values
        Values of `event` that are another event, after which this one cannot come. Models are then of the cause-specific hazard,
        for which they end follow-up as censoring does, and the cumulative incidence of each event is given beside.
    continuous, categorical
        Covariates; their order is the order of the features.
    centre
        Column of the centre, for grouped splits.
    censor_at
        Administrative end of follow-up: later times are cut there and count as censored.
    missing
        Texts that mean "no value", besides an empty cell, in capitals or not; giving some replaces the usual ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    patient: str = "patient"
    study: str | None = None
    time: str
    time_unit: TimeUnit
    event: str
    event_value: int | str = 1
    censored_values: tuple[int | str, ...] = (0,)
    competing_values: tuple[int | str, ...] = ()
    continuous: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    centre: str | None = None
    censor_at: float | None = Field(default=None, gt=0)
    missing: tuple[str, ...] = ("NA", "N/A", "NaN", "null")

    @model_validator(mode="after")
    def _one_role_each(self) -> Self:
        optional = [name for name in (self.study,) if name is not None]
        names = [self.patient, self.time, self.event, *optional, *self.continuous, *self.categorical]
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise ValueError(
                f"{', '.join(twice)}: a column has one role, and these were given two or were listed twice"
            )
        if not self.censored_values or event_code(self.event_value) in map(event_code, self.censored_values):
            raise ValueError(
                f"event_value {self.event_value!r} must differ from every one of censored_values "
                f"{self.censored_values!r}, which must not be empty"
            )
        ends = Counter(map(event_code, (self.event_value, *self.censored_values, *self.competing_values)))
        both = sorted(code for code, count in ends.items() if count > 1)
        if both:
            raise ValueError(
                f"{', '.join(both)}: a value of {self.event!r} has one meaning, the event, censored or a competing event"
            )
        return self

    @property
    def covariates(self) -> tuple[str, ...]:
        """Names of the covariates: continuous, then categorical."""
        return self.continuous + self.categorical

    @property
    def causes(self) -> tuple[str, ...]:
        """What ends follow-up but censoring, as a person reads it: the event, then each competing one; codes 1, 2, …."""
        return tuple(f"{self.event} = {value}" for value in (self.event_value, *self.competing_values))

    @property
    def used(self) -> tuple[str, ...]:
        """Every column that the table must have, each once."""
        named = (self.patient, self.study, self.time, self.event, *self.covariates, self.centre)
        return tuple(dict.fromkeys(name for name in named if name is not None))


def event_code(value: object) -> str:
    """One spelling per event value, so that 1, 1.0, '1', True and 'true' are the same."""
    text = str(value).strip()
    if text.lower() in {"true", "false"}:
        return "1" if text.lower() == "true" else "0"
    return plain_label(text)


def plain_label(text: str) -> str:
    """Label without the decimals of a whole number: '3.0' is '3', as a column with gaps makes of 3."""
    whole, dot, decimals = text.partition(".")
    return whole if dot and decimals and not decimals.strip("0") and whole.lstrip("+-").isdigit() else text
