"""Writes controls as JSON and CSV; computes nothing."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from trainer.run_folder import RunFolder
from trainer.trust.control_results import CONTROLS_CSV, CONTROLS_JSON, ControlContrast, ControlRow, Controls

ROW = ("label", "role", "view", "mode", "layout", "head", "mean", "se", "low", "high", "tuned", "tried")
CONTRAST = ("family", "mean", "low", "high", "se", "t", "df", "p", "p_holm", "verdict")
COLUMNS = (
    "row",
    *(f"c_{name}" if name in ("mean", "se", "low", "high") else name for name in ROW),
    "folds",
    *(name if name in ("family", "verdict") else f"base_minus_row_{name}" for name in CONTRAST),
)


def write_controls(found: Controls, folder: RunFolder) -> None:
    """Write what was found, over older files; the JSON comes last: a folder without it holds no finished controls."""
    folder.replace(CONTROLS_CSV, controls_csv(found))
    folder.replace(CONTROLS_JSON, found.to_json())


def controls_csv(found: Controls) -> str:
    """One line a row: its own c, and what the base has over it; empty where there is nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_lines(found))
    return text.getvalue()


def _lines(found: Controls) -> Iterator[list[Any]]:
    contrasts = {contrast.name: contrast for contrast in found.contrasts}
    for row in found.rows:
        yield [*_row(row), *_contrast(contrasts.get(row.name))]
    if found.permuted is not None:
        own = {"row": f"{found.base.name} (permuted)", "role": "permuted", "c_mean": found.permuted.mean}
        yield [{**own, "c_se": found.permuted.se}.get(name) for name in COLUMNS]


def _row(row: ControlRow) -> list[Any]:
    scores = " ".join("failed" if c is None else repr(c) for c in row.scores)
    return [row.name, *(getattr(row, name) for name in ROW), scores]


def _contrast(found: ControlContrast | None) -> list[Any]:
    return [None if found is None else getattr(found, name) for name in CONTRAST]
