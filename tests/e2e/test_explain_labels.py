"""A real CT with its 117 labels through `extractor occlude` and `trainer explain`: bones by name, maps where the file's voxels are.

The second study is the same CT at another angle, with voxels of three sizes and its axes in another order.
"""

import io
import os
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK
from click.testing import CliRunner
from rich.console import Console

from extractor.cli import main as extractor
from store_schema import Entry, EntryKey, open_store
from trainer.config import parse_config
from trainer.dispatch import Workers
from trainer.explaining import ExplainOptions, explain
from trainer.final import fit_final
from trainer.plan import Inputs
from trainer.predicting import Newcomers
from trainer.run import cross_validate

pytestmark = pytest.mark.real

NAMES = {
    30: "vertebrae_L2", 31: "vertebrae_L1", 32: "vertebrae_T12", 33: "vertebrae_T11",
    **{98 + n: f"rib_left_{7 + n}" for n in range(6)}, **{110 + n: f"rib_right_{7 + n}" for n in range(6)},
}  # fmt: skip
"""Bones of the file as TotalSegmentator's `class_map["total"]` calls them; 117, costal cartilage, is none."""
SETTINGS = """
model: mini
weights: "random:0"
modalities: [CT]
mode: upfront
derive: [skeleton]
layouts: [pooled]
"""
CV = {
    "columns": {"time": "months", "time_unit": "months", "event": "event"},
    "splits": {"folds": 2},
    "fit": {"epochs": 20, "learning_rate": 0.01, "min_epochs": 1, "min_validation_events": 1},
    "permuted_control": None,
    "models": [
        {
            "name": "image",
            "kind": "network",
            "view": "mini-untrained-upfront-pooled",
            "images": {"modalities": ["CT"], "roi": "skeleton"},
            "hidden": [],
            "dropout": 0,
        }
    ],
}
STUDIES, OTHERS = ("AS-IT-IS", "OBLIQUE"), 24


def files(folder: Path) -> Path:
    """The study table, and the files of the oblique study."""
    source = os.environ.get("ENGRAM_REAL_DATA")
    if not source:
        pytest.skip("ENGRAM_REAL_DATA is not set: no real CT with a label map")
    given = {
        role: Path(source, "totalsegmentator", f"example_{name}.nii.gz")
        for role, name in (("ct", "ct_sm"), ("label_map", "seg"))
    }
    rows = [
        {"patient": STUDIES[0], **given},
        {"patient": STUDIES[1], **{role: folder / f"{role}.nii.gz" for role in given}},
    ]
    for role, path in given.items():
        nibabel.save(turned(nibabel.load(path)), folder / f"{role}.nii.gz")
    pd.DataFrame(rows).to_csv(folder / "studies.csv", index=False)
    return folder / "studies.csv"


def turned(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    """Every second row, turned about all axes, and its axes stored as z, x, y with y backwards."""
    array, affine = np.asarray(image.dataobj)[:, ::2], image.affine @ np.diag([1.0, 2.0, 1.0, 1.0])
    a, b, c = np.radians((6.0, -9.0, 13.0))
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turn, order = np.eye(4), np.zeros((4, 4))
    turn[:3, :3] = about_x @ about_y @ about_z
    # columns: where the stored axes z, x, y lie among the array's x, y, z; y runs from its last voxel
    order[[2, 0, 1, 3], [0, 1, 2, 3]] = 1, 1, -1, 1
    order[1, 3] = array.shape[1] - 1
    whole = turn @ affine @ order
    made = nibabel.Nifti1Image(np.ascontiguousarray(array[:, ::-1].transpose(2, 0, 1)), whole)
    made.set_qform(whole, code=1)
    made.set_sform(whole, code=1)
    return made


def extracted(folder: Path, command: str, *more: str) -> str:
    told = [command, str(folder / "studies.csv"), "--store", str(folder / "store"), "--config", str(folder / "e.yaml")]
    result = CliRunner().invoke(extractor, [*told, *more])
    assert result.exit_code == 0, result.output
    return result.stdout


def fitted(folder: Path) -> str:
    """A model of the view, fitted to the study's embedding with something added that drives the hazard."""
    store, rng = open_store(str(folder / "store")), np.random.default_rng(0)
    view = store.resolve_view("mini-untrained-upfront-pooled")
    arrays = store.read(view, EntryKey(STUDIES[0], "CT", "skeleton")).arrays
    pattern, z = rng.normal(size=arrays["memory"].shape), rng.normal(size=OTHERS)
    for number in range(OTHERS):
        memory = arrays["memory"] + 0.05 * z[number] * pattern + 0.02 * rng.normal(size=pattern.shape)
        made = {"memory": memory.astype(np.float16), "mean_map": memory.mean(axis=(0, 1)).astype(np.float32)}
        key = EntryKey(f"O{number:02d}", "CT", "skeleton")
        store.publish(view, key, Entry(made, {"valid_layers": [True]}), input_sha256=f"{number:064x}")
    months = np.ceil(30 * rng.exponential(size=OTHERS) * np.exp(-z))
    table = {"patient": [f"O{number:02d}" for number in range(OTHERS)], "months": months + 1, "event": 1}
    pd.DataFrame(table).to_csv(folder / "clinical.csv", index=False)
    inputs, quiet = Inputs(folder / "clinical.csv", store.url), Console(file=io.StringIO())
    run = cross_validate(parse_config(CV), inputs, out=str(folder / "run"), workers=Workers(number=0), console=quiet)
    return fit_final(run.folder.url, "image", out=str(folder / "model")).url


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where all of it lies."""
    folder = tmp_path_factory.mktemp("labels")
    files(folder)
    (folder / "e.yaml").write_text(SETTINGS)
    extracted(folder, "run", "--jobs", "0")
    size = ("--size-mm", "15", "--stride-mm", "15", "--scratch", str(folder / "scratch"))
    assert extracted(folder, "occlude", *size).count("patches embedded and committed") == 2
    options = ExplainOptions(fitted(folder), Newcomers(str(folder / "store")))
    found = explain(options, out=str(folder / "explained"), told=lambda done, of: None).found
    assert (found.patients, found.failures) == (STUDIES, {})
    return folder


def deltas(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "explained/deltas.csv")


def labels_under(folder: Path, patient: str) -> list[tuple[pd.Series, np.ndarray]]:
    """Each patch of a study, and the labels of its voxels, found in the study's own file by millimetres alone."""
    studies = pd.read_csv(folder / "studies.csv").set_index("patient")
    file = nibabel.load(studies.loc[patient, "label_map"])
    seen = nibabel.load(folder / f"explained/maps/{patient}/CT/skeleton-signed.nii.gz")
    to_file = np.linalg.inv(file.affine) @ seen.affine
    found = []
    for _, row in deltas(folder).query("patient == @patient").iterrows():
        x, y, z = np.mgrid[row.x_start : row.x_stop, row.y_start : row.y_stop, row.z_start : row.z_stop].reshape(3, -1)
        places = (to_file @ np.stack([x, y, z, np.ones_like(x)]))[:3]
        np.testing.assert_allclose(places, places.round(), atol=2e-3)
        found.append((row, np.asarray(file.dataobj)[tuple(places.round().astype(int))]))
    return found


@pytest.mark.parametrize("patient", STUDIES)
def test_each_patch_is_named_by_the_bone_that_the_file_has_there(folder, patient):
    named = set()
    for row, labels in labels_under(folder, patient):
        counts = {name: int((labels == label).sum()) for label, name in NAMES.items()}
        most = max(counts.values())
        if most == 0:
            assert row.bone == "no bone of the label map"
            continue
        assert counts[row.bone] == most
        assert row.bone_share == pytest.approx(most / labels.size)
        named.add(row.bone)
    assert {"vertebrae_L2", "vertebrae_L1", "vertebrae_T12"} < named
    assert len([name for name in named if name.startswith("rib_left")]) >= 2
    assert len([name for name in named if name.startswith("rib_right")]) >= 2


@pytest.mark.parametrize("patient", STUDIES)
def test_left_is_left_and_the_vertebrae_stand_in_their_order(folder, patient):
    table = deltas(folder).query("patient == @patient")
    middle = table.assign(x=(table.x_start + table.x_stop) / 2, z=(table.z_start + table.z_stop) / 2)
    mean = middle.groupby("bone")[["x", "z"]].mean()
    spine = mean.loc[mean.index.str.startswith("vertebrae"), "x"].mean()
    assert (mean.loc[mean.index.str.startswith("rib_left"), "x"] > spine).all()
    assert (mean.loc[mean.index.str.startswith("rib_right"), "x"] < spine).all()
    levels = [name for name in ("vertebrae_L2", "vertebrae_L1", "vertebrae_T12", "vertebrae_T11") if name in mean.index]
    assert mean.loc[levels, "z"].is_monotonic_increasing


@pytest.mark.parametrize("patient", STUDIES)
def test_simpleitk_finds_the_map_where_the_ct_has_its_voxels(folder, patient):
    ct = SimpleITK.ReadImage(pd.read_csv(folder / "studies.csv").set_index("patient").loc[patient, "ct"])
    found = SimpleITK.ReadImage(str(folder / f"explained/maps/{patient}/CT/skeleton-absolute.nii.gz"))
    assert found.GetNumberOfPixels() == ct.GetNumberOfPixels()
    assert sorted(found.GetSpacing()) == pytest.approx(sorted(ct.GetSpacing()), abs=1e-4)
    size = found.GetSize()
    for place in (
        (0, 0, 0),
        (size[0] - 1, 0, 0),
        (0, size[1] - 1, 0),
        (0, 0, size[2] - 1),
        tuple(n // 3 for n in size),
    ):
        index = ct.TransformPhysicalPointToContinuousIndex(found.TransformIndexToPhysicalPoint(place))
        assert index == pytest.approx(np.round(index), abs=2e-3)
        assert all(0 <= round(one) < side for one, side in zip(index, ct.GetSize(), strict=True))


def test_attribution_by_bone_is_the_mean_over_patients_of_their_means(folder):
    found = pd.read_csv(folder / "explained/attribution.csv").set_index("bone")
    table = deltas(folder).query("seen == 'yes'")
    by_patient = {}
    for _, row in table.iterrows():
        by_patient.setdefault(row.bone, {}).setdefault(row.patient, []).append(row.delta)
    assert set(found.index) == set(by_patient)
    assert found["patches"].sum() == len(table)
    for bone, patients in by_patient.items():
        assert found.loc[bone, "patients"] == len(patients)
        assert found.loc[bone, "patches"] == sum(map(len, patients.values()))
        signed = sum(sum(one) / len(one) for one in patients.values()) / len(patients)
        absolute = sum(sum(map(abs, one)) / len(one) for one in patients.values()) / len(patients)
        assert found.loc[bone, "signed"] == pytest.approx(signed, abs=1e-12)
        assert found.loc[bone, "absolute"] == pytest.approx(absolute, abs=1e-12)
    assert (found["absolute"] > 0).any()
