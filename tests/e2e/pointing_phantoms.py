"""Phantoms with one lesion each whose uptake alone drives the hazard, for tests of where a model looks; tests nothing.

Decoys are spots as bright, on the other side of the spine, whose uptake drives nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from extractor.phantom import CT_GRID, NOISE_HU, NOISE_SUV, PET_GRID, PLAIN_MARROW_SUV
from extractor.phantom_anatomy import (
    HOUNSFIELD,
    INJECTED,
    SPINE_TOP_MM,
    SPINE_Y_MM,
    Body,
    Lesion,
    Tissues,
    lesion_profile,
    tissues,
)
from extractor.prompts import kept_slices
from extractor.regions import derive_regions
from extractor.volumes import Labels, write_image

RADIUS_MM = 18.0
"""Where a lesion's uptake is e⁻¹ of its peak."""
HALF_MM = RADIUS_MM * float(np.sqrt(np.log(2)))
"""Where it is half of the peak: the edge of the lesion, 15 mm from its middle."""
UPTAKE_SUV = (2.0, 8.0)
"""Of a lesion's peak above the marrow, drawn evenly: every lesion can be seen."""
SLOPE = 2.0
"""Log-hazard to a standard deviation of the uptake."""
ASIDE_MM = 22.0
"""From the middle to the lesion, towards left, and to decoys, towards right, where there are any."""
APART_MM = 45.0
"""Between the middles of two decoys, at least, along the spine."""
Where = Literal["low", "any"]


@dataclass(frozen=True)
class Spots:
    """What is planted in a patient: the lesion, then decoys, each with its peak uptake in SUV above the marrow."""

    body: float
    places: tuple[Lesion, ...]
    uptakes_suv: tuple[float, ...]


def write_cohort(folder: Path, *, n: int, seed: int, where: Where, decoys: int, stride: int) -> None:
    """`studies.csv`, `clinical.csv` with outcomes, `truth.csv`, and the images.

    Parameters
    ----------
    where
        Lesions in the last two slices that a stride keeps, or anywhere along the spine.
    decoys
        How many spots there are beside the lesion: as bright, on the other side of the spine, and without meaning.
    """
    rng = np.random.default_rng([seed, 4])
    spots = [_spots(rng, where, decoys, stride) for _ in range(n)]
    patients = [f"P{number:03d}" for number in range(1, n + 1)]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number, (patient, one) in enumerate(zip(patients, spots, strict=True)):
        _write(folder, seed, number, patient, one)
    columns = {role: [f"images/{patient}_{role}.nii" for patient in patients] for role in ("ct", "pet", "label_map")}
    pd.DataFrame({"patient": patients, **columns}).to_csv(folder / "studies.csv", index=False)
    _outcomes(spots, seed).assign(patient=patients).to_csv(folder / "clinical.csv", index=False)
    _truth(patients, spots).to_csv(folder / "truth.csv", index=False)


def _spots(rng: np.random.Generator, where: Where, decoys: int, stride: int) -> Spots:
    body = float(np.clip(rng.normal(1.0, 0.05), 0.88, 1.12))
    low = last_two_mm(stride)
    lowest_mm, highest_mm = low if where == "low" else (low[0], SPINE_TOP_MM - 10)
    heights = [rng.uniform(lowest_mm, highest_mm), *_apart(rng, lowest_mm, highest_mm, decoys)]
    aside = [ASIDE_MM if decoys else 0.0, *[-ASIDE_MM] * decoys]
    places = tuple(_lesion(rng, body, x_mm, z_mm) for x_mm, z_mm in zip(aside, heights, strict=True))
    return Spots(body, places, tuple(rng.uniform(*UPTAKE_SUV, 1 + decoys)))


def _apart(rng: np.random.Generator, lowest_mm: float, highest_mm: float, count: int) -> list[float]:
    """Heights of decoys, drawn until no two of them melt into one."""
    while True:
        heights = np.sort(rng.uniform(lowest_mm, highest_mm, count))
        if count < 2 or np.diff(heights).min() >= APART_MM:
            return [float(one) for one in heights]


def _lesion(rng: np.random.Generator, body: float, x_mm: float, z_mm: float) -> Lesion:
    x, y = x_mm + rng.uniform(-8, 8), SPINE_Y_MM + rng.uniform(-8, 8)
    return Lesion((x * body, y * body, float(z_mm)), RADIUS_MM)


@cache
def last_two_mm(stride: int) -> tuple[float, float]:
    """Heights of the last and the last but one of the kept slices."""
    labels = Labels(tissues(Body(1.0), CT_GRID).labels.astype(np.uint16), CT_GRID, "LPS")
    mask = derive_regions(labels, wanted=("spine_dilated",))["spine_dilated"].array_zyx
    upper, last = kept_slices(mask.astype(np.uint8), stride)[-2:]
    z_mm = [CT_GRID.origin_xyz_mm[2] + CT_GRID.spacing_xyz_mm[2] * z for z in (last, upper)]
    return z_mm[0], z_mm[1]


def _outcomes(spots: list[Spots], seed: int) -> pd.DataFrame:
    """Weibull times in months, censored evenly, as those of the synthetic cohort."""
    rng = np.random.default_rng([seed, 6])
    uptake = np.array([one.uptakes_suv[0] for one in spots])
    low, high = UPTAKE_SUV
    hazard = SLOPE * (uptake - (low + high) / 2) / ((high - low) / np.sqrt(12))
    onset = 36 * (rng.exponential(size=len(spots)) * np.exp(-hazard)) ** (1 / 1.2)
    censored = rng.uniform(6, 140, len(spots))
    months = np.maximum(1, np.ceil(np.minimum(onset, censored))).astype(int)
    return pd.DataFrame({"months": months, "event": (onset <= censored).astype(int)})


def _truth(patients: list[str], spots: list[Spots]) -> pd.DataFrame:
    rows = []
    for patient, one in zip(patients, spots, strict=True):
        x, y, z = one.places[0].centre_xyz_mm
        rows.append({"patient": patient, "uptake_suv": one.uptakes_suv[0], "x_mm": x, "y_mm": y, "z_mm": z})
    return pd.DataFrame(rows)


def _write(folder: Path, seed: int, number: int, patient: str, spots: Spots) -> None:
    rng = np.random.default_rng([seed, 7, number])
    on_ct, on_pet = tissues(Body(spots.body), CT_GRID), tissues(Body(spots.body), PET_GRID)
    pet = _pet(spots, on_pet)
    pet = np.maximum(0, pet + rng.normal(0, NOISE_SUV, pet.shape) * on_pet.inside)
    ct = _ct(on_ct) + rng.normal(0, NOISE_HU, on_ct.labels.shape)
    images = folder / "images"
    write_image(np.rint(ct).astype(np.int16), CT_GRID, images / f"{patient}_ct.nii")
    write_image((np.rint(pet * 1000) / 1000).astype(np.float32), PET_GRID, images / f"{patient}_pet.nii")
    write_image(on_ct.labels, CT_GRID, images / f"{patient}_label_map.nii")


def _pet(spots: Spots, on: Tissues) -> np.ndarray:
    pet = np.where(on.inside, np.float32(INJECTED["soft"]), np.float32(0))
    pet[on.lung], pet[on.labels > 0], pet[on.spine] = INJECTED["lung"], INJECTED["bone"], PLAIN_MARROW_SUV
    for place, uptake_suv in zip(spots.places, spots.uptakes_suv, strict=True):
        pet += np.float32(uptake_suv) * lesion_profile((place,), PET_GRID)
    return pet


def _ct(on: Tissues) -> np.ndarray:
    ct = np.where(on.inside, np.float32(HOUNSFIELD["soft"]), np.float32(HOUNSFIELD["air"]))
    ct[on.lung], ct[on.labels > 0], ct[on.spine] = HOUNSFIELD["lung"], HOUNSFIELD["bone"], HOUNSFIELD["marrow"]
    return ct
