"""The demo's thresholds on many cohorts: `make soak` prints the table that tests/benchmarks/RESULTS.md holds.

ENGRAM_CALIBRATION_SEEDS sets how many seeds (default 20); the output stays in soak-out/ and a rerun resumes.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "soak-out" / "calibration"
PERMUTATIONS = 5


def demo_of(seed: int, run) -> dict[str, float | None]:
    """Mean c by row label of the demo of one seed, with five permuted controls; only the modality its models read."""
    folder = FOLDER / f"seed-{seed:02d}"
    if not (folder / "studies.csv").exists():
        run("extractor", "phantom", "--out", str(folder), "--patients", "120", "--seed", str(seed))
    extract = yaml.safe_load((folder / "extract.yaml").read_text()) | {"modalities": ["PET"]}
    (folder / "extract-pet.yaml").write_text(yaml.safe_dump(extract))
    settings = yaml.safe_load((folder / "cv.yaml").read_text())
    settings["permuted_control"]["repeats"] = PERMUTATIONS
    (folder / "cv-five.yaml").write_text(yaml.safe_dump(settings))
    store = str(folder / "store")
    config = ["--config", str(folder / "extract-pet.yaml"), "--weights", "random:0"]
    run("extractor", "run", str(folder / "studies.csv"), "--store", store, *config)
    inputs = ["--clinical", str(folder / "clinical.csv"), "--config", str(folder / "cv-five.yaml")]
    inputs += ["--oracle", str(folder / "truth.csv")]
    run("trainer", "cv", "--store", store, *inputs, "--out", str(folder / "run"))
    results = json.loads((folder / "run" / "results.json").read_text())
    return {row["label"]: row["mean"] for row in results["rows"]}


@pytest.mark.soak
def test_the_thresholds_hold_on_the_calibration_seeds(run):
    seeds = range(int(os.environ.get("ENGRAM_CALIBRATION_SEEDS", "20")))
    rows = []
    for seed in seeds:
        c = demo_of(seed, run)
        permuted = next(value for label, value in c.items() if "permuted" in label)
        rows.append(
            [c["oracle log_hazard"], c["clinical-cox"], c["clinical-deepsurv"], c["image"], c["both"], permuted]
        )
        print("| " + " | ".join([str(seed), *(f"{value:.3f}" for value in rows[-1])]) + " |", flush=True)
    table = np.array(rows, dtype=float)
    oracle, cox, deepsurv, image, both, permuted = table.T
    print("| mean | " + " | ".join(f"{value:.3f}" for value in table.mean(axis=0)) + " |")
    assert (oracle > image).all()
    assert (image >= 0.62).all()
    assert (image >= permuted + 0.08).all()
    assert ((permuted >= 0.43) & (permuted <= 0.57)).all()
    assert both.mean() > max(cox.mean(), deepsurv.mean())
