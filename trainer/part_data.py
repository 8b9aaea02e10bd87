"""Holds what a model is fitted and judged on: patients, outcomes, features; fits nothing and knows no task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from trainer.batch import Batch, Inputs
from trainer.cohort import Cohort
from trainer.model_config import FittedModel
from trainer.preprocess import ClinicalPreprocessor, PreprocessRules
from trainer.splits import Fold


@dataclass(frozen=True, eq=False)
class PartData:
    """Features and outcomes of a part's patients; covariates are preprocessed by its training patients alone."""

    cohort: Cohort
    """Everybody, with the outcomes that the model is fitted on."""
    fold: Fold
    """Who trains and who is judged."""
    stream: tuple[int, ...]
    """Numbers that tell the part from every other, for the streams of its inner splits."""
    split_seed: int
    """Of outer and inner splits."""
    preprocessor: ClinicalPreprocessor | None
    """Fitted on the training patients; None where the model takes no covariate."""
    images: Mapping[str, Float[np.ndarray, "patient ..."]]
    """The model's stored tensors by modality, rows as in the cohort, as they are stored; empty without images."""

    @classmethod
    def of(
        cls,
        model: FittedModel,
        *,
        cohort: Cohort,
        fold: Fold,
        stream: tuple[int, ...],
        split_seed: int,
        rules: PreprocessRules,
        images: Mapping[str, Float[np.ndarray, "patient ..."]],
    ) -> "PartData":
        """Data of a part, its preprocessing fitted where the model takes covariates."""
        preprocessor = None
        if model.clinical:
            preprocessor = ClinicalPreprocessor.fit(cohort.frame.loc[list(fold.train)], rules)
        return cls(cohort, fold, stream, split_seed, preprocessor, images)

    def outcome(self, patients: Sequence[str]) -> tuple[Float[np.ndarray, " patient"], Bool[np.ndarray, " patient"]]:
        """Times and events."""
        rows = self.cohort.rows(patients)
        return self.cohort.time[rows], self.cohort.event[rows]

    def clinical(self, patients: Sequence[str]) -> Float[np.ndarray, "patient feature"] | None:
        """Covariates as features; None where the model takes none."""
        if self.preprocessor is None:
            return None
        return self.preprocessor.transform(self.cohort.frame.loc[list(patients)])

    def images_of(self, patients: Sequence[str]) -> dict[str, Float[np.ndarray, "patient ..."]]:
        """Stored tensors of these patients by modality."""
        rows = self.cohort.rows(patients)
        return {modality: array[rows] for modality, array in self.images.items()}

    def inputs(self, patients: Sequence[str]) -> Inputs:
        """What a network sees of these patients; no outcome is looked at."""
        return Inputs.of(maps=self.images_of(patients), clinical=self.clinical(patients))

    def batch(self, patients: Sequence[str]) -> Batch:
        """The same with their outcomes, for fitting."""
        time, event = self.outcome(patients)
        return Batch.of(time=time, event=event, maps=self.images_of(patients), clinical=self.clinical(patients))
