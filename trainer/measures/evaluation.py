"""Takes every measure of one row's out-of-fold predictions; knows nothing of models, runs or reports.

Each repeat is judged by itself and the figures are averaged, since predictions averaged over repeats would be those of
an ensemble that nobody keeps. Ends of intervals are averaged too: repeats of the same patients make them no narrower.
The pooled risk is the exception: it comes averaged over repeats, as a run's pooled c and risk groups take it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from store_schema.errors import CohortError
from trainer.measures.averages import Figure, brier_over, estimated, over_repeats
from trainer.measures.bootstrap import bootstrap_c
from trainer.measures.brier import compared
from trainer.measures.censoring import LEAST_AT_RISK, safe_end, safe_times
from trainer.measures.d_calibration import DCalibration, d_calibration
from trainer.measures.dynamic_auc import mean_auc
from trainer.measures.horizon import HorizonSettings, judge_horizon
from trainer.measures.incidence import incidences
from trainer.measures.predictions import Dealing, JudgedFold, PooledPatients, dealings
from trainer.measures.row_measures import Estimate, HorizonMeasures, RowMeasures
from trainer.measures.slope import calibration_slope
from trainer.measures.subgroups import LEAST_EVENTS, Judged, by_group, by_level, levels_of
from trainer.measures.uno import uno_c
from trainer.metrics import harrell_c

MOST_TIMES = 200
"""Times that an integrated Brier score is averaged over: with more it hardly changes."""
NOT_POOLED = "a fold's model gives all its training patients one risk: risks of folds cannot be pooled"


@dataclass(frozen=True)
class MeasureSettings:
    """What is asked of the measures; the least counts are the protocol's, the rest is ours."""

    least_at_risk: int = LEAST_AT_RISK
    """Patients at risk without whom a horizon is left out."""
    least_events: int = LEAST_EVENTS
    """Events without which a subgroup has no c."""
    groups: int = 5
    """Groups of predicted risk."""
    resamples: int = 1000
    """Of the bootstrap of the pooled c."""
    group_resamples: int = 200
    """Of that of each subgroup's c."""
    confidence: float = 0.95
    """Of every interval but those of subgroups, which are 95%."""
    thresholds: tuple[float, ...] = tuple(step / 100 for step in range(1, 100))
    """Of decision curves."""


def evaluate(
    folds: Sequence[JudgedFold],
    patients: PooledPatients,
    *,
    horizons: Sequence[float],
    seed: int | Sequence[int],
    settings: MeasureSettings | None = None,
) -> RowMeasures:
    """Every measure of one row of a run, each with a reason in place of a number where it cannot be given.

    Uno's c, AUCs and the slope compare patients of one test part only, whose risks have one zero; errors and
    calibration take each patient's survival from the baseline of the own fold.

    Parameters
    ----------
    folds
        Test parts of all repeats.
    patients
        Every patient once, with the risk pooled over folds.
    horizons
        Rising, in the unit of the times.
    seed
        Of the bootstraps.
    settings
        By default `MeasureSettings()`.

    Raises
    ------
    UsageError
        If a repeat does not hold as many patients, or horizons do not rise.

    References
    ----------
    Protocol sections 5 and 6.
    """
    settings = MeasureSettings() if settings is None else settings
    seeds = (seed,) if isinstance(seed, int) else tuple(seed)
    repeats = dealings(folds, patients=len(patients.time))
    censoring = [fold.censoring for fold in folds]
    safe = safe_times(horizons, time=patients.time, censoring=censoring, least_at_risk=settings.least_at_risk)
    at_horizon = HorizonSettings(settings.groups, settings.thresholds, settings.confidence)
    judged = tuple(judge_horizon(repeats, patients, horizon=at, settings=at_horizon) for at in safe.kept)
    return RowMeasures(
        folds=len(folds),
        repeats=len(repeats),
        patients=len(patients.time),
        events=int(patients.event.sum()),
        horizons=judged,
        horizons_left_out=safe.left_out,
        mean_auc=estimated(lambda: _mean_auc(judged, patients)),
        calibration_slope=over_repeats(repeats, lambda repeat: _slope(repeat, settings.confidence)),
        beyond_training=sum(fold.beyond_training for fold in folds),
        d_calibration=_d_calibration(repeats),
        incidence=incidences(patients, horizons=safe.kept, confidence=settings.confidence),
        **_up_to_tau(folds, patients, settings),
        **_pooled(patients, settings, seeds),
        **_groups(patients, settings, seeds),
    )


def _mean_auc(judged: Sequence[HorizonMeasures], patients: PooledPatients) -> Figure:
    known = [horizon.auc.value for horizon in judged if horizon.auc.value is not None]
    if not judged or len(known) < len(judged):
        raise CohortError("a horizon has no AUC" if judged else "no horizon can be judged")
    times = np.array([horizon.horizon for horizon in judged])
    return mean_auc(np.array(known), times=times, time=patients.time, event=patients.event), None, None


def _slope(repeat: Dealing, confidence: float) -> Figure:
    found = calibration_slope(
        risk=repeat.risk, time=repeat.time, event=repeat.event, strata=repeat.fold_of, confidence=confidence
    )
    return found.slope, found.low, found.high


def _d_calibration(repeats: Sequence[Dealing]) -> DCalibration:
    """Means of the bins and of chi-squared over repeats, and the p of that mean: exact for one repeat only."""
    found = []
    for repeat in repeats:
        survival, event = repeat.own_survival()
        found.append(d_calibration(survival_at_own_time=survival, event=event))
    statistic, df = float(np.mean([one.statistic for one in found])), found[0].df
    bins = np.mean([one.bins for one in found], axis=0)
    return DCalibration(bins=tuple(bins.tolist()), statistic=statistic, df=df, p=float(stats.chi2.sf(statistic, df)))


def _up_to_tau(folds: Sequence[JudgedFold], patients: PooledPatients, settings: MeasureSettings) -> dict[str, object]:
    """Uno's c and integrated Brier scores, which end where too few patients are at risk."""
    censoring = [fold.censoring for fold in folds]
    try:
        tau = safe_end(time=patients.time, censoring=censoring, least_at_risk=settings.least_at_risk)
    except CohortError as error:
        none = Estimate(reason=str(error))
        names = ("uno_c", "ibs", "ibs_km", "ibs_scaled")
        empty = dict.fromkeys(("tau", "beyond_tau", "ibs_start", "ibs_end"))
        return dict.fromkeys(names, none) | empty | {"uno_c_of_folds": (None,) * len(folds)}
    uno = [estimated(lambda fold=fold: _uno(fold, tau)) for fold in folds]  # type: ignore[misc]
    reason = next((f"test part {place + 1}: {one.reason}" for place, one in enumerate(uno) if one.reason), None)
    mean = None if reason else float(np.mean([one.value for one in uno if one.value is not None]))
    return {
        "tau": tau,
        "beyond_tau": int((patients.time >= tau).sum()),
        "uno_c": Estimate(value=mean, reason=reason),
        "uno_c_of_folds": tuple(one.value for one in uno),
        **_integrated(folds, _integration_times(patients.time, tau)),
    }


def _uno(fold: JudgedFold, tau: float) -> Figure:
    found = uno_c(risk=fold.risk, time=fold.time, event=fold.event, censoring=fold.censoring, tau=tau)
    return found.c, None, None


def _integrated(folds: Sequence[JudgedFold], times: Float[np.ndarray, " time"]) -> dict[str, object]:
    model, reference = brier_over(folds, times)
    try:
        found = compared(model, reference, times=times)
    except CohortError as error:
        none = Estimate(reason=str(error))
        return {"ibs": none, "ibs_km": none, "ibs_scaled": none, "ibs_start": None, "ibs_end": None}
    perfect = "the Kaplan-Meier curve predicts without error" if found.scaled is None else None
    return {
        "ibs": Estimate(value=found.score),
        "ibs_km": Estimate(value=found.reference),
        "ibs_scaled": Estimate(value=found.scaled, reason=perfect),
        "ibs_start": found.start,
        "ibs_end": found.end,
    }


def _integration_times(time: Float[np.ndarray, " patient"], end: float) -> Float[np.ndarray, " time"]:
    """Patients' own times up to the end, thinned evenly where they are many."""
    own = np.unique(time[time <= end])
    return own[np.unique(np.linspace(0, len(own) - 1, MOST_TIMES).round().astype(np.int64))]


def _pooled(patients: PooledPatients, settings: MeasureSettings, seeds: tuple[int, ...]) -> dict[str, object]:
    risk, time, event = patients.risk, patients.time, patients.event
    if risk is None:
        return {"pooled_c": Estimate(reason=NOT_POOLED), "resamples": None, "redrawn": None}
    try:
        c = harrell_c(risk=risk, time=time, event=event).c
        found = bootstrap_c(
            risk=risk,
            time=time,
            event=event,
            persons=patients.persons,
            seed=[*seeds, 0],
            resamples=settings.resamples,
            confidence=settings.confidence,
        )
    except CohortError as error:
        return {"pooled_c": Estimate(reason=str(error)), "resamples": None, "redrawn": None}
    estimate = Estimate(value=c, low=found.low, high=found.high)
    return {"pooled_c": estimate, "resamples": found.resamples, "redrawn": found.redrawn}


def _groups(patients: PooledPatients, settings: MeasureSettings, seeds: tuple[int, ...]) -> dict[str, object]:
    if patients.risk is None:
        return {"subgroups": {}, "centres": None, "groups_reason": NOT_POOLED}
    judged = Judged(patients.risk, patients.time, patients.event, patients.persons)
    least, resamples = settings.least_events, settings.group_resamples
    subgroups, centres = {}, None
    for name, column in () if patients.covariates is None else patients.covariates.items():
        levels = levels_of(np.asarray(column))
        subgroups[str(name)] = by_level(levels, judged, least_events=least, resamples=resamples, seed=[*seeds, 1])
    if patients.centres is not None:
        centres = by_group(patients.centres, judged, least_events=least, resamples=resamples, seed=[*seeds, 1])
    return {"subgroups": subgroups, "centres": centres, "groups_reason": None}
