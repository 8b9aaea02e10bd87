"""The way of an explanation as a user goes it: synthetic cohort, embeddings, a kept model, patches hidden, maps and page."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK

EXTRACT = """
model: mini
weights: "random:0"
pet_units: suv
modalities: [PET]
stride: 6
derive: [spine_dilated]
layouts: [paper]
"""
CV = """
columns: {time: pfs_months, time_unit: months, event: pfs_event, continuous: [age]}
splits: {folds: 2}
fit: {epochs: 10, learning_rate: 0.01, min_epochs: 1, min_validation_events: 1}
permuted_control: null
models:
  - name: image
    kind: network
    view: mini-untrained-sequential-paper
    images: {modalities: [PET], roi: spine_dilated, pool: 4}
    clinical: true
    hidden: []
"""
PATIENTS = ("P001", "P002")


@pytest.fixture(scope="module")
def explained(run, tmp_path_factory) -> Path:
    """Where all of it lies."""
    folder = tmp_path_factory.mktemp("explained")
    run("extractor", "phantom", "--out", str(folder), "--patients", "14", "--seed", "3")
    (folder / "small.yaml").write_text(EXTRACT)
    (folder / "cv.yaml").write_text(CV)
    store, studies = ("--store", str(folder / "store")), str(folder / "studies.csv")
    clinical = ("--clinical", str(folder / "clinical.csv"))
    run("extractor", "run", studies, *store, "--config", str(folder / "small.yaml"))
    settings = ("--config", str(folder / "cv.yaml"), "--out", str(folder / "run"), "--workers", "0")
    run("trainer", "cv", *store, *clinical, *settings)
    run("trainer", "fit", str(folder / "run"), "--model", "image", "--out", str(folder / "model"))
    only = [word for patient in PATIENTS for word in ("--patient", patient)]
    coarse = ("--size-mm", "60", "--stride-mm", "45")
    run("extractor", "occlude", studies, *store, "--config", str(folder / "small.yaml"), *only, *coarse)
    run("trainer", "predict", "--model", str(folder / "model"), *store, *clinical, "--out", str(folder / "scores.csv"))
    run("trainer", "explain", "--model", str(folder / "model"), *store, *clinical, "--out", str(folder / "explained"))
    return folder


def test_risks_are_those_of_predict_and_embeddings_those_of_the_run(explained):
    scores = pd.read_csv(explained / "scores.csv", index_col="patient")
    for patient in PATIENTS:
        record = json.loads((explained / f"explained/patients/{patient}.json").read_text())
        assert record["log_risk"] == pytest.approx(scores["log_risk"][patient], abs=1e-9)
        (image,) = record["images"]
        assert image["baseline_difference"] == 0
        assert any(patch["delta"] for patch in image["patches"])
        assert any(patch["bone"].startswith("vertebrae") for patch in image["patches"])


def test_a_map_lies_on_the_ct_where_its_patches_are(explained):
    table = pd.read_csv(explained / "explained/deltas.csv")
    ct = pd.read_csv(explained / "studies.csv").set_index("patient").loc["P001", "ct"]
    image = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(explained / ct)), "LPS")
    file = explained / "explained/maps/P001/PET/spine_dilated-signed.nii.gz"
    read = SimpleITK.ReadImage(str(file))
    assert read.GetSize() == image.GetSize()
    for place in ((0, 0, 0), tuple(side - 1 for side in image.GetSize())):
        expected = image.TransformIndexToPhysicalPoint(place)
        assert read.TransformIndexToPhysicalPoint(place) == pytest.approx(expected, abs=1e-2)
    values = nibabel.load(file).get_fdata().transpose(2, 1, 0)
    covered = np.zeros(values.shape, dtype=bool)
    for row in table[table["patient"] == "P001"].itertuples():
        covered[row.z_start : row.z_stop, row.y_start : row.y_stop, row.x_start : row.x_stop] = True
    np.testing.assert_array_equal(~np.isnan(values), covered)


def test_the_page_names_both_patients_and_the_encoder_as_untrained(explained):
    page = (explained / "explained/report.html").read_text()
    assert all(f">{patient}</h3>" in page for patient in PATIENTS)
    assert "The encoder of this view is untrained" in page
    assert page.count("<figure") == len(PATIENTS)
