"""Writes the regions of a study table and the page that shows them; knows no region by name."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from extractor.config import ExtractConfig
from extractor.region_page import write_page
from extractor.region_study import region_settings, write_regions
from extractor.study_folders import Folders, StudyMade, work_through
from extractor.table import read_study_table
from store_schema.files import Place


def run_regions(
    table: Place, out: Path, config: ExtractConfig, *, jobs: int, console: Console
) -> tuple[list[StudyMade], Path]:
    """What became of each study, and the page's path.

    Raises
    ------
    UsageError
        If table or settings are wrong; nothing was done.
    """
    rows = read_study_table(table, config)
    settings = region_settings(config.rules())
    folders = Folders(out, "regions", settings, partial(write_regions, rules=config.rules()))
    made = work_through(rows, folders, jobs=jobs, console=console)
    shown = {name: settings[name] for name in ("label_set", "derive", "closing_mm", "dilation_mm", "modalities")}
    return made, write_page(made, out, settings=shown)
