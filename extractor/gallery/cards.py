"""Reads one entry from the store and draws it; knows no page and no other entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from extractor.pictures import (
    Panel,
    Picture,
    Plane,
    box_bars,
    boxed,
    heat_map,
    outlined,
    panel,
    pixel_mm,
    side_by_side,
    thickness,
)
from store_schema import CommitRecord, EntryKey, Store
from store_schema.errors import EngramError, NotCommittedError
from store_schema.reader import read_entry

REGION_PX = 120
"""Height of the pictures made from a mask."""
DRAWN = ("preview", "mask")
"""Arrays that the first view of a pass alone holds."""
SAMPLED = 64
"""Maps from which the scale of all is taken."""

Scale = tuple[float, float]


@dataclass(frozen=True)
class Card:
    """What is shown of one entry; numbers are None where the entry does not say them."""

    key: EntryKey
    number: int | None = None
    preview: Picture | None = None
    region: Picture | None = None
    map: Picture | None = None
    volume_ml: float | None = None
    kept: int | None = None
    valid: int | None = None
    layers: int | None = None
    outside_share: float | None = None
    dice: float | None = None
    centroid_mm: float | None = None
    orientation: str | None = None
    map_range: Scale | None = None
    warnings: tuple[str, ...] = ()
    unread: str | None = None
    """Why the entry could not be read; then nothing else of it is known."""

    @property
    def doubtful(self) -> bool:
        """Whether somebody should look at it."""
        return bool(self.warnings or self.unread or (self.valid or 0) < (self.layers or 0))


@dataclass(frozen=True)
class Reader:
    """Reads entries of one view; masks and previews also from the view of the same pass that holds them."""

    store: Store
    view_id: str

    @cached_property
    def beside(self) -> tuple[str, ...]:
        """Views that differ from this one by the layout alone: a pass makes them together."""
        own = self._pass(self.view_id)
        return tuple(one for one in self.store.view_ids() if one != self.view_id and self._pass(one) == own)

    def _pass(self, view_id: str) -> dict[str, Any]:
        return self.store.view(view_id).model_dump(exclude={"name", "layout"})

    def commit(self, key: EntryKey, number: int | None) -> CommitRecord:
        """The commit to show."""
        return self.store.commit(self.view_id, key, number=number)

    def drawn_arrays(self, commit: CommitRecord) -> Mapping[str, np.ndarray]:
        """Mask and preview of an entry; empty where no view has those of the same slices and boxes."""
        for one in (commit, *self._twins(commit)):
            names = [name for name in DRAWN if name in one.arrays]
            if names:
                return read_entry(self.store.location, one, arrays=names).arrays
        return {}

    def _twins(self, commit: CommitRecord) -> list[CommitRecord]:
        if any(name in commit.arrays for name in DRAWN):
            return []
        found = [self.store.current(view_id, commit.key) for view_id in self.beside]
        told = ("grid", "kept_slices_z", "boxes_xyxy")
        return [
            one
            for one in found
            if one is not None and all(one.attributes.get(name) == commit.attributes.get(name) for name in told)
        ]

    def mean_map(self, commit: CommitRecord) -> np.ndarray | None:
        """The map of an entry; None of a view of vectors."""
        if "mean_map" not in commit.arrays:
            return None
        return np.asarray(read_entry(self.store.location, commit, arrays=["mean_map"]).arrays["mean_map"])


def common_scale(reader: Reader, numbers: Mapping[EntryKey, int | None]) -> Scale | None:
    """One range for all maps: the 1st and 99th percentile of up to `SAMPLED` of them, evenly chosen; None without any map."""
    keys = list(numbers)
    chosen = keys[:: max(1, -(-len(keys) // SAMPLED))]
    maps = []
    for key in chosen:
        try:
            found = reader.mean_map(reader.commit(key, numbers[key]))
        except (EngramError, OSError):
            # its card will say so
            continue
        maps += [] if found is None else [found.reshape(-1)]
    if not maps:
        return None
    low, high = (float(f"{value:.2g}") for value in np.percentile(np.concatenate(maps), (1, 99)))
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def card(reader: Reader, key: EntryKey, number: int | None, scale: Scale | None) -> Card:
    """One entry, read and drawn; one that cannot be read says why."""
    try:
        commit = reader.commit(key, number)
        return _card(commit, reader.drawn_arrays(commit), reader.mean_map(commit), scale)
    except (EngramError, OSError) as error:
        return Card(key, number, unread=f"{type(error).__name__}: {error}")


def _card(
    commit: CommitRecord, drawn: Mapping[str, np.ndarray], mean_map: np.ndarray | None, scale: Scale | None
) -> Card:
    told, mask = commit.attributes, drawn.get("mask")
    valid, found = told.get("valid_layers"), told.get("alignment") or {}
    return Card(
        key=commit.key,
        number=commit.number,
        preview=_preview(commit, drawn.get("preview")),
        region=None if mask is None else _region(commit, mask),
        map=None if mean_map is None or scale is None else _map(commit.key, mean_map, scale),
        volume_ml=None if mask is None else _volume_ml(commit, mask),
        kept=None if "kept_slices_z" not in told else len(told["kept_slices_z"]),
        valid=None if valid is None else sum(valid),
        layers=None if valid is None else len(valid),
        outside_share=told.get("outside_share"),
        dice=found.get("body_dice"),
        centroid_mm=found.get("centroid_mm"),
        orientation=told.get("original_orientation"),
        map_range=None if mean_map is None else (float(mean_map.min()), float(mean_map.max())),
        warnings=tuple(told.get("warnings", ())),
    )


def _volume_ml(commit: CommitRecord, mask_zyx: np.ndarray) -> float:
    return float(np.count_nonzero(mask_zyx) * np.prod(_spacing(commit)) / 1000)


def _spacing(commit: CommitRecord) -> Sequence[float]:
    try:
        spacing: Sequence[float] = commit.attributes["grid"]["spacing_xyz_mm"]
    except KeyError as error:
        raise NotCommittedError(f"{commit.view}/{commit.key} does not say the spacing of its mask.") from error
    return spacing


def _preview(commit: CommitRecord, preview: np.ndarray | None) -> Picture | None:
    if preview is None:
        return None
    alt = f"{commit.key}: coronal projection and kept slices with the region's outline (orange) and boxes (sky blue)"
    return Picture.of(preview, alt)


def _region(commit: CommitRecord, mask_zyx: np.ndarray) -> Picture:
    """The mask from the front and the side with all boxes, and its largest kept slice."""
    spacing, slices, boxes = _spacing(commit), commit.attributes["kept_slices_z"], commit.attributes["boxes_xyxy"]
    planes: tuple[Plane, ...] = ("coronal", "sagittal")
    panels = [_from_side(mask_zyx, plane, spacing, slices, boxes) for plane in planes]
    rank = int(np.argmax([np.count_nonzero(mask_zyx[z]) for z in slices]))
    inside = mask_zyx[slices[rank]] != 0
    axial = panel(inside.astype(np.uint8) * 90, pixel_mm=pixel_mm(spacing, "axial"), height_px=REGION_PX)
    panels.append(boxed(outlined(axial, inside), boxes[rank]))
    alt = (
        f"{commit.key}: stored mask in coronal and sagittal projection with the boxes of {len(slices)} kept slices, and its "
        f"largest kept slice, z {slices[rank]}"
    )
    return Picture.of(side_by_side(panels), alt)


def _from_side(
    mask_zyx: np.ndarray, plane: Plane, spacing: Sequence[float], slices: Sequence[int], boxes: Sequence[Sequence[int]]
) -> Panel:
    grey = thickness(mask_zyx, plane, spacing)
    shown = panel(grey, pixel_mm=pixel_mm(spacing, plane), height_px=REGION_PX)
    return box_bars(shown, slices, boxes, plane, len(mask_zyx))


def _map(key: EntryKey, mean_map: np.ndarray, scale: Scale) -> Picture:
    alt = f"{key}: mean memory map, from {mean_map.min():.3g} to {mean_map.max():.3g}"
    return Picture.of(heat_map(mean_map, scale), alt, lossless=True)
