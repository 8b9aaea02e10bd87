"""Fits ridge Cox on covariates, vectors or both in a training part, and chooses its penalty there; knows nothing of networks."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from store_schema.errors import TaskError
from trainer.cox import RidgeCox
from trainer.loss import cox_loss
from trainer.model_config import RidgeCoxModel
from trainer.part_data import PartData
from trainer.vector_selection import VectorSelection

PENALTY_STREAM = 3
"""Keeps the parts that choose a penalty apart from those of outer, inner and other splits."""
PENALTY_PARTS = 5


def features_of(
    data: PartData, selection: VectorSelection | None, patients: Sequence[str]
) -> Float[np.ndarray, "patient feature"]:
    """What a linear model sees of any patients of the data, finite and standardised: covariates, then features of vectors."""
    parts = [np.empty((len(patients), 0))]
    clinical = data.clinical(patients)
    if clinical is not None:
        parts.append(clinical)
    if selection is not None:
        parts.append(selection.transform(data.vectors(patients)))
    return np.concatenate(parts, axis=1)


def fit_linear(model: RidgeCoxModel, data: PartData) -> tuple[RidgeCox, VectorSelection | None]:
    """Ridge Cox of a training part, its penalty given or chosen there, and how it prepares vectors, where it reads any.

    Raises
    ------
    CohortError
        If the training part, or what is left of it beside an inner part, has no event, or no covariate varies.
    TaskError
        If no feature is left, or the fit converges for no penalty.
    """
    penalty = choose_penalty(model, data) if isinstance(model.penalty, str) else model.penalty
    selection = _selection(model, data)
    return _fitted(model, data, selection, penalty), selection


def choose_penalty(model: RidgeCoxModel, data: PartData) -> float:
    """Penalty of the largest cross-validated partial likelihood inside the training part; the largest of equals.

    Each of five parts is left out once. What it adds is the log partial likelihood of the whole training part less that of
    the others, both by the coefficients that the others gave: a part of thirty patients then counts by its place in the
    whole risk sets, not by its own. Selection, imputation and standardisation are fitted anew beside each part. A penalty
    that does not converge beside a part is not chosen. The c-index is not the criterion: it does not change while the
    order of risks does not, and is no sum over patients.

    Raises
    ------
    CohortError, TaskError
        As `fit_linear`.

    References
    ----------
    Verweij and van Houwelingen 1993, Statistics in Medicine 12:2305; protocol section 4.
    """
    penalties = tuple(sorted(set(model.penalties), reverse=True))
    part = data.inner_parts(PENALTY_PARTS, purpose=PENALTY_STREAM)
    total = np.zeros(len(penalties))
    for left_out in range(PENALTY_PARTS):
        rest = [patient for patient, number in zip(data.fold.train, part, strict=True) if number != left_out]
        total += _added_likelihoods(model, data.trained_by(rest), data.fold.train, penalties)
    if not np.isfinite(total).any():
        raise TaskError(f"ridge Cox converged for none of the penalties {penalties}: name larger `penalties`")
    return penalties[int(np.argmax(total))]


def _added_likelihoods(
    model: RidgeCoxModel, data: PartData, whole: Sequence[str], penalties: Sequence[float]
) -> Float[np.ndarray, " penalty"]:
    """What the patients who are not in the training part add to its log partial likelihood, for each penalty."""
    selection = _selection(model, data)
    added = []
    for penalty in penalties:
        try:
            cox = _fitted(model, data, selection, penalty)
        except TaskError:
            # this penalty alone: others may converge
            added.append(-math.inf)
            continue
        with_them, without = (_log_likelihood(cox, data, selection, some) for some in (whole, data.fold.train))
        added.append(with_them - without)
    return np.array(added)


def _selection(model: RidgeCoxModel, data: PartData) -> VectorSelection | None:
    if data.images is None:
        return None
    return VectorSelection.fit(data.vectors(data.fold.train), names=data.vector_names, rules=model.selection)


def _fitted(model: RidgeCoxModel, data: PartData, selection: VectorSelection | None, penalty: float) -> RidgeCox:
    time, event = data.outcome(data.fold.train)
    clinical = () if data.preprocessor is None else data.preprocessor.feature_names
    return RidgeCox.fit(
        features_of(data, selection, data.fold.train),
        time=time,
        event=event,
        penalty=penalty,
        ties=model.ties,
        feature_names=(*clinical, *(() if selection is None else selection.names)),
    )


def _log_likelihood(cox: RidgeCox, data: PartData, selection: VectorSelection | None, patients: Sequence[str]) -> float:
    time, event = data.outcome(patients)
    risk = torch.from_numpy(cox.predict(features_of(data, selection, patients)))
    mean = cox_loss(risk=risk, time=torch.from_numpy(time), event=torch.from_numpy(event), ties=cox.ties)
    return -float(mean) * int(event.sum())
