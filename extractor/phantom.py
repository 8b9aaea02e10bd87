"""Writes a synthetic PET/CT cohort with a planted, known signal: images, label maps, clinical table, truth; trains nothing.

`standard`: uptake of marrow and lesions along the spine drives the hazard. `far`: the same, but only in the upper third of the
spine. `ct_only`: the same, as bone density instead of uptake. `null`: the images say nothing about the outcome.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float32

from extractor.phantom_anatomy import (
    HOUNSFIELD,
    INJECTED,
    PITCH_MM,
    SPINE_BOTTOM_MM,
    SPINE_TOP_MM,
    SPINE_Y_MM,
    VERTEBRAE,
    Body,
    Lesion,
    Tissues,
    lesion_profile,
    tissues,
)
from extractor.phantom_table import Factors, Kind, clinical_table, draw_factors, patient_ids, truth_table
from extractor.prompts import kept_slices
from extractor.regions import derive_regions
from extractor.volumes import Grid, Labels, write_image

AXES = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
CT_GRID = Grid((96, 96, 64), (-190.0, -190.0, 2.5), (4.0, 4.0, 5.0), AXES)
PET_GRID = Grid((88, 88, 62), (-195.7, -194.1, 0.8), (4.5, 4.5, 5.25), AXES)
"""The scanner's own grid: another origin and spacing, so that resampling is exercised."""
CENTRE_GAIN = {"A": 0.9, "B": 1.0, "C": 1.1}
"""Nuisance: scanners of the three centres read high or low."""
NOISE_SUV, NOISE_HU = 0.12, 15.0
LESION_RADIUS_MM = 25.0
"""One size for all, and near the spine's axis: an embedding then tells uptake, which is planted, from size and place."""
STRIDE = 2
"""Stride for which the last two kept slices are known to hold a lesion."""
PLAIN_MARROW_SUV = 1.5
"""Uptake where no signal is planted."""


@dataclass(frozen=True)
class CohortFiles:
    """What was written."""

    studies: Path
    clinical: Path
    truth: Path


def write_cohort(
    folder: Path,
    *,
    n: int,
    seed: int,
    kind: Kind = "standard",
    on_patient: Callable[[int, int], None] | None = None,
    processes: int | None = None,
) -> CohortFiles:
    """A cohort of `n` patients under `folder`; the same seed and kind give the same voxels and tables.

    Parameters
    ----------
    on_patient
        Takes how many patients are written and how many there are.
    processes
        Processes that paint; one a core by default, 0 for this one alone.
    """
    factors = draw_factors(n, seed, kind)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    paint = partial(_write_patient, folder, factors=factors, seed=seed, kind=kind)
    workers = (os.cpu_count() or 1) if processes is None else processes
    if workers == 0:
        done = map(paint, range(n))
        _count(done, n, on_patient)
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            _count(pool.map(paint, range(n), chunksize=4), n, on_patient)
    return _write_tables(folder, factors, seed)


def _count(done: Iterable[None], n: int, on_patient: Callable[[int, int], None] | None) -> None:
    for number, _ in enumerate(done, start=1):
        if on_patient is not None:
            on_patient(number, n)


def _write_tables(folder: Path, factors: Factors, seed: int) -> CohortFiles:
    files = CohortFiles(folder / "studies.csv", folder / "clinical.csv", folder / "truth.csv")
    patients = patient_ids(len(factors.z))
    images = {role: [f"images/{patient}_{role}.nii.gz" for patient in patients] for role in ("ct", "pet", "label_map")}
    pd.DataFrame({"patient": patients, **images}).to_csv(files.studies, index=False)
    clinical_table(factors, seed).to_csv(files.clinical, index=False)
    truth_table(factors).to_csv(files.truth, index=False)
    return files


def _write_patient(folder: Path, index: int, *, factors: Factors, seed: int, kind: Kind) -> None:
    patient = patient_ids(len(factors.z))[index]
    ct_hu, pet_suv, labels = paint_patient(factors, index, seed=seed, kind=kind)
    images = folder / "images"
    write_image(np.rint(ct_hu).astype(np.int16), CT_GRID, images / f"{patient}_ct.nii.gz")
    write_image(np.rint(pet_suv * 1000).astype(np.float32) / 1000, PET_GRID, images / f"{patient}_pet.nii.gz")
    write_image(labels, CT_GRID, images / f"{patient}_label_map.nii.gz")


def paint_patient(
    factors: Factors, index: int, *, seed: int, kind: Kind
) -> tuple[Float32[np.ndarray, "z y x"], Float32[np.ndarray, "z y x"], np.ndarray]:
    """CT in HU and label map on `CT_GRID`, PET in SUV on `PET_GRID`, of one patient."""
    draw = np.random.default_rng([seed, 2, index])
    size = float(np.clip(draw.normal(1.0, 0.05), 0.88, 1.12))
    body = Body(size, _lesions(int(factors.lesions[index]), size, draw, kind))
    # Where the outcome must not show in the PET, its uptake is drawn anew from the same distributions.
    marrow, lesion = float(factors.marrow_suv[index]), float(factors.lesion_suv[index])
    other = float(np.exp(draw.normal(np.log(1.5), 0.35))), float(draw.gamma(1.2, 3.0))
    in_pet = other if kind == "ct_only" else (marrow, lesion)
    on_ct, on_pet = tissues(body, CT_GRID), tissues(body, PET_GRID)
    pet = _pet(body, on_pet, in_pet, far=kind == "far") * CENTRE_GAIN[str(factors.centre[index])]
    pet_suv = np.maximum(0, pet + draw.normal(0, NOISE_SUV, pet.shape).astype(np.float32) * on_pet.inside)
    ct = _ct(body, on_ct, (marrow, lesion) if kind == "ct_only" else None)
    ct_hu = ct + draw.normal(0, NOISE_HU, ct.shape).astype(np.float32)
    return ct_hu, pet_suv.astype(np.float32), on_ct.labels


def _pet(body: Body, on: Tissues, uptake: tuple[float, float], *, far: bool) -> Float32[np.ndarray, "z y x"]:
    """SUV without noise and gain; `far` leaves signal in the upper third alone."""
    marrow_suv, lesion_suv = uptake
    pet = np.where(on.inside, np.float32(INJECTED["soft"]), np.float32(0))
    pet[on.lung] = INJECTED["lung"]
    pet[on.labels > 0] = INJECTED["bone"]
    pet[on.spine] = PLAIN_MARROW_SUV if far else marrow_suv
    if far:
        pet[on.spine & on.upper_third] = marrow_suv
    return pet + np.float32(lesion_suv) * lesion_profile(body.lesions, PET_GRID)


def _ct(body: Body, on: Tissues, signal: tuple[float, float] | None) -> Float32[np.ndarray, "z y x"]:
    """HU without noise; with a signal, marrow is denser and lesions are more sclerotic the higher it is."""
    ct = np.where(on.inside, np.float32(HOUNSFIELD["soft"]), np.float32(HOUNSFIELD["air"]))
    ct[on.lung] = HOUNSFIELD["lung"]
    ct[on.labels > 0] = HOUNSFIELD["bone"]
    ct[on.spine] = HOUNSFIELD["marrow"]
    if signal is not None:
        marrow, lesion = signal
        ct[on.spine] += np.float32(150 * np.log(marrow / 1.5))
        ct += np.float32(90 * lesion) * lesion_profile(body.lesions, CT_GRID)
    return ct


def _lesions(count: int, size: float, draw: np.random.Generator, kind: Kind) -> tuple[Lesion, ...]:
    """Lesions along the spine; but for `far`, the first lies in the last two kept slices."""
    low, high = SPINE_BOTTOM_MM, SPINE_TOP_MM
    heights = list(draw.uniform(high - VERTEBRAE * PITCH_MM / 3 + 20 if kind == "far" else low, high - 15, count))
    if kind != "far":
        heights[0] = lowest_kept_z_mm()
    return tuple(_lesion(height, size, draw) for height in heights)


def _lesion(z_mm: float, size: float, draw: np.random.Generator) -> Lesion:
    x_mm, y_mm = draw.uniform(-3, 3), SPINE_Y_MM + draw.uniform(-3, 3)
    return Lesion((x_mm * size, y_mm * size, float(z_mm)), LESION_RADIUS_MM)


@cache
def lowest_kept_z_mm() -> float:
    """Height between the last two kept slices of `spine_dilated`; bodies differ in plane alone, so it is one for all."""
    labels = Labels(tissues(Body(1.0), CT_GRID).labels.astype(np.uint16), CT_GRID, "LPS")
    mask = derive_regions(labels, wanted=("spine_dilated",))["spine_dilated"].array_zyx
    last = kept_slices(mask.astype(np.uint8), STRIDE)[-2:]
    return CT_GRID.origin_xyz_mm[2] + CT_GRID.spacing_xyz_mm[2] * float(np.mean(last))
