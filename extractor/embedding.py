"""Embeds what is open of studies, ready to be written; knows no file, plan or other process.

On a GPU the streams of all modalities, and of several studies where they are given together, share batches of memory attention and
decoder; on a CPU each modality goes by itself, so that it can be written while the next is embedded.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

from extractor.baseline_layouts import Baseline
from extractor.baseline_pass import HieraPass, Made, Region, slice_vectors
from extractor.baselines import SliceEncoder
from extractor.config import Product, Variant
from extractor.entries import Subject, baseline_entry, memory_entry
from extractor.entry_streams import stream_of
from extractor.lockstep import FAILURES
from extractor.memory import Memory, Volume, embed_volumes
from extractor.outcome import ItemOutcome
from extractor.segmenter import Segmenter
from extractor.streams import Stream
from extractor.work import Item, LoadedStudy, Open, Pass, StudyTask, Write, failed, items_of, load_study
from store_schema import EntryKey, Store


def extract_study(
    task: StudyTask, *, segmenter: Segmenter | None, store: Store, encoders: Sequence[SliceEncoder] = ()
) -> list[ItemOutcome]:
    """Outcome of each patient / modality / ROI / layout of one study; commits what is new or stale."""
    loaded = load_study(task, segmenter=segmenter, store=store, encoders=encoders)
    return [*loaded.outcomes, *(made() if isinstance(made, Write) else made for made in embed_study(loaded))]


def embed_study(loaded: LoadedStudy) -> Iterator[ItemOutcome | Write]:
    """Each open entry as it is embedded, ready to be written; an item whose pass fails is an outcome.

    An error of a modality's pass counts against its items that were not embedded yet, and no other modality.
    """
    for _, made in embed_studies([loaded]):
        yield made


def embed_studies(studies: Sequence[LoadedStudy]) -> Iterator[tuple[int, ItemOutcome | Write]]:
    """As `embed_study` for several studies, each entry with the place of its study among them.

    In batches all of them go through the segmentation network side by side; what an entry holds then depends on the other studies
    by rounding.
    """
    opened = [(place, one) for place, study in enumerate(studies) for one in study.open]
    together = bool(opened) and not opened[0][1].alone
    streaming = {place for place, one in opened if _variants(one.all)}
    for group in [opened] if together else [[one] for one in opened]:
        segmented = _segmented([one for _, one in group], [place in streaming for place, _ in group])
        for (place, one), found in zip(group, segmented, strict=True):
            for made in _settled(one, found):
                yield place, made


def _settled(opened: Open, segmented: _Segmented | Exception | None) -> Iterator[ItemOutcome | Write]:
    """Entries of one modality, those of its baselines too; what fails counts against its items that are left."""
    left = {item.names: item for items in opened.items.values() for item in items}
    try:
        for write in _embedded(opened, segmented):
            del left[write.item.names]
            yield write
    except FAILURES as error:
        for item in left.values():
            yield failed(opened.this.task, *item.names, error)


def _embedded(opened: Open, segmented: _Segmented | Exception | None) -> Iterator[Write]:
    if isinstance(segmented, Exception):
        raise segmented
    if segmented is not None:
        yield from segmented.writes()
    for encoder in opened.this.encoders:
        yield from _encoded(opened.this, encoder, opened.all)


# The segmentation network


@dataclass(frozen=True)
class _Segmenting:
    """One modality on its way through the segmentation network."""

    opened: Open
    streams: dict[tuple[str, Variant], Stream]
    regions: dict[str, Region]
    """Of baselines that share the image encoder."""
    hiera: HieraPass

    @classmethod
    def of(cls, opened: Open, *, streaming: bool) -> Self:
        """What a modality asks of the network: all of it where numbers depend on what shares a batch.

        Parameters
        ----------
        streaming
            Whether anything of the study that streams make is open.
        """
        this, items = opened.this, opened.all if opened.alone else list(items_of(opened.this))
        baselines = [item for item in items if isinstance(item.product, Baseline)]
        regions = this.regions(baselines)
        hiera = HieraPass(_baselines(opened.all), regions, whole=not opened.alone)
        return cls(opened, _streams(this, items) if streaming else {}, regions, hiera)

    @property
    def empty(self) -> bool:
        """Whether nothing is to go through."""
        return not self.streams and not self.hiera.tap.slices

    @property
    def volume(self) -> Volume:
        """What goes through."""
        this = self.opened.this
        return Volume(this.prepared.images_zyx[this.modality], list(self.streams.values()), self.hiera.tap)


@dataclass(frozen=True)
class _Segmented:
    """What the network made of one modality."""

    asked: _Segmenting
    memories: dict[str, Memory]
    made: dict[tuple[str, str], Made]
    embedding_s: float
    """Share of each stream and baseline in the time that the network took."""

    def writes(self) -> Iterator[Write]:
        """Entries of the items that are open."""
        this, streams = self.asked.opened.this, self.asked.streams
        for item in self.asked.opened.all:
            if isinstance(item.product, Product):
                stream = streams[item.key.roi, item.product.variant]
                memory, layout = self.memories[stream.name], item.product.layout
                entry = partial(memory_entry, _subject(this, item), stream, memory, layout)
                yield Write(this, item, entry, self.embedding_s)
            elif (place := (item.key.roi, item.layout)) in self.made:
                yield _baseline_write(this, item, self.asked.regions[item.key.roi], self.made[place], self.embedding_s)


def _segmented(group: Sequence[Open], streaming: Sequence[bool]) -> list[_Segmented | Exception | None]:
    """What the network made of each modality, or why not; None where it has nothing to do."""
    segmenter = group[0].this.segmenter
    if segmenter is None:
        return [None] * len(group)
    found: dict[int, _Segmented | Exception | None] = {}
    asked: dict[int, _Segmenting] = {}
    for place, (opened, streams) in enumerate(zip(group, streaming, strict=True)):
        try:
            one = _Segmenting.of(opened, streaming=streams)
        except FAILURES as error:
            found[place] = error
        else:
            found[place] = None
            if not one.empty:
                asked[place] = one
    if asked:
        found |= _passed(segmenter, asked)
    return [found[place] for place in range(len(group))]


def _passed(segmenter: Segmenter, asked: dict[int, _Segmenting]) -> dict[int, _Segmented | Exception]:
    started = time.perf_counter()
    config = next(iter(asked.values())).opened.this.task.config
    layouts = tuple(dict.fromkeys(product.layout for product in config.memories.values()))
    results = embed_volumes(segmenter, [one.volume for one in asked.values()], layouts=layouts)
    made = {
        place: one.hiera.finish()
        for (place, one), result in zip(asked.items(), results, strict=True)
        if not isinstance(result, Exception)
    }
    shares = sum(len(asked[place].streams) + len(baselines) for place, baselines in made.items())
    embedding_s = (time.perf_counter() - started) / max(1, shares)
    return {
        place: result if isinstance(result, Exception) else _Segmented(one, result, made[place], embedding_s)
        for (place, one), result in zip(asked.items(), results, strict=True)
    }


def _streams(this: Pass, items: Iterable[Item]) -> dict[tuple[str, Variant], Stream]:
    """Streams of these items, one for each region and way of prompting."""
    patient, stride = this.task.row.patient, this.task.config.kept_every
    return {
        (roi, variant): stream_of(EntryKey(patient, this.modality, roi), variant, this.prepared, stride)
        for roi, variant in _variants(items)
    }


# Baselines


def _encoded(this: Pass, encoder: SliceEncoder, items: Sequence[Item]) -> Iterator[Write]:
    started = time.perf_counter()
    mine = [item for item in items if isinstance(item.product, Baseline) and item.product.encoder == encoder.name]
    if not mine:
        return
    # Where numbers depend on what shares a batch, all of the modality goes through, whatever is held already.
    regions = this.regions(mine if encoder.alone else items_of(this))
    wanted = _baselines(mine if encoder.alone else items_of(this))
    made = slice_vectors(encoder, this.prepared.images_zyx[this.modality], wanted, regions)
    embedding_s = (time.perf_counter() - started) / len(mine)
    for item in mine:
        yield _baseline_write(this, item, regions[item.key.roi], made[item.key.roi, item.layout], embedding_s)


def _baselines(items: Iterable[Item]) -> list[tuple[str, Baseline]]:
    return [(item.key.roi, item.product) for item in items if isinstance(item.product, Baseline)]


def _baseline_write(this: Pass, item: Item, region: Region, made: Made, embedding_s: float) -> Write:
    return Write(this, item, partial(baseline_entry, _subject(this, item), region, made), embedding_s)


def _variants(items: Iterable[Item]) -> dict[tuple[str, Variant], None]:
    products = ((item.key.roi, item.product) for item in items)
    return dict.fromkeys((roi, product.variant) for roi, product in products if isinstance(product, Product))


def _subject(this: Pass, item: Item) -> Subject:
    pictures = item.layout == next(iter(this.task.views))
    return Subject(this.prepared, item.key.modality, item.key.roi, pictures)
