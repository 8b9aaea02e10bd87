"""Reads every embedding of a snapshot with what its commit says of it; judges nothing and knows no outcome."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from store_schema import EntryKey, Layout, Snapshot
from store_schema.bulk import BulkReader
from store_schema.disk_cache import cache_from_environment
from store_schema.reader import StoredEntry
from store_schema.vectors import with_nan
from trainer.features import MEAN_MAP, MEMORY


@dataclass(frozen=True)
class EntryFacts:
    """What is known of one entry besides its embedding."""

    input_sha256: str
    content_sha256: str
    not_finite: int
    """Numbers of mean map and memory that are NaN or infinite."""
    valid_layers: int | None
    """Memory layers that hold a memory; None where the entry does not say."""
    blank_layers: int
    """Of them those that are 0 throughout."""
    body_dice: float | None
    """Overlap of the body's outlines in PET and CT, 0–1; None where it was not recorded."""


@dataclass(frozen=True, eq=False)
class Place:
    """All embeddings of one modality and region of a view, patients sorted by key."""

    view: str
    modality: str
    roi: str
    patients: tuple[str, ...]
    values: Float[np.ndarray, "patient feature"]
    """Mean maps row after row, or vectors, as they are stored; NaN where a vector's feature is not known."""
    facts: tuple[EntryFacts, ...]
    layout: Layout
    dead_channels: int | None
    """Channels of the memory that are one number for all patients; None of vectors."""

    @property
    def is_vector(self) -> bool:
        """Whether embeddings are vectors."""
        return is_vector(self.layout)

    @property
    def usable(self) -> Bool[np.ndarray, " patient"]:
        """Whose numbers are all finite, and some of them known."""
        finite = np.array([one.not_finite == 0 for one in self.facts], dtype=bool)
        return np.asarray(finite & np.isfinite(self.values).any(axis=1))


def is_vector(layout: Layout) -> bool:
    """Whether a view holds vectors, 1 × F × 1 × 1, which have no mean map."""
    return (layout.shape[0], *layout.shape[2:]) == (1, 1, 1)


def keys_by_place(snapshot: Snapshot) -> dict[tuple[str, str], tuple[EntryKey, ...]]:
    """Entries of each modality and region; PET before the others, keys sorted."""
    found: dict[tuple[str, str], list[EntryKey]] = {}
    for key in snapshot.keys:
        found.setdefault((key.modality, key.roi), []).append(key)
    order = sorted(found, key=lambda place: (place[1], place[0] != "PET", place[0]))
    return {place: tuple(sorted(found[place])) for place in order}


def read_place(snapshot: Snapshot, keys: tuple[EntryKey, ...], told: Callable[[], None] = lambda: None) -> Place:
    """Every entry of these keys, of one modality and region, each byte checked; memories are looked at and let go.

    Parameters
    ----------
    told
        Is called after each entry.

    Raises
    ------
    ObjectMissingError, ObjectAlteredError
        If an object is gone or is not the one committed.
    """
    layout = snapshot.view.layout
    arrays = (MEMORY,) if is_vector(layout) else (MEAN_MAP, MEMORY)
    reader = BulkReader(snapshot, arrays, cache=cache_from_environment())
    values, facts, span = [], [], _Span()
    for entry in reader.read(keys):
        memory = entry.arrays[MEMORY]
        values.append((with_nan(layout, memory) if is_vector(layout) else entry.arrays[MEAN_MAP]).ravel())
        facts.append(_facts(entry, arrays))
        if not is_vector(layout):
            span.take(memory)
        told()
    return Place(
        view=snapshot.view_id,
        modality=keys[0].modality,
        roi=keys[0].roi,
        patients=tuple(key.patient for key in keys),
        values=np.array(values),
        facts=tuple(facts),
        layout=layout,
        dead_channels=None if is_vector(layout) else span.flat,
    )


@dataclass
class _Span:
    """Least and largest number of each memory layer's channels so far."""

    least: list[np.ndarray] = field(default_factory=list)
    largest: list[np.ndarray] = field(default_factory=list)

    def take(self, memory: Float[np.ndarray, "layer channel row column"]) -> None:
        """One entry more."""
        self.least = [np.minimum.reduce([*self.least, memory.min(axis=(2, 3))])]
        self.largest = [np.maximum.reduce([*self.largest, memory.max(axis=(2, 3))])]

    @property
    def flat(self) -> int:
        """Channels of all layers that never changed."""
        return sum(int((low == high).sum()) for low, high in zip(self.least, self.largest, strict=True))


def _facts(entry: StoredEntry, arrays: tuple[str, ...]) -> EntryFacts:
    told = entry.attributes.get("valid_layers")
    valid = None if told is None else [layer for layer, one in enumerate(told) if one]
    return EntryFacts(
        input_sha256=entry.commit.input_sha256,
        content_sha256=entry.commit.content_sha256,
        not_finite=sum(int((~np.isfinite(entry.arrays[name])).sum()) for name in arrays),
        valid_layers=None if valid is None else len(valid),
        blank_layers=sum(not entry.arrays[MEMORY][layer].any() for layer in valid or ()),
        body_dice=(entry.attributes.get("alignment") or {}).get("body_dice"),
    )
