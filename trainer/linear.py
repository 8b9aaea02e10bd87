"""Fits ridge Cox on covariates, vectors or both in a training part, and chooses its penalty there; knows nothing of networks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from store_schema.errors import TaskError
from trainer.cox import RidgeCox
from trainer.loss import cox_loss
from trainer.model_config import RidgeCoxModel
from trainer.part_data import PartData
from trainer.preprocess import ClinicalPreprocessor
from trainer.vector_selection import VectorSelection

PENALTY_STREAM = 3
"""Keeps the parts that choose a penalty apart from those of outer, inner and other splits."""
PENALTY_PARTS = 5


@dataclass(frozen=True, eq=False)
class LinearInputs:
    """What a linear model sees of any patient: covariates first, then features of vectors, prepared by some patients alone."""

    data: PartData
    clinical: ClinicalPreprocessor | None
    """None where the model takes no covariate."""
    vectors: VectorSelection | None
    """None where the model takes no vector."""

    @classmethod
    def of(cls, model: RidgeCoxModel, data: PartData, patients: Sequence[str]) -> "LinearInputs":
        """Inputs that these patients prepare.

        Raises
        ------
        TaskError
            If no feature of the vectors is left.
        """
        clinical, vectors = None, None
        if data.preprocessor is not None:
            clinical = ClinicalPreprocessor.fit(data.cohort.frame.loc[list(patients)], data.preprocessor.rules)
        if data.images is not None:
            vectors = VectorSelection.fit(data.vectors(patients), names=data.vector_names, rules=model.selection)
        return cls(data, clinical, vectors)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns of `features`."""
        clinical = () if self.clinical is None else self.clinical.feature_names
        return (*clinical, *(() if self.vectors is None else self.vectors.names))

    def features(self, patients: Sequence[str]) -> Float[np.ndarray, "patient feature"]:
        """Finite and standardised, of any patients of the cohort."""
        parts = [np.empty((len(patients), 0))]
        if self.clinical is not None:
            parts.append(self.clinical.transform(self.data.cohort.frame.loc[list(patients)]))
        if self.vectors is not None:
            parts.append(self.vectors.transform(self.data.vectors(patients)))
        return np.concatenate(parts, axis=1)


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A fitted linear model, and what it sees."""

    inputs: LinearInputs
    """Prepared by the training part."""
    cox: RidgeCox
    """With its penalty."""

    def predict(self, patients: Sequence[str]) -> Float[np.ndarray, " patient"]:
        """Log-risk of any patients of the cohort; higher is worse."""
        return self.cox.predict(self.inputs.features(patients))


def fit_linear(model: RidgeCoxModel, data: PartData) -> LinearFit:
    """Ridge Cox of a training part, its penalty given or chosen there.

    Raises
    ------
    CohortError
        If the training part, or what is left of it beside an inner part, has no event, or no covariate varies.
    TaskError
        If no feature is left, or the fit converges for no penalty.
    """
    penalty = choose_penalty(model, data) if isinstance(model.penalty, str) else model.penalty
    inputs = LinearInputs.of(model, data, data.fold.train)
    return LinearFit(inputs, _fitted(model, inputs, data.fold.train, penalty))


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
        total += _left_out_likelihoods(model, data, rest, penalties)
    if not np.isfinite(total).any():
        raise TaskError(f"ridge Cox did not converge for any of the penalties {penalties}: raise `penalties`")
    return penalties[int(np.argmax(total))]


def _left_out_likelihoods(
    model: RidgeCoxModel, data: PartData, rest: Sequence[str], penalties: Sequence[float]
) -> Float[np.ndarray, " penalty"]:
    """What the patients who are not among the rest add to the log partial likelihood, for each penalty."""
    inputs = LinearInputs.of(model, data, rest)
    added = []
    for penalty in penalties:
        try:
            cox = _fitted(model, inputs, rest, penalty)
        except TaskError:
            # this penalty alone: others may converge
            added.append(-math.inf)
            continue
        whole, without = (_log_likelihood(cox, inputs, patients) for patients in (data.fold.train, rest))
        added.append(whole - without)
    return np.array(added)


def _fitted(model: RidgeCoxModel, inputs: LinearInputs, patients: Sequence[str], penalty: float) -> RidgeCox:
    time, event = inputs.data.outcome(patients)
    features = inputs.features(patients)
    return RidgeCox.fit(features, time=time, event=event, penalty=penalty, ties=model.ties, feature_names=inputs.names)


def _log_likelihood(cox: RidgeCox, inputs: LinearInputs, patients: Sequence[str]) -> float:
    time, event = inputs.data.outcome(patients)
    risk = torch.from_numpy(cox.predict(inputs.features(patients)))
    mean = cox_loss(risk=risk, time=torch.from_numpy(time), event=torch.from_numpy(event), ties=cox.ties)
    return -float(mean) * int(event.sum())
