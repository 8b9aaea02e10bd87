"""Takes streams of prompted slices through the network, frame by frame; knows no volume, layout or store.

A track is a stream in one direction: its slices are frames 0 … N−1, frame 0 is the conditioning one. What a track yields does not
depend on the others where everything is computed alone; in batches it differs by rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from extractor.batching import Batcher
from extractor.layouts import Mode
from extractor.network import Decoded, History, Points, Remembered, SliceFeatures, stacked
from extractor.segmenter import Segmenter

MaskPrompt = Float32[Tensor, "1 1 row column"]
Prompts = Callable[[int], Points | MaskPrompt]
"""The prompt of a kept slice, by its rank."""
Conditioned = Float[Tensor, "1 channel row column"]

TRACKED_FIRST: frozenset[Mode] = frozenset({"sequential"})
"""Modes in which a slice is tracked, and then prompted with what was tracked."""
TRACKED_ONLY: frozenset[Mode] = frozenset({"first", "key_slice"})
"""Modes in which the conditioning slice alone is prompted."""


class Clock:
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


class Track:
    """One stream in one direction: its prompts, and what attention can still see."""

    def __init__(self, mode: Mode, ranks: Sequence[int], *, frames: int, prompts: Prompts) -> None:
        self.mode = mode
        self.ranks = tuple(ranks)
        """Rank of the kept slice at each frame."""
        self.frame = 0
        self._frames = frames
        self._prompts = prompts
        self._first: Remembered | None = None
        self._recent: dict[int, Remembered] = {}

    def follow(self, other: Track) -> None:
        """Begins behind the conditioning slice of another track."""
        self._first, self.frame = other._first, 1

    @property
    def prompt(self) -> Points | MaskPrompt | None:
        """The prompt of the next slice; None where it is tracked only."""
        if self.frame and self.mode in TRACKED_ONLY:
            return None
        return self._prompts(self.ranks[self.frame])

    @property
    def history(self) -> History | None:
        """What attention sees from the next slice; None where it sees nothing."""
        if self._first is None or self.mode == "upfront":
            return None
        return History(self._first, self._recent, self.frame, self._frames)

    def advance(self, remembered: Remembered, *, reach: tuple[int, int]) -> None:
        """Holds the newest slice, and drops what no later one can attend to."""
        if self.mode != "upfront":
            self._hold(remembered, reach)
        self.frame += 1

    def _hold(self, remembered: Remembered, reach: tuple[int, int]) -> None:
        if self._first is None:
            self._first = remembered
            return
        memories, pointers = reach
        self._recent[self.frame] = remembered
        self._recent.pop(self.frame - pointers, None)
        beyond = self.frame - memories
        if beyond in self._recent:
            self._recent[beyond] = replace(self._recent[beyond], memory=None)


@dataclass(frozen=True)
class Moment:
    """A slice of a volume, and the tracks that keep it."""

    tracks: Sequence[Track]
    features: SliceFeatures


@dataclass(frozen=True)
class Step:
    """What became of a track's slice."""

    track: Track
    rank: int
    remembered: Remembered
    decoded: Decoded


@dataclass
class _Work:
    """A track's slice on its way through the network."""

    track: Track
    features: SliceFeatures
    prompt: Points | MaskPrompt | None
    history: History | None
    conditioned: Conditioned | None = None
    previous: Decoded | None = None
    decoded: Decoded | None = None

    @property
    def adopts(self) -> bool:
        """Whether the prompt is a mask, which takes the decoder's place."""
        return isinstance(self.prompt, Tensor)

    @property
    def tracked(self) -> bool:
        """Whether the slice is decoded without its prompt."""
        return not self.adopts and (
            self.prompt is None or (self.history is not None and self.track.mode in TRACKED_FIRST)
        )


class Stepper:
    """Takes all tracks that keep a slice one frame further, in batches; slices of several volumes at once share them."""

    def __init__(self, segmenter: Segmenter, clock: Clock) -> None:
        self._network = segmenter.network
        self._reach = segmenter.reach
        self._clock = clock
        self._streams = Batcher(segmenter.batches.streams)

    def step(self, moments: Sequence[Moment]) -> list[list[Step]]:
        """Prompts and remembers a slice in every track of each moment; no track has moved where that fails."""
        works = [
            _Work(track, moment.features, track.prompt, track.history) for moment in moments for track in moment.tracks
        ]
        self._condition([work for work in works if not work.adopts])
        with self._clock.stage("mask_decoder"):
            self._track([work for work in works if work.tracked])
            self._prompt([work for work in works if isinstance(work.prompt, Points)])
            self._adopt([work for work in works if work.adopts])
        remembered = self._remember(works)
        steps = iter([self._done(work, entry) for work, entry in zip(works, remembered, strict=True)])
        return [[next(steps) for _ in moment.tracks] for moment in moments]

    def _condition(self, works: Sequence[_Work]) -> None:
        """Features that know what lies before; one memory attention serves both decoder passes."""
        with self._clock.stage("memory_attention"):
            plain: dict[int, Conditioned] = {}
            for work in works:
                if work.history is None:
                    if id(work.features) not in plain:
                        plain[id(work.features)] = self._network.without_history(work.features)
                    work.conditioned = plain[id(work.features)]
            seeing = [work for work in works if work.history is not None]
            made = self._streams.run_alike(seeing, self._tokens, self._attend)
            for work, conditioned in zip(seeing, made, strict=True):
                work.conditioned = conditioned

    def _tokens(self, work: _Work) -> tuple[int, int]:
        assert work.history is not None
        return self._network.token_counts(work.history)

    def _attend(self, works: Sequence[_Work]) -> list[Conditioned]:
        histories = [work.history for work in works if work.history is not None]
        conditioned = self._network.attend(_features(works), histories)
        return [conditioned[i : i + 1] for i in range(len(histories))]

    def _track(self, works: Sequence[_Work]) -> None:
        """Masks without prompts: the slice's own, or what its prompt then corrects."""
        made = self._streams.run(works, lambda part: self._decode(part, prompted=False))
        for work, decoded in zip(works, made, strict=True):
            if work.prompt is None:
                work.decoded = decoded
            else:
                work.previous = decoded

    def _prompt(self, works: Sequence[_Work]) -> None:
        made = self._streams.run_alike(works, _prompt_kind, lambda part: self._decode(part, prompted=True))
        for work, decoded in zip(works, made, strict=True):
            work.decoded = decoded

    def _decode(self, works: Sequence[_Work], *, prompted: bool) -> list[Decoded]:
        conditioned = _joined([work.conditioned for work in works if work.conditioned is not None])
        points = [work.prompt for work in works if isinstance(work.prompt, Points)] if prompted else []
        previous = [work.previous.logits for work in works if work.previous is not None] if prompted else []
        decoded = self._network.decode(
            _features(works),
            conditioned,
            points=_together(points),
            previous=_joined(previous) if previous else None,
        )
        return list(decoded.apart())

    def _adopt(self, works: Sequence[_Work]) -> None:
        def adopt(part: Sequence[_Work]) -> list[Decoded]:
            masks = torch.cat([work.prompt for work in part if isinstance(work.prompt, Tensor)])
            return list(self._network.adopt(_features(part), masks).apart())

        for work, decoded in zip(works, self._streams.run(works, adopt), strict=True):
            work.decoded = decoded

    def _remember(self, works: Sequence[_Work]) -> list[Remembered]:
        def remember(part: Sequence[_Work]) -> list[Remembered]:
            decoded = [work.decoded for work in part if work.decoded is not None]
            return self._network.remember(_features(part), stacked(decoded))

        def prompted(work: _Work) -> bool:
            assert work.decoded is not None
            return work.decoded.prompted

        with self._clock.stage("memory_encoder"):
            return self._streams.run_alike(works, prompted, remember)

    def _done(self, work: _Work, remembered: Remembered) -> Step:
        track = work.track
        assert work.decoded is not None
        rank = track.ranks[track.frame]
        track.advance(remembered, reach=self._reach)
        return Step(track, rank, remembered, work.decoded)


def _features(works: Sequence[_Work]) -> SliceFeatures:
    return SliceFeatures.joined([work.features for work in works])


def _prompt_kind(work: _Work) -> tuple[int, bool]:
    """Prompts of one kind make one batch: as many points, and all or none with earlier logits."""
    assert isinstance(work.prompt, Points)
    return work.prompt.labels.size(1), work.previous is not None


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """One batch of several; one alone as it is, since a copy is laid out in another order, and sums would round otherwise."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _together(points: Sequence[Points]) -> Points | None:
    if not points:
        return None
    return Points(torch.cat([one.coordinates for one in points]), torch.cat([one.labels for one in points]))
