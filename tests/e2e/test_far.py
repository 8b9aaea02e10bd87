"""A signal in the upper third alone: `upfront` + `paper` cannot see it, `pooled` does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from extractor.phantom import write_cohort

EXTRACT = """\
model: mini
mode: upfront
pet_units: suv
modalities: [PET]
derive: [spine_dilated]
layouts: [paper, pooled]
"""
CROSS_VALIDATE = """\
columns: {time: pfs_months, time_unit: months, event: pfs_event}
splits: {folds: 5, repeats: 2}
fit: {epochs: 40, learning_rate: 0.01}
models:
"""
MODEL = """\
  - name: {layout}
    kind: network
    view: mini-untrained-upfront-{layout}
    images: {{modalities: [PET], roi: spine_dilated, pool: {pool}}}
    hidden: []
    dropout: 0
"""


def run(*arguments: str) -> None:
    program, *rest = arguments
    command = [str(Path(sys.executable).parent / program), *rest]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def far_means(folder: Path, *, n: int, seed: int) -> dict[str, float]:
    """Mean c of the two layouts on one `far` cohort."""
    write_cohort(folder, n=n, seed=seed, kind="far")
    (folder / "extract.yaml").write_text(EXTRACT)
    models = "".join(MODEL.format(layout=layout, pool=pool) for layout, pool in (("paper", 4), ("pooled", 1)))
    (folder / "cv.yaml").write_text(CROSS_VALIDATE + models)
    store, clinical, config = str(folder / "store"), str(folder / "clinical.csv"), str(folder / "cv.yaml")
    extract = ["--config", str(folder / "extract.yaml"), "--weights", "random:0"]
    run("extractor", "run", str(folder / "studies.csv"), "--store", store, *extract)
    run("trainer", "cv", "--store", store, "--clinical", clinical, "--config", config, "--out", str(folder / "run"))
    results = json.loads((folder / "run" / "results.json").read_text())
    return {row["label"]: row["mean"] for row in results["rows"]}


@pytest.mark.timeout(1800)
def test_upfront_paper_is_at_chance_where_pooled_finds_the_signal(tmp_path):
    c = far_means(tmp_path, n=120, seed=0)
    assert 0.40 <= c["paper"] <= 0.60, c
    assert c["pooled"] >= 0.60, c
    assert c["pooled"] >= c["paper"] + 0.05, c
