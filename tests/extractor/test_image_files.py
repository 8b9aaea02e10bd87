"""Image files are checked before ITK reads them: what ITK would misread without a word is refused."""

import struct

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from extractor.image_files import check_image_file
from extractor.volumes import read_volume
from store_schema.errors import ImageError

VALUES = np.random.default_rng(0).normal(0, 300, (12, 11, 10)).astype(np.float32)


def written(path, values=VALUES, *, compressed=True):
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.SetUseCompression(compressed)
    writer.Execute(sitk.GetImageFromArray(values))
    return path


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_a_whole_file_of_any_format_and_kind_is_read(tmp_path, name, kind, compressed):
    values = np.abs(VALUES).astype(kind)
    path = written(tmp_path / name, values, compressed=compressed)
    np.testing.assert_array_equal(read_volume(str(path)).array_zyx, values.astype(np.float32))


@pytest.mark.parametrize(("name", "voxels"), [("a.mha", "a.mha"), ("a.mhd", "a.zraw"), ("a.nrrd", "a.nrrd")])
def test_one_wrong_bit_in_compressed_voxels_is_refused(tmp_path, name, voxels):
    """ITK's MetaImage reader prints 'Uncompress failed' and hands out the image all the same."""
    path = written(tmp_path / name)
    data = (tmp_path / voxels).read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(10):
        damaged = bytearray(data)
        damaged[int(rng.integers(600, len(data) - 20))] ^= 1 << int(rng.integers(8))
        (tmp_path / voxels).write_bytes(bytes(damaged))
        with pytest.raises(ImageError, match=name):
            read_volume(str(path))


@pytest.mark.parametrize("cut_bytes", [1, 7, 500])
@pytest.mark.parametrize(
    ("name", "voxels", "compressed"),
    [("a.mha", "a.mha", True), ("a.mha", "a.mha", False), ("a.mhd", "a.raw", False), ("a.mhd", "a.zraw", True)],
)
def test_a_metaimage_cut_short_is_refused_with_its_name(tmp_path, capfd, name, voxels, compressed, cut_bytes):
    path = written(tmp_path / name, compressed=compressed)
    (tmp_path / voxels).write_bytes((tmp_path / voxels).read_bytes()[:-cut_bytes])
    with pytest.raises(ImageError, match=f"{name} is damaged or cut short"):
        read_volume(str(path))
    assert capfd.readouterr().err == ""


def test_a_metaimage_without_its_voxel_file_is_refused(tmp_path):
    path = written(tmp_path / "a.mhd", compressed=False)
    (tmp_path / "a.raw").unlink()
    with pytest.raises(ImageError, match=r"a\.raw"):
        read_volume(str(path))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("Offset", "nan 0 0", "Offset"),
        ("ElementSpacing", "1 inf 1", "ElementSpacing"),
        ("ElementType", "MET_NONSENSE", "ElementType"),
        ("ElementDataFile", "LIST", "list of files"),
    ],
)
def test_a_metaimage_with_a_broken_header_is_refused(tmp_path, field, value, said):
    path = written(tmp_path / "a.mha", compressed=False)
    before, _, after = path.read_bytes().partition(f"{field} = ".encode())
    path.write_bytes(before + f"{field} = {value}\n".encode() + after.partition(b"\n")[2])
    with pytest.raises(ImageError, match=said):
        read_volume(str(path))


NIFTI_DAMAGE = {
    "negative size": (40, "<8h", (3, -5, 11, 12, 1, 1, 1, 1)),
    "nine dimensions": (40, "<8h", (9, 10, 11, 12, 1, 1, 1, 1)),
    "more voxels than bytes": (40, "<8h", (3, 30000, 30000, 30000, 1, 1, 1, 1)),
    "spacing of zero": (80, "<f", (0.0,)),
    "spacing that is no number": (80, "<f", (np.nan,)),
    "voxels that begin nowhere": (108, "<f", (np.nan,)),
    "voxels that begin at infinity": (108, "<f", (np.inf,)),
    "origin that is no number": (268, "<f", (np.nan,)),
    "no NIfTI mark": (344, "<4s", (b"\0\0\0\0",)),
    "orientation that is not said": (252, "<2h", (0, 0)),
}


@pytest.mark.parametrize("damage", NIFTI_DAMAGE)
def test_a_nifti_with_a_broken_header_is_refused_and_nothing_is_printed(tmp_path, capfd, damage):
    """ITK takes 1 mm for a spacing of NaN and 0 mm for such an origin."""
    path = written(tmp_path / "a.nii", compressed=False)
    offset, form, values = NIFTI_DAMAGE[damage]
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, offset, *values)
    path.write_bytes(bytes(data))
    with pytest.raises(ImageError, match=r"a\.nii"):
        read_volume(str(path))
    assert capfd.readouterr().err == ""


def test_a_format_that_is_not_read_is_refused(tmp_path):
    sitk.WriteImage(sitk.Image([4, 4], sitk.sitkUInt8), str(tmp_path / "a.png"))
    with pytest.raises(ImageError, match="no format read here"):
        check_image_file(str(tmp_path / "a.png"))
