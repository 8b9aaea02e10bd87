"""Prints a run's results for a person; computes nothing."""

from rich.console import Console
from rich.table import Table

from trainer.results import Row, RunResults
from trainer.run import CvReport

CAPTION = (
    "c: Harrell's c of the test part, 0.5 is chance; mean ± SE over folds. p: t-test against 0.5 as in the paper, one- and "
    "two-sided; corrected: one-sided, allowing for the training patients that folds share (Nadeau and Bengio); permutation: "
    "only from 19 permutations on."
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
    console.print(
        f"tasks    {done} of {report.tasks} done, {report.resumed} of them before; results in {report.folder.url}"
    )


def print_results(results: RunResults, console: Console) -> None:
    """Table of rows, then failures and warnings."""
    table = Table(title="Harrell's c in cross-validation", caption=CAPTION, caption_justify="left")
    for name in ("model", "c, mean ± SE", "folds", "p one-sided", "p two-sided", "p corrected", "p permutation"):
        table.add_column(name, justify="left" if name in ("model", "folds") else "right", overflow="fold")
    for row in results.rows:
        table.add_row(row.label, mean_text(row), *_cells(row))
    console.print(table)
    for failure in results.failures:
        console.print(f"failed: {failure.label}: {failure.reason}", markup=False, soft_wrap=True)
    for warning in results.warnings:
        console.print(f"LEAK WARNING: {warning}.", markup=False, soft_wrap=True)


def mean_text(row: Row) -> str:
    """Mean and standard error with three decimals."""
    if row.mean is None:
        return "incomplete"
    return f"{row.mean:.3f}" + ("" if row.se is None else f" ± {row.se:.3f}")


def p_text(p: float | None) -> str:
    """Probability for a table; a dash where it was not computed."""
    if p is None:
        return "–"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def scores_text(row: Row, most: int = 10) -> str:
    """Fold by fold, or how many there are where they are too many for a line."""
    if len(row.scores) > most:
        values = [score.c for score in row.scores if score.c is not None]
        span = f"{min(values):.3f} to {max(values):.3f}" if values else "none done"
        return f"{len(row.scores)} scores, {span}"
    return " ".join("failed" if score.c is None else f"{score.c:.3f}" for score in row.scores)


def _cells(row: Row) -> tuple[str, ...]:
    tests = (row.p_one_sided, row.p_two_sided, row.corrected_p_one_sided, row.permutation_p)
    return (scores_text(row), *map(p_text, tests))
