"""Decodes the compressed slices of one folder through GDCM, in a process of its own; knows no header, unit or place.

`python -m extractor.dicom.gdcm FOLDER` writes an array N.npy beside each file N.dcm. GDCM dies of some damaged streams, and must
not take the run with it.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name that its users know

MAX_MEMORY_BYTES = 2**33
"""Of the decoder's address space: a stream may claim any size, and the largest slice that is read here needs a quarter."""


def main(folder: Path) -> None:
    """Decodes every slice of the folder, in the order of their names."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    for path in sorted(folder.glob("*.dcm")):
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
        np.save(path.with_suffix(".npy"), values[0] if values.ndim == 3 else values)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
