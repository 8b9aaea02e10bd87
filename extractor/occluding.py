"""Makes the occluded embeddings of a table's entries and keeps each as one entry of an occlusion view; knows no trained model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

from rich.console import Console

from extractor.config import ExtractConfig, Product, views_of
from extractor.loading import load_networks
from extractor.occlusion_plan import PlannedEntry, planned
from extractor.occlusion_rules import OcclusionRules, occlusion_view
from extractor.occlusion_study import Chosen, OcclusionStudy, chosen_product
from extractor.opening import opened
from extractor.outcome import ItemOutcome, one_line
from extractor.patch_entry import Hiding, PatchesTold, patch_entry
from extractor.patch_progress import patch_progress
from extractor.segmenter import Segmenter, load_segmenter
from extractor.table import StudyRow, read_study_table
from extractor.unfinished import Unfinished, usual_folder
from extractor.work import RECORDED_VERSIONS
from store_schema import EntryKey, Store, ViewSpec
from store_schema.errors import EngramError, EntryWithdrawnError
from store_schema.files import Place
from store_schema.pseudonyms import PlainIds

FAILURES = (EngramError, OSError, RuntimeError, MemoryError)
"""What one entry may end in while the others go on; torch raises RuntimeError."""


@dataclass(frozen=True)
class OccludeOptions:
    """Which entries, and where it happens."""

    table: Place
    store_url: str
    rules: OcclusionRules = field(default_factory=OcclusionRules)
    product: str | None = None
    """Name of one of the settings' layouts; None where they make but one."""
    chosen: Chosen = field(default_factory=Chosen)
    device: str = "cpu"
    ids: PlainIds = field(default_factory=PlainIds)
    unfinished: Unfinished | None = None
    """Where parts of entries are kept until they are committed; in the user's cache by default."""


@dataclass(frozen=True)
class OccludeReport:
    """What came of it."""

    view: str
    outcomes: tuple[ItemOutcome, ...]
    snapshot: str | None
    """Of all entries of the view that the table names and that are held; None where there is none."""
    lines: Mapping[str, int]
    """Of the table, by patient."""

    @property
    def failed(self) -> bool:
        """Whether any entry has no occluded embeddings."""
        return any(outcome.result == "failed" for outcome in self.outcomes)


def occlude(config: ExtractConfig, options: OccludeOptions, *, console: Console) -> OccludeReport:
    """Embed every patch of the chosen entries; a rerun makes only what is not held, and goes on within an entry.

    Raises
    ------
    UsageError, ConfigError
        If table, settings or options are wrong; nothing was done.
    WeightsError
        If the weights do not load strictly; nothing was done.
    StoreError
        If the store cannot be opened.
    """
    return options.ids.filtered(lambda: _occluded(config, options, console))


def plan_occlusion(config: ExtractConfig, options: OccludeOptions) -> tuple[str, tuple[PlannedEntry, ...]]:
    """The occlusion view, and what stands before each chosen entry: numbers of patches, and times from a few timed slices.

    Raises
    ------
    UsageError, ConfigError, WeightsError, StoreError
        As of `occlude`.
    """
    return options.ids.filtered(lambda: _planned(config, options))


def _occluded(config: ExtractConfig, options: OccludeOptions, console: Console) -> OccludeReport:
    rows, product, segmenter, base, spec = _asked(config, options)
    store = opened(options.store_url, options.ids, dry_run=False)
    unfinished = options.unfinished or Unfinished(usual_folder())
    unfinished.tidy()
    work = _Work(config, options, product, segmenter, store, base, store.put_view(spec), unfinished)
    outcomes = work.through(rows, console)
    held = {EntryKey(one.patient, one.modality, one.roi): one.number for one in outcomes if one.number is not None}
    snapshot = store.make_snapshot(work.view, held) if held else None
    return OccludeReport(work.view, tuple(outcomes), snapshot, {row.patient: row.line for row in rows})


def _planned(config: ExtractConfig, options: OccludeOptions) -> tuple[str, tuple[PlannedEntry, ...]]:
    rows, product, segmenter, _, spec = _asked(config, options)
    store = opened(options.store_url, options.ids, dry_run=True)
    found = planned(
        rows,
        chosen=options.chosen,
        config=config,
        product=product,
        rules=options.rules,
        segmenter=segmenter,
        state=partial(store.state, spec.view_id),
        view_id=spec.view_id,
    )
    return spec.view_id, tuple(one.cleaned(options.ids.clean) for one in found)


def _asked(
    config: ExtractConfig, options: OccludeOptions
) -> tuple[list[StudyRow], Product, Segmenter, ViewSpec, ViewSpec]:
    """All that is refused before any work is refused here; the views are the one that is explained, and that of its patches."""
    name, product = chosen_product(config, options.product)
    rows = options.chosen.rows(read_study_table(options.table, config, options.ids, every_map=True), config)
    spec, facts, _ = load_networks(config, options.store_url, device=options.device, looked_at_on=options.device)
    assert facts is not None
    segmenter = load_segmenter(
        config.model,
        spec.weights,
        device=options.device,
        precision=config.precision,
        expected_sha256=facts.weights_sha256,
    )
    base = views_of(config, facts)[name]
    return rows, product, segmenter, base, occlusion_view(base, options.rules)


@dataclass(frozen=True)
class _Work:
    config: ExtractConfig
    options: OccludeOptions
    product: Product
    segmenter: Segmenter
    store: Store
    base: ViewSpec
    """The view that is explained."""
    view: str
    unfinished: Unfinished

    def through(self, rows: Sequence[StudyRow], console: Console) -> list[ItemOutcome]:
        """Outcomes of all entries, study after study."""
        outcomes: list[ItemOutcome] = []
        with patch_progress(console, len(rows)) as progress:
            for row in rows:
                progress.line = row.line
                made = self._study(row, progress)
                outcomes += made
                progress.study(made)
        return outcomes

    def _study(self, row: StudyRow, told: PatchesTold) -> list[ItemOutcome]:
        keys = self.options.chosen.keys(row, self.config)
        try:
            study = OcclusionStudy.read(row, keys, self.config)
        except FAILURES as error:
            return [self._failed(key, error) for key in keys]
        return [self._entry(key, study, told) for key in keys]

    def _entry(self, key: EntryKey, study: OcclusionStudy, told: PatchesTold) -> ItemOutcome:
        try:
            digest = study.digest(key, self.product, self.view)
        except FAILURES as error:
            return self._failed(key, error)
        try:
            state: str = self.store.state(self.view, key, digest)
            made = None if state in {"done", "withdrawn"} else self._made(key, digest, study, told)
        except EntryWithdrawnError:
            state, made = "withdrawn", None
        except FAILURES as error:
            return self._failed(key, error)
        self.unfinished.forget(digest)
        if made is not None:
            return made
        if state == "withdrawn":
            return self._outcome(key, "withdrawn", "withdrawn from the store")
        commit = self.store.current(self.view, key)
        assert commit is not None
        return self._outcome(key, "done", "the current commit has this input", commit.number)

    def _made(self, key: EntryKey, digest: str, study: OcclusionStudy, told: PatchesTold) -> ItemOutcome:
        started = time.perf_counter()
        hiding = Hiding.of(
            key,
            study.prepared,
            product=self.product,
            rules=self.options.rules,
            stride=self.config.kept_every,
            grid_px=self.segmenter.grid_px,
        )
        entry = patch_entry(
            hiding,
            self.segmenter,
            bones=study.bones,
            base_input_sha256=study.input_sha256(key, self.product, self.base.view_id),
            parts_of=partial(self.unfinished.of, digest),
            told=told,
        )
        publication = self.store.publish(
            self.view,
            key,
            entry,
            input_sha256=digest,
            sources=study.sources[key],
            versions={name: version(name) for name in RECORDED_VERSIONS},
            timings_s={"embedding": time.perf_counter() - started},
            make_current=True,
        )
        return self._outcome(key, publication.outcome, _told(entry.attributes["occlusion"]), publication.commit.number)

    def _outcome(self, key: EntryKey, result: Any, reason: str, number: int | None = None) -> ItemOutcome:
        return ItemOutcome(key.patient, key.modality, key.roi, self.product.layout, result, reason, number)

    def _failed(self, key: EntryKey, error: BaseException) -> ItemOutcome:
        said = one_line(self.options.ids.clean(f"{type(error).__name__}: {error}"))
        return self._outcome(key, "failed", said)


def _told(occlusion: Mapping[str, Any]) -> str:
    """What a committed entry holds, and how much of its region lies under no patch."""
    count, whole, held = (occlusion[name] for name in ("patches_zyx", "region_share", "held_region_share"))
    return (
        f"{len(count)} patches embedded and committed; under a patch lie {whole:.0%} of the region, and {held:.0%} of it on the "
        "slices that the embedding holds"
    )
