"""Puts a finished run into one HTML page that needs no network; fits nothing and computes no statistic of its own."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from trainer.leaks import SUSPICIOUS_C
from trainer.measures.row_measures import Estimate
from trainer.report.checklists import checklists
from trainer.report.drawing import Drawn
from trainer.report.figures import draw_all
from trainer.report.reading import FinishedRun, read_run
from trainer.report.svg import for_page
from trainer.results import CovariateSummary
from trainer.run_folder import REPORT, RunFolder
from trainer.study_tables import study_tables
from trainer.table_one import table_one
from trainer.trust_results import Trusted, read_trusted
from trainer.wording import mean_text, p_text, scores_text, tuning_text

SECTIONS = {
    "folds": "results",
    "study": "study",
    "quartiles": "risk",
    "incidence": "risk",
    "curves": "fitting",
    "gate": "gates",
    "calibration": "calibration",
    "decision": "calibration",
}
"""Section of the page for each kind of figure, by the first word of its name."""


def write_report(run_url: str) -> str:
    """Write the page and the figures of a finished run, over older ones; gives the page's address.

    Raises
    ------
    NotCommittedError
        If the folder holds no finished run.
    SchemaError
        If a file of the run is not what its name says.
    """
    folder = RunFolder.open(run_url)
    run = read_run(folder)
    return keep_report(folder, run, draw_all(run))


def keep_report(folder: RunFolder, run: FinishedRun, figures: Sequence[Drawn]) -> str:
    """Write the page and these figures of the folder's run, over older ones; gives the page's address."""
    for figure in figures:
        folder.replace(f"figures/{figure.name}.svg", figure.svg)
    folder.replace(REPORT, render(run, figures, trust=read_trusted(folder)))
    return f"{folder.url}/{REPORT}"


def render(
    run: FinishedRun, figures: Sequence[Drawn], *, left_out: Sequence[str] = (), trust: Trusted | None = None
) -> str:
    """HTML of the page; every text of the run is escaped.

    Parameters
    ----------
    left_out
        What a published page lacks, as sentences; a page that has any speaks of the records beside it instead of the run's files.
    trust
        What `trainer trust` found beside the page, which links to its pages; a published page has none of it.
    """
    return (
        page_environment()
        .get_template("report.html.jinja")
        .render(
            run=run,
            record=run.record,
            results=run.results,
            cohort=run.cohort,
            patients=_patients(run),
            figures=_by_section(figures),
            settings=yaml.safe_dump(run.record["config"], sort_keys=False, allow_unicode=True, default_flow_style=None),
            suspicious=SUSPICIOUS_C,
            seconds=run.seconds,
            tables=study_tables(run.config, run.results),
            checklists=checklists(run),
            measures=run.measures,
            left_out=left_out,
            trust=trust,
            tuning={row.label: tuning_text(row) for row in run.results.rows if row.tuned},
        )
    )


def page_environment() -> Environment:
    """Templates of the pages with their filters; what they are given is escaped, and a name that is not given is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"p": p_text, "mean": mean_text, "scores": scores_text}
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    environment.filters |= {"months": _months, "signed": _signed, "estimate": _estimate}
    return environment


def _by_section(figures: Sequence[Drawn]) -> dict[str, list[dict[str, Any]]]:
    sections: dict[str, list[dict[str, Any]]] = {name: [] for name in SECTIONS.values()}
    for figure in figures:
        # our own SVG, whose texts matplotlib and `to_svg` escaped
        shown = {"name": figure.name, "caption": figure.caption, "svg": Markup(for_page(figure.svg))}  # noqa: S704
        sections[SECTIONS[figure.name.split("-")[0]]].append(shown)
    return sections


def _patients(run: FinishedRun) -> list[tuple[str, str, str]]:
    """Lines of table one: what, value, how many are missing."""
    found = table_one(run.cohort, run.config.columns.causes, run.config.preprocessing)
    lines = [
        ("Patients", str(found.patients), ""),
        ("Events", f"{found.events} ({100 * found.events / found.studies:.0f}%)", ""),
        (f"Median follow-up, {found.time_unit} (reverse Kaplan–Meier)", _months(found.median_follow_up), ""),
    ]
    if found.studies > found.patients:
        lines.insert(1, ("Studies", str(found.studies), ""))
    if found.causes:
        counts = ", ".join(f"{name}: {count}" for name, count in found.causes.items())
        lines.append(("First event, the one modelled and those that compete with it", counts, ""))
    lines += map(_covariate, found.covariates)
    if found.covariates:
        each = "–" if found.events_per_parameter is None else f"{found.events_per_parameter:.1f}"
        lines.append((f"Events per parameter ({found.parameters} features of the covariates)", each, ""))
    return lines


def _covariate(found: CovariateSummary) -> tuple[str, str, str]:
    told = f"{found.missing} ({100 * found.missing_share:.0f}%)"
    if found.levels is not None:
        return found.name, ", ".join(f"{level}: {count}" for level, count in found.levels.items()) or "no value", told
    if found.median is None:
        return found.name, "no value", told
    return found.name, f"{found.median:.4g} [{found.lower_quartile:.4g}–{found.upper_quartile:.4g}]", told


def _months(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.1f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _estimate(found: Estimate) -> str:
    """Figure with its interval; a dash where there is none, whose reason stands in measures.csv."""
    if found.value is None:
        return "–"
    return f"{found.value:.3f}" + (
        "" if found.low is None or found.high is None else f" [{found.low:.3f} to {found.high:.3f}]"
    )


def kept_figures(drawn: Iterable[Drawn], folder: RunFolder) -> list[dict[str, str]]:
    """Write figures beside a page in place of those of earlier calls, and give them as the page takes them."""
    shown = []
    for figure in drawn:
        folder.replace(f"figures/{figure.name}.svg", figure.svg)
        # our own SVG, whose texts matplotlib and `to_svg` escaped
        svg = Markup(for_page(figure.svg))  # noqa: S704
        shown.append({"name": figure.name, "caption": figure.caption, "svg": svg})
    folder.prune("figures", {f"figures/{one['name']}.svg" for one in shown}, ending=".svg")
    return shown
