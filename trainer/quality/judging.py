"""Judges the embeddings of one modality and region; knows no other region, and adjusts no p-value."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from trainer.quality.drift import Rules, compared, comparisons
from trainer.quality.duplicates import SHARE, Pair, alike, pair_distances, pairs_told
from trainer.quality.pictures import pictures
from trainer.quality.reading import Place
from trainer.quality.results import Drift, EmbeddingQuality
from trainer.quality.standard import OUTLIER, Standardised, components, from_centre, norms, outlying, standardised
from trainer.quality.subjects import Subjects

EXPLAINED = 10
"""Components whose shares of variance are told."""


@dataclass(frozen=True)
class Limits:
    """By what embeddings are judged."""

    rules: Rules
    permutations: int
    """B of all tests of groups."""
    near: float
    umap: bool


@dataclass(frozen=True, eq=False)
class Judged:
    """What was found, and what it says of single patients."""

    found: Standardised
    quality: EmbeddingQuality
    pairs: tuple[Pair, ...]
    norms: Float[np.ndarray, " patient"]
    """Of the usable patients."""
    from_centre: Float[np.ndarray, " patient"]


def judged(place: Place, subjects: Subjects, log_risk: Mapping[str, float], limits: Limits) -> Judged:
    """Everything about the embeddings of a place; p-values are not adjusted yet."""
    found = standardised(place)
    sizes, far = norms(found), from_centre(found)
    persons = subjects.owners(place.patients)
    distances = pair_distances(found)
    flagged = alike(distances, persons, near=limits.near, share=SHARE)
    main = components(found)
    seed = limits.rules.seed
    quality = EmbeddingQuality(
        modality=place.modality,
        roi=place.roi,
        patients=len(place.patients),
        features=place.values.shape[1],
        left_out=len(place.patients) - len(found.rows),
        not_finite=sum(one.not_finite for one in place.facts),
        zero=int((place.values == 0).all(axis=1).sum()),
        unknown=float(np.isnan(place.values).mean()) if place.is_vector else 0.0,
        sparse=found.sparse,
        constant=found.constant,
        channels=None if place.is_vector else place.layout.shape[0] * place.layout.shape[1],
        dead_channels=place.dead_channels,
        valid_layers=dict(Counter(one.valid_layers for one in place.facts if one.valid_layers is not None)),
        blank_layers=sum(one.blank_layers for one in place.facts),
        norm=outlying(sizes, OUTLIER),
        from_centre=outlying(far, OUTLIER),
        effective_rank=main.effective_rank,
        participation=main.participation,
        most_rank=max(0, min(place.values.shape[1], len(found.rows) - 1)),
        explained=tuple(main.shares[:EXPLAINED].tolist()),
        pairs=pairs_told(distances, flagged, persons),
        drift=_drift(found, subjects, limits),
        pictures=pictures(main, found.patients, subjects, log_risk, umap=limits.umap, seed=seed),
    )
    return Judged(found, quality, flagged, sizes, far)


def _drift(found: Standardised, subjects: Subjects, limits: Limits) -> tuple[Drift, ...]:
    asked = comparisons(found.patients, subjects, limits.rules)
    return tuple(compared(found, one, limits.permutations, limits.rules.seed) for one in asked)
