"""The bones of an occlusion entry: every label map of the row is read, decides the entry, and says what it does not know."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from extractor.config import ExtractConfig
from extractor.occlusion_bones import read_bones
from extractor.occlusion_study import OcclusionStudy
from extractor.phantom import write_cohort
from extractor.table import read_study_table
from extractor.volumes import Grid, write_image
from store_schema import EntryKey
from store_schema.errors import MaskError

KEY = EntryKey("P001", "CT", "tumour")
GRID = Grid((8, 8, 10), (0.0, 0.0, 0.0), (4.0, 4.0, 5.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """A table whose region is a mask, with a label map that no region is derived from."""
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, n=1, seed=5, processes=0)
    label_map = nibabel.load(folder / "images/P001_label_map.nii.gz")
    mask = nibabel.Nifti1Image((np.asarray(label_map.dataobj) > 0).astype(np.uint8), label_map.affine)
    nibabel.save(mask, folder / "mask.nii.gz")
    nibabel.save(label_map, folder / "labels.nii.gz")
    (folder / "masks.csv").write_text(
        "patient,ct,tumour,label_map\nP001,images/P001_ct.nii.gz,mask.nii.gz,labels.nii.gz\n"
    )
    return folder


def read(cohort: Path) -> OcclusionStudy:
    config = ExtractConfig(model="mini", weights="random:0", modalities=("CT",), layouts=("pooled",))
    (row,) = read_study_table(cohort / "masks.csv", config, every_map=True)
    return OcclusionStudy.read(row, [KEY], config)


def test_a_label_map_that_no_region_is_derived_from_is_read_and_decides_the_entry(cohort):
    config = ExtractConfig(model="mini", weights="random:0", modalities=("CT",), layouts=("pooled",))
    product, before = config.memories["pooled"], read(cohort)
    assert before.bones is not None
    assert before.bones.known == ("label_map",)
    assert before.bones.missing == ()
    assert before.bones.covered_zyx.all()
    assert {source.role for source in before.sources[KEY]} == {"CT", "mask:tumour", "label_map"}
    labels = nibabel.load(cohort / "labels.nii.gz")
    corrected = np.asarray(labels.dataobj).copy()
    bone = next(iter(np.unique(corrected[corrected > 0])))
    corrected[tuple(np.argwhere(corrected == bone)[0])] = 0
    nibabel.save(nibabel.Nifti1Image(corrected, labels.affine), cohort / "labels.nii.gz")
    after = read(cohort)
    assert after.digest(KEY, product, "v") != before.digest(KEY, product, "v")
    assert after.input_sha256(KEY, product, "v") == before.input_sha256(KEY, product, "v")
    assert read(cohort).digest(KEY, product, "v") == after.digest(KEY, product, "v")


def labels(folder: Path, name: str, values, grid: Grid = GRID) -> str:
    array = np.zeros(grid.size_xyz[::-1], np.uint16)
    for place, value in enumerate(values):
        array[2 * place : 2 * place + 2, 2:5, 2:5] = value
    write_image(array, grid, folder / name)
    return str(folder / name)


def test_parts_without_a_file_and_the_end_of_a_map_are_told(tmp_path):
    short = Grid((8, 8, 6), GRID.origin_xyz_mm, GRID.spacing_xyz_mm, GRID.direction)
    found = read_bones({"vertebrae": labels(tmp_path, "v.nii.gz", (20, 19), short)}, "moose_3", GRID)
    assert found is not None
    assert (found.known, found.missing) == (
        ("label_map_vertebrae",),
        ("label_map_ribs", "label_map_peripheral_bones"),
    )
    assert found.covered_zyx[:6].all()
    assert not found.covered_zyx[6:].any()
    assert {found.names[int(one)] for one in np.unique(found.labels_zyx) if one} == {"vertebra_L1", "vertebra_T12"}
    ribs = read_bones(
        {"vertebrae": str(tmp_path / "v.nii.gz"), "ribs": labels(tmp_path, "r.nii.gz", (0, 0, 3))}, "moose_3", GRID
    )
    assert ribs is not None
    assert ribs.sha256 != found.sha256
    assert "rib_left_3" in {ribs.names[int(one)] for one in np.unique(ribs.labels_zyx) if one}


def test_none_is_none_and_another_set_is_refused(tmp_path):
    assert read_bones({}, "totalsegmentator", GRID) is None
    with pytest.raises(MaskError, match=r"o\.nii\.gz: the label_map has no vertebra"):
        read_bones({"": labels(tmp_path, "o.nii.gz", (3, 4))}, "totalsegmentator", GRID)
