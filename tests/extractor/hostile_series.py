"""DICOM folders that are no series, lie, break off or swell; each maker writes one and gives its path for the table."""

import importlib.util
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from store_schema.errors import GeometryError, IntensityError


def _sibling(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


dicom = _sibling("dicom_series")
STORED = np.random.default_rng(0).integers(0, 2000, (5, 16, 16)).astype(np.uint16)


def series(
    change: Callable[[Dataset, int], None] = dicom.keep,
    damage: Callable[[Path], None] = lambda folder: None,
    role: str = "CT",
    name: str = "series",
) -> Callable[[Path], str]:
    """A series with changed headers, and then a damaged folder."""

    def make(folder: Path) -> str:
        made = dicom.write_series(folder / name, STORED, role=role, change=change)
        damage(made)
        return str(made)

    return make


def setting(only: int | None = None, **fields: object) -> Callable[[Dataset, int], None]:
    def change(header: Dataset, rank: int) -> None:
        for name, value in fields.items() if only in {None, rank} else ():
            item = header.RadiopharmaceuticalInformationSequence[0] if name.startswith("Radi") else header
            delattr(item, name) if value is None else setattr(item, name, value)

    return change


def third(folder: Path) -> Path:
    return folder / "IM0002.dcm"


def cut(folder: Path) -> None:
    third(folder).write_bytes(third(folder).read_bytes()[:-100])


def noise(folder: Path) -> None:
    third(folder).write_bytes(third(folder).read_bytes()[:140] + bytes(range(256)) * 8)


def listing_alone(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(400))


def below(folder: Path) -> None:
    (folder / "more").mkdir()
    shutil.move(third(folder), folder / "more")


def twice(folder: Path) -> None:
    shutil.copy(third(folder), folder / "copy.dcm")


def link_to_itself(folder: Path) -> None:
    (folder / "loop.dcm").symlink_to("loop.dcm")


def encapsulated(syntax: str, fragment: bytes) -> Callable[[Path], None]:
    """One slice whose compressed pixels are these bytes."""

    def damage(folder: Path) -> None:
        header = pydicom.dcmread(third(folder))
        header.file_meta.TransferSyntaxUID = syntax
        header["PixelData"].value = encapsulate([fragment])
        header["PixelData"].VR = "OB"
        header["PixelData"].is_undefined_length = True
        header.save_as(third(folder))

    return damage


def run_lengths() -> bytes:
    """A frame of RLE whose 20 megabytes unpack to 1.3 gigabytes."""
    return struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 10_000_000


def jpeg2000_of_nothing() -> bytes:
    """A JPEG 2000 codestream that claims a picture of 60,000 x 60,000."""
    siz = struct.pack(">HHIIIIIIIIHBBB", 41, 0, 60_000, 60_000, 0, 0, 60_000, 60_000, 0, 0, 1, 15, 1, 1)
    return b"\xff\x4f\xff\x51" + siz + b"\xff\x52\x00\x0c\x00\x00\x00\x01\x00\x05\x04\x04\x00\x01\xff\xd9"


def deflated_bomb(folder: Path) -> None:
    header = pydicom.dcmread(third(folder))
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    bare = Dataset()
    bare.file_meta = header.file_meta
    bare.save_as(third(folder), enforce_file_format=True)
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    with third(folder).open("ab") as file:
        file.write(block * 256)


def element(group: int, number: int, kind: bytes, size: int) -> bytes:
    return struct.pack("<HH2sHI", group, number, kind, 0, size)


def between_header_and_pixels(folder: Path, insert: Callable[[Path, int], None]) -> None:
    path = third(folder)
    data = path.read_bytes()
    place = data.rindex(struct.pack("<HH", 0x7FE0, 0x0010))
    path.write_bytes(data[:place])
    insert(path, place)
    with path.open("ab") as file:
        file.write(data[place:])


def private_gigabytes(folder: Path) -> None:
    """A private element of two gigabytes, as a hole of the file system."""

    def insert(path: Path, place: int) -> None:
        with path.open("r+b") as file:
            file.seek(place)
            file.write(element(0x7FDF, 0x1001, b"OB", 2**31))
            file.truncate(place + 12 + 2**31)

    between_header_and_pixels(folder, insert)


def many_elements(folder: Path) -> None:
    """Two hundred thousand private elements of no length."""

    def insert(path: Path, place: int) -> None:
        with path.open("r+b") as file:
            file.seek(place)
            file.write(element(0x7FDF, 0x1001, b"OB", 0) * 200_000)

    between_header_and_pixels(folder, insert)


def claims_gigabytes(folder: Path) -> None:
    """An element that says it is four gigabytes long, and ends with the file."""
    data = third(folder).read_bytes()
    third(folder).write_bytes(data[: data.rindex(b"\xe0\x7f\x10\x00")] + element(0x0028, 0x0030, b"UN", 2**32 - 16))


def cases(hostile: type) -> dict[str, object]:
    """Every folder by its name; `hostile` is the class of a hostile input."""
    return folders(hostile) | contents(hostile)


def folders(hostile: type) -> dict[str, object]:
    """Folders that are no one whole series of their kind."""
    return {
        "two series in a folder": hostile("ct", series(setting(2, SeriesInstanceUID="1.2.3")), "2 series"),
        "two patients in a series": hostile("ct", series(setting(2, PatientID="OTHER")), "2 patients"),
        "missing slice": hostile(
            "ct", series(damage=lambda f: third(f).unlink()), "misses about 1 slice", GeometryError
        ),
        "slice twice": hostile("ct", series(damage=twice), "copies of one image", GeometryError),
        "slices that lean": hostile(
            "ct",
            series(lambda h, rank: setattr(h, "ImagePositionPatient", [0, rank, 3.0 * rank])),
            "leans",
            GeometryError,
        ),
        "slices without position": hostile("ct", series(setting(2, ImagePositionPatient=None)), "ImagePositionPatient"),
        "pixels of no spacing": hostile("ct", series(setting(PixelSpacing=[0, 2])), "expected above 0"),
        "pixels of infinite spacing": hostile("ct", series(setting(PixelSpacing=["1e999", "2"])), "finite number"),
        "rows beyond any slice": hostile("ct", series(setting(Rows=65535, Columns=65535)), "536870912 voxels|bytes"),
        "magnetic resonance": hostile("ct", series(setting(Modality="MR")), "got Modality MR"),
        "pet in place of ct": hostile("ct", series(role="PET"), "no CT image"),
        "dicom of colours": hostile(
            "ct", series(setting(SamplesPerPixel=3, PhotometricInterpretation="RGB")), "RGB with 3"
        ),
        "dicom with loss": hostile("ct", series(setting(LossyImageCompression="01")), "with loss"),
        "dicom without rescaling": hostile(
            "ct", series(setting(RescaleSlope=None)), "lacks RescaleSlope", IntensityError
        ),
        "slice cut short": hostile("ct", series(damage=cut), "file 3 of 5 by name.*damaged or cut short"),
        "slice of noise": hostile("ct", series(damage=noise), "file 3 of 5 by name"),
        "slice of no byte": hostile("ct", series(damage=lambda f: (f / "IM9").touch()), "1 file.s. that are not DICOM"),
        "dicomdir alone": hostile("ct", series(damage=listing_alone), "no DICOM image"),
        "folder in a folder": hostile("ct", series(damage=below), "is a folder"),
        "link to itself in a folder": hostile("ct", series(damage=link_to_itself), "cannot be read"),
        "pipe in a folder": hostile("ct", series(damage=lambda f: os.mkfifo(f / "a.dcm")), "no regular file"),
        "kernel in a folder": hostile(
            "ct", series(damage=lambda f: (f / "a.dcm").symlink_to("/proc/self/status")), "not DICOM"
        ),
    }


def contents(hostile: type) -> dict[str, object]:
    """Bombs, and headers that lack what a conversion needs."""
    pet = {"role": "PET"}
    return {
        "run length bomb": hostile(
            "ct", series(damage=encapsulated(RLELossless, run_lengths())), r"20001\d{3} bytes for 16 x 16"
        ),
        "jpeg 2000 bomb": hostile(
            "ct", series(damage=encapsulated(JPEG2000Lossless, jpeg2000_of_nothing())), "damaged"
        ),
        "deflated bomb": hostile("ct", series(damage=deflated_bomb), "deflated"),
        "private gigabytes": hostile("ct", series(damage=private_gigabytes), "no slice"),
        "header of endless fields": hostile("ct", series(damage=many_elements), "longer than 1048576 bytes"),
        "field of four gigabytes": hostile("ct", series(damage=claims_gigabytes), "file 3 of 5 by name"),
        "pet without dose": hostile(
            "pet", series(setting(RadionuclideTotalDose=None), **pet), "RadionuclideTotalDose", IntensityError
        ),
        "pet without weight": hostile(
            "pet", series(setting(PatientWeight=None), **pet), "PatientWeight", IntensityError
        ),
        "pet without times": hostile(
            "pet",
            series(setting(RadiopharmaceuticalStartTime=None, SeriesTime=None), **pet),
            "RadiopharmaceuticalStartTime.*SeriesTime",
            IntensityError,
        ),
        "dicom segmentation as a mask": hostile("lesion", series(name="a.nii.gz"), "converted to NIfTI or NRRD"),
        "dicom series as a label map": hostile("label_map", series(), "converted to NIfTI or NRRD"),
    }
