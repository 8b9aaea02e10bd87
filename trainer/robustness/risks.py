"""Has a frozen model score the same patients on each view, and measures how far its risks hold; fits nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Float

from store_schema import Snapshot
from store_schema.errors import CohortError, UsageError
from store_schema.files import Place
from store_schema.pseudonyms import PlainIds
from trainer.cohort import Cohort, build_cohort, covariates_of, without_outcomes
from trainer.columns import Columns
from trainer.judging import Trained
from trainer.predicting import available, pairs, risk_group, score_cohort
from trainer.robustness.agreement import LEAST_SUBJECTS, rank_stability
from trainer.robustness.c_change import c_change
from trainer.robustness.embeddings import agreement
from trainer.robustness.overlap import Overlap
from trainer.robustness.reading import Compared
from trainer.robustness.results import CIndexChange, JudgedModel, RiskRobustness
from trainer.saved import Card
from trainer.tables import read_table

ONE_MODEL = (
    "risks are those of the one fitted model; `--run` judges the models of a run's folds on patients whom they were not fitted on. "
    "How models fitted on perturbed embeddings would do is not told"
)
Series = Float[np.ndarray, " patient"]


class Risks(Protocol):
    """Risks of the same patients on the base and on every perturbed view."""

    @property
    def log_risk(self) -> tuple[Series, ...]:
        """Of each view, the base first, comparable between patients; higher is worse."""

    def robustness(self, place: int, *, seed: int, resamples: int) -> RiskRobustness:
        """How those on the view at this place of `log_risk` agree with the base's."""

    @property
    def judged(self) -> JudgedModel:
        """What gave them."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of them."""

    def lines(self, views: Sequence[str]) -> Iterator[Sequence[Any]]:
        """Header and lines of the table of single patients; of the perturbed views, in their order."""


@dataclass(frozen=True, eq=False)
class ScoredViews:
    """Risks that one frozen model gives a cohort on each view."""

    card: Card
    card_sha256: str
    cohort: Cohort
    has_outcomes: bool
    overlap: Overlap
    """Of the cohort and of those whom the model was fitted on."""
    log_risk: tuple[Series, ...]
    """Of the base first; higher is worse."""

    def robustness(self, place: int, *, seed: int, resamples: int) -> RiskRobustness:
        """How the risks on one perturbed view agree with those on the base."""
        base, perturbed = self.log_risk[0], self.log_risk[place]
        changed = risk_group(self.card, base) != risk_group(self.card, perturbed)
        c = CIndexChange(reason="no outcomes were given")
        if self.has_outcomes:
            c = change_of_c(base, perturbed, self.cohort, seed=seed, resamples=resamples)
        return RiskRobustness(changed_group=float(changed.mean()), c=c, **agreements(base, perturbed))

    @property
    def judged(self) -> JudgedModel:
        """The model."""
        return JudgedModel(
            name=self.card.name, card_sha256=self.card_sha256, apparent=self._apparent, seen=self.overlap.most
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """That risks are of one model, and whether its c is apparent or cannot be told not to be."""
        note = self.overlap.note if self.has_outcomes else None
        return (ONE_MODEL,) if note is None else (ONE_MODEL, note)

    def lines(self, views: Sequence[str]) -> Iterator[Sequence[Any]]:
        """Risks and risk groups by patient and view."""
        yield "patient", "view", "log_risk_base", "log_risk", "risk_group_base", "risk_group"
        groups = [risk_group(self.card, risk) for risk in self.log_risk]
        for place, view in enumerate(views, start=1):
            for row, patient in enumerate(self.cohort.patients):
                pair = (float(self.log_risk[0][row]), float(self.log_risk[place][row]))
                yield patient, view, *pair, int(groups[0][row]), int(groups[place][row])

    @property
    def _apparent(self) -> bool | None:
        return self.overlap.apparent if self.has_outcomes else False


def scored_cohort(card: Card, views: Compared, clinical: Place | None, ids: PlainIds) -> tuple[Cohort, bool]:
    """Patients that have what the model reads in every view, from the files of the base, and whether their outcomes are known.

    Raises
    ------
    UsageError
        If the model reads no images or another view than the base, or a table that it needs was not given.
    TableError
        If the table cannot be read as the model declares it.
    CohortError
        If fewer than three patients have everything.
    """
    if card.view is None:
        raise UsageError(f"model {card.name!r} reads no images: no perturbation can change its risks")
    if card.view != views.base.view_id:
        raise UsageError(
            f"model {card.name!r} was fitted on view {card.view}, and the base is {views.base.view_id}: name the model's view with "
            "--base"
        )
    strangers = views.strangers(pairs(card.model))
    entries = {label: held - strangers for snapshot in views.all for label, held in available(card, snapshot).items()}
    cohort, known = _cohort(card, entries, clinical, ids)
    if len(cohort) < LEAST_SUBJECTS:
        raise CohortError(
            f"{len(cohort)} patients have what model {card.name!r} reads in every view: agreement needs {LEAST_SUBJECTS}"
        )
    return cohort, known


def scored(card: Card, trained: Trained, snapshot: Snapshot, store_url: str, cohort: Cohort) -> np.ndarray:
    """Log-risks of the cohort on one view, by the model as it is."""
    data = score_cohort(card, trained, cohort, (store_url, snapshot.id))
    return np.asarray(trained.predict(data, cohort.patients).log_risk, dtype=np.float64)


def agreements(base: Series, perturbed: Series) -> dict[str, Any]:
    """What `RiskRobustness` tells of two series of the same patients without their outcomes."""
    ranks = rank_stability(base, perturbed)
    return {
        "patients": len(base),
        "icc": agreement(base, perturbed),
        "spearman": ranks.spearman,
        "kendall": ranks.kendall,
        "mean_rank_change": ranks.mean_change,
    }


def change_of_c(base: Series, perturbed: Series, cohort: Cohort, *, seed: int, resamples: int) -> CIndexChange:
    """Change of c over the cohort, whose patients the series are of; or why there is none."""
    try:
        change = c_change(
            base,
            perturbed,
            time=cohort.time,
            event=cohort.event,
            persons=cohort.person,
            seed=seed,
            resamples=resamples,
        )
    except CohortError as error:
        return CIndexChange(reason=str(error))
    return CIndexChange.model_validate(vars(change))


def _cohort(card: Card, entries: dict[str, set[str]], clinical: Place | None, ids: PlainIds) -> tuple[Cohort, bool]:
    complete = set.intersection(*entries.values())
    if clinical is None:
        if card.preprocessing is not None:
            names = ", ".join(card.columns.covariates)
            raise UsageError(f"model {card.name!r} reads covariates ({names}): give their table with --clinical")
        return without_outcomes(sorted(complete), _no_frame(complete), card.time_unit), False
    columns = _columns(card, clinical)
    if {columns.time, columns.event} <= set(read_table(clinical)[0].columns):
        return build_cohort(clinical, columns, entries, ids=ids), True
    named, frame = covariates_of(clinical, columns, ids)
    return without_outcomes([one for one in named if one in complete], frame, card.time_unit), False


def _columns(card: Card, clinical: Place) -> Columns:
    """Roles of the table's columns, without covariates that the model does not read and a centre that the table has not."""
    changes: dict[str, object] = {} if card.preprocessing is not None else {"continuous": (), "categorical": ()}
    if card.columns.centre not in set(read_table(clinical)[0].columns):
        changes["centre"] = None
    return card.columns.model_copy(update=changes)


def _no_frame(patients: set[str]) -> pd.DataFrame:
    return pd.DataFrame(index=pd.Index(sorted(patients), dtype=object))
