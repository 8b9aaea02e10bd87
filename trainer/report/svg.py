"""Turns a matplotlib figure into SVG, alone or for a page in light and dark; knows nothing of what is drawn."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import matplotlib as mpl
from matplotlib.figure import Figure

INK, FAINT, PAPER = "#1b1f24", "#8a929b", "#fefefe"
"""Text and axes; grid and marks of little weight; background."""
SERIES = ("#0a6fb8", "#b9480f", "#0b7a55", "#9b3d84", "#7a6200", "#54606c")
"""Lines and points: told apart by people who see few colours, and never by colour alone."""
VARIABLES = {INK: "--ink", FAINT: "--faint", PAPER: "--paper"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)
}
"""Each colour's name in the page, whose dark scheme gives it another value."""

_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "legend.frameon": False,
}


@contextmanager
def styled(name: str) -> Iterator[None]:
    """Our looks for the figures made and saved in the block; the name makes the ids in them its own."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        yield


def to_svg(figure: Figure, *, name: str, title: str, description: str) -> str:
    """The figure as one SVG element that says in words what it shows; the same figure gives the same text."""
    text = io.StringIO()
    # no date, so that a report written twice is the same
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    name = as_id(name)
    svg = _own_ids(svg, name)
    labels = f"<title id={quoteattr(name + '-title')}>{escape(title)}</title>"
    labels += f"<desc id={quoteattr(name + '-desc')}>{escape(description)}</desc>"
    opening, rest = svg.split(">", 1)
    told = f' role="img" aria-labelledby={quoteattr(f"{name}-title {name}-desc")}>'
    return f"{opening}{told}{labels}{rest}".strip() + "\n"


def as_id(name: str) -> str:
    """The name as a beginning of ids: names of rows hold spaces and brackets, which end an id in `aria-labelledby` and `url()`."""
    return re.sub(r"[^A-Za-z0-9.-]", lambda found: f"_{ord(found[0]):x}_", name)


def for_page(svg: str) -> str:
    """The same with the page's colours and without a size of its own, so that it follows scheme and width."""
    for colour, variable in VARIABLES.items():
        svg = re.sub(colour, f"var({variable})", svg, flags=re.IGNORECASE)
    opening, rest = svg.split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", opening) + ">" + rest


def _own_ids(svg: str, name: str) -> str:
    """Ids that no other figure of the page has."""
    svg = re.sub(r'\bid="([^"]+)"', lambda found: f'id="{name}-{found[1]}"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", lambda found: f"url(#{name}-{found[1]})", svg)
    return re.sub(r'href="#([^"]+)"', lambda found: f'href="#{name}-{found[1]}"', svg)


def bare_figure(width: float, height: float) -> Any:
    """Figure of this size in inches, laid out by itself; made without pyplot, which keeps figures and looks for a screen."""
    return Figure(figsize=(width, height), layout="constrained")
