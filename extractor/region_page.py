"""Puts the regions of a cohort on one page and into one table for a person to look through; reads no image."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from extractor.pages import template
from extractor.study_folders import StudyMade

PAGE, TABLE = "index.html", "regions.csv"
COLUMNS = (
    *("patient", "state", "reason", "roi", "volume_ml", "slices", "outside_pet", "outside_ct", "mask", "picture"),
    "warnings",
)


def write_page(studies: Sequence[StudyMade], out: Path, *, settings: Mapping[str, Any]) -> Path:
    """Writes index.html and regions.csv over older ones, and gives the page's path; failed studies come first on it."""
    failed = [study for study in studies if study.state == "failed"]
    held = [study for study in studies if study.state != "failed"]
    page = template("regions.html.jinja").render(failed=failed, held=held, settings=settings)
    _replace(out / PAGE, page)
    _replace(out / TABLE, _table(studies))
    return out / PAGE


def _table(studies: Sequence[StudyMade]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for study in studies for row in _lines(study))
    return text.getvalue()


def _lines(study: StudyMade) -> Iterator[dict[str, Any]]:
    """A line a region; one line for a study that failed."""
    about = {"patient": study.patient, "state": study.state, "reason": study.reason}
    if study.state == "failed":
        yield about
        return
    for region in study.facts["regions"]:
        roi = region["roi"]
        files = {"mask": f"{study.patient}/{roi}.nii.gz", "picture": f"{study.patient}/{roi}.png"}
        numbers = {name: region[name] for name in ("roi", "slices", "outside_pet", "outside_ct")}
        volume = {"volume_ml": round(region["volume_ml"], 3), "warnings": "; ".join(region["warnings"])}
        yield about | numbers | volume | files


def _replace(path: Path, text: str) -> None:
    """Whole or not at all, for who looks meanwhile."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
