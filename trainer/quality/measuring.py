"""Judges the embeddings of views, from store to results; writes nothing."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from store_schema import EntryKey, Snapshot
from store_schema.origin import library_versions
from trainer.quality.alignment import Aligned, aligned, alignment
from trainer.quality.drift import adjusted, index_studies
from trainer.quality.findings import findings
from trainer.quality.inputs import Asked, Given, given_of
from trainer.quality.judging import Judged, judged
from trainer.quality.reading import keys_by_place, read_place
from trainer.quality.results import Alignment, Quality, ViewQuality
from trainer.quality.standard import Standardised
from trainer.versions import versions

__all__ = ["Asked", "Measured", "Told", "measure"]

Told = Callable[[int, int], None]
"""Is told how many entries are read, of how many."""


@dataclass(frozen=True, eq=False)
class Measured:
    """The results, and what they say of single patients."""

    found: Quality
    embeddings: tuple[Judged, ...]
    """In the order of the results."""
    aligned: tuple[Aligned, ...]
    """In the order of the results."""
    log_risk: dict[str, float]
    """By key of the store; empty where no risks were asked for."""


def measure(asked: Asked, told: Told) -> Measured:
    """Everything about the views that are asked for.

    Raises
    ------
    UsageError, TableError, SchemaError
        If store, table, model and run do not fit each other.
    NotCommittedError
        If the store has not what is named.
    CohortError
        If a model can score nobody.
    """
    return asked.ids.filtered(lambda: _measured(asked, told))


def _measured(asked: Asked, told: Told) -> Measured:
    given = given_of(asked)
    count = _Count(told, sum(map(len, given.snapshots)))
    views: list[ViewQuality] = []
    embeddings: list[Judged] = []
    pairs: list[Aligned] = []
    for snapshot in given.snapshots:
        found = [_judged(given, snapshot, keys, count) for keys in keys_by_place(snapshot).values()]
        both = list(_aligned(given, [one.found for one in found]))
        made = [_told(given, asked, one) for one in both]
        views.append(_view(snapshot, found, made))
        embeddings += found
        pairs += both
    adjusted_views = _adjusted(views)
    result = Quality(
        store_id=given.store.store_id,
        views=adjusted_views,
        findings=findings(adjusted_views, asked.settings),
        groups=tuple(given.subjects.groups),
        risk=None if given.risks is None else given.risks.source,
        notes=_notes(given, adjusted_views),
        settings=asked.settings,
        versions=versions() | library_versions(("umap-learn",) if asked.umap else ()),
    )
    return Measured(result, tuple(embeddings), tuple(pairs), given.log_risk)


@dataclass
class _Count:
    """Entries read so far."""

    told: Told
    total: int
    done: int = 0

    def one(self) -> None:
        """One more."""
        self.done += 1
        self.told(self.done, self.total)


def _judged(given: Given, snapshot: Snapshot, keys: tuple[EntryKey, ...], count: _Count) -> Judged:
    return judged(read_place(snapshot, keys, count.one), given.subjects, given.log_risk, given.limits)


def _aligned(given: Given, places: Sequence[Standardised]) -> Iterator[Aligned]:
    """Every pair of modalities of one region, over those who have both, one study each."""
    for first, second in combinations(places, 2):
        if first.place.roi == second.place.roi and first.centred.shape[1] == second.centred.shape[1]:
            held = set(second.patients)
            both = [patient for patient in first.patients if patient in held]
            yield aligned(first, second, tuple(both[row] for row in index_studies(both, given.subjects)))


def _told(given: Given, asked: Asked, one: Aligned) -> Alignment:
    stream = zlib.crc32(f"{one.view}/{one.first}/{one.second}/{one.roi}".encode())
    numbers = {"permutations": asked.permutations, "resamples": asked.resamples}
    return alignment(one, given.log_risk, **numbers, seed=[asked.seed, stream])


def _view(snapshot: Snapshot, found: Sequence[Judged], alignments: Sequence[Alignment]) -> ViewQuality:
    return ViewQuality(
        view=snapshot.view_id,
        snapshot=snapshot.id,
        encoder_trained=snapshot.view.encoder.trained,
        entries=len(snapshot),
        embeddings=tuple(one.quality for one in found),
        alignments=tuple(alignments),
    )


def _adjusted(views: Sequence[ViewQuality]) -> tuple[ViewQuality, ...]:
    """The same with the p-values of groups adjusted over all views."""
    drifts = iter(adjusted([drift for view in views for one in view.embeddings for drift in one.drift]))

    def embeddings(view: ViewQuality) -> Iterator[object]:
        for one in view.embeddings:
            yield one.model_copy(update={"drift": tuple(next(drifts) for _ in one.drift)})

    return tuple(view.model_copy(update={"embeddings": tuple(embeddings(view))}) for view in views)


def _notes(given: Given, views: Sequence[ViewQuality]) -> tuple[str, ...]:
    """What a reader must know before the figures."""
    told = [
        f"the encoder of {view.view} is untrained: nothing here is a finding about a trained one"
        for view in views
        if not view.encoder_trained
    ]
    if given.risks is not None:
        told.append(given.risks.note)
    held = {key.patient for snapshot in given.snapshots for key in snapshot.keys}
    if strangers := held - set(given.subjects.person):
        told.append(
            f"{len(strangers)} of {len(held)} patients are in no table: each is taken for a person, in no group"
        )
    if kin := len(held) - len(set(given.subjects.owners(held).values())):
        told.append(
            f"{kin} further studies of the same persons are left out of tests and alignment, which take one study each"
        )
    if given.subjects.groups and given.subjects.event is None:
        told.append(
            "no outcomes were given: a drift between groups may be one of their case mix, which was not looked at"
        )
    return tuple(told)
