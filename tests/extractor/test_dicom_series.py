"""A folder with one DICOM series is read as SimpleITK and NIfTI read it, and anything else in a folder is refused."""

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SegmentationStorage,
)

from extractor.dicom.headers import Slice
from extractor.dicom.pixels import stored_slices
from extractor.dicom.series import read_ct_series, read_pet_series
from extractor.volumes import decoded_sha256, read_labels, read_volume, write_image
from store_schema.errors import EngramError, GeometryError, ImageError, IntensityError

CT = np.random.default_rng(0).integers(0, 3000, (7, 6, 5)).astype(np.int16)
TILT = np.radians(20)
OBLIQUE = np.array([[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]]) @ np.array(
    [[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]]
)
PERMUTED = {
    "LPS": np.eye(3),
    "feet first prone": np.diag([1.0, -1, -1]),
    "coronal": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "sagittal": np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]]),
    "oblique": OBLIQUE,
}


def by_simpleitk(folder: Path) -> sitk.Image:
    """The independent reference: GDCM's own order, geometry and rescaling."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


@pytest.mark.parametrize("axes", PERMUTED)
def test_a_series_has_the_voxels_and_place_that_simpleitk_gives_it(dicom, tmp_path, axes):
    folder = dicom.write_series(tmp_path / "ct", CT, axes=PERMUTED[axes])
    sitk.WriteImage(by_simpleitk(folder), str(tmp_path / "ct.nii.gz"))
    series, nifti = read_ct_series(str(folder)), read_volume(str(tmp_path / "ct.nii.gz"))
    np.testing.assert_array_equal(series.array_zyx, nifti.array_zyx)
    np.testing.assert_allclose(series.grid.origin_xyz_mm, nifti.grid.origin_xyz_mm, atol=1e-4)
    np.testing.assert_allclose(series.grid.direction, nifti.grid.direction, atol=1e-6)
    assert series.original_orientation == nifti.original_orientation


@pytest.mark.parametrize("axes", sorted(set(PERMUTED) - {"oblique"}))
@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nrrd", "ct.mha"])
def test_one_image_as_dicom_and_as_a_file_has_one_digest(dicom, tmp_path, axes, name):
    folder = dicom.write_series(tmp_path / "ct", CT, axes=PERMUTED[axes], spacing_xyz_mm=(0.9765625, 0.9765625, 3.27))
    sitk.WriteImage(by_simpleitk(folder), str(tmp_path / name))
    assert decoded_sha256(read_ct_series(str(folder))) == decoded_sha256(read_volume(str(tmp_path / name)))


def test_one_pet_as_dicom_and_as_a_nifti_of_its_suv_has_one_digest(dicom, tmp_path):
    folder = dicom.write_series(tmp_path / "pet", CT.astype(np.uint16), role="PET", slope=lambda rank: 1.5 + rank)
    volume, _ = read_pet_series(str(folder))
    write_image(volume.array_zyx, volume.grid, tmp_path / "pet.nii.gz")
    assert decoded_sha256(read_volume(str(tmp_path / "pet.nii.gz"))) == decoded_sha256(volume)


def test_file_names_and_instance_numbers_order_nothing(dicom, tmp_path):
    places = random.Random(0).sample(range(len(CT)), len(CT))
    plain = dicom.write_series(tmp_path / "plain", CT)
    shuffled = dicom.write_series(
        tmp_path / "shuffled",
        CT,
        name=lambda rank: f"{places[rank]:03d}",
        change=lambda header, rank: setattr(header, "InstanceNumber", places[-rank - 1]),
    )
    assert decoded_sha256(read_ct_series(str(shuffled))) == decoded_sha256(read_ct_series(str(plain)))


def test_slope_and_intercept_are_each_slices_own(dicom, tmp_path):
    def change(header, rank):
        header.RescaleIntercept = -1000 - rank

    folder = dicom.write_series(tmp_path / "ct", CT, slope=lambda rank: 1 + rank / 4, change=change)
    ranks = np.arange(7)[:, None, None]
    np.testing.assert_array_equal(read_ct_series(str(folder)).array_zyx, CT * (1 + ranks / 4) - 1000 - ranks)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16, np.int32])
def test_every_kind_of_whole_number_is_read(dicom, tmp_path, kind):
    stored = np.random.default_rng(1).integers(-100 if np.iinfo(kind).min else 0, 100, (3, 5, 5)).astype(kind)
    folder = dicom.write_series(tmp_path / "ct", stored)
    np.testing.assert_array_equal(read_ct_series(str(folder)).array_zyx, stored - 1024.0)


def test_bits_above_those_stored_are_no_values(dicom, tmp_path):
    """Old scanners kept overlays there."""

    def change(header, rank):
        del rank
        header.BitsStored, header.HighBit = 12, 11

    plain = (CT % 4096).astype(np.uint16)
    folder = dicom.write_series(tmp_path / "ct", plain | 0x4000, change=change)
    np.testing.assert_array_equal(read_ct_series(str(folder)).array_zyx, plain - 1024.0)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_lossless_compression_changes_no_value(dicom, tmp_path, compressor, kind):
    # GDCM's encoder crashes on images of a few pixels.
    folder = dicom.write_series(tmp_path / "ct", np.tile(CT, (1, 8, 8)).astype(kind))
    plain = read_ct_series(str(folder))
    for path in sorted(folder.iterdir()):
        _compress(path, compressor)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
    assert decoded_sha256(read_ct_series(str(folder))) == decoded_sha256(plain)


def _compress(path: Path, compressor: str) -> None:
    """Compresses the pixels with GDCM's encoder and leaves the rest of the header as it was."""
    whole = pydicom.dcmread(path)
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(path.with_suffix(".tmp.dcm")))
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressor(compressor)
    writer.Execute(sitk.GetImageFromArray(whole.pixel_array[None]))
    made = pydicom.dcmread(path.with_suffix(".tmp.dcm"))
    path.with_suffix(".tmp.dcm").unlink()
    whole.file_meta.TransferSyntaxUID = made.file_meta.TransferSyntaxUID
    whole["PixelData"] = made["PixelData"]
    whole.save_as(path)


@pytest.mark.parametrize("name", ["RLE", "jp2klossless", "jpeg_ls_lossless", "bigendian", "implicit", "expb"])
def test_each_transfer_syntax_decodes_to_the_same_values(tmp_path, name):
    """pydicom's own files hold one image in many ways."""
    samples = Path(pydicom.__file__).parent / "data" / "test_files"
    path = samples / f"MR_small_{name}.dcm"
    expected = pydicom.dcmread(samples / "MR_small.dcm").pixel_array
    header = pydicom.dcmread(path, stop_before_pixels=True)
    (stored,) = stored_slices([Slice(path, header, "it")], shown="here")
    np.testing.assert_array_equal(stored, expected)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_byte_orders_are_read(dicom, tmp_path, syntax):
    plain = read_ct_series(str(dicom.write_series(tmp_path / "plain", CT)))
    folder = dicom.write_series(tmp_path / "ct", CT)
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        if syntax == ExplicitVRBigEndian:
            header["PixelData"].value = header.pixel_array.astype(">i2").tobytes()
        header.file_meta.TransferSyntaxUID = syntax
        implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
        pydicom.dcmwrite(path, header, implicit_vr=implicit, little_endian=little)
    assert decoded_sha256(read_ct_series(str(folder))) == decoded_sha256(plain)


def test_harmless_files_beside_a_series_are_passed_over(dicom, tmp_path):
    folder = dicom.write_series(tmp_path / "ct", CT)
    plain = decoded_sha256(read_ct_series(str(folder)))
    for name in ("DICOMDIR", "README.txt", "license", ".DS_Store", "._IM0000.dcm", "series.json", "Thumbs.db"):
        (folder / name).write_bytes(b"not an image")
    (folder / ".cache").mkdir()
    assert decoded_sha256(read_ct_series(str(folder))) == plain


def setting(**fields):
    def change(header, rank):
        del rank
        for name, value in fields.items():
            if value is None:
                delattr(header, name)
            else:
                setattr(header, name, value)

    return change


def only(rank_of, **fields):
    """Changes one slice alone."""

    def change(header, rank):
        if rank == rank_of:
            setting(**fields)(header, rank)

    return change


HEADERS = {
    "two series": (only(2, SeriesInstanceUID="1.2.3"), ImageError, "2 series: CT series number 4"),
    "no series": (only(2, SeriesInstanceUID=None), ImageError, "SeriesInstanceUID"),
    "two patients": (only(2, PatientID="OTHER-1"), ImageError, "2 patients"),
    "two frames of reference": (only(2, FrameOfReferenceUID="1.2.3"), ImageError, "2 frames of reference"),
    "another modality": (setting(Modality="MR"), ImageError, "got Modality MR"),
    "another class": (setting(SOPClassUID=SegmentationStorage), ImageError, "Segmentation Storage"),
    "an enhanced image": (setting(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1"), ImageError, "multi-frame"),
    "several frames": (setting(NumberOfFrames=7), ImageError, "multi-frame"),
    "a localizer": (only(0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), ImageError, "1 LOCALIZER of 7"),
    "other rows": (only(3, Rows=5), GeometryError, r"2 sizes .*\(5, 5\), \(6, 5\)"),
    "huge size": (setting(Rows=65535, Columns=65535), ImageError, "at most 536870912 voxels"),
    "no rows": (setting(Rows=0), ImageError, "size 0"),
    "no size": (setting(Rows=None), ImageError, "Rows"),
    "other spacing": (only(3, PixelSpacing=[2, 2.5]), GeometryError, r"\[2.0, 2.0\] to \[2.0, 2.5\]"),
    "zero spacing": (setting(PixelSpacing=[0, 2]), ImageError, "expected above 0"),
    "negative spacing": (setting(PixelSpacing=[-2, 2]), ImageError, "expected above 0"),
    "spacing that is no number": (setting(PixelSpacing=["nan", "2"]), ImageError, "not a finite number"),
    "infinite spacing": (setting(PixelSpacing=["1e999", "2"]), ImageError, "not a finite number"),
    "no spacing": (setting(PixelSpacing=None), ImageError, "PixelSpacing"),
    "one spacing": (setting(PixelSpacing=[2]), ImageError, "1 values of PixelSpacing"),
    "huge extent": (setting(PixelSpacing=[1e9, 1e9]), ImageError, "10000 mm"),
    "no position": (only(3, ImagePositionPatient=None), ImageError, "ImagePositionPatient"),
    "infinite position": (only(3, ImagePositionPatient=[0, 0, "inf"]), ImageError, "not a finite number"),
    "no orientation": (setting(ImageOrientationPatient=None), ImageError, "ImageOrientationPatient"),
    "other orientation": (only(3, ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), GeometryError, "differ by up to 1.0"),
    "sheared axes": (setting(ImageOrientationPatient=[1, 0, 0, 0.1, 0.995, 0]), GeometryError, "perpendicular"),
    "long axes": (setting(ImageOrientationPatient=[2, 0, 0, 0, 2, 0]), GeometryError, "unit vectors"),
    "no rescaling": (setting(RescaleIntercept=None), IntensityError, "lacks RescaleIntercept"),
    "zero slope": (setting(RescaleSlope=0), IntensityError, "RescaleSlope"),
    "no hounsfield units": (setting(RescaleType="US"), IntensityError, "RescaleType .* US"),
    "electron density": (setting(RescaleType="ED"), IntensityError, "RescaleType .* ED"),
    "inverted": (setting(PhotometricInterpretation="MONOCHROME1"), ImageError, "MONOCHROME1"),
    "colour": (setting(SamplesPerPixel=3, PhotometricInterpretation="RGB"), ImageError, "RGB with 3"),
    "lossy": (setting(LossyImageCompression="01"), ImageError, "with loss"),
    "64 bits": (setting(BitsAllocated=64), ImageError, "64 bits"),
    "fewer pixels": (setting(PixelData=b"\0\0"), ImageError, "damaged or cut short"),
    "padding that means tissue": (
        setting(PixelPaddingValue=int(CT[0, 0, 0])),
        IntensityError,
        "PixelPaddingValue",
    ),
    "slices promised": (setting(NumberOfSlices=9), GeometryError, "7 slices where its headers promise 9"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_does_not_fit_is_refused_and_names_no_patient_file_or_uid(dicom, tmp_path, case):
    change, kind, said = HEADERS[case]
    folder = dicom.write_series(tmp_path / "ct", CT, change=change)
    with pytest.raises(kind, match=said) as refused:
        read_ct_series(str(folder))
    text = str(refused.value).replace(str(folder), "")
    uids = [pydicom.dcmread(path, stop_before_pixels=True).get("SOPInstanceUID") for path in folder.iterdir()]
    assert not any(private in text for private in ("DOE", "1234567", "OTHER-1", "IM00", ".dcm", *filter(None, uids)))


def moved(folder: Path, rank: int, by_mm) -> None:
    path = sorted(folder.iterdir())[rank]
    header = pydicom.dcmread(path)
    header.ImagePositionPatient = [float(v) + d for v, d in zip(header.ImagePositionPatient, by_mm, strict=True)]
    header.save_as(path)


def test_a_missing_slice_is_counted(dicom, tmp_path):
    folder = dicom.write_series(tmp_path / "ct", CT)
    for path in sorted(folder.iterdir())[2:4]:
        path.unlink()
    with pytest.raises(
        GeometryError, match=r"about 2 slice\(s\) in 1 gap\(s\): after 43\.000 mm .* 9\.000 mm .* 3\.000 mm"
    ):
        read_ct_series(str(folder))


def test_two_slices_in_one_place_are_refused(dicom, tmp_path):
    folder = dicom.write_series(tmp_path / "ct", CT)
    moved(folder, 3, (0, 0, -3))
    with pytest.raises(GeometryError, match="time frames"):
        read_ct_series(str(folder))


def test_a_copied_slice_is_refused_as_a_copy(dicom, tmp_path):
    folder = dicom.write_series(tmp_path / "ct", CT)
    shutil.copy(folder / "IM0003.dcm", folder / "IM0003 (1).dcm")
    with pytest.raises(GeometryError, match="copies of one image"):
        read_ct_series(str(folder))


@pytest.mark.parametrize(("off_mm", "refused"), [(0.05, False), (0.2, True), (1.0, True)])
def test_a_slice_off_its_even_place_is_refused_beyond_what_rounding_explains(dicom, tmp_path, off_mm, refused):
    folder = dicom.write_series(tmp_path / "ct", CT)
    moved(folder, 3, (0, 0, off_mm))
    if not refused:
        assert read_ct_series(str(folder)).grid.spacing_xyz_mm[2] == pytest.approx(3)
        return
    with pytest.raises(GeometryError, match=f"uneven slices.*{off_mm:.3f} mm off"):
        read_ct_series(str(folder))


def test_a_tilted_gantry_is_refused_with_its_angle(dicom, tmp_path):
    """Slices tilted by 20 degrees, the table moving along z: each slice is shifted against the one before."""

    def change(header, rank):
        header.ImagePositionPatient = [0, 0, 3.0 * rank]

    folder = dicom.write_series(tmp_path / "ct", CT, axes=_tilted(), change=change)
    with pytest.raises(GeometryError, match=r"leans: .*20\.00 degrees"):
        read_ct_series(str(folder))


def _tilted() -> np.ndarray:
    return np.array([[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]])


def test_one_slice_is_no_volume(dicom, tmp_path):
    with pytest.raises(GeometryError, match="one slice"):
        read_ct_series(str(dicom.write_series(tmp_path / "ct", CT[:1])))


def test_a_ct_is_no_pet_and_a_pet_no_ct(dicom, tmp_path):
    with pytest.raises(ImageError, match="no PET image"):
        read_pet_series(str(dicom.write_series(tmp_path / "ct", CT)))
    with pytest.raises(ImageError, match="no CT image"):
        read_ct_series(str(dicom.write_series(tmp_path / "pet", CT, role="PET")))


def stranger(folder):
    (folder / "notes.doc").write_bytes(b"JANE DOE")


def empty_file(folder):
    (folder / "IM0100").touch()


def pipe(folder):
    os.mkfifo(folder / "IM0100.dcm")


def loop(folder):
    (folder / "IM0100.dcm").symlink_to(folder / "IM0100.dcm")


def folder_below(folder):
    (folder / "more").mkdir()


def cut(folder):
    path = folder / "IM0003.dcm"
    path.write_bytes(path.read_bytes()[:-20])


def cut_header(folder):
    path = folder / "IM0003.dcm"
    path.write_bytes(path.read_bytes()[:300])


def noise(folder):
    path = folder / "IM0003.dcm"
    path.write_bytes(path.read_bytes()[:140] + random.Random(0).randbytes(3000))


def unknown_syntax(folder):
    path = folder / "IM0003.dcm"
    header = pydicom.dcmread(path)
    header.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    header["PixelData"].value = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    header.save_as(path)


def deflated(folder):
    path = folder / "IM0003.dcm"
    header = pydicom.dcmread(path)
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    header.save_as(path)


def broken_compression(folder):
    for path in sorted(folder.iterdir()):
        _compress(path, "JPEG")
    path = folder / "IM0003.dcm"
    data = path.read_bytes()
    path.write_bytes(data[:-60] + bytes(60))


def emptied(folder):
    for path in folder.iterdir():
        path.unlink()


FOLDERS = {
    stranger: "1 file.s. that are not DICOM .file 8 of 8 by name",
    empty_file: "not DICOM",
    pipe: "no regular file",
    loop: "cannot be read",
    folder_below: "is a folder",
    cut: "damaged or cut short",
    cut_header: "file 4 of 7 by name",
    noise: "file 4 of 7 by name",
    unknown_syntax: "JPEG Baseline",
    deflated: "deflated",
    broken_compression: "file 4 of 7 by name",
    emptied: "no DICOM image",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("damage", FOLDERS, ids=lambda damage: damage.__name__)
def test_a_folder_with_anything_else_or_damage_is_refused(dicom, tmp_path, damage):
    folder = dicom.write_series(tmp_path / "ct", CT)
    damage(folder)
    with pytest.raises(EngramError, match=FOLDERS[damage]) as refused:
        read_ct_series(str(folder))
    assert not any(name in str(refused.value) for name in ("IM0", "notes", "DOE"))


def test_a_stream_that_kills_the_decoder_is_a_refusal(dicom, tmp_path):
    """GDCM ends by a segmentation fault on these bytes, in its own process."""
    folder = dicom.write_series(tmp_path / "ct", np.tile(CT[:2], (1, 8, 8)))
    for path in sorted(folder.iterdir()):
        _compress(path, "JPEG")
    path, rng = folder / "IM0000.dcm", random.Random(59)
    data = bytearray(path.read_bytes())
    begin = data.find(b"\xff\xd8\xff") + 4
    for _ in range(6):
        data[begin + rng.randrange(76)] = rng.randrange(256)
    path.write_bytes(bytes(data))
    with pytest.raises(ImageError, match=r"file 1 of 2 by name .*\(GDCM gave it up\)"):
        read_ct_series(str(folder))


@pytest.mark.parametrize("seed", range(40))
def test_a_header_with_random_bytes_is_read_as_it_was_or_refused(dicom, tmp_path, seed):
    folder = dicom.write_series(tmp_path / "ct", CT)
    plain = read_ct_series(str(folder))
    rng = random.Random(seed)
    path = folder / "IM0003.dcm"
    data = bytearray(path.read_bytes())
    end = len(data) - CT[0].nbytes
    for _ in range(8):
        data[rng.randrange(132, end)] = rng.randrange(256)
    path.write_bytes(bytes(data))
    try:
        read = read_ct_series(str(folder))
    except EngramError:
        return
    # What was hit may be a field that means nothing here.
    assert read.grid.sha256() == plain.grid.sha256()


def test_a_mask_in_dicom_is_refused_with_the_way_out(dicom, tmp_path):
    folder = dicom.write_series(tmp_path / "seg", CT)
    with pytest.raises(ImageError, match="converted to NIfTI or NRRD"):
        read_labels(str(folder))
    with pytest.raises(ImageError, match="SEG, RTSTRUCT"):
        read_labels(str(folder / "IM0000.dcm"))


def test_nothing_of_a_header_is_printed_or_logged(dicom, tmp_path, capfd, caplog):
    folder = dicom.write_series(
        tmp_path / "ct", CT, change=setting(PatientBirthDate="born in May", StudyTime="25 past")
    )
    read_ct_series(str(folder))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
