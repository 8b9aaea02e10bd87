"""Maps of patches by brute force; NIfTI held against SimpleITK; pictures: which way is up, and what has no colour."""

import re

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from store_schema.errors import SchemaError
from trainer.image_grid import ImageGrid
from trainer.nifti import nifti_bytes
from trainer.report import overlay_figure
from trainer.report.overlay_figure import Overlay, draw_overlay
from trainer.sensitivity_map import largest_slice, strongest_along, voxel_map

SHAPE = (7, 6, 5)
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@st.composite
def boxes(draw):
    ends = [sorted(draw(st.lists(st.integers(0, size), min_size=2, max_size=2, unique=True))) for size in SHAPE]
    return tuple(end for pair in ends for end in pair)


@given(st.lists(st.tuples(boxes(), st.floats(-5, 5)), max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_voxel_has_the_mean_of_the_patches_over_it_and_nothing_outside(patches):
    found = voxel_map([box for box, _ in patches], np.array([score for _, score in patches]), SHAPE)
    for z, y, x in np.ndindex(SHAPE):
        over = [s for (z0, z1, y0, y1, x0, x1), s in patches if z0 <= z < z1 and y0 <= y < y1 and x0 <= x < x1]
        if over:
            assert found[z, y, x] == pytest.approx(np.mean(over), abs=1e-6)
        else:
            assert np.isnan(found[z, y, x])


def test_a_projection_keeps_the_sign_of_what_is_strongest_and_leaves_empty_lines_empty():
    array = np.full((2, 2, 2), np.nan)
    array[0, 0, 0], array[1, 0, 0], array[0, 1, 1] = 1.0, -2.0, 0.5
    np.testing.assert_array_equal(strongest_along(array, 0), [[-2.0, np.nan], [np.nan, 0.5]])
    np.testing.assert_array_equal(strongest_along(array, 2), [[1.0, 0.5], [-2.0, np.nan]])


def test_the_largest_slice_is_the_one_with_most_of_the_region():
    mask = np.zeros(SHAPE, np.uint8)
    mask[2, 1:4, 3] = mask[4, 1, 1:3] = mask[2, 2, 2] = 1
    assert [largest_slice(mask, axis) for axis in range(3)] == [2, 1, 3]


def rotation(degrees):
    """Small turns about all three axes, as scanners record them."""
    a, b, c = np.radians(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return tuple((x @ y @ z).ravel().tolist())


@pytest.mark.parametrize("direction", [IDENTITY, rotation((4, -7, 11))])
def test_simpleitk_finds_every_voxel_of_a_map_where_the_image_has_it(tmp_path, direction):
    grid = ImageGrid(
        size_xyz=(5, 6, 7), origin_xyz_mm=(-180.5, 33.25, -990.0), spacing_xyz_mm=(1.5, 2.0, 3.25), direction=direction
    )
    image = SimpleITK.GetImageFromArray(np.zeros(grid.shape_zyx, np.uint8))
    image.SetOrigin(grid.origin_xyz_mm)
    image.SetSpacing(grid.spacing_xyz_mm)
    image.SetDirection(grid.direction)
    values = np.random.default_rng(0).normal(size=grid.shape_zyx).astype(np.float32)
    values[0, 1, 2] = np.nan
    (tmp_path / "map.nii.gz").write_bytes(nifti_bytes(values, grid, told="change of log-risk"))
    read = SimpleITK.ReadImage(str(tmp_path / "map.nii.gz"))
    # ITK reads NaN as 0
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(read), np.nan_to_num(values))
    kept = nibabel.load(tmp_path / "map.nii.gz").get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(kept.transpose(2, 1, 0), values)
    for place in ((0, 0, 0), (4, 0, 0), (0, 5, 0), (0, 0, 6), (3, 2, 5)):
        expected = image.TransformIndexToPhysicalPoint(place)
        assert read.TransformIndexToPhysicalPoint(place) == pytest.approx(expected, abs=1e-3)
    assert read.GetMetaData("descrip") == "change of log-risk"
    assert nifti_bytes(values, grid, told="change of log-risk") == (tmp_path / "map.nii.gz").read_bytes()


@pytest.mark.parametrize(
    "direction", [(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)]
)
def test_a_grid_that_does_not_run_left_posterior_superior_is_refused(direction):
    told = {"size_xyz": SHAPE, "origin_xyz_mm": (0, 0, 0), "spacing_xyz_mm": (1, 1, 1), "direction": direction}
    with pytest.raises(SchemaError, match="expected left, posterior and superior"):
        ImageGrid.of({"grid": told}, where="P001")
    with pytest.raises(SchemaError, match="is no grid"):
        ImageGrid.of({}, where="P001")


@pytest.fixture
def overlay():
    """A mark at the patient's left, anterior and superior; spacings of 2, 3 and 4 mm."""
    size = (10, 12, 14)
    grid = ImageGrid(size_xyz=size, origin_xyz_mm=(0, 0, 0), spacing_xyz_mm=(2, 3, 4), direction=IDENTITY)
    values = np.full(grid.shape_zyx, np.nan, np.float32)
    values[4:10, 4:8, 3:7] = 0.0
    values[9, 4, 6] = -1.5
    mask = np.zeros(grid.shape_zyx, np.uint8)
    mask[4:10, 4:8, 3:7] = 1
    mask[9, 3:9, 2:8] = mask[5:10, 4, 2:8] = mask[4:10, 3:8, 6] = 1
    return Overlay(values, mask, np.zeros(grid.shape_zyx, np.uint8), (1, 1, 1), grid, "PET")


def test_pictures_have_superior_up_the_patients_left_on_the_right_and_true_proportions(overlay):
    panels = [*overlay_figure._slices(overlay), *overlay_figure._projections(overlay)]
    assert [panel.letters for panel in panels[:3]] == [("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I")]
    x, y, z = 6, 4, 14 - 1 - 9
    for panel, place in zip(panels, ((y, x), (z, x), (z, y)) * 2, strict=True):
        strongest = np.unravel_index(np.nanargmax(np.abs(panel.delta)), panel.delta.shape)
        assert strongest == place, panel.title
        assert panel.delta.shape == panel.grey.shape == panel.region.shape
    assert [panel.size_mm for panel in panels[:3]] == [(20, 36), (20, 56), (36, 56)]


def test_colours_are_symmetric_about_zero_and_absent_where_there_is_no_patch(overlay):
    norm = overlay_figure.Normalize(-2, 2)
    colours = overlay_figure._coloured(np.array([[np.nan, 0.0, 2.0, -2.0]]), norm)[0]
    assert colours[:, 3].tolist() == pytest.approx([0.0, 0.25, 0.9, 0.9])
    red, blue = colours[2, :3], colours[3, :3]
    assert red[0] > 2 * red[2]
    assert blue[2] > 2 * blue[0]
    assert np.ptp(colours[1, :3]) < 0.02


def test_a_drawing_says_its_range_and_place_and_is_the_same_when_drawn_again(overlay):
    drawn = draw_overlay("P001-PET-spine", overlay, who="P001", region="spine")
    assert "Changes from -1.5 to +0 log-hazard; the greatest at voxel z 9, y 4, x 6." in drawn.svg
    assert drawn.svg == draw_overlay("P001-PET-spine", overlay, who="P001", region="spine").svg
    assert len(re.findall("<image", drawn.svg)) == 2 * 6 + 1
    assert "log-hazard" in drawn.svg
