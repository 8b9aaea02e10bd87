"""Phantoms with up to four bright spots each, of which one drives the hazard, for tests of where a model looks; tests nothing.

The spots lie in a slab of marrow, at four sites, each there in half of the patients and all drawn alike. The uptake of the spot
at `DRIVES` alone sets the hazard: it is the lesion. The three others are decoys, as bright and as variable, that mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from extractor.phantom import CT_GRID, NOISE_HU, NOISE_SUV, PET_GRID, PLAIN_MARROW_SUV
from extractor.phantom_anatomy import HOUNSFIELD, INJECTED, Body, Lesion, coordinates_mm, lesion_profile, tissues
from extractor.prompts import kept_slices
from extractor.volumes import Grid, write_image

SITES_XY_MM = ((-80.0, -45.0), (80.0, -45.0), (-80.0, 45.0), (80.0, 45.0))
"""Middles of the spots, towards left and posterior, in a body of average size: two cells of the narrow network apart."""
DRIVES = 3
"""Place in `SITES_XY_MM` of the spot whose uptake is the hazard."""
SLAB_HALF_MM = (130.0, 85.0)
"""Half axes of the marrow across and front to back."""
SLAB_Z_MM = (20.0, 164.0)
"""Lowest and highest plane of the marrow."""
JITTER_MM = 6.0
"""By which a spot's middle lies off its site, at most, across and front to back."""
RADIUS_MM = 18.0
"""Where a spot's uptake is e⁻¹ of its peak."""
HALF_MM = RADIUS_MM * float(np.sqrt(np.log(2)))
"""Where it is half of the peak: the edge of the spot, 15 mm from its middle."""
UPTAKE_SUV = (4.0, 8.0)
"""Of a spot's peak above the marrow, drawn evenly: every spot can be seen."""
PRESENT = 0.5
"""How often a site has a spot: what hiding one leaves is then what models were fitted to as well."""
SLOPE = 2.0
"""Log-hazard to a standard deviation of the uptake, 0 where there is no spot."""
Where = Literal["low", "any"]


@dataclass(frozen=True)
class Spots:
    """What is planted in a patient: at each site a place, and the peak uptake there in SUV above the marrow, 0 for no spot."""

    body: float
    places: tuple[Lesion, ...]
    uptakes_suv: tuple[float, ...]


def write_cohort(folder: Path, *, n: int, seed: int, where: Where, stride: int) -> None:
    """`studies.csv`, `clinical.csv` with outcomes, `truth.csv`, and the images.

    Parameters
    ----------
    where
        Spots in the last two slices that a stride keeps, or anywhere in the marrow.
    """
    rng = np.random.default_rng([seed, 4])
    heights_mm = last_two_mm(stride) if where == "low" else (SLAB_Z_MM[0] + 10, SLAB_Z_MM[1] - 10)
    spots = [_spots(rng, heights_mm) for _ in range(n)]
    patients = [f"P{number:03d}" for number in range(1, n + 1)]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number, (patient, one) in enumerate(zip(patients, spots, strict=True)):
        _write(folder, seed, number, patient, one)
    columns = {role: [f"images/{patient}_{role}.nii" for patient in patients] for role in ("ct", "pet", "marrow")}
    pd.DataFrame({"patient": patients, **columns}).to_csv(folder / "studies.csv", index=False)
    _outcomes(spots, seed).assign(patient=patients).to_csv(folder / "clinical.csv", index=False)
    _truth(patients, spots).to_csv(folder / "truth.csv", index=False)


def _spots(rng: np.random.Generator, heights_mm: tuple[float, float]) -> Spots:
    body = float(np.clip(rng.normal(1.0, 0.05), 0.88, 1.12))
    places = tuple(_lesion(rng, body, site, heights_mm) for site in SITES_XY_MM)
    uptakes_suv = rng.uniform(*UPTAKE_SUV, len(SITES_XY_MM)) * (rng.random(len(SITES_XY_MM)) < PRESENT)
    return Spots(body, places, tuple(float(one) for one in uptakes_suv))


def _lesion(
    rng: np.random.Generator, body: float, site: tuple[float, float], heights_mm: tuple[float, float]
) -> Lesion:
    x, y = (middle + rng.uniform(-JITTER_MM, JITTER_MM) for middle in site)
    return Lesion((x * body, y * body, float(rng.uniform(*heights_mm))), RADIUS_MM)


def last_two_mm(stride: int) -> tuple[float, float]:
    """Heights of the last and the last but one of the kept slices."""
    upper, last = kept_slices(_slab(1.0, CT_GRID).astype(np.uint8), stride)[-2:]
    z_mm = [CT_GRID.origin_xyz_mm[2] + CT_GRID.spacing_xyz_mm[2] * z for z in (last, upper)]
    return z_mm[0], z_mm[1]


def _slab(body: float, grid: Grid) -> np.ndarray:
    """Marrow, and the region that boxes are made of: a flat ellipse in each slice."""
    x, y, z = coordinates_mm(grid)
    across, deep = SLAB_HALF_MM
    inside = (x / body / across) ** 2 + (y / body / deep) ** 2 <= 1
    return inside & (z >= SLAB_Z_MM[0]) & (z <= SLAB_Z_MM[1])


def _outcomes(spots: list[Spots], seed: int) -> pd.DataFrame:
    """Weibull times in months, censored evenly, as those of the synthetic cohort."""
    rng = np.random.default_rng([seed, 6])
    uptake = np.array([one.uptakes_suv[DRIVES] for one in spots])
    hazard = SLOPE * (uptake - uptake.mean()) / uptake.std()
    onset = 36 * (rng.exponential(size=len(spots)) * np.exp(-hazard)) ** (1 / 1.2)
    censored = rng.uniform(6, 140, len(spots))
    months = np.maximum(1, np.ceil(np.minimum(onset, censored))).astype(int)
    return pd.DataFrame({"months": months, "event": (onset <= censored).astype(int)})


def _truth(patients: list[str], spots: list[Spots]) -> pd.DataFrame:
    """Uptake and middle of each spot; `drives` tells the lesion."""
    rows = [
        {"patient": patient, "site": site, "drives": site == DRIVES, "uptake_suv": uptake_suv}
        | dict(zip(("x_mm", "y_mm", "z_mm"), place.centre_xyz_mm, strict=True))
        for patient, one in zip(patients, spots, strict=True)
        for site, (place, uptake_suv) in enumerate(zip(one.places, one.uptakes_suv, strict=True))
    ]
    return pd.DataFrame(rows)


def _write(folder: Path, seed: int, number: int, patient: str, spots: Spots) -> None:
    rng = np.random.default_rng([seed, 7, number])
    pet = _pet(spots)
    pet = np.maximum(0, pet + rng.normal(0, NOISE_SUV, pet.shape) * tissues(Body(spots.body), PET_GRID).inside)
    marrow = _slab(spots.body, CT_GRID)
    ct = _ct(spots.body, marrow) + rng.normal(0, NOISE_HU, marrow.shape)
    images = folder / "images"
    write_image(np.rint(ct).astype(np.int16), CT_GRID, images / f"{patient}_ct.nii")
    write_image((np.rint(pet * 1000) / 1000).astype(np.float32), PET_GRID, images / f"{patient}_pet.nii")
    write_image(marrow.astype(np.uint8), CT_GRID, images / f"{patient}_marrow.nii")


def _pet(spots: Spots) -> np.ndarray:
    pet = np.where(tissues(Body(spots.body), PET_GRID).inside, np.float32(INJECTED["soft"]), np.float32(0))
    pet[_slab(spots.body, PET_GRID)] = PLAIN_MARROW_SUV
    for place, uptake_suv in zip(spots.places, spots.uptakes_suv, strict=True):
        pet += np.float32(uptake_suv) * lesion_profile((place,), PET_GRID)
    return pet


def _ct(body: float, marrow: np.ndarray) -> np.ndarray:
    ct = np.where(tissues(Body(body), CT_GRID).inside, np.float32(HOUNSFIELD["soft"]), np.float32(HOUNSFIELD["air"]))
    ct[marrow] = HOUNSFIELD["marrow"]
    return ct
