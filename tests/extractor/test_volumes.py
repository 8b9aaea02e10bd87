"""Reading images into one orientation, and what is refused."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.spatial.transform import Rotation

from extractor.volumes import (
    Grid,
    Labels,
    Volume,
    coverage,
    decoded_sha256,
    read_labels,
    read_volume,
    resample_linear,
    resample_nearest,
    write_image,
)
from store_schema.errors import ImageError

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
GRID = Grid((5, 4, 3), (-10.0, 7.0, 30.0), (2.0, 3.0, 4.0), IDENTITY)


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(0, 300, (3, 4, 5)).astype(np.float32)


def point_value(path, xyz_mm):
    """Value at a physical point, asked of SimpleITK itself."""
    image = sitk.ReadImage(str(path))
    return image[image.TransformPhysicalPointToIndex(xyz_mm)]


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LAI", "PIR", "SRA"])
def test_any_orientation_is_read_as_lps_and_no_voxel_moves(tmp_path, values, orientation):
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(GRID.spacing_xyz_mm)
    image.SetOrigin(GRID.origin_xyz_mm)
    turned = sitk.DICOMOrient(image, orientation)
    path = tmp_path / "turned.nrrd"
    sitk.WriteImage(turned, str(path))
    volume = read_volume(str(path))
    assert volume.original_orientation == orientation
    assert np.allclose(np.reshape(volume.grid.direction, (3, 3)), np.eye(3))
    np.testing.assert_array_equal(volume.array_zyx, values)
    origin, spacing = volume.grid.origin_xyz_mm, volume.grid.spacing_xyz_mm
    for z, y, x in [(0, 0, 0), (2, 3, 4), (1, 2, 3)]:
        at = [o + i * s for o, i, s in zip(origin, (x, y, z), spacing, strict=True)]
        assert volume.array_zyx[z, y, x] == point_value(path, at)


def test_stored_z_rises_towards_superior(tmp_path, values):
    image = sitk.GetImageFromArray(values)
    image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, -1))
    sitk.WriteImage(image, str(tmp_path / "down.nrrd"))
    volume = read_volume(str(tmp_path / "down.nrrd"))
    assert volume.original_orientation == "LPI"
    np.testing.assert_array_equal(volume.array_zyx, values[::-1])


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_the_digest_is_of_the_voxels_and_their_place_not_of_the_file(tmp_path, values, name):
    write_image(values, GRID, tmp_path / name)
    volume = read_volume(str(tmp_path / name))
    assert decoded_sha256(volume) == decoded_sha256(Volume(values, GRID, "LPS"))


def tilted(rng):
    """Direction cosines of a body turned by a few degrees about each axis."""
    return tuple(float(value) for value in Rotation.from_euler("zyx", rng.uniform(-0.3, 0.3, 3)).as_matrix().ravel())


@pytest.mark.parametrize("direction", [IDENTITY, (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0), "oblique"])
@pytest.mark.parametrize("decimals", [3, 5, 12])
def test_the_digest_is_the_same_in_every_format_wherever_the_image_lies(tmp_path, values, direction, decimals):
    """NIfTI keeps the geometry in float32, the others in float64."""
    rng = np.random.default_rng(decimals)
    for _ in range(6):
        axes = tilted(rng) if direction == "oblique" else direction
        origin, spacing = rng.uniform(-300, 300, 3).round(decimals), rng.uniform(0.5, 6, 3).round(decimals)
        grid = Grid((5, 4, 3), tuple(origin.tolist()), tuple(spacing.tolist()), axes)
        for name in ("a.nii.gz", "a.nrrd", "a.mha"):
            write_image(values, grid, tmp_path / name)
        assert len({decoded_sha256(read_volume(str(tmp_path / name))) for name in ("a.nii.gz", "a.nrrd", "a.mha")}) == 1


def test_an_oblique_direction_is_kept(tmp_path, values):
    axes = tilted(np.random.default_rng(0))
    write_image(values, Grid(GRID.size_xyz, GRID.origin_xyz_mm, GRID.spacing_xyz_mm, axes), tmp_path / "a.nii.gz")
    volume = read_volume(str(tmp_path / "a.nii.gz"))
    np.testing.assert_allclose(volume.grid.direction, axes, atol=1e-6)
    np.testing.assert_array_equal(volume.array_zyx, values)


def test_axes_that_are_not_perpendicular_are_refused(tmp_path, values):
    image = sitk.GetImageFromArray(values)
    image.SetDirection((1, 0, 0, 0, 1, 0.3, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    with pytest.raises(ImageError, match="not perpendicular"):
        read_volume(str(tmp_path / "a.mha"))


def test_the_digest_changes_with_one_voxel_and_with_the_place(values):
    digest = decoded_sha256(Volume(values, GRID, "LPS"))
    other = values.copy()
    other[1, 2, 3] += 1
    moved = Grid(GRID.size_xyz, (-10.0, 7.0, 30.5), GRID.spacing_xyz_mm, IDENTITY)
    assert len({digest, decoded_sha256(Volume(other, GRID, "LPS")), decoded_sha256(Volume(values, moved, "LPS"))}) == 3


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_a_file_cut_short_is_refused(tmp_path, name, share):
    write_image(np.random.default_rng(1).normal(size=(30, 30, 30)).astype(np.float32), GRID_30, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=name):
        read_volume(str(tmp_path / name))


GRID_30 = Grid((30, 30, 30), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), IDENTITY)


def test_a_damaged_gzip_stream_is_refused(tmp_path):
    write_image(np.random.default_rng(1).normal(size=(30, 30, 30)).astype(np.float32), GRID_30, tmp_path / "a.nii.gz")
    data = bytearray((tmp_path / "a.nii.gz").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.nii.gz").write_bytes(bytes(data))
    with pytest.raises(ImageError, match="damaged"):
        read_volume(str(tmp_path / "a.nii.gz"))


@pytest.mark.parametrize("content", [b"", b"not an image", gzip.compress(b"not an image either" * 40, mtime=0)])
def test_what_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(ImageError):
        read_volume(str(tmp_path / "a.nii.gz"))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ImageError, match="not there"):
        read_volume(str(tmp_path / "none.nii.gz"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_that_are_not_finite_are_refused_and_counted(tmp_path, values, bad):
    values[1, 1, 1:3] = bad
    write_image(values, GRID, tmp_path / "a.nii.gz")
    with pytest.raises(ImageError, match="2 voxels"):
        read_volume(str(tmp_path / "a.nii.gz"))


def test_a_time_series_is_refused(tmp_path):
    sitk.WriteImage(sitk.Image([4, 4, 4, 2], sitk.sitkFloat32), str(tmp_path / "a.nii.gz"))
    with pytest.raises(ImageError, match="3-D"):
        read_volume(str(tmp_path / "a.nii.gz"))


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha"])
@pytest.mark.parametrize("read", [read_volume, read_labels])
def test_complex_and_vector_images_are_refused(tmp_path, values, name, read):
    sitk.WriteImage(sitk.Cast(sitk.GetImageFromArray(values), sitk.sitkComplexFloat32), str(tmp_path / name))
    with pytest.raises(ImageError, match="not one scalar 3-D image"):
        read(str(tmp_path / name))
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([values] * 3, axis=-1), isVector=True), str(tmp_path / name))
    with pytest.raises(ImageError, match="not one scalar 3-D image"):
        read(str(tmp_path / name))


def test_fractional_labels_are_refused(tmp_path, values):
    write_image(values, GRID, tmp_path / "a.nii.gz")
    with pytest.raises(ImageError, match="whole numbers"):
        read_labels(str(tmp_path / "a.nii.gz"))


def test_linear_resampling_is_exact_on_a_linear_field_and_fills_outside():
    """Against the field itself: trilinear interpolation reproduces any linear function."""
    z, y, x = np.meshgrid(np.arange(6), np.arange(7), np.arange(8), indexing="ij")
    source = Grid((8, 7, 6), (1.0, 2.0, 3.0), (2.0, 2.5, 3.0), IDENTITY)
    field = 2 * (1 + 2 * x) - 3 * (2 + 2.5 * y) + 0.5 * (3 + 3 * z)
    target = Grid((3, 3, 2), (3.3, 4.1, 5.7), (1.7, 1.1, 2.3), IDENTITY)
    out = resample_linear(Volume(field.astype(np.float32), source, "LPS"), target, outside=-5.0).array_zyx
    tz, ty, tx = np.meshgrid(np.arange(2), np.arange(3), np.arange(3), indexing="ij")
    expected = 2 * (3.3 + 1.7 * tx) - 3 * (4.1 + 1.1 * ty) + 0.5 * (5.7 + 2.3 * tz)
    np.testing.assert_allclose(out, expected, atol=1e-4)
    far = Grid((2, 2, 2), (500.0, 0.0, 0.0), (1.0, 1.0, 1.0), IDENTITY)
    assert (resample_linear(Volume(field.astype(np.float32), source, "LPS"), far, outside=-5.0).array_zyx == -5).all()
    assert not coverage(source, far).any()


def test_nearest_resampling_makes_no_new_label():
    labels = np.random.default_rng(0).integers(0, 5, (6, 7, 8)).astype(np.uint16)
    source = Grid((8, 7, 6), (1.0, 2.0, 3.0), (2.0, 2.5, 3.0), IDENTITY)
    target = Grid((9, 9, 9), (1.4, 2.1, 3.3), (1.3, 1.6, 1.7), IDENTITY)
    out = resample_nearest(Labels(labels, source, "LPS"), target).array_zyx
    assert set(np.unique(out)) <= set(np.unique(labels))
    assert out[0, 0, 0] == labels[0, 0, 0]
