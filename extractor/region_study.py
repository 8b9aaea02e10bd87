"""Writes one study's regions as the extractor will use them, as images on the CT's grid and as pictures; knows no store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from scipy import ndimage

from extractor.pictures import Rgb, outlined, side_by_side, sized
from extractor.study import PreparedStudy, PrepareRules, StudyFiles, prepare_study
from extractor.volumes import Grid, write_image

HEIGHT_PX, WIDTH_PX = 640, 420
"""Most that a panel of a picture takes; all panels of one show a millimetre by as many pixels."""
FORMAT = 1
"""Raised when what is written of a study changes, so that a rerun makes it anew."""
EDGES = (("feet", "head"), ("front", "back"), ("right", "left"))
"""What lies before the first and after the last voxel along z, y and x."""


def region_settings(rules: PrepareRules) -> dict[str, Any]:
    """All that decides the regions' images and pictures, as JSON."""
    settings: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **asdict(rules)}))
    return settings


def write_regions(files: StudyFiles, folder: Path, *, rules: PrepareRules) -> dict[str, Any]:
    """Writes ROI.nii.gz and ROI.png of every region, and gives their facts.

    Raises
    ------
    StudyError
        As `prepare_study` does: what the extractor would refuse is refused here.
    """
    rules, pet = _looked_at(files, rules)
    prepared = prepare_study(files, rules)
    return {
        "grid": asdict(prepared.grid),
        "pet": pet,
        "regions": [_written(prepared, roi, folder) for roi in prepared.masks_zyx],
    }


def _looked_at(files: StudyFiles, rules: PrepareRules) -> tuple[PrepareRules, str]:
    """The rules without the PET where it cannot be read, and what is said of it."""
    if "PET" not in rules.modalities or files.pet is None:
        return replace(rules, modalities=("CT",)), "no PET in the table or the settings"
    if rules.pet_units is None and Path(files.pet).is_file():
        return replace(rules, modalities=("CT",)), "not looked at: its units are not declared (pet_units: suv)"
    return replace(rules, modalities=("CT", "PET")), ""


def _written(prepared: PreparedStudy, roi: str, folder: Path) -> dict[str, Any]:
    """Files and facts of one region."""
    mask, grid = prepared.masks_zyx[roi], prepared.grid
    write_image(mask, grid, folder / f"{roi}.nii.gz")
    Image.fromarray(region_picture(prepared.images_zyx["CT"], mask, grid)).save(folder / f"{roi}.png", optimize=True)
    slices = int(mask.any(axis=(1, 2)).sum())
    return {
        "roi": roi,
        "volume_ml": float(mask.sum(dtype=np.int64) * np.prod(grid.spacing_xyz_mm) / 1000),
        "slices": slices,
        "outside_pet": prepared.outside_share.get(roi),
        "outside_ct": prepared.outside_ct_share[roi],
        "warnings": _warnings(prepared, roi, slices),
    }


def _warnings(prepared: PreparedStudy, roi: str, slices: int) -> list[str]:
    """What a person should look at before using a region."""
    said = list(prepared.notes.get(roi, ()))
    if slices == 1:
        said.append("it has a single slice: a single memory")
    said += [f"it reaches the edge of the CT towards {edge}: it may go on beyond" for edge in _edges(prepared, roi)]
    shares: Mapping[str, float | None] = {
        "PET": prepared.outside_share.get(roi),
        "CT": prepared.outside_ct_share[roi],
    }
    said += [f"{share:.2%} of it lies outside the {name}" for name, share in shares.items() if share]
    return said


def _edges(prepared: PreparedStudy, roi: str) -> list[str]:
    mask = prepared.masks_zyx[roi]
    return [
        edge
        for axis, names in enumerate(EDGES)
        for place, edge in zip((0, -1), names, strict=True)
        if mask.take(place, axis=axis).any()
    ]


def region_picture(ct_zyx: UInt8[np.ndarray, "z y x"], mask_zyx: UInt8[np.ndarray, "z y x"], grid: Grid) -> Rgb:
    """Coronal and sagittal maximum projections, then the coronal, sagittal and axial slice through the region's middle.

    The region's outline is orange; in projections it is that of its shadow. Superior is up, anterior on the left of a sagittal
    picture and up in the axial one, the patient's left on the right of the others; millimetres are square.
    """
    mask, (x_mm, y_mm, z_mm) = mask_zyx != 0, grid.spacing_xyz_mm
    z, y, x = _middle(mask)
    upright = slice(None, None, -1)
    panels = [
        (ct_zyx.max(axis=1)[upright], mask.any(axis=1)[upright], (z_mm, x_mm)),
        (ct_zyx.max(axis=2)[upright], mask.any(axis=2)[upright], (z_mm, y_mm)),
        (ct_zyx[upright, y], mask[upright, y], (z_mm, x_mm)),
        (ct_zyx[upright, :, x], mask[upright, :, x], (z_mm, y_mm)),
        (ct_zyx[z], mask[z], (y_mm, x_mm)),
    ]
    depth, height, width = np.multiply(mask.shape, (z_mm, y_mm, x_mm))
    scale = min(HEIGHT_PX / depth, WIDTH_PX / max(height, width))
    return side_by_side(
        [outlined(sized(grey, _size(grey.shape, pixel_mm, scale)), inside) for grey, inside, pixel_mm in panels]
    )


def _size(shape: tuple[int, ...], pixel_mm: tuple[float, float], scale: float) -> tuple[int, int]:
    """Width and height in pixels at `scale` pixels per millimetre."""
    rows, columns = (max(1, round(n * step_mm * scale)) for n, step_mm in zip(shape, pixel_mm, strict=True))
    return columns, rows


def _middle(mask_zyx: np.ndarray) -> tuple[int, int, int]:
    """The voxel of the region that is nearest to its centre along each axis, so that every slice shows some of it."""
    centre = ndimage.center_of_mass(mask_zyx)
    places = (np.flatnonzero(mask_zyx.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3))
    z, y, x = (int(there[np.abs(there - at).argmin()]) for there, at in zip(places, centre, strict=True))
    return z, y, x
