"""Prints a run's results for a person; computes nothing."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trainer.config import RunConfig
from trainer.measures.row_measures import HorizonMeasures, Incidence
from trainer.probe import Estimate
from trainer.results import ContrastResult, Row, RunResults
from trainer.run import CvReport
from trainer.saved import Card
from trainer.study_tables import StudyTable, study_tables
from trainer.validation_results import AS_IT_IS, Validation
from trainer.wording import (
    chosen_text,
    contrast_text,
    estimate_text,
    mean_text,
    p_text,
    scores_text,
    slope_text,
    tuning_text,
)

CAPTION = (
    "c: Harrell's c of the test part, 0.5 is chance; mean ± SE over folds. p: t-test against 0.5 as in the paper, one- and "
    "two-sided; corrected: one-sided, allowing for the training patients that folds share (Nadeau and Bengio); with repeated "
    "folds only the corrected p and SE are given. permutation: only from 19 permutations on."
)


def print_run(report: CvReport, console: Console) -> None:
    """What was read: snapshots, cohort, and how much an earlier call had done."""
    plan = report.plan
    for pin in plan.pins:
        untrained = "" if pin.snapshot.view.encoder.trained else "  UNTRAINED encoder: random weights"
        console.print(f"snapshot {pin.snapshot.id}  view {pin.snapshot.view_id}{untrained}", soft_wrap=True)
    for step in plan.cohort.flow[1:]:
        if step.excluded:
            console.print(f"excluded {step.excluded}: {step.reason}", markup=False, soft_wrap=True)
    events, patients = int(plan.cohort.event.sum()), len(plan.cohort)
    console.print(f"cohort   {patients} patients, {events} events; {len(plan.splits[0])} folds")
    done = report.tasks - len(report.results.failures)
    told = f"tasks    {done} of {report.tasks} done, {report.resumed} of them before; results in {report.folder.url}"
    console.print(told, markup=False, soft_wrap=True)


def print_model(card: Card, url: str, console: Console) -> None:
    """What was fitted, on whom, and what cross-validation said of it."""
    facts, judged = card.training, card.judged
    untrained = "" if card.encoder_trained in (None, True) else "  UNTRAINED encoder: random weights"
    console.print(
        f"model    {card.name}, fitted on {facts.patients} patients, {facts.events} events{untrained}", markup=False
    )
    if judged.mean is not None:
        spread = "" if judged.se is None else f" ± {judged.se:.3f}"
        tuned = chosen_text(judged.tried, judged.tuned)
        of = f"{judged.folds} folds, {judged.tried} settings tried{tuned and f'; {tuned}'}"
        told = f"c        {judged.mean:.3f}{spread} in cross-validation ({of})"
        console.print(told, markup=False, soft_wrap=True)
    console.print(
        f"apparent {facts.apparent_c:.3f} on the patients that it was fitted on: no estimate of anything",
        soft_wrap=True,
    )
    if judged.slope is not None:
        told = slope_text(judged.slope, judged.slope_low, judged.slope_high)
        console.print(f"slope    {told}", markup=False, soft_wrap=True)
    console.print(f"written  {url}", markup=False, soft_wrap=True)


def print_validation(found: Validation, url: str, console: Console) -> None:
    """How a frozen model does on another cohort, and what a recalibration would do."""
    frozen, again = found.measures[AS_IT_IS], found.recalibration
    for reason, excluded, _ in found.flow[1:]:
        if excluded:
            console.print(f"excluded {excluded}: {reason}", markup=False, soft_wrap=True)
    chosen = chosen_text(found.developed_tried, found.developed_tuned)
    tuned = chosen and f" ({chosen})"
    developed = (
        "" if found.developed_c is None else f"; {found.developed_c:.3f} in cross-validation where it was made{tuned}"
    )
    ratio = f"{again.observed_over_expected:.2f} [95% {again.low:.2f} to {again.high:.2f}]"
    told = [
        f"cohort   {found.patients} patients, {found.events} events; model of {found.developed_patients} patients",
        f"c        {estimate_text(frozen.pooled_c)}; bootstrap over patients, {frozen.intervals}{developed}",
        f"Uno's c  {estimate_text(frozen.uno_c)}",
        f"slope    {estimate_text(frozen.calibration_slope, 2)}; 1 is right, below it risks spread too far",
        f"events   {ratio} observed over expected; 1 is right",
        *(_horizon_text(at, found.time_unit) for at in frozen.horizons),
        *(_incidence_text(one, found.time_unit) for one in frozen.incidence if one.group == "all"),
        *(f"scaled integrated Brier score {way}: {estimate_text(of.ibs_scaled)}" for way, of in found.measures.items()),
        *(f"not {way}: {reason}" for way, reason in found.without.items()),
        *(f"note: {note}." for note in found.notes),
    ]
    for line in (*told, f"written  {url}/report.html"):
        console.print(line, markup=False, soft_wrap=True)


def _incidence_text(one: Incidence, unit: str) -> str:
    known = "not known" if one.incidence is None else f"{one.incidence:.3f}"
    return f"at {one.horizon:g} {unit}: cumulative incidence of {one.cause} {known}"


def _horizon_text(at: HorizonMeasures, unit: str) -> str:
    pair = f"observed {estimate_text(at.observed)}, expected {at.expected:.3f}"
    return f"at {at.horizon:g} {unit}: AUC {estimate_text(at.auc)}; events {pair}"


def print_estimates(estimates: Sequence[Estimate], console: Console, *, workers: int) -> None:
    """What each model will cost, and all of them on so many workers."""
    table = Table(
        title="Planned fits", caption_justify="left", caption="Seconds a fit: at most, on one thread; fits stop early."
    )
    for name in ("model", "fits", "seconds a fit", "hours"):
        table.add_column(name, justify="left" if name == "model" else "right", overflow="fold")
    for found in estimates:
        table.add_row(escape(found.model), str(found.fits), f"{found.seconds_each:.2f}", f"{found.seconds / 3600:.2f}")
    console.print(table)
    fits, seconds = sum(found.fits for found in estimates), sum(found.seconds for found in estimates)
    console.print(f"{fits} fits, about {duration(seconds / workers)} on {workers} worker{'' if workers == 1 else 's'}")


def duration(seconds: float) -> str:
    """A time in the unit that a person would take."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def print_results(config: RunConfig, results: RunResults, console: Console) -> None:
    """Table of rows, a study's tables, contrasts, then failures and warnings."""
    table = Table(title="Harrell's c in cross-validation", caption=CAPTION, caption_justify="left")
    tuned = ("settings",) if any(row.tuned for row in results.rows) else ()
    tests = ("p one-sided", "p two-sided", "p corrected", "p permutation")
    for name in ("model", "c, mean ± SE", *tuned, "folds", *tests):
        table.add_column(name, justify="left" if name in ("model", "folds", *tuned) else "right", overflow="fold")
    for row in results.rows:
        table.add_row(escape(row.label), mean_text(row), *([tuning_text(row) or "–"] if tuned else []), *_cells(row))
    console.print(table)
    for found in study_tables(config, results):
        _print_study_table(found, console)
    _print_tuning(results, console)
    _print_contrasts(results.contrasts, console)
    for failure in results.failures:
        console.print(f"failed: {failure.label}: {failure.reason}", markup=False, soft_wrap=True)
    for note in results.notes:
        console.print(f"note: {note}.", markup=False, soft_wrap=True)
    for warning in results.warnings:
        console.print(f"LEAK WARNING: {warning}.", markup=False, soft_wrap=True)


def _print_study_table(found: StudyTable, console: Console) -> None:
    table = Table(title=found.title)
    for name in found.columns:
        table.add_column(
            name, justify="right" if name in ("Test c-index", "c-index", "p-value") else "left", overflow="fold"
        )
    for line in found.lines:
        table.add_row(*map(escape, line))
    console.print(table)


def _print_tuning(results: RunResults, console: Console) -> None:
    for row in results.of_kind("model"):
        if row.tuned is not None:
            console.print(f"tuned    {row.label}: {tuning_text(row)}", markup=False, soft_wrap=True)
    for found in results.optimism:
        told = (
            f"{found.paper:.3f} the paper's way − {found.nested:.3f} nested = {found.optimism:+.3f}, "
            f"best of {found.tried} settings"
        )
        console.print(f"optimism {found.model}: {told}", markup=False, soft_wrap=True)


def _print_contrasts(contrasts: Sequence[ContrastResult], console: Console) -> None:
    for found in contrasts:
        console.print(contrast_text(found), markup=False, soft_wrap=True)


def _cells(row: Row) -> tuple[str, ...]:
    tests = (row.p_one_sided, row.p_two_sided, row.corrected_p_one_sided, row.permutation_p)
    return (scores_text(row), *map(p_text, tests))
