"""Judges how embeddings and risks hold over perturbed views, from store to results; writes nothing."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from store_schema import Snapshot, Store, open_store
from store_schema.errors import UsageError
from store_schema.files import Place
from store_schema.pseudonyms import PlainIds, check_rule
from trainer.dispatch import Workers
from trainer.robustness.embeddings import Distances, agreement, distances, embedding_robustness
from trainer.robustness.files import FileDifferences
from trainer.robustness.fold_models import RunRow, fold_models
from trainer.robustness.fold_risks import scores_by
from trainer.robustness.fold_scores import fold_views, in_all_views
from trainer.robustness.overlap import overlap
from trainer.robustness.reading import (
    Compared,
    base_of_run,
    compared,
    differences,
    embeddings,
    perturbation_of,
    refuse_foreign,
)
from trainer.robustness.results import EmbeddingRobustness, PerturbedView, RiskRobustness, Robustness, told_apart
from trainer.robustness.risks import Risks, ScoredViews, scored, scored_cohort
from trainer.saved import card_sha256, read_model
from trainer.versions import versions

Told = Callable[[int, int], None]
"""Is told how many views, and folds of a run, are done, of how many."""
Common = dict[tuple[str, str], tuple[str, ...]]
"""Patients that every view holds, by modality and region."""
Moved = dict[tuple[str, str, str], tuple[tuple[str, ...], Distances]]
"""Patients and their distances, by view, modality and region."""
COMPONENTS, RESAMPLES = 5, 1000


@dataclass(frozen=True)
class Asked:
    """What is compared, and by which model."""

    store_url: str
    base: str
    """View or snapshot."""
    perturbed: tuple[str, ...]
    model_url: str | None = None
    clinical: Place | None = None
    """Table of the model's covariates and outcomes; a run holds its own, and reads none."""
    ids: PlainIds = field(default_factory=PlainIds)
    components: int = COMPONENTS
    resamples: int = RESAMPLES
    seed: int = 0
    run_url: str | None = None
    """Run whose folds' models are made again, instead of one frozen model."""
    row: str | None = None
    """Label of its row."""
    keep: str | None = None
    """Folder in which these models are kept, so that a rerun does not fit them again; None keeps none."""
    workers: Workers = field(default_factory=lambda: Workers(number=0))
    """Where they are fitted."""
    latest: bool = False
    """Take the current commit of entries that were extracted from several inputs."""
    any_files: bool = False
    """Compare entries whatever files they were made from."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Views that the caller found and does not name, each with the reason: the results tell them."""


@dataclass(frozen=True, eq=False)
class Measured:
    """The results, and what they say of single patients."""

    found: Robustness
    moved: Moved
    risks: Risks | None
    order: tuple[str, ...]
    """Views in the order of `risks.log_risk`, without the base."""
    files: tuple[FileDifferences, ...] = ()
    """Entries of each view that were made from other files than the base's."""


def measure(asked: Asked, told: Told) -> Measured:
    """Everything about the views that are asked for.

    Raises
    ------
    UsageError, TableError, SchemaError
        If views, model, run or table do not fit each other.
    TaskError
        If the models of a run's folds cannot be made again as they were.
    NotCommittedError
        If the store has not what is named.
    CohortError
        If fewer than three patients are in all views.
    """
    return asked.ids.filtered(lambda: _measured(asked, told))


def _measured(asked: Asked, told: Told) -> Measured:
    _refuse_unclear(asked)
    store = open_store(asked.store_url)
    check_rule(store.location, asked.ids)
    row = None if asked.run_url is None or asked.row is None else RunRow.read(asked.run_url, asked.row)
    views = _views(store, asked, row)
    common = views.common()
    steps = _Steps(told, len(views.perturbed) + (0 if row is None else len(row.reading)))
    risks = _of_model(views, asked) if row is None else _of_run(row, views, asked, steps)
    moved: Moved = {}
    made = []
    for place, snapshot in enumerate(views.perturbed, start=1):
        found = _embeddings(views, snapshot, common, asked.components, moved)
        judged = None if risks is None else risks.robustness(place, seed=asked.seed, resamples=asked.resamples)
        made.append(_view(views.base, snapshot, found, judged))
        steps.next()
    made.sort(key=lambda one: (one.unit is None, one.kind, one.size or 0.0, one.seed or 0, one.view))
    result = _result(asked, views, told_apart(made), risks, moved)
    return Measured(result, moved, risks, tuple(one.view_id for one in views.perturbed), views.files)


def _views(store: Store, asked: Asked, row: RunRow | None) -> Compared:
    """What is compared; of a run the base is the snapshot that it read."""
    base: str | Snapshot = asked.base
    if row is not None:
        base = base_of_run(store, asked.base, view=row.pin["view"], snapshot=row.pin["snapshot"])
    return compared(store, base, asked.perturbed, latest=asked.latest, any_files=asked.any_files)


def _embeddings(
    views: Compared, snapshot: Snapshot, common: Common, components: int, moved: Moved
) -> tuple[EmbeddingRobustness, ...]:
    """How the embeddings of one view hold, by modality and region; what is said of single patients goes into `moved`."""
    found = []
    for (modality, roi), patients in common.items():
        base, other = (embeddings(views.store, one, modality, roi, patients) for one in (views.base, snapshot))
        moved[snapshot.view_id, modality, roi] = patients, distances(base, other)
        found.append(embedding_robustness(base, other, modality=modality, roi=roi, components=components))
    return tuple(found)


def _result(
    asked: Asked, views: Compared, made: Sequence[PerturbedView], risks: Risks | None, moved: Moved
) -> Robustness:
    first = views.perturbed[0].view_id
    entries = sum(len(patients) for (view, _, _), (patients, _) in moved.items() if view == first)
    return Robustness(
        store_id=views.store.store_id,
        base_view=views.base.view_id,
        base_snapshot=views.base.id,
        encoder_trained=views.base.view.encoder.trained,
        entries=entries,
        other_files=len(views.other_files),
        left_out=dict(asked.left_out),
        views=tuple(made),
        model=None if risks is None else risks.judged,
        risk_icc=None if risks is None or len(made) == 1 else agreement(*risks.log_risk),
        notes=(*_notes(asked, views, entries, made), *_idle(moved), *(() if risks is None else risks.notes)),
        seed=asked.seed,
        versions=versions(),
    )


class _Steps:
    """Counts folds and views that are done."""

    def __init__(self, told: Told, total: int) -> None:
        self._told, self._total, self._done = told, total, 0
        told(0, total)

    def next(self) -> None:
        """One more is done."""
        self.reach(self._done + 1)

    def reach(self, done: int) -> None:
        """So many are done."""
        self._done = done
        self._told(done, self._total)


def _refuse_unclear(asked: Asked) -> None:
    if (asked.run_url is None) != (asked.row is None):
        raise UsageError("a run is judged by one of its rows: give --run and --row together")
    if asked.run_url is not None and asked.model_url is not None:
        raise UsageError("--model is one frozen model and --run the models of a run's folds: give one of them")


def _of_model(views: Compared, asked: Asked) -> Risks | None:
    if asked.model_url is None:
        return None
    card, trained = read_model(asked.model_url)
    cohort, known = scored_cohort(card, views, asked.clinical, asked.ids)
    refuse_foreign(views, f"model {card.name!r}")
    risk = tuple(scored(card, trained, snapshot, views.store.url, cohort) for snapshot in views.all)
    seen = overlap(card, views.store, cohort)
    return ScoredViews(card, card_sha256(asked.model_url), cohort, known, seen, risk)


def _of_run(row: RunRow, views: Compared, asked: Asked, steps: _Steps) -> Risks:
    # before anything is fitted
    refuse_foreign(views, f"row {row.line.label!r}")
    cohort = in_all_views(row, views)
    url, snapshots = views.store.url, [snapshot.id for snapshot in views.perturbed]
    with _folder(asked.keep) as keep:
        models = fold_models(row, url, keep=keep, workers=asked.workers, told=steps.reach)
        score = scores_by(row, url, snapshots, cohort.patients, keep=keep, workers=asked.workers)
        return fold_views(row, models, views, cohort, score)


@contextmanager
def _folder(keep: str | None) -> Iterator[str]:
    """Where models of folds are kept, for as long as they are needed."""
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="engram-folds-") as folder:
        yield folder


def _view(
    base: Snapshot, snapshot: Snapshot, found: tuple[EmbeddingRobustness, ...], judged: RiskRobustness | None
) -> PerturbedView:
    kind, size, unit, seed = perturbation_of(snapshot.view)
    return PerturbedView(
        view=snapshot.view_id,
        snapshot=snapshot.id,
        kind=kind,
        size=size,
        unit=unit,
        seed=seed,
        differs=differences(base.view, snapshot.view),
        embeddings=found,
        risk=judged,
    )


def _notes(asked: Asked, views: Compared, entries: int, made: Sequence[PerturbedView]) -> tuple[str, ...]:
    """What a reader must know of the views before the figures."""
    told = []
    if not views.base.view.encoder.trained:
        told.append("the encoder is untrained: nothing here is a finding about a trained one")
    if views.base.view.flags.get("perturbation") is not None:
        told.append(f"the base view {views.base.view_id} is perturbed itself")
    told += [
        f"{one.view} differs from the base in {', '.join(one.differs)} besides its perturbation"
        for one in made
        if one.differs
    ]
    keys = [(key.modality, key.roi) for snapshot in views.all for key in snapshot.keys]
    if asked.run_url is not None:
        # the base is what the run read: other regions of the views are none of its business
        read = {(key.modality, key.roi) for key in views.base.keys}
        keys = [place for place in keys if place in read]
    told += [note for one in views.files for note in one.notes]
    if asked.any_files:
        told.append("as was asked for, nobody looked whether the views' entries were made from the files of the base")
    others = sum(key in snapshot for key in views.other_files for snapshot in views.all)
    left = len(keys) - others - len(views.all) * entries
    if left:
        told.append(f"{left} entries that not every view holds, or of regions with fewer than 3 patients, are left out")
    return tuple(told)


def _idle(moved: Moved) -> Iterator[str]:
    """Entries that no perturbation reached, such as a CT's on its own grid while the PET is shifted: agreement says nothing."""
    for (view, modality, roi), (_, found) in moved.items():
        if not np.any(found.relative_l2):
            yield (
                f"no entry of {modality} of {roi} in {view} differs from the base's: the perturbation does not reach them, and "
                "their agreement says nothing"
            )
