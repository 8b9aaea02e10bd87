"""Makes the occluded embeddings of a table's entries and keeps each as one entry of an occlusion view; knows no trained model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
from rich.console import Console

from extractor.config import ExtractConfig, Product, views_of
from extractor.embedding import stream_of
from extractor.entries import Subject, memory_entry
from extractor.fetch import fetched
from extractor.label_sets import LABEL_SETS
from extractor.loading import load_networks
from extractor.memory import Memory
from extractor.occlusion import Occluder, Patch
from extractor.opening import opened
from extractor.outcome import ItemOutcome, one_line
from extractor.patches import backdrop, names_under, patch_grid
from extractor.plan import once, rois_of, sources_of
from extractor.progress import bars
from extractor.segmenter import Segmenter, load_segmenter
from extractor.streams import Stream
from extractor.study import PreparedStudy, prepare_study
from extractor.table import StudyRow, read_study_table
from extractor.volumes import read_labels, resample_nearest
from extractor.work import RECORDED_VERSIONS, drawn_for, input_sha256
from store_schema import Entry, EntryKey, Source, Store, ViewSpec
from store_schema.errors import ConfigError, EngramError, UsageError
from store_schema.files import Place
from store_schema.pseudonyms import PlainIds

FAILURES = (EngramError, OSError, RuntimeError, MemoryError)
"""What one entry may end in while the others go on; torch raises RuntimeError."""


@dataclass(frozen=True)
class OcclusionRules:
    """What hides a patch; decides the numbers of an occlusion view."""

    size_mm: float = 20.0
    stride_mm: float = 20.0
    fill: str | int = "mean"
    """`mean` of the volume's grey values, or a grey value of 0 to 255."""

    def flags(self) -> dict[str, float | str]:
        """How a view says it."""
        return {
            "occlusion_size_mm": self.size_mm,
            "occlusion_stride_mm": self.stride_mm,
            "occlusion_fill": str(self.fill),
        }

    def grey(self, image_zyx: np.ndarray) -> int:
        """The grey value that hides a patch of an image.

        Raises
        ------
        ConfigError
            If it is none.
        """
        if self.fill == "mean":
            return round(float(image_zyx.mean()))
        if isinstance(self.fill, int) and 0 <= self.fill <= 255:
            return self.fill
        raise ConfigError(f"fill is 'mean' or a grey value of 0 to 255, got {self.fill!r}.")


@dataclass(frozen=True)
class OccludeOptions:
    """Which entries, and where it happens."""

    table: Place
    store_url: str
    rules: OcclusionRules = OcclusionRules()
    product: str | None = None
    """Name of one of the settings' layouts; None where they make but one."""
    patients: tuple[str, ...] = ()
    """As the store calls them; none for all."""
    modalities: tuple[str, ...] = ()
    rois: tuple[str, ...] = ()
    device: str = "cpu"
    ids: PlainIds = field(default_factory=PlainIds)


@dataclass(frozen=True)
class OccludeReport:
    """What came of it."""

    view: str
    outcomes: tuple[ItemOutcome, ...]
    snapshot: str | None
    """Of all entries of the view that the table names and that are held; None where there is none."""

    @property
    def failed(self) -> bool:
        """Whether any entry has no occluded embeddings."""
        return any(outcome.result == "failed" for outcome in self.outcomes)


def occlusion_view(base: ViewSpec, rules: OcclusionRules) -> ViewSpec:
    """The view of what a base view's entries become with patches hidden."""
    return base.model_copy(update={"name": f"{base.name}-occluded", "flags": {**base.flags, **rules.flags()}})


def occlude(config: ExtractConfig, options: OccludeOptions, *, console: Console) -> OccludeReport:
    """Embed every patch of the chosen entries; a rerun makes only what is not held.

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


def _occluded(config: ExtractConfig, options: OccludeOptions, console: Console) -> OccludeReport:
    name, product = _product(config, options.product)
    rows = _rows(config, options)
    spec, facts, _ = load_networks(config, options.store_url, device=options.device, looked_at_on=options.device)
    assert facts is not None
    segmenter = load_segmenter(
        config.model,
        spec.weights,
        device=options.device,
        precision=config.precision,
        expected_sha256=facts.weights_sha256,
    )
    store = opened(options.store_url, options.ids, dry_run=False)
    view = store.put_view(occlusion_view(views_of(config, facts)[name], options.rules))
    work = _Work(config, options, product, segmenter, store, view, console)
    outcomes = work.through(rows)
    held = {EntryKey(one.patient, one.modality, one.roi): one.number for one in outcomes if one.number is not None}
    snapshot = store.make_snapshot(view, held) if held else None
    return OccludeReport(view, tuple(outcomes), snapshot)


def _product(config: ExtractConfig, asked: str | None) -> tuple[str, Product]:
    made = config.memories
    if asked is None and len(made) != 1:
        raise UsageError(
            f"the settings make {', '.join(made) or 'no memories'}: say with --layout which is to be occluded."
        )
    name = asked or next(iter(made))
    if name not in made:
        raise UsageError(f"the settings make no {name!r}: they make {', '.join(made) or 'no memories'}.")
    return name, made[name]


def _rows(config: ExtractConfig, options: OccludeOptions) -> list[StudyRow]:
    rows = read_study_table(options.table, config, options.ids)
    wanted = {row.patient: row for row in rows if not options.patients or row.patient in options.patients}
    if unknown := [patient for patient in options.patients if patient not in wanted]:
        raise UsageError(f"the table has no patient {', '.join(unknown)}.")
    for kind, asked, known in (
        ("modality", options.modalities, config.modalities),
        ("region", options.rois, {roi for row in rows for roi in rois_of(row, config)}),
    ):
        if unknown := [one for one in asked if one not in known]:
            raise UsageError(f"there is no {kind} {', '.join(unknown)}: there are {', '.join(sorted(known))}.")
    return list(wanted.values())


@dataclass(frozen=True)
class _Work:
    config: ExtractConfig
    options: OccludeOptions
    product: Product
    segmenter: Segmenter
    store: Store
    view: str
    console: Console

    def through(self, rows: Sequence[StudyRow]) -> list[ItemOutcome]:
        """Outcomes of all entries, study after study."""
        outcomes: list[ItemOutcome] = []
        with bars(self.console) as shown:
            studies = shown.add_task("studies", total=len(rows), failed=0, rate="", doing="")
            bar = shown.add_task("  patches", total=None, failed=0, rate="", doing="")

            def told(done: int, total: int, what: str) -> None:
                shown.update(bar, completed=done, total=total, doing=what)

            for row in rows:
                outcomes += self._study(row, told)
                failed = sum(one.result == "failed" for one in outcomes)
                shown.update(studies, advance=1, failed=failed)
        return outcomes

    def _study(self, row: StudyRow, told: Callable[[int, int, str], None]) -> list[ItemOutcome]:
        keys = [
            EntryKey(row.patient, modality, roi)
            for modality in self.config.modalities
            for roi in rois_of(row, self.config)
            if (not self.options.modalities or modality in self.options.modalities)
            and (not self.options.rois or roi in self.options.rois)
        ]
        try:
            look, grid, bones = once(), self.config.grid, self.config.asks_bones
            sources = {key: sources_of(row, key.modality, key.roi, grid=grid, bones=bones, look=look) for key in keys}
            with fetched(row.files) as files:
                prepared = prepare_study(files, self.config.rules())
                labels = _labels(files.label_maps, self.config.label_set, prepared)
        except FAILURES as error:
            return [self._failed(key, error) for key in keys]
        study = _Study(prepared, labels, sources)
        return [self._entry(key, study, told) for key in keys]

    def _entry(self, key: EntryKey, study: _Study, told: Callable[[int, int, str], None]) -> ItemOutcome:
        started = time.perf_counter()
        try:
            digest = self._digest(key, study.prepared)
            state = self.store.state(self.view, key, digest)
            if state == "done":
                commit = self.store.current(self.view, key)
                assert commit is not None
                return self._outcome(key, "done", "the current commit has this input", commit.number)
            if state == "withdrawn":
                return self._outcome(key, "withdrawn", "withdrawn from the store")
            entry = self._made(key, study, told)
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
        except FAILURES as error:
            return self._failed(key, error)
        reason = f"{len(entry.attributes['occlusion']['patches_zyx'])} patches embedded and committed"
        return self._outcome(key, publication.outcome, reason, publication.commit.number)

    def _digest(self, key: EntryKey, prepared: PreparedStudy) -> str:
        name = drawn_for(key, self.product, prepared)
        return input_sha256(prepared, modality=key.modality, roi=key.roi, view_id=self.view, points_of=name)

    def _made(self, key: EntryKey, study: _Study, told: Callable[[int, int, str], None]) -> Entry:
        prepared, rules = study.prepared, self.options.rules
        image_zyx, mask_zyx = prepared.images_zyx[key.modality], prepared.masks_zyx[key.roi]
        stream = stream_of(key, self.product.variant, prepared, self.config.kept_every)
        spacing = prepared.grid.spacing_xyz_mm
        patches = patch_grid(mask_zyx, spacing, size_mm=rules.size_mm, stride_mm=rules.stride_mm)
        fill, layout = rules.grey(image_zyx), self.product.layout
        with Occluder(self.segmenter, image_zyx, stream, layouts=(layout,), fill=fill) as occluder:
            made = list(_counted(occluder.embed(patches), len(patches), str(key), told))
            baseline, seen = occluder.baseline, occluder.seen
        subject = Subject(prepared, key.modality, key.roi, pictures=False)
        entry = memory_entry(subject, stream, baseline, layout)
        small, steps = backdrop(image_zyx, spacing)
        arrays = {**entry.arrays, **_stacked(made, layout), "mask": mask_zyx, "backdrop": small}
        told_of = _told_of(patches, made, stream, seen, study.labels)
        attributes = {**entry.attributes, "occlusion": {**told_of, "fill_grey": fill, "backdrop_step_zyx": steps}}
        return Entry(arrays, attributes)

    def _outcome(self, key: EntryKey, result: Any, reason: str, number: int | None = None) -> ItemOutcome:
        return ItemOutcome(key.patient, key.modality, key.roi, self.product.layout, result, reason, number)

    def _failed(self, key: EntryKey, error: BaseException) -> ItemOutcome:
        said = one_line(self.options.ids.clean(f"{type(error).__name__}: {error}"))
        return self._outcome(key, "failed", said)


@dataclass(frozen=True)
class _Study:
    """A study read and prepared, its bones where it has a label map, and the fingerprints of its files."""

    prepared: PreparedStudy
    labels: tuple[np.ndarray, Mapping[int, str]] | None
    sources: Mapping[EntryKey, tuple[Source, ...]]


def _labels(
    maps: Mapping[str, str], label_set: str, prepared: PreparedStudy
) -> tuple[np.ndarray, Mapping[int, str]] | None:
    """Bones on the study's grid, and their names by the numbers used here; None without a label map."""
    joined, names = None, dict[int, str]()
    for part, file in LABEL_SETS[label_set].items():
        if part not in maps:
            continue
        found = resample_nearest(read_labels(maps[part]), prepared.grid).array_zyx
        joined = np.zeros_like(found) if joined is None else joined
        offset = max(names, default=0)
        for label, name in file.bones.items():
            joined[found == label] = offset + label
            names[offset + label] = name
    return None if joined is None else (joined, names)


def _counted(
    made: Iterator[Memory | None], total: int, what: str, told: Callable[[int, int, str], None]
) -> Iterator[Memory | None]:
    told(0, total, what)
    for number, one in enumerate(made, start=1):
        told(number, total, what)
        yield one


def _stacked(made: Sequence[Memory | None], layout: str) -> dict[str, np.ndarray]:
    """Embeddings of the patches that can change them; no array where none can."""
    found = [one.layouts[layout] for one in made if one is not None]
    if not found:
        return {}
    return {
        "occluded_memory": np.stack([one.memory.astype(np.float16) for one in found]),
        "occluded_mean_map": np.stack([one.mean_map for one in found]),
    }


def _told_of(
    patches: Sequence[Patch],
    made: Sequence[Memory | None],
    stream: Stream,
    seen: frozenset[int],
    labels: tuple[np.ndarray, Mapping[int, str]] | None,
) -> dict[str, Any]:
    """What an entry says of its patches: those with an embedding, in the arrays' order, and those that change nothing."""
    with_one = [patch for patch, one in zip(patches, made, strict=True) if one is not None]
    without = [patch for patch, one in zip(patches, made, strict=True) if one is None]
    told: dict[str, Any] = {
        "patches_zyx": [_ends(patch) for patch in with_one],
        "unseen_zyx": [_ends(patch) for patch in without],
        "seen_slices_z": [int(stream.slices[rank]) for rank in sorted(seen)],
    }
    if labels is not None:
        told["bones"] = [names_under(patch, *labels) for patch in with_one]
    return told


def _ends(patch: Patch) -> list[int]:
    """z, y, x: start and stop of each."""
    return [int(end) for axis in zip(patch.start_zyx, patch.stop_zyx, strict=True) for end in axis]
