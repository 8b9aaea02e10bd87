"""Fits a row of a finished run on its whole cohort, for patients to come; judges nothing: the run has done that."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from store_schema.errors import NotCommittedError, TaskError, UsageError
from trainer.baseline_hazard import BreslowBaseline
from trainer.features import images_of
from trainer.judging import Asked, Trained, train
from trainer.kaplan_meier import median_follow_up
from trainer.metrics import harrell_c
from trainer.model_config import FittedModel
from trainer.part_data import PartData
from trainer.report.reading import FinishedRun, read_run
from trainer.results import Row
from trainer.run_folder import RunFolder
from trainer.saved import Card, JudgedFacts, TrainingFacts, described, write_model
from trainer.selection import Line
from trainer.splits import Fold
from trainer.versions import versions

FINAL_STREAM = 1_000_000
"""Keeps the inner splits of the last fit apart from those of every fold."""


class FinalModel(NamedTuple):
    """A fitted model, and the card that describes it."""

    card: Card
    trained: Trained
    url: str


def fit_final(run_url: str, row: str, *, out: str, store_url: str | None = None) -> FinalModel:
    """Fit a row of a finished run on every patient of its cohort, and write the model.

    A tuned row is fitted with the setting that had the best mean c over all inner folds (nested; with early pruning the one that
    most folds chose), or the one that the run reports (the paper's way).

    Parameters
    ----------
    run_url
        Folder of the run.
    row
        Label of the row.
    out
        Folder of the model; written once.
    store_url
        Where the store lies now, if not where the run found it.

    Raises
    ------
    UsageError
        If the run has no such row.
    ConfigError
        If the row is a reference that is not kept.
    CohortError, TaskError
        If the cohort does not allow the fit, or it diverges.
    StoreError
        If run, store or model cannot be read or written.
    """
    run = read_run(RunFolder.open(run_url))
    line, judged = row_of(run, row)
    model = final_settings(run, line)
    data = _whole(run, model, store_url)
    seed = int(np.random.SeedSequence([run.config.seed, FINAL_STREAM]).generate_state(1)[0])
    (trained,) = train([Asked(model, seed, data)])
    if isinstance(trained, Exception):
        raise trained
    part, weights = described(trained)
    card = card_of(run, judged, model, data, trained).model_copy(update=part)
    return FinalModel(card, trained, write_model(card, weights, out))


def final_settings(run: FinishedRun, line: Line) -> FittedModel:
    """Settings with which a row is fitted at last.

    Of a nested search those with the best mean c over all inner folds of the real outcomes, none that failed in one. With early
    pruning settings have inner folds of their own: those that most outer folds chose, the best mean among equals.

    Raises
    ------
    NotCommittedError
        If no setting has every inner score.
    """
    if line.way != "nested":
        pick = next(iter(line.picks.values()))
        return run.config.candidates[pick.model][pick.candidate]
    scores: dict[tuple[str, int], list[float | None]] = {}
    for task in run.tasks:
        for score in task.inner:
            if score.model in run.config.members[line.row] and not score.permutation:
                scores.setdefault((score.model, score.candidate), []).append(score.c)
    chosen = Counter((pick.model, pick.candidate) for (number, _), pick in line.picks.items() if not number)
    in_play = chosen if run.config.search.keep is not None else scores
    means = {
        place: float(np.mean([c for c in scores[place] if c is not None]))
        for place in in_play
        if None not in scores.get(place, [None])
    }
    if not means:
        raise NotCommittedError(f"no setting of {line.row} has every inner score: run `trainer search` again")
    often = chosen if run.config.search.keep is not None else Counter[tuple[str, int]]()
    name, candidate = max(means, key=lambda place: (often[place], means[place]))
    return run.config.candidates[name][candidate]


def row_of(run: FinishedRun, row: str) -> tuple[Line, Row]:
    """How a row was made, and its figures.

    Raises
    ------
    UsageError
        If the run has no such row, or it is incomplete.
    """
    lines = {line.label: line for line in run.lines}
    if row not in lines:
        raise UsageError(f"the run has no row {row!r}: it has {', '.join(lines)}")
    judged = next(found for found in run.results.of_kind("model") if found.label == row)
    if judged.mean is None:
        raise UsageError(f"row {row!r} is incomplete: run the same command again before a model is made of it")
    return lines[row], judged


def _whole(run: FinishedRun, model: FittedModel, store_url: str | None) -> PartData:
    everybody: Sequence[str] = run.cohort.patients
    images = None
    if model.view is not None:
        snapshot = next(pin["snapshot"] for pin in run.record["snapshots"] if pin["named"] == model.view)
        url = store_url or run.record["store"]["url"]
        images = images_of(model, url, snapshot, run.cohort.patients)
    return PartData.of(
        model,
        cohort=run.cohort,
        fold=Fold(index=FINAL_STREAM, repeat=0, train=tuple(everybody), test=()),
        stream=(FINAL_STREAM,),
        split_seed=run.config.splits.seed,
        rules=run.config.preprocessing,
        images=images,
    )


def card_of(run: FinishedRun, judged: Row, model: FittedModel, data: PartData, trained: Trained) -> Card:
    """What describes a model of a row that was fitted on the training part of its data, up to the model itself.

    Raises
    ------
    TaskError
        If the model tells nobody apart.
    """
    trainers = run.cohort.part(data.fold.train)
    time, event = trainers.time, trainers.event
    risk = trained.predict(data, data.fold.train).log_risk
    if not np.isfinite(risk).all() or np.ptp(risk) == 0:
        raise TaskError("the model's risks are all equal or not finite: it tells nobody apart, and is not kept")
    low, middle, high = np.quantile(risk, (0.25, 0.5, 0.75)).tolist()
    pin = next((pin for pin in run.record["snapshots"] if pin["named"] == model.view), None)
    return Card(
        name=judged.label,
        model=model,
        columns=run.config.columns,
        preprocessing=data.preprocessor,
        view=None if pin is None else pin["view"],
        snapshot=None if pin is None else pin["snapshot"],
        encoder_trained=None if pin is None else pin["trained"],
        time_unit=run.cohort.time_unit,
        baseline=BreslowBaseline.fit(risk=risk, time=time, event=event),
        risk_mean=float(risk.mean()),
        risk_sd=float(risk.std()),
        risk_cuts=(low, middle, high),
        training=TrainingFacts(
            patients=len(set(trainers.person)),
            events=int(event.sum()),
            median_follow_up=median_follow_up(time, event),
            apparent_c=harrell_c(risk=risk, time=time, event=event).c,
            cohort_sha256=run.record["cohort_sha256"],
            cohort_digest=trainers.digest,
            last_follow_up=float(time.max()),
        ),
        judged=_judged_facts(run, judged),
        versions=versions(),
    )


def _judged_facts(run: FinishedRun, judged: Row) -> JudgedFacts:
    slope = run.measures[judged.label].calibration_slope
    return JudgedFacts(
        mean=judged.mean,
        se=judged.se,
        folds=len(judged.scores),
        tuned=judged.tuned,
        tried=judged.tried,
        slope=slope.value,
        slope_low=slope.low,
        slope_high=slope.high,
    )
