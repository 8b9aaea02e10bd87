"""Makes and publishes every entry of one study: prepare, embed, write; knows nothing of the other studies.

One bad study is an outcome, not an exception: what it raises on purpose is recorded against its items and the run goes on.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version

import numpy as np

from extractor.baseline_layouts import Baseline
from extractor.baseline_pass import Region
from extractor.baselines import SliceEncoder
from extractor.config import ExtractConfig, Product
from extractor.entry_streams import Disturbance
from extractor.fetch import fetched
from extractor.lockstep import FAILURES
from extractor.outcome import ItemOutcome
from extractor.plan import once, rois_of, sources_of
from extractor.segmenter import Segmenter
from extractor.study import PreparedStudy, prepare_study
from extractor.table import StudyRow
from store_schema import Entry, EntryKey, Source, Store
from store_schema.errors import EngramError, EntryWithdrawnError, StudyError

RECORDED_VERSIONS = ("engram", "torch", "torchvision", "timm", "sam2", "SimpleITK", "numpy", "pillow", "scipy", "zarr")


@dataclass(frozen=True)
class StudyTask:
    """One study to extract: small, picklable, without voxels, credentials or signatures of addresses."""

    row: StudyRow
    config: ExtractConfig
    views: Mapping[str, str]
    """View id by layout; the first also holds mask and preview."""
    make_current: bool = False
    """Commit an input again although a later one has replaced it."""
    refused: frozenset[tuple[str, str, str]] = frozenset()
    """Modality, ROI and layout of the items that the plan refused, or found withdrawn: they are left alone."""

    def items(self) -> list[tuple[str, str, str]]:
        """Modality, ROI and layout of every item that is to have an outcome."""
        return [
            (modality, roi, layout)
            for modality in self.config.modalities
            for roi in rois_of(self.row, self.config)
            for layout in self.views
            if (modality, roi, layout) not in self.refused
        ]


@dataclass(frozen=True)
class Item:
    """One entry in one view, with the digest of what it is made from."""

    key: EntryKey
    layout: str
    """Name of its product in plan and outcomes."""
    product: Product | Baseline
    view_id: str
    input_sha256: str

    @property
    def names(self) -> tuple[str, str, str]:
        """Modality, ROI and layout: what the item is called within its study."""
        return self.key.modality, self.key.roi, self.layout


def load_study(
    task: StudyTask, *, segmenter: Segmenter | None, store: Store, encoders: Sequence[SliceEncoder] = ()
) -> LoadedStudy:
    """The study read, prepared and compared with the store; runs no network.

    Parameters
    ----------
    segmenter
        The segmentation network; None where the settings need none.
    encoders
        Those of baselines beside it.
    """
    try:
        # Before any file is read: one that is replaced meanwhile then has another fingerprint at the next plan.
        look, config = once(), task.config
        sources = {
            (modality, roi): sources_of(task.row, modality, roi, grid=config.grid, bones=config.asks_bones, look=look)
            for modality, roi, _ in task.items()
        }
        with fetched(task.row.files) as files:
            prepared = prepare_study(files, task.config.rules())
    except (EngramError, OSError) as error:
        return LoadedStudy(tuple(failed(task, modality, roi, layout, error) for modality, roi, layout in task.items()))
    networks = segmenter, tuple(encoders)
    passes = [Pass(task, modality, prepared, sources, *networks, store) for modality in task.config.modalities]
    return LoadedStudy.judged([_judged(this) for this in passes])


@dataclass(frozen=True)
class Pass:
    """One modality of one study on its way through the network."""

    task: StudyTask
    modality: str
    prepared: PreparedStudy
    sources: Mapping[tuple[str, str], tuple[Source, ...]]
    """Fingerprints of the files as they were before they were read, by modality and ROI."""
    segmenter: Segmenter | None
    encoders: tuple[SliceEncoder, ...]
    store: Store

    @cached_property
    def refused(self) -> dict[tuple[str, str, str], StudyError]:
        """Items that the settings' perturbation cannot be done to, or would leave as they are, each with the reason."""
        config, grid_px = self.task.config, None if self.segmenter is None else self.segmenter.grid_px
        disturbance = Disturbance(self.prepared, config.stride, config.kept_every, grid_px)
        found: dict[tuple[str, str, str], StudyError] = {}
        for names in self.task.items():
            modality, roi, layout = names
            if modality != self.modality:
                continue
            try:
                disturbance.check(EntryKey(self.task.row.patient, modality, roi), config.products[layout])
            except StudyError as error:
                found[names] = error
        return found

    def regions(self, items: Iterable[Item]) -> dict[str, Region]:
        """Kept slices and boxes of these items' regions."""
        keys = {item.key.roi: item.key for item in items}
        return {roi: Region.of(self.prepared, key, self.task.config.kept_every) for roi, key in keys.items()}


@dataclass(frozen=True)
class Open:
    """What one modality of a study has to be embedded."""

    this: Pass
    items: Mapping[str, Sequence[Item]]
    """By ROI."""

    @property
    def all(self) -> list[Item]:
        """Items of all ROIs."""
        return [item for items in self.items.values() for item in items]

    @property
    def alone(self) -> bool:
        """Whether no number depends on what else goes through the segmentation network."""
        return self.this.segmenter is None or self.this.segmenter.batches.alone


@dataclass(frozen=True)
class LoadedStudy:
    """A study that was read and judged, ready for the network."""

    outcomes: tuple[ItemOutcome, ...]
    """Of items that need no network: held by the store, withdrawn, or failed."""
    open: tuple[Open, ...] = ()

    @classmethod
    def judged(cls, modalities: Iterable[tuple[list[ItemOutcome], Open]]) -> LoadedStudy:
        """The study of these modalities; one of which nothing is open is dropped, and its images with it.

        Where numbers depend on what shares a batch, all of the study goes through the network if anything of it does.
        """
        found = list(modalities)
        outcomes = tuple(outcome for settled, _ in found for outcome in settled)
        whole = any(opened.items and not opened.alone for _, opened in found)
        return cls(outcomes, tuple(opened for _, opened in found if whole or opened.items))


@dataclass(frozen=True)
class Write:
    """An embedded entry that waits to be written; calling it writes, and gives the item's outcome."""

    this: Pass
    item: Item
    entry: Callable[[], Entry]
    """Puts arrays, mask and preview together."""
    embedding_s: float

    def __call__(self) -> ItemOutcome:
        """Outcome of the item; what its writing raises on purpose counts against it alone."""
        try:
            return _publish(self.this, self.item, self.entry, self.embedding_s)
        except FAILURES as error:
            return failed(self.this.task, *self.item.names, error)


def _judged(this: Pass) -> tuple[list[ItemOutcome], Open]:
    """Outcomes of one modality's items that need no network, and those that do; its regions will share one pass."""
    outcomes = {names: failed(this.task, *names, error) for names, error in this.refused.items()}
    open_items: dict[str, list[Item]] = {}
    try:
        for item in items_of(this):
            try:
                kept = _kept(item, this)
            except EngramError as error:
                kept = failed(this.task, *item.names, error)
            if kept is None:
                open_items.setdefault(item.key.roi, []).append(item)
            else:
                outcomes[item.names] = kept
    except FAILURES as error:
        open_items.clear()
        for names in this.task.items():
            if names[0] == this.modality:
                outcomes.setdefault(names, failed(this.task, *names, error))
    return list(outcomes.values()), Open(this, open_items)


def _publish(this: Pass, item: Item, entry: Callable[[], Entry], embedding_s: float) -> ItemOutcome:
    started = time.perf_counter()
    try:
        publication = this.store.publish(
            item.view_id,
            item.key,
            entry(),
            input_sha256=item.input_sha256,
            sources=this.sources[item.key.modality, item.key.roi],
            versions={name: version(name) for name in RECORDED_VERSIONS},
            timings_s={"embedding": embedding_s},
            make_current=this.task.make_current,
        )
    except EntryWithdrawnError:
        return _withdrawn(item)
    except (EngramError, OSError) as error:
        return failed(this.task, item.key.modality, item.key.roi, item.layout, error)
    seconds = embedding_s / len(this.task.views) + time.perf_counter() - started
    result = publication.outcome
    reason = "embedded and committed" if result == "committed" else "another writer committed this input first"
    return ItemOutcome(*_names(item.key), item.layout, result, reason, publication.commit.number, seconds)


def items_of(this: Pass) -> Iterator[Item]:
    """Every item of the modality that is to have an outcome and can be made."""
    for modality, roi, layout in this.task.items():
        if modality == this.modality and (modality, roi, layout) not in this.refused:
            view_id, product = this.task.views[layout], this.task.config.products[layout]
            key = EntryKey(this.task.row.patient, modality, roi)
            name = drawn_for(key, product, this.prepared)
            digest = input_sha256(this.prepared, modality=modality, roi=roi, view_id=view_id, points_of=name)
            yield Item(key, layout, product, view_id, digest)


def drawn_for(key: EntryKey, product: Product | Baseline, prepared: PreparedStudy) -> str | None:
    """Name of an entry some of whose prompts are drawn at random; None where none are."""
    points = isinstance(product, Product) and product.variant.prompt == "points"
    return str(key) if points or (prepared.perturb is not None and prepared.perturb.seeded) else None


def input_sha256(
    prepared: PreparedStudy, *, modality: str, roi: str, view_id: str, points_of: str | None = None
) -> str:
    """Digest of all that decides an entry's numbers: source voxels, the grid it lies on, region and view.

    The decoded voxels count, not the file: the same image stored in another format or place has the same digest. A region
    counts as it lies on that grid, so that a derived one needs no second definition, and one that was moved counts as moved. What
    is drawn, points or a perturbation, is drawn by the name of the entry (`points_of`), which then decides the numbers too; so
    do body and bones where they say where boxes lie.
    """
    region = prepared.masks_zyx[roi]
    facts = {
        "view": view_id,
        "modality": modality,
        "image": prepared.source_sha256[modality],
        "grid": prepared.grid.sha256(),
        "region": hashlib.sha256(np.ascontiguousarray(region).tobytes()).hexdigest(),
        "region_shape_zyx": region.shape,
    }
    if points_of is not None:
        facts["points_of"] = points_of
    if prepared.surroundings is not None:
        facts["surroundings"] = prepared.surroundings.sha256
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _kept(item: Item, this: Pass) -> ItemOutcome | None:
    """Outcome of an item that needs no writing; `superseded` names the commit that still holds its input."""
    state = this.store.state(item.view_id, item.key, item.input_sha256)
    if state == "withdrawn":
        return _withdrawn(item)
    if state in ("new", "stale") or (state == "superseded" and this.task.make_current):
        return None
    history = this.store.history(item.view_id, item.key)
    number = max(commit.number for commit in history if commit.input_sha256 == item.input_sha256)
    if state == "done":
        return ItemOutcome(*_names(item.key), item.layout, "done", "the current commit has this input", number)
    reason = f"commit {number} has this input and a later one replaced it; --make-current commits it again"
    return ItemOutcome(*_names(item.key), item.layout, "superseded", reason, number)


def _withdrawn(item: Item) -> ItemOutcome:
    return ItemOutcome(
        *_names(item.key), item.layout, "withdrawn", "withdrawn from the store while this run was at work"
    )


def failed(task: StudyTask, modality: str, roi: str, layout: str, error: Exception) -> ItemOutcome:
    """Outcome of an item that ended in an error."""
    return ItemOutcome(task.row.patient, modality, roi, layout, "failed", f"{type(error).__name__}: {error}")


def _names(key: EntryKey) -> tuple[str, str, str]:
    return key.patient, key.modality, key.roi


def failures(outcomes: Iterable[ItemOutcome]) -> list[ItemOutcome]:
    """The outcomes that make a run's exit status 1."""
    return [outcome for outcome in outcomes if outcome.result == "failed"]
