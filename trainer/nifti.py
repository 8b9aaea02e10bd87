"""Writes a map on an image's grid as NIfTI-1, so that it lies on the image in every viewer; knows nothing of what it shows."""

import gzip

import nibabel as nib
import numpy as np
from jaxtyping import Float, Float32

from trainer.image_grid import ImageGrid

RAS_OF_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""NIfTI counts towards right, anterior, superior; stores count towards left, posterior, superior."""
SCANNER = 1
"""NIfTI's code of a place in the scanner."""


def ras_affine(grid: ImageGrid) -> Float[np.ndarray, "4 4"]:
    """From voxel numbers x, y, z to millimetres towards right, anterior, superior."""
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(grid.direction, (3, 3)) * np.asarray(grid.spacing_xyz_mm)
    lps[:3, 3] = grid.origin_xyz_mm
    return np.asarray(RAS_OF_LPS @ lps)


def nifti_bytes(map_zyx: Float32[np.ndarray, "z y x"], grid: ImageGrid, *, told: str) -> bytes:
    """A `.nii.gz` file of a map on the grid, qform and sform alike, NaN kept; the same map gives the same bytes.

    Parameters
    ----------
    map_zyx
        One value a voxel of the grid.
    told
        What the values are, at most 79 letters.
    """
    affine = ras_affine(grid)
    header = nib.Nifti1Header()
    header.set_xyzt_units("mm")
    header["descrip"] = told.encode("ascii", "replace")[:79]
    image = nib.Nifti1Image(np.asarray(map_zyx.transpose(2, 1, 0), dtype=np.float32), affine, header)
    image.set_qform(affine, code=SCANNER)
    image.set_sform(affine, code=SCANNER)
    # no time of writing; most voxels are NaN, which the fastest level packs well
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
