"""Judges how embeddings and risks hold over perturbed views, from store to results; writes nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from store_schema import Snapshot, open_store
from store_schema.files import Place
from store_schema.pseudonyms import PlainIds, check_rule
from trainer.judging import Trained
from trainer.robustness.embeddings import Distances, agreement, distances, embedding_robustness
from trainer.robustness.reading import Compared, compared, differences, embeddings, perturbation_of
from trainer.robustness.results import EmbeddingRobustness, JudgedModel, PerturbedView, RiskRobustness, Robustness
from trainer.robustness.risks import ScoredViews, risk_robustness, scored, scored_cohort
from trainer.saved import Card, card_sha256, read_model
from trainer.versions import versions

Told = Callable[[int, int], None]
"""Is told how many views are judged, of how many."""
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
    ids: PlainIds = field(default_factory=PlainIds)
    components: int = COMPONENTS
    resamples: int = RESAMPLES
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Measured:
    """The results, and what they say of single patients."""

    found: Robustness
    moved: dict[tuple[str, str, str], tuple[tuple[str, ...], Distances]]
    """Patients and their distances, by view, modality and region."""
    risks: ScoredViews | None
    order: tuple[str, ...]
    """Views in the order of `risks.log_risk`, without the base."""


def measure(asked: Asked, told: Told) -> Measured:
    """Everything about the views that are asked for.

    Raises
    ------
    UsageError, TableError, SchemaError
        If views, model or table do not fit each other.
    NotCommittedError
        If the store has not what is named.
    CohortError
        If fewer than three patients are in all views.
    """
    return asked.ids.filtered(lambda: _measured(asked, told))


def _measured(asked: Asked, told: Told) -> Measured:
    store = open_store(asked.store_url)
    check_rule(store.location, asked.ids)
    views = compared(store, asked.base, asked.perturbed)
    common = views.common()
    model = None if asked.model_url is None else read_model(asked.model_url)
    risks = None if model is None else _risks(*model, views, asked)
    moved: dict[tuple[str, str, str], tuple[tuple[str, ...], Distances]] = {}
    made = []
    for place, snapshot in enumerate(views.perturbed, start=1):
        told(place - 1, len(views.perturbed))
        found = []
        for (modality, roi), patients in common.items():
            base, other = (embeddings(store, one, modality, roi, patients) for one in (views.base, snapshot))
            moved[snapshot.view_id, modality, roi] = patients, distances(base, other)
            found.append(embedding_robustness(base, other, modality=modality, roi=roi, components=asked.components))
        judged = None if risks is None else risk_robustness(risks, place, seed=asked.seed, resamples=asked.resamples)
        made.append(_view(views.base, snapshot, tuple(found), judged))
    told(len(views.perturbed), len(views.perturbed))
    made.sort(key=lambda one: (one.unit is None, one.kind, one.size or 0.0, one.seed or 0, one.view))
    result = Robustness(
        store_id=store.store_id,
        base_view=views.base.view_id,
        base_snapshot=views.base.id,
        encoder_trained=views.base.view.encoder.trained,
        entries=sum(map(len, common.values())),
        views=tuple(made),
        model=None if risks is None else _judged(risks, asked),
        risk_icc=None if risks is None or len(made) == 1 else agreement(*risks.log_risk),
        notes=_notes(views, common, made, risks),
        seed=asked.seed,
        versions=versions(),
    )
    return Measured(result, moved, risks, tuple(one.view_id for one in views.perturbed))


def _risks(card: Card, trained: Trained, views: Compared, asked: Asked) -> ScoredViews:
    cohort, known = scored_cohort(card, views, asked.clinical, asked.ids)
    risk: list[Float[np.ndarray, " patient"]] = [
        scored(card, trained, snapshot, views.store.url, cohort) for snapshot in views.all
    ]
    return ScoredViews(card, cohort, known, tuple(risk))


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


def _judged(risks: ScoredViews, asked: Asked) -> JudgedModel:
    assert asked.model_url is not None
    apparent = risks.has_outcomes and _fitted_on(risks)
    return JudgedModel(name=risks.card.name, card_sha256=card_sha256(asked.model_url), apparent=apparent)


def _fitted_on(risks: ScoredViews) -> bool:
    return risks.cohort.digest == risks.card.training.cohort_digest


def _notes(
    views: Compared,
    common: dict[tuple[str, str], tuple[str, ...]],
    made: list[PerturbedView],
    risks: ScoredViews | None,
) -> tuple[str, ...]:
    """What a reader must know before the figures."""
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
    left = sum(len(snapshot) for snapshot in views.all) - len(views.all) * sum(map(len, common.values()))
    if left:
        told.append(f"{left} entries that not every view holds, or of regions with fewer than 3 patients, are left out")
    if risks is not None:
        told.append(
            "risks are those of the one fitted model; runs of `trainer cv` keep no fold models, so that how models fitted on "
            "other patients, or on perturbed embeddings, would do is not told"
        )
        if risks.has_outcomes and _fitted_on(risks):
            told.append("the model was fitted on these very patients: each c is too good, and so may its change be")
    return tuple(told)
