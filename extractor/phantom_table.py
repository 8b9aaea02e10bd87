"""The synthetic cohort as numbers: planted factors, hazards, times and clinical values; paints no image.

References
----------
Weibull proportional hazards as in Bender, Augustin and Blettner 2005, Statistics in Medicine 24:1713.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

Kind = Literal["standard", "far", "ct_only", "null"]
KINDS: tuple[Kind, ...] = ("standard", "far", "ct_only", "null")
WEIBULL_SHAPE = 1.2
WEIBULL_SCALE_MONTHS = 36.0
CENSORING_MONTHS = (6.0, 140.0)
CENTRES = ("A", "B", "C")
RISS_SHARES = {"I": 0.29, "II": 0.56, "III": 0.15}
"""As in the paper's patients whose stage is known."""
MISSING_CLINICAL = 0.10
MISSING_RISS = 0.25

# Moments of the planted sum over the whole population, so that a patient's z does not depend on who else is in the cohort:
# E and sd of 0.7 ln(1 + L) + 0.5 ln M with L ~ Gamma(1.2, 3), ln M ~ N(ln 1.5, 0.35²), from 10⁷ draws.
SIGNAL_MEAN = 1.1177
SIGNAL_SD = 0.4936


@dataclass(frozen=True)
class Factors:
    """What is planted in each patient's images and table; one value a patient."""

    marrow_suv: Float[np.ndarray, " patient"]
    """M: uptake of the marrow in SUV."""
    lesion_suv: Float[np.ndarray, " patient"]
    """L: peak uptake of the lesions above the marrow in SUV."""
    lesions: Int[np.ndarray, " patient"]
    age: Float[np.ndarray, " patient"]
    """Years."""
    riss: np.ndarray
    """I, II or III."""
    centre: np.ndarray
    z: Float[np.ndarray, " patient"]
    """Planted image signal, standardised over the population."""
    log_hazard: Float[np.ndarray, " patient"]
    """Planted log-hazard: the oracle; higher is worse."""
    time_months: Int[np.ndarray, " patient"]
    event: np.ndarray


def draw_factors(n: int, seed: int, kind: Kind = "standard") -> Factors:
    """Factors and outcomes of `n` patients; the same seed gives the same patients."""
    draw = np.random.default_rng([seed, 0])
    marrow = np.exp(draw.normal(np.log(1.5), 0.35, n))
    lesion = draw.gamma(1.2, 3.0, n)
    lesions = 1 + draw.poisson(3, n)
    age = np.clip(draw.normal(62, 10, n), 30, 90).round(1)
    riss = draw.choice(list(RISS_SHARES), n, p=list(RISS_SHARES.values()))
    centre = draw.choice(CENTRES, n)
    z = (0.7 * np.log1p(lesion) + 0.5 * np.log(marrow) - SIGNAL_MEAN) / SIGNAL_SD
    image_part = 0.0 * z if kind == "null" else 1.3 * z
    log_hazard = image_part + 0.4 * (age - 62) / 10 + 0.5 * (riss == "III")
    time, event = _outcomes(log_hazard, draw)
    return Factors(marrow, lesion, lesions, age, riss, centre, z, log_hazard, time, event)


def _outcomes(
    log_hazard: Float[np.ndarray, " patient"], draw: np.random.Generator
) -> tuple[Int[np.ndarray, " patient"], np.ndarray]:
    """Whole months, at least 1, hence ties; an event is seen where it comes before the censoring."""
    n = len(log_hazard)
    exposure = draw.exponential(1.0, n) * np.exp(-log_hazard)
    progression = WEIBULL_SCALE_MONTHS * exposure ** (1 / WEIBULL_SHAPE)
    censoring = draw.uniform(*CENSORING_MONTHS, n)
    months = np.maximum(1, np.ceil(np.minimum(progression, censoring))).astype(int)
    return months, progression <= censoring


def patient_ids(n: int) -> list[str]:
    """Ids of the patients: P001, P002 and so on."""
    return [f"P{number:03d}" for number in range(1, n + 1)]


def clinical_table(factors: Factors, seed: int) -> pd.DataFrame:
    """What a registry would hold: outcome, and clinical values of which some are missing at random."""
    draw = np.random.default_rng([seed, 1])
    n = len(factors.age)
    age = pd.Series(factors.age).mask(draw.random(n) < MISSING_CLINICAL)
    riss = pd.Series(factors.riss).mask(draw.random(n) < MISSING_RISS)
    sex = pd.Series(draw.choice(["female", "male"], n)).mask(draw.random(n) < MISSING_CLINICAL)
    return pd.DataFrame(
        {
            "patient": patient_ids(n),
            "centre": factors.centre,
            "age": age,
            "sex": sex,
            "riss": riss,
            "pfs_months": factors.time_months,
            "pfs_event": factors.event.astype(int),
        }
    )


def truth_table(factors: Factors) -> pd.DataFrame:
    """What was planted; `log_hazard` is the oracle's risk."""
    return pd.DataFrame(
        {
            "patient": patient_ids(len(factors.z)),
            "marrow_suv": factors.marrow_suv,
            "lesion_suv": factors.lesion_suv,
            "lesions": factors.lesions,
            "z": factors.z,
            "log_hazard": factors.log_hazard,
        }
    )
