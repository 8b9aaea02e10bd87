"""Puts robustness into one HTML page that needs no network; computes no figure."""

from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader

from trainer.report.page import kept_figures, page_environment
from trainer.robustness.figures import draw_robustness
from trainer.robustness.results import Agreement, CIndexChange, FoldsTest, Robustness, Spread
from trainer.run_folder import REPORT, RunFolder


def write_page(found: Robustness, url: str) -> str:
    """Write the page and its figures in place of those of earlier calls; gives the page's address."""
    folder = RunFolder.open(url)
    shown = kept_figures(draw_robustness(found), folder)
    page = _environment().get_template("robustness.html.jinja").render(found=found, figures=shown)
    folder.replace(REPORT, page)
    return f"{folder.url}/{REPORT}"


def spread_text(found: Spread | None) -> str:
    """Median with quartiles; a dash where there is none."""
    return "–" if found is None else f"{found.median:.3f} [{found.lower:.3f} to {found.upper:.3f}]"


def agreement_text(found: Agreement) -> str:
    """ICC with its interval, or a dash."""
    if found.value is None or found.low is None or found.high is None:
        return "–"
    return f"{found.value:.3f} [{found.low:.3f} to {found.high:.3f}]"


def change_text(found: CIndexChange | FoldsTest) -> str:
    """Change of c with its interval, where there is one, or a dash."""
    if found.change is None:
        return "–"
    if found.low is None or found.high is None:
        return f"{found.change:+.3f}"
    return f"{found.change:+.3f} [{found.low:+.3f} to {found.high:+.3f}]"


def number_text(value: float | None) -> str:
    """Three digits, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def _environment() -> Environment:
    environment = page_environment()
    assert environment.loader is not None
    own = FileSystemLoader(Path(__file__).parent)
    environment.loader = ChoiceLoader([own, environment.loader])
    environment.filters |= {"spread": spread_text, "agreement": agreement_text}
    environment.filters |= {"change": change_text, "number": number_text}
    return environment
