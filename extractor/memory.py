"""Turns the kept slices of a volume into memories, in one pass for all of its streams; knows no file, unit or store.

It decides in which order slices are visited; what happens on one is `tracking`'s, how memories are packed is the layouts'.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import batched
from pathlib import Path

import numpy as np
import torch
from jaxtyping import BFloat16, Float32, UInt8
from torch import Tensor

from extractor.batching import Batcher
from extractor.layouts import Kept, LayoutArray, LayoutBuilder, layout_builder
from extractor.lockstep import side_by_side
from extractor.network import Points, SliceFeatures
from extractor.segmenter import Segmenter
from extractor.shelf import shelf_folder
from extractor.spent import count_slices
from extractor.streams import Stream, check_streams
from extractor.tracking import Clock, MaskPrompt, Moment, Prompts, Step, Stepper, Track


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


@dataclass(frozen=True)
class Volume:
    """What one pass takes: an image, the streams through it, and who wants to know of it; see `embed_volume`."""

    image_zyx: UInt8[np.ndarray, "z y x"]
    streams: Sequence[Stream]
    tap: FeatureTap | None = None
    on_slice: SliceDone | None = None
    observe: Observer | None = None


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
    volume = Volume(image_zyx, streams, tap, on_slice, observe)
    (made,) = embed_volumes(segmenter, [volume], layouts=layouts, timings_s=timings_s)
    if isinstance(made, Exception):
        raise made
    return made


def embed_volumes(
    segmenter: Segmenter,
    volumes: Sequence[Volume],
    *,
    layouts: Sequence[str],
    timings_s: MutableMapping[str, float] | None = None,
) -> list[dict[str, Memory] | Exception]:
    """Memories of every stream of several volumes, as `embed_volume` makes them, or the error that a volume's pass ended in.

    The volumes, such as the modalities of a study or several studies, go through side by side, their streams in common batches of
    memory attention and decoder. What a stream yields then differs from a pass of its own by rounding; where the segmenter's
    batches are of one, by nothing.

    Parameters
    ----------
    segmenter, layouts, timings_s
        As of `embed_volume`.
    volumes
        Images of any size, and their streams.
    """
    clock = Clock({} if timings_s is None else timings_s, segmenter.device)
    stepper = Stepper(segmenter, clock)

    def stepped(moments: Sequence[Moment]) -> list[list[Step]]:
        with segmenter.running():
            return stepper.step(moments)

    return side_by_side([_passing(segmenter, volume, layouts, clock) for volume in volumes], stepped)


def _passing(
    segmenter: Segmenter, volume: Volume, layouts: Sequence[str], clock: Clock
) -> Generator[Moment, list[Step], dict[str, Memory]]:
    """The pass of one volume: every visit of a slice, and the memories at the end."""
    image_zyx = volume.image_zyx
    check_streams(image_zyx, volume.streams)
    shape_yx = image_zyx.shape[1], image_zyx.shape[2]
    ways = [_Way(stream, segmenter, shape_yx, layouts) for stream in volume.streams]
    with ExitStack() as stack:
        encoder = _Encoder(segmenter, image_zyx, clock, stack)
        for visit in _visits(ways, encoder, volume.on_slice, volume.tap or FeatureTap(frozenset(), lambda *_: None)):
            steps = yield Moment([visit.track_of(way) for way in visit.ways], visit.features)
            for way, step in zip(visit.ways, steps, strict=True):
                way.take(step, clock, volume.observe)
    return {way.stream.name: way.finish() for way in ways}


class _Way:
    """One stream on its way through the volume: its tracks, and the layouts so far."""

    def __init__(self, stream: Stream, segmenter: Segmenter, shape_yx: tuple[int, int], layouts: Sequence[str]) -> None:
        self.stream = stream
        count = len(stream.slices)
        key = stream.key if stream.mode == "key_slice" else 0
        prompts = prompts_of(segmenter, stream, shape_yx)
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


def prompts_of(segmenter: Segmenter, stream: Stream, shape_yx: tuple[int, int]) -> Prompts:
    """The prompts of a stream's slices by their ranks, as the network takes them."""
    return partial(_prompt, segmenter, stream, shape_yx)


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
            made = self._batcher.run(slices, encode)
        count_slices(len(made))
        return made

    def _put(self, z: int, features: SliceFeatures) -> None:
        if self._shelf is None:
            self._shelf = self._stack.enter_context(shelf_folder())
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
