"""Makes pages that need no network: templates, and the look in light and dark that they share; knows no study and no store."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": _share, "address": quote}
    return environment


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def template(name: str) -> Template:
    """A template of the extractor by its file's name; whatever is put into it is escaped."""
    return _environment().get_template(name)
