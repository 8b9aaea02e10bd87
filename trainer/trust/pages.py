"""Gives the templates of this package's pages, and figures as pages take them; knows no result."""

from collections.abc import Iterable
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader
from markupsafe import Markup

from trainer.report.drawing import Drawn
from trainer.report.page import page_environment
from trainer.report.svg import for_page
from trainer.run_folder import RunFolder
from trainer.wording import chosen_text


def environment() -> Environment:
    """Templates of this package, with what the report's pages share."""
    made = page_environment()
    assert made.loader is not None
    made.loader = ChoiceLoader([FileSystemLoader(Path(__file__).parent), made.loader])
    made.filters |= {"span": span_text, "chosen": lambda row: chosen_text(row.tried, row.tuned)}
    return made


def span_text(ends: tuple[float | None, float | None], form: str = ".3f") -> str:
    """An interval; a dash where there is none."""
    low, high = ends
    return "–" if low is None or high is None else f"{low:{form}} to {high:{form}}"


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
