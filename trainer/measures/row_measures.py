"""Record of every measure of one row of a run's table; knows nothing of how they were computed."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from trainer.measures.censoring import LeftOutTime
from trainer.measures.d_calibration import DCalibration
from trainer.measures.subgroups import GroupC, GroupedC

Conditional = Literal["conditional on the fitted models"]
CONDITIONAL: Conditional = "conditional on the fitted models"
"""What every interval of a measure is: it leaves out how models would differ if they were fitted on other patients."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Estimate(_Record):
    """A figure with its interval, or the reason why there is none.

    Attributes
    ----------
    value
        None with a reason.
    low, high
        Interval; None where none is defined, or the figure comes without.
    reason
        Why there is no value.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.value is None) == (self.reason is None):
            raise ValueError("expected a value or a reason why there is none, and not both")
        return self


class CalibrationPoint(_Record):
    """A group of similar predicted risk at a horizon; with several repeats the mean over their groups of the same rank.

    Attributes
    ----------
    patients, events, at_risk
        Sizes: patients, those with the event by the horizon, those under observation just before it.
    predicted
        Mean predicted probability of the event by the horizon.
    observed, low, high
        1 - Kaplan-Meier with its log-log interval; None where a group's follow-up ends before the horizon, and the interval
        also where nobody or everybody had the event.
    """

    patients: float
    events: float
    at_risk: float
    predicted: float
    observed: float | None
    low: float | None
    high: float | None


class DecisionMeasures(_Record):
    """Net benefit of treating by predicted risk of the event by a horizon; treating nobody has 0.

    Attributes
    ----------
    thresholds
        Predicted risk from which a patient is treated.
    net_benefit
        True positives less false positives at the threshold's odds, per patient; None where those treated are not followed
        up to the horizon.
    treat_all
        The same if everybody is treated.
    """

    thresholds: tuple[float, ...]
    net_benefit: tuple[float | None, ...]
    treat_all: tuple[float, ...]


class HorizonMeasures(_Record):
    """How well the event by one time was predicted.

    Attributes
    ----------
    horizon
        In the unit of the table.
    at_risk
        Patients under observation just before it.
    events
        Patients with the event by then.
    auc
        Cumulative/dynamic AUC over pairs of patients of one test part; 0.5 is chance, higher is better.
    brier, brier_km
        Brier score of the model, and of the training part's Kaplan-Meier curve for everybody; lower is better.
    observed
        1 - Kaplan-Meier of all patients, with its log-log interval.
    expected
        Mean predicted probability of the event.
    observed_over_expected
        Above 1 too few events were predicted.
    calibration
        From the lowest predicted risk to the highest; empty with a reason.
    calibration_reason
        Why there are no groups.
    decision
        Decision curve; None with a reason.
    decision_reason
        Why there is no decision curve.
    """

    horizon: float
    at_risk: int
    events: int
    auc: Estimate
    brier: Estimate
    brier_km: Estimate
    observed: Estimate
    expected: float
    observed_over_expected: Estimate
    calibration: tuple[CalibrationPoint, ...]
    calibration_reason: str | None
    decision: DecisionMeasures | None
    decision_reason: str | None


class Incidence(_Record):
    """How many patients of a group have come to one of several events by a horizon.

    Attributes
    ----------
    horizon
        In the unit of the table.
    group
        ``all``, or a risk group, ``1`` (lowest) to ``4``: quartiles of the pooled risk, in a validation the model's own groups.
    cause
        Name of the event.
    patients, events
        Of the group; events of the cause by the horizon.
    incidence, low, high
        Aalen-Johansen estimate with its log-log interval: the other events at work. None where the group's follow-up ends before.
    one_minus_km
        1 - Kaplan-Meier with the other events as censorings: what would be if they were abolished; never below the incidence.
    """

    horizon: float
    group: str
    cause: str
    patients: int
    events: int
    incidence: float | None
    low: float | None
    high: float | None
    one_minus_km: float | None


class RowMeasures(_Record):
    """Every measure of one row's out-of-fold predictions.

    Attributes
    ----------
    intervals
        What the intervals are: conditional on the fitted models, so that they leave out how models would differ on other patients.
    tried, tuned
        From how many settings the row was chosen, and how: ``nested`` (inside the training folds), ``paper`` (on the reported
        folds: optimistic), or None.
    folds, repeats
        Test parts judged, and dealings of the patients they come from.
    patients, events
        Of one dealing.
    tau
        Last time at which enough patients are at risk within every training part's follow-up; None where there is none.
    beyond_tau
        Patients whose own time is tau or later: their outcome from then on judges neither `uno_c` nor `ibs`.
    uno_c
        Uno's c up to tau, mean over test parts; higher is better.
    uno_c_of_folds
        Of each test part, in their order; None where it has no comparable pair.
    pooled_c
        Harrell's c of all patients by standardised out-of-fold risk, with its bootstrap interval over persons.
    resamples, redrawn
        Of that bootstrap; those without a comparable pair were drawn again. None where there is no interval.
    horizons
        Those asked for that can be judged.
    horizons_left_out
        The others, and why.
    mean_auc
        AUCs of the horizons, each weighted by the fall of survival since the one before.
    ibs, ibs_km, ibs_scaled
        Integrated Brier score of the model, of the training part's Kaplan-Meier curve, and 1 - ibs/ibs_km: 0 is no better than
        the curve, 1 is perfect.
    ibs_start, ibs_end
        Interval that they are averages over; None where there is none.
    calibration_slope
        Cox coefficient of the log-risk within test parts: 1 is right, below 1 risks spread too far.
    d_calibration
        Whether survival probabilities come true as often as they say; with several repeats the mean chi-squared and its p.
    beyond_training
        Test patients, over all repeats, followed longer than their training part: censored at its end for D-calibration.
    subgroups
        Harrell's c of the pooled risk within the levels of each covariate.
    centres
        The same within each centre, and over pairs of one centre; None where no centres were declared.
    groups_reason
        Why subgroups and centres are empty.
    incidence
        Of each event at each horizon, by quartile of pooled risk; empty without competing events.
    """

    intervals: Conditional = CONDITIONAL
    tried: int = 1
    tuned: Literal["nested", "paper"] | None = None
    folds: int
    repeats: int
    patients: int
    events: int
    tau: float | None
    beyond_tau: int | None
    uno_c: Estimate
    uno_c_of_folds: tuple[float | None, ...]
    pooled_c: Estimate
    resamples: int | None
    redrawn: int | None
    horizons: tuple[HorizonMeasures, ...]
    horizons_left_out: tuple[LeftOutTime, ...]
    mean_auc: Estimate
    ibs: Estimate
    ibs_km: Estimate
    ibs_scaled: Estimate
    ibs_start: float | None
    ibs_end: float | None
    calibration_slope: Estimate
    d_calibration: DCalibration
    beyond_training: int
    subgroups: dict[str, tuple[GroupC, ...]]
    centres: GroupedC | None
    groups_reason: str | None
    incidence: tuple[Incidence, ...] = ()
