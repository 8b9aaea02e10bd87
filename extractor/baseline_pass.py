"""Makes the baseline views of one modality of a study from its kept slices; knows no file, unit or store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from extractor.baseline_layouts import HIERA, Baseline, HieraBuilder, last_maps, mean_vector
from extractor.baselines import SliceEncoder, cut
from extractor.memory import FeatureTap
from extractor.prompting import frames_of
from extractor.study import PreparedStudy
from store_schema import EntryKey


@dataclass(frozen=True)
class Region:
    """A region's kept slices, from superior to inferior, and its box on each."""

    slices: tuple[int, ...]
    boxes: Int[np.ndarray, "slice 4"]
    """Inclusive x0, y0, x1, y1 in native pixels."""

    @classmethod
    def of(cls, prepared: PreparedStudy, key: EntryKey, stride: int) -> Region:
        """The kept slices and boxes of an entry: those that memories are made from."""
        return cls(*frames_of(prepared, key, stride))


@dataclass(frozen=True)
class Made:
    """One region in one baseline view, as it is stored."""

    memory: Float[np.ndarray, "layer channel row column"]
    valid: tuple[bool, ...]
    mean_map: Float32[np.ndarray, "row column"] | None
    """None for vectors."""

    @classmethod
    def vector(cls, values: Float32[np.ndarray, "1 feature 1 1"]) -> Made:
        """A vector, whose single layer is always valid."""
        return cls(values, (True,), None)


Wanted = Iterable[tuple[str, Baseline]]
"""ROI and baseline of what is to be made."""


class HieraPass:
    """The baselines that need the segmentation network's image encoder alone, filled while it runs for memories or for them."""

    def __init__(self, wanted: Wanted, regions: Mapping[str, Region], *, whole: bool) -> None:
        """With `whole` every kept slice is encoded whatever is wanted, so that batches are always made up alike."""
        self._wanted = [(roi, baseline) for roi, baseline in wanted if baseline.encoder == HIERA]
        self._builders = {
            (roi, baseline.name): HieraBuilder(baseline, regions[roi].slices) for roi, baseline in self._wanted
        }
        every = {z for region in regions.values() for z in region.slices}
        needed = {z for builder in self._builders.values() for z in builder.slices}
        self.tap = FeatureTap(frozenset(every if whole and self._wanted else needed), self._take)
        """What the image encoder's pass is to call."""

    def _take(self, z: int, features: Float32[np.ndarray, "channel row column"]) -> None:
        for builder in self._builders.values():
            builder.take(z, features)

    def finish(self) -> dict[tuple[str, str], Made]:
        """What was made, by ROI and name of the baseline."""
        return {(roi, baseline.name): self._made(roi, baseline) for roi, baseline in self._wanted}

    def _made(self, roi: str, baseline: Baseline) -> Made:
        taken = self._builders[roi, baseline.name].in_order()
        if not baseline.is_map:
            return Made.vector(mean_vector(taken))
        layout = last_maps(taken)
        return Made(layout.memory.astype(np.float16), layout.valid, layout.mean_map)


def slice_vectors(
    encoder: SliceEncoder, image_zyx: UInt8[np.ndarray, "z y x"], wanted: Wanted, regions: Mapping[str, Region]
) -> dict[tuple[str, str], Made]:
    """Mean vectors of one encoder by ROI and name of the baseline; what several want of a slice is computed once."""
    mine = [(roi, baseline) for roi, baseline in wanted if baseline.encoder == encoder.name]
    pieces = {
        piece: None for roi, baseline in mine for piece in _pieces(baseline, regions[roi])
    }  # a dictionary keeps the order: whole slices and boxes as they are first wanted
    views = [image_zyx[z] if box is None else cut(image_zyx[z], np.array(box)) for z, box in pieces]
    vectors = dict(zip(pieces, encoder.vectors(views), strict=True))
    return {
        (roi, baseline.name): Made.vector(mean_vector([vectors[piece] for piece in _pieces(baseline, regions[roi])]))
        for roi, baseline in mine
    }


Piece = tuple[int, tuple[int, ...] | None]
"""A slice, and the box that is cut out of it, or None for the whole."""


def _pieces(baseline: Baseline, region: Region) -> list[Piece]:
    """What a baseline looks at, from superior to inferior."""
    boxes = {z: tuple(int(value) for value in box) for z, box in zip(region.slices, region.boxes, strict=True)}
    return [(z, boxes[z] if baseline.crop == "box" else None) for z in baseline.counted(region.slices)]
