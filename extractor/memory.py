"""Turns the kept slices of a volume into memories, in one pass for all of its regions; knows no file, unit or store.

It decides the order of prompting; what a step computes is the segmenter's, how memories are packed is the layouts'.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import BFloat16, Float32, Int, UInt8
from torch import Tensor

from extractor.layouts import LayoutArray, Mode, layout_builder
from extractor.segmenter import Decoded, Remembered, Segmenter, SliceFeatures
from store_schema.errors import ConfigError, ImageError, MaskError

MODES: tuple[Mode, ...] = ("sequential", "upfront")


@dataclass(frozen=True)
class Stream:
    """The prompts of one region: its kept slices are its frames 0 … N−1, whatever lies between them."""

    roi: str
    slices: tuple[int, ...]
    """z indices from superior to inferior: strictly falling, as stored z rises towards superior."""
    boxes: Int[np.ndarray, "slice 4"]
    """Inclusive x0, y0, x1, y1 in native pixels."""


@dataclass(frozen=True)
class Memory:
    """The memories of one region in one modality, in every layout that was asked for."""

    layouts: Mapping[str, LayoutArray]
    kept_slices: int

    @property
    def single_slice(self) -> bool:
        """A warning: one kept slice, hence one valid memory and no history."""
        return self.kept_slices == 1


SliceDone = Callable[[int, int], None]
"""Takes how many slices are done and how many there are."""
Observer = Callable[[str, int, BFloat16[Tensor, "1 64 row column"], Float32[Tensor, "1 1 row column"]], None]
"""Takes region, frame, memory and mask logits as each is made."""


def embed_volume(
    segmenter: Segmenter,
    image_zyx: UInt8[np.ndarray, "z y x"],
    streams: Sequence[Stream],
    *,
    mode: str,
    layouts: Sequence[str],
    on_slice: SliceDone | None = None,
    observe: Observer | None = None,
    timings_s: MutableMapping[str, float] | None = None,
) -> dict[str, Memory]:
    """Memories of every region of one volume, by region.

    Image features are computed once a slice and dropped before the next one; a stream holds only what attention can
    still see. What a stream yields does not depend on the other streams of the pass.

    Parameters
    ----------
    segmenter
        The loaded network.
    image_zyx
        One modality after windowing, 0–255, on its native grid; z rises towards superior.
    streams
        Prompts of each region.
    mode
        `sequential`: a slice is tracked from the earlier ones, then prompted with its box and the tracked mask.
        `upfront`: a slice is prompted with its box alone and sees no other.
    layouts
        Names from `extractor.layouts.LAYOUTS`.
    on_slice
        Called after each slice of the union of all streams' slices.
    observe
        Called with each memory and its mask logits.
    timings_s
        Filled with the seconds spent in each stage, added to what is there.

    Raises
    ------
    MaskError
        If a stream has no slice, or prompts that do not lie in the image.
    ImageError
        If the image is not a volume of uint8.
    ConfigError
        If the mode or a layout is unknown.

    References
    ----------
    sam2 1.1.0, `sam2_video_predictor_legacy.py`; its memories are matched by tests/extractor/test_parity.py.
    """
    trackers = _trackers(segmenter, image_zyx, streams, mode=mode, layouts=layouts)
    clock = _Clock({} if timings_s is None else timings_s, segmenter.device)
    visits = sorted({z for stream in streams for z in stream.slices}, reverse=True)
    for done, z in enumerate(visits, start=1):
        with segmenter.running():
            with clock.stage("image_encoder"):
                features = segmenter.network.encode(segmenter.network_input(image_zyx[z]))
            for tracker in trackers:
                if tracker.keeps(z):
                    tracker.take(features, clock, observe)
        if on_slice is not None:
            on_slice(done, len(visits))
    return {tracker.stream.roi: tracker.finish() for tracker in trackers}


class _Clock:
    """Adds up the seconds of each stage."""

    def __init__(self, seconds: MutableMapping[str, float], device: str) -> None:
        self._seconds = seconds
        self._waits_for_gpu = torch.device(device).type == "cuda"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the block as this stage."""
        started = time.perf_counter()
        yield
        if self._waits_for_gpu:
            torch.cuda.synchronize()
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started


class _Tracker:
    """One region on its way down the volume: what attention can still see, and the layouts so far."""

    def __init__(
        self, segmenter: Segmenter, stream: Stream, *, shape_yx: tuple[int, int], mode: Mode, layouts: Collection[str]
    ) -> None:
        self.stream = stream
        self._segmenter = segmenter
        self._shape_yx = shape_yx
        self._sequential = mode == "sequential"
        self._frame = 0
        self._first: Remembered | None = None
        self._recent: dict[int, Remembered] = {}
        count = len(stream.slices)
        self._builders = {
            layout: layout_builder(layout, count=count, mode=mode, grid_px=segmenter.grid_px) for layout in layouts
        }

    def keeps(self, z: int) -> bool:
        """Whether this slice is the region's next frame."""
        return self._frame < len(self.stream.slices) and self.stream.slices[self._frame] == z

    def take(self, features: SliceFeatures, clock: _Clock, observe: Observer | None) -> None:
        """Prompts, remembers and packs the next frame."""
        decoded = self._segment(features, clock)
        with clock.stage("memory_encoder"):
            remembered = self._segmenter.network.remember(features, decoded)
        assert remembered.memory is not None
        with clock.stage("layouts"):
            memory = remembered.memory[0].float().cpu().numpy()
            for builder in self._builders.values():
                builder.add(memory)
        if observe is not None:
            observe(self.stream.roi, self._frame, remembered.memory, decoded.logits)
        if self._sequential:
            self._keep(remembered)
        self._frame += 1

    def finish(self) -> Memory:
        """The packed memories."""
        layouts = {layout: builder.finish() for layout, builder in self._builders.items()}
        return Memory(layouts=layouts, kept_slices=len(self.stream.slices))

    def _segment(self, features: SliceFeatures, clock: _Clock) -> Decoded:
        """The mask of the next frame; the tracking and the prompted pass share one memory attention."""
        network = self._segmenter.network
        box = self._segmenter.box_prompt(self.stream.boxes[self._frame], shape_yx=self._shape_yx)
        with clock.stage("memory_attention"):
            conditioned = network.attend(
                features, first=self._first, recent=self._recent, frame=self._frame, frames=len(self.stream.slices)
            )
        with clock.stage("mask_decoder"):
            if self._first is None:
                return network.decode(features, conditioned, box=box)
            tracked = network.decode(features, conditioned, box=None)
            return network.decode(features, conditioned, box=box, previous=tracked.logits)

    def _keep(self, remembered: Remembered) -> None:
        """Holds the newest frame, and drops what no later frame can attend to."""
        if self._first is None:
            self._first = remembered
            return
        memories, pointers = self._segmenter.reach
        self._recent[self._frame] = remembered
        self._recent.pop(self._frame - pointers, None)
        beyond = self._frame - memories
        if beyond in self._recent:
            self._recent[beyond] = replace(self._recent[beyond], memory=None)


def _trackers(
    segmenter: Segmenter,
    image_zyx: UInt8[np.ndarray, "z y x"],
    streams: Sequence[Stream],
    *,
    mode: str,
    layouts: Sequence[str],
) -> list[_Tracker]:
    known = next((name for name in MODES if name == mode), None)
    if known is None:
        raise ConfigError(f"mode {mode!r} is unknown: use one of {', '.join(MODES)}")
    if image_zyx.ndim != 3 or image_zyx.dtype != np.uint8:
        raise ImageError(
            f"expected an image of uint8 with axes z, y, x; got {image_zyx.dtype} of shape {image_zyx.shape}"
        )
    if len({stream.roi for stream in streams}) != len(streams):
        raise MaskError(f"a region is prompted twice in one pass: {[stream.roi for stream in streams]}")
    for stream in streams:
        _check_stream(stream, image_zyx.shape)
    shape_yx = image_zyx.shape[1], image_zyx.shape[2]
    return [_Tracker(segmenter, stream, shape_yx=shape_yx, mode=known, layouts=layouts) for stream in streams]


def _check_stream(stream: Stream, shape_zyx: tuple[int, ...]) -> None:
    depth, height, width = shape_zyx
    slices, boxes = stream.slices, np.asarray(stream.boxes)
    if not slices:
        raise MaskError(f"region {stream.roi} keeps no slice: its mask is empty")
    if any(upper <= lower for upper, lower in pairwise(slices)):
        raise MaskError(
            f"the slices of region {stream.roi} must fall strictly in z, from superior to inferior: {slices}"
        )
    if boxes.shape != (len(slices), 4):
        raise MaskError(
            f"region {stream.roi} keeps {len(slices)} slices and has boxes of shape {boxes.shape}: "
            f"expected ({len(slices)}, 4)"
        )
    x0, y0, x1, y1 = boxes.T
    inside = (x0 >= 0) & (y0 >= 0) & (x1 >= x0) & (y1 >= y0) & (x1 < width) & (y1 < height)
    if not inside.all() or slices[0] >= depth or slices[-1] < 0:
        raise MaskError(
            f"region {stream.roi} has prompts outside the image of {width} × {height} × {depth} (x, y, z) voxels"
        )
