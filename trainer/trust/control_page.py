"""Puts controls and ablation into one HTML page that needs no network; computes no figure."""

from trainer.report.page import kept_figures
from trainer.run_folder import REPORT, RunFolder
from trainer.trust.control_figures import FAMILIES, draw_controls
from trainer.trust.control_results import ControlRow, Controls
from trainer.trust.pages import environment
from trainer.trust.readings import chance_reading


def write_control_page(found: Controls, folder: RunFolder) -> str:
    """Write the page and its figures, over older ones; gives the page's address."""
    figures = kept_figures(draw_controls(found), folder)
    page = (
        environment()
        .get_template("controls.html.jinja")
        .render(found=found, figures=figures, families=FAMILIES, readings=_readings(found))
    )
    folder.replace(REPORT, page)
    return f"{folder.url}/{REPORT}"


def _readings(found: Controls) -> list[tuple[str, str]]:
    """What each contrast shows, in words; of a constant image also what it tells by itself."""
    told = []
    for row, contrast in found.of("controls"):
        alone = _by_itself(row) if row.role == "constant" else ""
        told.append((row.label, f"{contrast.reading} {alone}".strip()))
    if found.permuted is not None:
        told.append(("permuted outcomes", found.permuted.reading))
    return told


def _by_itself(row: ControlRow) -> str:
    return chance_reading(row.label, row.low, row.high, tuned=row.tuned, tried=row.tried)
