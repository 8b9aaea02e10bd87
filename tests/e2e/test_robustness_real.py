"""How embeddings and risks hold, by the programs as a user calls them: real patients, and a synthetic cohort with outcomes.

Three patients and two kinds always. `make soak` prints the tables that tests/benchmarks/RESULTS.md holds, leaves its output in
soak-out/robustness and resumes. The encoder is untrained: nothing here is a finding about a trained one. The real patients have no
survival times: months are drawn from a stated hazard on their tumours' uptake, and no c-index of them is told.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk  # noqa: N813 - the usual name
from click.testing import CliRunner

from extractor.cli import main as extractor
from trainer.cli import main as trainer

FOLDER = Path(__file__).resolve().parents[2] / "soak-out" / "robustness"
VIEW = "mini-untrained-sequential-paper"
CONTROLS = (("random_boxes", ()), ("elsewhere", ()), ("constant", ()))
REAL = (
    ("padding", (2, 5, 10)),
    ("jitter", (2, 5)),
    ("dilate", (2, 4)),
    ("erode", (2, 4)),
    ("drop", (0.5,)),
    ("stride", (4,)),
    ("shift_x", (8,)),
    *CONTROLS,
)
FULL = (
    ("padding", (5,)),
    ("jitter", (2,)),
    ("dilate", (4,)),
    ("erode", (4,)),
    ("drop", (0.5,)),
    ("stride", (8,)),
    ("shift_x", (8,)),
    *CONTROLS,
)
SYNTHETIC = (
    ("padding", (4, 16)),
    ("jitter", (4, 8)),
    ("dilate", (4, 8)),
    ("erode", (4,)),
    ("drop", (0.5,)),
    ("stride", (4,)),
    ("shift_x", (8,)),
    *CONTROLS,
)
"""Boxes in multiples of the cohort's pixels of 4 mm."""
PADDING_MM, SHIFT_MM = 5, 8


@pytest.fixture(scope="module")
def robust(load):
    """What runs and tabulates."""
    return load("e2e", "robust_runs")


def settings_of(time: str, event: str, roi: str, *, fit: dict, **model) -> dict:
    """Of a linear risk on the PET's mean map."""
    images = {"modalities": ["PET"], "roi": roi, "pool": 4}
    image = {"name": "image", "kind": "network", "view": VIEW, "images": images, "hidden": [], "dropout": 0}
    return {
        "columns": {"time": time, "time_unit": "months", "event": event},
        "splits": {"folds": 2},
        "permuted_control": None,
        "fit": fit,
        "models": [image | model],
    }


def in_process(program: str, *arguments: str) -> None:
    """A program without a process of its own, which spares its imports."""
    result = CliRunner().invoke({"extractor": extractor, "trainer": trainer}[program], arguments)
    assert result.exit_code == 0, result.output


# Three real patients


@pytest.fixture(scope="module")
def three(robust, tmp_path_factory):
    """Folder of the smallest three, padded and shifted, and what was found."""
    folder = tmp_path_factory.mktemp("three")
    robust.write_studies(robust.real_patients()[:3], folder, model="mini", stride=8)
    robust.extract(in_process, folder, (("padding", (PADDING_MM,)), ("shift_x", (SHIFT_MM,))))
    return folder, robust.judge(in_process, folder)


def entries(robust, folder, kind, modality):
    """Entries of a kind by patient; those of the base where it is none."""
    store = robust.store_of(folder)
    (view,) = (one for one in store.view_ids() if store.view(one).flags.get("perturbation") == kind)
    return {key.patient: store.read(view, key) for key in store.keys(view) if key.modality == modality}


@pytest.mark.real
def test_boxes_of_real_tumours_are_padded_by_whole_pixels_nearest_to_the_mm_asked_for(robust, three):
    folder, _ = three
    padded = entries(robust, folder, "padding", "PET")
    assert len(padded) == 3
    for folder_of_patient in robust.real_patients()[:3]:
        image = sitk.DICOMOrient(sitk.ReadImage(str(folder_of_patient / "MASK_CT.nii.gz")), "LPS")
        mask, told = sitk.GetArrayFromImage(image) != 0, padded[folder_of_patient.name].attributes
        assert told["kept_slices_z"] == np.flatnonzero(mask.any(axis=(1, 2)))[::-1][::8].tolist()
        by = [round(PADDING_MM / mm) for mm in image.GetSpacing()[:2]]
        for z, box in zip(told["kept_slices_z"], told["boxes_xyxy"], strict=True):
            rows, columns = np.nonzero(mask[z])
            low = np.maximum([columns.min() - by[0], rows.min() - by[1]], 0)
            high = np.minimum([columns.max() + by[0], rows.max() + by[1]], np.array(image.GetSize()[:2]) - 1)
            assert box == [*low, *high]


@pytest.mark.real
def test_a_shifted_pet_leaves_the_ct_of_real_patients_as_it_is(robust, three):
    folder, found = three
    (shift,) = robust.of_kind(found, "shift_x")
    assert (robust.icc_of(shift, "CT").lower, robust.moved_of(shift, "CT").upper) == (1.0, 0.0)
    assert robust.moved_of(shift, "PET").lower > 0
    base, moved = (entries(robust, folder, kind, "CT") for kind in (None, "shift_x"))
    for patient, entry in base.items():
        np.testing.assert_array_equal(entry.arrays["memory"], moved[patient].arrays["memory"])


@pytest.mark.real
@pytest.mark.parametrize("modality", ["PET", "CT"])
def test_agreement_on_real_patients_is_that_of_covariances(robust, three, modality):
    folder, found = three
    base, other = (entries(robust, folder, kind, modality) for kind in (None, "padding"))
    first, second = (
        np.stack([one[patient].arrays["mean_map"].ravel() for patient in sorted(one)]).astype(np.float64)
        for one in (base, other)
    )
    each, n = [], len(first)
    for x, y in zip(first.T, second.T, strict=True):
        (xx, xy), (_, yy) = np.cov(x, y)
        each.append(2 * xy / (xx + yy + (x.mean() - y.mean()) ** 2 - (xx + yy - 2 * xy) / n))
    (padding,) = robust.of_kind(found, "padding")
    told = robust.icc_of(padding, modality)
    assert (told.lower, told.median, told.upper) == pytest.approx(tuple(np.quantile(each, [0.25, 0.5, 0.75])), abs=1e-6)
    far = np.linalg.norm(second - first, axis=1) / np.linalg.norm(first, axis=1)
    assert robust.moved_of(padding, modality).median == pytest.approx(np.median(far))


# All of them


@pytest.mark.soak
@pytest.mark.real
def test_24_real_patients_and_a_planted_risk(robust):
    folder, patients = FOLDER / "real", robust.real_patients()
    robust.write_studies(patients, folder, model="mini")
    robust.extract(in_process, folder, REAL)
    outcomes = robust.planted_outcomes(patients)
    outcomes.to_csv(folder / "clinical.csv", index=False)
    print(f"planted: {len(outcomes)} patients, {outcomes['event'].sum()} events")
    fit = {"epochs": 60, "learning_rate": 0.02}
    settings = settings_of("months", "event", "tumour", fit=fit, head="pca", components=4)
    model = robust.fit_image_model(in_process, folder, folder / "clinical.csv", settings)
    found = robust.judge(in_process, folder, "--model", str(model))
    robust.show(found)
    for kind in ("random_boxes", "elsewhere"):
        robust.show_misplaced(folder, kind)
    assert found.entries == 2 * len(patients) == 48
    (constant,), padding = robust.of_kind(found, "constant"), robust.of_kind(found, "padding")
    for modality in ("PET", "CT"):
        assert robust.icc_of(constant, modality).median < robust.icc_of(padding[0], modality).median
        assert robust.moved_of(padding[0], modality).median < robust.moved_of(padding[-1], modality).median
    for view in robust.of_kind(found, "shift_x"):
        assert (robust.icc_of(view, "CT").lower, robust.moved_of(view, "CT").upper) == (1.0, 0.0)


@pytest.mark.soak
@pytest.mark.real
def test_the_full_architecture_on_six_real_patients(robust):
    folder = FOLDER / "full"
    robust.write_studies(robust.real_patients()[:6], folder, model="medsam2", stride=4)
    robust.extract(in_process, folder, FULL)
    found = robust.judge(in_process, folder)
    robust.show(found)
    assert found.entries == 12
    assert all(robust.moved_of(view, "PET").lower > 0 for view in found.views)
    assert all(
        robust.moved_of(view, "CT").lower > 0 for view in found.views if view not in robust.of_kind(found, "shift_x")
    )


# Outcomes


@pytest.mark.soak
def test_the_synthetic_cohort_by_a_model_of_its_other_half(robust, run):
    folder = FOLDER / "synthetic"
    if not (folder / "clinical.csv").exists():
        run("extractor", "phantom", "--out", str(folder), "--patients", "120", "--seed", "0")
    robust.write_settings(folder, model="mini", pet_units="suv", derive=["spine_dilated"], modalities=["PET"])
    for name in ("studies", "clinical"):
        whole = pd.read_csv(folder / f"{name}.csv", dtype=str)
        whole[0::2].to_csv(folder / f"{name}-fitted.csv", index=False)
        whole[1::2].to_csv(folder / f"{name}-judged.csv", index=False)
    robust.extract(in_process, folder, SYNTHETIC, judged="studies-judged.csv")
    fit = {"epochs": 40, "learning_rate": 0.01}
    settings = settings_of("pfs_months", "pfs_event", "spine_dilated", fit=fit)
    model = robust.fit_image_model(in_process, folder, folder / "clinical-fitted.csv", settings)
    judged = ("--model", str(model), "--clinical", str(folder / "clinical-judged.csv"))
    found = robust.judge(in_process, folder, *judged)
    robust.show(found)
    robust.show_misplaced(folder, "random_boxes")
    assert found.model is not None
    assert not found.model.apparent
    c = found.views[0].risk.c
    print(f"c of the base {c.base:.3f}, {found.views[0].risk.patients} patients")
    (constant,), padding = robust.of_kind(found, "constant"), robust.of_kind(found, "padding")
    assert robust.icc_of(padding[0], "PET").median > robust.icc_of(padding[-1], "PET").median
    assert abs(robust.icc_of(constant, "PET").median) < 0.2
    assert c.base > 0.6
    assert constant.risk.c.high < 0
