"""Tells how many patients of each risk quartile come to each of several events; knows nothing of models or runs."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool

from trainer.kaplan_meier import kaplan_meier
from trainer.measures.competing import cumulative_incidence
from trainer.measures.predictions import PooledPatients
from trainer.measures.row_measures import Incidence


def incidences(
    patients: PooledPatients, *, horizons: Sequence[float], confidence: float = 0.95
) -> tuple[Incidence, ...]:
    """Cumulative incidence of each event at each horizon, of all patients and of their risk groups.

    Groups are those that were fixed beforehand, or the quartiles of the pooled risk.

    Empty where no competing events are declared. Rows of one person count as independent.

    References
    ----------
    Aalen and Johansen 1978; protocol section 5 (Aalen-Johansen beside Kaplan-Meier).
    """
    if patients.cause is None:
        return ()
    return tuple(
        found
        for group, members in _groups(patients)
        for found in _of_group(patients, group, members, horizons, confidence)
    )


def _groups(patients: PooledPatients) -> Iterator[tuple[str, Bool[np.ndarray, " patient"]]]:
    yield "all", np.ones(len(patients.time), dtype=bool)
    group, risk = patients.group, patients.risk
    if group is None and risk is not None:
        group = 1 + np.searchsorted(np.quantile(risk, [0.25, 0.5, 0.75]), risk, side="left")
    for number in () if group is None else np.unique(group).tolist():
        yield str(number), group == number


def _of_group(
    patients: PooledPatients,
    group: str,
    members: Bool[np.ndarray, " patient"],
    horizons: Sequence[float],
    confidence: float,
) -> Iterator[Incidence]:
    assert patients.cause is not None
    time, cause = patients.time[members], patients.cause[members]
    codes = range(1, 1 + len(patients.causes))
    curves = cumulative_incidence(time=time, cause=cause, causes=codes, confidence=confidence) if cause.any() else None
    alone = {code: kaplan_meier(time, cause == code) for code in codes}
    for horizon in horizons:
        step = int(np.searchsorted(np.unique(time), horizon, side="right")) - 1
        # where the last of all had an event, nobody is left whose fate is open
        followed = bool(time.max() >= horizon or (cause[time == time.max()] > 0).all())
        for place, code in enumerate(codes):
            value = low = high = 0.0 if followed else None
            if followed and curves is not None and step >= 0:
                value, low, high = (float(of[place, step]) for of in (curves.incidence, curves.low, curves.high))
            yield Incidence(
                horizon=horizon,
                group=group,
                cause=patients.causes[place],
                patients=int(members.sum()),
                events=int(((cause == code) & (time <= horizon)).sum()),
                incidence=value,
                low=low if value else None,
                high=high if value else None,
                one_minus_km=1 - float(alone[code].survival_at(np.array([horizon]))[0]) if followed else None,
            )
