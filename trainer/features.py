"""Reads the maps of a cohort from a snapshot, once per process; knows nothing of folds, models or outcomes."""

import functools

import numpy as np
from jaxtyping import Float

from store_schema import EntryKey, Snapshot, open_snapshot
from store_schema.bulk import BulkReader
from store_schema.disk_cache import cache_from_environment
from store_schema.errors import ConfigError
from trainer.model_config import FittedModel

MEAN_MAP = "mean_map"


@functools.lru_cache(maxsize=4)
def snapshot_of(store_url: str, snapshot_id: str) -> Snapshot:
    """Snapshot opened by address, kept while the process lives: it can never change."""
    return open_snapshot(store_url, snapshot_id)


@functools.lru_cache(maxsize=4)
def reader_of(store_url: str, snapshot_id: str) -> BulkReader:
    """Reads a snapshot's maps, through the local cache that ENGRAM_CACHE names; what it holds of a pack serves every ROI."""
    return BulkReader(snapshot_of(store_url, snapshot_id), (MEAN_MAP,), cache=cache_from_environment())


# Whole cohorts are kept, since every fold reads every patient: 16 KiB a map, 3.5 MiB for 227 patients and one modality.
@functools.lru_cache(maxsize=8)
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
    keys = [EntryKey(patient, modality, roi) for patient in patients]
    stacked = reader_of(store_url, snapshot_id).stack(MEAN_MAP, keys)
    stacked.setflags(write=False)
    return stacked


def images_of(
    model: FittedModel, store_url: str, snapshot_id: str, patients: tuple[str, ...]
) -> dict[str, Float[np.ndarray, "patient ..."]]:
    """What a model reads of each patient, by modality, as it is stored but for the pooling that its settings ask for.

    Raises
    ------
    NotCommittedError, ObjectMissingError, ObjectAlteredError
        See `mean_maps`.
    ConfigError
        If the pooling does not part the maps evenly.
    """
    images = model.images
    if images is None:
        return {}
    return {
        modality: pooled(mean_maps(store_url, snapshot_id, modality, images.roi, patients), images.pool)
        for modality in images.modalities
    }


def pooled(
    maps: Float[np.ndarray, "patient row column"], block: int
) -> Float[np.ndarray, "patient pooled_row pooled_column"]:
    """Maps averaged in plane over blocks of `block` × `block` cells; 1 gives them as they are.

    Raises
    ------
    ConfigError
        If the blocks do not part the maps evenly.
    """
    patients, rows, columns = maps.shape
    if rows % block or columns % block:
        raise ConfigError(f"images.pool: blocks of {block} do not part maps of {rows} × {columns} evenly")
    blocks = maps.reshape(patients, rows // block, block, columns // block, block)
    return maps if block == 1 else np.asarray(blocks.mean(axis=(2, 4), dtype=np.float64), dtype=maps.dtype)
