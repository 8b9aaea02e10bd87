"""Writes what a snapshot holds in the forms other tools read: masks as OME-Zarr labels, embeddings as Parquet; changes no store."""

from __future__ import annotations

import json
import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from store_schema.arrays import ARRAYS, MASK_CHUNK_ZYX
from store_schema.bulk import BulkReader
from store_schema.errors import NotCommittedError, StoreError, UsageError
from store_schema.keys import EntryKey
from store_schema.reader import StoredEntry
from store_schema.snapshot import Snapshot

if TYPE_CHECKING:
    import pyarrow as pa

Told = Callable[[int, int], None]
OME_VERSION = "0.5"
ROWS_AT_ONCE = 64
"""Entries in one row group of a Parquet file, and in memory."""
LABEL_COLOUR = [255, 90, 0, 160]
EMBEDDINGS = ("mean_map", "memory")


def export_embeddings(
    snapshot: Snapshot, path: Path, *, array: str = "mean_map", overwrite: bool = False, told: Told | None = None
) -> int:
    """Writes one row an entry into a Parquet file, and gives the number of rows.

    Columns: patient, modality, roi, number, commit_sha256, and the array in C order as a list of fixed size; its shape and axes,
    the snapshot and the view stand in the file's metadata under `engram`. Nothing is seen under the name before all is written.

    Raises
    ------
    UsageError
        If the file exists, pyarrow is not installed, or there is no such array.
    NotCommittedError
        If the snapshot is empty, or an entry lacks the array.
    """
    parquet = _parquet()
    if array not in EMBEDDINGS:
        raise UsageError(f"{ascii(array)[:80]} is no embedding: expected {' or '.join(EMBEDDINGS)}.")
    _check_free(path, overwrite=overwrite)
    if not len(snapshot):
        raise NotCommittedError(f"snapshot {snapshot.id[:16]}… holds no entry: there is nothing to export.")
    shape = snapshot.view.layout.shape if array == "memory" else snapshot.view.layout.shape[2:]
    schema = _schema(snapshot, array, shape)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    done = 0
    try:
        with parquet.ParquetWriter(temporary, schema) as writer:
            for entries in batched(BulkReader(snapshot, (array,)).read(), ROWS_AT_ONCE):
                writer.write_table(_table(snapshot, entries, array, schema))
                done += len(entries)
                if told is not None:
                    told(done, len(snapshot))
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return done


def _parquet() -> Any:
    try:
        import pyarrow.parquet  # noqa: PLC0415 - a reader of the store needs none
    except ImportError as error:
        raise UsageError(
            "Parquet needs pyarrow: install engram[extractor], engram[trainer] or engram[service]."
        ) from error
    return pyarrow.parquet


def _schema(snapshot: Snapshot, array: str, shape: Sequence[int]) -> pa.Schema:
    import pyarrow as pa  # noqa: PLC0415 - see _parquet

    value = pa.float16() if ARRAYS[array].dtype == "float16" else pa.float32()
    fields = [(name, pa.string()) for name in ("patient", "modality", "roi")]
    fields += [("number", pa.int32()), ("commit_sha256", pa.string()), (array, pa.list_(value, int(np.prod(shape))))]
    axes = list(ARRAYS[array].dimensions)
    told = {"snapshot": snapshot.id, "view": snapshot.view_id, "array": array, "shape": list(shape), "axes": axes}
    return pa.schema(fields, metadata={"engram": json.dumps(told)})


def _table(snapshot: Snapshot, entries: Sequence[StoredEntry], array: str, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415 - see _parquet

    values = np.stack([np.asarray(entry.arrays[array]).reshape(-1) for entry in entries])
    keys = [entry.key for entry in entries]
    columns = [pa.array([getattr(key, name) for key in keys]) for name in ("patient", "modality", "roi")]
    columns.append(pa.array([entry.commit.number for entry in entries], pa.int32()))
    columns.append(pa.array([snapshot.row(key).commit_sha256 for key in keys]))
    columns.append(pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1]))
    return pa.Table.from_arrays(columns, schema=schema)


def export_masks(snapshot: Snapshot, folder: Path, *, overwrite: bool = False, told: Told | None = None) -> int:
    """Writes one OME-Zarr 0.5 group a patient and modality, with a label image for each ROI, and gives the number of labels.

    `FOLDER/PATIENT-MODALITY.ome.zarr` holds the union of the masks as its image, since a store keeps no CT or PET, and
    `labels/ROI` each mask: axes z, y, x in millimetres, with the spacing as scale. z rises towards superior; the whole geometry
    stands in the label's attributes under `engram`.

    Raises
    ------
    UsageError
        If a group exists already.
    NotCommittedError
        If no entry of the snapshot has a mask: only the first view of a pass has them.
    """
    by_image: dict[tuple[str, str], list[EntryKey]] = defaultdict(list)
    for key in snapshot.keys:
        if "mask" in snapshot.commit(key).arrays:
            by_image[key.patient, key.modality].append(key)
    if not by_image:
        raise NotCommittedError(
            f"no entry of snapshot {snapshot.id[:16]}… ({snapshot.view_id}) has a mask: only the first view of a pass keeps them."
        )
    done = 0
    for image, ((patient, modality), keys) in enumerate(sorted(by_image.items()), start=1):
        done += _write_image(snapshot, folder / f"{patient}-{modality}.ome.zarr", keys, overwrite=overwrite)
        if told is not None:
            told(image, len(by_image))
    return done


def _write_image(snapshot: Snapshot, place: Path, keys: Sequence[EntryKey], *, overwrite: bool) -> int:
    """One group, written beside its place and moved there whole."""
    _check_free(place, overwrite=overwrite)
    entries = list(BulkReader(snapshot, ("mask",)).read(keys))
    shapes = {entry.arrays["mask"].shape for entry in entries}
    if len(shapes) != 1:
        raise StoreError(
            f"{place.name}: its masks have shapes {sorted(shapes)}: expected one grid for a patient and modality."
        )
    temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _write_group(temporary, place.name.removesuffix(".ome.zarr"), entries)
        if place.exists():
            shutil.rmtree(place)
        temporary.replace(place)
    except OSError as error:
        raise StoreError(f"{place} could not be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(entries)


def _write_group(place: Path, name: str, entries: Sequence[StoredEntry]) -> None:
    spacing = _spacing_zyx_mm(entries[0])
    union = np.any([entry.arrays["mask"] for entry in entries], axis=0).astype(np.uint8)
    image = zarr.create_group(place, zarr_format=3, attributes={"ome": _multiscales(name, spacing)})
    _write_array(image, union)
    rois = [entry.key.roi for entry in entries]
    labels = image.create_group("labels", attributes={"ome": {"version": OME_VERSION, "labels": rois}})
    for entry in entries:
        ome = _multiscales(entry.key.roi, _spacing_zyx_mm(entry)) | {
            "image-label": {
                "colors": [{"label-value": 1, "rgba": LABEL_COLOUR}],
                "properties": [{"label-value": 1, "name": entry.key.roi}],
                "source": {"image": "../../"},
            }
        }
        told = {"key": str(entry.key), "commit": entry.commit.number, "grid": entry.attributes.get("grid")}
        _write_array(labels.create_group(entry.key.roi, attributes={"ome": ome, "engram": told}), entry.arrays["mask"])


def _write_array(group: zarr.Group, values: np.ndarray) -> None:
    chunks = tuple(map(min, MASK_CHUNK_ZYX, values.shape))
    array = group.create_array(
        "0", shape=values.shape, dtype=values.dtype, chunks=chunks, dimension_names=("z", "y", "x"), fill_value=0
    )
    array[...] = values


def _multiscales(name: str, spacing_zyx_mm: Sequence[float]) -> dict[str, Any]:
    """One scale: a mask is not resampled."""
    axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
    scale = {"type": "scale", "scale": list(spacing_zyx_mm)}
    dataset = {"path": "0", "coordinateTransformations": [scale]}
    return {"version": OME_VERSION, "multiscales": [{"name": name, "axes": axes, "datasets": [dataset]}]}


def _spacing_zyx_mm(entry: StoredEntry) -> list[float]:
    grid = entry.attributes.get("grid")
    spacing = grid.get("spacing_xyz_mm") if isinstance(grid, Mapping) else None
    if not isinstance(spacing, Sequence) or len(spacing) != 3:
        raise StoreError(
            f"{entry.key} has no spacing among its attributes (grid.spacing_xyz_mm): its mask cannot be placed."
        )
    return [float(value) for value in reversed(spacing)]


def _check_free(path: Path, *, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists: give another name, or --force to replace it.")
    if not path.parent.exists() and not path.name.endswith(".ome.zarr"):
        raise UsageError(f"{path.parent} is no folder: make it first.")
