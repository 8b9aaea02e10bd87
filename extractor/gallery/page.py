"""Writes cards as pages that need no network; reads nothing.

A card is written as soon as it is drawn, and a file holds a bounded number of cards: neither the writer nor a browser has to hold
thousands of pictures at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from extractor.gallery.cards import Card, Scale
from extractor.gallery.choose import Chosen
from extractor.pages import template
from extractor.pictures import colour_bar, data_uri
from store_schema import ViewSpec


@dataclass(frozen=True)
class Written:
    """What was written."""

    paths: tuple[Path, ...]
    cards: int
    doubtful: int
    unread: int


def write_pages(
    cards: Iterable[Card], chosen: Chosen, view: ViewSpec, scale: Scale | None, *, out: Path, per_file: int
) -> Written:
    """One file, or several of `per_file` cards: `page.html`, `page-2.html`, …; older ones of these names are written over."""
    paths = paths_of(out, len(chosen.numbers), per_file)
    out.parent.mkdir(parents=True, exist_ok=True)
    left = iter(cards)
    count = doubtful = unread = 0
    for place, path in enumerate(paths):
        head = template("gallery-head.html.jinja").render(
            chosen=chosen,
            view=view,
            scale=scale,
            bar=data_uri(colour_bar(), lossless=True),
            pages=[one.name for one in paths],
            place=place,
            modalities=sorted({key.modality for key in chosen.numbers}),
            rois=sorted({key.roi for key in chosen.numbers}),
        )
        with path.open("w", encoding="utf-8") as file:
            file.write(head)
            for card in _some(left, per_file):
                file.write(template("gallery-card.html.jinja").render(card=card, place=count))
                count, doubtful, unread = count + 1, doubtful + card.doubtful, unread + (card.unread is not None)
            file.write(template("gallery-foot.html.jinja").render(engram=version("engram")))
    return Written(paths, count, doubtful, unread)


def _some(cards: Iterator[Card], count: int) -> Iterator[Card]:
    return islice(cards, count)


def paths_of(out: Path, cards: int, per_file: int) -> tuple[Path, ...]:
    """Names of the files, the first as it was asked for."""
    files = max(1, -(-cards // per_file))
    return (out, *(out.with_name(f"{out.stem}-{number}{out.suffix}") for number in range(2, files + 1)))
