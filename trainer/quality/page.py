"""Puts the quality of embeddings into one HTML page that needs no network; computes no figure."""

from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader

from trainer.quality.figures import draw_quality
from trainer.quality.results import Correlation, Extent, PermutationTest, Quality
from trainer.report.page import kept_figures, page_environment
from trainer.run_folder import REPORT, RunFolder
from trainer.wording import p_text

MEANING = {"wrong": "cannot be right", "look": "look at it", "know": "to be known"}


def write_page(found: Quality, url: str) -> str:
    """Write the page and its figures in place of those of earlier calls; gives the page's address."""
    folder = RunFolder.open(url)
    shown = kept_figures(draw_quality(found), folder)
    page = _environment().get_template("quality.html.jinja").render(found=found, figures=shown, meaning=MEANING)
    folder.replace(REPORT, page)
    return f"{folder.url}/{REPORT}"


def extent_text(found: Extent | None, digits: int = 3) -> str:
    """Median with quartiles; a dash where there is none."""
    if found is None:
        return "–"
    return f"{found.median:.{digits}g} [{found.lower:.{digits}g} to {found.upper:.{digits}g}]"


def correlation_text(found: Correlation) -> str:
    """Spearman's with its interval, or a dash."""
    if found.spearman is None or found.low is None or found.high is None:
        return "–"
    return f"{found.spearman:+.2f} [{found.low:+.2f} to {found.high:+.2f}]"


def test_text(found: PermutationTest | None) -> str:
    """ω² and adjusted p, or a dash."""
    return "–" if found is None else f"{found.omega2:.3f} (p {p_text(found.p_holm)})"


def number_text(value: float | None) -> str:
    """Three digits, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def _environment() -> Environment:
    environment = page_environment()
    assert environment.loader is not None
    own = FileSystemLoader(Path(__file__).parent)
    environment.loader = ChoiceLoader([own, environment.loader])
    environment.filters |= {"extent": extent_text, "correlation": correlation_text}
    environment.filters |= {"tested": test_text, "number": number_text}
    return environment
