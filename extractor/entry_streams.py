"""Takes the slices and prompts of an entry, and refuses a perturbation that leaves what it reads as it was; knows no network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from extractor.baseline_layouts import Baseline
from extractor.config import Product, Variant
from extractor.occlusion_reach import Reach
from extractor.perturbation_kinds import AXES
from extractor.prompting import Frames, frames_of
from extractor.prompts import key_rank, seeded_points
from extractor.streams import Stream
from extractor.study import PreparedStudy
from store_schema import EntryKey
from store_schema.errors import StudyError

ONE_PROMPT = ("first", "key_slice")
"""Modes in which one slice is prompted, and the others are tracked from it."""
Read = tuple[tuple[int, object], ...]
"""What an entry is made from: each slice that can change it, and the prompt on it; None where it has none."""


def stream_of(key: EntryKey, variant: Variant, prepared: PreparedStudy, stride: int) -> Stream:
    """Kept slices and prompts of an entry."""
    return _stream(key, variant, prepared, frames_of(prepared, key, stride))


def _stream(key: EntryKey, variant: Variant, prepared: PreparedStudy, frames: Frames) -> Stream:
    mask_zyx, (slices, boxes) = prepared.masks_zyx[key.roi], frames
    return Stream(
        name=f"{key.roi}/{variant.name}",
        slices=slices,
        boxes=boxes,
        mode=variant.mode,
        prompt=variant.prompt,
        points=seeded_points(mask_zyx, slices, entry=str(key)) if variant.prompt == "points" else None,
        mask_zyx=mask_zyx,
        key=key_rank(mask_zyx, slices),
    )


@dataclass(frozen=True)
class Disturbance:
    """Holds what the entries of a study are made from against what they would be without its perturbation."""

    prepared: PreparedStudy
    stride: int
    """Of the settings."""
    kept_every: int
    """Of the settings, or of their perturbation."""
    grid_px: int | None
    """Of the segmentation network's memories; None where there are only baselines."""
    _frames: dict[tuple[EntryKey, bool], Frames] = field(default_factory=dict)

    def check(self, key: EntryKey, product: Product | Baseline) -> None:
        """Refuse an entry that would be the undisturbed one under another name: it would seem robust.

        What counts is what mode and layout use: the slices that can change the embedding, and the prompts on them.

        Raises
        ------
        StudyError
            If all of that stays as it is, or the region cannot be disturbed as asked.
        MaskError
            If the region is empty.
        """
        perturb = self.prepared.perturb
        if key.roi in self.prepared.refused:
            raise self.prepared.refused[key.roi]
        if perturb is None or perturb.kind == "constant" or perturb.kind in AXES:
            return
        if self._read(key, product, disturbed=True) == self._read(key, product, disturbed=False):
            raise StudyError(
                f"{perturb.suffix[1:]} leaves every slice and prompt that this entry of region '{key.roi}' reads as it is "
                f"({_reads(product)}): it would seem robust. Give a larger size, or leave it out."
            )

    def _read(self, key: EntryKey, product: Product | Baseline, *, disturbed: bool) -> Read:
        prepared, frames = self._of(key, disturbed=disturbed)
        if isinstance(product, Baseline):
            slices, boxes = frames
            kept = product.counted(slices)
            prompts = [
                tuple(map(int, box)) if product.crop == "box" else None for box in boxes[len(slices) - len(kept) :]
            ]
            return tuple(zip(map(int, kept), prompts, strict=True))
        assert self.grid_px is not None
        stream = _stream(key, product.variant, prepared, frames)
        reach = Reach(stream, (product.layout,), grid_px=self.grid_px)
        prompted = {reach.key} if stream.mode in ONE_PROMPT else reach.seen
        return tuple(_prompts(stream, sorted(reach.seen), prompted))

    def _of(self, key: EntryKey, *, disturbed: bool) -> tuple[PreparedStudy, Frames]:
        prepared, stride = self.prepared, self.kept_every
        if not disturbed:
            masks = {**prepared.masks_zyx, **prepared.undisturbed_zyx}
            prepared, stride = replace(prepared, perturb=None, masks_zyx=masks), self.stride
        place = key, disturbed
        if place not in self._frames:
            self._frames[place] = frames_of(prepared, key, stride)
        return prepared, self._frames[place]


def _prompts(stream: Stream, ranks: Iterable[int], prompted: Iterable[int]) -> Iterable[tuple[int, object]]:
    those = set(prompted)
    for rank in ranks:
        yield int(stream.slices[rank]), _prompt(stream, rank) if rank in those else None


def _prompt(stream: Stream, rank: int) -> object:
    """A slice's prompt as it can be compared."""
    if stream.prompt == "mask":
        assert stream.mask_zyx is not None
        return hashlib.sha256(np.ascontiguousarray(stream.mask_zyx[stream.slices[rank]]).tobytes()).digest()
    points_or_box = stream.boxes[rank] if stream.points is None else stream.points[rank]
    return tuple(np.asarray(points_or_box).ravel().tolist())


def _reads(product: Product | Baseline) -> str:
    return f"baseline {product.name}" if isinstance(product, Baseline) else f"{product.variant.name}, {product.layout}"
