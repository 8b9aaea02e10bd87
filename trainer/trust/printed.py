"""Prints what became of every part, and what would become of it, for a person; computes nothing."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trainer.printed import duration
from trainer.trust.parts import counted
from trainer.trust.trusting import TrustPlan, TrustReport
from trainer.trust_results import PartRecord

PLANNED = "Hours: of fits alone, on one thread, at most; fits stop early."
NOT_TIMED = (
    "The time of all that is no fit is not foreseen: reading entries, scoring perturbed ones and those with patches hidden, "
    "permutations and resamples, UMAP, and drawing. A part without fits takes that time too."
)


def print_trust(report: TrustReport, console: Console) -> None:
    """The key figure of every part, then where the pages are."""
    table = Table(title=f"How far to trust {escape(report.records[0].row)}", caption="In brackets: 95% intervals.")
    for name in ("part", "figure", "value", "what it says"):
        table.add_column(name, justify="right" if name == "value" else "left", overflow="fold")
    for record in report.records:
        table.add_row(escape(record.title), *map(escape, _told(record)))
    console.print(table)
    failed = sum(record.failed for record in report.records)
    told = f"{counted(len(report.records), 'part')}, {len(report.resumed)} of them done before; {failed} failed"
    console.print(f"parts    {told}", markup=False, soft_wrap=True)
    for place in (report.index, report.report):
        console.print(place, markup=False, soft_wrap=True)


def _told(record: PartRecord) -> tuple[str, str, str]:
    if record.status in ("failed", "skipped") or not record.figures:
        return {"failed": "FAILED", "skipped": "left out"}.get(record.status, record.status), "–", record.said
    figure = record.figures[0]
    incomplete = "INCOMPLETE: " if record.status == "incomplete" else ""
    return figure.label, figure.text, f"{incomplete}{figure.reading}"


def print_trust_plan(planned: TrustPlan, console: Console, *, workers: int) -> None:
    """What would be done: fits of the study, then every part with its fits."""
    table = Table(title=f"Planned for {escape(planned.row)}", caption=PLANNED)
    for name in ("part", "state", "what", "fits", "hours"):
        table.add_column(name, justify="right" if name in ("fits", "hours") else "left", overflow="fold")
    state = "to do" if planned.study else "done before"
    rows = [("The study", state, counted(len(planned.study), "row") if planned.study else "", planned.study)]
    rows += [(part.title, part.state, part.said, part.estimates) for part in planned.parts]
    for title, told, said, estimates in rows:
        fits, seconds = sum(one.fits for one in estimates), sum(one.seconds for one in estimates)
        table.add_row(*map(escape, (title, told, said, str(fits), f"{seconds / 3600:.2f}" if fits else "–")))
    console.print(table)
    fits, seconds = sum(one.fits for one in planned.estimates), sum(one.seconds for one in planned.estimates)
    told = f"{fits} fits, about {duration(seconds / workers)} on {workers} worker{'' if workers == 1 else 's'}"
    console.print(told, markup=False, soft_wrap=True)
    console.print(NOT_TIMED, markup=False, soft_wrap=True)
