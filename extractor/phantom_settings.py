"""The settings files that a synthetic cohort comes with; knows no voxel."""

from __future__ import annotations

from pathlib import Path

EXTRACT = """\
# Settings of `extractor run` for the synthetic cohort. Everything here changes the numbers and is part of the view.
model: mini                # the true modules, narrow: for demonstrations; `medsam2` for real work
pet_units: suv             # the images hold SUV by body weight; NIfTI cannot say so itself
derive: [spine_dilated]    # from the label_map column
layouts: [paper, pooled]   # one view each
"""


def write_settings(folder: Path) -> None:
    """Writes `extract.yaml` and `cv.yaml` beside the cohort's tables."""
    (folder / "extract.yaml").write_text(EXTRACT)
