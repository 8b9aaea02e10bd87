"""Has a frozen model score the same patients on each view, and measures how far its risks hold; fits nothing."""

from dataclasses import dataclass

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
from trainer.predicting import available, risk_group, score_cohort
from trainer.robustness.agreement import LEAST_SUBJECTS, rank_stability
from trainer.robustness.c_change import c_change
from trainer.robustness.embeddings import agreement
from trainer.robustness.reading import Compared
from trainer.robustness.results import CIndexChange, RiskRobustness
from trainer.saved import Card
from trainer.tables import read_table


@dataclass(frozen=True, eq=False)
class ScoredViews:
    """Risks of one cohort on each view."""

    card: Card
    cohort: Cohort
    has_outcomes: bool
    log_risk: tuple[Float[np.ndarray, " patient"], ...]
    """Of the base first; higher is worse."""


def scored_cohort(card: Card, views: Compared, clinical: Place | None, ids: PlainIds) -> tuple[Cohort, bool]:
    """Patients that have what the model reads in every view, and whether their outcomes are known.

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
    entries = {label: held for snapshot in views.all for label, held in available(card, snapshot).items()}
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


def risk_robustness(found: ScoredViews, place: int, *, seed: int, resamples: int) -> RiskRobustness:
    """How the risks on one perturbed view agree with those on the base.

    Parameters
    ----------
    place
        Of the view in `found.log_risk`; the base is 0.
    """
    base, perturbed = found.log_risk[0], found.log_risk[place]
    ranks = rank_stability(base, perturbed)
    changed = risk_group(found.card, base) != risk_group(found.card, perturbed)
    return RiskRobustness(
        patients=len(base),
        icc=agreement(base, perturbed),
        spearman=ranks.spearman,
        kendall=ranks.kendall,
        mean_rank_change=ranks.mean_change,
        changed_group=float(changed.mean()),
        c=_c(found, place, seed=seed, resamples=resamples),
    )


def _c(found: ScoredViews, place: int, *, seed: int, resamples: int) -> CIndexChange:
    if not found.has_outcomes:
        return CIndexChange(reason="no outcomes were given")
    cohort = found.cohort
    try:
        change = c_change(
            found.log_risk[0],
            found.log_risk[place],
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
