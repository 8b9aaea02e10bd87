"""Writes small DICOM series as scanners do, for tests: every field can be changed or taken away."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)

Change = Callable[[Dataset, int], None]
"""Changes the header of the slice with this rank along the normal."""
DAY, SCANNED, INJECTED = "20260110", "101500.00", "091500.00"
DOSE_BQ, WEIGHT_KG, HALF_LIFE_S = 370e6, 74.0, 6586.2
UPTAKE_S = 3600.0
BQML_TO_SUV = 1000 * WEIGHT_KG / (DOSE_BQ * 0.5 ** (UPTAKE_S / HALF_LIFE_S))
"""By hand: grams per becquerel that was left an hour after the injection."""


def keep(header: Dataset, rank: int) -> None:
    """Changes nothing."""


def write_series(
    folder: Path,
    stored_zyx: np.ndarray,
    *,
    role: str = "CT",
    spacing_xyz_mm: tuple[float, float, float] = (2.0, 2.0, 3.0),
    origin_xyz_mm: tuple[float, float, float] = (-10.0, -12.0, 40.0),
    axes: np.ndarray | None = None,
    slope: Callable[[int], float] = lambda rank: 1.0,
    intercept: float = -1024.0,
    syntax: str = ExplicitVRLittleEndian,
    change: Change = keep,
    name: Callable[[int], str] = lambda rank: f"IM{rank:04d}.dcm",
) -> Path:
    """One file a slice; `axes` holds the directions of row, column and normal in its columns."""
    folder.mkdir(parents=True, exist_ok=True)
    # Values that no field may have are written too.
    with config.disable_value_validation():
        _write(folder, stored_zyx, role, spacing_xyz_mm, origin_xyz_mm, axes, slope, intercept, syntax, change, name)
    return folder


def _write(
    folder, stored_zyx, role, spacing_xyz_mm, origin_xyz_mm, axes, slope, intercept, syntax, change, name
) -> None:
    axes = np.eye(3) if axes is None else axes
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for rank, stored_yx in enumerate(stored_zyx):
        header = Dataset()
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = syntax
        header.SOPClassUID = CTImageStorage if role == "CT" else PositronEmissionTomographyImageStorage
        header.SOPInstanceUID = generate_uid()
        header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = study, series, frame
        header.Modality, header.SeriesNumber = ("CT" if role == "CT" else "PT"), 4
        header.PatientName, header.PatientID = "DOE^JANE", "HOSP-1234567"
        header.ImageType = ["ORIGINAL", "PRIMARY"]
        header.InstanceNumber = len(stored_zyx) - rank
        place = np.array(origin_xyz_mm) + rank * spacing_xyz_mm[2] * axes[:, 2]
        header.ImagePositionPatient = [f"{value:.6f}" for value in place]
        header.ImageOrientationPatient = [f"{value:.8f}" for value in axes[:, :2].T.reshape(-1)]
        header.PixelSpacing = [spacing_xyz_mm[1], spacing_xyz_mm[0]]
        _pixels(header, stored_yx)
        header.RescaleSlope, header.RescaleIntercept = f"{slope(rank):.8g}", intercept
        header.RescaleType = "HU"
        if role == "PET":
            _pet(header, rank)
        change(header, rank)
        header.save_as(folder / name(rank), enforce_file_format=True, little_endian=True, implicit_vr=False)


def _pixels(header: Dataset, stored_yx: np.ndarray) -> None:
    header.Rows, header.Columns = stored_yx.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = stored_yx.dtype.itemsize * 8
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(stored_yx.dtype.kind == "i")
    header.add_new(0x7FE00010, "OW", stored_yx.tobytes() + b"\0" * (stored_yx.nbytes % 2))


def _pet(header: Dataset, rank: int) -> None:
    del header.RescaleType
    header.RescaleIntercept = 0
    header.Units, header.DecayCorrection = "BQML", "START"
    header.CorrectedImage = ["NORM", "DTIM", "ATTN", "SCAT", "DECY"]
    header.SeriesDate = header.AcquisitionDate = DAY
    header.SeriesTime, header.AcquisitionTime = SCANNED, f"{float(SCANNED) + min(2 * rank, 59):09.2f}"
    header.PatientWeight = WEIGHT_KG
    isotope = Dataset()
    isotope.RadionuclideTotalDose, isotope.RadionuclideHalfLife = DOSE_BQ, HALF_LIFE_S
    isotope.RadiopharmaceuticalStartTime = INJECTED
    header.RadiopharmaceuticalInformationSequence = Sequence([isotope])
