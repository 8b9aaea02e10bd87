"""Turns the tasks' results of a run into the rows of its table; knows no store, cluster or file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from store_schema.errors import CohortError, TaskError
from trainer.cohort import Cohort
from trainer.config import RunConfig
from trainer.leaks import chance_band, leak_warnings
from trainer.metrics import harrell_c
from trainer.results import Failure, FoldScore, RiskGroups, Row, RunResults, TaskResult, of_model
from trainer.risk_groups import RiskQuartiles, risk_quartiles
from trainer.splits import Splits
from trainer.stats import corrected_t, mean_se, permutation_p, t_against_half

LEAST_PERMUTATIONS = 19
"""Fewer cannot reach p = 0.05."""


@dataclass(frozen=True)
class Judgement:
    """All that the figures of a run follow from."""

    config: RunConfig
    cohort: Cohort
    splits: Splits
    results: Sequence[TaskResult]
    oracle: Mapping[str, Float[np.ndarray, " patient"]]
    """Log-risks that are known from simulation, by column, in the order of the cohort."""

    def permuted_cohort(self, permutation: int) -> Cohort:
        """Cohort with the outcomes of a permutation; 0 leaves them as they are."""
        control = self.config.permuted_control
        if not permutation or control is None:
            return self.cohort
        return self.cohort.permuted([control.seed, permutation])

    @property
    def permutations(self) -> range:
        """Numbers of the permutations."""
        control = self.config.permuted_control
        return range(1, 1 + (0 if control is None else control.repeats))


def summarise(judgement: Judgement, *, task_ids: Sequence[str], failures: Sequence[Failure]) -> RunResults:
    """Rows, tests and warnings of a run.

    A row of which a task failed has no mean and no test: folds that fail are not missing at random.
    """
    config = judgement.config
    controls = () if config.permuted_control is None else config.permuted_control.models
    rows = [
        *(_model_row(judgement, model.name) for model in config.models),
        *(_permuted_row(judgement, name) for name in controls),
        *(_oracle_row(judgement, column) for column in judgement.oracle),
    ]
    band = chance_band(_test_parts(judgement), permutations=len(judgement.permutations)) if controls else 0.0
    return RunResults(
        complete=not failures,
        rows=tuple(rows),
        warnings=leak_warnings(rows, dict.fromkeys(controls, band)),
        failures=tuple(failures),
        task_ids=tuple(task_ids),
    )


def pooled_risks(results: Sequence[TaskResult]) -> dict[str, float]:
    """Standardised out-of-fold risk of each patient, averaged over repeats; empty where one is not defined."""
    found: dict[str, list[float]] = {}
    for result in results:
        for patient, z in zip(result.patients, result.z, strict=True):
            if z is None:
                return {}
            found.setdefault(patient, []).append(z)
    return {patient: float(np.mean(values)) for patient, values in sorted(found.items())}


def quartiles_of(results: Sequence[TaskResult], cohort: Cohort) -> RiskQuartiles:
    """Outer quartiles of a model's out-of-fold risks (Fig. 4).

    Raises
    ------
    CohortError
        If the risks have no outer quartiles, or these no event.
    TaskError
        If a fold's model tells nobody apart.
    """
    pooled = pooled_risks(results)
    if not pooled:
        raise TaskError("a fold's model gives all its training patients one risk: risks of folds cannot be pooled")
    rows = cohort.rows(pooled)
    return risk_quartiles(np.array(list(pooled.values())), time=cohort.time[rows], event=cohort.event[rows])


def _model_row(judgement: Judgement, name: str) -> Row:
    scores = _scores(judgement, name, 0)
    values = _all_values(scores)
    permuted = [_mean(judgement, name, number) for number in judgement.permutations]
    enough = len(permuted) >= LEAST_PERMUTATIONS and None not in permuted
    found = None
    if values and enough:
        found = permutation_p(float(np.mean(values)), [value for value in permuted if value is not None])
    groups, note = _risk_groups(judgement, name) if values else (None, "a task failed")
    pooled = _pooled_c(judgement, name) if values else None
    tests = _tests(scores, folds=judgement.splits.folds)
    return Row(
        label=name,
        kind="model",
        model=name,
        **tests,
        permutation_p=found,
        pooled_c=pooled,
        risk_groups=groups,
        risk_groups_note=note,
    )


def _permuted_row(judgement: Judgement, name: str) -> Row:
    """Of one permutation the folds stand side by side, of several the permutations' means."""
    if len(judgement.permutations) == 1:
        scores, folds = _scores(judgement, name, 1), judgement.splits.folds
    else:
        means = ((number, _mean(judgement, name, number)) for number in judgement.permutations)
        scores, folds = tuple(FoldScore(fold=number, repeat=0, c=c) for number, c in means), None
    tests = _tests(scores, folds=folds)
    return Row(label=f"{name} (permuted)", kind="permuted", model=name, **tests, permutation_p=None, pooled_c=None)


def _oracle_row(judgement: Judgement, column: str) -> Row:
    cohort, risk = judgement.cohort, judgement.oracle[column]
    scores = []
    for fold in judgement.splits.outer():
        rows = cohort.rows(fold.test)
        c = harrell_c(risk=risk[rows], time=cohort.time[rows], event=cohort.event[rows]).c
        scores.append(FoldScore(fold=fold.index, repeat=fold.repeat, c=c))
    tests = _tests(tuple(scores), folds=judgement.splits.folds)
    pooled = harrell_c(risk=risk, time=cohort.time, event=cohort.event).c
    label = f"oracle {column}"
    return Row(label=label, kind="oracle", model=column, **tests, permutation_p=None, pooled_c=pooled)


def _scores(judgement: Judgement, name: str, permutation: int) -> tuple[FoldScore, ...]:
    found = {result.fold: result.c for result in of_model(judgement.results, name, permutation)}
    folds, total = judgement.splits.folds, len(judgement.splits)
    return tuple(FoldScore(fold=fold, repeat=fold // folds, c=found.get(fold)) for fold in range(total))


def _all_values(scores: Sequence[FoldScore]) -> list[float]:
    """Every fold's c; none where one is missing."""
    values = [score.c for score in scores if score.c is not None]
    return values if len(values) == len(scores) else []


def _mean(judgement: Judgement, name: str, permutation: int) -> float | None:
    values = _all_values(_scores(judgement, name, permutation))
    return float(np.mean(values)) if values else None


def _tests(scores: tuple[FoldScore, ...], *, folds: int | None) -> dict[str, object]:
    """Mean, standard error and t-tests; `folds` is the number that one dealing has, None where scores are not folds."""
    values = _all_values(scores)
    if not values:
        names = ("mean", "se", "t", "df", "p_one_sided", "p_two_sided", "corrected_p_one_sided")
        return {"scores": scores, **dict.fromkeys(names)}
    mean, test = mean_se(values), t_against_half(values)
    corrected = None if folds is None else corrected_t(values, null=0.5, test_to_train=1 / (folds - 1))
    return {
        "scores": scores,
        "mean": mean.mean,
        "se": mean.se,
        "t": test.t,
        "df": test.df,
        "p_one_sided": test.p_one_sided,
        "p_two_sided": test.p_two_sided,
        "corrected_p_one_sided": None if corrected is None else corrected.p_one_sided,
    }


def _pooled_c(judgement: Judgement, name: str) -> float | None:
    pooled = pooled_risks(of_model(judgement.results, name))
    if not pooled:
        return None
    rows = judgement.cohort.rows(pooled)
    risk = np.array(list(pooled.values()))
    return harrell_c(risk=risk, time=judgement.cohort.time[rows], event=judgement.cohort.event[rows]).c


def _risk_groups(judgement: Judgement, name: str) -> tuple[RiskGroups | None, str | None]:
    try:
        found = quartiles_of(of_model(judgement.results, name), judgement.cohort)
    except (CohortError, TaskError) as error:
        return None, str(error)
    low, high = found.low_risk, found.high_risk
    groups = RiskGroups(
        cuts=found.cuts,
        low_patients=int((found.quartile == 0).sum()),
        low_events=int(low.events.sum()),
        high_patients=int((found.quartile == 3).sum()),
        high_events=int(high.events.sum()),
        low_median=low.median,
        high_median=high.median,
        chi_squared=found.log_rank.statistic,
        nominal_p=found.log_rank.p,
        permutation_p=_groups_permutation_p(judgement, name, found.log_rank.statistic),
    )
    return groups, None


def _groups_permutation_p(judgement: Judgement, name: str, observed: float) -> float | None:
    """Share of permutations whose own outer quartiles differ as much; None where they are too few or one failed."""
    if len(judgement.permutations) < LEAST_PERMUTATIONS:
        return None
    statistics = []
    for number in judgement.permutations:
        results = of_model(judgement.results, name, number)
        if len(results) < len(judgement.splits):
            return None
        try:
            statistics.append(quartiles_of(results, judgement.permuted_cohort(number)).log_rank.statistic)
        except (CohortError, TaskError):
            # no outer quartiles to compare: as far from a difference as a permutation can be
            statistics.append(0.0)
    return permutation_p(observed, statistics)


def _test_parts(judgement: Judgement) -> list[tuple[np.ndarray, np.ndarray]]:
    cohort = judgement.cohort
    rows = [cohort.rows(fold.test) for fold in judgement.splits.outer()]
    return [(cohort.time[part], cohort.event[part]) for part in rows]
