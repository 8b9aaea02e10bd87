"""Prints a run's results for a person; computes nothing."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trainer.results import Row, RunResults
from trainer.run import CvReport
from trainer.wording import mean_text, p_text, scores_text

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


def print_results(results: RunResults, console: Console) -> None:
    """Table of rows, then failures and warnings."""
    table = Table(title="Harrell's c in cross-validation", caption=CAPTION, caption_justify="left")
    for name in ("model", "c, mean ± SE", "folds", "p one-sided", "p two-sided", "p corrected", "p permutation"):
        table.add_column(name, justify="left" if name in ("model", "folds") else "right", overflow="fold")
    for row in results.rows:
        table.add_row(escape(row.label), mean_text(row), *_cells(row))
    console.print(table)
    for failure in results.failures:
        console.print(f"failed: {failure.label}: {failure.reason}", markup=False, soft_wrap=True)
    for note in results.notes:
        console.print(f"note: {note}.", markup=False, soft_wrap=True)
    for warning in results.warnings:
        console.print(f"LEAK WARNING: {warning}.", markup=False, soft_wrap=True)


def _cells(row: Row) -> tuple[str, ...]:
    tests = (row.p_one_sided, row.p_two_sided, row.corrected_p_one_sided, row.permutation_p)
    return (scores_text(row), *map(p_text, tests))
