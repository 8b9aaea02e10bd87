"""Turns the tasks' results of a run into the rows of its table; knows no store, cluster or file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from store_schema.errors import CohortError, TaskError
from trainer.candidates import search_table
from trainer.cohort import Cohort
from trainer.config import RunConfig
from trainer.contrasts import all_contrasts
from trainer.leaks import chance_band, kin_warnings, leak_warnings
from trainer.metrics import harrell_c
from trainer.model_config import RidgeCoxModel
from trainer.results import ChosenSetting, ContrastResult, Failure, FoldScore, Optimism, RiskGroups, Row, RunResults
from trainer.risk_groups import RiskQuartiles, risk_quartiles
from trainer.selection import Line
from trainer.splits import Splits
from trainer.stats import CHANCE, corrected_t, mean_se, permutation_p, t_against_half
from trainer.table_one import table_one
from trainer.task_results import JobResult

TESTS = ("mean", "se", "t", "df", "p_one_sided", "p_two_sided", "corrected_p_one_sided")
"""Figures of a row that follow from its scores."""
LEAST_PERMUTATIONS = 19
"""Fewer cannot reach p = 0.05."""


@dataclass(frozen=True)
class Judgement:
    """All that the figures of a run follow from."""

    config: RunConfig
    cohort: Cohort
    splits: Splits
    lines: Sequence[Line]
    """Rows, as their settings were chosen."""
    outer: Sequence[JobResult]
    """Every fit that judged an outer test part, of settings that no row uses too."""
    oracle: Mapping[str, Float[np.ndarray, " patient"]]
    """Log-risks that are known from simulation, by column, in the order of the cohort."""

    @cached_property
    def results(self) -> tuple[JobResult, ...]:
        """Results of every row under its label, in the order of the rows."""
        return tuple(result for line in self.lines for result in line.of(self.outer))

    def permuted_cohort(self, permutation: int) -> Cohort:
        """Cohort with the outcomes of a permutation; 0 leaves them as they are."""
        control = self.config.control
        if not permutation or control is None:
            return self.cohort
        return self.cohort.permuted([control.seed, permutation], within_centres=self.config.splits.of_centres)

    @cached_property
    def centres_left_out(self) -> tuple[str, ...]:
        """Centre of each test part, where each is one; else empty."""
        cohort = self.cohort
        if cohort.centre is None or not self.config.splits.leave_one_centre_out:
            return ()
        return tuple(cohort.centre[cohort.rows(part[:1])[0]] for part in self.splits.test)

    @cached_property
    def _by_place(self) -> dict[tuple[str, int], tuple[JobResult, ...]]:
        found: dict[tuple[str, int], list[JobResult]] = {}
        for result in self.results:
            found.setdefault((result.model, result.permutation), []).append(result)
        return {place: tuple(results) for place, results in found.items()}

    def of(self, label: str, permutation: int = 0) -> tuple[JobResult, ...]:
        """Results of one row on the outcomes of one permutation, by fold; 0 are the real ones."""
        return self._by_place.get((label, permutation), ())

    @property
    def permutations(self) -> range:
        """Numbers of the permutations."""
        control = self.config.control
        return range(1, 1 + (0 if control is None else control.repeats))


def summarise(
    judgement: Judgement, *, task_ids: Sequence[str], failures: Sequence[Failure], notes: Sequence[str] = ()
) -> RunResults:
    """Rows, tests and warnings of a run.

    A row of which a task failed has no mean and no test: folds that fail are not missing at random.
    """
    config = judgement.config
    named = () if config.control is None else config.control.models
    controls = [line for line in judgement.lines if line.row in named]
    rows = [
        *(_model_row(judgement, line) for line in judgement.lines),
        *(_permuted_row(judgement, line) for line in controls),
        *(_oracle_row(judgement, column) for column in judgement.oracle),
    ]
    asked = config.permuted_control != "auto"
    band = chance_band(_test_parts(judgement), permutations=len(judgement.permutations)) if controls else 0.0
    return RunResults(
        complete=not failures and all(row.mean is not None for row in rows if row.kind != "permuted" or asked),
        rows=tuple(rows),
        contrasts=_contrasts(judgement),
        optimism=_optimism(judgement, rows),
        warnings=(
            *leak_warnings(rows, {line.label: band for line in controls}),
            *kin_warnings(judgement.cohort.person),
        ),
        notes=(*_notes(judgement), *notes),
        failures=tuple(failures),
        task_ids=tuple(task_ids),
        table_one=table_one(judgement.cohort, config.columns.causes, config.preprocessing),
    )


def pooled_risks(results: Sequence[JobResult]) -> dict[str, float]:
    """Standardised out-of-fold risk of each patient, averaged over repeats; empty where one is not defined."""
    found: dict[str, list[float]] = {}
    for result in results:
        for patient, z in zip(result.patients, result.z, strict=True):
            if z is None:
                return {}
            found.setdefault(patient, []).append(z)
    return {patient: float(np.mean(values)) for patient, values in sorted(found.items())}


def quartiles_of(results: Sequence[JobResult], cohort: Cohort) -> RiskQuartiles:
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


def _notes(judgement: Judgement) -> tuple[str, ...]:
    """What else a reader of the figures must know: covariates that some folds could not use."""
    folds: dict[str, set[int]] = {}
    for result in judgement.results:
        for name in (result.preprocessing or {}).get("dropped", ()) if not result.permutation else ():
            folds.setdefault(name, set()).add(result.fold)
    flat = tuple(
        f"{name} has one value in the training part of {len(found)} of {len(judgement.splits)} folds: no model used it there"
        for name, found in sorted(folds.items())
    )
    return (*flat, *_penalty_notes(judgement), *_competing_notes(judgement))


def _competing_notes(judgement: Judgement) -> tuple[str, ...]:
    """What models mean where some patients had another event first."""
    cause = judgement.cohort.cause
    if cause is None:
        return ()
    told = f"{int((cause > 1).sum())} of {len(cause)} had a competing event: models are of the cause-specific hazard"
    return (f"{told}, their survival curves as if such events were abolished; incidences stand under Measures",)


def _penalty_notes(judgement: Judgement) -> tuple[str, ...]:
    """Linear models whose penalty ends at an end of what it was chosen from: a wider choice might be better."""
    found = []
    for model in judgement.config.fitted_models:
        if isinstance(model, RidgeCoxModel) and model.penalty == "inner_cv":
            chosen = [one.penalty for one in judgement.outer if one.model == model.name and not one.permutation]
            ends = sum(penalty in (min(model.penalties), max(model.penalties)) for penalty in chosen)
            if 2 * ends >= len(chosen) > 0:
                found.append(
                    f"the penalty of {model.name} is the least or largest of its `penalties` in {ends} of {len(chosen)} fits: "
                    "name smaller and larger ones"
                )
    return tuple(found)


def _contrasts(judgement: Judgement) -> tuple[ContrastResult, ...]:
    every = {line.label: _all_values(_scores(judgement, line.label, 0)) for line in judgement.lines}
    scores = {label: np.array(values) for label, values in every.items() if values}
    return all_contrasts(judgement.config, judgement.lines, scores, judgement.splits)


def _optimism(judgement: Judgement, rows: Sequence[Row]) -> tuple[Optimism, ...]:
    """By how much the paper's way of tuning exceeds the nested one, for each row that was tuned by both."""
    means = {row.label: row.mean for row in rows if row.kind == "model"}
    found = []
    for row in judgement.config.tuned:
        labels = {line.way: line.label for line in judgement.lines if line.row == row}
        paper, nested = means.get(labels.get("paper", "")), means.get(labels.get("nested", ""))
        if paper is not None and nested is not None:
            tried = judgement.config.tried(row)
            found.append(Optimism(model=row, tried=tried, paper=paper, nested=nested, optimism=paper - nested))
    return tuple(found)


def _chosen(judgement: Judgement, line: Line) -> tuple[ChosenSetting, ...]:
    """What each fold of the real outcomes chose; nothing where there was no choice."""
    if line.way is None:
        return ()
    tables = {
        member: search_table(model, judgement.config.search)
        for member in judgement.config.members[line.row]
        for model in judgement.config.fitted_models
        if model.name == member
    }
    return tuple(
        ChosenSetting(
            fold=fold,
            model=pick.model,
            candidate=pick.candidate,
            score=pick.score,
            settings=tables[pick.model][pick.candidate],
        )
        for (permutation, fold), pick in sorted(line.picks.items())
        if not permutation
    )


def _model_row(judgement: Judgement, line: Line) -> Row:
    name = line.label
    scores = _scores(judgement, name, 0)
    values = _all_values(scores)
    permuted = [_mean(judgement, name, number) for number in judgement.permutations]
    enough = len(permuted) >= LEAST_PERMUTATIONS and None not in permuted
    found = None
    if values and enough:
        found = permutation_p(float(np.mean(values)), [value for value in permuted if value is not None])
    groups, note = _risk_groups(judgement, name) if values else (None, "a task failed")
    pooled = _pooled_c(judgement, name) if values else None
    tests = _tests(scores, judgement.splits)
    return Row(
        label=name,
        kind="model",
        model=name,
        tried=line.tried,
        tuned=line.way,
        chosen=_chosen(judgement, line),
        **tests,
        permutation_p=found,
        pooled_c=pooled,
        risk_groups=groups,
        risk_groups_note=note,
    )


def _permuted_row(judgement: Judgement, line: Line) -> Row:
    """Of one permutation the folds stand side by side, of several the permutations' means; tuned anew in each."""
    name = line.label
    if len(judgement.permutations) == 1:
        tests = _tests(_scores(judgement, name, 1), judgement.splits)
    else:
        means = ((number, _mean(judgement, name, number)) for number in judgement.permutations)
        # cross-validation under the null is not centred on 0.5 to the last digit: no test of the permutations against it
        tests = _tests(tuple(FoldScore(fold=number, repeat=0, c=c) for number, c in means), None)
    return Row(
        label=f"{name} (permuted)",
        kind="permuted",
        model=name,
        tried=line.tried,
        tuned=line.way,
        **tests,
        permutation_p=None,
        pooled_c=None,
    )


def _oracle_row(judgement: Judgement, column: str) -> Row:
    cohort, risk = judgement.cohort, judgement.oracle[column]
    scores = []
    for fold in judgement.splits.outer():
        rows = cohort.rows(fold.test)
        c = harrell_c(risk=risk[rows], time=cohort.time[rows], event=cohort.event[rows]).c
        scores.append(FoldScore(fold=fold.index, repeat=fold.repeat, c=c))
    tests = _tests(tuple(scores), judgement.splits)
    pooled = harrell_c(risk=risk, time=cohort.time, event=cohort.event).c
    label = f"oracle {column}"
    return Row(label=label, kind="oracle", model=column, **tests, permutation_p=None, pooled_c=pooled)


def _scores(judgement: Judgement, name: str, permutation: int) -> tuple[FoldScore, ...]:
    found = {result.fold: result.c for result in judgement.of(name, permutation)}
    folds, total = judgement.splits.folds, len(judgement.splits)
    centre = dict(enumerate(judgement.centres_left_out)) if not permutation else {}
    return tuple(
        FoldScore(fold=fold, repeat=fold // folds, c=found.get(fold), centre=centre.get(fold)) for fold in range(total)
    )


def _all_values(scores: Sequence[FoldScore]) -> list[float]:
    """Every fold's c; none where one is missing."""
    values = [score.c for score in scores if score.c is not None]
    return values if len(values) == len(scores) else []


def _mean(judgement: Judgement, name: str, permutation: int) -> float | None:
    values = _all_values(_scores(judgement, name, permutation))
    return float(np.mean(values)) if values else None


def _tests(scores: tuple[FoldScore, ...], splits: Splits | None) -> dict[str, object]:
    """Mean, standard error and t-tests; `splits` is None where the scores are not folds.

    Folds of several repeats share their patients: the plain test would take them for as many independent values and
    reject a true null in one run of two. Only the corrected test and its standard error are given then.
    """
    values = _all_values(scores)
    found: dict[str, object] = dict.fromkeys(TESTS)
    if not values:
        return {"scores": scores, **found}
    mean = mean_se(values)
    found |= {"mean": mean.mean, "se": mean.se}
    if splits is not None:
        corrected = corrected_t(values, null=CHANCE, test_to_train=splits.test_to_train)
        found["corrected_p_one_sided"] = corrected.p_one_sided
        if splits.repeats > 1:
            found["se"] = corrected.se
        else:
            test = t_against_half(values)
            found |= {"t": test.t, "df": test.df, "p_one_sided": test.p_one_sided, "p_two_sided": test.p_two_sided}
    return {"scores": scores, **found}


def _pooled_c(judgement: Judgement, name: str) -> float | None:
    pooled = pooled_risks(judgement.of(name))
    if not pooled:
        return None
    rows = judgement.cohort.rows(pooled)
    risk = np.array(list(pooled.values()))
    return harrell_c(risk=risk, time=judgement.cohort.time[rows], event=judgement.cohort.event[rows]).c


def _risk_groups(judgement: Judgement, name: str) -> tuple[RiskGroups | None, str | None]:
    try:
        found = quartiles_of(judgement.of(name), judgement.cohort)
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
    """Share of permutations whose own outer quartiles differ as much; None where they are too few or one has none."""
    if len(judgement.permutations) < LEAST_PERMUTATIONS:
        return None
    statistics = []
    for number in judgement.permutations:
        results = judgement.of(name, number)
        if len(results) < len(judgement.splits):
            return None
        try:
            statistics.append(quartiles_of(results, judgement.permuted_cohort(number)).log_rank.statistic)
        except (CohortError, TaskError):
            # a permutation without outer quartiles can be neither nearer nor further: there is no p
            return None
    return permutation_p(observed, statistics)


def _test_parts(judgement: Judgement) -> list[tuple[np.ndarray, np.ndarray]]:
    cohort = judgement.cohort
    # of one repeat: the mean of c over many dealings of the same patients hardly spreads less than over one
    rows = [cohort.rows(fold.test) for fold in judgement.splits.outer() if fold.repeat == 0]
    return [(cohort.time[part], cohort.event[part]) for part in rows]
