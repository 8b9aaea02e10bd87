"""Embeds a volume again and again with a patch of it occluded, doing over only what the patch can change; knows no file or store.

A first pass keeps the image features and what was remembered of every slice. For each patch the slices that it touches are encoded
anew, and the propagation is taken up at the first of them; what comes before, and where no slice sees another all the rest, stays.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import batched
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from extractor.layouts import LayoutArray, layout_builder
from extractor.lockstep import side_by_side
from extractor.memory import Memory, prompts_of
from extractor.network import Remembered, SliceFeatures
from extractor.occlusion_reach import Pace, Patch, Reach
from extractor.segmenter import Segmenter
from extractor.shelf import shelf_folder
from extractor.streams import Stream, check_streams
from extractor.tracking import Clock, Moment, Step, Stepper, Track
from store_schema.errors import ImageError

SHELF_BYTES = 2**30
"""Image features that are held in memory; the rest lies on disk."""
ENCODING = "image_encoder"
Values = Float32[np.ndarray, "channel row column"]


class Occluder:
    """One stream of one volume, embedded with patches of the image occluded; its prompts stay those of the whole image.

    What it gives equals `extractor.memory.embed_volume` of the occluded image, bit for bit where the segmenter's batches are of
    one.

    References
    ----------
    Guinea-Pérez et al. 2026, Appendix A; protocol section 2 (what a stored memory sees).
    """

    def __init__(
        self,
        segmenter: Segmenter,
        image_zyx: UInt8[np.ndarray, "z y x"],
        stream: Stream,
        *,
        layouts: Sequence[str],
        fill: int,
    ) -> None:
        """Embed the whole image, and keep what is needed to do it again in parts.

        Parameters
        ----------
        segmenter, image_zyx, stream, layouts
            As of `extractor.memory.embed_volume`.
        fill
            Grey value that hides a patch, 0 to 255.

        Raises
        ------
        MaskError, ImageError, ConfigError
            As of `extractor.memory.embed_volume`.
        """
        check_streams(image_zyx, [stream])
        if not 0 <= fill <= 255:
            raise ImageError(f"a patch is filled with a grey value of 0 to 255, got {fill}")
        self._segmenter, self._image_zyx, self._stream, self._fill = segmenter, image_zyx, stream, fill
        self._layouts = tuple(layouts)
        self.reach = Reach(stream, layouts, grid_px=segmenter.grid_px)
        """What a patch can change."""
        self._key, self._count = self.reach.key, self.reach.kept.count
        self._prompts = prompts_of(segmenter, stream, (image_zyx.shape[1], image_zyx.shape[2]))
        self._seconds: dict[str, float] = {}
        self._clock = Clock(self._seconds, segmenter.device)
        self._stepper = Stepper(segmenter, self._clock)
        self._features = _Shelf(segmenter)
        self._down: list[Remembered] = []
        """By frame from the key slice downwards."""
        self._up: list[Remembered] = []
        """By frame from the key slice upwards, itself among them."""
        self.baseline = self._first_pass()
        """Of the whole image."""
        self.pace = self._measured()
        """Of the pass over the whole image."""

    def close(self) -> None:
        """Let go of what was kept."""
        self._features.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def embed(self, patches: Sequence[Patch]) -> Iterator[Memory | None]:
        """The memories with each patch occluded, in order; None where the patch touches nothing that can change them.

        Raises
        ------
        RuntimeError
            If the network fails, such as for want of memory.
        """
        for some in batched(patches, self._segmenter.batches.streams):
            for made in side_by_side([self._occluded(patch) for patch in some], self._stepped):
                if isinstance(made, Exception):
                    raise made
                yield made

    def _stepped(self, moments: Sequence[Moment]) -> list[list[Step]]:
        with self._segmenter.running():
            return self._stepper.step(moments)

    # Passes

    def _track(self, ranks: range) -> Track:
        return Track(self._stream.mode, ranks, frames=self._count, prompts=self._prompts)

    def _first_pass(self) -> Memory:
        def passing() -> Generator[Moment, list[Step], dict[int, Values]]:
            slices = self._stream.slices
            made: dict[int, Values] = {}
            down, up = self._track(range(self._key, self._count)), self._track(range(self._key, -1, -1))
            for track, kept in ((down, self._down), (up, self._up)):
                if track is up:
                    up.follow(down)
                    kept.append(self._down[0])
                for rank in track.ranks[track.frame :]:
                    if rank not in made:
                        self._features.put(slices[rank], self._encoded(self._image_zyx[slices[rank]]))
                    (step,) = yield Moment([track], self._features.get(slices[rank]))
                    kept.append(step.remembered)
                    made[rank] = _values(step)
            return made

        (made,) = side_by_side([passing()], self._stepped)
        if isinstance(made, Exception):
            raise made
        self._values = made
        return self._packed(made)

    def _measured(self) -> Pace:
        encoding_s = self._seconds[ENCODING]
        others_s = sum(self._seconds.values()) - encoding_s
        return Pace(encoding_s / self._count, others_s / self._count)

    def _occluded(self, patch: Patch) -> Generator[Moment, list[Step], Memory | None]:
        touched = self.reach.ranks(patch)
        if not touched:
            return None
        slices = self._stream.slices
        hidden = {
            rank: self._encoded(patch.hide(self._image_zyx[z], self._fill))
            for rank, z in enumerate(slices)
            if patch.covers(z)
        }
        made = dict(self._values)
        for track, frames in self._again(touched):
            for _ in range(frames):
                rank = track.ranks[track.frame]
                features = hidden[rank] if rank in hidden else self._features.get(slices[rank])
                (step,) = yield Moment([track], features)
                made[rank] = _values(step)
        return self._packed(made)

    def _again(self, touched: Sequence[int]) -> Iterator[tuple[Track, int]]:
        """Tracks to be taken up, and for how many frames; each is used up before the next is asked for."""
        if self.reach.apart:
            for rank in touched:
                yield self._at(self._track(range(self._count)), self._down, rank), 1
            return
        key, anew = self._key, self._key in touched
        down = self._track(range(key, self._count))
        below = [rank - key for rank in touched if rank >= key]
        if below:
            self._at(down, self._down, min(below))
            yield down, len(down.ranks) - down.frame
        above = [key - rank for rank in touched if rank < key]
        if key and (above or anew):
            up = self._track(range(key, -1, -1))
            if anew:
                up.follow(down)
            else:
                self._at(up, self._up, min(above))
            yield up, len(up.ranks) - up.frame

    def _at(self, track: Track, remembered: Sequence[Remembered], frame: int) -> Track:
        """A track as it stood before a frame."""
        for one in remembered[:frame]:
            track.advance(one, reach=self._segmenter.reach)
        return track

    def _encoded(self, slice_yx: UInt8[np.ndarray, "y x"]) -> SliceFeatures:
        with self._segmenter.running(), self._clock.stage(ENCODING):
            return self._segmenter.network.encode(self._segmenter.network_input(slice_yx))

    def _packed(self, made: Mapping[int, Values]) -> Memory:
        """Layouts of the memories, taken in the order of the first pass."""
        builders = {name: layout_builder(name, self.reach.kept) for name in self._layouts}
        for rank in (*range(self._key, self._count), *range(self._key - 1, -1, -1)):
            for builder in builders.values():
                builder.add(made[rank], rank)
        layouts: dict[str, LayoutArray] = {name: builder.finish() for name, builder in builders.items()}
        return Memory(layouts, self._count)


def _values(step: Step) -> Values:
    memory = step.remembered.memory
    assert memory is not None
    values: Values = memory[0].float().cpu().numpy()
    return values


class _Shelf:
    """Image features of slices, in memory as far as there is room, else on disk."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._device = segmenter.device
        self._held: dict[int, SliceFeatures] = {}
        self._bytes = 0
        self._stack = ExitStack()
        self._folder: Path | None = None

    def put(self, z: int, features: SliceFeatures) -> None:
        """Keep the features of a slice."""
        size = sum(one.nbytes for one in (*features.levels, *features.positions))
        if self._bytes + size <= SHELF_BYTES:
            self._held[z] = features
            self._bytes += size
            return
        if self._folder is None:
            self._folder = self._stack.enter_context(shelf_folder())
        torch.save((features.levels, features.positions, features.sizes), self._folder / f"{z}.pt")

    def get(self, z: int) -> SliceFeatures:
        """The features of a slice that was put here."""
        if z in self._held:
            return self._held[z]
        assert self._folder is not None
        levels, positions, sizes = torch.load(self._folder / f"{z}.pt", map_location=self._device, weights_only=True)
        return SliceFeatures(levels, positions, [(rows, columns) for rows, columns in sizes])

    def close(self) -> None:
        """Remove what lies on disk."""
        self._held.clear()
        self._stack.close()
