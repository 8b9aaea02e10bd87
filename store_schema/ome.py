"""Writes the masks that a snapshot pins as OME-Zarr 0.5 labels, which viewers read; knows no embedding and changes no store."""

from __future__ import annotations

import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from store_schema.arrays import MASK_CHUNK_ZYX
from store_schema.bulk import BulkReader
from store_schema.errors import NotCommittedError, StoreError, UsageError
from store_schema.keys import EntryKey
from store_schema.parallel import each
from store_schema.reader import StoredEntry
from store_schema.records import Json
from store_schema.snapshot import Snapshot

Told = Callable[[int, int], None]
VERSION = "0.5"
SUFFIX = ".ome.zarr"
AXES = ("z", "y", "x")
COLOUR_RGBA = (255, 90, 0, 160)
ALIGNED_WITHIN = 1e-4
"""Greatest difference of the axes' cosines from those of the patient's axes at which an origin alone places an image: 0.1 mm in
a metre."""
SAME_WITHIN = 1e-4
"""Millimetres, or of cosines: two grids that differ by less are one, read from two file formats."""
Image = tuple[str, str]
"""Patient and modality: what several masks lie on."""


@dataclass(frozen=True)
class ExportedMasks:
    """What was written."""

    images: int
    labels: int
    without: tuple[EntryKey, ...]
    """Entries of the snapshot that have no mask."""


def export_masks(
    snapshot: Snapshot, folder: Path, *, overwrite: bool = False, told: Told | None = None
) -> ExportedMasks:
    """Writes one OME-Zarr 0.5 image for a patient and modality, with a label for each ROI.

    OME-Zarr keeps labels below an image, and a store keeps no CT or PET: the image of `FOLDER/PATIENT/MODALITY.ome.zarr` is the
    union of the masks in `labels/ROI`. Axes are z, y, x in millimetres, z towards superior; scale is the spacing, and where the
    grid lies along the patient's axes (LPS) translation is the origin. The whole geometry, with the direction cosines, stands in
    the attributes under `engram`. A group is seen under its name when it is whole.

    Raises
    ------
    UsageError
        If a group exists already; nothing was written.
    NotCommittedError
        If no entry of the snapshot has a mask.
    StoreError
        If an entry does not say where its mask lies, masks of one image lie on different grids, or the folder cannot be written.
    """
    images, without = _images(snapshot)
    if not images:
        raise NotCommittedError(
            f"no entry of snapshot {snapshot.id[:16]}… ({snapshot.view_id}) has a mask: the first view of an extraction has them."
        )
    places = {image: folder / image[0] / f"{image[1]}{SUFFIX}" for image in images}
    taken = [place for place in places.values() if place.exists()]
    if taken and not overwrite:
        raise UsageError(f"{taken[0]} exists: give another folder, or --force to replace it.")
    for done, (image, keys) in enumerate(images.items(), start=1):
        _write_image(snapshot, places[image], image, keys)
        if told is not None:
            told(done, len(images))
    return ExportedMasks(len(images), sum(map(len, images.values())), without)


def _images(snapshot: Snapshot) -> tuple[dict[Image, list[EntryKey]], tuple[EntryKey, ...]]:
    """Entries that have a mask by the image that they lie on, and entries that have none."""
    images: dict[Image, list[EntryKey]] = defaultdict(list)
    without: list[EntryKey] = []
    has_mask = each(
        lambda key: "mask" in snapshot.commit(key).arrays, snapshot.keys, parallel=snapshot.location.parallel
    )
    for key, has in zip(snapshot.keys, has_mask, strict=True):
        (images[key.patient, key.modality] if has else without).append(key)
    return images, tuple(without)


def _write_image(snapshot: Snapshot, place: Path, image: Image, keys: Sequence[EntryKey]) -> None:
    """One group, written beside its place and moved there whole."""
    temporary = place.with_name(f".engram-export-{uuid.uuid4().hex}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _write_group(temporary, image, snapshot, BulkReader(snapshot, ("mask",)).read(keys))
        if place.exists():
            shutil.rmtree(place)
        temporary.replace(place)
    except OSError as error:
        raise StoreError(f"{place} could not be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_group(place: Path, image: Image, snapshot: Snapshot, entries: Iterator[StoredEntry]) -> None:
    """Labels one after the other: of many masks one and the union are in memory."""
    group = zarr.create_group(place, zarr_format=3)
    labels = group.create_group("labels")
    rois: list[str] = []
    grid: _Grid | None = None
    union = np.empty(0, np.uint8)
    for entry in entries:
        mask, own = entry.arrays["mask"], _grid(entry)
        if grid is None:
            grid, union = own, np.zeros_like(mask)
        if mask.shape != union.shape or not own.is_same(grid):
            raise StoreError(
                f"{entry.key} has a mask of {mask.shape} on {own}, {rois[0]} one of {union.shape} on {grid}: labels of one image "
                "lie on one grid. Export them from two snapshots (`store-schema snapshot --where roi=…`)."
            )
        np.maximum(union, mask != 0, out=union)
        _write_label(labels, snapshot, entry, grid)
        rois.append(entry.key.roi)
    assert grid is not None
    labels.attrs["ome"] = {"version": VERSION, "labels": rois}
    _write_array(group, union)
    group.attrs["ome"] = _multiscales(" ".join(image), grid)
    group.attrs["engram"] = _told(snapshot, grid) | {"patient": image[0], "modality": image[1]}


def _write_label(labels: zarr.Group, snapshot: Snapshot, entry: StoredEntry, grid: _Grid) -> None:
    roi, mask = entry.key.roi, entry.arrays["mask"]
    values = [int(value) for value in np.unique(mask) if value]
    label: dict[str, Json] = {"source": {"image": "../../"}}
    if values:
        label["colors"] = [{"label-value": value, "rgba": list(COLOUR_RGBA)} for value in values]
        label["properties"] = [{"label-value": value, "name": roi} for value in values]
    group = labels.create_group(roi)
    _write_array(group, mask)
    group.attrs["ome"] = _multiscales(roi, grid) | {"image-label": label}
    told = {
        "entry": str(entry.key),
        "commit": entry.commit.number,
        "commit_sha256": snapshot.row(entry.key).commit_sha256,
    }
    group.attrs["engram"] = _told(snapshot, grid) | told


def _write_array(group: zarr.Group, values: np.ndarray) -> None:
    chunks = tuple(map(min, MASK_CHUNK_ZYX, values.shape))
    array = group.create_array(
        "0", shape=values.shape, dtype=values.dtype, chunks=chunks, dimension_names=AXES, fill_value=0
    )
    array[...] = values


def _told(snapshot: Snapshot, grid: _Grid) -> dict[str, Json]:
    """Where it came from and where it lies, for programs that know more than OME-Zarr can say."""
    store = snapshot.content.header.store_id
    return {"store": store, "view": snapshot.view_id, "snapshot": snapshot.id, "space": "LPS", "grid": asdict(grid)}


# Geometry


@dataclass(frozen=True)
class _Grid:
    """Where voxels lie in the patient, in LPS millimetres, as an entry's attributes tell it."""

    spacing_xyz_mm: tuple[float, ...]
    origin_xyz_mm: tuple[float, ...] | None
    """Centre of the first voxel."""
    direction: tuple[float, ...] | None
    """Nine cosines, row-major: column j is the direction of axis j."""

    @property
    def aligned(self) -> bool:
        """Whether its axes are the patient's."""
        return self.direction is not None and bool(
            np.abs(np.reshape(self.direction, (3, 3)) - np.eye(3)).max() < ALIGNED_WITHIN
        )

    def is_same(self, other: _Grid) -> bool:
        """Whether voxels lie in the same places, but for the rounding of file formats."""
        mine, theirs = (
            (*one.spacing_xyz_mm, *(one.origin_xyz_mm or ()), *(one.direction or ())) for one in (self, other)
        )
        return len(mine) == len(theirs) and bool(np.allclose(mine, theirs, rtol=0, atol=SAME_WITHIN))


def _grid(entry: StoredEntry) -> _Grid:
    """The grid of an entry's mask.

    Raises
    ------
    StoreError
        If its attributes do not tell a spacing, or what they tell is no geometry.
    """
    told = entry.attributes.get("grid")
    grid = told if isinstance(told, Mapping) else {}
    spacing = _numbers(grid.get("spacing_xyz_mm"), 3)
    origin, direction = _numbers(grid.get("origin_xyz_mm"), 3), _numbers(grid.get("direction"), 9)
    if spacing is None or min(spacing) <= 0:
        raise StoreError(
            f"{entry.key} has no spacing among its attributes (grid.spacing_xyz_mm, three positive numbers): its mask cannot be "
            "placed. Leave it out of the snapshot."
        )
    return _Grid(spacing, origin, direction)


def _numbers(values: Json, count: int) -> tuple[float, ...] | None:
    """So many finite numbers; None where an attribute is absent or something else."""
    if not isinstance(values, Sequence) or len(values) != count:
        return None
    return tuple(map(float, values)) if all(isinstance(value, int | float) for value in values) else None


def _multiscales(name: str, grid: _Grid) -> dict[str, Json]:
    """One scale, since labels are not resampled."""
    axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in AXES]
    transformations: list[dict[str, Any]] = [{"type": "scale", "scale": list(reversed(grid.spacing_xyz_mm))}]
    if grid.aligned and grid.origin_xyz_mm is not None:
        transformations.append({"type": "translation", "translation": list(reversed(grid.origin_xyz_mm))})
    dataset = {"path": "0", "coordinateTransformations": transformations}
    return {"version": VERSION, "multiscales": [{"name": name, "axes": axes, "datasets": [dataset]}]}
