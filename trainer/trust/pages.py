"""Gives the templates of this package's pages; knows no result."""

from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader

from trainer.report.page import page_environment
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
