"""An image file says where its voxels lie, and says it once, or it is refused; ITK alone would take one of two answers, or none."""

import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from extractor.image_files import check_image_file
from store_schema.errors import ImageError

VALUES = np.random.default_rng(0).normal(0, 300, (3, 5, 4)).astype(np.float32)
SPACING_XYZ_MM = (1.0, 2.0, 3.0)
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def image(values=VALUES, direction=OBLIQUE):
    made = sitk.GetImageFromArray(values)
    made.SetSpacing(SPACING_XYZ_MM)
    made.SetOrigin((-100.0, -50.0, -300.0))
    made.SetDirection(direction)
    return made


@pytest.fixture
def nifti(tmp_path):
    """Writes an image whose qform and sform agree, with some numbers of its header replaced: offset, format, values."""

    def write(*changes, values=VALUES):
        path = tmp_path / "a.nii"
        sitk.WriteImage(image(values), str(path))
        data = bytearray(path.read_bytes())
        for offset, form, *numbers in changes:
            struct.pack_into(f"<{form}", data, offset, *numbers)
        path.write_bytes(bytes(data))
        return path

    return write


QFORM, SFORM = 252, 254
SROW_X, SROW_Y, SROW_Z = 280, 296, 312
UPRIGHT = ((SROW_X, "4f", 1, 0, 0, 5), (SROW_Y, "4f", 0, 2, 0, 6), (SROW_Z, "4f", 0, 0, 3, 7))


def test_two_forms_that_agree_are_read_also_where_the_axes_are_oblique(nifti):
    data = nifti().read_bytes()
    assert struct.unpack_from("<2h", data, QFORM) == (1, 1)
    check_image_file(str(nifti()))


@pytest.mark.parametrize("codes", [(1, 1), (1, 2), (2, 1)])
def test_a_qform_and_a_sform_that_disagree_are_refused(nifti, codes):
    moved = (SROW_X + 12, "f", -struct.unpack_from("<f", nifti().read_bytes(), SROW_X + 12)[0])
    with pytest.raises(ImageError, match=r"qform and its sform put a corner \d+\.\d mm apart"):
        check_image_file(str(nifti(moved, (QFORM, "2h", *codes))))


def test_either_form_alone_is_enough(nifti):
    check_image_file(str(nifti((SFORM, "h", 0))))
    check_image_file(str(nifti((QFORM, "h", 0), *UPRIGHT)))


def test_a_sform_of_other_lengths_than_the_spacings_is_refused(nifti):
    with pytest.raises(ImageError, match=r"two spacings: \[1\.0, 2\.0, 3\.0\] in its header and \[1\.0, 2\.0, 5\.0\]"):
        check_image_file(str(nifti((QFORM, "h", 0), *UPRIGHT, (SROW_Z + 8, "f", 5))))


def test_a_sheared_sform_is_refused_whatever_the_qform_says(nifti):
    sheared = ((SROW_Y, "4f", 0, 2, 3 * np.sin(0.2), 6), (SROW_Z, "4f", 0, 0, 3 * np.cos(0.2), 7))
    for qform in (0, 1):
        with pytest.raises(ImageError, match="sheared"):
            check_image_file(str(nifti((QFORM, "h", qform), UPRIGHT[0], *sheared)))


@pytest.mark.parametrize("scaling", [(0.0, 5.0), (float("nan"), 0.0), (1.0, float("inf"))])
def test_a_void_scaling_is_refused(nifti, scaling):
    with pytest.raises(ImageError, match="scales its voxels by slope"):
        check_image_file(str(nifti((112, "2f", *scaling))))
    check_image_file(str(nifti((112, "2f", 0.0, 0.0))))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("packed", [False, True])
def test_one_voxel_that_is_nan_is_refused_wherever_it_lies(nifti, tmp_path, kind, packed):
    for place in range(27):
        values = np.zeros(27, kind)
        values[place] = np.nan
        path = nifti(values=values.reshape(3, 3, 3))
        if packed:
            path = tmp_path / "a.nii.gz"
            path.write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes(), 1))
        with pytest.raises(ImageError, match="1 voxels that are NaN"):
            check_image_file(str(path))


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        (["ElementSpacing"], "no ElementSpacing"),
        (["TransformMatrix"], "no TransformMatrix"),
        (["ElementSpacing", "TransformMatrix"], "no ElementSpacing and no TransformMatrix"),
    ],
)
def test_a_metaimage_without_spacing_or_axes_is_refused(tmp_path, left_out, said):
    path = tmp_path / "a.mhd"
    sitk.WriteImage(image(), str(path))
    check_image_file(str(path))
    lines = [line for line in path.read_text().splitlines() if line.partition(" ")[0] not in left_out]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ImageError, match=said):
        check_image_file(str(path))


def nrrd(folder, name, change):
    path = folder / name
    sitk.WriteImage(image(), str(path))
    check_image_file(str(path))
    header, blank, voxels = path.read_bytes().partition(b"\n\n")
    lines = [changed for line in header.decode().splitlines() if (changed := change(line)) is not None]
    path.write_bytes("\n".join(lines).encode() + blank + voxels)
    return path


@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr"])
@pytest.mark.parametrize("field", ["space", "space directions", "space origin"])
def test_a_nrrd_that_lacks_a_part_of_its_place_is_refused(tmp_path, name, field):
    path = nrrd(tmp_path, name, lambda line: None if line.startswith(f"{field}: ") else line)
    with pytest.raises(ImageError, match=f"header has no '{field}'"):
        check_image_file(str(path))


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-right-handed"])
def test_a_nrrd_in_a_space_that_is_no_patients_is_refused(tmp_path, space):
    path = nrrd(tmp_path, "a.nrrd", lambda line: f"space: {space}" if line.startswith("space: ") else line)
    with pytest.raises(ImageError, match=f"lies in space '{space}'"):
        check_image_file(str(path))
