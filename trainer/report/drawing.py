"""Holds a figure with what is said about it, and draws one in the report's looks; knows nothing of what is drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainer.report.svg import bare_figure, styled, to_svg


@dataclass(frozen=True)
class Drawn:
    """A figure with what is said about it."""

    name: str
    """Of its file and its ids."""
    caption: str
    svg: str


def draw(name: str, caption: str, description: str, size: tuple[float, float], paint: Callable[[Any], None]) -> Drawn:
    """The figure that `paint` puts on an empty one of this size in inches."""
    with styled(name):
        figure = bare_figure(*size)
        paint(figure)
        return Drawn(name, caption, to_svg(figure, name=name, title=caption, description=description))
