"""A signal in the upper third alone: `upfront` + `paper` cannot see it, `pooled` does."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from extractor.phantom import write_cohort

FOLDER = Path(__file__).resolve().parents[2] / "soak-out" / "far"

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


def far_means(folder: Path, run, *, n: int, seed: int) -> dict[str, float]:
    """Mean c of the two layouts on one `far` cohort."""
    if not (folder / "studies.csv").exists():
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
def test_upfront_paper_is_at_chance_where_pooled_finds_the_signal(tmp_path, run):
    c = far_means(tmp_path, run, n=120, seed=0)
    assert 0.40 <= c["paper"] <= 0.60, c
    assert c["pooled"] >= 0.60, c
    assert c["pooled"] >= c["paper"] + 0.05, c


@pytest.mark.soak
def test_the_far_signal_is_found_and_missed_alike_on_many_seeds(run):
    rows = []
    for seed in range(1, 1 + int(os.environ.get("ENGRAM_FAR_SEEDS", "8"))):
        c = far_means(FOLDER / f"seed-{seed:02d}", run, n=120, seed=seed)
        rows.append((c["paper"], c["pooled"]))
        print(f"| {seed} | {c['paper']:.3f} | {c['pooled']:.3f} |", flush=True)
    paper, pooled = np.array(rows).T
    print(f"| mean | {paper.mean():.3f} | {pooled.mean():.3f} |")
    assert 0.45 <= paper.mean() <= 0.55
    assert pooled.mean() >= 0.60
    assert (pooled > paper).mean() >= 0.75
