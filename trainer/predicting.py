"""Scores patients of a store by a kept model: log-risk, risk group, survival; knows nothing of how the model was fitted."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from store_schema import Snapshot, Store, open_store
from store_schema.errors import CohortError, NotCommittedError, UsageError
from store_schema.files import Place
from store_schema.pseudonyms import PlainIds, check_rule
from trainer.cohort import Cohort, covariates_of, without_outcomes
from trainer.features import images_of
from trainer.judging import Trained
from trainer.model_config import FittedModel
from trainer.part_data import PartData
from trainer.risk_groups import GROUPS
from trainer.saved import Card
from trainer.splits import Fold


@dataclass(frozen=True)
class Newcomers:
    """Whom a model is asked about."""

    store_url: str | None = None
    """Store with entries of the very view that the model reads; none for a clinical model."""
    snapshot: str | None = None
    """Id, or unique beginning; the present entries by default."""
    clinical: Place | None = None
    """Table with the model's covariates, where it has any."""
    ids: PlainIds = field(default_factory=PlainIds)
    """What the store calls the table's patients."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says of patients, in the order of `patients`."""

    patients: tuple[str, ...]
    log_risk: Float[np.ndarray, " patient"]
    """Higher is worse."""
    z: Float[np.ndarray, " patient"]
    """In standard deviations of the training patients' log-risks."""
    group: Int[np.ndarray, " patient"]
    """1 (lowest) to 4 (highest): quartiles of the training patients' risks."""
    survival: Float[np.ndarray, "patient time"]
    """Probability of being free of the event after each of `times`."""
    times: tuple[float, ...]
    """In the model's time unit."""
    alpha: Float[np.ndarray, " patient"] | None
    """Gate's weight of the first modality, where there is one."""
    left_out: Mapping[str, str]
    """Patients who could not be scored, each with the reason."""

    def to_csv(self) -> str:
        """One line per patient."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        alpha = [] if self.alpha is None else ["alpha"]
        writer.writerow(
            ["patient", "log_risk", "z", "risk_group", *(f"survival_{time:g}" for time in self.times), *alpha]
        )
        for row, patient in enumerate(self.patients):
            weight = [] if self.alpha is None else [self.alpha[row]]
            told = [self.log_risk[row], self.z[row], f"{self.group[row]} {GROUPS[self.group[row] - 1]}"]
            writer.writerow([patient, *told, *self.survival[row], *weight])
        return text.getvalue()


def predict(card: Card, trained: Trained, newcomers: Newcomers, *, times: Sequence[float]) -> Scores:
    """Scores of every patient who has what the model reads.

    Parameters
    ----------
    card, trained
        The model, as `trainer.saved.read_model` gives it.
    newcomers
        Whom to score.
    times
        At which survival is given, in the model's time unit. After the last training event the curve keeps its last value.

    Raises
    ------
    UsageError
        If the model needs a store or a table that was not given.
    NotCommittedError
        If the store does not hold the model's view, or no entry of it.
    CohortError
        If nobody can be scored.
    """
    return newcomers.ids.filtered(lambda: _scored(card, trained, newcomers, times))


def score_cohort(card: Card, trained: Trained, cohort: Cohort, snapshot: tuple[str, str] | None) -> PartData:
    """Data of a cohort as the model takes them, preprocessed by the model's own frozen preprocessing.

    Parameters
    ----------
    snapshot
        Address of the store and id of the snapshot that holds every patient's entries; None without images.
    """
    images = None if snapshot is None else images_of(card.model, *snapshot, cohort.patients)
    nobody = Fold(index=0, repeat=0, train=(), test=cohort.patients)
    return PartData(cohort, nobody, (0,), 0, card.preprocessing, images)


def pinned(card: Card, newcomers: Newcomers) -> tuple[Store, Snapshot] | None:
    """The store, and the snapshot of the model's view that is read; None for a model without images.

    Raises
    ------
    UsageError
        If no store was given, or the snapshot is of another view.
    NotCommittedError
        If the store does not hold the view, or no entry of it.
    """
    if card.view is None:
        return None
    if newcomers.store_url is None:
        raise UsageError(f"model {card.name!r} reads view {card.view}: name the feature store with --store URL")
    store = open_store(newcomers.store_url)
    check_rule(store.location, newcomers.ids)
    if newcomers.snapshot is not None:
        snapshot = store.snapshot(newcomers.snapshot)
        if snapshot.view_id != card.view:
            raise UsageError(
                f"snapshot {newcomers.snapshot[:16]} is of view {snapshot.view_id}, and the model was fitted on {card.view}: "
                "its numbers mean nothing on another view"
            )
        newcomers.ids.know_keys(key.patient for key in snapshot.keys)
        return store, snapshot
    view = store.resolve_view(card.view)
    wanted = set(pairs(card.model))
    numbers = {key: number for key, number in store.current_numbers(view).items() if (key.modality, key.roi) in wanted}
    if not numbers:
        told = ", ".join("/".join(pair) for pair in sorted(wanted))
        raise NotCommittedError(
            f"the store has no entry {told} of view {view}, which the model reads: extract them first"
        )
    newcomers.ids.know_keys(key.patient for key in numbers)
    return store, store.snapshot(store.make_snapshot(view, numbers))


def available(card: Card, snapshot: Snapshot) -> dict[str, set[str]]:
    """Patients that have each entry of the model, by its label."""
    return {
        f"{snapshot.view_id}/{modality}/{roi}": {
            key.patient for key in snapshot.keys if (key.modality, key.roi) == (modality, roi)
        }
        for modality, roi in pairs(card.model)
    }


def risk_group(card: Card, log_risk: Float[np.ndarray, " patient"]) -> Int[np.ndarray, " patient"]:
    """1 to 4 by the quartile cuts of the training patients."""
    return np.asarray(1 + np.searchsorted(card.risk_cuts, log_risk, side="left"))


def _scored(card: Card, trained: Trained, newcomers: Newcomers, times: Sequence[float]) -> Scores:
    held = pinned(card, newcomers)
    entries = {} if held is None else available(card, held[1])
    patients, frame, left_out = who(card, newcomers, entries)
    if not patients:
        raise CohortError(f"nobody can be scored: {len(left_out)} patients lack what the model reads")
    cohort = without_outcomes(patients, frame, card.time_unit)
    data = score_cohort(card, trained, cohort, None if held is None else (held[0].url, held[1].id))
    said = trained.predict(data, patients)
    return Scores(
        patients=tuple(patients),
        log_risk=said.log_risk,
        z=(said.log_risk - card.risk_mean) / card.risk_sd,
        group=risk_group(card, said.log_risk),
        survival=card.baseline.survival(said.log_risk, np.asarray(times, dtype=np.float64)),
        times=tuple(times),
        alpha=said.alpha,
        left_out=left_out,
    )


def who(
    card: Card, newcomers: Newcomers, entries: Mapping[str, set[str]]
) -> tuple[list[str], pd.DataFrame, dict[str, str]]:
    """Patients to score with their covariates, and those who cannot be, with reasons.

    Parameters
    ----------
    entries
        Patients that have each entry of the model, as `available` gives them.

    Raises
    ------
    UsageError
        If the model reads covariates and there is no table.
    TableError
        If the table cannot be read as declared.
    """
    left_out: dict[str, str] = {}
    if card.preprocessing is not None:
        if newcomers.clinical is None:
            names = ", ".join(card.columns.covariates)
            raise UsageError(f"model {card.name!r} reads covariates ({names}): give their table with --clinical")
        named, frame = covariates_of(newcomers.clinical, card.columns, newcomers.ids)
        everybody = set(named) | set().union(*entries.values())
        left_out |= dict.fromkeys(everybody - set(named), "not in the clinical table")
    else:
        everybody = set().union(*entries.values())
        frame = pd.DataFrame(index=pd.Index(sorted(everybody), dtype=object))
    for label, having in entries.items():
        left_out |= {patient: f"no entry {label}" for patient in everybody - having if patient not in left_out}
    return sorted(everybody - set(left_out)), frame, dict(sorted(left_out.items()))


def pairs(model: FittedModel) -> tuple[tuple[str, str], ...]:
    """Modality and region of each entry that a model reads."""
    images = model.images
    return () if images is None else tuple((modality, images.roi) for modality in images.modalities)
