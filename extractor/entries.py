"""Puts together what the store holds of one region in one view: arrays, mask, preview, attributes; knows no network or store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from extractor.baseline_pass import Made, Region
from extractor.memory import Memory
from extractor.preview import render_preview
from extractor.prompting import told_of
from extractor.streams import Stream
from extractor.study import PreparedStudy
from store_schema import Entry


@dataclass(frozen=True)
class Subject:
    """What an entry is of, and whether it carries mask and preview, as the first view of a pass does."""

    prepared: PreparedStudy
    modality: str
    roi: str
    pictures: bool


def memory_entry(subject: Subject, stream: Stream, memory: Memory, layout: str) -> Entry:
    """Arrays and attributes of one layout of a stream's memories."""
    made, region = memory.layouts[layout], Region(stream.slices, np.asarray(stream.boxes))
    arrays: dict[str, np.ndarray] = {"memory": made.memory.astype(np.float16), "mean_map": made.mean_map}
    attributes = _attributes(subject, region, made.valid)
    if stream.points is not None:
        attributes["points_xy"] = stream.points.tolist()
    if stream.mode == "key_slice":
        attributes["key_slice_z"] = int(stream.slices[stream.key])
    return Entry(arrays | _pictures(subject, region), attributes)


def baseline_entry(subject: Subject, region: Region, made: Made) -> Entry:
    """Arrays and attributes of a baseline; a vector has no mean map."""
    arrays = {"memory": made.memory} | ({} if made.mean_map is None else {"mean_map": made.mean_map})
    return Entry(arrays | _pictures(subject, region), _attributes(subject, region, made.valid))


def _pictures(subject: Subject, region: Region) -> dict[str, np.ndarray]:
    if not subject.pictures:
        return {}
    prepared, roi = subject.prepared, subject.roi
    preview = render_preview(prepared, subject.modality, roi, region.slices, region.boxes)
    return {"mask": prepared.masks_zyx[roi], "preview": preview}


def _attributes(subject: Subject, region: Region, valid: Sequence[bool]) -> dict[str, Any]:
    prepared = subject.prepared
    return {
        "grid": asdict(prepared.grid),
        "original_orientation": prepared.original_orientations[subject.modality],
        "kept_slices_z": [int(z) for z in region.slices],
        "boxes_xyxy": region.boxes.astype(int).tolist(),
        "valid_layers": [bool(one) for one in valid],
        "outside_share": prepared.missing_share(subject.modality, subject.roi),
        "alignment": None if prepared.alignment is None else prepared.alignment.to_json(),
        "warnings": _warnings(subject, region),
        **told_of(prepared, subject.roi, (region.slices, region.boxes)),
    }


def _warnings(subject: Subject, region: Region) -> list[str]:
    prepared = subject.prepared
    single = ["one kept slice: a single valid memory"] if len(region.slices) == 1 else []
    doubtful = None if prepared.alignment is None else prepared.alignment.warning
    return [*prepared.notes.get(subject.roi, ()), *single, *([] if doubtful is None else [doubtful])]
