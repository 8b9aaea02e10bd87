"""Reads what heads need of a cohort from a snapshot, once per process; knows nothing of folds or outcomes, and fits nothing.

A process keeps what it has read in one cache, bounded in bytes, of which what was used longest ago goes first. A fold reads every
patient, so that what is kept is whole matrices: an array of one modality and region for a whole cohort. Their keys hold the sha256
of the snapshot, which covers the store's id, the view and the sha256 of each entry's commit, and the entries: nothing of another
store, snapshot or entry can be given. An array that is asked for by two threads at once is read once; an error is kept by nobody.

A task that needs a matrix which is not kept reads the whole of it, by as many requests at once as the place bears. `prefetch` has
workers read, while they fit, what the tasks after that need.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from store_schema import EntryKey, Layout, Snapshot, ViewSpec, open_snapshot
from store_schema.bulk import MEMORY_BYTES, BulkReader
from store_schema.disk_cache import cache_from_environment
from store_schema.errors import ConfigError
from store_schema.vectors import with_nan
from trainer.cache import Cache, Sized
from trainer.model_config import FittedModel, Images, NetworkModel
from trainer.pooling import plane_block, pooled, volumes
from trainer.stored_images import StoredImages

MEAN_MAP, MEMORY = "mean_map", "memory"
VECTOR = "vector"
READ_AT_ONCE = 16
"""Patients whose memories lie in memory as they are stored."""
VECTOR_READERS = ("head vector", "ridge_cox")
MEMORY_READERS = ("head attention", "head cnn3d")
CACHE_MIB = 1024
"""Default bound of what a process keeps: the paper's 227 patients take 3.5 MiB as mean maps of one modality, 57 as memories."""
HELD_SHARE = 4
"""Part of the bound that objects of one pack may take, which hold entries of every modality and region."""
FETCHED_COPIES = 3
"""Of what is stored, while it is read: fetched, decompressed, and in its array."""
KEPT: Cache[Sized] = Cache(CACHE_MIB * 2**20)
"""What this process has read."""

log = logging.getLogger(__name__)


def keep_at_most(mib: int) -> None:
    """Bound what this process keeps of what it reads; 0 has every task read anew what it needs."""
    KEPT.bound(mib * 2**20)


@functools.lru_cache(maxsize=32)
def snapshot_of(store_url: str, snapshot_id: str) -> Snapshot:
    """Snapshot opened by address, kept while the process lives: it can never change."""
    return open_snapshot(store_url, snapshot_id)


@dataclass(frozen=True)
class _Reader:
    """Reads a snapshot's entries, through the local cache that ENGRAM_CACHE names; what it holds of a pack serves every ROI."""

    bulk: BulkReader

    @property
    def nbytes(self) -> int:
        return self.bulk.held_bytes


def _held_bytes() -> int:
    """What a reader may hold of each pack."""
    return min(MEMORY_BYTES, KEPT.limit_bytes // HELD_SHARE)


def _reader(store_url: str, snapshot_id: str) -> BulkReader:
    def make() -> Sized:
        snapshot = snapshot_of(store_url, snapshot_id)
        return _Reader(BulkReader(snapshot, (MEAN_MAP,), cache=cache_from_environment(), hold_bytes=_held_bytes()))

    found = KEPT.get(("reader", store_url, snapshot_id), make)
    assert isinstance(found, _Reader)
    return found.bulk


def _kept(key: tuple[object, ...], read: Callable[[], np.ndarray]) -> np.ndarray:
    """The array of a key, read where it is not kept; not writable."""

    def make() -> Sized:
        made = read()
        made.setflags(write=False)
        if KEPT.limit_bytes < made.nbytes and KEPT.limit_bytes:
            _tell_too_large(made.nbytes >> 20, KEPT.limit_bytes >> 20)
        return made

    found = KEPT.get(key, make)
    assert isinstance(found, np.ndarray)
    return found


@functools.lru_cache(maxsize=1)
def _tell_too_large(needed_mib: int, kept_mib: int) -> None:
    """Once for each size."""
    log.warning(
        "an array of %d MiB does not fit into a cache of %d MiB: every task reads it anew. Give a larger --cache-mib where each "
        "worker has that much memory",
        needed_mib,
        kept_mib,
    )


def mean_maps(
    store_url: str, snapshot_id: str, modality: str, roi: str, patients: tuple[str, ...]
) -> Float[np.ndarray, "patient row column"]:
    """Mean maps of these patients in their order, float32, every byte checked; not writable.

    They come from the snapshot's pack where there is one, else from the entries, through the local cache that ENGRAM_CACHE names.

    Parameters
    ----------
    store_url, snapshot_id
        Where, and what is pinned.
    modality, roi
        Which entry of each patient.
    patients
        Keys of the store.

    Raises
    ------
    NotCommittedError
        If the snapshot lacks a patient's entry, or the entry has no mean map (a view of vectors).
    ObjectMissingError, ObjectAlteredError
        If an object is gone or is not the one committed.
    """

    def read() -> np.ndarray:
        return _reader(store_url, snapshot_id).stack(MEAN_MAP, _keys(patients, modality, roi))

    return _kept((MEAN_MAP, store_url, snapshot_id, modality, roi, patients), read)


def memories(
    store_url: str, snapshot_id: str, modality: str, roi: str, patients: tuple[str, ...], *, pool: int = 1
) -> Float[np.ndarray, "patient layer channel row column"]:
    """Memories of these patients in their order, averaged in plane; every byte checked; not writable.

    They are averaged as they are read, so that the whole cohort never lies in memory as it is stored. Values are float32
    where they are averaged, else as stored (float16).

    Parameters
    ----------
    store_url, snapshot_id, modality, roi, patients
        As for `mean_maps`.
    pool
        Cells of a block's edge; blocks that would leave more than `pooling.LARGEST_SIDE` rows or columns are enlarged to the
        smallest multiple that does not, and that parts the plane evenly: (1, 2, 2) for 64 × 64, as in the paper.

    Raises
    ------
    NotCommittedError, ObjectMissingError, ObjectAlteredError
        As for `mean_maps`.
    ConfigError
        If blocks of `pool` do not part the plane evenly.
    """

    def read() -> np.ndarray:
        return _read_memories(_reader(store_url, snapshot_id), _keys(patients, modality, roi), pool)

    return _kept((MEMORY, store_url, snapshot_id, modality, roi, patients, pool), read)


def _keys(patients: Sequence[str], modality: str, roi: str) -> list[EntryKey]:
    return [EntryKey(patient, modality, roi) for patient in patients]


def _read_memories(
    reader: BulkReader, keys: Sequence[EntryKey], pool: int
) -> Float[np.ndarray, "patient layer channel row column"]:
    layers, channels, rows, columns = reader.snapshot.view.layout.shape
    block = plane_block(rows, columns, pool)
    dtype = np.float16 if block == 1 else np.float32
    found = np.empty((len(keys), layers, channels, rows // block, columns // block), dtype)
    for start in range(0, len(keys), READ_AT_ONCE):
        some = slice(start, start + READ_AT_ONCE)
        found[some] = pooled(reader.stack(MEMORY, keys[some]), block)
    return found


def vectors(
    store_url: str, snapshot_id: str, modality: str, roi: str, patients: tuple[str, ...]
) -> Float[np.ndarray, "patient feature"]:
    """Vectors of these patients in their order, float32, NaN where a feature is not known; not writable.

    Raises
    ------
    NotCommittedError, ObjectMissingError, ObjectAlteredError
        As for `mean_maps`.
    """

    def read() -> np.ndarray:
        stored = _reader(store_url, snapshot_id).stack(MEMORY, _keys(patients, modality, roi))
        return _flat(stored, snapshot_of(store_url, snapshot_id).view.layout)

    return _kept((VECTOR, store_url, snapshot_id, modality, roi, patients), read)


def _flat(memory: Float[np.ndarray, "patient 1 feature 1 1"], layout: Layout) -> Float[np.ndarray, "patient feature"]:
    return with_nan(layout, memory).astype(np.float32).reshape(len(memory), -1)


def array_read(model: FittedModel) -> str:
    """Which array of an entry a model's head reads: its mean map or its memory."""
    return MEMORY if _reads(model) in (*VECTOR_READERS, *MEMORY_READERS) else MEAN_MAP


def as_read(
    model: FittedModel, layout: Layout, stacked: Float[np.ndarray, "embedding ..."]
) -> Float[np.ndarray, "embedding ..."]:
    """What a model's head reads of embeddings, the same as `images_of` gives of entries that hold them.

    Parameters
    ----------
    model
        One with images.
    layout
        Of the view.
    stacked
        Arrays as `array_read` names them, along a first axis.

    Raises
    ------
    ConfigError
        If blocks of `images.pool` do not part the plane evenly.
    """
    assert model.images is not None
    what, pool = _reads(model), model.images.pool
    if what in VECTOR_READERS:
        return _flat(stacked, layout)
    if what not in MEMORY_READERS:
        return pooled(stacked, pool)
    plane = pooled(stacked, plane_block(stacked.shape[-2], stacked.shape[-1], pool))
    return volumes(plane) if what == "head cnn3d" else plane


def images_of(model: FittedModel, store_url: str, snapshot_id: str, patients: tuple[str, ...]) -> StoredImages | None:
    """What a model's head reads of each patient, as it is stored but for pooling; None where the model has no images.

    Raises
    ------
    NotCommittedError, ObjectMissingError, ObjectAlteredError
        See `mean_maps`.
    ConfigError
        If the model cannot read the view, or the pooling does not part the maps evenly.
    """
    images = model.images
    if images is None:
        return None
    view = snapshot_of(store_url, snapshot_id).view
    check_view(model, view)
    place = (store_url, snapshot_id)
    arrays = {
        name: _as_seen(model, images, _read(model, images, (*place, name, images.roi, patients)))
        for name in images.modalities
    }
    return StoredImages(arrays, view.layout.features or ())


def read_ahead(model: FittedModel, store_url: str, snapshot_id: str, patients: tuple[str, ...]) -> bool:
    """Read what `images_of` will want, and keep it, while nothing has to go for it and the bound holds for the work too.

    Returns
    -------
    bool
        Whether all of it is kept now.

    Raises
    ------
    NotCommittedError, ObjectMissingError, ObjectAlteredError, ConfigError
        See `images_of`.
    """
    images = model.images
    if images is None:
        return True
    view = snapshot_of(store_url, snapshot_id).view
    check_view(model, view)
    matrix_bytes, stored_bytes = _patient_bytes(model, images, view.layout)
    # what the reader may come to hold of a pack, the matrix, and what is fetched and decoded at once
    held_bytes = _held_bytes() - _reader(store_url, snapshot_id).held_bytes
    work_bytes = min(MEMORY_BYTES, FETCHED_COPIES * stored_bytes * len(patients))
    needed_bytes = held_bytes + matrix_bytes * len(patients) + work_bytes
    for name in images.modalities:
        wanted = (store_url, snapshot_id, name, images.roi, patients)
        if _key(model, images, wanted) not in KEPT and needed_bytes > KEPT.room_bytes:
            return False
        _read(model, images, wanted)
    return True


def _patient_bytes(model: FittedModel, images: Images, layout: Layout) -> tuple[int, int]:
    """What is kept of each patient, and what is stored of it."""
    layers, channels, rows, columns = layout.shape
    single, half = np.dtype(np.float32).itemsize, np.dtype(np.float16).itemsize
    what, stored = _reads(model), layers * channels * rows * columns * single
    if what in VECTOR_READERS:
        return channels * single, stored
    if what not in MEMORY_READERS:
        return rows * columns * single, rows * columns * single
    block = plane_block(rows, columns, images.pool)
    return layers * channels * (rows // block) * (columns // block) * (half if block == 1 else single), stored


def check_view(model: FittedModel, view: ViewSpec) -> None:
    """Refuse a model whose head does not read what the view holds.

    Raises
    ------
    ConfigError
        Naming the model, the view and what to change.
    """
    if model.images is None:
        return
    shape, what = view.layout.shape, _reads(model)
    is_vector = (shape[0], *shape[2:]) == (1, 1, 1)
    wants_vector = what in VECTOR_READERS
    if is_vector == wants_vector and not (is_vector and model.images.pool != 1):
        return
    held = f"vectors of {shape[1]} numbers" if is_vector else f"memories of {' × '.join(map(str, shape))}"
    change = "remove images.pool: vectors have no plane"
    if is_vector != wants_vector:
        other = "another view" if isinstance(model, NetworkModel) else "kind: network, or another view"
        change = f"set {'head: vector' if is_vector else 'head: average or attention'}, or {other}"
        change = change if isinstance(model, NetworkModel) else f"use {other}"
    raise ConfigError(
        f"models: {model.name}: {what} reads {'vectors' if wants_vector else 'maps'}, and view {view.name!r} holds {held}: {change}"
    )


def _reads(model: FittedModel) -> str:
    """Words for what reads the view, as errors say it."""
    return f"head {model.head}" if isinstance(model, NetworkModel) else model.kind


def _read(
    model: FittedModel, images: Images, entries: tuple[str, str, str, str, tuple[str, ...]]
) -> Float[np.ndarray, "patient ..."]:
    """The matrix of a modality, as it is kept."""
    what = _reads(model)
    if what in VECTOR_READERS:
        return vectors(*entries)
    return memories(*entries, pool=images.pool) if what in MEMORY_READERS else mean_maps(*entries)


def _key(model: FittedModel, images: Images, entries: tuple[str, str, str, str, tuple[str, ...]]) -> tuple[object, ...]:
    """Under which the matrix of a modality is kept."""
    what = _reads(model)
    if what in VECTOR_READERS:
        return (VECTOR, *entries)
    return (MEMORY, *entries, images.pool) if what in MEMORY_READERS else (MEAN_MAP, *entries)


def _as_seen(
    model: FittedModel, images: Images, matrix: Float[np.ndarray, "patient ..."]
) -> Float[np.ndarray, "patient ..."]:
    """What a head is given of a matrix."""
    what = _reads(model)
    if what == "head cnn3d":
        return volumes(matrix)
    return matrix if what in (*VECTOR_READERS, *MEMORY_READERS) else pooled(matrix, images.pool)
