"""Adds the baseline hazard that turns log-risks into survival curves; knows nothing of what gave the log-risks."""

from typing import Self

import numpy as np
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict

from store_schema.errors import CohortError, TaskError

MOST_LOG_RISK = 700.0
"""Above the centre; the exponential of 710 overflows."""


class BreslowBaseline(BaseModel):
    """Cumulative baseline hazard of a proportional-hazards model, as steps.

    Attributes
    ----------
    time
        Distinct event times of the training part, rising.
    cumulative_hazard
        Hazard summed up to and with each time, for a patient of log-risk `centre`.
    centre
        Mean log-risk of the training part. Hazards are kept for it rather than for log-risk 0, which can lie far from
        every patient and overflow.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: tuple[float, ...]
    cumulative_hazard: tuple[float, ...]
    centre: float

    @classmethod
    def fit(
        cls,
        *,
        risk: Float[np.ndarray, " patient"],
        time: Float[np.ndarray, " patient"],
        event: Bool[np.ndarray, " patient"],
    ) -> Self:
        """Baseline from the log-risks and outcomes of the outer training part.

        Raises
        ------
        CohortError
            If there is no event.
        TaskError
            If a risk is not finite.

        References
        ----------
        Breslow 1974; protocol section 5.
        """
        if not np.asarray(event).any():
            raise CohortError(f"a baseline hazard needs an event, and {len(time)} patients have none")
        if not np.isfinite(risk).all():
            raise TaskError(f"{int((~np.isfinite(risk)).sum())} of {len(risk)} risks are not finite")
        centre = float(np.mean(risk, dtype=np.float64))
        steps, deaths = np.unique(time[event], return_counts=True)
        order = np.argsort(-time, kind="stable")
        summed = np.cumsum(np.exp(np.asarray(risk, dtype=np.float64)[order] - centre))
        at_risk = summed[np.searchsorted(-time[order], -steps, side="right") - 1]
        hazard = np.cumsum(deaths / at_risk)
        return cls(time=tuple(steps.tolist()), cumulative_hazard=tuple(hazard.tolist()), centre=centre)

    def survival(
        self, risk: Float[np.ndarray, " patient"], times: Float[np.ndarray, " time"]
    ) -> Float[np.ndarray, "patient time"]:
        """Probability that each patient is free of the event after each time.

        Parameters
        ----------
        risk
            Log-risks by the model that the baseline belongs to.
        times
            In the unit of the training times. After the last event time the curve keeps its last value.
        """
        return np.exp(-self.hazard(risk, times))

    def hazard(
        self, risk: Float[np.ndarray, " patient"], times: Float[np.ndarray, " time"]
    ) -> Float[np.ndarray, "patient time"]:
        """Cumulative hazard of each patient up to and with each time; arguments as of `survival`."""
        return np.asarray(np.outer(self._relative(risk), self._hazard(times)))

    def survival_each(
        self, risk: Float[np.ndarray, " patient"], time: Float[np.ndarray, " patient"]
    ) -> Float[np.ndarray, " patient"]:
        """Probability that each patient is free of the event after a time of the patient's own; as `survival`."""
        return np.asarray(np.exp(-self._relative(risk) * self._hazard(time)))

    def _relative(self, risk: Float[np.ndarray, " patient"]) -> Float[np.ndarray, " patient"]:
        # beyond it survival is 0 to the last digit; infinity times a hazard of 0 would be no number
        return np.asarray(np.exp(np.minimum(np.asarray(risk, dtype=np.float64) - self.centre, MOST_LOG_RISK)))

    def _hazard(self, times: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
        steps = np.searchsorted(np.asarray(self.time), times, side="right")
        return np.asarray(np.concatenate(([0.0], self.cumulative_hazard))[steps])
