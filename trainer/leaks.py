"""Looks for signs that a model saw what it must not see; knows nothing of how it was fitted."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from trainer.metrics import harrell_c
from trainer.results import Row
from trainer.stats import CHANCE

SUSPICIOUS_C = 0.75
"""Honest figures of cohorts like the paper's lie in 0.60 to 0.72."""
LEAST_DISTANCE = 0.05
"""A control nearer to 0.5 than this raises no warning, however large the cohort."""
MOST_STUDIES = 6
"""Ids of one beginning, on average, that still look like studies of one patient."""
STANDARD_ERRORS = 3.0
DRAWS = 200

Outcome = tuple[Float[np.ndarray, " patient"], Bool[np.ndarray, " patient"]]


def leak_warnings(rows: Sequence[Row], control_bands: dict[str, float]) -> tuple[str, ...]:
    """Sentences for a reader: a c-index too good to be true, or a permuted control that is not at chance.

    A c above 0.75 is believed only where an oracle is stated and is at least as high.

    Parameters
    ----------
    rows
        Of the table.
    control_bands
        By model, how far from 0.5 its permuted control may lie; see `chance_band`.

    References
    ----------
    Protocol section 6; DESIGN section 5.
    """
    oracles = [row.mean for row in rows if row.kind == "oracle" and row.mean is not None]
    ceiling = max(oracles, default=None)
    high = [_too_good(row, ceiling) for row in rows if row.kind == "model"]
    off = [_off_chance(row, control_bands[row.model]) for row in rows if row.kind == "permuted"]
    return tuple(sentence for sentence in (*high, *off) if sentence is not None)


def _too_good(row: Row, ceiling: float | None) -> str | None:
    if row.mean is None or row.mean <= max(SUSPICIOUS_C, ceiling or 0.0):
        return None
    beside = "no oracle is stated" if ceiling is None else f"the oracle reaches {ceiling:.3f}"
    return (
        f"{row.label}: c = {row.mean:.3f} is above {SUSPICIOUS_C}, and {beside}. Look for a leak: a covariate that follows "
        "from the outcome, one patient under two ids, preprocessing outside the folds"
    )


def _off_chance(row: Row, band: float) -> str | None:
    if row.mean is None or abs(row.mean - CHANCE) <= band:
        return None
    if row.tuned == "paper" and row.mean > CHANCE:
        # the band is that of one model, and the best of several by these very folds is lucky
        return (
            f"{row.label}: c = {row.mean:.3f} on permuted outcomes is the best of {row.tried} settings, chosen on the reported "
            f"folds: that choice alone puts it above 0.5. Hold the model's own figure against {row.mean:.3f} and not against 0.5; "
            "only settings chosen inside the training folds tell whether anything leaks"
        )
    return (
        f"{row.label}: c = {row.mean:.3f} on permuted outcomes is further than {band:.3f} from 0.5. Something ties the "
        "patients to the folds or to each other: do not believe the model's own figure before it is found"
    )


def kin_warnings(persons: Sequence[str], *, named: bool = True) -> tuple[str, ...]:
    """A sentence where ids look like several studies of one patient that may train and test at once.

    Ids that share what stands before their last dot are taken for studies where that is a few of each; many would be a
    centre's patients.

    Parameters
    ----------
    persons
        Ids of the cohort's persons.
    named
        Whether two of them stand in the sentence as an example.
    """
    stems: dict[str, list[str]] = {}
    for name in sorted(set(persons)):
        stem, dot, _ = name.rpartition(".")
        if dot:
            stems.setdefault(stem, []).append(name)
    several = [names for names in stems.values() if len(names) > 1]
    if not several or sum(map(len, several)) / len(several) > MOST_STUDIES:
        return ()
    who = f"{several[0][0]} and {several[0][1]}" if named else "two ids"
    told = (
        f"{who} look like two studies of one patient ({len(several)} such groups), who would then train and test at once. "
        "Give patient and study in two columns (`columns: study`), unless they are two people"
    )
    return (told,)


def chance_band(parts: Sequence[Outcome], *, permutations: int) -> float:
    """How far from 0.5 the mean c of permuted controls may lie: three standard errors under chance, at least 0.05.

    The spread of a mean over these test parts is found by giving random risks to their patients. A fixed band would
    cry wolf on small cohorts and sleep on large ones; the choice is ours.

    Parameters
    ----------
    parts
        Time and event of each test part; permuting the outcomes leaves their kind unchanged.
    permutations
        How many permuted runs are averaged.
    """
    rng = np.random.default_rng(0)
    means = [np.mean([_random_c(part, rng) for part in parts]) for _ in range(DRAWS)]
    return max(LEAST_DISTANCE, STANDARD_ERRORS * float(np.std(means)) / float(np.sqrt(permutations)))


def _random_c(part: Outcome, rng: np.random.Generator) -> float:
    time, event = part
    return harrell_c(risk=rng.normal(size=len(time)), time=time, event=event).c
