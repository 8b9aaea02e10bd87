"""Makes the label maps of a study table with MOOSE, and the table that names them; knows no region."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from extractor.config import ExtractConfig
from extractor.label_sets import map_column
from extractor.moose import LABEL_SET, find_moose, segment
from extractor.study_folders import Folders, StudyMade, work_through
from extractor.table import read_study_table, with_columns
from store_schema.files import Place

TABLE = "studies.csv"


def segment_studies(
    table: Place, out: Path, *, parts: Sequence[str], program: str | None, console: Console
) -> list[StudyMade]:
    """Label maps of every study in OUT/PATIENT, and OUT/studies.csv: the table with their columns, empty where a study failed.

    Raises
    ------
    UsageError
        If the table is wrong, or there is no MOOSE.
    """
    rows = read_study_table(table, ExtractConfig(modalities=("CT",)), need_regions=False)
    found = find_moose(program)
    settings = {"label_set": LABEL_SET, "parts": list(parts), "program": found}
    folders = Folders(out, "segment", settings, partial(segment, program=found, parts=tuple(parts)))
    # One at a time: each takes the whole machine, or the GPU.
    studies = work_through(rows, folders, jobs=1, console=console)
    cells = {map_column(part): [_cell(study, part) for study in studies] for part in parts}
    part_file = out / f".{TABLE}.part"
    with_columns(table, cells).to_csv(part_file, index=False)
    part_file.replace(out / TABLE)
    return studies


def _cell(study: StudyMade, part: str) -> str:
    return "" if study.state == "failed" else f"{study.patient}/{study.facts['label_maps'][part]}"
