"""Random damage to small image files: an error of the project's tree, or what an independent reader reads; never anything else.

NIfTI is read again by nibabel, NRRD by pynrrd, MetaImage by the lines below, which follow its specification.
"""

import gzip
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extractor.volumes import Volume, read_volume
from store_schema.errors import EngramError

Read = Callable[[Path], tuple[np.ndarray, np.ndarray]]
"""Voxels by x, y, z as the file counts them, and the affine of their indices to LPS millimetres."""
VALUES = np.random.default_rng(0).integers(-1000, 2000, (3, 4, 5)).astype(np.int16)
EXAMPLES = int(os.environ.get("ENGRAM_FUZZ_EXAMPLES", "60"))
"""A day's fuzzing takes others at every run; the usual 60 are always the same."""
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
METRES = {1: 1000.0, 3: 0.001}


def nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    found = nibabel.load(path)
    unit_mm = METRES.get(int(found.header["xyzt_units"]) & 7, 1.0)
    affine = RAS_TO_LPS @ np.diag([unit_mm, unit_mm, unit_mm, 1.0]) @ found.affine
    return np.asanyarray(found.dataobj), affine


def by_pynrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    # pynrrd wants names in small letters and no blank within a vector, where the format does not mind.
    header, blank, data = path.read_bytes().partition(b"\n\n")
    header = re.sub(rb"^[\w ]+(?=:)", lambda name: name[0].lower(), header, flags=re.MULTILINE)
    header = re.sub(rb"\([^()\n]*\)", lambda vector: vector[0].replace(b" ", b""), header)
    plain = path.with_name(f"plain-{path.name}")
    plain.write_bytes(header + blank + data)
    try:
        values, header = nrrd.read(str(plain))
    finally:
        plain.unlink()
    affine = np.eye(4)
    affine[:3, :3] = header["space directions"].T
    affine[:3, 3] = header["space origin"]
    letters = header["space"].lower()
    signs = {"left": (1, 1, 1), "right": (-1, -1, 1)}
    flips = signs["left" if letters in {"lps", "left-posterior-superior"} else "right"]
    if letters in {"las", "left-anterior-superior"}:
        flips = (1, -1, 1)
    return values, np.diag([*flips, 1.0]) @ affine


def metaimage(path: Path) -> tuple[np.ndarray, np.ndarray]:
    data, fields = path.read_bytes(), {}
    while "ElementDataFile" not in fields:
        line, _, data = data.partition(b"\n")
        name, _, value = line.decode("latin-1").partition("=")
        fields[name.strip()] = value.strip()
    if fields["ElementDataFile"].upper() != "LOCAL":
        data = (path.parent / fields["ElementDataFile"]).read_bytes()
    if fields.get("CompressedData", "False") in {"True", "true", "T", "1"}:
        data = zlib.decompress(data)
    order = next(fields[name] for name in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB") if name in fields)
    kinds = {
        "MET_CHAR": "i1",
        "MET_UCHAR": "u1",
        "MET_SHORT": "i2",
        "MET_USHORT": "u2",
        "MET_INT": "i4",
        "MET_UINT": "u4",
    }
    kinds |= {"MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8"}
    kinds |= {"MET_FLOAT": "f4", "MET_DOUBLE": "f8"}
    kind = np.dtype((">" if order in {"True", "true", "T", "1"} else "<") + kinds[fields["ElementType"]])
    sizes = [int(word) for word in fields["DimSize"].split()]
    affine = np.eye(4)
    axes = next(fields[name] for name in ("TransformMatrix", "Rotation", "Orientation") if name in fields)
    origin = next(fields[name] for name in ("Offset", "Position", "Origin") if name in fields)
    spacing = np.array(fields["ElementSpacing"].split(), float)
    # The specification keeps the direction of each axis in a row of its own.
    affine[:3, :3] = np.array(axes.split(), float).reshape(3, 3).T * spacing
    affine[:3, 3] = np.array(origin.split(), float)
    return np.frombuffer(data, kind).reshape(sizes, order="F"), affine


READERS: dict[str, Read] = {
    "a.nii": nifti,
    "a.nii.gz": nifti,
    "a.nrrd": by_pynrrd,
    "a.nhdr": by_pynrrd,
    "a.mha": metaimage,
    "a.mhd": metaimage,
}


def written(folder: Path, name: str, packed: bool) -> dict[Path, bytes]:
    made = sitk.GetImageFromArray(VALUES)
    made.SetOrigin((-10.0, -20.0, 30.0))
    made.SetSpacing((1.5, 2.0, 3.0))
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(folder / name))
    writer.SetUseCompression(packed)
    writer.Execute(made)
    return {path: path.read_bytes() for path in sorted(folder.iterdir())}


def check_same(volume: Volume, voxels: np.ndarray, affine: np.ndarray) -> None:
    """Every voxel of the volume, found again by its place in the patient."""
    grid = volume.grid
    ours = np.eye(4)
    ours[:3, :3] = np.reshape(grid.direction, (3, 3)) * grid.spacing_xyz_mm
    ours[:3, 3] = grid.origin_xyz_mm
    indices = np.stack(np.meshgrid(*map(np.arange, grid.size_xyz), indexing="ij"), axis=-1).reshape(-1, 3)
    places = np.c_[indices, np.ones(len(indices))] @ ours.T
    theirs = places @ np.linalg.inv(affine).T
    # 1% of a voxel: NIfTI may give two places that differ by a tenth of a millimetre.
    np.testing.assert_allclose(theirs, np.rint(theirs), atol=0.1)
    x, y, z = np.rint(theirs[:, :3]).astype(int).T
    assert len({*zip(x, y, z, strict=True)}) == voxels.size
    expected = voxels[x, y, z].astype(np.float32)
    found = volume.array_zyx.transpose(2, 1, 0).reshape(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A cut, or some bytes changed, dropped or put in; mostly near the beginning, where headers are."""
    if draw(st.integers(0, 9)) == 0:
        share = draw(st.floats(0, 1, exclude_max=True))
        return lambda data: data[: int(share * len(data))]
    place = st.one_of(st.integers(0, 360), st.integers(0, 2000))
    byte = st.one_of(st.sampled_from(list(b"0123456789.-+eE \n=:(),")), st.integers(0, 255))
    edits = draw(st.lists(st.tuples(place, byte, st.sampled_from("ccccdi")), min_size=1, max_size=4))

    def changed(data: bytes) -> bytes:
        made = bytearray(data)
        for where, value, kind in edits:
            at = where % max(1, len(made))
            made[at : at + (kind != "i")] = b"" if kind == "d" else bytes([value])
        return bytes(made)

    return changed


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_refused_or_read_as_another_reader_reads_it(tmp_path_factory, name, packed):
    folder = tmp_path_factory.mktemp("fuzz")
    whole = written(folder, name, packed)
    refusals: list[str] = []

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=EXAMPLES == 60,
        suppress_health_check=list(HealthCheck),
    )
    @given(damage(), st.booleans(), st.integers(0, 9))
    def check(change: Callable[[bytes], bytes], inside: bool, which: int) -> None:
        for path, data in whole.items():
            path.write_bytes(data)
        target = folder / name if which else max(whole)
        data = whole[target]
        zipped = name.endswith(".gz") and inside
        damaged = gzip.compress(change(gzip.decompress(data)), 1) if zipped else change(data)
        target.write_bytes(damaged)
        try:
            volume = read_volume(str(folder / name))
        except EngramError as error:
            refusals.append(str(error))
            return
        check_same(volume, *READERS[name](folder / name))

    check()
    assert len(refusals) > EXAMPLES // 10
    assert max(map(len, refusals)) < 1000


def test_the_readers_agree_on_whole_files(tmp_path):
    for name, reader in READERS.items():
        for packed in (False, True):
            folder = tmp_path / f"{name}-{packed}"
            folder.mkdir()
            written(folder, name, packed)
            check_same(read_volume(str(folder / name)), *reader(folder / name))


def test_a_difference_would_be_seen(tmp_path):
    written(tmp_path, "a.nii", False)
    data = bytearray((tmp_path / "a.nii").read_bytes())
    volume = read_volume(str(tmp_path / "a.nii"))
    data[352] ^= 1
    (tmp_path / "a.nii").write_bytes(bytes(data))
    with pytest.raises(AssertionError):
        check_same(volume, *nifti(tmp_path / "a.nii"))
    struct.pack_into("<f", data, 292, 7.0)
    struct.pack_into("<h", data, 252, 0)
    (tmp_path / "a.nii").write_bytes(bytes(data))
    with pytest.raises(AssertionError):
        check_same(volume, *nifti(tmp_path / "a.nii"))
