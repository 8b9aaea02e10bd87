"""Tells whether log-risks spread too far or not far enough; knows nothing of how they were predicted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from store_schema.errors import CohortError, TaskError, UsageError
from trainer.metrics import checked

MOST_STEPS = 100
"""Newton on a concave function of one number takes about six."""
TOLERANCE = 1e-10
"""Step, in standard errors, at which it has arrived."""


@dataclass(frozen=True)
class CalibrationSlope:
    """Cox coefficient of the predicted log-risk among patients that the model was not fitted on."""

    slope: float
    """1 is right; below 1 risks are spread too far, as an overfitted model does; above 1 not far enough."""
    low: float
    """Lower end of Wald's interval."""
    high: float
    """Upper end of Wald's interval."""
    se: float
    """From the information of the partial likelihood."""
    events: int
    """Events by which it was judged."""


def calibration_slope(
    *,
    risk: Float[np.ndarray, " patient"],
    time: Float[np.ndarray, " patient"],
    event: Bool[np.ndarray, " patient"],
    strata: Sequence[object] | Int[np.ndarray, " patient"] | None = None,
    confidence: float = 0.95,
) -> CalibrationSlope:
    """By what a hazard changes for one unit of predicted log-risk: 1 where the prediction is right.

    Unpenalised maximum of the partial likelihood, Efron's for ties. Patients that are rows of one person count as
    independent: the interval is then too narrow.

    Parameters
    ----------
    risk
        Log-risks (natural logarithm of the relative hazard), not standardised.
    time, event
        Outcomes of the same patients.
    strata
        Whose risks have one zero, such as the fold of each patient: only patients of one stratum are compared. By
        default all.
    confidence
        Of the interval.

    Raises
    ------
    CohortError
        If risks do not differ where there are events, or order the events so perfectly that the slope is unbounded.
    UsageError, TaskError
        As in `trainer.metrics.harrell_c`.

    References
    ----------
    Cox 1958; van Houwelingen 2000; Royston and Altman 2013; Efron 1977.
    """
    risk, time, event = checked(risk, time, event)
    label = np.zeros(len(risk)) if strata is None else np.unique(np.asarray(strata), return_inverse=True)[1]
    if len(label) != len(risk):
        raise UsageError(f"expected one stratum per patient, got {len(label)} for {len(risk)}")
    groups = [label == one for one in np.unique(label)]
    spread = _spread([risk[rows] for rows in groups])
    parts = [_Stratum.of(risk[rows] / spread, time[rows], event[rows]) for rows in groups if event[rows].any()]
    _refuse_unbounded(parts)
    slope, information = _maximum(parts)
    se = float(1 / np.sqrt(information)) / spread
    reach = float(stats.norm.ppf((1 + confidence) / 2)) * se
    slope /= spread
    return CalibrationSlope(slope=slope, low=slope - reach, high=slope + reach, se=se, events=int(event.sum()))


@dataclass(frozen=True, eq=False)
class _Stratum:
    """Patients by falling time, so that a risk set is those up to a position."""

    x: Float[np.ndarray, " patient"]
    last: Int[np.ndarray, " step"]
    """Position of the last patient at risk at each event time."""
    died: Int[np.ndarray, " death"]
    """Positions of those with the event."""
    step: Int[np.ndarray, " death"]
    """Event time of each of them."""
    share: Float[np.ndarray, " death"]
    """Efron's share of the events of its time that have left the risk set before it."""

    @classmethod
    def of(
        cls, x: Float[np.ndarray, " patient"], time: Float[np.ndarray, " patient"], event: Bool[np.ndarray, " patient"]
    ) -> "_Stratum":
        order = np.argsort(-time, kind="stable")
        time, event = time[order], event[order]
        steps, counts = np.unique(-time[event], return_counts=True)
        died = np.flatnonzero(event)
        place = np.arange(len(died)) - np.repeat(np.cumsum(counts) - counts, counts)
        return cls(
            # a zero of its own changes nothing, and keeps exponents small
            x=x[order] - x.mean(),
            last=np.searchsorted(-time, steps, side="right") - 1,
            died=died,
            step=np.repeat(np.arange(len(steps)), counts),
            share=place / np.repeat(counts, counts),
        )

    def moments(self, slope: float) -> tuple[float, float, float]:
        """Log partial likelihood, its first derivative, and minus its second."""
        exponent = slope * self.x
        shift = float(exponent.max())
        weight = np.exp(exponent - shift)
        total, first, second = (self._at_risk(weight * self.x**power) for power in (0, 1, 2))
        mean = first / total
        log_likelihood = float(exponent[self.died].sum() - (np.log(total) + shift).sum())
        return log_likelihood, float((self.x[self.died] - mean).sum()), float((second / total - mean**2).sum())

    def _at_risk(self, values: Float[np.ndarray, " patient"]) -> Float[np.ndarray, " death"]:
        dying = np.bincount(self.step, weights=values[self.died], minlength=len(self.last))
        return np.asarray(np.cumsum(values)[self.last][self.step] - self.share * dying[self.step])


def _spread(risks: Sequence[Float[np.ndarray, " patient"]]) -> float:
    """Standard deviation of risks within strata: of about this size a slope's unit is."""
    if all(len(risk) == 0 or np.ptp(risk) == 0 for risk in risks):
        raise CohortError("all predicted risks are equal: there is no calibration slope")
    squares = sum(float(((risk - risk.mean()) ** 2).sum()) for risk in risks)
    return float(np.sqrt(squares / sum(len(risk) for risk in risks)))


def _refuse_unbounded(parts: Sequence[_Stratum]) -> None:
    """Refuse where every event has the highest, or the lowest, risk of all at risk: no finite slope is best."""
    for sign in (1.0, -1.0):
        if all((sign * part.x[part.died] >= _highest(sign * part.x, part)).all() for part in parts):
            raise CohortError(
                f"{sum(len(part.died) for part in parts)} events do not bound the calibration slope: each has the "
                f"{'highest' if sign > 0 else 'lowest'} risk of those at risk"
            )


def _highest(x: Float[np.ndarray, " patient"], part: _Stratum) -> Float[np.ndarray, " death"]:
    return np.asarray(np.maximum.accumulate(x)[part.last][part.step])


def _maximum(parts: Sequence[_Stratum]) -> tuple[float, float]:
    """Where the partial likelihood is highest, and the information there: Newton's steps, halved while they overshoot."""
    slope, (value, gradient, information) = 0.0, _sum(parts, 0.0)
    for _ in range(MOST_STEPS):
        step = gradient / information
        if abs(step) * np.sqrt(information) < TOLERANCE:
            return slope, information
        tried = _sum(parts, slope + step)
        while tried[0] < value - 1e-12 * abs(value) and abs(step) > TOLERANCE:
            step /= 2
            tried = _sum(parts, slope + step)
        slope, (value, gradient, information) = slope + step, tried
    raise TaskError(
        f"the calibration slope was not found in {MOST_STEPS} steps: check the scale of the predicted risks"
    )


def _sum(parts: Sequence[_Stratum], slope: float) -> tuple[float, float, float]:
    moments = [part.moments(slope) for part in parts]
    return tuple(float(sum(column)) for column in zip(*moments, strict=True))  # type: ignore[return-value]
