"""The settings files that a synthetic cohort comes with; knows no voxel."""

from __future__ import annotations

from pathlib import Path

EXTRACT = """\
# Settings of `extractor run` for the synthetic cohort. Everything here changes the numbers and is part of the view.
model: mini                # the true modules, narrow: for demonstrations; `medsam2` for real work
pet_units: suv             # the images hold SUV by body weight; NIfTI cannot say so itself
derive: [spine_dilated]    # from the label_map column
layouts: [paper]           # one view for each layout
"""

CROSS_VALIDATE = """\
# Settings of `trainer cv` for the synthetic cohort.
columns:
  time: pfs_months
  time_unit: months
  event: pfs_event
  continuous: [age]
  categorical: [riss, sex]
splits: {folds: 5, seed: 0}
fit: {epochs: 40, learning_rate: 0.01}
models:
  - {name: clinical-cox, kind: ridge_cox, penalty: 10}
  - {name: clinical-deepsurv, kind: network, clinical: true, hidden: [16]}
  - name: image
    kind: network
    view: mini-untrained-sequential-paper
    images: {modalities: [PET], roi: spine_dilated, pool: 4}
    hidden: []             # straight from the 128-d embedding to the log-risk
    dropout: 0
  - name: both
    kind: network
    view: mini-untrained-sequential-paper
    images: {modalities: [PET], roi: spine_dilated, pool: 4}
    clinical: true
    hidden: []
    dropout: 0
permuted_control: {models: [image], repeats: 1}
oracle: {columns: [log_hazard, z]}   # from truth.csv (--oracle): nobody can know these of real patients
"""


def write_settings(folder: Path) -> None:
    """Writes `extract.yaml` and `cv.yaml` beside the cohort's tables."""
    (folder / "extract.yaml").write_text(EXTRACT)
    (folder / "cv.yaml").write_text(CROSS_VALIDATE)
