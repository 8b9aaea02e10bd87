"""Takes the measures of predictions by one horizon; knows nothing of models, runs or reports."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from store_schema.errors import CohortError
from trainer.measures.averages import Figure, auc_over, brier_over, estimated, mean_or_none, over_repeats
from trainer.measures.calibration import CalibrationGroup, calibration_groups, observed_expected
from trainer.measures.decision_curve import DecisionCurve, decision_curve
from trainer.measures.observed import observed_risk
from trainer.measures.predictions import Dealing, PooledPatients
from trainer.measures.row_measures import CalibrationPoint, DecisionMeasures, Estimate, HorizonMeasures


@dataclass(frozen=True)
class HorizonSettings:
    """What is asked at each horizon."""

    groups: int
    """Groups of predicted risk."""
    thresholds: tuple[float, ...]
    """Of decision curves."""
    confidence: float
    """Of intervals."""


def judge_horizon(
    repeats: Sequence[Dealing], patients: PooledPatients, *, horizon: float, settings: HorizonSettings
) -> HorizonMeasures:
    """Discrimination, error, calibration and net benefit of predictions by a horizon that can be judged."""
    folds = [fold for repeat in repeats for fold in repeat.folds]
    at = np.array([horizon])
    auc, (brier, brier_km) = float(auc_over(folds, at)[0]), brier_over(folds, at)
    survival = [repeat.survival(at)[:, 0] for repeat in repeats]
    points, why_no_points = _calibration(repeats, survival, horizon, settings)
    decision, why_no_decision = _decision(repeats, survival, horizon, settings)
    return HorizonMeasures(
        horizon=horizon,
        at_risk=int((patients.time >= horizon).sum()),
        events=int((patients.event & (patients.time <= horizon)).sum()),
        auc=Estimate(reason="no test part has both a case and a control") if np.isnan(auc) else Estimate(value=auc),
        brier=Estimate(value=float(brier[0])),
        brier_km=Estimate(value=float(brier_km[0])),
        observed=estimated(lambda: _observed(patients, horizon, settings.confidence)),
        expected=float(np.mean([(1 - one).mean() for one in survival])),
        observed_over_expected=over_repeats(repeats, lambda repeat: _ratio(repeat, horizon, settings.confidence)),
        calibration=points,
        calibration_reason=why_no_points,
        decision=decision,
        decision_reason=why_no_decision,
    )


def _observed(patients: PooledPatients, horizon: float, confidence: float) -> Figure:
    found = observed_risk(time=patients.time, event=patients.event, horizon=horizon, confidence=confidence)
    return found.risk, found.low, found.high


def _ratio(repeat: Dealing, horizon: float, confidence: float) -> Figure:
    found = observed_expected(
        survival=repeat.survival(np.array([horizon]))[:, 0],
        time=repeat.time,
        event=repeat.event,
        horizon=horizon,
        confidence=confidence,
    )
    return found.ratio, found.low, found.high


def _calibration(
    repeats: Sequence[Dealing],
    survival: Sequence[Float[np.ndarray, " patient"]],
    horizon: float,
    settings: HorizonSettings,
) -> tuple[tuple[CalibrationPoint, ...], str | None]:
    groups = [
        calibration_groups(
            survival=predicted,
            time=repeat.time,
            event=repeat.event,
            horizon=horizon,
            groups=settings.groups,
            confidence=settings.confidence,
        )
        for repeat, predicted in zip(repeats, survival, strict=True)
    ]
    if len({len(found) for found in groups}) > 1:
        return (), f"ties in predicted risk leave some repeats fewer than {settings.groups} groups"
    return tuple(_point(same_rank) for same_rank in zip(*groups, strict=True)), None


def _point(groups: Sequence[CalibrationGroup]) -> CalibrationPoint:
    """Mean over repeats, value by value; none where a repeat has none."""
    records = [asdict(group) for group in groups]
    return CalibrationPoint(**{name: mean_or_none([one[name] for one in records]) for name in records[0]})


def _decision(
    repeats: Sequence[Dealing],
    survival: Sequence[Float[np.ndarray, " patient"]],
    horizon: float,
    settings: HorizonSettings,
) -> tuple[DecisionMeasures | None, str | None]:
    try:
        curves = [
            decision_curve(
                survival=predicted,
                time=repeat.time,
                event=repeat.event,
                horizon=horizon,
                thresholds=settings.thresholds,
            )
            for repeat, predicted in zip(repeats, survival, strict=True)
        ]
    except CohortError as error:
        return None, str(error)
    return _mean_curve(curves), None


def _mean_curve(curves: Sequence[DecisionCurve]) -> DecisionMeasures:
    benefit = np.mean([curve.net_benefit for curve in curves], axis=0)
    return DecisionMeasures(
        thresholds=tuple(curves[0].thresholds.tolist()),
        net_benefit=tuple(None if np.isnan(value) else float(value) for value in benefit),
        treat_all=tuple(np.mean([curve.treat_all for curve in curves], axis=0).tolist()),
    )
