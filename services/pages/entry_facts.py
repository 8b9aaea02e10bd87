"""Says in words what a commit tells of an entry: geometry, slices, boxes, layers, warnings; draws nothing and reads no array.

Attributes are JSON that any writer may have made: what is not as the extractor writes it is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from services.pages.pictures import Box
from services.pages.templating import number_text, plural
from store_schema.records import CommitRecord, Source, ViewSpec

TWIN_TOLD = ("grid", "kept_slices_z", "boxes_xyxy")
"""What two entries of one pass agree in."""


@dataclass(frozen=True)
class EntryFacts:
    """What is said of an entry."""

    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    boxes: tuple[Box, ...]
    spacing_xyz_mm: tuple[float, float, float] | None


def entry_facts(commit: CommitRecord) -> EntryFacts:
    """What a commit's attributes tell."""
    told = commit.attributes
    grid: Mapping[str, Any] = told["grid"] if isinstance(told.get("grid"), dict) else {}
    spacing, size = _numbers(grid, "spacing_xyz_mm", 3), _numbers(grid, "size_xyz", 3)
    boxes = _boxes(told)
    facts = [
        ("Grid", _grid(size, spacing)),
        ("Kept slices", _slices(told, spacing)),
        ("Valid memory layers", _layers(told)),
        ("Region outside the field of view", _share(told.get("outside_share"))),
        ("Orientation of the source", told.get("original_orientation")),
        ("PET on CT", _alignment(told.get("alignment"))),
        ("Arrays", ", ".join(f"{name} {_shape(meta)}" for name, meta in sorted(commit.arrays.items()))),
    ]
    shown = tuple((label, text) for label, text in facts if isinstance(text, str) and text)
    usable = spacing if spacing is not None and min(spacing) > 0 else None
    return EntryFacts(shown, _warnings(told), boxes, None if usable is None else (usable[0], usable[1], usable[2]))


def is_twin(own: CommitRecord, other: CommitRecord) -> bool:
    """Whether another view's entry is of the same pass: its mask and preview show this one's slices and boxes as well."""
    return all(own.attributes.get(name) == other.attributes.get(name) for name in TWIN_TOLD)


def same_pass(own: ViewSpec, other: ViewSpec) -> bool:
    """Whether two views differ by name and layout alone: a pass makes them together."""
    left_out = {"name", "layout"}
    return own.model_dump(exclude=left_out) == other.model_dump(exclude=left_out)


def source_name(source: Source) -> str:
    """A file without the digest of its folder."""
    return source.path.rpartition("/")[2] or source.path


def file_time(source: Source) -> datetime | None:
    """When a local file was last changed."""
    try:
        return None if source.mtime_ns is None else datetime.fromtimestamp(source.mtime_ns / 1e9, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def array_shape(commit: CommitRecord, name: str) -> tuple[int, ...]:
    """Shape of an array; empty where its metadata tells none."""
    shape = commit.arrays.get(name, {}).get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        return ()
    return tuple(shape)


def _numbers(found: Mapping[str, Any], name: str, count: int) -> tuple[float, ...] | None:
    values = found.get(name)
    if not isinstance(values, list) or len(values) != count:
        return None
    if not all(type(value) in {int, float} and math.isfinite(value) for value in values):
        return None
    return tuple(float(value) for value in values)


def _boxes(told: Mapping[str, Any]) -> tuple[Box, ...]:
    slices, boxes = told.get("kept_slices_z"), told.get("boxes_xyxy")
    if not isinstance(slices, list) or not isinstance(boxes, list) or len(slices) != len(boxes):
        return ()
    rows = [[z, *(box if isinstance(box, list) else [])] for z, box in zip(slices, boxes, strict=True)]
    if not all(len(row) == 5 and all(type(value) is int and 0 <= value < 2**20 for value in row) for row in rows):
        return ()
    return tuple(Box(*row) for row in rows)


def _grid(size: tuple[float, ...] | None, spacing: tuple[float, ...] | None) -> str | None:
    if size is None or spacing is None:
        return None
    return (
        f"{' × '.join(f'{one:g}' for one in size)} voxels of {' × '.join(f'{one:.4g}' for one in spacing)} mm (x, y, z)"
    )


def _slices(told: Mapping[str, Any], spacing: tuple[float, ...] | None) -> str | None:
    slices = told.get("kept_slices_z")
    if not isinstance(slices, list) or not slices or not all(type(z) is int for z in slices):
        return None
    text = f"{plural(len(slices), 'slice')}, z {max(slices)} down to {min(slices)}"
    return text if spacing is None else f"{text}, {(max(slices) - min(slices) + 1) * spacing[2]:.0f} mm of height"


def _layers(told: Mapping[str, Any]) -> str | None:
    valid = told.get("valid_layers")
    if not isinstance(valid, list) or not valid:
        return None
    return f"{sum(one is True for one in valid)} of {len(valid)}"


def _share(value: Any) -> str | None:
    return f"{value:.2%}" if type(value) in {int, float} and math.isfinite(value) else None


def _alignment(found: Any) -> str | None:
    if not isinstance(found, dict):
        return None
    dice, distance = found.get("body_dice"), found.get("centroid_mm")
    parts = [f"Dice of the bodies {number_text(dice, 2)}"] if isinstance(dice, float) else []
    parts += [f"centroids {number_text(distance, 1)} mm apart"] if isinstance(distance, float) else []
    return ", ".join(parts) or None


def _shape(metadata: Mapping[str, Any]) -> str:
    shape = metadata.get("shape")
    sizes = shape if isinstance(shape, list) else []
    return f"{' × '.join(str(size) for size in sizes)} {metadata.get('data_type')}"


def _warnings(told: Mapping[str, Any]) -> tuple[str, ...]:
    found = told.get("warnings")
    return tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()
