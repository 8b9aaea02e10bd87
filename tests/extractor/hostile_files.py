"""Image files that lie, break off, swell or stand in a file's place; each maker writes one and gives the path for the table."""

import gzip
import os
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from store_schema.errors import GeometryError, ImageError, IntensityError, MaskError

Make = Callable[[Path], str]
SPACING_XYZ_MM = {
    "ct": (2.0, 2.0, 3.0),
    "lesion": (2.0, 2.0, 3.0),
    "label_map": (2.0, 2.0, 3.0),
    "pet": (4.0, 4.0, 4.5),
}
BOMB_BYTES = 2**32


@dataclass(frozen=True)
class Hostile:
    """One bad input of a study that is good otherwise."""

    column: str
    """Where it stands in the table."""
    make: Make
    said: str
    """What the failure must say besides the path."""
    error: type[Exception] = ImageError
    """What preparing the study raises."""
    refused: bool = False
    """Whether the plan refuses it, before any file is opened."""


def good_arrays() -> dict[str, np.ndarray]:
    """Voxels of a study that is extracted: CT and PET on their own grids, a lesion, and a vertebra in a label map."""
    rng = np.random.default_rng(0)
    lesion, labels = np.zeros((10, 16, 16), np.uint8), np.zeros((10, 16, 16), np.uint8)
    lesion[2:8, 4:12, 5:11] = 1
    labels[4:6, 7:9, 7:9] = 30
    ct = rng.normal(0, 300, lesion.shape).astype(np.int16)
    return {"ct": ct, "pet": rng.gamma(1.0, 2.0, (8, 10, 10)).astype(np.float32), "lesion": lesion, "label_map": labels}


def image(column: str, values: np.ndarray | None = None) -> sitk.Image:
    made = sitk.GetImageFromArray(good_arrays()[column] if values is None else values)
    if made.GetDimension() == 3:
        made.SetSpacing(SPACING_XYZ_MM[column])
        made.SetOrigin((-1.0, -1.5, -0.7) if column == "pet" else (0.0, 0.0, 0.0))
    return made


def save(made: sitk.Image, path: Path, *, packed: bool = False) -> Path:
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.SetUseCompression(packed)
    writer.Execute(made)
    return path


# NIfTI

UPRIGHT = ((280, "4f", 2, 0, 0, 0), (296, "4f", 0, 2, 0, 0), (312, "4f", 0, 0, 3, 0))


def nifti(
    *changes: tuple, column: str = "ct", values: np.ndarray | None = None, edit: Callable[[bytes], bytes] = bytes
) -> Make:
    """A NIfTI file with numbers of its header replaced (offset, format, values), then edited as bytes."""

    def make(folder: Path) -> str:
        path = save(image(column, values), folder / "a.nii")
        data = bytearray(path.read_bytes())
        for offset, form, *numbers in changes:
            struct.pack_into(f"<{form}", data, offset, *numbers)
        path.write_bytes(edit(bytes(data)))
        return str(path)

    return make


def zipped(make: Make, edit: Callable[[bytes], bytes] = bytes) -> Make:
    """The same file through gzip, its stream edited as bytes."""

    def make_zipped(folder: Path) -> str:
        path = Path(make(folder))
        (folder / "a.nii.gz").write_bytes(edit(gzip.compress(path.read_bytes(), mtime=0)))
        return str(folder / "a.nii.gz")

    return make_zipped


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def bomb(data: bytes) -> bytes:
    """Four gigabytes of zeros after the file, in four megabytes: members of a gzip file follow each other."""
    zeros = gzip.compress(bytes(2**24), 9, mtime=0)
    return data + zeros * (BOMB_BYTES // 2**24)


def sheared() -> tuple[tuple, ...]:
    return (252, "2h", 0, 1), UPRIGHT[0], (296, "4f", 0, 2, 0.6, 0), (312, "4f", 0, 0, 2.94, 0)


NIFTI = {
    "spacing of zero": Hostile("ct", nifti((80, "f", 0)), "spacing"),
    "negative spacing": Hostile("ct", nifti((84, "f", -2)), "spacing"),
    "spacing far below a voxel": Hostile("ct", nifti((254, "h", 0), (80, "f", 1e-9)), "spacing of 0.1 mm or more"),
    "spacing that is no number": Hostile("pet", nifti((80, "f", np.nan), column="pet"), "spacing"),
    "infinite origin": Hostile("ct", nifti((292, "f", np.inf)), "placing"),
    "voxels in metres": Hostile("ct", nifti((123, "B", 1)), "at most 10000 mm"),
    "unknown unit": Hostile("ct", nifti((123, "B", 7)), "unit 7"),
    "axes that lean": Hostile("ct", nifti(*sheared()), "sheared"),
    "two places": Hostile("lesion", nifti((292, "f", 40), column="lesion"), "two places"),
    "no rotation": Hostile("ct", nifti((254, "h", 0), (256, "f", 2)), "no rotation"),
    "form codes of no meaning": Hostile("ct", nifti((252, "2h", 256, 256)), "qform code 256"),
    "time series": Hostile("pet", nifti(column="pet", values=np.ones((2, 3, 4, 5), np.float32)), "damaged|3-D image"),
    "four axes": Hostile("ct", nifti((40, "8h", 4, 16, 16, 5, 2, 1, 1, 1)), r"3-D image.*\(16, 16, 5, 2\)"),
    "colours": Hostile("ct", nifti((70, "2h", 128, 24)), "not one scalar 3-D image.*RGB"),
    "complex numbers": Hostile("ct", nifti((70, "2h", 32, 64)), "not one scalar 3-D image.*complex"),
    "two axes": Hostile("ct", nifti((40, "8h", 2, 16, 160, 1, 1, 1, 1, 1)), "not one scalar 3-D image"),
    "sizes beyond any file": Hostile("ct", nifti((40, "8h", 3, 32767, 32767, 32767, 1, 1, 1, 1)), "at most 536870912"),
    "sizes that overflow": Hostile("ct", nifti((40, "8h", 7, *[32767] * 7)), "at most 536870912"),
    "negative size": Hostile("ct", nifti((42, "h", -16)), "sizes"),
    "size of zero": Hostile("ct", nifti((42, "h", 0)), "sizes"),
    "bits of another type": Hostile("ct", nifti((72, "h", 8)), "type 4 and 8 bits, 16 bits expected"),
    "voxels within the header": Hostile("ct", nifti((108, "f", 16)), "begin at byte 16"),
    "voxels nowhere": Hostile("ct", nifti((108, "f", np.inf)), "begin at byte inf"),
    "slope that is no number": Hostile("ct", nifti((112, "f", np.nan)), "slope nan"),
    "slope next to nothing": Hostile("pet", nifti((112, "2f", 1e-20, 0), column="pet"), "slope 1e-20"),
    "slope beyond numbers": Hostile("ct", nifti((112, "2f", 3e38, 0)), "NaN or infinite|lies within 100000"),
    "no orientation": Hostile("ct", nifti((252, "2h", 0, 0)), "qform and sform code are 0"),
    "nan among the voxels": Hostile("pet", nifti((352, "f", np.nan), column="pet"), "1 voxels that are NaN"),
    "half a file": Hostile("ct", nifti(edit=half), "bytes of voxels, 5120 expected"),
    "a byte too many": Hostile("ct", nifti(edit=lambda data: data[:352] + b"\0" + data[352:]), "goes on after"),
    "another magic": Hostile("ct", nifti((344, "4s", b"ni1\0")), "single-file NIfTI-1"),
    "nifti 2": Hostile("ct", nifti((0, "i", 540)), "single-file NIfTI-1"),
    "half a gzip stream": Hostile("ct", zipped(nifti(), half), "damaged or cut short"),
    "gzip with a wrong bit": Hostile("pet", zipped(nifti(column="pet"), flipped), "damaged or cut short"),
    "text called gzip": Hostile("ct", zipped(nifti(), lambda _: b"dear colleague"), "damaged or cut short.*gzip"),
    "gzip bomb behind the voxels": Hostile("ct", zipped(nifti(), bomb), "goes on after the 5120 bytes"),
    "gzip bomb of a mask": Hostile("lesion", zipped(nifti(column="lesion"), bomb), "goes on after the 2560 bytes"),
    "gzip bomb with sizes to fit": Hostile(
        "ct", zipped(nifti((40, "8h", 3, 2048, 2048, 1024, 1, 1, 1, 1)), bomb), "at most 536870912"
    ),
    "no byte at all": Hostile("ct", nifti(edit=lambda _: b""), r"empty \(0 bytes\)"),
}

# NRRD and MetaImage


def header(
    name: str,
    changes: dict[str, str | None],
    *,
    column: str = "ct",
    packed: bool = False,
    edit: Callable[[bytes], bytes] = bytes,
    voxels: Callable[[bytes], bytes] = bytes,
) -> Make:
    """A NRRD or MetaImage file with lines of its header replaced, added or dropped (None); then header or voxels edited."""

    def make(folder: Path) -> str:
        path = save(image(column), folder / name, packed=packed)
        between = ": " if path.suffix in {".nrrd", ".nhdr"} else " = "
        end = b"\n\n" if path.suffix in {".nrrd", ".nhdr"} else b"ElementDataFile = "
        before, mark, after = path.read_bytes().partition(end)
        if end != b"\n\n":
            last, newline, after = after.partition(b"\n")
            before, mark = before + mark + last, newline
        lines = before.decode().splitlines()
        kept = [line for line in lines if line.partition(between)[0] not in changes]
        new = [f"{field}{between}{value}" for field, value in changes.items() if value is not None]
        # the file of a MetaImage's voxels ends its header
        ordered = [*kept, *new] if between == ": " or "ElementDataFile" in changes else [*kept[:-1], *new, kept[-1]]
        path.write_bytes(edit("\n".join(ordered).encode("latin-1")) + mark + voxels(after))
        return str(path)

    return make


def with_raw(make: Make, change: Callable[[Path], None]) -> Make:
    """A header whose file of voxels is changed."""

    def make_changed(folder: Path) -> str:
        path = make(folder)
        change(folder / "a.raw")
        return path

    return make_changed


def zlib_bomb(_: bytes) -> bytes:
    """One stream of zlib: a block of zeros that needs nothing before it, repeated."""
    packer = zlib.compressobj(9)
    first = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + block * (BOMB_BYTES // 2**24)


NRRD = {
    "nrrd directions of letters": Hostile(
        "ct", header("a.nrrd", {"space directions": "(2,0,0) (0,x,0) (0,0,3)"}), "space directions"
    ),
    "nrrd directions of two": Hostile("ct", header("a.nrrd", {"space directions": "(2,0,0) (0,2,0)"}), "3 vector"),
    "nrrd axes that lean": Hostile(
        "ct", header("a.nrrd", {"space directions": "(2,0,0) (1,2,0) (0,0,3)"}), "not perpendicular"
    ),
    "nrrd of zero spacing": Hostile("ct", header("a.nrrd", {"space directions": "(0,0,0) (0,2,0) (0,0,3)"}), "a.nrrd"),
    "nrrd of four axes": Hostile("ct", header("a.nrrd", {"dimension": "4", "sizes": "3 16 16 10"}), "scalar 3-D image"),
    "nrrd sizes that overflow": Hostile("ct", header("a.nrrd", {"sizes": "4294967296 4294967296 1"}), "536870912"),
    "nrrd in inches": Hostile("ct", header("a.nrrd", {"space units": '"inch" "inch" "inch"'}), "'inch': expected mm"),
    "nrrd in text": Hostile("ct", header("a.nrrd", {"encoding": "ascii"}), "'ascii': expected raw or gzip"),
    "nrrd without byte order": Hostile("ct", header("a.nrrd", {"endian": None}), "byte order"),
    "nrrd in no patients space": Hostile("ct", header("a.nrrd", {"space": "scanner-xyz"}), "'scanner-xyz'"),
    "nrrd without end of header": Hostile(
        "ct", header("a.nrrd", {}, edit=lambda data: data + b"\n#" + b"x" * 2**17), "does not end within"
    ),
    "half a nrrd": Hostile("pet", header("a.nrrd", {}, column="pet", voxels=half), "3200 expected"),
    "nrrd bomb": Hostile("ct", header("a.nrrd", {}, packed=True, voxels=zlib_bomb), "goes on after the 5120 bytes"),
    "nrrd gzip with a wrong bit": Hostile("ct", header("a.nrrd", {}, packed=True, voxels=flipped), "damaged"),
    "nhdr of a file elsewhere": Hostile("ct", header("a.nhdr", {"data file": "/etc/passwd"}), "same folder expected"),
    "nhdr of a file above": Hostile("ct", header("a.nhdr", {"data file": "../../b.raw"}), "same folder expected"),
    "nhdr of a list": Hostile("ct", header("a.nhdr", {"data file": "LIST"}), "list of files"),
    "nhdr of unreadable letters": Hostile("ct", header("a.nhdr", {"data file": "\xff\xfe.raw"}), "is not there"),
    "nhdr without its voxels": Hostile("ct", with_raw(header("a.nhdr", {}), Path.unlink), "is not there"),
    "nhdr of a pipe": Hostile(
        "ct", with_raw(header("a.nhdr", {}), lambda raw: (raw.unlink(), os.mkfifo(raw))[1]), "no regular file"
    ),
}
MATRIX = "TransformMatrix"
METAIMAGE = {
    "metaimage of 73 axes": Hostile("ct", header("a.mha", {"NDims": "73"}), "NDims = '73'"),
    "metaimage of fewer than no axes": Hostile("ct", header("a.mhd", {"NDims": "-3"}), "NDims = '-3'"),
    "metaimage without origin": Hostile("ct", header("a.mha", {"Offset": None}), "no Offset"),
    "metaimage without axes": Hostile("ct", header("a.mha", {MATRIX: None}), "no TransformMatrix"),
    "metaimage of no axes": Hostile("ct", header("a.mha", {MATRIX: "0 0 0 0 0 0 0 0 0"}), "a.mha"),
    "metaimage axes that lean": Hostile("ct", header("a.mha", {MATRIX: "1 0 0 .3 1 0 0 0 1"}), "not perpendicular"),
    "metaimage of negative spacing": Hostile("ct", header("a.mha", {"ElementSpacing": "-2 2 3"}), "a.mha"),
    "metaimage sizes of letters": Hostile("ct", header("a.mha", {"DimSize": "1_6 16 10"}), "whole numbers expected"),
    "metaimage sizes beyond any file": Hostile("ct", header("a.mha", {"DimSize": "99999 99999 99999"}), "536870912"),
    "metaimage of colours": Hostile("ct", header("a.mha", {"ElementNumberOfChannels": "3"}), "scalar 3-D image"),
    "metaimage without byte order": Hostile("ct", header("a.mha", {"BinaryDataByteOrderMSB": None}), "byte order"),
    "metaimage in text": Hostile("ct", header("a.mha", {"BinaryData": "False"}), "BinaryData = True"),
    "metaimage with scaled voxels": Hostile(
        "pet", header("a.mha", {"ElementToIntensityFunctionSlope": "2"}, column="pet"), "values as they are"
    ),
    "metaimage behind another header": Hostile("ct", header("a.mhd", {"HeaderSize": "16"}), "HeaderSize"),
    "metaimage that gives a size twice": Hostile(
        "ct", header("a.mha", {}, edit=lambda data: b"DimSize = 16 16 2\n" + data), "DimSize twice"
    ),
    "half a metaimage": Hostile("ct", header("a.mha", {}, voxels=half), "2560 bytes of voxels, 5120 expected"),
    "half a packed metaimage": Hostile("ct", header("a.mha", {}, packed=True, voxels=half), "damaged"),
    "metaimage bomb": Hostile(
        "ct",
        with_raw(
            header("a.mhd", {"CompressedDataSize": None}, packed=True),
            lambda raw: raw.with_name("a.zraw").write_bytes(zlib_bomb(b"")),
        ),
        "goes on after the 5120",
    ),
    "packed metaimage of no length": Hostile(
        "ct", header("a.mha", {"CompressedDataSize": None}, packed=True), r"\(CompressedDataSize\)"
    ),
    "metaimage of fewer packed bytes": Hostile(
        "ct", header("a.mha", {"CompressedDataSize": "100"}, packed=True), "CompressedDataSize = '100'"
    ),
    "mhd without its voxels": Hostile("ct", with_raw(header("a.mhd", {}), Path.unlink), "is not there"),
    "mhd of voxels too many": Hostile(
        "ct", with_raw(header("a.mhd", {}), lambda raw: raw.write_bytes(raw.read_bytes() * 2)), "goes on after"
    ),
    "mhd of a file called local": Hostile(
        "ct",
        with_raw(
            header("a.mhd", {"ElementDataFile": "LOCALS.raw"}), lambda raw: raw.rename(raw.with_name("LOCALS.raw"))
        ),
        "LOCAL or the name of a file",
    ),
}

# Voxels that are no CT, PET, mask or label map


def other(column: str, change: Callable[[np.ndarray], np.ndarray], origin: tuple[float, ...] | None = None) -> Make:
    def make(folder: Path) -> str:
        made = image(column, np.ascontiguousarray(change(good_arrays()[column])))
        if origin is not None:
            made.SetOrigin(origin)
        return str(save(made, folder / "a.nii.gz", packed=True))

    return make


VOXELS = {
    "ct of positive values": Hostile("ct", other("ct", abs), "no negative value", IntensityError),
    "ct beyond any material": Hostile(
        "ct", other("ct", lambda ct: ct.astype(np.float32) * 1e6), "lies within 100000", IntensityError
    ),
    "ct in another type": Hostile(
        "ct", nifti((70, "2h", 8, 32), (40, "8h", 3, 16, 16, 5, 1, 1, 1, 1)), "100000", IntensityError
    ),
    "pet in becquerels": Hostile("pet", other("pet", lambda pet: pet * 5000), "must be converted", IntensityError),
    "pet far below zero": Hostile("pet", other("pet", lambda pet: pet - 1e6), "lowest value", IntensityError),
    "pet of zeros": Hostile("pet", other("pet", lambda pet: pet * 0), "largest value of 0", IntensityError),
    "pet of another patient": Hostile("pet", other("pet", abs, (900.0, 0.0, 0.0)), "another patient", GeometryError),
    "empty mask": Hostile("lesion", other("lesion", lambda mask: mask * 0), "is empty", MaskError),
    "mask of three labels": Hostile(
        "lesion", other("lesion", lambda mask: mask * np.arange(1, 17, dtype=np.uint8)), "label_map", MaskError
    ),
    "mask of another study": Hostile("lesion", other("lesion", abs, (900.0, 0, 0)), "another study", MaskError),
    "mask of fractions": Hostile("lesion", other("lesion", lambda mask: mask * np.float32(0.5)), "whole numbers"),
    "mask below zero": Hostile("lesion", other("lesion", lambda mask: -mask.astype(np.int16)), "whole numbers"),
    "mask beyond 16 bits": Hostile("lesion", other("lesion", lambda mask: mask * np.int32(70_000)), "whole numbers"),
    "label map without vertebra": Hostile(
        "label_map", other("label_map", lambda labels: labels // 30), "no vertebra", MaskError
    ),
}

# What stands in a file's place


def link(target: str, name: str = "a.nii") -> Make:
    def make(folder: Path) -> str:
        (folder / name).symlink_to(target)
        return str(folder / name)

    return make


def listening(folder: Path) -> str:
    # A socket's path may have a hundred characters and no more.
    here = Path.cwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("a.nii")
    finally:
        os.chdir(here)
    return str(folder / "a.nii")


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "a.nii")
    return str(folder / "a.nii")


def folder_called(name: str) -> Make:
    def make(folder: Path) -> str:
        (folder / name).mkdir()
        return str(folder / name)

    return make


def called(name: str) -> Make:
    """A damaged file with this name."""

    def make(folder: Path) -> str:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x" * 400)
        return str(folder / name)

    return make


OBSTACLES = {
    "missing file": Hostile("ct", lambda folder: str(folder / "none.nii"), "file not found: CT", refused=True),
    "link to nothing": Hostile("ct", link("gone.nii"), "a link that leads to no file", refused=True),
    "link to itself": Hostile("pet", link("a.nii"), "a link that leads to no file", refused=True),
    "pipe": Hostile("ct", pipe, "a pipe, socket or device", refused=True),
    "socket": Hostile("ct", listening, "a pipe, socket or device", refused=True),
    "link to endless zeros": Hostile("ct", link("/dev/zero"), "a pipe, socket or device", refused=True),
    "link to a terminal": Hostile("lesion", link("/dev/tty"), "a pipe, socket or device", refused=True),
    "path with nul": Hostile("ct", lambda folder: f"{folder}/a\0.nii", "NUL character", refused=True),
    "name beyond the file system": Hostile(
        "ct", lambda folder: f"{folder}/{'n' * 300}.nii", "File name too long", refused=True
    ),
    "path beyond the file system": Hostile(
        "ct", lambda folder: f"{folder}/{'deep/' * 2000}a.nii", "File name too long", refused=True
    ),
    "file as a folder": Hostile("ct", lambda folder: f"{called('b')(folder)}/a.nii", "file not found", refused=True),
    "link to the kernel": Hostile("ct", link("/proc/self/status"), r"empty \(0 bytes\)"),
    "folder as a mask": Hostile("lesion", folder_called("a.nii.gz"), "is a folder: expected a file"),
    "folder as a label map": Hostile("label_map", folder_called("a.nii.gz"), "is a folder: expected a file"),
    "empty folder as a ct": Hostile("ct", folder_called("series"), "no DICOM image"),
    "picture": Hostile("lesion", called("a.png.nrrd"), "does not begin with NRRD0001"),
    "single dicom file": Hostile("ct", called("IM0001.dcm"), "no format read here"),
    "name of two lines": Hostile("ct", called("a\nb\x1b[2J.nii"), r"a\\nb\\x1b\[2J\.nii is damaged"),
    "name like markup": Hostile("ct", called("[/b][red]a.nii"), r"b\]\[red\]a\.nii is damaged"),
    "name of many alphabets": Hostile("ct", called("Ö-患者-😀 'a\".nii"), "Ö-患者-😀 'a\".nii is damaged"),
}
FILES = NIFTI | NRRD | METAIMAGE | VOXELS | OBSTACLES
