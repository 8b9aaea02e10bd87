"""Turns the kept slices of a volume into memories, in one pass for all of its streams; knows no file, unit or store.

It decides in which order slices are visited; what happens on one is `tracking`'s, how memories are packed is the layouts'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import batched, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import torch
from jaxtyping import BFloat16, Float32, Int, UInt8
from torch import Tensor

from extractor.batching import Batcher
from extractor.layouts import Kept, LayoutArray, LayoutBuilder, Mode, layout_builder
from extractor.network import Points, SliceFeatures
from extractor.prompts import PromptKind
from extractor.segmenter import Segmenter
from extractor.tracking import Clock, MaskPrompt, Step, Stepper, Track
from store_schema.errors import ConfigError, ImageError, MaskError

MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class Stream:
    """The prompts of one region: its kept slices are its frames 0 … N−1, whatever lies between them."""

    name: str
    """Of the region and, where there are several, of the way it is prompted; unique within a pass."""
    slices: tuple[int, ...]
    """z indices from superior to inferior: strictly falling, as stored z rises towards superior."""
    boxes: Int[np.ndarray, "slice 4"]
    """Inclusive x0, y0, x1, y1 in native pixels."""
    mode: Mode = "sequential"
    """Order of prompting; see `embed_volume`."""
    prompt: PromptKind = "box"
    points: Int[np.ndarray, "slice point 2"] | None = field(default=None, repr=False)
    """x, y in native pixels, inside the region; needed for prompts of this kind."""
    mask_zyx: UInt8[np.ndarray, "z y x"] | None = field(default=None, repr=False)
    """The region; needed for prompts of this kind."""
    key: int = 0
    """Rank of the slice that is prompted in mode `key_slice`."""


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
"""Takes how many visits of slices are done and how many there are."""


@dataclass(frozen=True)
class FeatureTap:
    """Takes the image encoder's top level of certain slices as the pass comes by, whether or not a stream keeps them."""

    slices: frozenset[int]
    """z indices."""
    take: Callable[[int, Float32[np.ndarray, "channel row column"]], None]
    """Called once a slice, in any order, with z and what the encoder made of it."""

    def give(self, z: int, features: SliceFeatures) -> None:
        """Hands on the top level of a slice."""
        self.take(z, features.maps()[-1][0].float().cpu().numpy())


Observer = Callable[[str, int, BFloat16[Tensor, "1 64 row column"], Float32[Tensor, "1 1 row column"]], None]
"""Takes the stream's name, rank of the slice, memory and mask logits as each is made."""


def embed_volume(
    segmenter: Segmenter,
    image_zyx: UInt8[np.ndarray, "z y x"],
    streams: Sequence[Stream],
    *,
    layouts: Sequence[str],
    tap: FeatureTap | None = None,
    on_slice: SliceDone | None = None,
    observe: Observer | None = None,
    timings_s: MutableMapping[str, float] | None = None,
) -> dict[str, Memory]:
    """Memories of every stream of one volume, by its name.

    Image features are computed once a slice, for all streams; a stream holds only what attention can still see. What a stream
    yields does not depend on the other streams of the pass where the segmenter's batches are of one.

    Modes of a stream:

    - `sequential`: a slice is tracked from the earlier ones, then prompted together with the tracked mask.
    - `sequential_direct`: a slice is prompted, and sees the earlier ones; it is not tracked first.
    - `upfront`: a slice is prompted and sees no other.
    - `first`: the uppermost slice is prompted, the others are tracked.
    - `key_slice`: the key slice is prompted, the others are tracked from there downwards, and upwards.

    A mask prompt takes the place of the predicted mask: memory attention is bypassed on such a slice, so that with masks
    `sequential`, `sequential_direct` and `upfront` are one and the same.

    Parameters
    ----------
    segmenter
        The loaded network.
    image_zyx
        One modality after windowing, 0–255, on its native grid; z rises towards superior.
    streams
        Prompts of each region.
    layouts
        Names from `extractor.layouts.LAYOUTS`.
    tap
        Takes image features of slices, beside the streams or without any.
    on_slice
        Called after each visit of a slice; slices above a key slice may be visited twice.
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
        If a mode or layout is unknown.

    References
    ----------
    sam2 1.1.0, `sam2_video_predictor_legacy.py`; its memories are matched by tests/extractor/test_parity.py.
    """
    _check(image_zyx, streams)
    clock = Clock({} if timings_s is None else timings_s, segmenter.device)
    shape_yx = image_zyx.shape[1], image_zyx.shape[2]
    ways = [_Way(stream, segmenter, shape_yx, layouts) for stream in streams]
    stepper = Stepper(segmenter, clock)
    with ExitStack() as stack:
        encoder = _Encoder(segmenter, image_zyx, clock, stack)
        for visit in _visits(ways, encoder, on_slice, tap or FeatureTap(frozenset(), lambda *_: None)):
            with segmenter.running():
                steps = stepper.step([visit.track_of(way) for way in visit.ways], visit.features)
            for way, step in zip(visit.ways, steps, strict=True):
                way.take(step, clock, observe)
    return {way.stream.name: way.finish() for way in ways}


class _Way:
    """One stream on its way through the volume: its tracks, and the layouts so far."""

    def __init__(self, stream: Stream, segmenter: Segmenter, shape_yx: tuple[int, int], layouts: Sequence[str]) -> None:
        self.stream = stream
        count = len(stream.slices)
        key = stream.key if stream.mode == "key_slice" else 0
        prompts = partial(_prompt, segmenter, stream, shape_yx)
        self.down = Track(stream.mode, range(key, count), frames=count, prompts=prompts)
        self.up = Track(stream.mode, range(key, -1, -1), frames=count, prompts=prompts)
        """From the key slice upwards; ends where it begins for every other mode."""
        kept = Kept(count, stream.mode, segmenter.grid_px, key)
        self._builders: dict[str, LayoutBuilder] = {layout: layout_builder(layout, kept) for layout in layouts}

    def take(self, step: Step, clock: Clock, observe: Observer | None) -> None:
        """Packs a memory."""
        memory = step.remembered.memory
        assert memory is not None
        with clock.stage("layouts"):
            values = memory[0].float().cpu().numpy()
            for builder in self._builders.values():
                builder.add(values, step.rank)
        if observe is not None:
            observe(self.stream.name, step.rank, memory, step.decoded.logits)

    def finish(self) -> Memory:
        """The packed memories."""
        layouts = {layout: builder.finish() for layout, builder in self._builders.items()}
        return Memory(layouts=layouts, kept_slices=len(self.stream.slices))


def _prompt(segmenter: Segmenter, stream: Stream, shape_yx: tuple[int, int], rank: int) -> Points | MaskPrompt:
    """The prompt of a stream's slice as the network takes it."""
    if stream.prompt == "mask":
        assert stream.mask_zyx is not None
        return segmenter.mask_prompt(stream.mask_zyx[stream.slices[rank]] != 0)
    if stream.prompt == "points":
        assert stream.points is not None
        return segmenter.point_prompt(stream.points[rank], shape_yx=shape_yx)
    return segmenter.box_prompt(stream.boxes[rank], shape_yx=shape_yx)


# Order of visits


@dataclass(frozen=True)
class _Visit:
    """A slice that is passed on the way down, or up again."""

    ways: Sequence[_Way]
    upwards: bool
    features: SliceFeatures

    def track_of(self, way: _Way) -> Track:
        """The track of a stream in this direction."""
        return way.up if self.upwards else way.down


def _visits(ways: Sequence[_Way], encoder: _Encoder, on_slice: SliceDone | None, tap: FeatureTap) -> Iterator[_Visit]:
    """Every slice of a track downwards, from superior to inferior; then those above key slices upwards."""
    down = _by_slice([(way, way.down.ranks) for way in ways])
    up = _by_slice([(way, way.up.ranks[1:]) for way in ways])
    done, total, left = 0, len(down) + len(up), set(tap.slices)
    for upwards, keepers in ((False, down), (True, up)):
        if upwards:
            for way in ways:
                way.up.follow(way.down)
        order = sorted(keepers, reverse=not upwards)
        for z, features in encoder.features(order, again=frozenset() if upwards else frozenset(up)):
            if z in left:
                left.remove(z)
                tap.give(z, features)
            yield _Visit(keepers[z], upwards, features)
            done += 1
            if on_slice is not None:
                on_slice(done, total)
    # In batches of their own: what is tapped must not decide with what a stream's slices are encoded.
    for z, features in encoder.features(sorted(left, reverse=True), again=frozenset()):
        tap.give(z, features)


def _by_slice(ways: Sequence[tuple[_Way, Sequence[int]]]) -> dict[int, list[_Way]]:
    """Which streams keep a slice, by z."""
    keepers: dict[int, list[_Way]] = {}
    for way, ranks in ways:
        for rank in ranks:
            keepers.setdefault(way.stream.slices[rank], []).append(way)
    return keepers


class _Encoder:
    """Image features, each computed once; those that are needed again lie on disk meanwhile, so that memory stays bounded."""

    def __init__(
        self, segmenter: Segmenter, image_zyx: UInt8[np.ndarray, "z y x"], clock: Clock, stack: ExitStack
    ) -> None:
        self._segmenter, self._image_zyx, self._clock, self._stack = segmenter, image_zyx, clock, stack
        self._batcher = Batcher(segmenter.batches.slices)
        self._shelf: Path | None = None
        self._shelved: set[int] = set()

    def features(self, order: Sequence[int], *, again: frozenset[int]) -> Iterator[tuple[int, SliceFeatures]]:
        """Slices (z) with their features in this order; those in `again` will be asked for a second time."""
        for part in batched(order, self._segmenter.batches.slices):
            new = [z for z in part if z not in self._shelved]
            made = dict(zip(new, self._encoded(new), strict=True))
            for z in part:
                features = made.pop(z) if z in made else self._taken(z)
                if z in again:
                    self._put(z, features)
                yield z, features

    def _encoded(self, slices: Sequence[int]) -> list[SliceFeatures]:
        def encode(part: Sequence[int]) -> list[SliceFeatures]:
            images = torch.cat([self._segmenter.network_input(self._image_zyx[z]) for z in part])
            return list(self._segmenter.network.encode(images).apart())

        with self._segmenter.running(), self._clock.stage("image_encoder"):
            return self._batcher.run(slices, encode)

    def _put(self, z: int, features: SliceFeatures) -> None:
        if self._shelf is None:
            self._shelf = Path(self._stack.enter_context(TemporaryDirectory(prefix="engram-features-")))
        with self._clock.stage("shelf"):
            # Cloned: a view would take the whole batch's storage along.
            parts = ([one.clone() for one in features.levels], [one.clone() for one in features.positions])
            torch.save((*parts, features.sizes), self._shelf / f"{z}.pt")
        self._shelved.add(z)

    def _taken(self, z: int) -> SliceFeatures:
        assert self._shelf is not None
        self._shelved.remove(z)
        with self._clock.stage("shelf"):
            path = self._shelf / f"{z}.pt"
            levels, positions, sizes = torch.load(path, map_location=self._segmenter.device, weights_only=True)
            path.unlink()
        return SliceFeatures(levels, positions, [(rows, columns) for rows, columns in sizes])


# Checks


def _check(image_zyx: UInt8[np.ndarray, "z y x"], streams: Sequence[Stream]) -> None:
    if image_zyx.ndim != 3 or image_zyx.dtype != np.uint8:
        raise ImageError(
            f"expected an image of uint8 with axes z, y, x; got {image_zyx.dtype} of shape {image_zyx.shape}"
        )
    if len({stream.name for stream in streams}) != len(streams):
        raise MaskError(f"a region is prompted twice in one pass: {[stream.name for stream in streams]}")
    for stream in streams:
        if stream.mode not in MODES:
            raise ConfigError(f"mode {stream.mode!r} is unknown: use one of {', '.join(MODES)}")
        _check_slices(stream, image_zyx.shape)
        _check_prompts(stream, image_zyx.shape)


def _check_slices(stream: Stream, shape_zyx: tuple[int, ...]) -> None:
    slices = stream.slices
    if not slices:
        raise MaskError(f"region {stream.name} keeps no slice: its mask is empty")
    if any(upper <= lower for upper, lower in pairwise(slices)):
        raise MaskError(
            f"the slices of region {stream.name} must fall strictly in z, from superior to inferior: {slices}"
        )
    if slices[0] >= shape_zyx[0] or slices[-1] < 0:
        raise _outside(stream, shape_zyx)
    if not 0 <= stream.key < len(slices):
        raise MaskError(f"the key slice of region {stream.name} has rank {stream.key}: it keeps {len(slices)} slices")


def _check_prompts(stream: Stream, shape_zyx: tuple[int, ...]) -> None:
    boxes, count = np.asarray(stream.boxes), len(stream.slices)
    if boxes.shape != (count, 4):
        raise MaskError(
            f"region {stream.name} keeps {count} slices and has boxes of shape {boxes.shape}: expected ({count}, 4)"
        )
    corners = boxes.reshape(-1, 2, 2)
    points = np.zeros((count, 1, 2), int) if stream.points is None else np.asarray(stream.points)
    inside = all(((xy >= 0) & (xy < shape_zyx[:0:-1])).all() for xy in (corners, points))
    if not inside or (corners[:, 0] > corners[:, 1]).any():
        raise _outside(stream, shape_zyx)
    if stream.prompt == "points" and (stream.points is None or points.shape[0] != count or points.ndim != 3):
        raise MaskError(f"region {stream.name} is prompted with points and has none for each of its {count} slices")
    if stream.prompt == "mask" and (stream.mask_zyx is None or stream.mask_zyx.shape != shape_zyx):
        raise MaskError(f"region {stream.name} is prompted with its mask and has none on the image's grid")


def _outside(stream: Stream, shape_zyx: tuple[int, ...]) -> MaskError:
    depth, height, width = shape_zyx
    return MaskError(
        f"region {stream.name} has prompts outside the image of {width} × {height} × {depth} (x, y, z) voxels"
    )
