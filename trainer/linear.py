"""Fits ridge Cox on covariates, vectors or both in a training part, and chooses its penalty there; knows nothing of networks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from store_schema.errors import TaskError
from trainer.cox import RidgeCox
from trainer.loss import cox_loss
from trainer.model_config import RidgeCoxModel
from trainer.part_data import PartData
from trainer.vector_selection import VectorSelection

PENALTY_STREAM = 4
"""Keeps the parts that choose a penalty apart from those of `trainer.splits` (0, 1, 3) and `trainer.judging` (2)."""
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
    prepared = _Prepared.of(model, data)
    return prepared.fitted(penalty), prepared.selection


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
    prepared = _Prepared.of(model, data)
    everybody = features_of(data, prepared.selection, whole)
    added = []
    for penalty in penalties:
        try:
            cox = prepared.fitted(penalty)
        except TaskError:
            # this penalty alone: others may converge
            added.append(-math.inf)
            continue
        without = _log_likelihood(cox, prepared.features, data.outcome(data.fold.train))
        added.append(_log_likelihood(cox, everybody, data.outcome(whole)) - without)
    return np.array(added)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A training part as ridge Cox takes it, for any penalty."""

    model: RidgeCoxModel
    data: PartData
    selection: VectorSelection | None
    features: Float[np.ndarray, "train feature"]

    @classmethod
    def of(cls, model: RidgeCoxModel, data: PartData) -> "_Prepared":
        train, selection = data.fold.train, None
        if data.images is not None:
            selection = VectorSelection.fit(data.vectors(train), names=data.vector_names, rules=model.selection)
        return cls(model, data, selection, features_of(data, selection, train))

    def fitted(self, penalty: float) -> RidgeCox:
        time, event = self.data.outcome(self.data.fold.train)
        clinical = () if self.data.preprocessor is None else self.data.preprocessor.feature_names
        names = (*clinical, *(() if self.selection is None else self.selection.names))
        return RidgeCox.fit(
            self.features, time=time, event=event, penalty=penalty, ties=self.model.ties, feature_names=names
        )


def _log_likelihood(
    cox: RidgeCox,
    features: Float[np.ndarray, "patient feature"],
    outcome: tuple[Float[np.ndarray, " patient"], Bool[np.ndarray, " patient"]],
) -> float:
    time, event = outcome
    risk = torch.from_numpy(cox.predict(features))
    mean = cox_loss(risk=risk, time=torch.from_numpy(time), event=torch.from_numpy(event), ties=cox.ties)
    return -float(mean) * int(event.sum())
