"""Makes HTML from templates, everything put into them escaped, and keeps the style sheet; knows no request."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
SHORT = 12
"""Hex digits that tell ids of one table apart for the eye."""


def rendered(name: str, **values: Any) -> str:
    """A template filled in."""
    return _environment().get_template(name).render(values)


@cache
def style() -> tuple[bytes, str]:
    """The style sheet, and a digest that changes with it, so that browsers may keep it for good."""
    data = (HERE / "style.css").read_bytes()
    return data, hashlib.sha256(data).hexdigest()[:16]


def size_text(size_bytes: float) -> str:
    """A size as people read it."""
    for unit in UNITS:
        if size_bytes < 1000 or unit == UNITS[-1]:
            break
        size_bytes /= 1024
    if unit == "bytes":
        return f"{size_bytes:.0f} byte{'' if size_bytes == 1 else 's'}"
    return f"{size_bytes:.{0 if size_bytes >= 10 else 1}f} {unit}"


def moment_of(value: datetime | str | None) -> datetime | None:
    """A moment in UTC; None where the text is none: writers of records may put anything there."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if value is None:
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def short(text: str) -> str:
    """The beginning of a digest or id that is too long for a table."""
    return text if len(text) <= SHORT + 4 else f"{text[:SHORT]}…"


def plural(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def number_text(value: float | None, digits: int = 3) -> str:
    """A number with so many digits after the point; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def path_part(text: str) -> str:
    """One segment of a path, whatever it holds."""
    return quote(text, safe="")


def sentence(text: str) -> str:
    """What an error says, as a sentence of its own; one that begins with an id stays as it is."""
    return text[:1].upper() + text[1:] if text.partition(" ")[0].isalpha() else text


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size_text, "moment": moment_of, "short": short, "number": number_text}
    environment.filters |= {"part": path_part, "sentence": sentence}
    environment.globals |= {"plural": plural, "style_digest": lambda: style()[1], "engram": version("engram")}
    return environment
