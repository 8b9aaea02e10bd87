"""Makes places of embeddings from arrays, and a store with planted faults, for tests of their quality; tests nothing."""

import hashlib
from collections.abc import Sequence

import numpy as np

from store_schema import Entry, EntryKey, Layout, Store
from trainer.quality.reading import EntryFacts, Place
from trainer.quality.standard import standardised

SIDE = 8


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def place(
    values: np.ndarray,
    *,
    patients: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    contents: Sequence[str] | None = None,
    vector: bool = False,
    modality: str = "PET",
    not_finite: Sequence[int] | None = None,
    dice: Sequence[float | None] | None = None,
) -> Place:
    """A place whose embeddings are the rows of an array."""
    n, features = values.shape
    digests = [digest(f"{modality} {row}".encode()) for row in range(n)]
    facts = tuple(
        EntryFacts(
            input_sha256=(inputs or digests)[row],
            content_sha256=(contents or digests)[row],
            not_finite=(not_finite or [0] * n)[row],
            valid_layers=1,
            blank_layers=0,
            body_dice=(dice or [None] * n)[row],
        )
        for row in range(n)
    )
    layout = Layout(name="made", shape=(1, features, 1, 1) if vector else (1, 2, features, 1))
    names = tuple(patients or [f"P{row:03d}" for row in range(n)])
    return Place("made-0", modality, "spine", names, values.astype(float), facts, layout, None if vector else 0)


def found(values: np.ndarray, **more):
    """The same, standardised."""
    return standardised(place(values, **more))


def publish(store: Store, view: str, key: EntryKey, memory: np.ndarray, *, source: bytes | None = None, **told) -> None:
    """An entry whose mean map is the memory's; of one source where that is given."""
    mean_map = memory.astype(np.float32).mean(axis=(0, 1))
    entry = Entry({"memory": memory.astype(np.float16), "mean_map": mean_map}, {"valid_layers": [True], **told})
    mine = f"{key}".encode() + mean_map.tobytes()
    store.publish(view, key, entry, input_sha256=digest(mine if source is None else source))
